/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writing to images that are cut, invalid, or odd in size: places where a mistake would
 * destroy data. The crash and model tests cover sound images. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/endian.h"
#include "format/drivers.h"
#include "memory-image.h"
#include "memory-storage.h"
#include "qcow2-check.h"
#include "test-util.h"

#define CLUSTER 65536u
#define MIB     UINT64_C(1048576)

static GByteArray *
create_with(const QimgCreateOptions *options)
{
    return memory_image_create(&qimg_driver_qcow2, options);
}

static GByteArray *
create(uint64_t size_bytes, uint32_t cluster_bits)
{
    return create_with(&(QimgCreateOptions){
        .size_bytes = size_bytes,
        .version = 3,
        .cluster_bits = cluster_bits,
        .refcount_order = 4,
    });
}

/* Closes; returns the file as of just before, with everything flushed. */
static GByteArray *
close_flushed(MemoryImage *o)
{
    GByteArray *bytes;

    g_assert_cmpint(qimg_image_flush(o->disk), ==, 0);
    bytes = memory_storage_copy_all(o->file);
    qimg_image_close(o->disk);
    return bytes;
}

static uint64_t
be64_at(const GByteArray *bytes, uint64_t offset)
{
    qimg_be64 field;

    g_assert_cmpuint(offset + 8, <=, bytes->len);
    memcpy(&field, bytes->data + offset, sizeof field);
    return qimg_be64_get(field);
}

/* The position of the L2 entry of guest cluster 0. */
static uint64_t
first_entry_offset(const GByteArray *bytes)
{
    return be64_at(bytes, be64_at(bytes, 40)) & UINT64_C(0x00fffffffffffe00);
}

static void
write_value(MemoryImage *o, uint64_t guest_offset, uint64_t n_bytes, int value,
            int expected)
{
    g_autofree uint8_t *data = g_malloc(n_bytes);

    memset(data, value, n_bytes);
    g_assert_cmpint(qimg_image_write(o->disk, guest_offset, data, n_bytes), ==, expected);
}

/* The lost part of a cut file must not become zeros when the file grows again. */
static void
test_cut(void)
{
    g_autoptr(GByteArray) empty = create(64 << 20, 16);
    g_autoptr(GByteArray) full = NULL;
    MemoryImage o = memory_image_open(empty);
    uint8_t byte;

    write_value(&o, 0, 8 << 20, 7, 0);
    full = close_flushed(&o);
    g_byte_array_set_size(full, 5 << 20);
    o = memory_image_open(full);
    g_assert_cmpint(qimg_image_read(o.disk, 6 << 20, &byte, 1), ==, -EIO);
    write_value(&o, 20 << 20, 4096, 1, -EIO);
    write_value(&o, 20 << 20, 4096, 1, -EROFS);
    g_assert_cmpint(qimg_image_read(o.disk, 6 << 20, &byte, 1), ==, -EIO);
    g_assert_cmpint(qimg_image_read(o.disk, 1 << 20, &byte, 1), ==, 0);
    g_assert_cmpint(byte, ==, 7);
    qimg_image_close(o.disk);
}

/* Entries that name tables are not followed by changes of any kind. */
static void
test_entry_of_metadata(void)
{
    static const struct {
        uint64_t entry;
        bool shrinks; /* removes the entry by shrinking; else by discarding */
    } cases[] = {
        {UINT64_C(0x8000000000010000), false}, /* the refcount table */
        {UINT64_C(0x0000000000010000), false}, /* the same, as if shared */
        {UINT64_C(0x8000000000030000), false}, /* the L1 table */
        {UINT64_C(0x4000000000000200), false}, /* a stream in the header */
        {UINT64_C(0x8000000000010000), true},  {UINT64_C(0x4000000000000200), true},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GByteArray) empty = create(16 << 20, 16);
        g_autoptr(GByteArray) bytes = NULL;
        g_autoptr(GByteArray) after = NULL;
        qimg_be64 entry = qimg_be64_set(cases[i].entry);
        MemoryImage o = memory_image_open(empty);
        size_t n_same;

        write_value(&o, 0, 4096, 7, 0);
        bytes = close_flushed(&o);
        memcpy(bytes->data + first_entry_offset(bytes), &entry, sizeof entry);
        o = memory_image_open(bytes);
        if (cases[i].shrinks)
            g_assert_cmpint(qimg_image_resize(o.disk, 0, NULL, NULL), ==, -EIO);
        else
            g_assert_cmpint(qimg_image_discard(o.disk, 0, CLUSTER), ==, -EIO);
        write_value(&o, 0, 100, 1, -EROFS);
        after = close_flushed(&o);
        /* Only the corrupt bit has changed; for the cut-off part, the last of the four,
         * the size and the L1 table have changed before. */
        g_assert_cmpint(after->data[79] & 2, ==, 2);
        after->data[79] = bytes->data[79];
        memcpy(after->data + 24, bytes->data + 24, 8);
        n_same = cases[i].shrinks ? 3 * CLUSTER : 4 * CLUSTER;
        g_assert_cmpmem(after->data, n_same, bytes->data, n_same);
    }
}

