/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pinned images: pinning without opening, and the operations of users. */
#pragma once

#include "images/images.h"
#include "images/snapshot-dir.h"

/* Keeps the image open until image_entry_unpin; NULL if it is not open (see images_pin).
 */
ImageEntry *images_pin_open(Images *images, unsigned number);

/* Accepts NULL. */
void image_entry_unpin(ImageEntry *entry);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageEntry, image_entry_unpin)

/* Whether the image is, or may be, written to through the mount. Opens nothing. */
bool images_is_writable(Images *images, unsigned number);

/* For a pinned entry: its present snapshots as a directory; free with
 * snapshot_dir_unref. */
SnapshotDir *image_entry_get_snapshots(ImageEntry *entry);

/* For a pinned entry: call before writing to it. */
void image_entry_expect_writes(ImageEntry *entry);

/* For a pinned entry: whether the kernel's pages of file @inode are valid. They may be
 * older than the last reopening of the image. */
bool image_entry_keeps_pages(ImageEntry *entry, uint64_t inode);

/* For a pinned entry: call at the close of a file at whose opening the kernel dropped its
 * pages: from now on they are valid. */
void image_entry_has_fresh_pages(ImageEntry *entry, uint64_t inode);

/* For images-*.c: unpins with the lock held. */
void images_unpin_locked(Images *images, ImageEntry *entry);
