/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a process that died has left of its reserve. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* Frees the clusters at the end of the file that are counted once and that nothing refers
 * to, where the last one looks like a reserve that was left behind and the references can
 * be counted without a flaw and at small cost; else changes nothing. Syncs before the
 * first refcount is lowered. Before the layer is active, under alloc_lock, with the
 * refcount table loaded. Errors: of the sync and of the refcounts' storage; it can be
 * tried again. */
QimgErrno qcow2_reclaim_reserve(Qcow2 *q) QIMG_MUST_CHECK;
