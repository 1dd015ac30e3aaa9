/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The snapshots of an image as a directory shows them: their file names at one moment. A
 * change of snapshots makes a new object. */
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "images/name-dir.h"
#include "qimg.h"

typedef struct {
    NameDir files; /* in the order of the list */
    QimgSnapshots *list;
} SnapshotDir;

/* The present directory of @image; free with snapshot_dir_unref. Any thread. */
SnapshotDir *snapshot_dir_get(NameDirCache *cache, const QimgImage *image);
void snapshot_dir_unref(SnapshotDir *dir);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapshotDir, snapshot_dir_unref)

/* The place of the first snapshot with @serial or a higher one; past the last: their
 * number. */
unsigned snapshot_dir_lower_bound(const SnapshotDir *dir, uint32_t serial);

/* The snapshot with @serial, owned by @dir, and its file name (may be NULL); NULL if it
 * has gone. */
const QimgSnapshot *snapshot_dir_find(const SnapshotDir *dir, uint32_t serial,
                                      const char **name_out);

/* The snapshot with that file name, or NULL. */
const QimgSnapshot *snapshot_dir_find_name(const SnapshotDir *dir, const char *name);
