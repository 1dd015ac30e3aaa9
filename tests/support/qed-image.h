/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small QED images in memory, and the driver's answers about them.
 *
 * Header, L1 table, L2 table, data; each of one cluster. A table has 512 entries and maps
 * 2 MiB. */
#pragma once

#include <glib.h>

#include "codec/qed-header.h"
#include "image/check.h"

#define QED_IMAGE_CLUSTER    4096u
#define QED_IMAGE_L1_OFFSET  (1 * QED_IMAGE_CLUSTER)
#define QED_IMAGE_L2_OFFSET  (2 * QED_IMAGE_CLUSTER)
#define QED_IMAGE_DATA       (3 * QED_IMAGE_CLUSTER)
#define QED_IMAGE_TABLE_MAPS (512 * QED_IMAGE_CLUSTER)
#define QED_IMAGE_DISK_BYTES (8 * QED_IMAGE_TABLE_MAPS)

/* Sets, and gets, a field of 64 bits of the file. */
void qed_image_put(GByteArray *bytes, uint64_t offset, uint64_t value);
uint64_t qed_image_get(const GByteArray *bytes, uint64_t offset);

/* An image with @n_data clusters of data, of which number i has bytes of i + 1, and L2
 * entries for the disk's first clusters. Compatible and autoclear bits are set. */
GByteArray *qed_image_build(uint64_t features, unsigned n_data, const uint64_t *entries,
                            size_t n_entries);

/* One with two adjacent clusters of data, a zero, one cluster of data. */
GByteArray *qed_image_build_sound(uint64_t features);

typedef struct {
    QimgStorage *file; /* the chain's: a memory storage */
    QimgFormat *layer;
    QimgImage *disk; /* NULL: not opened */
} QedImage;

/* Opens a copy of @bytes for writing; or as @is_writable says above a raw file of
 * @base_bytes bytes of 0xbb, if that is not 0. */
QedImage qed_image_open(const GByteArray *bytes);
QedImage qed_image_open_above(const GByteArray *bytes, bool is_writable,
                              size_t base_bytes, GError **error);

/* Ends writing, and closes; returns the file as of then. */
GByteArray *qed_image_close(QedImage *o);

/* Writes @n_bytes of @value; 0 or -errno. */
int qed_image_write(QedImage *o, uint64_t guest_offset, uint64_t n_bytes, int value);

/* The byte at @guest_offset, or -errno. */
int qed_image_read(const QedImage *o, uint64_t guest_offset);

/* The counts of a check of @bytes, and that it finds nothing. */
QimgCheckResult qed_image_check(const GByteArray *bytes);
void qed_image_assert_clean(const GByteArray *bytes);
