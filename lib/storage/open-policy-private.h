/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared by open-policy.c and open-moved.c. */
#pragma once

#include "storage/open-policy.h"

typedef enum {
    POLICY_SAME_DIR,
    POLICY_DIRS,
    POLICY_ANY,
    POLICY_NONE,
} PolicyKind;

struct QimgOpenPolicy {
    PolicyKind kind;
    bool is_explicit; /* the user has set it */
    GPtrArray *dirs;  /* char *, real paths */
    GPtrArray *maps;  /* char *, OLD and NEW alternating */
    bool avoids;
    dev_t avoided_device; /* if @avoids */
};

/* Opens @name below @dir_fd as O_PATH, with its place; messages call it @path. -1 with
 * errno. */
int open_policy_open_place(const QimgOpenPolicy *policy, int dir_fd, const char *name,
                           const char *path, QimgPlace **place_out);

/* Whether the file whose real path is @real may be opened for the image at @naming. */
bool open_policy_is_allowed(const QimgOpenPolicy *policy, const QimgPlace *naming,
                            const char *real);

/* A name for messages: names from an image may contain anything. Free with g_free. */
char *open_policy_printable(const char *name);

/* Applies the first mapping whose OLD is @name or a directory above it, and stores its
 * NEW in *@new_out (owned by @policy); NULL if none applies. */
char *open_policy_apply_maps(const QimgOpenPolicy *policy, const char *name,
                             const char **new_out);
