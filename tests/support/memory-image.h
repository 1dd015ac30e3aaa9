/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Images in memory, open for writing. */
#pragma once

#include <glib.h>

#include "image/chain/handle.h"

typedef struct {
    QimgStorage *file; /* these two: the chain's */
    QimgStorage *data; /* where the disk's data lie: the file, or an external data file */
    QimgImage *disk;
} MemoryImage;

/* The bytes of a new image; free with g_byte_array_unref. */
GByteArray *memory_image_create(const QimgDriver *driver,
                                const QimgCreateOptions *options);

/* Opens the image in a copy of @bytes, of a format that they tell; it may grow. Close the
 * disk. */
MemoryImage memory_image_open(const GByteArray *bytes);

/* Makes an image and opens it; an external data file is empty. */
MemoryImage memory_image_new(const QimgDriver *driver, const QimgCreateOptions *options);
