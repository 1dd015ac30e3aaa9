/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Private state of an open qcow2 layer.
 *
 * I1  Nothing here is written after open but @file_end_bytes: maps and reads from any
 *     number of threads need no lock.
 * I2  Tables are read through the chain's table cache only, and never trusted: each entry
 *     is decoded (codec/qcow2-tables.h) each time it is used.
 * I3  What lies beyond the end of the file is damage, not zeros: a cut image must not
 *     pass for an empty one. (QEMU reads zeros there.) The last cluster may be cut. */
#pragma once

#include <stdatomic.h>

#include "codec/qcow2-geometry.h"
#include "format/driver.h"
#include "transform/compress.h"

typedef struct {
    QimgFormat base;
    Qcow2Header header;     /* const after open */
    Qcow2Geometry geometry; /* const after open */
    unsigned slice_words;   /* const after open: words of an L2 slice */
    QimgCodec codec;        /* const after open */
    /* atomic, relaxed: the file's length in bytes, rounded up to a sector; looked up
     * again when something seems to lie beyond it, since a running VM's file grows */
    _Atomic uint64_t file_end_bytes;
} Qcow2;

/* Whether @host_offset lies beyond the end of the image file. */
bool qcow2_is_beyond_end(Qcow2 *q, uint64_t host_offset);

/* QimgDriver.map. */
QimgErrno qcow2_map(QimgFormat *format, const QimgView *view,
                    QimgGuestOffset guest_offset, uint64_t length_bytes,
                    QimgRun *run_out);

/* QimgDriver.read_compressed. */
QimgErrno qcow2_read_compressed(QimgFormat *format, QimgHostOffset host_offset,
                                uint32_t stream_bytes, uint8_t *cluster_out);

/* Reads the snapshot table. Damage ends the list with a warning: the disk itself does not
 * depend on it. */
void qcow2_load_snapshots(Qcow2 *q);

/* QimgDriver.check_snapshot. */
bool qcow2_check_snapshot(QimgFormat *format, unsigned index,
                          QimgGuestOffset *vm_state_out, GError **error);

/* Fills in how many L1 entries of @view the file really holds. */
void qcow2_view_clip_to_file(Qcow2 *q, QimgView *view);
