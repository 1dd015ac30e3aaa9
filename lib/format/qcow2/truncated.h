/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The first look for a truncated qcow2 image. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* Adds a warning if the file ends before a table or a counted cluster. At open, after the
 * list of snapshots is loaded. A few reads; failed ones are no error. */
void qcow2_warn_if_truncated(Qcow2 *q);
