/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg_image_open_part: a stretch of a disk is an image of its own, which shows and
 * changes exactly these bytes of the disk, for all cluster sizes. */
#include <errno.h>
#include <string.h>

#include "format/drivers.h"
#include "image/chain/handle.h"
#include "image/chain/options.h"
#include "image/image.h"
#include "image/open/chain-open.h"
#include "memory-storage.h"
#include "test-util.h"

#define CLUSTER    (64 * QIMG_KIB)
#define DISK_BYTES (4 * QIMG_MIB)
/* Neither is a multiple of a cluster. */
#define PART_START (QIMG_MIB + 512)
#define PART_BYTES (QIMG_MIB + 1024)

static QimgImage *
open_disk(bool is_writable, GByteArray *image, uint64_t size_bytes)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    g_autoptr(GError) error = NULL;
    QimgStorage *file =
        is_writable ? memory_storage_new_writable(image->data, image->len, "image")
                    : memory_storage_new(image->data, image->len, "image");
    QimgChain *chain;
    QimgImage *disk;

    options->is_writable = is_writable;
    chain = chain_open_storages(&file, 1, options, &error);
    g_assert_no_error(error);
    disk = image_new(chain, 0, &chain->layers[0]->active);
    chain_unref(chain);
    g_assert_cmpuint(qimg_image_get_size_bytes(disk), ==, size_bytes);
    return disk;
}

static GByteArray *
new_image(void)
{
    QimgCreateOptions create = {
        .size_bytes = DISK_BYTES, .version = 3, .cluster_bits = 16, .refcount_order = 4};
    QimgStorage *file = memory_storage_new_writable("", 0, "new");
    g_autoptr(GError) error = NULL;
    GByteArray *bytes;

    g_assert_true(qimg_driver_qcow2.create(file, &create, &error));
    g_assert_no_error(error);
    bytes = memory_storage_copy_all(file);
    qimg_storage_close(file);
    return bytes;
}

static QimgImage *
open_writable(void)
{
    g_autoptr(GByteArray) image = new_image();

    return open_disk(true, image, DISK_BYTES);
}

static QimgImage *
open_part(QimgImage *disk, uint64_t start, uint64_t length)
{
    g_autoptr(GError) error = NULL;
    QimgImage *part = qimg_image_open_part(disk, start, length, &error);

    g_assert_no_error(error);
    g_assert_cmpuint(qimg_image_get_size_bytes(part), ==, length);
    return part;
}

static void
fill(QimgImage *image, uint64_t start, uint64_t length, int value)
{
    g_autofree uint8_t *bytes = g_malloc(length);

    memset(bytes, value, length);
    g_assert_cmpint(qimg_image_write(image, start, bytes, length), ==, 0);
}

static void
check(QimgImage *image, uint64_t start, uint64_t length, int value)
{
    g_autofree uint8_t *bytes = g_malloc(length);

    g_assert_cmpint(qimg_image_read(image, start, bytes, length), ==, 0);
    for (uint64_t i = 0; i < length; i++)
        g_assert_cmpint(bytes[i], ==, value);
}

/* Everything but the part has stayed @outside. */
static void
check_around(QimgImage *disk, int outside)
{
    check(disk, 0, PART_START, outside);
    check(disk, PART_START + PART_BYTES, DISK_BYTES - PART_START - PART_BYTES, outside);
}

static void
test_write(void)
{
    g_autoptr(QimgImage) disk = open_writable();
    g_autoptr(QimgImage) part = open_part(disk, PART_START, PART_BYTES);

    g_assert_true(qimg_image_is_writable(part));
    check(part, 0, PART_BYTES, 0);
    fill(part, 0, PART_BYTES, 7);
    check(part, 0, PART_BYTES, 7);
    check(disk, PART_START, PART_BYTES, 7);
    check_around(disk, 0);
    fill(disk, 0, DISK_BYTES, 9);
    check(part, 0, PART_BYTES, 9);
    fill(part, PART_BYTES - 1, 1, 5);
    check(disk, PART_START + PART_BYTES - 1, 1, 5);
    check_around(disk, 9);
    g_assert_cmpint(qimg_image_flush(part), ==, 0);
}

static void
test_zero_and_discard(void)
{
    g_autoptr(QimgImage) disk = open_writable();
    g_autoptr(QimgImage) part = open_part(disk, PART_START, PART_BYTES);

    fill(disk, 0, DISK_BYTES, 9);
    g_assert_cmpint(qimg_image_zero(part, 0, PART_BYTES), ==, 0);
    check(part, 0, PART_BYTES, 0);
    check_around(disk, 9);
    fill(part, 0, PART_BYTES, 3);
    g_assert_cmpint(qimg_image_discard(part, 1, PART_BYTES - 2), ==, 0);
    check(part, 1, PART_BYTES - 2, 0);
    check(part, 0, 1, 3);
    check(part, PART_BYTES - 1, 1, 3);
    check_around(disk, 9);
    g_assert_cmpint(qimg_image_allocate(part, 0, PART_BYTES), ==, 0);
    check(part, 1, PART_BYTES - 2, 0);
    check_around(disk, 9);
}

