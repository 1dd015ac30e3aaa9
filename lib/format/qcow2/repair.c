/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Makes the refcounts and COPIED flags of a dirty image what its references say. Spec:
 * qcow2 section 13, qcow2-write section 13.
 *
 * Only refcounts and flags are changed; what refers to what stays as it is. So each of
 * the values that are written is right by itself, whatever else got to the disk, and a
 * repair that was cut off anywhere is done again: the dirty bit is cleared last. Three
 * things are kept in order all the same:
 *
 * R1  Nothing is written before it is known that everything can be repaired.
 * R2  A new refcount block is durable before the refcount table refers to it.
 * R3  Refcounts that are too low are raised, durably, before others are lowered: somebody
 *     who knows nothing of the dirty bit finds leaks at worst. */
#define G_LOG_DOMAIN "qimg-qcow2"

#include <errno.h>
#include <inttypes.h>

#include "base/checked.h"
#include "base/endian.h"
#include "codec/qcow2-refcounts.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/count.h"

#define READ_BYTES (64 * QIMG_KIB)

/* A refcount block that is missing. */
typedef struct {
    uint64_t index; /* in the refcount table */
    uint64_t cluster;
} NewBlock;

typedef struct {
    Qcow2 *q;
    Qcow2Counts counts;
    uint64_t per_block;
    GArray *new_blocks; /* NewBlock */
    uint8_t *block;     /* a cluster */
    uint64_t n_raised;
    uint64_t n_lowered;
    uint64_t n_flags;
} Repair;

typedef enum {
    PASS_RAISE,
    PASS_LOWER,
} Pass;

/* ---- planning ---- */

/* Whether a cluster that block @index counts has a reference. */
static bool
is_range_used(const Repair *r, uint64_t index)
{
    uint64_t first = index * r->per_block;
    uint64_t end = qimg_min_u64(first + r->per_block, r->counts.n_words);

    for (uint64_t c = first; c < end; c++)
        if (qcow2_counts_get(&r->counts, c) != 0)
            return true;
    return false;
}

/* Where the missing block @index goes: into its own range, so that it needs no other, or,
 * where that is full, behind the file. False where neither can be. */
static bool
find_place(const Repair *r, uint64_t index, uint64_t *cluster_out)
{
    uint64_t first = index * r->per_block;
    uint64_t end = qimg_min_u64(first + r->per_block, r->counts.n_words);

    for (uint64_t c = first; c < end; c++) {
        if (qcow2_counts_get(&r->counts, c) == 0) {
            *cluster_out = c;
            return true;
        }
    }
    for (uint64_t c = r->counts.n_clusters; c < r->counts.n_words; c++) {
        if (qcow2_counts_get(&r->counts, c) == 0) {
            *cluster_out = c;
            return true;
        }
    }
    return false;
}

/* Finds which blocks are missing, and places for them. A place behind the file may need a
 * block that is missing, too: of a higher number, which is looked at later. */
static QimgRule
plan_new_blocks(Repair *r)
{
    for (uint64_t i = 0; i * r->per_block < r->counts.n_words; i++) {
        NewBlock block = {.index = i};

        if (i < r->q->n_refcount_table_entries && r->q->refcount_table[i] != 0)
            continue;
        if (!is_range_used(r, i))
            continue;
        if (i >= r->q->n_refcount_table_entries || !find_place(r, i, &block.cluster))
            return QIMG_RULE_REFTABLE_TOO_SMALL;
        qcow2_counts_take(&r->counts, block.cluster);
        g_array_append_val(r->new_blocks, block);
    }
    return QIMG_RULE_OK;
}

/* Whether all counts fit in the image's refcounts. */
static bool
do_counts_fit(const Repair *r)
{
    uint64_t max = qcow2_refcount_max(r->q->header.refcount_order);

    if (max > UINT32_MAX / 2) /* counts never are that large */
        return true;
    for (uint64_t c = 0; c < r->counts.n_words; c++)
        if (qcow2_counts_get(&r->counts, c) > max)
            return false;
    return true;
}

/* Refuses all changes of the layer from now on; what can be read stays readable. */
static QimgErrno
refuse(Repair *r, QimgRule rule, uint64_t host_offset)
{
    if (!atomic_exchange(&r->q->broken, true))
        g_warning("%s: was not closed properly and cannot be repaired: %s: %s (host "
                  "offset %" PRIu64 "; %" PRIu64
                  " such places); nothing was changed, and "
                  "it is read-only from now on (run qemu-img check -r all)",
                  r->q->base.file->path, qimg_rule_field(rule), qimg_rule_text(rule),
                  host_offset, qimg_max_u64(r->counts.n_problems, 1));
    return -EIO;
}

