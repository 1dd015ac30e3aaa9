/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/driver.h"

/* Calls @func for each range, up to the end of the smaller one, in which @a and @b of one
 * layer may differ: they are not stored at one place. Data are not compared. Inside the
 * gate or while it is closed. Errors: of the storage, -ENOMEM, those of @func and of
 * @task (may be NULL). */
QimgErrno image_diff_views(QimgFormat *layer, const QimgView *a, const QimgView *b,
                           QimgErrno (*func)(uint64_t guest_offset, uint64_t length_bytes,
                                             void *user),
                           void *user, const QimgTask *task) QIMG_MUST_CHECK;