/* An L1 table of more clusters than a refcount block counts. */
static void
test_large_l1(void)
{
    g_autoptr(GByteArray) empty = create(1 << 20, 9);
    g_autoptr(GByteArray) after = NULL;
    g_autofree char *problem = NULL;
    MemoryImage o = memory_image_open(empty);

    write_value(&o, 0, 4096, 7, 0);
    g_assert_cmpint(qimg_image_resize(o.disk, UINT64_C(600) << 20, NULL, NULL), ==, 0);
    write_value(&o, UINT64_C(599) << 20, 4096, 8, 0);
    g_assert_cmpint(qimg_image_resize(o.disk, UINT64_C(20) << 30, NULL, NULL), ==, 0);
    write_value(&o, UINT64_C(19) << 30, 4096, 9, 0);
    after = close_flushed(&o);
    g_assert_cmpuint(after->len, <, 64 << 20);
    problem = qcow2_check_bytes(after->data, after->len, NULL);
    g_assert_cmpstr(problem, ==, NULL);
}

/* Room that becomes available again: the refcount table is moved at a later try. */
static void
test_no_room_for_table(void)
{
    const MemoryFault fault = {
        .calls = MEMORY_WRITE, .purpose = QIMG_IO_HEADER, .n_fails = 4, .errnum = ENOSPC};
    g_autoptr(GByteArray) empty = create(64 << 20, 9);
    g_autoptr(GByteArray) after = NULL;
    g_autofree char *problem = NULL;
    unsigned n_failed = 0;
    MemoryImage o = memory_image_open(empty);

    memory_storage_add_fault(o.file, &fault);
    for (uint64_t at = 0; at < 24 << 20;) {
        g_autofree uint8_t *data = g_malloc0(CLUSTER);
        int err = qimg_image_write(o.disk, at, data, CLUSTER);

        if (err == 0)
            at += CLUSTER;
        else
            g_assert_cmpint(err, ==, -ENOSPC);
        n_failed += err != 0;
    }
    /* Some tries succeed from the rest of the reserve. */
    g_assert_cmpuint(n_failed, >=, 1);
    g_assert_cmpuint(n_failed, <=, 4);
    after = close_flushed(&o);
    problem = qcow2_check_bytes(after->data, after->len, NULL);
    g_assert_cmpstr(problem, ==, NULL);
}

typedef struct {
    QimgImage *disk;
    atomic_bool is_done;
} Discard;

static void *
discard_first_cluster(void *user)
{
    Discard *d = user;

    g_assert_cmpint(qimg_image_discard(d->disk, 0, CLUSTER), ==, 0);
    atomic_store(&d->is_done, true);
    return NULL;
}

/* A raw data file is the disk for other programs: no data of an earlier planned write get
 * there after a discard's zeros. */