/* R1: everything that can stand in the way. */
static QimgErrno
plan(Repair *r)
{
    QimgErrno err = qcow2_count_references(r->q, &r->counts);
    QimgRule rule;

    if (err == -EFBIG && !atomic_exchange(&r->q->broken, true))
        g_warning("%s: was not closed properly, and its file is too large for a repair; "
                  "it is read-only from now on (run qemu-img check -r all)",
                  r->q->base.file->path);
    if (err)
        return err;
    if (r->counts.n_problems > 0) {
        const Qcow2Problem *first = &g_array_index(r->counts.problems, Qcow2Problem, 0);

        return refuse(r, first->rule, first->host_offset);
    }
    if (!do_counts_fit(r))
        return refuse(r, QIMG_RULE_REFCOUNT_RANGE, 0);
    rule = plan_new_blocks(r);
    return rule ? refuse(r, rule, r->q->header.refcount_table_offset) : 0;
}

/* ---- refcounts ---- */

/* Makes the entries of the block in memory right, as far as @pass may; whether any was
 * changed. */
static bool
correct_block(Repair *r, uint64_t index, Pass pass)
{
    uint32_t order = r->q->header.refcount_order;
    bool is_changed = false;

    for (uint64_t i = 0; i < r->per_block; i++) {
        uint64_t old = qcow2_refcount_decode(r->block, order, i);
        uint64_t wanted = qcow2_counts_get(&r->counts, index * r->per_block + i);

        if (pass == PASS_RAISE ? wanted <= old : wanted >= old)
            continue;
        qcow2_refcount_encode(r->block, order, i, wanted);
        is_changed = true;
        if (pass == PASS_RAISE)
            r->n_raised++;
        else
            r->n_lowered++;
    }
    return is_changed;
}

static QimgErrno
write_block(Repair *r, uint64_t host_offset)
{
    return qimg_storage_write(r->q->base.file, QIMG_IO_REFCOUNT, qimg_host(host_offset),
                              r->block, r->q->geometry.cluster_bytes);
}

static QimgErrno
correct_blocks(Repair *r, Pass pass)
{
    Qcow2 *q = r->q;

    for (uint64_t i = 0; i < q->n_refcount_table_entries; i++) {
        QimgErrno err;

        if (q->refcount_table[i] == 0)
            continue;
        err = qimg_storage_read(q->base.file, QIMG_IO_REFCOUNT,
                                qimg_host(q->refcount_table[i]), r->block,
                                q->geometry.cluster_bytes);
        if (!err && correct_block(r, i, pass))
            err = write_block(r, q->refcount_table[i]);
        if (err)
            return err;
    }
    return 0;
}

/* Writes the missing blocks, then the table's entries for them (R2). */
static QimgErrno
add_new_blocks(Repair *r)
{
    Qcow2 *q = r->q;
    QimgErrno err = 0;

    if (r->new_blocks->len == 0)
        return 0;
    for (guint i = 0; !err && i < r->new_blocks->len; i++) {
        const NewBlock *block = &g_array_index(r->new_blocks, NewBlock, i);

        memset(r->block, 0, q->geometry.cluster_bytes);
        (void)correct_block(r, block->index, PASS_RAISE);
        err = write_block(r, block->cluster << q->geometry.cluster_bits);
    }
    if (!err)
        err = qimg_storage_sync(q->base.file);
    for (guint i = 0; !err && i < r->new_blocks->len; i++) {
        const NewBlock *block = &g_array_index(r->new_blocks, NewBlock, i);
        uint64_t host_offset = block->cluster << q->geometry.cluster_bits;
        qimg_be64 entry = qimg_be64_set(host_offset);

        err = qimg_storage_write(
            q->base.file, QIMG_IO_REFCOUNT_TABLE,
            qimg_host(q->header.refcount_table_offset + block->index * sizeof entry),
            &entry, sizeof entry);
        if (!err)
            q->refcount_table[block->index] = host_offset;
    }
    return err;
}

/* ---- the whole ---- */

static QimgErrno
repair(Repair *r)
{
    QimgStorage *file = r->q->base.file;
    QimgErrno err = plan(r);

    if (!err)
        err = correct_blocks(r, PASS_RAISE);
    if (!err)
        err = add_new_blocks(r);
    if (!err)
        err = qimg_storage_sync(file); /* R3 */
    if (!err)
        err =
            qcow2_correct_copied_flags(r->q, &r->q->base.active, &r->counts, &r->n_flags);
    if (!err)
        err = correct_blocks(r, PASS_LOWER);
    if (!err)
        err = qimg_storage_sync(file);
    return err ? err : qcow2_set_dirty(r->q, false);
}

QimgErrno
qcow2_repair_dirty(Qcow2 *q)
{
    Repair r = {
        .q = q,
        .per_block =
            qcow2_refcounts_per_block(q->geometry.cluster_bits, q->header.refcount_order),
        .new_blocks = g_array_new(FALSE, FALSE, sizeof(NewBlock)),
        .block = g_try_malloc(q->geometry.cluster_bytes),
    };
    QimgErrno err = r.block ? repair(&r) : -ENOMEM;

    if (!err)
        g_message("%s: was not closed properly and has been repaired: %" PRIu64
                  " refcounts raised, %" PRIu64 " lowered (leaks), %" PRIu64
                  " COPIED flags corrected",
                  q->base.file->path, r.n_raised, r.n_lowered, r.n_flags);
    qcow2_counts_clear(&r.counts);
    g_array_unref(r.new_blocks);
    g_free(r.block);
    return err;
}
