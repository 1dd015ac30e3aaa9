/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mount/option-habits.h"

#include <string.h>

#include "qimg.h"

/* Differences between an option and the one that is suggested. */
#define MAX_DISTANCE 2u
#define MAX_NAME     63u

static const struct {
    const char *name;
    const char *instead; /* NULL: accepted, without effect */
} habits[] = {
    /* Of libfuse 2 and 3, and of mount(8): nothing here depends on them. */
    {"nonempty", NULL},
    {"kernel_cache", NULL},
    {"auto_cache", NULL},
    {"big_writes", NULL},
    {"large_read", NULL},
    {"hard_remove", NULL},
    {"use_ino", NULL},
    {"readdir_ino", NULL},
    {"async_read", NULL},
    {"intr", NULL},
    {"nointr", NULL},
    {"noforget", NULL},
    {"clone_fd", NULL},
    {"silent", NULL},
    {"loud", NULL},
    {"mand", NULL},
    {"nomand", NULL},
    {"iversion", NULL},
    {"noiversion", NULL},
    {"lazytime", NULL},
    {"nolazytime", NULL},
    {"symfollow", NULL},
    {"nosymfollow", NULL},
    /* Others, and the right one. */
    {"readonly", "give -o ro"},
    {"read-only", "give -o ro"},
    {"read_only", "give -o ro"},
    {"readwrite", "give -o rw"},
    {"read-write", "give -o rw"},
    {"snapshot", "-o cow writes to an overlay; internal snapshots are directories"},
    {"cache", "-o direct bypasses the page cache"},
    {"force-share", "give -o nolock"},
    {"norecovery", "that is for mounting the file system inside: see the manual"},
    {"noload", "that is for mounting the file system inside: see the manual"},
    {"loop", "the disk is shown as a file, which mount -o loop then mounts: see the "
             "manual"},
    {"offset", "each partition is shown as a file, DISK.partitions/N.raw"},
    {"sizelimit", "each partition is shown as a file, DISK.partitions/N.raw"},
    {"partition", "each partition is shown as a file, DISK.partitions/N.raw"},
};

/* The number of characters to insert, remove or replace (Levenshtein). */
static unsigned
distance_between(const char *a, size_t n_a, const char *b, size_t n_b)
{
    unsigned row[MAX_NAME + 1];

    for (size_t j = 0; j <= n_b; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= n_a; i++) {
        unsigned diagonal = row[0];

        row[0] = (unsigned)i;
        for (size_t j = 1; j <= n_b; j++) {
            unsigned replaced = diagonal + (a[i - 1] != b[j - 1]);

            diagonal = row[j];
            row[j] = MIN(replaced, MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[n_b];
}

static const char *
find_nearest(const char *name, size_t n_name, const char *const *names, size_t n_names)
{
    const char *nearest = NULL;
    unsigned least = MIN(MAX_DISTANCE + 1, (unsigned)n_name / 2 + 1);

    for (size_t i = 0; i < n_names && n_name <= MAX_NAME; i++) {
        size_t n = strlen(names[i]);
        unsigned distance =
            n > MAX_NAME ? least : distance_between(name, n_name, names[i], n);

        if (distance < least) {
            least = distance;
            nearest = names[i];
        }
    }
    return nearest;
}

bool
option_habits_take(const char *dashes, const char *option, const char *const *names,
                   size_t n_names, GError **error)
{
    size_t n_name = strcspn(option, "=");
    const char *nearest;

    for (size_t i = 0; i < G_N_ELEMENTS(habits); i++) {
        if (strlen(habits[i].name) != n_name ||
            strncmp(habits[i].name, option, n_name) != 0)
            continue;
        if (!habits[i].instead)
            return true;
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE, "%s%s: unknown option (%s)",
                    dashes, option, habits[i].instead);
        return false;
    }
    nearest = find_nearest(option, n_name, names, n_names);
    if (nearest)
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "%s%s: unknown option (is %s%s meant? see qcowfs --help)", dashes,
                    option, dashes, nearest);
    else
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "%s%s: unknown option (see qcowfs --help)", dashes, option);
    return false;
}