static void
test_raw_data_file(void)
{
    char *dir = test_util_make_dir();
    g_autofree char *path = g_build_filename(dir, "image.qcow2", NULL);
    g_autoptr(QimgCreate) create = qimg_create_new();
    g_autoptr(QimgOptions) options = qimg_options_new();
    g_autoptr(GError) error = NULL;
    QimgFormat *top;
    QimgWritePlan plan;
    Discard discard = {0};
    MemoryImage o = {0};
    pthread_t thread;

    test_util_set_property(create, "size", "1M");
    test_util_set_property(create, "data_file", "image.data");
    test_util_set_property(create, "data_file_raw", "on");
    qimg_create_run(create, path, NULL, NULL, &error);
    g_assert_no_error(error);
    qimg_options_set(options, "rw", NULL, &error);
    g_assert_no_error(error);
    o.disk = qimg_image_open(path, options, &error);
    g_assert_no_error(error);
    write_value(&o, 0, 4096, 7, 0);
    top = o.disk->chain->layers[0];
    g_assert_cmpint(top->driver->plan_write(top, qimg_guest(0), 512, &plan), ==, 0);
    g_assert_cmpint(plan.kind, ==, QIMG_PLAN_IN_PLACE_HELD);
    discard.disk = o.disk;
    pthread_create(&thread, NULL, discard_first_cluster, &discard);
    g_usleep(20000);
    g_assert_false(atomic_load(&discard.is_done));
    top->driver->abandon(top, &plan);
    pthread_join(thread, NULL);
    qimg_image_close(o.disk);
    test_util_remove_dir(dir);
}

/* The end of the disk is cut off while the tables have no room for that, and grows again:
 * zeros, also in a raw data file. */
static void
test_raw_data_file_grows_again(void)
{
    enum {
        DISK = 256 << 10,
        TABLE = 32 << 10, /* mapped by an L2 table */
    };
    g_autoptr(GByteArray) image = create_with(&(QimgCreateOptions){
        .size_bytes = DISK,
        .version = 3,
        .cluster_bits = 9,
        .refcount_order = 4,
        .data_file_name = "data",
        .data_file_raw = true,
    });
    MemoryFault no_room = {.calls = MEMORY_WRITE,
                           .purpose = QIMG_IO_L1,
                           .n_fails = UINT64_MAX,
                           .errnum = ENOSPC};
    QimgStorage *data = memory_storage_new_writable("", 0, "data");
    MemoryImage o = memory_image_open(image);
    uint8_t bytes[TABLE];
    uint64_t data_bytes;

    o.disk->chain->layers[0]->data_file = data;
    write_value(&o, 0, DISK, 7, 0);
    memory_storage_add_fault(o.file, &no_room);
    g_assert_cmpint(qimg_image_resize(o.disk, TABLE / 2, NULL, NULL), ==, 0);
    memory_storage_clear_faults(o.file);
    g_assert_cmpint(qimg_storage_get_size(data, &data_bytes), ==, 0);
    g_assert_cmpuint(data_bytes, ==, TABLE / 2);
    /* A data file longer than the disk, such as a device, keeps its length. */
    g_assert_cmpint(qimg_storage_write(data, QIMG_IO_DATA, qimg_host(TABLE - 1), "x", 1),
                    ==, 0);
    g_assert_cmpint(qimg_image_resize(o.disk, TABLE, NULL, NULL), ==, 0);
    memory_storage_copy(data, 0, bytes, TABLE);
    for (unsigned i = 0; i < TABLE; i++)
        g_assert_cmpuint(bytes[i], ==, i < TABLE / 2 ? 7 : 0);
    qimg_image_close(o.disk);
}

/* A reference whose refcount could not be lowered for lack of room must not be counted
 * when snapshots change: the disk's own cluster would stay without its COPIED flag. */
static void
test_reference_waits_for_room(void)
{
    g_autoptr(GByteArray) empty = create(1 << 20, 16);
    g_autoptr(GByteArray) closed = NULL;
    g_autoptr(GError) error = NULL;
    MemoryFault no_room = {.calls = MEMORY_WRITE,
                           .purpose = QIMG_IO_REFCOUNT,
                           .n_fails = 2, /* when the flush fails to lower it, and again */
                           .errnum = ENOSPC};
    MemoryImage o = memory_image_open(empty);
    g_autoptr(QimgSnapshots) list = NULL;
    uint32_t serial;
    g_autofree char *problem = NULL;
    Qcow2CheckResult result;

    write_value(&o, 0, CLUSTER, 7, 0);
    g_assert_true(qimg_image_create_snapshot(o.disk, "one", NULL, NULL, &error));
    g_assert_no_error(error);
    list = qimg_image_get_snapshots(o.disk);
    serial = qimg_snapshots_get(list, 0)->serial;
    write_value(&o, 0, CLUSTER, 8, 0); /* freeing the snapshot's cluster is pending */
    memory_storage_add_fault(o.file, &no_room);
    g_assert_cmpint(qimg_image_flush(o.disk), ==, 0);
    g_assert_false(qimg_image_revert_to_snapshot(o.disk, serial, NULL, NULL, &error));
    g_assert_error(error, QIMG_ERROR, QIMG_ERROR_NO_SPACE);
    g_clear_error(&error);
    g_assert_true(qimg_image_revert_to_snapshot(o.disk, serial, NULL, NULL, &error));
    g_assert_true(qimg_image_delete_snapshot(o.disk, serial, NULL, NULL, &error));
    g_assert_no_error(error);
    closed = close_flushed(&o);
    problem = qcow2_check_bytes(closed->data, closed->len, &result);
    g_assert_cmpstr(problem, ==, NULL);
    g_assert_cmpuint(result.n_flags, ==, 0);
}

