/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rebuilds the refcount table and blocks from the count alone, if the old ones are ruined
 * or too small. Spec: qcow2-write section 13, "Rebuild".
 *
 * The new ones are placed behind the end of the file, where no cluster can be in use; the
 * header is switched to them when all is durable. Until then the image is unchanged;
 * afterwards the refcounts are right, and the old table and blocks are free. An
 * interrupted rebuild is done again. */
#include "format/qcow2/check/rebuild.h"

#include <errno.h>

#include "base/checked.h"
#include "base/endian.h"
#include "codec/qcow2-refcounts.h"
#include "format/qcow2/check/repair-refcounts.h"
#include "format/qcow2/count/count.h"
#include "format/qcow2/count/counts.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/refcount/alloc-state.h"

typedef struct {
    Qcow2Repair *r;
    uint64_t n_table_clusters;
    uint64_t table_offset;
} Rebuild;

/* Begins with a table without blocks, large enough for the maximum number of clusters. */
static QimgErrno
plan_rebuild(Rebuild *b)
{
    Qcow2Repair *r = b->r;
    Qcow2 *q = r->q;
    unsigned bits = q->geometry.cluster_bits;
    uint64_t n_blocks = qimg_div_round_up(r->counts.n_words, r->per_block);
    uint64_t first;

    b->n_table_clusters =
        qimg_div_round_up(n_blocks * sizeof(uint64_t), q->geometry.cluster_bytes);
    if (b->n_table_clusters << bits > QCOW2_MAX_REFCOUNT_TABLE_BYTES ||
        !qcow2_repair_take_run(r, b->n_table_clusters, &first))
        return -EFBIG;
    b->table_offset = first << bits;
    g_free(q->alloc->refcount_table);
    q->alloc->n_refcount_table_entries = 0;
    q->alloc->refcount_table = g_try_malloc0(b->n_table_clusters << bits);
    if (!q->alloc->refcount_table)
        return -ENOMEM;
    q->alloc->n_refcount_table_entries = (b->n_table_clusters << bits) / sizeof(uint64_t);
    r->is_partial = true; /* no free cluster inside the file */
    return qcow2_repair_plan_blocks(r) ? -EFBIG : 0;
}

static QimgErrno
write_table(const Rebuild *b)
{
    Qcow2 *q = b->r->q;
    uint64_t n_bytes = b->n_table_clusters << q->geometry.cluster_bits;
    g_autofree uint64_t *words = g_try_malloc0(n_bytes);

    if (!words)
        return -ENOMEM;
    for (guint i = 0; i < b->r->new_blocks->len; i++) {
        const Qcow2NewBlock *block = &g_array_index(b->r->new_blocks, Qcow2NewBlock, i);

        words[block->index] = block->cluster << q->geometry.cluster_bits;
    }
    qimg_host_to_be64_array(words, n_bytes / sizeof *words);
    return qimg_storage_write(q->base.file, QIMG_IO_REFCOUNT_TABLE,
                              qimg_host(b->table_offset), words, n_bytes);
}

QimgErrno
qcow2_build_refcounts(Qcow2Repair *r, Qcow2RefcountPlace *out)
{
    Rebuild b = {.r = r};
    QimgErrno err = plan_rebuild(&b);

    if (!err)
        err = qcow2_repair_write_blocks(r);
    if (!err)
        err = write_table(&b);
    if (!err)
        err = qimg_storage_sync(r->q->base.file);
    if (!err)
        *out = (Qcow2RefcountPlace){b.table_offset, (uint32_t)b.n_table_clusters};
    return err;
}

static QimgErrno
switch_header(Qcow2 *q, const Qcow2RefcountPlace *place)
{
    struct {
        qimg_be64 offset;
        qimg_be32 n_clusters;
    } field = {qimg_be64_set(place->table_offset),
               qimg_be32_set(place->n_table_clusters)};
    QimgErrno err =
        qcow2_write_header_field(q, QCOW2_HEADER_AT_REFCOUNT_TABLE, &field, sizeof field);

    if (err)
        return err;
    qcow2_header_to_change(q)->refcount_table_offset = place->table_offset;
    qcow2_header_to_change(q)->n_refcount_table_clusters = place->n_table_clusters;
    return 0;
}

QimgErrno
qcow2_rebuild_refcounts(Qcow2Repair *r)
{
    const Qcow2CountOptions options = {
        .is_for_check = true,
        .leaves_out_refcounts = true,
        .task = r->task,
    };
    Qcow2RefcountPlace place;
    QimgErrno err;

    qcow2_counts_clear(&r->counts);
    g_array_set_size(r->new_blocks, 0);
    err = qcow2_count_references(r->q, &options, &r->counts);
    if (!err && r->counts.n_unread > 0)
        err = qcow2_repair_settle(r, true);
    if (!err)
        err = qcow2_build_refcounts(r, &place);
    return err ? err : switch_header(r->q, &place);
}
