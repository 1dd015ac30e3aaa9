/* SPDX-License-Identifier: GPL-2.0-or-later */
/* format/qed: the place of new clusters and the state after writing, zeros, sizes; and
 * the state after each failing call. */
#include <errno.h>
#include <string.h>

#include "format/drivers.h"
#include "memory-storage.h"
#include "qed-image.h"
#include "test-util.h"

#define CLUSTER    QED_IMAGE_CLUSTER
#define L2_OFFSET  QED_IMAGE_L2_OFFSET
#define DATA       QED_IMAGE_DATA
#define TABLE_MAPS QED_IMAGE_TABLE_MAPS
#define DISK_BYTES QED_IMAGE_DISK_BYTES

/* ---- allocation ---- */

/* The file ends behind the new clusters: data, and their table. */
static void
test_file_end(void)
{
    g_autoptr(GByteArray) bytes = qed_image_build_sound(0);
    g_autoptr(GByteArray) after = NULL;
    QedImage o = qed_image_open(bytes);

    g_assert_cmpint(qed_image_write(&o, 10 * CLUSTER, 2 * CLUSTER, 9), ==, 0);
    g_assert_cmpint(qed_image_write(&o, TABLE_MAPS + 5, 1, 9), ==, 0);
    after = qed_image_close(&o);
    g_assert_cmpuint(after->len, ==, bytes->len + 4 * CLUSTER);
    qed_image_assert_clean(after);
}

/* The next write reuses the clusters of a failed one, as zeros. */
static void
test_returned(void)
{
    const MemoryFault fault = {.calls = MEMORY_WRITE,
                               .purpose = QIMG_IO_DATA,
                               .n_fails = 1,
                               .errnum = ENOSPC,
                               .n_bytes_before = 5000};
    const MemoryFault rest = {.calls = MEMORY_WRITE,
                              .purpose = QIMG_IO_DATA,
                              .n_until = 1,
                              .n_fails = 1,
                              .errnum = ENOSPC};
    g_autoptr(GByteArray) bytes = qed_image_build_sound(0);
    g_autoptr(GByteArray) after = NULL;
    QedImage o = qed_image_open(bytes);

    memory_storage_add_fault(o.file, &fault);
    memory_storage_add_fault(o.file, &rest);
    g_assert_cmpint(qed_image_write(&o, 10 * CLUSTER, 2 * CLUSTER, 9), ==, -ENOSPC);
    g_assert_cmpint(qed_image_read(&o, 10 * CLUSTER), ==, 0);
    g_assert_cmpint(qed_image_write(&o, 10 * CLUSTER + 100, 1, 9), ==, 0);
    g_assert_cmpint(qed_image_write(&o, 20 * CLUSTER + 100, 1, 9), ==, 0);
    g_assert_cmpint(qed_image_read(&o, 10 * CLUSTER), ==, 0);
    g_assert_cmpint(qed_image_read(&o, 20 * CLUSTER), ==, 0);
    after = qed_image_close(&o);
    g_assert_cmpuint(after->len, ==, bytes->len + 2 * CLUSTER);
    qed_image_assert_clean(after);
}

/* In the end no cluster was used: the file has its old length. */
static void
test_all_returned(void)
{
    const MemoryFault fault = {
        .calls = MEMORY_WRITE, .purpose = QIMG_IO_DATA, .n_fails = 1, .errnum = ENOSPC};
    g_autoptr(GByteArray) bytes = qed_image_build_sound(0);
    g_autoptr(GByteArray) after = NULL;
    QedImage o = qed_image_open(bytes);

    memory_storage_add_fault(o.file, &fault);
    g_assert_cmpint(qed_image_write(&o, 10 * CLUSTER, 10, 9), ==, -ENOSPC);
    after = qed_image_close(&o);
    qed_image_put(bytes, QED_HEADER_AT_AUTOCLEAR, 0);
    g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
}

/* Tables that are read in parts, in a file with holes. */
static void
test_large_tables(void)
{
    const QimgCreateOptions options = {
        .size_bytes = UINT64_C(1) << 40, .cluster_bits = 20, .table_clusters = 16};
    QimgStorage *file = memory_storage_new_writable("", 0, "new");
    g_autoptr(GByteArray) bytes = NULL, after = NULL;
    g_autoptr(GError) error = NULL;
    QedImage o;

    g_assert_true(qimg_driver_qed.create(file, &options, &error));
    g_assert_no_error(error);
    bytes = memory_storage_copy_all(file);
    qimg_storage_close(file);
    for (int round = 1; round <= 2; round++) {
        o = qed_image_open(bytes);
        g_assert_cmpint(qed_image_write(&o, (UINT64_C(1) << 39) + 100, 10, round), ==, 0);
        g_assert_cmpint(qed_image_read(&o, (UINT64_C(1) << 39) + 100), ==, round);
        after = qed_image_close(&o);
        qed_image_assert_clean(after);
        g_byte_array_unref(bytes);
        bytes = g_steal_pointer(&after);
    }
    g_assert_cmpuint(bytes->len, ==, (1 + 16 + 16 + 1) << 20);
}

