/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Files that another program cuts while they are in use: lost bytes are an error for
 * every request; only bytes that the file never had read as zeros. */
#include <errno.h>
#include <string.h>

#include "image-builder.h"
#include "image/image.h"
#include "image/open/chain-open.h"
#include "memory-storage.h"
#include "test-util.h"

#define CLUSTER 1024u
#define COPIED  UINT64_C(0x8000000000000000)

static uint8_t content[2 * CLUSTER];

static QimgErrno
read_bytes(QimgStorage *storage, uint64_t offset, uint8_t *buffer, size_t n_bytes)
{
    memset(buffer, 0xee, n_bytes);
    return qimg_storage_read(storage, QIMG_IO_DATA, qimg_host(offset), buffer, n_bytes);
}

static bool
is_zero(const uint8_t *bytes, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

static void
test_read_only_storage(void)
{
    QimgStorage *storage = memory_storage_new(content, 1000, "file");
    uint8_t buffer[CLUSTER];
    uint64_t size_bytes;

    g_assert_cmpint(read_bytes(storage, 900, buffer, 200), ==, 0);
    g_assert_true(is_zero(buffer + 100, 100));
    memory_storage_cut(storage, 500);
    g_assert_cmpint(read_bytes(storage, 0, buffer, 500), ==, 0);
    g_assert_cmpmem(buffer, 500, content, 500);
    g_assert_cmpint(read_bytes(storage, 400, buffer, 101), ==, -EIO);
    g_assert_cmpint(read_bytes(storage, 999, buffer, 1), ==, -EIO);
    g_assert_cmpint(read_bytes(storage, 1000, buffer, 10), ==, 0); /* never there */
    g_assert_true(is_zero(buffer, 10));
    g_assert_cmpint(qimg_storage_get_size(storage, &size_bytes), ==, -EIO);
    qimg_storage_close(storage);
}

/* The storage's own changes move its end; another program's change is a cut. */
static void
test_writable_storage(void)
{
    QimgStorage *storage = memory_storage_new_writable(content, 1000, "file");
    uint8_t buffer[CLUSTER];
    uint64_t size_bytes;
    bool is_data;

    g_assert_cmpint(
        qimg_storage_write(storage, QIMG_IO_DATA, qimg_host(1500), content, 500), ==, 0);
    g_assert_cmpint(qimg_storage_set_size(storage, 1800), ==, 0);
    g_assert_cmpint(qimg_storage_get_size(storage, &size_bytes), ==, 0);
    g_assert_cmpuint(size_bytes, ==, 1800);
    g_assert_cmpint(read_bytes(storage, 1700, buffer, 200), ==, 0);
    g_assert_true(is_zero(buffer + 100, 100));
    g_assert_cmpint(qimg_storage_set_size(storage, 2000), ==, 0);
    g_assert_cmpint(read_bytes(storage, 1900, buffer, 200), ==, 0);
    g_assert_true(is_zero(buffer, 200));
    memory_storage_cut(storage, 1600);
    g_assert_cmpint(read_bytes(storage, 1900, buffer, 10), ==, -EIO);
    g_assert_cmpint(
        qimg_storage_find_extent(storage, qimg_host(1900), &is_data, &size_bytes), ==,
        -EIO);
    g_assert_cmpint(qimg_storage_zero(storage, QIMG_IO_DATA, qimg_host(1900), 10), ==,
                    -EIO);
    g_assert_cmpint(qimg_storage_get_size(storage, &size_bytes), ==, -EIO);
    g_assert_cmpint(read_bytes(storage, 1500, buffer, 100), ==, 0);
    g_assert_cmpmem(buffer, 100, content, 100);
    /* A failing change of size changes no end. */
    memory_storage_cut(storage, 2000);
    memory_storage_add_fault(storage, &(MemoryFault){.calls = MEMORY_SET_SIZE,
                                                     .purpose = MEMORY_ANY_PURPOSE,
                                                     .n_fails = 1,
                                                     .errnum = EIO});
    g_assert_cmpint(qimg_storage_set_size(storage, 100), ==, -EIO);
    memory_storage_cut(storage, 1600);
    g_assert_cmpint(read_bytes(storage, 1700, buffer, 10), ==, -EIO);
    qimg_storage_close(storage);
}

/* ---- images ---- */

/* Opens a chain of read-only storages. */
static QimgImage *
open_chain(QimgStorage *const *storages, unsigned n_storages, const char *format)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    GError *error = NULL;
    QimgChain *chain;
    QimgImage *image;

    if (format)
        qimg_options_set(options, "format", format, NULL);
    chain = chain_open_storages(storages, n_storages, options, &error);
    g_assert_no_error(error);
    image = image_new(chain, 0, &chain->layers[0]->active);
    chain_unref(chain);
    return image;
}

static void
test_raw(void)
{
    QimgStorage *storage = memory_storage_new(content, 1500, "raw");
    QimgImage *image = open_chain(&storage, 1, "raw");
    uint8_t buffer[1500];

    g_assert_cmpint(qimg_image_read(image, 0, buffer, 1500), ==, 0);
    g_assert_cmpmem(buffer, 1500, content, 1500);
    memory_storage_cut(storage, 700);
    g_assert_cmpint(qimg_image_read(image, 0, buffer, 1500), ==, -EIO);
    g_assert_cmpint(qimg_image_read(image, 1499, buffer, 1), ==, -EIO);
    g_assert_cmpint(qimg_image_read(image, 0, buffer, 700), ==, 0);
    g_assert_cmpmem(buffer, 700, content, 700);
    qimg_image_close(image);
}

typedef enum {
    CUT_L1,
    CUT_L2,
    CUT_DATA,
    CUT_COMPRESSED,
    CUT_TAIL,
} Cut;

