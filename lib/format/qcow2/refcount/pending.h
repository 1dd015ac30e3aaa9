/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* References that go after the next flush (W3): a list that anybody may append to. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* A layer's empty list. Free when nobody uses it any more; accepts NULL. */
Qcow2Pending *qcow2_pending_new(void);
void qcow2_pending_free(Qcow2Pending *pending);

/* One reference of each cluster of @run goes once the present entries are durable (W3).
 * Threads: any; locks outside PENDING may be held. */
void qcow2_free_later(Qcow2 *q, QimgClusters run);

/* Takes the whole list (QimgClusters), NULL if it is empty. The caller frees what it
 * names after a sync, or puts it back by qcow2_free_later, and then calls
 * qcow2_pending_end. */
GArray *qcow2_pending_take(Qcow2 *q);
void qcow2_pending_end(Qcow2 *q);

/* Waits until no list is taken; whether nothing is pending then. */
bool qcow2_pending_wait(Qcow2 *q) QIMG_MUST_CHECK;

/* Whether so much is pending that a flush is due. Any thread. */
bool qcow2_pending_is_much(const Qcow2 *q);
