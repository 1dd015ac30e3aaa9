/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The refcount table, which is kept in memory, and the blocks, which are read and changed
 * in the file in small pieces: many allocations need them only once. Spec: qcow2 section
 * 7, qcow2-write section 4. */
#include "format/qcow2/refcount/refcount.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "codec/qcow2-refcounts.h"
#include "codec/qcow2-tables.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/refcount/alloc-state.h"
#include "format/qcow2/refcount/pending.h"

#define REFTABLE_RESERVED_BITS UINT64_C(0x1ff)
#define PIECE_BYTES            4096u

/* A piece of a block, as on disk. */
typedef struct {
    uint64_t host_offset;
    uint64_t first_cluster; /* that it counts */
    uint64_t n_clusters;
    size_t n_bytes;
    uint8_t bytes[PIECE_BYTES];
} Piece;

static uint64_t
clusters_per_block(const Qcow2 *q)
{
    return qcow2_refcounts_per_block(q->geometry.cluster_bits, q->header.refcount_order);
}

bool
qcow2_refcount_is_entry_sound(Qcow2 *q, uint64_t entry)
{
    return !(entry & REFTABLE_RESERVED_BITS) &&
           qimg_is_aligned(entry, q->geometry.cluster_bytes) &&
           !(entry && qimg_format_is_beyond_end(&q->base, entry));
}

QimgErrno
qcow2_refcount_read_table(Qcow2 *q)
{
    uint64_t n_bytes = (uint64_t)q->header.n_refcount_table_clusters
                       << q->geometry.cluster_bits;
    g_autofree uint64_t *table = g_try_malloc(n_bytes);
    QimgErrno err;

    if (!table)
        return -ENOMEM;
    err = qimg_storage_read(q->base.file, QIMG_IO_REFCOUNT_TABLE,
                            qimg_host(q->header.refcount_table_offset), table, n_bytes);
    if (err)
        return err;
    qimg_be64_array_to_host(table, n_bytes / sizeof *table);
    g_free(q->alloc->refcount_table);
    q->alloc->refcount_table = g_steal_pointer(&table);
    q->alloc->n_refcount_table_entries = n_bytes / sizeof *table;
    return 0;
}

QimgErrno
qcow2_refcount_load_table(Qcow2 *q)
{
    QimgErrno err = qcow2_refcount_read_table(q);

    for (uint64_t i = 0; !err && i < q->alloc->n_refcount_table_entries; i++)
        if (!qcow2_refcount_is_entry_sound(q, q->alloc->refcount_table[i]))
            err = qcow2_mark_corrupt(q, QIMG_RULE_REFTABLE_ENTRY,
                                     q->alloc->refcount_table[i]);
    return err;
}

/* Reads the piece that counts @cluster, whose block exists. */
static QimgErrno
load_piece(Qcow2 *q, uint64_t cluster, Piece *piece)
{
    uint64_t per_block = clusters_per_block(q);
    uint64_t block_offset = q->alloc->refcount_table[cluster / per_block];
    uint64_t per_piece;

    piece->n_bytes = qimg_min_u64(PIECE_BYTES, q->geometry.cluster_bytes);
    per_piece = per_block / (q->geometry.cluster_bytes / piece->n_bytes);
    piece->first_cluster = cluster - cluster % per_piece;
    piece->n_clusters = per_piece;
    piece->host_offset =
        block_offset + piece->first_cluster % per_block / per_piece * piece->n_bytes;
    return qimg_storage_read(q->base.file, QIMG_IO_REFCOUNT,
                             qimg_host(piece->host_offset), piece->bytes, piece->n_bytes);
}

static bool
has_block(const Qcow2 *q, uint64_t cluster)
{
    uint64_t index = cluster / clusters_per_block(q);

    return index < q->alloc->n_refcount_table_entries &&
           q->alloc->refcount_table[index] != 0;
}

static uint64_t
get_in_piece(const Qcow2 *q, const Piece *piece, uint64_t cluster)
{
    return qcow2_refcount_decode(piece->bytes, q->header.refcount_order,
                                 cluster - piece->first_cluster);
}

