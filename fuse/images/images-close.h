/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Flushing and closing images. */
#pragma once

#include "images/images.h"

/* For a pinned entry: flushes its writes to stable storage. False with @error (may be
 * NULL) set, which names the image. */
bool image_entry_flush(ImageEntry *entry, GError **error);

/* Flushes all open images. False with @error set, which names the first image that
 * failed, even one closed earlier. */
bool images_flush(Images *images, GError **error);

/* Closes images that have been idle for a while. Returns the time in ms until the next
 * one is due, -1 for none: images_get_wake_fd then signals one. */
int images_close_idle(Images *images);

/* Stores the facts about the open @image. */
void images_fill_facts(const QimgImage *image, ImageFacts *out);

/* A number that changes when serial numbers stand for other snapshots. */
uint64_t images_signature_of(const QimgImage *image);

/* ---- for images-*.c: with the lock held ---- */

/* Removes the entry from the registry: at once, or when it is no longer used. Releases
 * the lock meanwhile if the image must be closed. */
void images_drop_if_unused(Images *images, ImageEntry *entry);

/* Closes an open image that is not in use. The lock is released meanwhile. */
void images_close_entry(Images *images, ImageEntry *entry);

/* The open, unused image with the oldest use, or NULL. */
ImageEntry *images_find_idle(const Images *images);
