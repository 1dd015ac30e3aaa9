/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The registry, for images.c, images-open.c, images-close.c, images-pin.c and
 * images-dir.c. */
#pragma once

#include "base/lock.h"
#include "images/images.h"

/* The error domain for an image that has gone. */
#define IMAGE_GONE g_quark_from_static_string("qcowfs-image-gone")

struct Images {
    ImagesSettings settings; /* const */
    GPtrArray *dirs;         /* ImageDir *, owned; const while mounted */
    int wake_fd;             /* const */
    QimgMutex scan_lock;     /* taken before lock: serializes scans for changes */
    QimgMutex lock;
    QimgCond changed; /* signalled when an entry stops being busy */
    /* Guarded by lock: */
    GPtrArray *entries;  /* ImageEntry *, owned, by number */
    GHashTable *by_name; /* names to entries, of those that have a name */
    GPtrArray *open;     /* open entries of directories */
    unsigned n_opening;
    uint64_t n_openings; /* so far */
    unsigned n_gone;     /* entries that have gone but are in use */
    unsigned next_number;
    unsigned generation;
    GPtrArray *gone;   /* names (char *) */
    bool sleeps;       /* the closer of idle images waits for wake_fd alone */
    char *flush_error; /* from a closed image, or NULL */
};

/* Call all with the lock held. */

/* A new entry shown as @name (taken over); NULL at the limit of MAX_IMAGES. */
ImageEntry *images_add_entry(Images *images, char *name);

/* Frees an entry that has gone, is closed and is not used. */
void images_remove_entry(Images *images, ImageEntry *entry);

/* The entry of that number, or NULL. */
ImageEntry *images_find_entry(const Images *images, unsigned number);
