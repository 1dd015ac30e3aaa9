/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sectors of a writable encrypted layer that requests write. A cipher changes all of
 * a sector if one byte of it changes: so two writers of one sector would lose a write,
 * and a reader between old and new bytes would see neither. A writer holds its sectors;
 * readers look twice, and hold them only if a writer was near. Guest offsets count: two
 * requests use one host sector for one guest sector only (snapshots see no cluster that
 * is written in place). */
#pragma once

#include "format/inflight.h"

typedef struct QimgSectors QimgSectors;

QimgSectors *qimg_sectors_new(void);
void qimg_sectors_free(QimgSectors *sectors);

/* Holds [@start, *@end), multiples of a sector, against all who hold a part of it; waits
 * while the first one is held; lowers *@end to what is held at once, more than @start.
 * Until qimg_sectors_release the caller must not wait for any other request. */
void qimg_sectors_hold(QimgSectors *sectors, QimgInflight *mine, uint64_t start,
                       uint64_t *end);
void qimg_sectors_release(QimgSectors *sectors, QimgInflight *mine);

/* As these two, for a caller that changes the sectors. */
void qimg_sectors_begin_change(QimgSectors *sectors, QimgInflight *mine, uint64_t start,
                               uint64_t *end);
void qimg_sectors_end_change(QimgSectors *sectors, QimgInflight *mine);

/* A look at sectors without holding them. */
typedef struct {
    unsigned stripe;
    uint64_t n_changes;
} QimgSectorsLook;

/* Begins a look at [@start, *@end); lowers *@end to the reach of one look. False: a
 * writer is near. */
bool qimg_sectors_begin_look(QimgSectors *sectors, uint64_t start, uint64_t *end,
                             QimgSectorsLook *look_out);

/* Whether nothing has changed since the look began. */
bool qimg_sectors_end_look(QimgSectors *sectors, const QimgSectorsLook *look);
