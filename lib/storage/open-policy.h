/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which files an image may name (its backing file and data file), and how a stored name
 * becomes an open file without a race between the check and the use. */
#pragma once

#include <glib.h>

#include "base/types.h"

typedef struct QimgOpenPolicy QimgOpenPolicy;

/* The default: files below the directory of the image that names them. */
QimgOpenPolicy *qimg_open_policy_new(void);
QimgOpenPolicy *qimg_open_policy_copy(const QimgOpenPolicy *policy);
void qimg_open_policy_free(QimgOpenPolicy *policy);

/* Sets the policy from "same-dir", "any", "none" or directories separated by colons,
 * which must exist. Errors: USAGE. */
bool qimg_open_policy_set(QimgOpenPolicy *policy, const char *text, GError **error);

/* Adds a mapping "OLD=NEW". Errors: USAGE. */
bool qimg_open_policy_add_map(QimgOpenPolicy *policy, const char *text, GError **error);

/* Whether the user has named what may be opened (directories, or "any"), so that a format
 * found by probing may lead to further files. */
bool qimg_open_policy_is_explicit(const QimgOpenPolicy *policy);

/* Opens a file that the user names: @path_out gets a copy of @path. Returns a descriptor
 * for reading, or -1 with @error set. */
int qimg_open_named_by_user(const char *path, char **path_out, GError **error);

/* Opens a file that an image names. @naming_path is how the image itself was opened,
 * @naming_fd its descriptor; @name is the stored name, plain (no protocol), relative to
 * the directory part of @naming_path. Returns a descriptor for reading and the path in
 * *@path_out (free with g_free), or -1 with @error set: the text names the stored name,
 * the path tried and the option that helps. Opens nothing that is not allowed. */
int qimg_open_named_by_image(const QimgOpenPolicy *policy, const char *naming_path,
                             int naming_fd, const char *name, char **path_out,
                             GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgOpenPolicy, qimg_open_policy_free)
