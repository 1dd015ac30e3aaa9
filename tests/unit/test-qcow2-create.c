/* SPDX-License-Identifier: GPL-2.0-or-later */
/* format/qcow2/create.c: the order in which a new image is written, and the state after a
 * failure or the end of the machine at any step. tests/oracle/test_create.py compares the
 * content of the images with QEMU's. */
#include <errno.h>
#include <string.h>

#include "codec/qcow2-header.h"
#include "format/drivers.h"
#include "test-util.h"

/* A file in memory that fails at one of the changes made to it, and remembers its content
 * as of the last sync. */
typedef struct {
    QimgStorage storage;
    GByteArray *bytes;
    GByteArray *durable; /* as of the last sync */
    int fails_at;        /* the change, from 0 on; -1: none */
    int n_changes;
    bool header_came_last; /* the only write since the last sync */
    bool wrote_other;
} StepStorage;

static QimgErrno
step(StepStorage *s)
{
    return s->n_changes++ == s->fails_at ? -EIO : 0;
}

static ssize_t
step_pread(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
           void *buffer, size_t n_bytes)
{
    StepStorage *s = (StepStorage *)storage;
    size_t n =
        file_offset < s->bytes->len ? MIN(n_bytes, s->bytes->len - file_offset) : 0;

    (void)purpose;
    memcpy(buffer, s->bytes->data + file_offset, n);
    return (ssize_t)n;
}

static QimgErrno
step_get_size(QimgStorage *storage, uint64_t *size_bytes_out)
{
    *size_bytes_out = ((StepStorage *)storage)->bytes->len;
    return 0;
}

static QimgErrno
step_set_size(QimgStorage *storage, uint64_t size_bytes)
{
    StepStorage *s = (StepStorage *)storage;
    guint old_bytes = s->bytes->len;

    if (step(s))
        return -EIO;
    g_byte_array_set_size(s->bytes, (guint)size_bytes);
    if (size_bytes > old_bytes)
        memset(s->bytes->data + old_bytes, 0, size_bytes - old_bytes);
    s->wrote_other = true;
    return 0;
}

static ssize_t
step_pwritev(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
             const struct iovec *parts, int n_parts)
{
    StepStorage *s = (StepStorage *)storage;
    size_t done = 0;

    if (step(s))
        return -EIO;
    for (int i = 0; i < n_parts; i++) {
        uint64_t end = file_offset + done + parts[i].iov_len;

        if (end > s->bytes->len) {
            guint old_bytes = s->bytes->len;

            g_byte_array_set_size(s->bytes, (guint)end);
            memset(s->bytes->data + old_bytes, 0, end - old_bytes);
        }
        memcpy(s->bytes->data + file_offset + done, parts[i].iov_base, parts[i].iov_len);
        done += parts[i].iov_len;
    }
    s->wrote_other |= purpose != QIMG_IO_HEADER || file_offset != 0;
    return (ssize_t)done;
}

static QimgErrno
step_sync(QimgStorage *storage)
{
    StepStorage *s = (StepStorage *)storage;

    if (step(s))
        return -EIO;
    s->header_came_last = !s->wrote_other;
    s->wrote_other = false;
    g_byte_array_set_size(s->durable, 0);
    g_byte_array_append(s->durable, s->bytes->data, s->bytes->len);
    return 0;
}

static void
step_close(QimgStorage *storage)
{
    StepStorage *s = (StepStorage *)storage;

    g_byte_array_unref(s->bytes);
    g_byte_array_unref(s->durable);
    g_free(s);
}

static const QimgStorageOps step_ops = {
    .pread = step_pread,
    .get_size = step_get_size,
    .pwritev = step_pwritev,
    .sync = step_sync,
    .set_size = step_set_size,
    .close = step_close,
};