/* Appends a few sectors @n_appends times; returns the number of syncs, of both files. */
static uint64_t
count_syncs_of_appends(MemoryImage *o, QimgStorage *data, unsigned n_appends)
{
    uint8_t block[4096], read[4096];
    uint64_t n_before = atomic_load(&o->file->n_syncs), n_syncs;
    uint64_t start = qimg_image_get_size_bytes(o->disk);

    if (data)
        n_before += atomic_load(&data->n_syncs);
    for (unsigned i = 0; i < n_appends; i++) {
        memset(block, (int)(i % 255 + 1), sizeof block);
        g_assert_cmpint(
            qimg_image_write(o->disk, start + i * sizeof block, block, sizeof block), ==,
            0);
    }
    n_syncs = atomic_load(&o->file->n_syncs);
    if (data)
        n_syncs += atomic_load(&data->n_syncs);
    for (unsigned i = 0; i < n_appends; i++) {
        memset(block, (int)(i % 255 + 1), sizeof block);
        g_assert_cmpint(
            qimg_image_read(o->disk, start + i * sizeof block, read, sizeof read), ==, 0);
        g_assert_cmpmem(read, sizeof read, block, sizeof block);
    }
    return n_syncs - n_before;
}

static GByteArray *
create_qed(uint64_t size_bytes)
{
    const QimgCreateOptions options = {
        .size_bytes = size_bytes, .cluster_bits = 16, .table_clusters = 4};

    return memory_image_create(&qimg_driver_qed, &options);
}

/* Small appends sync only for the reserve, and for the place of a data file. */
static void
test_small_appends(void)
{
    g_autoptr(GByteArray) standard = create(4096, 16);
    g_autoptr(GByteArray) extended =
        create_with(&(QimgCreateOptions){.size_bytes = 4096,
                                         .version = 3,
                                         .cluster_bits = 16,
                                         .refcount_order = 4,
                                         .extended_l2 = true});
    g_autoptr(GByteArray) qed = create_qed(4096);
    g_autoptr(GByteArray) with_data =
        create_with(&(QimgCreateOptions){.size_bytes = 0,
                                         .version = 3,
                                         .cluster_bits = 16,
                                         .refcount_order = 4,
                                         .data_file_name = "data",
                                         .data_file_raw = true});
    const GByteArray *images[] = {standard, extended, qed, with_data};

    for (size_t i = 0; i < G_N_ELEMENTS(images); i++) {
        MemoryImage o = memory_image_open(images[i]);
        QimgStorage *data = NULL;

        if (images[i] == with_data)
            o.disk->chain->layers[0]->data_file = data =
                memory_storage_new_writable("", 0, "data");
        g_assert_cmpuint(count_syncs_of_appends(&o, data, 2000), <, 24);
        qimg_image_close(o.disk);
    }
}

/* Old bytes behind the disk's end do not show when small appends reach them, although the
 * appends do not sync. */
static void
test_appends_over_old_bytes(void)
{
    g_autoptr(GByteArray) empty = create(MIB, 16);
    MemoryImage o = memory_image_open(empty);
    uint8_t bytes[3 * CLUSTER];

    write_value(&o, 0, MIB, 7, 0);
    g_assert_cmpint(qimg_image_resize(o.disk, CLUSTER / 2, NULL, NULL), ==, 0);
    for (uint64_t at = CLUSTER / 2 + 512; at < 3 * CLUSTER; at += 1024)
        write_value(&o, at, 512, 8, 0);
    g_assert_cmpint(qimg_image_discard(o.disk, 2 * CLUSTER, CLUSTER - 512), ==, 0);
    g_assert_cmpint(qimg_image_resize(o.disk, 3 * CLUSTER, NULL, NULL), ==, 0);
    g_assert_cmpint(qimg_image_read(o.disk, 0, bytes, sizeof bytes), ==, 0);
    for (unsigned i = 0; i < sizeof bytes; i++)
        g_assert_cmpuint(bytes[i], ==,
                         i < CLUSTER / 2                             ? 7
                         : i >= 2 * CLUSTER && i < 3 * CLUSTER - 512 ? 0
                         : i / 512 % 2                               ? 8
                                                                     : 0);
    qimg_image_close(o.disk);
}

