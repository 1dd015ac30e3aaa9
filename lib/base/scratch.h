/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A buffer that a thread keeps from one request to the next, so that hot paths do not
 * allocate. */
#pragma once

#include "base/types.h"

/* Gives the calling thread's buffer with room for @n_bytes, page aligned, or NULL when
 * memory is short. The content is undefined; the buffer is the caller's until the
 * thread's next call, and freed when the thread ends. */
void *qimg_scratch_get(size_t n_bytes) QIMG_MUST_CHECK;
