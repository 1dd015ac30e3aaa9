/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The policy for files named by an image (its backing file and data file), and opening a
 * stored name without a race between check and use. */
#pragma once

#include <glib.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/types.h"

typedef struct QimgOpenPolicy QimgOpenPolicy;

/* The default: files below the directory of the image that names them. */
QimgOpenPolicy *qimg_open_policy_new(void);
void qimg_open_policy_free(QimgOpenPolicy *policy);

/* Sets the policy from "same-dir", "any", "none" or directories separated by colons,
 * which must exist. Errors: USAGE. */
bool qimg_open_policy_set(QimgOpenPolicy *policy, const char *text, GError **error);

/* Adds a mapping "OLD=NEW". Errors: USAGE. */
bool qimg_open_policy_add_map(QimgOpenPolicy *policy, const char *text, GError **error);

/* Whether a mapping applies to @name as it is stored, also to one with a protocol. */
bool qimg_open_policy_has_map(const QimgOpenPolicy *policy, const char *name);

/* Never opens or examines anything on that device: this process serves it, and would
 * deadlock. Errors of opening are LOOP, or errno EDEADLK in the text. */
void qimg_open_policy_avoid_device(QimgOpenPolicy *policy, dev_t device);

/* Whether the user has set the policy: then a format found by probing may open the files
 * that it permits. */
bool qimg_open_policy_is_explicit(const QimgOpenPolicy *policy);

/* The places permitted by the policy and the mappings besides the images' directories:
 * "/" for all, NULL-terminated; free with g_strfreev. */
char **qimg_open_policy_get_places(const QimgOpenPolicy *policy);

/* The place where a file was opened. Its directory was examined and is held open since
 * then: a later rename cannot change which files the file may name. */
typedef struct {
    char *path;
    int dir_fd;           /* O_PATH: the directory part of @path; -1: unknown */
    char *dir_real;       /* the real path of that directory; NULL: unknown */
    char *file_dir_real;  /* the real directory of the file; NULL: unknown */
    char *file_name_real; /* its real name there; NULL: none, or unknown */
    struct stat status;   /* identifies the file */
} QimgPlace;

/* Frees and closes; accepts NULL. */
void qimg_place_free(QimgPlace *place);

/* Opens a file named by the user. Returns a descriptor for reading, with @for_writing
 * also for writing, and its place in *@place_out (free with qimg_place_free), or -1 with
 * @error set. */
int qimg_open_named_by_user(const char *path, bool for_writing, QimgPlace **place_out,
                            GError **error);

/* As qimg_open_named_by_user, for @name below @dir_fd, called @path in messages. @policy
 * gives the avoided device. */
int qimg_open_named_by_user_at(const QimgOpenPolicy *policy, int dir_fd, const char *name,
                               const char *path, bool for_writing, QimgPlace **place_out,
                               GError **error);

/* Duplicates the user's descriptor @fd, called @path in messages, for reading, with
 * @for_writing also for writing; its place has no name. -1 with @error set if the file is
 * no possible image, or not open in that mode. */
int qimg_open_given(int fd, const char *path, bool for_writing, QimgPlace **place_out,
                    GError **error);

/* Opens a file named by the image at @naming. @name is the stored name, plain (no
 * protocol), relative to the directory of @naming. Returns a descriptor as above and the
 * place in *@place_out (free with qimg_place_free), or -1 with @error set: the text names
 * the stored name, the path tried and the option that helps. Opens nothing that is not
 * permitted. */
int qimg_open_named_by_image(const QimgOpenPolicy *policy, const QimgPlace *naming,
                             const char *name, bool for_writing, QimgPlace **place_out,
                             GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgPlace, qimg_place_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgOpenPolicy, qimg_open_policy_free)
