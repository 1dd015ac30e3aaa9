/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The life of a writable layer: opening, the first change, the end. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* Creates the state of a writable layer; refuses images that must not be written. At
 * open; writes nothing. */
bool qcow2_open_for_writing(Qcow2 *q, const QimgFormatEnv *env, GError **error);
void qcow2_close_for_writing(Qcow2 *q);

/* Creates the state for check and repair, however damaged the image is. */
void qcow2_open_for_check(Qcow2 *q);

/* QimgDriver.end_writing. */
void qcow2_end_writing(QimgFormat *format);

/* QimgDriver.activate. */
QimgErrno qcow2_activate(QimgFormat *format);
