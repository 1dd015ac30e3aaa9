/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The internal snapshots of a layer at one moment: a list that never changes, so that
 * readers need no lock; a change makes a new list. */
#pragma once

#include <stdatomic.h>

#include "format/view.h"
#include "qimg.h"

typedef struct {
    QimgSnapshot facts; /* strings owned */
    QimgView view;      /* of its disk; checked by QimgDriver.check_snapshot */
    /* atomic: open handles on the snapshot's disk or VM state. A GLib atomic box, shared
     * by all lists with the snapshot, and by the handles. */
    atomic_uint *n_handles;
} QimgFormatSnapshot;

struct QimgSnapshots {
    atomic_uint refs; /* atomic */
    unsigned n;
    QimgFormatSnapshot *items; /* @n */
};

/* The name and date of a new snapshot. */
typedef struct {
    const char *name; /* at most QIMG_MAX_SNAPSHOT_NAME_BYTES */
    int64_t date_s;   /* since 1970 */
    uint32_t date_ns;
} QimgNewSnapshot;

/* Makes a list of @n snapshots. Takes over @items and their strings; assigns numbers
 * (their places) and boxes. Never NULL. */
QimgSnapshots *qimg_snapshots_new(QimgFormatSnapshot *items, unsigned n);

/* Gives the snapshots of @list, which no other thread has yet, the numbers and boxes that
 * they have in @old: the list before the snapshot at @removed_place was removed
 * (UINT_MAX: none was). One more at the end is new and gets @new_serial. */
void qimg_snapshots_adopt(QimgSnapshots *list, const QimgSnapshots *old,
                          unsigned removed_place, uint32_t new_serial);

/* Any thread; qimg_snapshots_unref is public. */
QimgSnapshots *qimg_snapshots_ref(QimgSnapshots *list);

/* The snapshot with that number; NULL if the list has none. */
QimgFormatSnapshot *qimg_snapshots_find_serial(const QimgSnapshots *list,
                                               uint32_t serial);

/* Frees the strings of a snapshot that is in no list. */
void qimg_format_snapshot_clear(QimgFormatSnapshot *snapshot);
