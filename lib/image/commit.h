/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing the data of an overlay into the image below it. */
#pragma once

#include "image/chain/handle.h"

/* Writes to the disk of @base all that @overlay holds: its chain has only the layers
 * above
 * @base. The base's disk grows to the size of the overlay's, is the same as that
 * afterwards, and durable. @overlay is not changed, and a chain of its layers and @base
 * shows the same disk at every moment. Errors: as qimg_commit. */
bool commit_to_base(QimgImage *overlay, QimgImage *base, const QimgTask *task,
                    GError **error);

/* Drops all data of @overlay, which is open for writing and has no requests, durably, so
 * that its disk is that of its backing file. Errors: as qimg_commit. */
bool commit_empty_overlay(QimgImage *overlay, const QimgTask *task, GError **error);
