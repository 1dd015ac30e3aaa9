/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The disks and texts behind nodes. */
#pragma once

#include "tree/tree.h"

/* Opens the image behind a file that shows bytes of a disk: a new handle, or NULL with
 * @error set. *@entry_out is its pinned image: unpin it after closing the handle. */
QimgImage *tree_open_image(const Tree *tree, Node node, ImageEntry **entry_out,
                           GError **error);

/* The text of NODE_SNAPSHOT_INFO, or about partitions; the image is pinned. Free with
 * g_free. NULL with @error set. Other texts are longer: see control-text.h. */
char *tree_text(const Tree *tree, ImageEntry *entry, Node node, GError **error);
