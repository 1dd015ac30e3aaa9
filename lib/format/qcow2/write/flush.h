/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* Lets clusters be found free whose refcounts have fallen to 0: nothing durable refers to
 * them any more, and no request uses them. Under alloc_lock. */
void qcow2_forget_clusters(Qcow2 *q, QimgClusters run);

/* As qcow2_flush, and returns when no reference waits any more, in other threads' flushes
 * either: refcounts are what the tables say. -ENOSPC where one could not be lowered. With
 * the gate closed, by the caller. */
QimgErrno qcow2_flush_all(Qcow2 *q) QIMG_MUST_CHECK;

/* QimgDriver.flush, .wants_flush. */
QimgErrno qcow2_flush(QimgFormat *format);
bool qcow2_wants_flush(QimgFormat *format);
