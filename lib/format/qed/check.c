/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Check and repair at the user's request. Spec: qed section 6.
 *
 * Leaks inside the file stay, since the format has no list of free clusters; those at its
 * end are truncated. */
#include "format/qed/check.h"

#include <errno.h>

#include "base/checked.h"
#include "base/errors.h"
#include "format/qed/alloc.h"
#include "format/qed/header-io.h"
#include "format/qed/walk.h"

static void
report_leak(const Qed *qed, QimgClusters run, QimgCheckReport *report)
{
    unsigned bits = qed->header.cluster_bits;
    const QimgFinding finding = {.kind = QIMG_FINDING_LEAK,
                                 .host_offset = run.first_cluster << bits,
                                 .length_bytes = run.n_clusters << bits,
                                 .guest_offset = QIMG_NO_GUEST_OFFSET};

    if (run.n_clusters > 0)
        qimg_check_report_add(report, &finding, run.n_clusters,
                              "cluster: nothing refers to it");
}

/* Reports clusters without references, adjacent ones as one finding. */
static void
report_leaks(const Qed *qed, const QedWalk *walk, QimgCheckReport *report)
{
    QimgClusters run = {0};

    while (qed_walk_find_unused(walk, &run))
        report_leak(qed, run, report);
    if (walk->used_end_cluster < walk->n_clusters)
        report_leak(qed,
                    (QimgClusters){walk->used_end_cluster,
                                   walk->n_clusters - walk->used_end_cluster},
                    report);
}

static bool
fail_check(GError **error, QimgErrno err)
{
    if (err == -EFBIG)
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                       "its file has more clusters than can be counted (copy its content "
                       "to another image)");
    else
        qimg_set_error_errno(error, -err, "it can be done again", "was not finished");
    return false;
}

bool
qed_check(QimgFormat *format, QimgCheckReport *report, GError **error)
{
    Qed *qed = (Qed *)format;
    const QedWalkOptions options = {.report = report, .task = report->task};
    QimgCheckResult *result = &report->result;
    QedWalk walk;
    QimgErrno err = qed_walk(qed, &options, &walk);

    result->n_total_clusters =
        qimg_div_round_up(qed->header.size_bytes, format->cluster_bytes);
    result->is_dirty = (qed->header.features & QED_FEATURE_NEED_CHECK) != 0;
    if (!err) {
        result->image_end_offset = walk.used_end_cluster << qed->header.cluster_bits;
        report_leaks(qed, &walk, report);
    }
    qed_walk_clear(&walk);
    return !err || fail_check(error, err);
}

static QimgErrno
repair_tables(Qed *qed, QimgRepair mode, const QimgTask *task)
{
    const QedWalkOptions options = {.mends = mode == QIMG_REPAIR_ALL, .task = task};
    QedWalk walk;
    QimgErrno err = qed_walk(qed, &options, &walk);

    /* With a remaining problem, no cluster is known to be unused. */
    if (!err && walk.n_invalid == walk.n_mended && walk.n_shared == 0 &&
        walk.n_errors == 0 && walk.used_end_cluster < walk.n_clusters)
        err = qed_cut_file(qed, walk.used_end_cluster << qed->header.cluster_bits);
    qed_walk_clear(&walk);
    return err ? err : qimg_storage_sync(qed->base.file);
}

bool
qed_repair(QimgFormat *format, QimgRepair mode, QimgCheckReport *report, GError **error)
{
    Qed *qed = (Qed *)format;
    QimgErrno err = repair_tables(qed, mode, report->task);

    if (err)
        return fail_check(error, err);
    if (!qed_check(format, report, error))
        return false;
    if (report->result.n_corruptions > 0 || report->result.n_check_errors > 0)
        return true;
    qimg_mutex_lock(&qed->alloc_lock);
    err = qed_set_need_check(qed, false);
    if (!err && mode == QIMG_REPAIR_ALL)
        err = qed_store_field(qed, QED_HEADER_AT_AUTOCLEAR, 0,
                              qed->header.autoclear_features);
    qimg_mutex_unlock(&qed->alloc_lock);
    report->result.is_dirty = err != 0;
    return !err || fail_check(error, err);
}
