/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small QED images in memory. */
#include "qed-image.h"

#include <string.h>

#include "base/endian.h"
#include "format/drivers.h"
#include "image/chain/chain.h"
#include "image/chain/options.h"
#include "image/image.h"
#include "image/open/chain-open.h"
#include "memory-storage.h"

#define AUTOCLEAR UINT64_C(0xf0)
#define COMPAT    UINT64_C(0x8000000000000001)

void
qed_image_put(GByteArray *bytes, uint64_t offset, uint64_t value)
{
    qimg_le64 field = qimg_le64_set(value);

    memcpy(bytes->data + offset, &field, sizeof field);
}

uint64_t
qed_image_get(const GByteArray *bytes, uint64_t offset)
{
    qimg_le64 field;

    g_assert_cmpuint(offset + 8, <=, bytes->len);
    memcpy(&field, bytes->data + offset, sizeof field);
    return qimg_le64_get(field);
}

/* An image with @n_data clusters of data, of which number i has bytes of i + 1, and L2
 * entries for the disk's first clusters. */
GByteArray *
qed_image_build(uint64_t features, unsigned n_data, const uint64_t *entries,
                size_t n_entries)
{
    GByteArray *bytes = g_byte_array_new();
    const QedHeader h = {
        .cluster_bits = 12,
        .table_clusters = 1,
        .header_clusters = 1,
        .features = features,
        .compat_features = COMPAT,
        .autoclear_features = AUTOCLEAR,
        .l1_table_offset = QED_IMAGE_L1_OFFSET,
        .size_bytes = QED_IMAGE_DISK_BYTES,
    };

    g_byte_array_set_size(bytes, QED_IMAGE_DATA + n_data * QED_IMAGE_CLUSTER);
    memset(bytes->data, 0, bytes->len);
    qed_header_encode(&h, bytes->data);
    qed_image_put(bytes, QED_IMAGE_L1_OFFSET, QED_IMAGE_L2_OFFSET);
    for (size_t i = 0; i < n_entries; i++)
        qed_image_put(bytes, QED_IMAGE_L2_OFFSET + i * 8, entries[i]);
    for (unsigned i = 0; i < n_data; i++)
        memset(bytes->data + QED_IMAGE_DATA + i * QED_IMAGE_CLUSTER, (int)i + 1,
               QED_IMAGE_CLUSTER);
    return bytes;
}

/* Two adjacent clusters of data, a zero, one of data. */
static const uint64_t sound[] = {QED_IMAGE_DATA, QED_IMAGE_DATA + QED_IMAGE_CLUSTER, 1,
                                 QED_IMAGE_DATA + 2 * QED_IMAGE_CLUSTER};

GByteArray *
qed_image_build_sound(uint64_t features)
{
    return qed_image_build(features, 3, sound, G_N_ELEMENTS(sound));
}

/* ---- open images ---- */

/* Above @base_bytes bytes of 0xbb, if that is not 0. */
QedImage
qed_image_open_above(const GByteArray *bytes, bool is_writable, size_t base_bytes,
                     GError **error)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    g_autofree uint8_t *base = g_malloc(base_bytes + 1);
    QimgStorage *storages[2] = {
        memory_storage_new_writable(bytes->data, bytes->len, "image")};
    QedImage o = {.file = storages[0]};
    QimgChain *chain;

    memset(base, 0xbb, base_bytes);
    if (base_bytes > 0)
        storages[1] = memory_storage_new(base, base_bytes, "base");
    options->is_writable = is_writable;
    chain = chain_open_storages(storages, base_bytes > 0 ? 2 : 1, options, error);
    if (!chain)
        return (QedImage){0};
    o.layer = chain->layers[0];
    o.disk = image_new(chain, 0, &chain->layers[0]->active);
    chain_unref(chain);
    return o;
}

QedImage
qed_image_open(const GByteArray *bytes)
{
    g_autoptr(GError) error = NULL;
    QedImage o = qed_image_open_above(bytes, true, 0, &error);

    g_assert_no_error(error);
    return o;
}

/* Ends writing, as the following close does; returns the file as of then. */
GByteArray *
qed_image_close(QedImage *o)
{
    GByteArray *bytes;

    o->layer->driver->end_writing(o->layer);
    bytes = memory_storage_copy_all(o->file);
    qimg_image_close(o->disk);
    return bytes;
}

int
qed_image_write(QedImage *o, uint64_t guest_offset, uint64_t n_bytes, int value)
{
    g_autofree uint8_t *data = g_malloc(n_bytes);

    memset(data, value, n_bytes);
    return qimg_image_write(o->disk, guest_offset, data, n_bytes);
}

/* The byte at @guest_offset, or -errno. */
int
qed_image_read(const QedImage *o, uint64_t guest_offset)
{
    uint8_t byte;
    int err = qimg_image_read(o->disk, guest_offset, &byte, 1);

    return err ? err : byte;
}

/* The result of a check of @bytes. */
QimgCheckResult
qed_image_check(const GByteArray *bytes)
{
    TableCache *tables = slot_cache_new(TABLE_SLICE_BYTES, QIMG_MIB);
    const QimgFormatEnv env = {.tables = tables, .for_check = true};
    g_autoptr(QimgCheckResult) result = NULL;
    g_autoptr(GError) error = NULL;
    QimgFormat *format = qimg_driver_qed.open(
        memory_storage_new(bytes->data, bytes->len, "image"), &env, &error);
    QimgCheckResult copy;

    g_assert_no_error(error);
    result = image_check(format, "image", QIMG_REPAIR_NONE, NULL, &error);
    g_assert_no_error(error);
    copy = *result;
    qimg_format_close(format);
    slot_cache_free(tables);
    return copy;
}

void
qed_image_assert_clean(const GByteArray *bytes)
{
    QimgCheckResult r = qed_image_check(bytes);

    g_assert_cmpuint(r.n_corruptions, ==, 0);
    g_assert_cmpuint(r.n_check_errors, ==, 0);
    g_assert_cmpuint(r.n_leaks, ==, 0);
    g_assert_false(r.is_dirty);
}
