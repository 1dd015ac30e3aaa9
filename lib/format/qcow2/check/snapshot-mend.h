/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/check-report.h"
#include "format/qcow2/check/repair-refcounts.h"

/* The number of entries of the snapshot table that do not follow the format: without the
 * fields of version 3, or too long. Adds each to @report, unless NULL. */
QimgErrno qcow2_check_snapshot_entries(Qcow2 *q, QimgCheckReport *report, uint64_t *n_out)
    QIMG_MUST_CHECK;

/* Makes a new snapshot table, in memory, if one is needed and possible, and takes
 * clusters for it instead of the old one's. */
QimgErrno qcow2_plan_snapshot_table(Qcow2Repair *repair) QIMG_MUST_CHECK;

/* Writes the new table (syncs nothing); makes the header refer to it. */
QimgErrno qcow2_write_snapshot_table(Qcow2Repair *repair) QIMG_MUST_CHECK;
QimgErrno qcow2_switch_snapshot_table(Qcow2Repair *repair) QIMG_MUST_CHECK;
