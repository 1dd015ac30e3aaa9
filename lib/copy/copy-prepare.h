/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checks before a copy. */
#pragma once

#include "copy/copy-private.h"

/* Whether @image can be the source of a copy. */
bool copy_check_image(const QimgImage *image, GError **error);

/* Checks the result of reading a piece at @guest_offset: @bad are its unreadable ranges,
 * or NULL. */
bool copy_check_read(const QimgCopy *copy, uint64_t guest_offset, QimgErrno read_error,
                     const GArray *bad, GError **error);
