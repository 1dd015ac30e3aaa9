/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* Fills the set from the header and the tables. Before the layer is active. -EIO if two
 * structures overlap (the image is marked corrupt). */
QimgErrno qcow2_collect_metadata(Qcow2 *q) QIMG_MUST_CHECK;
