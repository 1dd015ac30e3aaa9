/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Makes errors of the public domain QIMG_ERROR; maps each to an errno. */
#pragma once

#include "base/types.h"
#include "qimg.h"

/* Sets @error to @code with a text that says what is wrong and, in parentheses, what to
 * do, without a prefix. @error may be NULL. */
void qimg_set_error(GError **error, QimgError code, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

/* As qimg_set_error with QIMG_ERROR_USAGE; returns false, for the caller to return. */
bool qimg_misuse(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* A hint for EROFS of a file that is to be made. */
#define QIMG_HINT_READ_ONLY                                                              \
    "the file system there can only be read: name a place on another one"

/* As qimg_set_error, followed by ": ", the text of @errnum (positive) and, in
 * parentheses, @hint (advice; may be NULL; EMFILE has its own). ENOENT, ENOMEM and
 * ECANCELED choose their own code; all others are FAILED. */
void qimg_set_error_errno(GError **error, int errnum, const char *hint,
                          const char *format, ...) G_GNUC_PRINTF(4, 5);