/* @old_bytes: the file's initial length, of old content that looks like another image. */
static StepStorage *
step_storage_new(guint old_bytes, int fails_at)
{
    StepStorage *s = g_new0(StepStorage, 1);

    qimg_storage_init(&s->storage, &step_ops, "new", old_bytes);
    s->fails_at = fails_at;
    s->bytes = g_byte_array_new();
    s->durable = g_byte_array_new();
    g_byte_array_set_size(s->bytes, old_bytes);
    if (old_bytes > 0) {
        memset(s->bytes->data, 0xee, old_bytes);
        memcpy(s->bytes->data, "QFI\xfb\0\0\0\3", 8);
        g_byte_array_append(s->durable, s->bytes->data, old_bytes);
    }
    return s;
}

static bool
is_image(const GByteArray *bytes)
{
    return bytes->len >= 8 && qcow2_header_probe(bytes->data, bytes->len);
}

/* Fails at each change in turn: until the header's own write, neither the file nor its
 * durable state is an image; from then on it is the whole one. */
static void
check_steps(const QimgCreateOptions *options, guint old_bytes)
{
    StepStorage *whole = step_storage_new(old_bytes, -1);
    GError *error = NULL;

    g_assert_true(qimg_driver_qcow2.create(&whole->storage, options, &error));
    g_assert_no_error(error);
    g_assert_true(whole->header_came_last);
    g_assert_cmpmem(whole->bytes->data, whole->bytes->len, whole->durable->data,
                    whole->durable->len);
    for (int i = 0; i < whole->n_changes; i++) {
        StepStorage *s = step_storage_new(old_bytes, i);
        bool is_header_written = i == whole->n_changes - 1; /* its sync failed */

        g_assert_false(qimg_driver_qcow2.create(&s->storage, options, &error));
        test_util_check_error(&error, QIMG_ERROR_FAILED,
                              "cannot write the new image: Input/output error");
        g_assert_cmpint(s->n_changes, ==, i + 1); /* nothing after a failure */
        if (is_header_written)
            g_assert_cmpmem(s->bytes->data, s->bytes->len, whole->bytes->data,
                            whole->bytes->len);
        else if (i > 0 || old_bytes == 0)
            g_assert_false(is_image(s->bytes));
        /* The old header is removed first, durably, before the clusters that it refers
         * to. */
        if (i > 1 || old_bytes == 0)
            g_assert_false(is_image(s->durable));
        qimg_storage_close(&s->storage);
    }
    qimg_storage_close(&whole->storage);
}

static void
test_steps(void)
{
    static const QimgCreateOptions cases[] = {
        {.size_bytes = 1 << 20, .version = 3, .cluster_bits = 16, .refcount_order = 4},
        {.size_bytes = 0, .version = 2, .cluster_bits = 9, .refcount_order = 4},
        {.size_bytes = UINT64_C(1) << 33,
         .version = 3,
         .cluster_bits = 9,
         .refcount_order = 6,
         .backing_name = "base",
         .backing_format = "raw"},
        {.size_bytes = 1 << 20,
         .version = 3,
         .cluster_bits = 9,
         .refcount_order = 4,
         .preallocation = QIMG_PREALLOCATION_METADATA},
        {.size_bytes = 300 << 10,
         .version = 3,
         .cluster_bits = 14,
         .refcount_order = 0,
         .extended_l2 = true,
         .preallocation = QIMG_PREALLOCATION_FULL},
        {.size_bytes = 1 << 20,
         .version = 3,
         .cluster_bits = 12,
         .refcount_order = 4,
         .data_file_name = "data",
         .preallocation = QIMG_PREALLOCATION_METADATA},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        check_steps(&cases[i], 0);
        check_steps(&cases[i], 700);
        check_steps(&cases[i], 3000000);
    }
}

/* Options are refused before anything is written. */
static void
test_refusal(void)
{
    QimgCreateOptions options = {.version = 3, .cluster_bits = 30, .refcount_order = 4};
    StepStorage *s = step_storage_new(700, -1);
    GError *error = NULL;

    g_assert_false(qimg_driver_qcow2.create(&s->storage, &options, &error));
    test_util_check_error(&error, QIMG_ERROR_USAGE,
                          "cluster_size: must be a power of two from 512 to 2M");
    g_assert_cmpint(s->n_changes, ==, 0);
    qimg_storage_close(&s->storage);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/qcow2-create/steps", test_steps);
    g_test_add_func("/qcow2-create/refusal", test_refusal);
    return g_test_run();
}
