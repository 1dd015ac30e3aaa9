/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Makes the refcount table and blocks anew, of what is counted alone, where the old ones
 * are ruined or too small. Spec: qcow2-write section 13, "Rebuild".
 *
 * Everything goes behind the end of the file, where no cluster can be in use, blocks
 * first and the table behind them; the header is switched to it when all is durable.
 * Until then nothing of the image has changed, afterwards the refcounts are right, the
 * old table and blocks being free: a rebuild that was cut off is begun again. */
#include <errno.h>

#include "base/checked.h"
#include "base/endian.h"
#include "codec/qcow2-refcounts.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/check.h"

typedef struct {
    Qcow2Repair *r;
    uint64_t start;    /* the first new cluster */
    uint64_t n_ranges; /* that a block could count */
    uint8_t *is_used;  /* for each range */
    uint64_t n_blocks;
    uint64_t n_table_clusters;
    uint64_t *table; /* n_table_clusters of it, host-endian */
} Rebuild;

static bool
needs_block(const Rebuild *b, uint64_t range, uint64_t n_new)
{
    uint64_t first = range * b->r->per_block;

    return b->is_used[range] ||
           (first < b->start + n_new && b->start < first + b->r->per_block);
}

/* How large everything is: the new clusters have to be counted, too. */
static QimgErrno
plan(Rebuild *b)
{
    uint64_t cluster_bytes = b->r->q->geometry.cluster_bytes;
    uint64_t n_new = 0, n_before;

    do {
        uint64_t n_entries = 0;

        n_before = n_new;
        b->n_blocks = 0;
        for (uint64_t i = 0; i < b->n_ranges; i++) {
            if (needs_block(b, i, n_before)) {
                b->n_blocks++;
                n_entries = i + 1;
            }
        }
        b->n_table_clusters = qimg_max_u64(
            qimg_div_round_up(n_entries * sizeof(uint64_t), cluster_bytes), 1);
        n_new = b->n_blocks + b->n_table_clusters;
        if (b->n_table_clusters * cluster_bytes > QCOW2_MAX_REFCOUNT_TABLE_BYTES ||
            b->start + n_new > b->r->counts.n_words)
            return -EFBIG;
    } while (n_new != n_before);
    for (uint64_t i = 0; i < n_new; i++)
        qcow2_counts_take(&b->r->counts, b->start + i);
    return 0;
}

static QimgErrno
write_blocks(Rebuild *b)
{
    Qcow2 *q = b->r->q;
    uint64_t n_new = b->n_blocks + b->n_table_clusters;
    uint64_t cluster = b->start;
    QimgErrno err = 0;

    for (uint64_t i = 0; !err && i < b->n_ranges; i++) {
        if (!needs_block(b, i, n_new))
            continue;
        b->table[i] = cluster << q->geometry.cluster_bits;
        memset(b->r->block, 0, q->geometry.cluster_bytes);
        qcow2_repair_fill_block(b->r, i);
        err = qimg_storage_write(q->base.file, QIMG_IO_REFCOUNT, qimg_host(b->table[i]),
                                 b->r->block, q->geometry.cluster_bytes);
        cluster++;
    }
    return err;
}

static QimgErrno
write_table(const Rebuild *b)
{
    Qcow2 *q = b->r->q;
    uint64_t n_bytes = b->n_table_clusters << q->geometry.cluster_bits;
    g_autofree uint64_t *words = g_try_malloc(n_bytes);

    if (!words)
        return -ENOMEM;
    memcpy(words, b->table, n_bytes);
    qimg_host_to_be64_array(words, n_bytes / sizeof *words);
    return qimg_storage_write(
        q->base.file, QIMG_IO_REFCOUNT_TABLE,
        qimg_host((b->start + b->n_blocks) << q->geometry.cluster_bits), words, n_bytes);
}

static QimgErrno
switch_header(Rebuild *b)
{
    Qcow2 *q = b->r->q;
    uint64_t offset = (b->start + b->n_blocks) << q->geometry.cluster_bits;
    struct {
        qimg_be64 offset;
        qimg_be32 n_clusters;
    } field = {qimg_be64_set(offset), qimg_be32_set((uint32_t)b->n_table_clusters)};
    QimgErrno err =
        qcow2_write_header_field(q, QCOW2_HEADER_AT_REFCOUNT_TABLE, &field, sizeof field);

    if (err)
        return err;
    q->header.refcount_table_offset = offset;
    q->header.n_refcount_table_clusters = (uint32_t)b->n_table_clusters;
    return 0;
}

static QimgErrno
rebuild(Rebuild *b)
{
    QimgStorage *file = b->r->q->base.file;
    QimgErrno err;

    for (uint64_t i = 0; i < b->n_ranges; i++)
        b->is_used[i] = qcow2_repair_is_range_used(b->r, i);
    err = plan(b);
    if (err)
        return err;
    b->table = g_try_malloc0(b->n_table_clusters << b->r->q->geometry.cluster_bits);
    if (!b->table)
        return -ENOMEM;
    err = write_blocks(b);
    if (!err)
        err = write_table(b);
    if (!err)
        err = qimg_storage_sync(file);
    return err ? err : switch_header(b);
}

QimgErrno
qcow2_rebuild_refcounts(Qcow2Repair *r)
{
    const Qcow2CountOptions options = {
        .is_for_check = true,
        .leaves_out_refcounts = true,
        .report = r->report,
    };
    Rebuild b = {.r = r};
    QimgErrno err;

    qcow2_counts_clear(&r->counts);
    err = qcow2_count_references(r->q, &options, &r->counts);
    if (err)
        return err;
    r->is_partial = r->counts.n_unread > 0;
    if (r->is_partial)
        err = qcow2_repair_settle(r, true);
    if (err)
        return err;
    b.start = r->counts.n_clusters;
    b.n_ranges = qimg_div_round_up(r->counts.n_words, r->per_block);
    b.is_used = g_try_malloc(b.n_ranges);
    err = b.is_used ? rebuild(&b) : -ENOMEM;
    g_free(b.is_used);
    g_free(b.table);
    return err;
}