/* ---- zeros, size ---- */

static void
test_zero(void)
{
    g_autoptr(GByteArray) bytes = qed_image_build_sound(0);
    g_autoptr(GByteArray) after = NULL;
    g_autoptr(GError) error = NULL;
    QedImage o = qed_image_open_above(bytes, true, 20 * CLUSTER, &error);

    g_assert_no_error(error);
    g_assert_cmpint(qed_image_read(&o, 5 * CLUSTER), ==, 0xbb);
    g_assert_cmpint(qimg_image_discard(o.disk, 0, 10 * CLUSTER), ==, 0);
    for (unsigned i = 0; i < 10; i++)
        g_assert_cmpint(qed_image_read(&o, i * CLUSTER), ==, 0);
    g_assert_cmpint(qed_image_read(&o, 10 * CLUSTER), ==, 0xbb);
    g_assert_cmpint(qimg_image_discard(o.disk, 30 * CLUSTER, CLUSTER), ==, 0);
    after = qed_image_close(&o);
    /* Data stay where they are, as zeros; unallocated clusters above the backing file
     * become zero entries. */
    g_assert_cmpuint(qed_image_get(after, L2_OFFSET), ==, DATA);
    g_assert_cmpuint(after->data[DATA], ==, 0);
    g_assert_cmpuint(qed_image_get(after, L2_OFFSET + 8 * 4), ==, 1);
    g_assert_cmpuint(qed_image_get(after, L2_OFFSET + 8 * 9), ==, 1);
    g_assert_cmpuint(qed_image_get(after, L2_OFFSET + 8 * 10), ==, 0);
    g_assert_cmpuint(qed_image_get(after, L2_OFFSET + 8 * 30), ==,
                     0); /* nothing below it */
    qed_image_assert_clean(after);
}

/* A refused change changes nothing, not even as a first change would. */
static void
test_resize_refused(void)
{
    g_autoptr(GByteArray) bytes = qed_image_build_sound(QED_FEATURE_NEED_CHECK);
    g_autoptr(GByteArray) after = NULL;
    QedImage o = qed_image_open(bytes);

    g_assert_cmpint(qimg_image_resize(o.disk, DISK_BYTES - 512, NULL, NULL), ==,
                    -EOPNOTSUPP);
    g_assert_cmpint(qimg_image_resize(o.disk, 0, NULL, NULL), ==, -EOPNOTSUPP);
    g_assert_cmpint(qimg_image_resize(o.disk, (UINT64_C(1) << 30) + 512, NULL, NULL), ==,
                    -EFBIG);
    g_assert_cmpuint(qimg_image_get_size_bytes(o.disk), ==, DISK_BYTES);
    after = qed_image_close(&o);
    g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
}

static void
test_resize(void)
{
    g_autoptr(GByteArray) bytes = qed_image_build_sound(0);
    g_autoptr(GByteArray) after = NULL;
    QedImage o = qed_image_open(bytes);

    g_assert_cmpint(qimg_image_resize(o.disk, (UINT64_C(1) << 30) - 100, NULL, NULL), ==,
                    0);
    g_assert_cmpuint(qimg_image_get_size_bytes(o.disk), ==, UINT64_C(1) << 30);
    g_assert_cmpint(qed_image_write(&o, (UINT64_C(1) << 30) - 1, 1, 9), ==, 0);
    after = qed_image_close(&o);
    g_assert_cmpuint(qed_image_get(after, QED_HEADER_AT_IMAGE_SIZE), ==,
                     UINT64_C(1) << 30);
    qed_image_assert_clean(after);
}

/* ---- failing calls ---- */

/* The content of a disk at the places that run_script changes. */
typedef struct {
    int values[5];
} Model;

static const uint64_t places[] = {0, 50 * CLUSTER, 51 * CLUSTER, TABLE_MAPS, 3 * CLUSTER};

