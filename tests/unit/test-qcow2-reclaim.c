/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The rest of a dead process's reserve: the next first write frees it if that is safe,
 * and else leaves it. A copy of the file open for writing is the state after a death at
 * that moment. */
#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "format/drivers.h"
#include "image/chain/options.h"
#include "memory-image.h"
#include "memory-storage.h"
#include "qcow2-check.h"
#include "test-util.h"

#define MIB         UINT64_C(1048576)
#define BLOCK_BYTES 4096u

static void
write_block(MemoryImage *o, uint64_t guest_offset, int value, int expected)
{
    uint8_t block[BLOCK_BYTES];

    memset(block, value, sizeof block);
    g_assert_cmpint(qimg_image_write(o->disk, guest_offset, block, sizeof block), ==,
                    expected);
}

/* Stores in *@bytes the file left by a process that writes a block and dies. */
static void
write_and_die(GByteArray **bytes, uint64_t guest_offset, int value)
{
    MemoryImage o = memory_image_open(*bytes);

    write_block(&o, guest_offset, value, 0);
    g_byte_array_unref(*bytes);
    *bytes = memory_storage_copy_all(o.file);
    qimg_image_close(o.disk);
}

/* The file after a proper end, perhaps after a snapshot. */
static void
write_and_close(GByteArray **bytes, uint64_t guest_offset, int value, bool takes_snapshot)
{
    char *dir = test_util_make_dir();
    g_autofree char *path = g_build_filename(dir, "image", NULL);
    g_autoptr(QimgOptions) options = qimg_options_new();
    g_autoptr(GError) error = NULL;
    MemoryImage o = {0};
    char *contents = NULL;
    gsize n_bytes = 0;

    g_assert_true(
        g_file_set_contents(path, (char *)(*bytes)->data, (*bytes)->len, &error));
    qimg_options_set(options, "rw", NULL, &error);
    o.disk = qimg_image_open(path, options, &error);
    g_assert_no_error(error);
    write_block(&o, guest_offset, value, 0);
    if (takes_snapshot)
        g_assert_true(qimg_image_create_snapshot(o.disk, "one", NULL, NULL, &error));
    g_assert_no_error(error);
    qimg_image_close(o.disk);
    g_assert_true(g_file_get_contents(path, &contents, &n_bytes, &error));
    g_byte_array_unref(*bytes);
    *bytes = g_byte_array_new_take((uint8_t *)contents, n_bytes);
    test_util_remove_dir(dir);
}

static uint64_t
count_leaks(const GByteArray *bytes)
{
    Qcow2CheckResult result;
    g_autofree char *problem = qcow2_check_bytes(bytes->data, bytes->len, &result);

    g_assert_cmpstr(problem, ==, NULL);
    return result.n_leaks;
}

typedef struct {
    const char *name;
    QimgCreateOptions options;
    bool has_snapshot;
} Kind;

static const Kind kinds[] = {
    {"64k", {.size_bytes = 64 * MIB, .cluster_bits = 16, .refcount_order = 4}, false},
    {"2m", {.size_bytes = 64 * MIB, .cluster_bits = 21, .refcount_order = 4}, false},
    {"512", {.size_bytes = 2 * MIB, .cluster_bits = 9, .refcount_order = 4}, false},
    {"1bit", {.size_bytes = 8 * MIB, .cluster_bits = 12, .refcount_order = 0}, false},
    {"snapshot", {.size_bytes = 8 * MIB, .cluster_bits = 12, .refcount_order = 4}, true},
    {"extended",
     {.size_bytes = 8 * MIB,
      .cluster_bits = 14,
      .refcount_order = 4,
      .extended_l2 = true},
     false},
};

static GByteArray *
create_kind(const Kind *kind)
{
    QimgCreateOptions options = kind->options;
    GByteArray *bytes;

    options.version = 3;
    bytes = memory_image_create(&qimg_driver_qcow2, &options);
    if (kind->has_snapshot)
        write_and_close(&bytes, 0, 7, true);
    return bytes;
}

/* For any number of deaths, at most the last reserve is lost; after a proper end,
 * nothing is lost, and the file is no longer than without deaths. */
static void
test_rounds(const void *data)
{
    const Kind *kind = data;
    uint64_t cluster_bytes = UINT64_C(1) << kind->options.cluster_bits;
    uint64_t max_leaks = MAX(MIB, cluster_bytes) / cluster_bytes;
    g_autoptr(GByteArray) bytes = create_kind(kind);
    uint64_t n_written = kind->has_snapshot;
    MemoryImage o;

    for (unsigned n = 0; n < 10; n++, n_written++) {
        write_and_die(&bytes, n_written * kind->options.size_bytes / 16, 7);
        g_assert_cmpuint(count_leaks(bytes), <=, max_leaks);
    }
    if (max_leaks > 1) /* else it may have been used up */
        g_assert_cmpuint(count_leaks(bytes), >, 0);
    write_and_close(&bytes, n_written++ * kind->options.size_bytes / 16, 7, false);
    /* The L2 table that the first write copied belongs to the snapshot alone: lowering
     * its refcount was pending when the process died. */
    g_assert_cmpuint(count_leaks(bytes), <=, kind->has_snapshot);
    /* A cluster for each block and its table, and some tables; and behind one reserve its
     * refcount blocks, or the snapshot's table, which stay there. */
    g_assert_cmpuint(
        bytes->len, <=,
        (MAX(BLOCK_BYTES / cluster_bytes, 1) + 1) * n_written * cluster_bytes +
            (cluster_bytes == 512 || kind->has_snapshot ? MIB : 0) + 12 * cluster_bytes);
    o = memory_image_open(bytes);
    for (uint64_t i = 0; i < n_written; i++) {
        uint8_t block[BLOCK_BYTES];

        g_assert_cmpint(qimg_image_read(o.disk, i * kind->options.size_bytes / 16, block,
                                        sizeof block),
                        ==, 0);
        for (unsigned j = 0; j < sizeof block; j++)
            g_assert_cmpuint(block[j], ==, 7);
    }
    qimg_image_close(o.disk);
}

