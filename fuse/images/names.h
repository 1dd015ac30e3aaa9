/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Names of images, snapshots and bitmaps as file names. */
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "qimg.h"

/* The shown name of the image at @path, without ".raw": its file name less a known suffix
 * (.qcow2, .qcow, .qed, .img, .raw). Free with g_free. */
char *names_of_image(const char *path);

/* Whether @file_name has one of those suffixes. */
bool names_has_suffix(const char *file_name);

/* Files of the control directory beside the directories of the images. */
#define STATS_NAME  "stats.json"
#define ERRORS_NAME "errors.json"

/* Whether @name is reserved: a directory of that name below the control directory would
 * collide with another file. */
bool names_is_reserved(const char *name);

/* The unique file names of the snapshots of @list, in their order: "/", NUL, control
 * characters, "%", a leading dot and bytes that are not UTF-8 are percent-encoded; "@ID"
 * is appended to an empty or repeated name, and to a name too long for a file, which is
 * cut. The array owns the strings. */
GPtrArray *names_of_snapshots(const QimgSnapshots *list);

/* The file name of a bitmap of layer number @layer: its name, encoded like that of a
 * snapshot, and BITMAP_SUFFIX; "@LAYER" is appended to a name that would be cut, empty or
 * one of the keys of @taken, and, if that is taken, too, "@" and a number from @index on.
 * Free with g_free. */
#define BITMAP_SUFFIX ".json"
char *names_of_bitmap(const QimgBitmap *bitmap, unsigned layer, unsigned index,
                      GHashTable *taken);

/* The name of the snapshot that would be shown as @file_name; NULL if none would (exactly
 * the characters to be encoded must be encoded). Free with g_free. */
char *names_to_snapshot(const char *file_name);
