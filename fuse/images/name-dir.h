/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The files of a directory of the mount, by name, at one moment: the common head of the
 * directories of snapshots and of bitmaps. An object never changes and is shared by
 * counted references. */
#pragma once

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/lock.h"

typedef struct NameDir {
    atomic_uint n_references;           /* C11's: a packaged GLib hides its own from
                                           ThreadSanitizer */
    GPtrArray *names;                   /* char *, owned */
    GHashTable *by_name;                /* its strings, to their places */
    void (*clear)(struct NameDir *dir); /* frees the rest of the object */
} NameDir;

/* Makes an object of @n_bytes, zeros behind the head. Free with name_dir_unref. */
void *name_dir_new(size_t n_bytes, void (*clear)(NameDir *dir));
void name_dir_unref(NameDir *dir);

/* Appends @name (taken over); only before the object is shared. */
void name_dir_add(NameDir *dir, char *name);

/* The place of @name. */
bool name_dir_find(const NameDir *dir, const char *name, unsigned *place_out);

/* Holds the present object of an image. */
typedef struct {
    QimgMutex lock;
    NameDir *present; /* guarded by lock; NULL until requested */
} NameDirCache;

void name_dir_cache_init(NameDirCache *cache);
void name_dir_cache_clear(NameDirCache *cache);

/* A reference to the present object; NULL: none. Any thread. */
void *name_dir_cache_get(NameDirCache *cache);

/* Makes @dir the present object; the caller keeps its own reference. Any thread: of two
 * that have made one, the later one counts. */
void name_dir_cache_put(NameDirCache *cache, NameDir *dir);
