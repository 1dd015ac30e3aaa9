/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What images.c, images-open.c and images-dir.c share. */
#pragma once

#include "base/lock.h"
#include "images/images.h"

/* The domain of the error that an image has gone. */
#define IMAGE_GONE g_quark_from_static_string("qcowfs-image-gone")

struct Images {
    ImagesSettings settings; /* const */
    GPtrArray *dirs;         /* ImageDir *, owned; const while mounted */
    int wake_fd;             /* const */
    QimgMutex scan_lock;     /* taken before lock: one thread looks for changes */
    QimgMutex lock;
    QimgCond changed; /* an entry is not busy any more */
    /* Guarded by lock: */
    GPtrArray *entries;  /* ImageEntry *, owned, by number */
    GHashTable *by_name; /* names to entries, of those that have not gone */
    GPtrArray *open;     /* entries of directories that are open */
    unsigned n_opening;
    uint64_t n_openings; /* so far */
    unsigned n_gone;     /* entries that have gone, and are in use */
    unsigned next_number;
    unsigned generation;
    GPtrArray *gone;   /* names (char *) */
    bool sleeps;       /* whoever closes idle images waits for wake_fd alone */
    char *flush_error; /* of an image that was closed, or NULL */
};

/* All with the lock held. */

/* A new entry shown as @name (taken over); NULL: there are MAX_IMAGES. */
ImageEntry *images_add_entry(Images *images, char *name);

/* Frees one that has gone, is closed and is not used. */
void images_remove_entry(Images *images, ImageEntry *entry);

/* Takes the entry out of the registry: at once, or when nobody uses it any more. The
 * lock is released meanwhile where the image must be closed. */
void images_drop_if_unused(Images *images, ImageEntry *entry);

/* The entry of that number, or NULL. */
ImageEntry *images_find_entry(const Images *images, unsigned number);

/* Closes an open image that nobody uses. The lock is released meanwhile. */
void images_close_entry(Images *images, ImageEntry *entry);
