/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The life of a writable layer: opening, the first change, the end. */
#pragma once

#include "format/qed/qed.h"

/* Creates the state of a writable layer; refuses images that must not be written. At
 * open; writes nothing. */
bool qed_open_for_writing(Qed *qed, GError **error);

/* QimgDriver.activate. */
QimgErrno qed_activate(QimgFormat *format);

/* QimgDriver.flush and .end_writing. */
QimgErrno qed_flush(QimgFormat *format);
void qed_end_writing(QimgFormat *format);
