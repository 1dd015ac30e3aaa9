/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The clusters that hold the image's own tables: guest data must not be written there,
 * and the allocator must not find them free. Spec: qcow2-write section 9. */
#include "format/qcow2/tables/overlap.h"

#include <errno.h>

#include "base/checked.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/refcount/alloc-state.h"

/* Adds a structure that must not share a cluster with another. */
static QimgErrno
add_alone(Qcow2 *q, uint64_t host_offset, uint64_t n_bytes)
{
    if (n_bytes == 0)
        return 0;
    if (!qimg_range_fits(host_offset, n_bytes, QCOW2_MAX_HOST_OFFSET) ||
        qimg_format_touches_metadata(&q->base, host_offset, n_bytes))
        return qcow2_mark_corrupt(q, QIMG_RULE_METADATA_OVERLAP, host_offset);
    return qimg_format_metadata_add(&q->base, host_offset, n_bytes);
}

static QimgErrno
add_refcount_blocks(Qcow2 *q)
{
    for (uint64_t i = 0; i < q->alloc->n_refcount_table_entries; i++) {
        QimgErrno err =
            q->alloc->refcount_table[i]
                ? add_alone(q, q->alloc->refcount_table[i], q->geometry.cluster_bytes)
                : 0;

        if (err)
            return err;
    }
    return 0;
}

static QimgErrno
add_l2_table(void *user, uint64_t l1_index, uint64_t entry)
{
    Qcow2 *q = user;
    uint64_t offset = entry & QCOW2_OFFSET_MASK;

    (void)l1_index;
    return offset ? add_alone(q, offset, q->geometry.cluster_bytes) : 0;
}

/* Adds the L2 tables that the active L1 table refers to. */
static QimgErrno
add_l2_tables(Qcow2 *q)
{
    return qimg_format_each_word(&q->base, QIMG_IO_L1, q->base.active.l1_table_offset.v,
                                 q->base.active.n_l1_entries_in_file, add_l2_table, q);
}

static QimgErrno
add_snapshots(Qcow2 *q)
{
    QimgErrno err = add_alone(q, q->header.snapshots_offset, q->snapshot_table_bytes);

    for (unsigned i = 0; !err && i < q->base.snapshots->n; i++) {
        const QimgView *view = &q->base.snapshots->items[i].view;

        if (view->n_l1_entries_in_file < view->n_l1_entries)
            return qcow2_mark_corrupt(q, QIMG_RULE_L1_BEYOND_EOF,
                                      view->l1_table_offset.v);
        err = add_alone(q, view->l1_table_offset.v, (uint64_t)view->n_l1_entries * 8);
    }
    return err;
}

QimgErrno
qcow2_collect_metadata(Qcow2 *q)
{
    const Qcow2Header *h = &q->header;
    QimgErrno err;

    qimg_index_set_free(q->base.metadata); /* of a failed attempt */
    q->base.metadata = qimg_index_set_new();
    err = add_alone(q, 0, q->geometry.cluster_bytes);
    if (!err)
        err = add_alone(q, h->l1_table_offset, (uint64_t)h->n_l1_entries * 8);
    if (!err)
        err =
            add_alone(q, h->refcount_table_offset,
                      (uint64_t)h->n_refcount_table_clusters << q->geometry.cluster_bits);
    if (!err)
        err = add_refcount_blocks(q);
    if (!err)
        err = add_l2_tables(q);
    return err ? err : add_snapshots(q);
}
