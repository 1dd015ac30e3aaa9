/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Layout: header cluster, refcount table, L1 table, then the added parts. Numbers are
 * written byte by byte, so that the builder shares no code with the tested library. */
#include "image-builder.h"

#include <string.h>
#include <zlib.h>
#include <zstd.h>

#define OFFSET_MASK  UINT64_C(0x00fffffffffffe00)
#define COPIED       (UINT64_C(1) << 63)
#define COMPRESSED   (UINT64_C(1) << 62)
#define EXTENDED_BIT (1u << 4)

void
image_builder_write(ImageBuilder *b, uint64_t host_offset, const void *bytes,
                    size_t n_bytes)
{
    uint64_t end = host_offset + n_bytes;
    guint old_end = b->bytes->len;

    if (end > old_end) {
        g_byte_array_set_size(b->bytes, (guint)end);
        memset(b->bytes->data + old_end, 0, end - old_end);
    }
    if (n_bytes > 0)
        memcpy(b->bytes->data + host_offset, bytes, n_bytes);
}

static void
put_be(ImageBuilder *b, uint64_t host_offset, uint64_t value, unsigned n_bytes)
{
    uint8_t bytes[8];

    for (unsigned i = 0; i < n_bytes; i++)
        bytes[i] = (uint8_t)(value >> (8 * (n_bytes - 1 - i)));
    image_builder_write(b, host_offset, bytes, n_bytes);
}

void
image_builder_put_be64(ImageBuilder *b, uint64_t host_offset, uint64_t value)
{
    put_be(b, host_offset, value, 8);
}

void
image_builder_put_be32(ImageBuilder *b, uint64_t host_offset, uint32_t value)
{
    put_be(b, host_offset, value, 4);
}

uint64_t
image_builder_get_be64(const ImageBuilder *b, uint64_t host_offset)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < 8; i++)
        value = value << 8 | b->bytes->data[host_offset + i];
    return value;
}

uint64_t
image_builder_allocate(ImageBuilder *b, uint64_t n_clusters)
{
    uint64_t start =
        (b->bytes->len + b->cluster_bytes - 1) / b->cluster_bytes * b->cluster_bytes;

    image_builder_write(b, start + n_clusters * b->cluster_bytes, NULL, 0);
    return start;
}

ImageBuilder *
image_builder_new(uint32_t version, uint32_t cluster_bits, uint64_t size_bytes,
                  bool extended_l2)
{
    ImageBuilder *b = g_new0(ImageBuilder, 1);
    uint64_t table_guest_bytes;

    b->bytes = g_byte_array_new();
    b->extensions = g_byte_array_new();
    b->cluster_bytes = UINT64_C(1) << cluster_bits;
    b->l2_entry_words = extended_l2 ? 2 : 1;
    table_guest_bytes = b->cluster_bytes / (8 * b->l2_entry_words) * b->cluster_bytes;
    b->header = (BuilderHeader){
        .magic = 0x514649fb,
        .version = version,
        .cluster_bits = cluster_bits,
        .size = size_bytes,
        .l1_size = (uint32_t)((size_bytes + table_guest_bytes - 1) / table_guest_bytes),
        .refcount_table_clusters = 1,
        .incompatible_features = extended_l2 ? EXTENDED_BIT : 0,
        .refcount_order = 4,
        .header_length = version >= 3 ? 112 : 72,
    };
    image_builder_allocate(b, 1);
    b->header.refcount_table_offset = image_builder_allocate(b, 1);
    b->header.l1_table_offset = image_builder_allocate(
        b, (b->header.l1_size * 8 + b->cluster_bytes - 1) / b->cluster_bytes);
    if (b->header.l1_size == 0)
        b->header.l1_table_offset = 0;
    return b;
}

void
image_builder_free(ImageBuilder *b)
{
    if (!b)
        return;
    g_byte_array_unref(b->bytes);
    g_byte_array_unref(b->extensions);
    g_free(b->backing_name);
    g_free(b);
}

void
image_builder_set_entry(ImageBuilder *b, uint64_t l1_table_offset, uint64_t cluster,
                        uint64_t word, uint64_t bitmap)
{
    uint64_t n_entries = b->cluster_bytes / (8 * b->l2_entry_words);
    uint64_t l1_offset = l1_table_offset + cluster / n_entries * 8;
    uint64_t l2_table_offset = image_builder_get_be64(b, l1_offset) & OFFSET_MASK;
    uint64_t entry_offset;

    if (l2_table_offset == 0) {
        l2_table_offset = image_builder_allocate(b, 1);
        image_builder_put_be64(b, l1_offset, l2_table_offset | COPIED);
    }
    entry_offset = l2_table_offset + cluster % n_entries * 8 * b->l2_entry_words;
    image_builder_put_be64(b, entry_offset, word);
    if (b->l2_entry_words == 2)
        image_builder_put_be64(b, entry_offset + 8, bitmap);
}

uint64_t
image_builder_add_data(ImageBuilder *b, uint64_t cluster, const uint8_t *content)
{
    uint64_t host_offset = image_builder_allocate(b, 1);

    image_builder_write(b, host_offset, content, b->cluster_bytes);
    image_builder_set_entry(b, b->header.l1_table_offset, cluster, host_offset | COPIED,
                            0xffffffff);
    return host_offset;
}