static void
test_limits(void)
{
    g_autoptr(QimgImage) disk = open_writable();
    g_autoptr(QimgImage) part = open_part(disk, PART_START, PART_BYTES);
    g_autoptr(GError) error = NULL;
    uint8_t bytes[2] = {1, 1};

    g_assert_false(qimg_image_is_growable(part));
    g_assert_cmpint(qimg_image_write(part, PART_BYTES, bytes, 1), ==, -ENOSPC);
    g_assert_cmpint(qimg_image_write(part, PART_BYTES - 1, bytes, 2), ==, -ENOSPC);
    g_assert_cmpint(qimg_image_write(part, UINT64_MAX, bytes, 2), ==, -ENOSPC);
    g_assert_cmpint(qimg_image_read(part, PART_BYTES, bytes, 1), ==, -EINVAL);
    g_assert_cmpint(qimg_image_read(part, UINT64_MAX, bytes, 2), ==, -EINVAL);
    g_assert_cmpint(qimg_image_zero(part, PART_BYTES, 1), ==, -EINVAL);
    g_assert_cmpint(qimg_image_discard(part, 1, PART_BYTES), ==, -EINVAL);
    g_assert_cmpint(qimg_image_allocate(part, 1, PART_BYTES), ==, -EINVAL);
    g_assert_cmpint(qimg_image_resize(part, PART_BYTES - 512, NULL, NULL), ==, -EINVAL);
    g_assert_cmpint(qimg_image_resize(part, PART_BYTES + 512, NULL, NULL), ==, -EINVAL);
    g_assert_cmpint(qimg_image_grow(part, DISK_BYTES, QIMG_PREALLOCATION_OFF, NULL, NULL),
                    ==, -EINVAL);
    check(disk, 0, DISK_BYTES, 0);
    g_assert_null(qimg_image_open_part(disk, PART_START, DISK_BYTES, &error));
    test_util_check_error(&error, QIMG_ERROR_USAGE,
                          "the part would leave the disk of 4194304 bytes");
    g_assert_null(qimg_image_open_part(disk, UINT64_MAX, 2, &error));
    test_util_check_error(&error, QIMG_ERROR_USAGE,
                          "the part would leave the disk of 4194304 bytes");
}

/* A part of a shrinking disk shrinks, even to nothing; it never grows beyond its original
 * size. */
static void
test_disk_becomes_shorter(void)
{
    g_autoptr(QimgImage) disk = open_writable();
    g_autoptr(QimgImage) part = open_part(disk, PART_START, PART_BYTES);
    uint8_t byte = 1;

    fill(part, 0, PART_BYTES, 7);
    g_assert_cmpint(qimg_image_resize(disk, PART_START + 512, NULL, NULL), ==, 0);
    g_assert_cmpuint(qimg_image_get_size_bytes(part), ==, 512);
    check(part, 0, 512, 7);
    g_assert_cmpint(qimg_image_read(part, 512, &byte, 1), ==, -EINVAL);
    g_assert_cmpint(qimg_image_write(part, 512, &byte, 1), ==, -ENOSPC);
    g_assert_cmpint(qimg_image_resize(disk, 512, NULL, NULL), ==, 0);
    g_assert_cmpuint(qimg_image_get_size_bytes(part), ==, 0);
    g_assert_cmpint(qimg_image_write(part, 0, &byte, 1), ==, -ENOSPC);
    g_assert_cmpint(qimg_image_resize(disk, 2 * DISK_BYTES, NULL, NULL), ==, 0);
    g_assert_cmpuint(qimg_image_get_size_bytes(part), ==, PART_BYTES);
    check(part, 0, PART_BYTES, 0);
}

/* Data at the disk's offsets 0, 1.5 MiB and 3 MiB: the part sees one, in its own
 * offsets. */
