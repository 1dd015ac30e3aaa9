/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Replaces the header with its extensions and the backing file's name. */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* Makes @header, with the names given, the header of the layer, durably: first the name
 * at a place of its own, then, by one write of the first sector, all of the rest. A crash
 * leaves the old header or the new one. Of @header, the place of the backing name is
 * ignored, and incompatible features are those of qcow2_get_incompatible. Other
 * extensions stay; the table of feature names only where it fits in the sector.
 * @backing_name, @backing_format, @data_file_name: NULL: none.
 * Threads: with the gate closed, or under alloc_lock. Errors: UNSUPPORTED if the
 * extensions do not fit in the first sector, or the name not in the header's cluster;
 * those of the storage. Nothing has changed then. */
bool qcow2_replace_header(Qcow2 *q, const Qcow2Header *header, const char *backing_name,
                          const char *backing_format, const char *data_file_name,
                          GError **error);
