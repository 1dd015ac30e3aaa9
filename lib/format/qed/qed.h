/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private state of an open QED layer, and how it is changed safely. Spec: qed.
 *
 * A cluster is in use if a table refers to it, and new ones are taken at the end of the
 * file; there are no refcounts.
 *
 * I1  A layer that is not writable is never written to, and nothing of it changes after
 *     open but file_end_bytes: maps and reads from any number of threads need no lock.
 * I2  An entry is a place within the file or damage: a cut image must not pass for an
 *     empty one, nor may growing make another's clusters out of such entries. So all
 *     tables are looked at before the first change (activate.c).
 *
 * Writing, beside T1 and T2 of format/table-file.h:
 *
 * E1  NEED_CHECK is set, durably, before the first cluster is taken, and cleared when all
 *     is durable at the end.
 * E2  Clusters are taken from a reserve: the file reaches behind them and their bytes are
 *     zeros, durably, before an entry in the file refers to any of them. Dying leaks what
 *     is left of it.
 * E3  An entry is written only after the data that it refers to is durable, except where
 *     both the disk and the new cluster read as zeros.
 * E4  The guest range of an entry that is being changed is announced (format/inflight.h);
 *     L1 entries and the reserve change under alloc_lock. */
#pragma once

#include "base/lock.h"
#include "codec/qed-header.h"
#include "format/table-file.h"
#include "format/write-plan.h"

typedef struct {
    QimgFormat base;
    QedHeader header;    /* const after open; a writable layer's features: alloc_lock */
    unsigned entry_bits; /* const after open: a table has 2^this entries */
    unsigned l1_shift;   /* const after open: guest offset to L1 index */

    /* The rest: writable layers and those open for a check only. */
    QimgMutex alloc_lock;      /* rank QIMG_RANK_ALLOC */
    bool has_lock;             /* const after open */
    _Atomic bool is_active;    /* atomic: what comes before the first change is done */
    uint64_t first_file_bytes; /* const once active: the file's length then */
    uint64_t first_cluster;    /* const once active: the first that was free then */
    /* [next, end) is the reserve; what lies between first_cluster and next is taken. */
    uint64_t next_cluster;       /* guarded by alloc_lock */
    uint64_t end_cluster;        /* guarded by alloc_lock */
    uint64_t next_reserve_bytes; /* guarded by alloc_lock */
    GArray *returned;            /* guarded by alloc_lock: QimgClusters: zeros again */
} Qed;

/* ---- map.c: reading ---- */

/* QimgDriver.map. */
QimgErrno qed_map(QimgFormat *format, const QimgView *view, QimgGuestOffset guest_offset,
                  uint64_t length_bytes, QimgRun *run_out);

/* Whether @host_offset is a place for a cluster, or for a table: aligned, behind the
 * header, and within the file. Spec: qed section 2. Any thread. */
bool qed_is_place_for_cluster(Qed *qed, uint64_t host_offset);
bool qed_is_place_for_table(Qed *qed, uint64_t host_offset);

/* The place of a table's slice that holds entry @index. */
static inline uint64_t
qed_slice_offset(uint64_t table_offset, uint64_t index)
{
    return table_offset + (index & ~(uint64_t)(TABLE_SLICE_WORDS - 1)) * sizeof(uint64_t);
}

static inline uint64_t
qed_l2_index(const Qed *qed, uint64_t guest_offset)
{
    return (guest_offset >> qed->header.cluster_bits) &
           ((UINT64_C(1) << qed->entry_bits) - 1);
}

static inline QimgTablePlace
qed_place_of(const Qed *qed, uint64_t guest_offset, uint64_t length_bytes)
{
    return qimg_table_place(guest_offset, length_bytes, qed->header.cluster_bits,
                            qed->l1_shift, TABLE_SLICE_WORDS);
}

/* ---- walk.c: all tables ---- */

/* What a look at all tables finds. */
typedef struct {
    uint64_t n_clusters;       /* of the file, whole ones */
    uint64_t *used;            /* a bit for each */
    uint64_t used_end_cluster; /* behind the last one in use */
    uint64_t n_invalid;        /* entries that are no places */
    uint64_t n_shared;         /* clusters that are referred to twice */
    uint64_t n_errors;         /* parts of tables that cannot be read */
    uint64_t n_mended;         /* entries that have become 0 */
    QimgRule first_rule;       /* of what was found first; OK: nothing was */
    uint64_t first_host_offset;
} QedWalk;

/* What to do beside looking. */
typedef struct {
    QimgCheckReport *report; /* gets findings and statistics; NULL: nobody does */
    const QimgTask *task;    /* of the caller; may be NULL */
    bool mends;              /* entries that are no places become 0, in the file */
    bool collects;           /* all tables become the layer's metadata */
} QedWalkOptions;

/* Looks at all tables. @out is to be cleared, also after a failure.
 * Threads: nobody changes the tables meanwhile. Errors: -ENOMEM; -EFBIG for files with
 * more clusters than can be counted; -ECANCELED; of writing, where @options->mends. */
