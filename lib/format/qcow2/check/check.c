/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checks an image: counts the references in its tables (count.c) and compares them with
 * the stored refcounts and COPIED flags. Never writes. Spec: qcow2-write section 13.
 *
 * One corruption or leak is the same as in QEMU: a cluster with a wrong refcount, an
 * entry, a flag. */

#include "format/qcow2/check/check.h"

#include <errno.h>
#include <inttypes.h>

#include "base/checked.h"
#include "base/errors.h"
#include "codec/qcow2-refcounts.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/check/snapshot-mend.h"
#include "format/qcow2/count/count.h"
#include "format/qcow2/count/counts.h"
#include "format/qcow2/count/flags.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/refcount/alloc-state.h"
#include "format/qcow2/refcount/alloc.h"

#define READ_BYTES (64 * QIMG_KIB)

/* Adjacent clusters with the same refcount and the same number of references. */
typedef struct {
    uint64_t first_cluster;
    uint64_t n_clusters; /* 0: none yet */
    uint64_t refcount;
    uint64_t n_references;
} Run;

typedef struct {
    Qcow2 *q;
    QimgCheckReport *report;
    Qcow2Counts counts;
    Run run;
    uint64_t *buffer;   /* READ_BYTES, during the walk of the tables */
    uint64_t n_unknown; /* clusters that a damaged bitmap may use */
} Check;

/* ---- problems of the tables ---- */

static void
report_problems(Check *c)
{
    const GArray *problems = c->counts.problems;
    uint64_t n_unlisted = c->counts.n_problems - problems->len;

    for (guint i = 0; i < problems->len; i++) {
        const Qcow2Problem *p = &g_array_index(problems, Qcow2Problem, i);
        QimgFinding finding = {
            .kind = p->rule == QIMG_RULE_UNREADABLE ? QIMG_FINDING_ERROR
                                                    : QIMG_FINDING_CORRUPTION,
            .host_offset = p->host_offset,
            .guest_offset = p->guest_offset,
        };

        qimg_check_report_add(c->report, &finding, 1, "%s: %s", qimg_rule_field(p->rule),
                              qimg_rule_text(p->rule));
    }
    if (n_unlisted > 0)
        qimg_check_report_add(c->report,
                              &(QimgFinding){.kind = QIMG_FINDING_CORRUPTION,
                                             .guest_offset = QIMG_NO_GUEST_OFFSET},
                              n_unlisted, "%" PRIu64 " further damaged places in tables",
                              n_unlisted);
}

/* ---- refcounts ---- */

static void
end_run(Check *c)
{
    const Run *run = &c->run;
    unsigned bits = c->q->geometry.cluster_bits;
    QimgFinding finding = {
        .kind = run->refcount > run->n_references ? QIMG_FINDING_LEAK
                                                  : QIMG_FINDING_CORRUPTION,
        .host_offset = run->first_cluster << bits,
        .length_bytes = run->n_clusters << bits,
        .guest_offset = QIMG_NO_GUEST_OFFSET,
    };

    if (finding.kind == QIMG_FINDING_LEAK && c->counts.has_damaged_bitmaps)
        c->n_unknown += run->n_clusters;
    else if (run->n_clusters > 0)
        qimg_check_report_add(c->report, &finding, run->n_clusters,
                              "refcount: is %" PRIu64 " and must be %" PRIu64,
                              run->refcount, run->n_references);
    c->run.n_clusters = 0;
}

/* Compares the refcount of @cluster, and stores it over the count of its references. */
static void
compare_refcount(Check *c, uint64_t cluster, uint64_t refcount)
{
    uint64_t n_references = qcow2_counts_get(&c->counts, cluster);
    Run *run = &c->run;

    if (refcount > 0 || n_references > 0)
        c->report->result.image_end_offset = (cluster + 1) << c->q->geometry.cluster_bits;
    if (refcount == n_references)
        return;
    qcow2_counts_set(&c->counts, cluster, refcount);
    if (run->n_clusters > 0 && run->first_cluster + run->n_clusters == cluster &&
        run->refcount == refcount && run->n_references == n_references) {
        run->n_clusters++;
        return;
    }
    end_run(c);
    *run = (Run){cluster, 1, refcount, n_references};
}

/* Compares the refcounts in block @index; @block is a buffer for it. */
static QimgErrno
compare_block(Check *c, uint64_t index, uint64_t per_block, uint8_t *block)
{
    Qcow2 *q = c->q;
    uint64_t host_offset =
        index < q->alloc->n_refcount_table_entries ? q->alloc->refcount_table[index] : 0;
    uint64_t first = index * per_block;
    uint64_t end = qimg_min_u64(first + per_block, c->counts.n_clusters);
    QimgErrno err;

    if (host_offset == 0) {
        for (uint64_t cluster = first; cluster < end; cluster++)
            compare_refcount(c, cluster, 0);
        return 0;
    }
    err = qimg_storage_read(q->base.file, QIMG_IO_REFCOUNT, qimg_host(host_offset), block,
                            q->geometry.cluster_bytes);
    if (err == -ENOMEM)
        return err;
    if (err) {
        qimg_check_report_add(c->report,
                              &(QimgFinding){.kind = QIMG_FINDING_ERROR,
                                             .host_offset = host_offset,
                                             .guest_offset = QIMG_NO_GUEST_OFFSET},
                              1, "refcount block: cannot be read: %s", g_strerror(-err));
        return 0;
    }
    for (uint64_t cluster = first; cluster < end; cluster++)
        compare_refcount(
            c, cluster,
            qcow2_refcount_decode(block, q->header.refcount_order, cluster - first));
    return 0;
}

