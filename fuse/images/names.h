/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Names of images and snapshots as file names. */
#pragma once

#include <glib.h>
#include <stdbool.h>

#include "qimg.h"

/* The name under which the image at @path is shown, without ".raw": its file name less a
 * known suffix (.qcow2, .qcow, .qed, .img, .raw). Free with g_free. */
char *names_of_image(const char *path);

/* Whether @file_name has one of those suffixes. */
bool names_has_suffix(const char *file_name);

/* Files of the control directory beside the directories of the images. */
#define STATS_NAME  "stats.json"
#define ERRORS_NAME "errors.json"

/* Whether no image can be shown as @name: its directory below the control directory would
 * have the name of something else. */
bool names_is_reserved(const char *name);

/* The file names of the snapshots of @list, in their order, each once: "/", NUL, control
 * characters, "%", a leading dot and bytes that are not UTF-8 are percent-encoded; an
 * empty name, or one that stands there already, gets "@ID" appended, as does one too long
 * for a file name, which is cut. Strings owned by the array. */
GPtrArray *names_of_snapshots(const QimgSnapshots *list);

/* The name of a snapshot that would be shown as @file_name; NULL where none would (what
 * is encoded must be, and nothing else). Free with g_free. */
char *names_to_snapshot(const char *file_name);