QimgErrno
qcow2_refcount_get(Qcow2 *q, uint64_t cluster, uint64_t *refcount_out)
{
    Piece piece;
    QimgErrno err = 0;

    *refcount_out = 0;
    if (!has_block(q, cluster))
        return 0;
    err = load_piece(q, cluster, &piece);
    if (!err)
        *refcount_out = get_in_piece(q, &piece, cluster);
    return err;
}

QimgErrno
qcow2_refcount_add_some(Qcow2 *q, QimgClusters run, int delta, GArray *freed,
                        uint64_t *n_done_out)
{
    uint64_t max = qcow2_refcount_max(q->header.refcount_order);
    uint64_t end;
    Piece piece, old;
    QimgErrno err;

    if (!has_block(q, run.first_cluster))
        return -ERANGE;
    err = load_piece(q, run.first_cluster, &piece);
    if (err)
        return err;
    old = piece;
    end = qimg_min_u64(run.first_cluster + run.n_clusters,
                       piece.first_cluster + piece.n_clusters);
    for (uint64_t c = run.first_cluster; c < end; c++) {
        uint64_t refcount = get_in_piece(q, &piece, c);

        if (delta < 0 ? refcount == 0 : refcount == max)
            return -ERANGE;
        qcow2_refcount_encode(piece.bytes, q->header.refcount_order,
                              c - piece.first_cluster,
                              refcount + (uint64_t)(int64_t)delta);
    }
    err = qimg_format_write_or_undo(&q->base, QIMG_IO_REFCOUNT, piece.host_offset,
                                    piece.bytes, old.bytes, piece.n_bytes);
    if (err)
        return err;
    for (uint64_t c = run.first_cluster; freed && c < end; c++)
        if (get_in_piece(q, &piece, c) == 0)
            qimg_clusters_append(freed, (QimgClusters){c, 1});
    *n_done_out = end - run.first_cluster;
    return 0;
}

QimgErrno
qcow2_refcount_add(Qcow2 *q, QimgClusters run, int delta)
{
    uint64_t done = 0;

    while (done < run.n_clusters) {
        QimgClusters rest = {run.first_cluster + done, run.n_clusters - done};
        uint64_t n = 0;
        QimgErrno err = qcow2_refcount_add_some(q, rest, delta, NULL, &n);

        if (err) {
            /* A change that cannot be undone is a leak at worst: nothing refers to
             * clusters that are being counted or returned unused. */
            if (done > 0)
                (void)!qcow2_refcount_add(q, (QimgClusters){run.first_cluster, done},
                                          -delta);
            return err;
        }
        done += n;
    }
    return 0;
}

QimgErrno
qcow2_refcount_find_last(Qcow2 *q, uint64_t end_cluster, uint64_t *cluster_out)
{
    uint64_t per_block = clusters_per_block(q);
    /* No block counts more than the table has entries for. */
    uint64_t c =
        qimg_min_u64(end_cluster, q->alloc->n_refcount_table_entries * per_block);

    *cluster_out = 0;
    while (c > 0) {
        Piece piece;
        QimgErrno err;

        if (!has_block(q, c - 1)) {
            c = (c - 1) / per_block * per_block;
            continue;
        }
        err = load_piece(q, c - 1, &piece);
        if (err)
            return err;
        for (; c > piece.first_cluster; c--) {
            if (get_in_piece(q, &piece, c - 1) != 0) {
                *cluster_out = c - 1;
                return 0;
            }
        }
    }
    return 0;
}

/* ---- making blocks --------------------------------------------------------------------
 */

/* Writes a block at @block_cluster that counts 1 for its first @n_used clusters. */
static QimgErrno
write_new_block(Qcow2 *q, uint64_t block_cluster, uint64_t n_used)
{
    g_autofree uint8_t *bytes = g_try_malloc0(q->geometry.cluster_bytes);

    if (!bytes)
        return -ENOMEM;
    for (uint64_t i = 0; i < n_used; i++)
        qcow2_refcount_encode(bytes, q->header.refcount_order, i, 1);
    return qimg_storage_write(q->base.file, QIMG_IO_REFCOUNT,
                              qimg_host(block_cluster << q->geometry.cluster_bits), bytes,
                              q->geometry.cluster_bytes);
}