/* Compares all refcounts of the file's clusters. Refcounts of clusters behind its end are
 * harmless. Afterwards the counts hold the refcounts. */
static QimgErrno
compare_refcounts(Check *c)
{
    Qcow2 *q = c->q;
    uint64_t n_clusters = c->counts.n_clusters;
    uint64_t per_block =
        qcow2_refcounts_per_block(q->geometry.cluster_bits, q->header.refcount_order);
    g_autofree uint8_t *block = g_try_malloc(q->geometry.cluster_bytes);
    QimgErrno err = block ? 0 : -ENOMEM;

    for (uint64_t i = 0; !err && i * per_block < n_clusters; i++) {
        err = qimg_task_step(c->report->task, n_clusters + i * per_block, 3 * n_clusters);
        if (!err)
            err = compare_block(c, i, per_block, block);
    }
    end_run(c);
    if (c->n_unknown > 0)
        qimg_check_report_add(c->report,
                              &(QimgFinding){.kind = QIMG_FINDING_CORRUPTION,
                                             .guest_offset = QIMG_NO_GUEST_OFFSET},
                              0,
                              "bitmap: %" PRIu64
                              " clusters may belong to the damaged ones (remove those: "
                              "qimg bitmap --remove, --remove-all)",
                              c->n_unknown);
    return err;
}

/* ---- the active tables: flags, statistics, guest offsets ---- */

/* The count reports damage in an entry of the active disk, but without the guest
 * offset. */
static void
add_guest_offset(Check *c, uint64_t entry_offset, uint64_t guest_offset)
{
    GArray *problems = c->counts.problems;

    for (guint i = 0; i < problems->len; i++) {
        Qcow2Problem *p = &g_array_index(problems, Qcow2Problem, i);

        if (p->host_offset == entry_offset)
            p->guest_offset = guest_offset;
    }
}

static void
report_flag(Check *c, const char *entry_kind, uint64_t entry_offset,
            uint64_t guest_offset, uint64_t right)
{
    QimgFinding finding = {
        .kind = QIMG_FINDING_CORRUPTION,
        .host_offset = entry_offset,
        .guest_offset = guest_offset,
    };

    qimg_check_report_add(c->report, &finding, 1,
                          "%s: the COPIED flag is %s, though the refcount %s 1",
                          entry_kind, right & QCOW2_ENTRY_COPIED ? "clear" : "set",
                          right & QCOW2_ENTRY_COPIED ? "is" : "is not");
}

/* Position of the next contiguous cluster, for the statistics. */
static void
add_to_statistics(Check *c, uint64_t word, uint64_t *next_offset)
{
    QimgCheckResult *result = &c->report->result;
    uint64_t host_offset = word & QCOW2_OFFSET_MASK;

    if (word & QCOW2_L2_COMPRESSED) {
        result->n_allocated_clusters++;
        result->n_compressed_clusters++;
        result->n_fragmented_clusters++; /* it has no cluster of its own */
    } else if (qcow2_l2_has_cluster(&c->q->geometry, word)) {
        result->n_allocated_clusters++;
        if (*next_offset != 0 && *next_offset != host_offset)
            result->n_fragmented_clusters++;
        *next_offset = host_offset + c->q->geometry.cluster_bytes;
    }
}

static void
look_at_l2_entry(Check *c, uint64_t word, uint64_t bitmap, uint64_t entry_offset,
                 uint64_t guest_offset)
{
    const Qcow2Geometry *g = &c->q->geometry;
    uint64_t right = qcow2_right_l2_word(c->q, &c->counts, word);
    QimgRule rule = qcow2_l2_check_for_change(g, word, bitmap, guest_offset);

    if (rule == QIMG_RULE_DATA_FILE_OFFSET) /* the count cannot detect that */
        qimg_check_report_add(c->report,
                              &(QimgFinding){.kind = QIMG_FINDING_CORRUPTION,
                                             .host_offset = entry_offset,
                                             .guest_offset = guest_offset},
                              1, "%s: %s", qimg_rule_field(rule), qimg_rule_text(rule));
    else if (rule)
        add_guest_offset(c, entry_offset, guest_offset);
    if (right != word && !c->counts.are_refcounts_ruined)
        report_flag(c, "L2 entry", entry_offset, guest_offset, right);
}

