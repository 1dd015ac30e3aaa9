/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changes of the header: fields, feature bits, the mark that the image is corrupt. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

#define QCOW2_MAX_FIELD_BYTES 24u

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

/* Sets or clears the dirty bit, which version 2 lacks. With stays_dirty it is not
 * cleared: the next open for writing repairs the image. As qcow2_change_incompatible. */
QimgErrno qcow2_set_dirty(Qcow2 *q, bool is_dirty) QIMG_MUST_CHECK;

/* Called when a writer finds damage: sets the corrupt bit (version 3), refuses every
 * further change and logs @rule with @host_offset. Returns -EIO. Threads: any, with or
 * without alloc_lock. */
QimgErrno qcow2_mark_corrupt(Qcow2 *q, QimgRule rule, uint64_t host_offset);
