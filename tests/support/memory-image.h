/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Images in memory, open for writing. */
#pragma once

#include <glib.h>

#include "image/chain/handle.h"

typedef struct {
    QimgStorage *file; /* these two: the chain's */
    QimgStorage *data; /* the file with the disk's data: the image file, or an external
                          data file */
    QimgImage *disk;
} MemoryImage;

/* The bytes of a new image; free with g_byte_array_unref. */
GByteArray *memory_image_create(const QimgDriver *driver,
                                const QimgCreateOptions *options);

/* Opens the image in a copy of @bytes, in the probed format; it may grow. Close the
 * disk. */
MemoryImage memory_image_open(const GByteArray *bytes);

/* As memory_image_open, of an encrypted image. */
MemoryImage memory_image_open_encrypted(const GByteArray *bytes, const char *passphrase);

/* Creates an image and opens it; an external data file is empty. */
MemoryImage memory_image_new(const QimgDriver *driver, const QimgCreateOptions *options);
