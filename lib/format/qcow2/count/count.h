/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Counts the references in an image's tables. */
#pragma once

#include "format/qcow2/count/counts.h"

/* Counts all references of the image file, despite problems: also the clusters of an
 * entry that breaks a rule. Reads only; clear @out after use, also after a failure.
 * @options may be NULL. Threads: none may change the tables meanwhile; the refcount table
 * is loaded (except for a check), its lock held. Errors: of the storage, -ENOMEM; -EFBIG
 * if the counts would take more than QCOW2_MAX_COUNT_BYTES; -ECANCELED. */
QimgErrno qcow2_count_references(Qcow2 *q, const Qcow2CountOptions *options,
                                 Qcow2Counts *out) QIMG_MUST_CHECK;

/* Counts the references that the tree of one L1 table makes: L2 tables and their
 * references; with @with_l1 the clusters of the table itself, too. The tree must not
 * refer to another table of the image. @view is that of the disk or of a snapshot in the
 * layer's list; the layer is active. Else as qcow2_count_references. */
QimgErrno qcow2_count_tree(Qcow2 *q, const QimgView *view, bool with_l1,
                           const Qcow2CountOptions *options, Qcow2Counts *out)
    QIMG_MUST_CHECK;