static void
check_map(QimgImage *disk)
{
    g_autoptr(QimgImage) part = open_part(disk, PART_START, PART_BYTES);
    uint64_t start = DISK_BYTES * 3 / 8 - PART_START, found = 0;
    QimgExtent extent = {.struct_bytes = sizeof extent};

    for (unsigned again = 0; again < 2; again++) { /* found holes may be remembered */
        g_assert_cmpint(qimg_image_seek(part, 0, FALSE, &found), ==, 0);
        g_assert_cmpuint(found, ==, start);
        g_assert_cmpint(qimg_image_seek(part, start, TRUE, &found), ==, 0);
        g_assert_cmpuint(found, ==, start + CLUSTER);
        g_assert_cmpint(qimg_image_seek(part, start + CLUSTER, FALSE, &found), ==,
                        -ENXIO);
        g_assert_cmpint(qimg_image_seek(disk, DISK_BYTES / 2, FALSE, &found), ==, 0);
        g_assert_cmpuint(found, ==, DISK_BYTES * 3 / 4);
        g_assert_cmpint(qimg_image_seek(disk, CLUSTER, FALSE, &found), ==, 0);
        g_assert_cmpuint(found, ==, DISK_BYTES * 3 / 8);
    }
    g_assert_cmpint(qimg_image_map(part, 0, &extent), ==, 0);
    g_assert_cmpuint(extent.length_bytes, ==, start);
    g_assert_cmpint(extent.kind, ==, QIMG_EXTENT_UNALLOCATED);
    g_assert_cmpint(qimg_image_map(part, start, &extent), ==, 0);
    g_assert_cmpuint(extent.guest_offset, ==, start);
    g_assert_cmpuint(extent.length_bytes, ==, CLUSTER);
    g_assert_cmpint(extent.kind, ==, QIMG_EXTENT_DATA);
    g_assert_cmpint(qimg_image_map(part, start + CLUSTER, &extent), ==, 0);
    g_assert_cmpuint(extent.length_bytes, ==, PART_BYTES - start - CLUSTER);
    g_assert_cmpint(qimg_image_map(part, PART_BYTES, &extent), ==, -EINVAL);
}

static void
test_map(void)
{
    g_autoptr(QimgImage) disk = open_writable();
    g_autoptr(GByteArray) image = NULL;
    g_autoptr(QimgImage) constant = NULL;

    fill(disk, 0, CLUSTER, 1);
    fill(disk, DISK_BYTES * 3 / 8, CLUSTER, 2);
    fill(disk, DISK_BYTES * 3 / 4, CLUSTER, 3);
    check_map(disk);
    g_assert_cmpint(qimg_image_flush(disk), ==, 0);
    image = memory_storage_copy_all(disk->chain->layers[0]->file);
    constant = open_disk(false, image, DISK_BYTES);
    check_map(constant);
}

static void
test_part_of_part(void)
{
    g_autoptr(QimgImage) disk = open_writable();
    g_autoptr(QimgImage) part = open_part(disk, PART_START, PART_BYTES);
    g_autoptr(QimgImage) inner = open_part(part, 1024, 2048);

    fill(inner, 0, 2048, 4);
    check(disk, PART_START + 1024, 2048, 4);
    check(part, 0, 1024, 0);
    check(part, 3072, PART_BYTES - 3072, 0);
}

/* The snapshot cannot be deleted while a part of it is open. */
static void
test_snapshot(void)
{
    g_autoptr(QimgImage) disk = open_writable();
    g_autoptr(GError) error = NULL;
    QimgImage *snapshot, *part;
    uint8_t byte = 1;

    fill(disk, 0, DISK_BYTES, 6);
    g_assert_true(qimg_image_create_snapshot(disk, "s", NULL, NULL, &error));
    fill(disk, 0, DISK_BYTES, 8);
    snapshot = qimg_image_open_snapshot(disk, 0, &error);
    g_assert_no_error(error);
    part = open_part(snapshot, PART_START, PART_BYTES);
    qimg_image_close(snapshot);
    check(part, 0, PART_BYTES, 6);
    g_assert_false(qimg_image_is_writable(part));
    g_assert_cmpint(qimg_image_write(part, 0, &byte, 1), ==, -EROFS);
    g_assert_cmpint(qimg_image_zero(part, 0, 1), ==, -EROFS);
    g_assert_cmpint(qimg_image_resize(part, 1, NULL, NULL), ==, -EROFS);
    g_assert_cmpint(qimg_image_resize(disk, 512, NULL, NULL), ==, 0);
    g_assert_cmpuint(qimg_image_get_size_bytes(part), ==, PART_BYTES);
    g_assert_false(qimg_image_delete_snapshot(disk, 0, NULL, NULL, &error));
    g_assert_error(error, QIMG_ERROR, QIMG_ERROR_BUSY);
    g_clear_error(&error);
    qimg_image_close(part);
    g_assert_true(qimg_image_delete_snapshot(disk, 0, NULL, NULL, &error));
    g_assert_no_error(error);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/image-part/write", test_write);
    g_test_add_func("/image-part/zero-and-discard", test_zero_and_discard);
    g_test_add_func("/image-part/limits", test_limits);
    g_test_add_func("/image-part/disk-becomes-shorter", test_disk_becomes_shorter);
    g_test_add_func("/image-part/map", test_map);
    g_test_add_func("/image-part/part-of-part", test_part_of_part);
    g_test_add_func("/image-part/snapshot", test_snapshot);
    return g_test_run();
}
