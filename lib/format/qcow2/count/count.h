/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Counts what an image's tables refer to. */
#pragma once

#include "format/qcow2/count/counts.h"

/* Counts all references of the image file. What can be told in spite of problems is
 * counted: also the clusters of an entry that breaks a rule. Reads only; @out is to be
 * cleared, also after a failure. @options may be NULL.
 * Threads: none may change the tables meanwhile; the refcount table is loaded (but for a
 * check), its lock held. Errors: of the storage, -ENOMEM; -EFBIG where the counts would
 * take more than QCOW2_MAX_COUNT_BYTES; -ECANCELED. */
QimgErrno qcow2_count_references(Qcow2 *q, const Qcow2CountOptions *options,
                                 Qcow2Counts *out) QIMG_MUST_CHECK;

/* Counts the references that the tree of one L1 table makes: L2 tables and all that they
 * refer to; with @with_l1 the clusters of the table itself, too. What the tree refers to
 * must not be another table of the image. @view is that of the disk or of a snapshot in
 * the layer's list; the layer is active. Else as qcow2_count_references. */
QimgErrno qcow2_count_tree(Qcow2 *q, const QimgView *view, bool with_l1,
                           const Qcow2CountOptions *options, Qcow2Counts *out)
    QIMG_MUST_CHECK;