/* A disk of three clusters over a backing file of old data: the first is data, the second
 * compressed, the third the short end of the file. Cutting the file at *@end_out loses
 * the part @cut. */
static QimgStorage *
make_image(Cut cut, size_t *end_out)
{
    g_autoptr(ImageBuilder) b = image_builder_new(3, 10, 3 * CLUSTER, false);
    uint64_t l2, data, stream, tail;

    image_builder_set_backing(b, "below", "raw");
    data = image_builder_add_data(b, 0, content);
    stream = image_builder_add_compressed(b, 1, content) & (COPIED / 4 - 1) & 0xffffff;
    l2 = image_builder_get_be64(b, b->header.l1_table_offset) & ~COPIED;
    tail = image_builder_allocate(b, 1);
    image_builder_set_entry(b, b->header.l1_table_offset, 2, COPIED | tail, 0);
    image_builder_write(b, tail, content, CLUSTER);
    image_builder_finish(b);
    g_byte_array_set_size(b->bytes, (guint)(tail + 600));
    *end_out = cut == CUT_L1           ? b->header.l1_table_offset
               : cut == CUT_L2         ? l2
               : cut == CUT_DATA       ? data
               : cut == CUT_COMPRESSED ? stream
                                       : tail + 599;
    return memory_storage_new(b->bytes->data, b->bytes->len, "image");
}

/* Whichever part is cut, a read gives the image's own bytes or EIO; never zeros, and
 * never the backing file's bytes. */
static void
test_qcow2(gconstpointer user)
{
    Cut cut = (Cut)GPOINTER_TO_INT(user);
    g_autofree uint8_t *old = g_malloc(3 * CLUSTER);
    QimgStorage *storages[2];
    unsigned n_errors = 0;
    QimgImage *image;
    size_t end;

    memset(old, 0x55, 3 * CLUSTER);
    storages[0] = make_image(cut, &end);
    storages[1] = memory_storage_new(old, 3 * CLUSTER, "below");
    image = open_chain(storages, 2, NULL);
    memory_storage_cut(storages[0], end);
    for (unsigned at = 0; at < 3 * CLUSTER; at += 8) {
        uint8_t expected[8] = {0}, found[8];
        int err = qimg_image_read(image, at, found, 8);

        if (at < 2 * CLUSTER + 600)
            memcpy(expected, content + at % CLUSTER, 8);
        if (!err)
            g_assert_cmpmem(found, 8, expected, 8);
        else
            g_assert_cmpint(err, ==, -EIO);
        n_errors += err != 0;
    }
    g_assert_cmpuint(n_errors, >, 0);
    qimg_image_close(image);
}

/* The short end of a last cluster reads as zeros, unless the file is cut. */
static void
test_short_tail(void)
{
    g_autofree uint8_t *old = g_malloc0(3 * CLUSTER);
    uint8_t found[CLUSTER];
    QimgStorage *storages[2];
    QimgImage *image;
    size_t end;

    memset(old, 0x55, 3 * CLUSTER);
    storages[0] = make_image(CUT_TAIL, &end);
    storages[1] = memory_storage_new(old, 3 * CLUSTER, "below");
    image = open_chain(storages, 2, NULL);
    g_assert_cmpint(qimg_image_read(image, 2 * CLUSTER, found, CLUSTER), ==, 0);
    g_assert_cmpmem(found, 600, content, 600);
    g_assert_true(is_zero(found + 600, CLUSTER - 600));
    qimg_image_close(image);
}

/* The backing file is cut: EIO for its part of the disk. */
static void
test_backing(void)
{
    g_autoptr(ImageBuilder) b = image_builder_new(3, 10, 2 * CLUSTER, false);
    uint8_t found[CLUSTER];
    QimgStorage *storages[2];
    QimgImage *image;

    image_builder_set_backing(b, "below", "raw");
    image_builder_add_data(b, 1, content);
    image_builder_finish(b);
    storages[0] = memory_storage_new(b->bytes->data, b->bytes->len, "image");
    storages[1] = memory_storage_new(content, 2 * CLUSTER, "below");
    image = open_chain(storages, 2, NULL);
    memory_storage_cut(storages[1], 100);
    g_assert_cmpint(qimg_image_read(image, 0, found, CLUSTER), ==, -EIO);
    g_assert_cmpint(qimg_image_read(image, CLUSTER, found, CLUSTER), ==, 0);
    g_assert_cmpmem(found, CLUSTER, content, CLUSTER);
    qimg_image_close(image);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    for (size_t i = 0; i < sizeof content; i++) /* compresses, and is never zero */
        content[i] = (uint8_t)(i / 40 + 1);
    g_test_add_func("/cut/storage/read-only", test_read_only_storage);
    g_test_add_func("/cut/storage/writable", test_writable_storage);
    g_test_add_func("/cut/raw", test_raw);
    g_test_add_data_func("/cut/qcow2/l1", GINT_TO_POINTER(CUT_L1), test_qcow2);
    g_test_add_data_func("/cut/qcow2/l2", GINT_TO_POINTER(CUT_L2), test_qcow2);
    g_test_add_data_func("/cut/qcow2/data", GINT_TO_POINTER(CUT_DATA), test_qcow2);
    g_test_add_data_func("/cut/qcow2/compressed", GINT_TO_POINTER(CUT_COMPRESSED),
                         test_qcow2);
    g_test_add_data_func("/cut/qcow2/tail", GINT_TO_POINTER(CUT_TAIL), test_qcow2);
    g_test_add_func("/cut/qcow2/short-tail", test_short_tail);
    g_test_add_func("/cut/backing", test_backing);
    return g_test_run();
}