/* Creates the missing block number @index in the first cluster that it counts. */
static QimgErrno
make_block(Qcow2 *q, uint64_t index)
{
    uint64_t cluster = index * clusters_per_block(q);
    uint64_t offset = cluster << q->geometry.cluster_bits;
    uint64_t entry = offset;
    const uint64_t no_entry = 0;
    QimgErrno err;

    /* Without a block all its clusters count 0, so nothing may lie there. */
    if (cluster == 0 ||
        qimg_format_touches_metadata(&q->base, offset, q->geometry.cluster_bytes))
        return qcow2_mark_corrupt(q, QIMG_RULE_REFCOUNT_TOO_LOW, offset);
    err = write_new_block(q, cluster, 1);
    if (!err)
        err = qimg_storage_sync(q->base.file); /* before the entry: O7 of the spec */
    if (!err)
        err = qimg_format_metadata_add(&q->base, offset, q->geometry.cluster_bytes);
    if (err)
        return err;
    qimg_host_to_be64_array(&entry, 1);
    err = qimg_format_write_or_undo(&q->base, QIMG_IO_REFCOUNT_TABLE,
                                    q->header.refcount_table_offset + index * 8, &entry,
                                    &no_entry, sizeof entry);
    if (err) {
        qimg_format_metadata_remove(&q->base, offset, q->geometry.cluster_bytes);
        return err;
    }
    q->alloc->refcount_table[index] = offset;
    return 0;
}

/* The size of a larger table, and the number of new blocks that count them and itself. */
static QimgErrno
plan_larger_table(const Qcow2 *q, uint64_t *n_table_clusters_out, uint64_t *n_blocks_out)
{
    uint64_t n_old = q->alloc->n_refcount_table_entries;
    uint64_t n_blocks = 1, n_table_clusters = 0, n_before;

    do {
        uint64_t n_entries = qimg_max_u64(n_old + n_old / 2, n_old + n_blocks);

        n_before = n_blocks;
        n_table_clusters = qimg_div_round_up(n_entries * 8, q->geometry.cluster_bytes);
        if (n_table_clusters << q->geometry.cluster_bits > QCOW2_MAX_REFCOUNT_TABLE_BYTES)
            return -EFBIG;
        n_blocks = qimg_div_round_up(n_before + n_table_clusters, clusters_per_block(q));
        n_blocks = qimg_max_u64(n_blocks, n_before);
    } while (n_blocks != n_before);
    *n_table_clusters_out = n_table_clusters;
    *n_blocks_out = n_blocks;
    return 0;
}

/* Writes the new blocks at @start, then the table behind them; syncs each. */
static QimgErrno
write_larger_table(Qcow2 *q, uint64_t start, uint64_t n_blocks, const uint64_t *table,
                   uint64_t n_entries)
{
    uint64_t n_table_clusters = n_entries * 8 >> q->geometry.cluster_bits;
    uint64_t n_left = n_blocks + n_table_clusters;
    g_autofree uint64_t *disk_table = g_try_malloc(n_entries * 8);
    QimgErrno err = disk_table ? 0 : -ENOMEM;

    for (uint64_t i = 0; !err && i < n_blocks; i++) {
        uint64_t n_used = qimg_min_u64(n_left, clusters_per_block(q));

        err = write_new_block(q, start + i, n_used);
        n_left -= n_used;
    }
    if (!err)
        err = qimg_storage_sync(q->base.file);
    if (err)
        return err;
    memcpy(disk_table, table, n_entries * 8);
    qimg_host_to_be64_array(disk_table, n_entries);
    err = qimg_storage_write(q->base.file, QIMG_IO_REFCOUNT_TABLE,
                             qimg_host((start + n_blocks) << q->geometry.cluster_bits),
                             disk_table, n_entries * 8);
    return err ? err : qimg_storage_sync(q->base.file);
}