static QimgErrno
look_at_l2_table(Check *c, uint64_t l2_table_offset, uint64_t guest_offset,
                 uint64_t *buffer)
{
    const Qcow2Geometry *g = &c->q->geometry;
    uint64_t n_bytes = qimg_min_u64(g->cluster_bytes, READ_BYTES);
    uint64_t next_offset = 0;

    for (uint64_t done = 0; done < g->cluster_bytes; done += n_bytes) {
        uint64_t at = l2_table_offset + done;
        QimgErrno err = qimg_format_read_words(&c->q->base, QIMG_IO_L2, at, buffer,
                                               n_bytes / sizeof *buffer);

        if (err)
            return err == -ENOMEM ? err : 0; /* the count has reported it */
        for (uint64_t i = 0; i < n_bytes / sizeof *buffer; i += g->l2_entry_words) {
            uint64_t bitmap = g->extended_l2 ? buffer[i + 1] : 0;

            if (buffer[i] != 0 || bitmap != 0) {
                add_to_statistics(c, buffer[i], &next_offset);
                look_at_l2_entry(c, buffer[i], bitmap, at + i * sizeof *buffer,
                                 guest_offset);
            }
            guest_offset += g->cluster_bytes;
        }
    }
    return 0;
}

static QimgErrno
look_at_l1_entry(Check *c, uint64_t l1_index, uint64_t entry)
{
    const Qcow2Geometry *g = &c->q->geometry;
    uint64_t entry_offset = c->q->base.active.l1_table_offset.v + l1_index * sizeof entry;
    uint64_t guest_offset = l1_index << g->l1_shift;
    uint64_t l2_table_offset = entry & QCOW2_OFFSET_MASK;
    uint64_t right = qcow2_right_l1_entry(c->q, &c->counts, entry);
    bool is_there = qimg_is_aligned(l2_table_offset, g->cluster_bytes) &&
                    l2_table_offset >> g->cluster_bits < c->counts.n_clusters;

    if (!is_there || (entry & QCOW2_L1_RESERVED))
        add_guest_offset(c, entry_offset, guest_offset);
    if (right != entry && !c->counts.are_refcounts_ruined)
        report_flag(c, "L1 entry", entry_offset, guest_offset, right);
    return is_there && l2_table_offset != 0
               ? look_at_l2_table(c, l2_table_offset, guest_offset, c->buffer)
               : 0;
}

/* As look_at_l1_entry, with progress. */
static QimgErrno
look_at_l1_word(void *user, uint64_t l1_index, uint64_t entry)
{
    Check *c = user;
    uint64_t n_clusters = c->counts.n_clusters;
    QimgErrno err;

    if (entry == 0)
        return 0;
    err = qimg_task_step(c->report->task,
                         2 * n_clusters + l1_index * n_clusters /
                                              c->q->base.active.n_l1_entries_in_file,
                         3 * n_clusters);
    return err ? err : look_at_l1_entry(c, l1_index, entry);
}

static QimgErrno
look_at_active_tables(Check *c)
{
    const QimgView *view = &c->q->base.active;
    QimgErrno err;

    c->buffer = g_try_malloc(READ_BYTES);
    if (!c->buffer)
        return -ENOMEM;
    err = qimg_format_each_word(&c->q->base, QIMG_IO_L1, view->l1_table_offset.v,
                                view->n_l1_entries_in_file, look_at_l1_word, c);
    g_clear_pointer(&c->buffer, g_free);
    /* The count has reported a table that cannot be read. */
    return err == -ENOMEM || err == -ECANCELED ? err : 0;
}

/* ---- the whole check ---- */

static QimgErrno
check(Check *c)
{
    Qcow2 *q = c->q;
    const Qcow2CountOptions options = {.is_for_check = true, .task = c->report->task};
    QimgCheckResult *result = &c->report->result;
    uint64_t n_bad_snapshots;
    QimgErrno err = qcow2_count_references(q, &options, &c->counts);

    result->n_total_clusters =
        qimg_div_round_up(q->header.size_bytes, q->geometry.cluster_bytes);
    result->is_dirty = (qcow2_get_incompatible(q) & QCOW2_INCOMPAT_DIRTY) != 0;
    result->is_marked_corrupt = (qcow2_get_incompatible(q) & QCOW2_INCOMPAT_CORRUPT) != 0;
    if (!err)
        err = qcow2_check_snapshot_entries(q, c->report, &n_bad_snapshots);
    if (!err)
        err = compare_refcounts(c);
    if (!err)
        err = look_at_active_tables(c);
    if (!err)
        report_problems(c);
    return err;
}

bool
qcow2_check(QimgFormat *format, QimgCheckReport *report, GError **error)
{
    Qcow2 *q = (Qcow2 *)format;
    Check c = {.q = q, .report = report};
    QimgErrno err;

    QIMG_LOCK_SCOPE(qcow2_alloc_lock(q)); /* no other thread uses the layer */
    err = check(&c);
    qcow2_counts_clear(&c.counts);
    if (err == -EFBIG)
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                       "its file has more clusters than can be counted (at most "
                       "%" PRIu64 ")",
                       QCOW2_MAX_COUNT_BYTES / sizeof(uint32_t));
    else if (err)
        qimg_set_error_errno(error, -err, NULL, "cannot be checked");
    return err == 0;
}
