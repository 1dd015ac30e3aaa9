/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The reserve left by a process that died. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* Frees the clusters at the end of the file that are counted once but not referred to, if
 * the last one looks like an abandoned reserve and the references can be counted without
 * a flaw and at small cost; otherwise changes nothing. Syncs before the first refcount is
 * lowered. Before the layer is active, under alloc_lock, with the refcount table loaded.
 * Errors: of the sync and of the refcounts' storage; the caller can try again. */
QimgErrno qcow2_reclaim_reserve(Qcow2 *q) QIMG_MUST_CHECK;