/* Makes the header refer to the larger table. */
static QimgErrno
switch_table(Qcow2 *q, uint64_t table_offset, uint64_t n_table_clusters)
{
    struct {
        qimg_be64 offset;
        qimg_be32 n_clusters;
    } field = {qimg_be64_set(table_offset), qimg_be32_set((uint32_t)n_table_clusters)};
    QimgErrno err =
        qcow2_write_header_field(q, QCOW2_HEADER_AT_REFCOUNT_TABLE, &field, sizeof field);

    if (err)
        return err;
    qcow2_header_to_change(q)->refcount_table_offset = table_offset;
    qcow2_header_to_change(q)->n_refcount_table_clusters = (uint32_t)n_table_clusters;
    return 0;
}

/* Moves the table to a larger place behind all clusters that the old one could count,
 * together with the blocks that count this place. Spec: qcow2-write section 4. */
static QimgErrno
grow_table(Qcow2 *q)
{
    unsigned bits = q->geometry.cluster_bits;
    uint64_t n_old = q->alloc->n_refcount_table_entries;
    uint64_t start = n_old * clusters_per_block(q);
    QimgClusters old_place = {q->header.refcount_table_offset >> bits,
                              q->header.n_refcount_table_clusters};
    uint64_t n_table_clusters, n_blocks, n_entries;
    g_autofree uint64_t *table = NULL;
    QimgErrno err = plan_larger_table(q, &n_table_clusters, &n_blocks);

    if (err)
        return err;
    n_entries = n_table_clusters << bits >> 3;
    if (start + n_blocks + n_table_clusters > QCOW2_MAX_HOST_OFFSET >> bits)
        return -EFBIG;
    if (qimg_format_touches_metadata(&q->base, start << bits,
                                     (n_blocks + n_table_clusters) << bits))
        return qcow2_mark_corrupt(q, QIMG_RULE_REFCOUNT_TOO_LOW, start << bits);
    table = g_try_malloc0(n_entries * 8);
    if (!table)
        return -ENOMEM;
    memcpy(table, q->alloc->refcount_table, n_old * 8);
    for (uint64_t i = 0; i < n_blocks; i++)
        table[n_old + i] = (start + i) << bits;
    err = write_larger_table(q, start, n_blocks, table, n_entries);
    if (!err)
        err = qimg_format_metadata_add(&q->base, start << bits,
                                       (n_blocks + n_table_clusters) << bits);
    if (!err)
        err = switch_table(q, (start + n_blocks) << bits, n_table_clusters);
    if (err) {
        qimg_format_metadata_remove(&q->base, start << bits,
                                    (n_blocks + n_table_clusters) << bits);
        return err;
    }
    g_free(q->alloc->refcount_table);
    q->alloc->refcount_table = g_steal_pointer(&table);
    q->alloc->n_refcount_table_entries = n_entries;
    qcow2_free_later(q, old_place);
    return 0;
}

/* The first block from which on all are missing, and how many count themselves and @n
 * clusters behind them; the table has room for them. */
static QimgErrno
plan_room(Qcow2 *q, uint64_t n, uint64_t *first_block_out, uint64_t *n_blocks_out)
{
    uint64_t per_block = clusters_per_block(q);
    uint64_t n_blocks = 1;

    while (n_blocks * per_block < n_blocks + n)
        n_blocks = qimg_div_round_up(n_blocks + n, per_block);
    for (;;) {
        uint64_t first = q->alloc->n_refcount_table_entries;
        QimgErrno err;

        while (first > 0 && q->alloc->refcount_table[first - 1] == 0)
            first--;
        if (n_blocks <= q->alloc->n_refcount_table_entries - first) {
            *first_block_out = first;
            *n_blocks_out = n_blocks;
            return 0;
        }
        err = grow_table(q);
        if (err)
            return err;
    }
}