static size_t
compress_deflate(const uint8_t *content, size_t n_content, uint8_t *out, size_t n_out)
{
    z_stream stream = {0};
    size_t n_made = 0;

    /* Writers use a window of 4 KiB. Spec: qcow2 section 5. */
    if (deflateInit2(&stream, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) != Z_OK)
        return 0;
    stream.next_in = (z_const Bytef *)content;
    stream.avail_in = (uInt)n_content;
    stream.next_out = out;
    stream.avail_out = (uInt)n_out;
    if (deflate(&stream, Z_FINISH) == Z_STREAM_END)
        n_made = n_out - stream.avail_out;
    deflateEnd(&stream);
    return n_made;
}

uint64_t
image_builder_add_compressed(ImageBuilder *b, uint64_t cluster, const uint8_t *content)
{
    size_t n_out = 2 * b->cluster_bytes - 512;
    g_autofree uint8_t *stream = g_malloc(n_out);
    uint64_t host_offset = b->bytes->len;
    unsigned shift = 62 - (b->header.cluster_bits - 8);
    uint64_t n_sectors, word;
    size_t n_made;

    if (b->header.compression_type == 1) {
        n_made = ZSTD_compress(stream, n_out, content, b->cluster_bytes, 1);
        if (ZSTD_isError(n_made))
            n_made = 0;
    } else {
        n_made = compress_deflate(content, b->cluster_bytes, stream, n_out);
    }
    if (n_made == 0)
        return 0;
    image_builder_write(b, host_offset, stream, n_made);
    n_sectors = (host_offset % 512 + n_made + 511) / 512;
    word = COMPRESSED | (n_sectors - 1) << shift | host_offset;
    image_builder_set_entry(b, b->header.l1_table_offset, cluster, word, 0);
    return word;
}

void
image_builder_add_snapshot(ImageBuilder *b)
{
    uint64_t n_bytes = 8 * (uint64_t)b->header.l1_size;
    uint64_t l1 =
        image_builder_allocate(b, (n_bytes + b->cluster_bytes - 1) / b->cluster_bytes);
    uint64_t at = image_builder_allocate(b, 1);

    image_builder_write(b, l1, b->bytes->data + b->header.l1_table_offset, n_bytes);
    image_builder_put_be64(b, at, l1);
    image_builder_put_be32(b, at + 8, b->header.l1_size);
    image_builder_put_be32(b, at + 12, 1u << 16 | 1u);
    image_builder_put_be32(b, at + 36, 16);
    image_builder_put_be64(b, at + 48, b->header.size);
    image_builder_write(b, at + 56, "1s", 2);
    b->header.snapshots_offset = at;
    b->header.nb_snapshots = 1;
}

void
image_builder_add_extension(ImageBuilder *b, uint32_t type, const void *data,
                            uint32_t n_bytes)
{
    static const uint8_t zeros[8];
    uint8_t head[8];

    for (unsigned i = 0; i < 4; i++) {
        head[i] = (uint8_t)(type >> (24 - 8 * i));
        head[4 + i] = (uint8_t)(n_bytes >> (24 - 8 * i));
    }
    g_byte_array_append(b->extensions, head, 8);
    g_byte_array_append(b->extensions, data, n_bytes);
    g_byte_array_append(b->extensions, zeros, (8 - n_bytes % 8) % 8);
}

void
image_builder_set_backing(ImageBuilder *b, const char *name, const char *format)
{
    g_free(b->backing_name);
    b->backing_name = g_strdup(name);
    if (format)
        image_builder_add_extension(b, 0xe2792aca, format, (uint32_t)strlen(format));
}

void
image_builder_finish(ImageBuilder *b)
{
    BuilderHeader *h = &b->header;
    uint64_t extensions_offset = h->version == 2 ? 72 : h->header_length;

    if (b->backing_name) {
        if (h->backing_file_offset == 0)
            h->backing_file_offset = extensions_offset + b->extensions->len + 8;
        if (h->backing_file_size == 0)
            h->backing_file_size = (uint32_t)strlen(b->backing_name);
    }
    image_builder_put_be32(b, 0, h->magic);
    image_builder_put_be32(b, 4, h->version);
    image_builder_put_be64(b, 8, h->backing_file_offset);
    image_builder_put_be32(b, 16, h->backing_file_size);
    image_builder_put_be32(b, 20, h->cluster_bits);
    image_builder_put_be64(b, 24, h->size);
    image_builder_put_be32(b, 32, h->crypt_method);
    image_builder_put_be32(b, 36, h->l1_size);
    image_builder_put_be64(b, 40, h->l1_table_offset);
    image_builder_put_be64(b, 48, h->refcount_table_offset);
    image_builder_put_be32(b, 56, h->refcount_table_clusters);
    image_builder_put_be32(b, 60, h->nb_snapshots);
    image_builder_put_be64(b, 64, h->snapshots_offset);
    if (h->version >= 3) {
        image_builder_put_be64(b, 72, h->incompatible_features);
        image_builder_put_be64(b, 80, h->compatible_features);
        image_builder_put_be64(b, 88, h->autoclear_features);
        image_builder_put_be32(b, 96, h->refcount_order);
        image_builder_put_be32(b, 100, h->header_length);
        image_builder_write(b, 104, &h->compression_type, 1);
    }
    /* A wrong header length must not spread the extensions over the file. */
    if (extensions_offset + b->extensions->len <= b->cluster_bytes)
        image_builder_write(b, extensions_offset, b->extensions->data,
                            b->extensions->len);
    if (b->backing_name &&
        h->backing_file_offset + strlen(b->backing_name) <= b->cluster_bytes)
        image_builder_write(b, h->backing_file_offset, b->backing_name,
                            strlen(b->backing_name));
}