/* Changes that need every kind of call; the model follows the successful ones. */
static void
run_script(QedImage *o, Model *m)
{
    *m = (Model){{1, 0xbb, 0xbb, 0xbb, 3}};
    for (unsigned i = 0; i < 4; i++)
        if (qed_image_write(o, places[i], 100, 10 + (int)i) == 0)
            m->values[i] = 10 + (int)i;
    if (qimg_image_discard(o->disk, 3 * CLUSTER, 2 * CLUSTER) == 0)
        m->values[4] = 0;
    else
        m->values[4] = -1; /* zeros or the old content */
    (void)qimg_image_flush(o->disk);
    (void)qimg_image_resize(o->disk, DISK_BYTES + TABLE_MAPS, NULL, NULL);
}

static void
check_model(const GByteArray *bytes, const Model *m, size_t base_bytes)
{
    g_autoptr(GError) error = NULL;
    QedImage o = qed_image_open_above(bytes, false, base_bytes, &error);

    g_assert_no_error(error);
    for (size_t i = 0; i < G_N_ELEMENTS(places); i++) {
        int found = qed_image_read(&o, places[i]);

        if (m->values[i] < 0)
            g_assert_true(found == 0 || found == 3);
        else
            g_assert_cmpint(found, ==, m->values[i]);
    }
    qimg_image_close(o.disk);
}

/* Each call in turn fails once, or from then on: at worst clusters leak, and acknowledged
 * data are there. */
static void
test_failing_calls(void)
{
    static const int errnums[] = {EIO, ENOSPC};
    const size_t base_bytes = 2 * TABLE_MAPS;
    unsigned n_cases = 0;

    for (unsigned variant = 0; variant < 4; variant++)
        for (uint64_t n = 0;; n++) {
            g_autoptr(GByteArray) bytes = qed_image_build_sound(0);
            g_autoptr(GByteArray) after = NULL;
            g_autoptr(GError) error = NULL;
            const MemoryFault fault = {.calls = MEMORY_CHANGES | MEMORY_SYNC,
                                       .purpose = MEMORY_ANY_PURPOSE,
                                       .n_until = n,
                                       .n_fails = variant & 1 ? UINT64_MAX : 1,
                                       .errnum = errnums[variant / 2]};
            QedImage o = qed_image_open_above(bytes, true, base_bytes, &error);
            QimgCheckResult found;
            bool is_over;
            Model model;

            g_assert_no_error(error);
            memory_storage_add_fault(o.file, &fault);
            run_script(&o, &model);
            o.layer->driver->end_writing(o.layer);
            is_over = memory_storage_n_calls(o.file, fault.calls) <= n;
            memory_storage_clear_faults(o.file);
            after = memory_storage_copy_all(o.file);
            qimg_image_close(o.disk);
            g_test_message("variant %u, call %" PRIu64, variant, n);
            found = qed_image_check(after);
            g_assert_cmpuint(found.n_corruptions, ==, 0);
            g_assert_cmpuint(found.n_check_errors, ==, 0);
            check_model(after, &model, base_bytes);
            n_cases++;
            if (is_over) {
                qed_image_assert_clean(after);
                break;
            }
        }
    g_assert_cmpuint(n_cases, >, 60);
}

/* A table that cannot be read: EIO there, and nothing is written. */
static void
test_unreadable_table(void)
{
    g_autoptr(GByteArray) bytes = qed_image_build_sound(0);
    g_autoptr(GByteArray) after = NULL;
    QedImage o = qed_image_open(bytes);

    memory_storage_fail(o.file, QIMG_IO_L2, 0, 2, EIO);
    g_assert_cmpint(qed_image_read(&o, 0), ==, -EIO);
    g_assert_cmpint(qed_image_write(&o, 0, 10, 9), ==, -EIO);
    g_assert_cmpint(qed_image_read(&o, 0), ==, 1);
    g_assert_cmpint(qed_image_write(&o, 0, 10, 9), ==, -EROFS);
    after = qed_image_close(&o);
    g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/qed-write/alloc/file-end", test_file_end);
    g_test_add_func("/qed-write/alloc/returned", test_returned);
    g_test_add_func("/qed-write/alloc/all-returned", test_all_returned);
    g_test_add_func("/qed-write/large-tables", test_large_tables);
    g_test_add_func("/qed-write/zero", test_zero);
    g_test_add_func("/qed-write/resize/refused", test_resize_refused);
    g_test_add_func("/qed-write/resize/grow", test_resize);
    g_test_add_func("/qed-write/failing-calls", test_failing_calls);
    g_test_add_func("/qed-write/unreadable-table", test_unreadable_table);
    return g_test_run();
}