QimgErrno
qcow2_refcount_make_room(Qcow2 *q, uint64_t n, uint64_t *first_cluster_out)
{
    unsigned bits = q->geometry.cluster_bits;
    uint64_t first_block, n_blocks, start;
    g_autofree uint64_t *entries = NULL;
    g_autofree uint64_t *no_entries = NULL;
    QimgErrno err = plan_room(q, n, &first_block, &n_blocks);

    if (err)
        return err;
    start = first_block * clusters_per_block(q);
    if (start + n_blocks + n > QCOW2_MAX_HOST_OFFSET >> bits)
        return -EFBIG;
    if (start == 0 ||
        qimg_format_touches_metadata(&q->base, start << bits, (n_blocks + n) << bits))
        return qcow2_mark_corrupt(q, QIMG_RULE_REFCOUNT_TOO_LOW, start << bits);
    entries = g_try_malloc(n_blocks * 8);
    no_entries = g_try_malloc0(n_blocks * 8);
    if (!entries || !no_entries)
        return -ENOMEM;
    for (uint64_t i = 0; !err && i < n_blocks; i++) {
        uint64_t first_counted = i * clusters_per_block(q);

        entries[i] = (start + i) << bits;
        err = write_new_block(
            q, start + i,
            first_counted < n_blocks
                ? qimg_min_u64(n_blocks - first_counted, clusters_per_block(q))
                : 0);
    }
    if (!err)
        err = qimg_storage_sync(q->base.file);
    if (!err)
        err = qimg_format_metadata_add(&q->base, start << bits, n_blocks << bits);
    if (err)
        return err;
    memcpy(q->alloc->refcount_table + first_block, entries, n_blocks * 8);
    qimg_host_to_be64_array(entries, n_blocks);
    err = qimg_format_write_or_undo(&q->base, QIMG_IO_REFCOUNT_TABLE,
                                    q->header.refcount_table_offset + first_block * 8,
                                    entries, no_entries, n_blocks * 8);
    if (err) {
        memset(q->alloc->refcount_table + first_block, 0, n_blocks * 8);
        qimg_format_metadata_remove(&q->base, start << bits, n_blocks << bits);
        return err;
    }
    *first_cluster_out = start + n_blocks;
    return 0;
}

/* The first free clusters of the piece from @cluster on; none: n_clusters is 0. */
static QimgErrno
find_free_in_piece(Qcow2 *q, uint64_t cluster, uint64_t n_max, QimgClusters *found_out,
                   uint64_t *piece_end_out)
{
    uint64_t n = 0;
    Piece piece;
    QimgErrno err = load_piece(q, cluster, &piece);

    if (err)
        return err;
    *piece_end_out = piece.first_cluster + piece.n_clusters;
    while (cluster < *piece_end_out && get_in_piece(q, &piece, cluster) != 0)
        cluster++;
    while (n < n_max && cluster + n < *piece_end_out &&
           get_in_piece(q, &piece, cluster + n) == 0)
        n++;
    *found_out = (QimgClusters){cluster, n};
    return 0;
}

QimgErrno
qcow2_refcount_find_free(Qcow2 *q, uint64_t from, uint64_t n_max, QimgClusters *found_out)
{
    uint64_t cluster = from;
    QimgClusters found = {0};

    while (found.n_clusters < n_max) {
        QimgClusters more;
        uint64_t piece_end;
        QimgErrno err = 0;

        if (cluster >= QCOW2_MAX_HOST_OFFSET >> q->geometry.cluster_bits)
            return -EFBIG;
        if (cluster / clusters_per_block(q) >= q->alloc->n_refcount_table_entries)
            err = found.n_clusters ? 0 : grow_table(q);
        else if (!has_block(q, cluster))
            err = found.n_clusters ? 0 : make_block(q, cluster / clusters_per_block(q));
        if (err)
            return err;
        if (!has_block(q, cluster)) { /* the found run ends at the block's end */
            if (found.n_clusters > 0)
                break;
            continue; /* a larger table may lack the block, too */
        }
        err = find_free_in_piece(q, cluster, n_max - found.n_clusters, &more, &piece_end);
        if (err)
            return err;
        if (found.n_clusters == 0)
            found = more;
        else if (more.n_clusters > 0 &&
                 more.first_cluster == found.first_cluster + found.n_clusters)
            found.n_clusters += more.n_clusters;
        else
            break;
        if (found.n_clusters > 0 && found.first_cluster + found.n_clusters < piece_end)
            break;
        cluster = piece_end;
    }
    *found_out = found;
    return 0;
}