QimgErrno qed_walk(Qed *qed, const QedWalkOptions *options, QedWalk *out) QIMG_MUST_CHECK;
void qed_walk_clear(QedWalk *walk);

/* The next clusters side by side behind *@run, and before the last one in use, to which
 * nothing refers; false: there are none. */
bool qed_walk_find_unused(const QedWalk *walk, QimgClusters *run);

/* ---- activate.c: the first change, header fields, the end of writing ---- */

/* Makes the parts that a writable layer has; refuses images that must not be written to.
 * At open; writes nothing. */
bool qed_open_for_writing(Qed *qed, GError **error);

/* QimgDriver.activate. */
QimgErrno qed_activate(QimgFormat *format);

/* Comes before every change: see qimg_format_activate. */
static inline QimgErrno
qed_begin_change(Qed *qed)
{
    return qimg_format_activate(&qed->base, &qed->alloc_lock, &qed->is_active);
}

/* Stores a 64-bit field of the header at @position, durably; @old is what it was. Under
 * alloc_lock or while the gate is closed. */
QimgErrno qed_store_field(Qed *qed, uint64_t position, uint64_t value, uint64_t old)
    QIMG_MUST_CHECK;

/* Sets or clears NEED_CHECK, durably. As qed_store_field. */
QimgErrno qed_set_need_check(Qed *qed, bool need_check) QIMG_MUST_CHECK;

/* Damage was met by a writer: refuses every further change and logs @rule with
 * @host_offset. Returns -EIO. Any thread. */
QimgErrno qed_refuse(Qed *qed, QimgRule rule, uint64_t host_offset);

/* QimgDriver.flush and .end_writing. */
QimgErrno qed_flush(QimgFormat *format);
void qed_end_writing(QimgFormat *format);

/* ---- alloc.c: the reserve; all under alloc_lock ---- */

/* Takes 1 to @n_max contiguous clusters (E1, E2). */
QimgErrno qed_alloc(Qed *qed, uint64_t n_max, QimgClusters *out) QIMG_MUST_CHECK;

/* Takes exactly @n contiguous clusters, as qed_alloc. */
QimgErrno qed_alloc_exactly(Qed *qed, uint64_t n, uint64_t *first_cluster_out)
    QIMG_MUST_CHECK;

/* Gives clusters back to which no entry in the file refers, durably. */
void qed_alloc_undo(Qed *qed, QimgClusters run);

/* Cuts the file at @end_bytes; from then on what lies behind is beyond its end. */
QimgErrno qed_cut_file(Qed *qed, uint64_t end_bytes) QIMG_MUST_CHECK;

/* Cuts the file behind the last cluster that was taken. */
QimgErrno qed_alloc_release_reserve(Qed *qed) QIMG_MUST_CHECK;

/* ---- tables.c: looking up and changing entries ---- */

/* The offset of the L2 table of @l1_index, 0: there is none. */
QimgErrno qed_find_l2_table(Qed *qed, uint64_t l1_index, uint64_t *offset_out)
    QIMG_MUST_CHECK;

/* The same, made where there is none. Threads: any; no lock may be held. */
QimgErrno qed_ensure_l2_table(Qed *qed, uint64_t l1_index, uint64_t *offset_out)
    QIMG_MUST_CHECK;

/* A writer's look at an L2 entry: whether it is 0, 1 or a place that data may be written
 * to; else all changes are refused, and the answer is -EIO. */
QimgErrno qed_check_entry(Qed *qed, uint64_t entry) QIMG_MUST_CHECK;

/* ---- write.c, zero.c, resize.c: see QimgDriver ---- */

QimgErrno qed_plan_write(QimgFormat *format, QimgGuestOffset guest_offset,
                         uint64_t length_bytes, QimgWritePlan *plan_out);
QimgErrno qed_publish(QimgFormat *format, QimgWritePlan *plan);
void qed_abandon(QimgFormat *format, QimgWritePlan *plan);
QimgErrno qed_zero(QimgFormat *format, QimgGuestOffset guest_offset,
                   uint64_t length_bytes, QimgZeroMode mode, bool below_is_zero,
                   uint64_t *done_out);
QimgErrno qed_extend_tables(QimgFormat *format, uint64_t size_bytes);
QimgErrno qed_resize(QimgFormat *format, uint64_t size_bytes);

/* ---- check.c, create.c: see QimgDriver ---- */

bool qed_check(QimgFormat *format, QimgCheckReport *report, GError **error);
bool qed_repair(QimgFormat *format, QimgRepair mode, QimgCheckReport *report,
                GError **error);
bool qed_check_create(const QimgCreateOptions *options, GError **error);
bool qed_create(QimgStorage *file, const QimgCreateOptions *options, GError **error);

/* ---- tables as they are ---- */

/* What an L2 entry says beside a place. Spec: qed section 2. */
#define QED_ENTRY_UNALLOCATED 0u
#define QED_ENTRY_ZERO        1u