static void
set_be32(GByteArray *bytes, size_t offset, uint32_t value)
{
    qimg_be32 field = qimg_be32_set(value);

    memcpy(bytes->data + offset, &field, sizeof field);
}

/* In front of the other extensions. */
static void
add_extension(GByteArray *bytes, uint32_t type)
{
    memmove(bytes->data + 112 + 16, bytes->data + 112, 1024);
    set_be32(bytes, 112, type);
    set_be32(bytes, 116, 8);
    memset(bytes->data + 120, 0, 8);
}

typedef enum {
    SOUND,
    UNKNOWN_EXTENSION,
    BAD_BITMAPS,
    UNKNOWN_COMPATIBLE_BIT,
    DATA_AT_THE_END,
    REFCOUNT_TOO_LOW,
} Flaw;

/* If clusters are not certainly unreferenced, they stay. */
static void
test_stays(void)
{
    static const struct {
        Flaw flaw;
        bool is_freed;
    } cases[] = {
        {SOUND, true},
        {UNKNOWN_EXTENSION, false},
        {BAD_BITMAPS, false},
        {UNKNOWN_COMPATIBLE_BIT, false},
        {DATA_AT_THE_END, false},
        {REFCOUNT_TOO_LOW, false},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GByteArray) bytes = create_kind(&kinds[0]);
        uint64_t n_before, n_after, last_offset;
        g_autoptr(GByteArray) after = NULL;
        MemoryImage o;

        write_and_die(&bytes, 0, 7);
        n_before = count_leaks(bytes);
        last_offset = bytes->len - 1;
        g_assert_cmpuint(n_before, >=, 8);
        switch (cases[i].flaw) {
        case UNKNOWN_EXTENSION:
            add_extension(bytes, 0x12345678);
            break;
        case BAD_BITMAPS: /* without the autoclear bit */
            add_extension(bytes, 0x23852875);
            break;
        case UNKNOWN_COMPATIBLE_BIT:
            bytes->data[87] |= 0x10;
            break;
        case DATA_AT_THE_END:
            bytes->data[last_offset] = 1;
            break;
        case REFCOUNT_TOO_LOW: { /* that of the L1 table, the fourth cluster */
            uint64_t block_offset = 2 * 65536;

            g_assert_cmpuint(bytes->data[block_offset + 7], ==, 1);
            bytes->data[block_offset + 7] = 0;
            break;
        }
        default:
            break;
        }
        o = memory_image_open(bytes);
        write_block(&o, 32 * MIB, 8, cases[i].flaw == REFCOUNT_TOO_LOW ? -EIO : 0);
        after = memory_storage_copy_all(o.file);
        qimg_image_close(o.disk);
        if (cases[i].flaw == REFCOUNT_TOO_LOW) {
            after->data[2 * 65536 + 7] = 1;
            after->data[79] = 0; /* the corrupt bit */
        }
        n_after = count_leaks(after);
        /* The new reserve, if there is one, and perhaps the old one. */
        if (cases[i].is_freed)
            g_assert_cmpuint(n_after, <=, 16);
        else if (cases[i].flaw == REFCOUNT_TOO_LOW)
            g_assert_cmpuint(n_after, ==, n_before);
        else
            g_assert_cmpuint(n_after, >=, n_before + 8);
        g_assert_cmpuint(after->data[last_offset], ==,
                         cases[i].flaw == DATA_AT_THE_END ? 1 : 0);
    }
}

/* Nothing is freed until all tables are durable. */
static void
test_syncs_first(void)
{
    const MemoryFault fault = {
        .calls = MEMORY_SYNC, .purpose = MEMORY_ANY_PURPOSE, .n_fails = 1, .errnum = EIO};
    g_autoptr(GByteArray) bytes = create_kind(&kinds[0]);
    g_autoptr(GByteArray) after = NULL;
    MemoryImage o;

    write_and_die(&bytes, 0, 7);
    o = memory_image_open(bytes);
    memory_storage_add_fault(o.file, &fault);
    write_block(&o, 32 * MIB, 8, -EIO);
    after = memory_storage_copy_all(o.file);
    g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
    qimg_image_close(o.disk);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autofree char *path =
            g_strdup_printf("/qcow2-reclaim/rounds/%s", kinds[i].name);

        g_test_add_data_func(path, &kinds[i], test_rounds);
    }
    g_test_add_func("/qcow2-reclaim/stays", test_stays);
    g_test_add_func("/qcow2-reclaim/syncs-first", test_syncs_first);
    return g_test_run();
}
