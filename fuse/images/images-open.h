/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Opening images on demand. */
#pragma once

#include "images/images-pin.h"

/* Opens the image if it is closed, and keeps it open until image_entry_unpin. NULL with
 * @error set; images_errno gives the errno. */
ImageEntry *images_pin(Images *images, unsigned number, GError **error);

/* As images_pin, for opening a file: checks whether a file of the image was changed below
 * the mount. If so, the first user reopens the image, and others get an error. */
ImageEntry *images_pin_for_open(Images *images, unsigned number, GError **error);

/* The facts about the image; opens it only if they may have changed. @error may be
 * NULL. */
bool images_get_facts(Images *images, unsigned number, ImageFacts *out, GError **error);

/* The errno (positive) for the user of a file whose image could not be opened because of
 * @error: EIO for errors that the user would misunderstand, ESTALE if the image has gone,
 * so that the kernel repeats the lookup. */
int images_errno(const GError *error);
