/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changes of the header: fields, feature bits, the mark that the image is corrupt. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

#define QCOW2_MAX_FIELD_BYTES QIMG_SECTOR_BYTES

/* Creates the state for changes of the header of an open layer, with the incompatible
 * features that it was opened with. Free it after the last change; accepts NULL. */
Qcow2HeaderState *qcow2_header_state_new(const Qcow2 *q);
void qcow2_header_state_free(Qcow2HeaderState *state);

/* The header in memory, for its opening, and to record a field that has been written.
 * Not for the incompatible features. While no other thread reads the changed field: with
 * the gate closed, or under alloc_lock. */
Qcow2Header *qcow2_header_to_change(Qcow2 *q);

/* Writes @n_bytes (at most QCOW2_MAX_FIELD_BYTES) of the header at @position and makes
 * them durable. @bytes are in on-disk form. Under alloc_lock, or while the gate is
 * closed. */
QimgErrno qcow2_write_header_field(Qcow2 *q, uint64_t position, const void *bytes,
                                   size_t n_bytes) QIMG_MUST_CHECK;

/* Sets, then clears incompatible feature bits, durably; the others stay, and so does a
 * corrupt bit of qcow2_mark_corrupt. As qcow2_write_header_field. */
QimgErrno qcow2_change_incompatible(Qcow2 *q, uint64_t set, uint64_t clear)
    QIMG_MUST_CHECK;

/* The incompatible feature bits. Any thread; no lock but alloc_lock may be held. */
uint64_t qcow2_get_incompatible(Qcow2 *q);

/* Sets or clears the dirty bit, which version 2 lacks. As qcow2_change_incompatible. */
QimgErrno qcow2_set_dirty(Qcow2 *q, bool is_dirty) QIMG_MUST_CHECK;

/* Refcounts or flags are wrong: the dirty bit is no longer cleared, so that the next open
 * for writing repairs the image. With the gate closed. */
void qcow2_keep_dirty(Qcow2 *q);

/* Called when a writer finds damage: sets the corrupt bit (version 3), refuses every
 * further change and logs @rule with @host_offset. Returns -EIO. Threads: any, with or
 * without alloc_lock. */
QimgErrno qcow2_mark_corrupt(Qcow2 *q, QimgRule rule, uint64_t host_offset);
