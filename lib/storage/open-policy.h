/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which files an image may name (its backing file and data file), and how a stored name
 * becomes an open file without a race between the check and the use. */
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

/* Nothing on that device is opened, or even looked up: it is served by this process,
 * which would wait for itself. Errors of opening are LOOP, or errno EDEADLK in the text.
 */
void qimg_open_policy_avoid_device(QimgOpenPolicy *policy, dev_t device);

/* Whether the user has set the policy, so that a format found by probing may lead to what
 * it allows. */
bool qimg_open_policy_is_explicit(const QimgOpenPolicy *policy);

/* What the policy and the mappings allow besides the directories of the images: "/" for
 * all, NULL terminated; free with g_strfreev. */
char **qimg_open_policy_get_places(const QimgOpenPolicy *policy);

/* Where a file was opened. The directory is held open, and was looked at, when that was
 * done: who may rename it later cannot change what the file may name. */
typedef struct {
    char *path;
    int dir_fd;          /* O_PATH: the directory part of @path; -1: no name is known */
    char *dir_real;      /* where that lay; NULL: not known */
    char *file_dir_real; /* the directory in which the file really lay; NULL: not known */
    char *file_name_real; /* and the name it had there; NULL: none, or not known */
    struct stat status;   /* and which file it was */
} QimgPlace;

/* Frees and closes; accepts NULL. */
void qimg_place_free(QimgPlace *place);

/* Opens a file that the user names. Returns a descriptor for reading, and for writing
 * where asked, and its place in *@place_out (free with qimg_place_free), or -1 with
 * @error set. */
int qimg_open_named_by_user(const char *path, bool for_writing, QimgPlace **place_out,
                            GError **error);

/* As qimg_open_named_by_user, of @name below @dir_fd, which messages call @path. @policy
 * says what is avoided. */
int qimg_open_named_by_user_at(const QimgOpenPolicy *policy, int dir_fd, const char *name,
                               const char *path, bool for_writing, QimgPlace **place_out,
                               GError **error);

/* A descriptor of our own of the file that the user has open as @fd, which messages call
 * @path, for reading, and for writing where asked, and its place, which no name leads to.
 * -1 with @error set where that is no file of an image, or not open in that way. */
int qimg_open_given(int fd, const char *path, bool for_writing, QimgPlace **place_out,
                    GError **error);

/* Opens a file that the image at @naming names. @name is the stored name, plain (no
 * protocol), relative to the directory of @naming. Returns a descriptor as above and
 * the place in *@place_out (free with qimg_place_free), or -1 with @error set: the text
 * names the stored name, the path tried and the option that helps. Opens nothing that is
 * not allowed. */
int qimg_open_named_by_image(const QimgOpenPolicy *policy, const QimgPlace *naming,
                             const char *name, bool for_writing, QimgPlace **place_out,
                             GError **error);

/* Looks for a file that qimg_open_named_by_image has not found: in the directory of
 * @naming and in the allowed ones, by as many of the last parts of @name as are there.
 * Returns a descriptor for reading and the place, as above, where exactly one file comes
 * into question and @may_open; otherwise -1 with @error set (NOT_FOUND): the text names
 * the places that were tried, or what was found there, and the option that helps. Nothing
 * is looked for where the user has said by a mapping where the file is: then, and where
 * there is no other place, @error stays unset. */
int qimg_open_moved(const QimgOpenPolicy *policy, const QimgPlace *naming,
                    const char *name, bool may_open, QimgPlace **place_out,
                    GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgPlace, qimg_place_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgOpenPolicy, qimg_open_policy_free)
