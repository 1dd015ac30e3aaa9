/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* References to be dropped after the next flush (W3): a list to which any thread may
 * append. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* Creates a layer's empty list. Free it after its last use; accepts NULL. */
Qcow2Pending *qcow2_pending_new(void);
void qcow2_pending_free(Qcow2Pending *pending);

/* Drops one reference of each cluster of @run once the present entries are durable (W3).
 * Threads: any; locks outside PENDING may be held. */
void qcow2_free_later(Qcow2 *q, QimgClusters run);

/* Takes the whole list (QimgClusters), NULL if it is empty. The caller frees its clusters
 * after a sync, or puts them back by qcow2_free_later, and then calls
 * qcow2_pending_end. */
GArray *qcow2_pending_take(Qcow2 *q);
void qcow2_pending_end(Qcow2 *q);

/* Waits until no list is taken; returns whether nothing is pending then. */
bool qcow2_pending_wait(Qcow2 *q) QIMG_MUST_CHECK;

/* Whether the pending frees make a flush due. Any thread. */
bool qcow2_pending_is_much(const Qcow2 *q);