/* A disk that is cut inside a sector keeps the sector, with zeros behind the cut. */
static void
test_cut_inside_sector(void)
{
    g_autoptr(GByteArray) qcow2 = create(MIB, 16);
    g_autoptr(GByteArray) qed = create_qed(1024);
    const GByteArray *images[] = {qcow2, qed};

    for (size_t i = 0; i < G_N_ELEMENTS(images); i++) {
        MemoryImage o = memory_image_open(images[i]);
        uint8_t bytes[2048];

        write_value(&o, 0, qimg_image_get_size_bytes(o.disk), 7, 0);
        g_assert_cmpint(qimg_image_resize(o.disk, 1000, NULL, NULL), ==, 0);
        g_assert_cmpuint(qimg_image_get_size_bytes(o.disk), ==, 1024);
        for (unsigned n = 1024; n <= sizeof bytes; n += 1024) {
            g_assert_cmpint(qimg_image_resize(o.disk, n, NULL, NULL), ==, 0);
            g_assert_cmpint(qimg_image_read(o.disk, 0, bytes, n), ==, 0);
            for (unsigned j = 0; j < n; j++)
                g_assert_cmpuint(bytes[j], ==, j < 1000 ? 7 : 0);
        }
        qimg_image_close(o.disk);
    }
}

/* Pending frees are bounded by the disk, not by a constant: this test never syncs. */
static void
test_pending_is_bounded(void)
{
    static const struct {
        uint64_t disk_bytes;
        uint32_t cluster_bits;
        bool extended_l2;
    } cases[] = {{MIB, 12, false},
                 {8 * MIB, 16, false},
                 {8 * MIB, 16, true},
                 {32 * MIB, 21, false}};

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        uint64_t disk_bytes = cases[i].disk_bytes, file_bytes;
        g_autoptr(GByteArray) empty =
            create_with(&(QimgCreateOptions){.size_bytes = disk_bytes,
                                             .version = 3,
                                             .cluster_bits = cases[i].cluster_bits,
                                             .refcount_order = 4,
                                             .extended_l2 = cases[i].extended_l2});
        MemoryImage o = memory_image_open(empty);

        for (unsigned n = 0; n < 10; n++) {
            write_value(&o, 0, disk_bytes, 7, 0);
            g_assert_cmpint(qimg_image_discard(o.disk, 0, disk_bytes), ==, 0);
        }
        g_assert_cmpint(qimg_storage_get_size(o.file, &file_bytes), ==, 0);
        /* The disk, the pending frees, the reserve, tables. */
        g_assert_cmpuint(file_bytes, <=,
                         2 * disk_bytes + 2 * MIB +
                             (UINT64_C(16) << cases[i].cluster_bits));
        qimg_image_close(o.disk);
    }
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/qcow2-write/cut", test_cut);
    g_test_add_func("/qcow2-write/entry-of-metadata", test_entry_of_metadata);
    g_test_add_func("/qcow2-write/large-l1", test_large_l1);
    g_test_add_func("/qcow2-write/no-room-for-table", test_no_room_for_table);
    g_test_add_func("/qcow2-write/raw-data-file", test_raw_data_file);
    g_test_add_func("/qcow2-write/raw-data-file-grows-again",
                    test_raw_data_file_grows_again);
    g_test_add_func("/qcow2-write/reference-waits-for-room",
                    test_reference_waits_for_room);
    g_test_add_func("/qcow2-write/small-appends", test_small_appends);
    g_test_add_func("/qcow2-write/appends-over-old-bytes", test_appends_over_old_bytes);
    g_test_add_func("/qcow2-write/cut-inside-sector", test_cut_inside_sector);
    g_test_add_func("/qcow2-write/pending-is-bounded", test_pending_is_bounded);
    return g_test_run();
}
