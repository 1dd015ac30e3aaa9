/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small qcow2 images in memory. Every header field can have any value, so that each rule
 * of refusal can be broken; the rest is laid out like a sound image, except for the
 * refcounts, which are all zero (reading needs none). */
#pragma once

#include <glib.h>

#include "base/types.h"

/* The header's fields by the specification's names, written unchecked. */
typedef struct {
    uint32_t magic;
    uint32_t version;
    uint64_t backing_file_offset;
    uint32_t backing_file_size;
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t crypt_method;
    uint32_t l1_size;
    uint64_t l1_table_offset;
    uint64_t refcount_table_offset;
    uint32_t refcount_table_clusters;
    uint32_t nb_snapshots;
    uint64_t snapshots_offset;
    uint64_t incompatible_features;
    uint64_t compatible_features;
    uint64_t autoclear_features;
    uint32_t refcount_order;
    uint32_t header_length;
    uint8_t compression_type;
} BuilderHeader;

typedef struct {
    BuilderHeader header; /* may be changed until image_builder_finish */
    GByteArray *bytes;    /* the file so far */
    GByteArray *extensions;
    char *backing_name; /* NULL: none */
    uint64_t cluster_bytes;
    unsigned l2_entry_words;
} ImageBuilder;

/* An image of version @version (2 or 3) and @size_bytes with an empty L1 table. With
 * @extended_l2 the entries have subclusters. Free with image_builder_free. */
ImageBuilder *image_builder_new(uint32_t version, uint32_t cluster_bits,
                                uint64_t size_bytes, bool extended_l2);
void image_builder_free(ImageBuilder *b);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageBuilder, image_builder_free)

/* Adds clusters of zeros at the end of the file; returns their host offset. */
uint64_t image_builder_allocate(ImageBuilder *b, uint64_t n_clusters);

/* Writes into the file, which grows to hold it. */
void image_builder_write(ImageBuilder *b, uint64_t host_offset, const void *bytes,
                         size_t n_bytes);
void image_builder_put_be64(ImageBuilder *b, uint64_t host_offset, uint64_t value);
void image_builder_put_be32(ImageBuilder *b, uint64_t host_offset, uint32_t value);
uint64_t image_builder_get_be64(const ImageBuilder *b, uint64_t host_offset);

/* Sets the L2 entry of the guest cluster @cluster in the L1 table at @l1_table_offset,
 * adding a missing L2 table. @bitmap counts only with extended L2. */
void image_builder_set_entry(ImageBuilder *b, uint64_t l1_table_offset, uint64_t cluster,
                             uint64_t word, uint64_t bitmap);

/* Stores @content (a whole cluster) as new data; returns its host offset. */
uint64_t image_builder_add_data(ImageBuilder *b, uint64_t cluster,
                                const uint8_t *content);

/* Stores @content (a whole cluster) compressed, at a byte offset behind the last stream
 * or cluster; returns the L2 entry, or 0 if it does not fit in a stream of less than two
 * clusters. */
uint64_t image_builder_add_compressed(ImageBuilder *b, uint64_t cluster,
                                      const uint8_t *content);

/* Adds a table with a snapshot of the present disk, which shares its L2 tables: flags
 * stay as they are. */
void image_builder_add_snapshot(ImageBuilder *b);

/* Adds a header extension, or bytes of one (@type is written unchecked). */
void image_builder_add_extension(ImageBuilder *b, uint32_t type, const void *data,
                                 uint32_t n_bytes);
void image_builder_set_backing(ImageBuilder *b, const char *name, const char *format);

/* Writes header, extensions and backing name. Sets the offset and size of the backing
 * name unless they are set already. */
void image_builder_finish(ImageBuilder *b);
