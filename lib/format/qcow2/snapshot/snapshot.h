/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/qcow2/layer/qcow2.h"

/* Reads the snapshot table. Damage ends the list with a warning: the disk itself does not
 * depend on it. */
void qcow2_load_snapshots(Qcow2 *q);

/* QimgDriver.check_snapshot. */
bool qcow2_check_snapshot(QimgFormat *format, const QimgFormatSnapshot *snapshot,
                          QimgGuestOffset *vm_state_out, GError **error);

/* Sets how many L1 entries of @view the file really holds. */
void qcow2_view_clip_to_file(Qcow2 *q, QimgView *view);
