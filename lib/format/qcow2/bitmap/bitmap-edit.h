/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bitmaps as they are to be, before a change is committed (change.c). */
#pragma once

#include "base/task.h"
#include "format/qcow2/bitmap/tracker.h"

/* A bitmap as it is to be. */
typedef struct {
    char *name; /* owned */
    size_t name_bytes;
    const uint8_t *entry; /* as in the old directory; NULL: new */
    uint64_t entry_bytes;
    uint64_t old_table_offset; /* 0: none */
    uint32_t n_old_entries;
    uint32_t flags;
    unsigned granularity_bits;
    const char *damage; /* static */
    bool is_changed;    /* @words count, not the old table */
    uint64_t *words;    /* owned; NULL: not loaded */
    uint64_t n_words;
} BitmapEdit;

typedef struct {
    Qcow2 *q;
    const QimgTask *task;
    GArray *edits; /* BitmapEdit */
    GArray *gone;  /* QimgClusters: to be freed after the change */
    GArray *made;  /* QimgClusters: new bits, to be freed if there is no change */
} BitmapChange;

/* Frees the content of a BitmapEdit; a GDestroyNotify. */
void bitmap_edit_clear(gpointer data);

/* Puts a range aside, to be freed after the change. */
void bitmap_change_add_gone(BitmapChange *c, uint64_t host_offset, uint64_t n_bytes);

/* Puts the cluster of bits of @word aside, if it has one; one that cannot be its own is
 * leaked. */
void bitmap_change_add_gone_bits(BitmapChange *c, uint64_t word);

/* Reads the old table of @e, unless it has words already. */
QimgErrno bitmap_edit_load_words(BitmapChange *c, BitmapEdit *e) QIMG_MUST_CHECK;

/* Gives @e a new table, with @word in all of the entries that the disk needs. */
QimgErrno bitmap_edit_reset_words(BitmapChange *c, BitmapEdit *e, uint64_t word)
    QIMG_MUST_CHECK;

/* Puts all clusters of @e aside, unless its table cannot be trusted. */
QimgErrno bitmap_edit_drop(BitmapChange *c, BitmapEdit *e) QIMG_MUST_CHECK;
