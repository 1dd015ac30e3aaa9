/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* Makes clusters findable as free whose refcounts have fallen to 0: no durable entry
 * refers to them any more, and no request uses them. Under alloc_lock. */
void qcow2_forget_clusters(Qcow2 *q, QimgClusters run);

/* Like qcow2_flush, and returns when no drop is pending, in other threads' flushes
 * either: refcounts match the tables. -ENOSPC if one could not be lowered. The caller has
 * closed the gate. */
QimgErrno qcow2_flush_all(Qcow2 *q) QIMG_MUST_CHECK;

/* QimgDriver.flush, .wants_flush. */
QimgErrno qcow2_flush(QimgFormat *format);
bool qcow2_wants_flush(QimgFormat *format);
