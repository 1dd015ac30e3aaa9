/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Counts the references to each cluster of the image file. Spec: qcow2 section 7,
 * qcow2-write section 13.
 *
 * A cluster's refcount is the number of paths to it. First all that lies outside the L2
 * tables is counted; then each L2 table has as many references as there are L1 entries
 * with it, and what it refers to gets so many from each of its entries. So each table is
 * read once, in the order of the file, whatever the number of snapshots is.
 *
 * I1  A table that lies beyond the end of the file, or in a cluster of another, is a
 *     problem and is not walked: the work is bounded by the file's length. */
#include "format/qcow2/count.h"

#include <errno.h>

#include "base/checked.h"
#include "base/endian.h"
#include "codec/qcow2-bitmaps.h"
#include "codec/qcow2-refcounts.h"
#include "codec/qcow2-tables.h"

#define READ_BYTES      (64 * QIMG_KIB)
#define USE_SHIFT       30
#define N_EXTRA_MINIMUM 8u

typedef struct {
    Qcow2 *q;
    Qcow2Counts *counts;
    uint64_t end_bytes; /* of the file, rounded up to a sector */
    uint64_t *buffer;   /* READ_BYTES, for words of tables */
} Walk;

static void
add_problem(Walk *w, QimgRule rule, uint64_t host_offset)
{
    Qcow2Problem problem = {rule, host_offset};

    if (w->counts->n_problems++ < QCOW2_MAX_LISTED_PROBLEMS)
        g_array_append_val(w->counts->problems, problem);
}

/* Counts @weight references to each cluster that [@host_offset, + @n_bytes) touches.
 * False, with a problem noted, where that cannot be: @beyond_rule is for what lies beyond
 * the end of the file. */
static bool
count_range(Walk *w, uint64_t host_offset, uint64_t n_bytes, Qcow2Use use,
            uint32_t weight, QimgRule beyond_rule)
{
    const Qcow2Geometry *g = &w->q->geometry;
    bool is_sound = true;
    uint64_t end, first, n;

    if (n_bytes == 0)
        return true;
    if (!qimg_add_u64(host_offset, n_bytes, &end) ||
        qimg_div_round_up(end, g->cluster_bytes) > w->counts->n_clusters) {
        add_problem(w, beyond_rule, host_offset);
        return false;
    }
    first = host_offset >> g->cluster_bits;
    n = qimg_div_round_up(end, g->cluster_bytes) - first;
    for (uint64_t c = first; c < first + n; c++) {
        uint32_t word = w->counts->words[c];
        uint32_t old_use = word >> USE_SHIFT;
        uint32_t count = word & QCOW2_MAX_COUNT;

        if (old_use != QCOW2_USE_NONE &&
            (old_use != (uint32_t)use || use == QCOW2_USE_ALONE)) {
            add_problem(w, QIMG_RULE_METADATA_OVERLAP, c << g->cluster_bits);
            is_sound = false;
        } else if (weight > QCOW2_MAX_COUNT - count) {
            add_problem(w, QIMG_RULE_REFCOUNT_RANGE, c << g->cluster_bits);
            is_sound = false;
        } else {
            w->counts->words[c] = (uint32_t)use << USE_SHIFT | (count + weight);
        }
    }
    return is_sound;
}

/* Counts a table, at a cluster's start, that nothing else may share. */
static bool
count_alone(Walk *w, uint64_t host_offset, uint64_t n_bytes)
{
    return count_range(w, host_offset, n_bytes, QCOW2_USE_ALONE, 1,
                       QIMG_RULE_TABLE_BEYOND_EOF);
}

/* Reads @n_words of a table, at most READ_BYTES, into the buffer. */
static QimgErrno
read_words(Walk *w, QimgIoPurpose purpose, uint64_t host_offset, uint64_t n_words)
{
    QimgErrno err = qimg_storage_read(w->q->base.file, purpose, qimg_host(host_offset),
                                      w->buffer, n_words * sizeof(uint64_t));

    if (!err)
        qimg_be64_array_to_host(w->buffer, n_words);
    return err;
}

/* ---- L1 and L2 tables ---- */

static void
count_l1_entry(Walk *w, uint64_t entry, uint64_t entry_offset)
{
    const Qcow2Geometry *g = &w->q->geometry;
    uint64_t l2_table_offset = entry & QCOW2_OFFSET_MASK;

    if (entry & QCOW2_L1_RESERVED)
        add_problem(w, QIMG_RULE_L1_RESERVED, entry_offset);
    if (l2_table_offset == 0)
        return;
    if (!qimg_is_aligned(l2_table_offset, g->cluster_bytes))
        add_problem(w, QIMG_RULE_L2_UNALIGNED, entry_offset);
    else if (!qimg_range_fits(l2_table_offset, g->cluster_bytes, w->end_bytes))
        add_problem(w, QIMG_RULE_L2_BEYOND_EOF, entry_offset);
    else
        (void)count_range(w, l2_table_offset, g->cluster_bytes, QCOW2_USE_L2, 1,
                          QIMG_RULE_L2_BEYOND_EOF);
}

/* Counts an L1 table and its references to L2 tables. */
static QimgErrno
count_l1_table(Walk *w, const QimgView *view)
{
    uint64_t l1_offset = view->l1_table_offset.v;
    uint64_t n;

    if (!qimg_range_fits(l1_offset, (uint64_t)view->n_l1_entries * 8, w->end_bytes)) {
        add_problem(w, QIMG_RULE_L1_BEYOND_EOF, l1_offset);
        return 0;
    }
    if (!count_alone(w, l1_offset, (uint64_t)view->n_l1_entries * 8))
        return 0;
    for (uint64_t i = 0; i < view->n_l1_entries; i += n) {
        QimgErrno err;

        n = qimg_min_u64(view->n_l1_entries - i, READ_BYTES / 8);
        err = read_words(w, QIMG_IO_L1, l1_offset + i * 8, n);
        if (err)
            return err;
        for (uint64_t j = 0; j < n; j++)
            if (w->buffer[j] != 0)
                count_l1_entry(w, w->buffer[j], l1_offset + (i + j) * 8);
    }
    return 0;
}

static QimgRule
check_l1_table(const Qcow2 *q, const QimgView *view)
{
    return qcow2_check_table(view->l1_table_offset.v, view->n_l1_entries, 8,
                             q->geometry.cluster_bytes, QCOW2_MAX_L1_BYTES,
                             QIMG_RULE_SNAPSHOT_L1_SIZE, QIMG_RULE_SNAPSHOT_L1_OFFSET);
}

static QimgErrno
count_snapshots(Walk *w)
{
    Qcow2 *q = w->q;

    if (q->base.snapshots->n < q->header.n_snapshots)
        add_problem(w, QIMG_RULE_SNAPSHOT_ENTRY, q->header.snapshots_offset);
    (void)count_alone(w, q->header.snapshots_offset, q->snapshot_table_bytes);
    for (unsigned i = 0; i < q->base.snapshots->n; i++) {
        const QimgView *view = &q->base.snapshots->items[i].view;
        QimgRule rule = check_l1_table(q, view);
        QimgErrno err = rule ? 0 : count_l1_table(w, view);

        if (rule)
            add_problem(w, rule, view->l1_table_offset.v);
        if (err)
            return err;
    }
    return 0;
}

/* Counts what an entry at @entry_offset refers to, of a table with @weight references. */
static void
count_l2_entry(Walk *w, uint64_t word, uint64_t bitmap, uint32_t weight,
               uint64_t entry_offset)
{
    const Qcow2Geometry *g = &w->q->geometry;
    uint64_t host_offset = word & QCOW2_OFFSET_MASK;
    /* Which guest cluster it is for matters with a data file only, to whoever maps. */
    QimgRule rule = qcow2_l2_check_for_change(g, word, bitmap, host_offset);

    if (rule) {
        add_problem(w, rule, entry_offset);
    } else if (word & QCOW2_L2_COMPRESSED) {
        Qcow2L2Entry e = qcow2_l2_decode_compressed(g, word);

        (void)count_range(w, e.host_offset, e.stream_bytes, QCOW2_USE_DATA, weight,
                          QIMG_RULE_DATA_BEYOND_EOF);
    } else if (host_offset != 0 && !g->has_data_file) {
        (void)count_range(w, host_offset, g->cluster_bytes, QCOW2_USE_DATA, weight,
                          QIMG_RULE_DATA_BEYOND_EOF);
    }
}

static QimgErrno
count_l2_table(Walk *w, uint64_t l2_table_offset, uint32_t weight)
{
    const Qcow2Geometry *g = &w->q->geometry;
    uint64_t n_bytes = qimg_min_u64(g->cluster_bytes, READ_BYTES);

    for (uint64_t done = 0; done < g->cluster_bytes; done += n_bytes) {
        uint64_t at = l2_table_offset + done;
        QimgErrno err = read_words(w, QIMG_IO_L2, at, n_bytes / 8);

        if (err)
            return err;
        for (uint64_t i = 0; i < n_bytes / 8; i += g->l2_entry_words) {
            uint64_t word = w->buffer[i];
            uint64_t bitmap = g->extended_l2 ? w->buffer[i + 1] : 0;

            if (word != 0 || bitmap != 0)
                count_l2_entry(w, word, bitmap, weight, at + i * 8);
        }
    }
    return 0;
}

/* Once all L1 tables are counted: each L2 table once. */
static QimgErrno
count_l2_tables(Walk *w)
{
    Qcow2Counts *counts = w->counts;

    for (uint64_t c = 0; c < counts->n_clusters; c++) {
        QimgErrno err;

        if (qcow2_counts_get_use(counts, c) != QCOW2_USE_L2)
            continue;
        err = count_l2_table(w, c << w->q->geometry.cluster_bits,
                             counts->words[c] & QCOW2_MAX_COUNT);
        if (err)
            return err;
    }
    return 0;
}

/* ---- bitmaps, encryption ---- */

static QimgErrno
count_bitmap_table(Walk *w, const Qcow2BitmapEntry *bitmap)
{
    const Qcow2Geometry *g = &w->q->geometry;
    uint64_t n;

    if (!count_alone(w, bitmap->table_offset, (uint64_t)bitmap->n_table_entries * 8))
        return 0;
    for (uint64_t i = 0; i < bitmap->n_table_entries; i += n) {
        QimgErrno err;

        n = qimg_min_u64(bitmap->n_table_entries - i, READ_BYTES / 8);
        err = read_words(w, QIMG_IO_BITMAP, bitmap->table_offset + i * 8, n);
        if (err)
            return err;
        for (uint64_t j = 0; j < n; j++) {
            uint64_t host_offset = 0;

            if (qcow2_bitmap_table_entry_decode(w->buffer[j], g->cluster_bytes,
                                                &host_offset)
                    .rule)
                add_problem(w, QIMG_RULE_BITMAP_TABLE, bitmap->table_offset);
            else if (host_offset != 0)
                (void)count_alone(w, host_offset, g->cluster_bytes);
        }
    }
    return 0;
}

/* Counts the directory, the tables and the data of all bitmaps. */
static QimgErrno
count_bitmaps(Walk *w, const Qcow2Extension *extension)
{
    uint64_t cluster_bytes = w->q->geometry.cluster_bytes;
    g_autofree uint8_t *directory = NULL;
    Qcow2BitmapsExtension e;
    uint64_t at = 0;
    QimgErrno err;

    if (qcow2_bitmaps_extension_decode(extension->data, extension->data_bytes,
                                       cluster_bytes, &e)
            .rule) {
        add_problem(w, QIMG_RULE_BITMAP_DIRECTORY, 0);
        return 0;
    }
    if (!count_alone(w, e.directory_offset, e.directory_bytes))
        return 0;
    directory = g_try_malloc(e.directory_bytes);
    if (!directory)
        return -ENOMEM;
    err = qimg_storage_read(w->q->base.file, QIMG_IO_BITMAP,
                            qimg_host(e.directory_offset), directory, e.directory_bytes);
    for (uint32_t i = 0; !err && i < e.n_bitmaps; i++) {
        Qcow2BitmapEntry bitmap;

        if (qcow2_bitmap_entry_decode(directory + at, e.directory_bytes - at,
                                      cluster_bytes, &bitmap)
                .rule) {
            add_problem(w, QIMG_RULE_BITMAP_DIRECTORY, e.directory_offset + at);
            return 0;
        }
        at += bitmap.entry_bytes;
        err = count_bitmap_table(w, &bitmap);
    }
    if (!err && at != e.directory_bytes)
        add_problem(w, QIMG_RULE_BITMAP_DIRECTORY, e.directory_offset);
    return err;
}

/* Counts the area of the LUKS header and its key material. Spec: encryption section 3. */
static void
count_encryption_header(Walk *w, const Qcow2Extension *extension)
{
    qimg_be64 fields[2];
    uint64_t host_offset;

    if (extension->data_bytes == sizeof fields) {
        memcpy(fields, extension->data, sizeof fields);
        host_offset = qimg_be64_get(fields[0]);
        if (host_offset != 0 &&
            qimg_is_aligned(host_offset, w->q->geometry.cluster_bytes)) {
            (void)count_alone(w, host_offset, qimg_be64_get(fields[1]));
            return;
        }
    }
    add_problem(w, QIMG_RULE_ENCRYPTION_HEADER, 0);
}

/* Counts what header extensions refer to. Bitmaps that are stale (their autoclear bit is
 * clear) are nobody's: their clusters are leaks. */
static QimgErrno
count_extensions(Walk *w)
{
    const Qcow2Header *h = &w->q->header;
    size_t end = qimg_min_u64(qcow2_header_extensions_end(h), w->end_bytes);
    size_t position = h->header_bytes;
    g_autofree uint8_t *bytes = g_try_malloc(end);
    Qcow2Extension e;
    QimgErrno err;

    if (!bytes)
        return -ENOMEM;
    err = qimg_storage_read(w->q->base.file, QIMG_IO_HEADER, qimg_host(0), bytes, end);
    while (!err) {
        if (qcow2_extension_decode(bytes, end, &position, &e).rule) {
            add_problem(w, QIMG_RULE_EXTENSION_BOUNDS, position);
            return 0;
        }
        if (e.type == QCOW2_EXT_END)
            return 0;
        if (e.type == QCOW2_EXT_BITMAPS &&
            (h->autoclear_features & QCOW2_AUTOCLEAR_BITMAPS))
            err = count_bitmaps(w, &e);
        else if (e.type == QCOW2_EXT_ENCRYPTION && h->crypt_method == QCOW2_CRYPT_LUKS)
            count_encryption_header(w, &e);
    }
    return err;
}

/* ---- the array ---- */

/* Makes the array, with room for the refcount blocks that a repair may have to add: at
 * most one for each block's worth of clusters, and those that count these. */
static QimgErrno
prepare(Walk *w, uint64_t size_bytes)
{
    const Qcow2Header *h = &w->q->header;
    Qcow2Counts *counts = w->counts;
    uint64_t per_block = qcow2_refcounts_per_block(h->cluster_bits, h->refcount_order);

    counts->n_clusters = qimg_div_round_up(size_bytes, w->q->geometry.cluster_bytes);
    /* A block counts at least 64 clusters, so twice as many are enough for all levels. */
    counts->n_words =
        counts->n_clusters + 2 * (counts->n_clusters / per_block) + N_EXTRA_MINIMUM;
    if (counts->n_words > QCOW2_MAX_COUNT_BYTES / sizeof *counts->words)
        return -EFBIG;
    counts->words = g_try_malloc0(counts->n_words * sizeof *counts->words);
    return counts->words ? 0 : -ENOMEM;
}

/* Begins a walk: its buffer, which the caller frees, and the array of counts. */
static QimgErrno
begin_walk(Walk *w)
{
    uint64_t size_bytes = 0;
    QimgErrno err;

    *w->counts =
        (Qcow2Counts){.problems = g_array_new(FALSE, FALSE, sizeof(Qcow2Problem))};
    w->buffer = g_try_malloc(READ_BYTES);
    err = w->buffer ? qimg_storage_get_size(w->q->base.file, &size_bytes) : -ENOMEM;
    if (!err && !qimg_align_up(size_bytes, QIMG_SECTOR_BYTES, &w->end_bytes))
        err = -EFBIG;
    return err ? err : prepare(w, size_bytes);
}

/* Counts the header, the refcount table and its blocks. */
static void
count_fixed(Walk *w) QIMG_REQUIRES(w->q->alloc_lock)
{
    Qcow2 *q = w->q;

    (void)count_alone(w, 0, q->geometry.cluster_bytes);
    (void)count_alone(w, q->header.refcount_table_offset,
                      (uint64_t)q->header.n_refcount_table_clusters
                          << q->geometry.cluster_bits);
    for (uint64_t i = 0; i < q->n_refcount_table_entries; i++)
        if (q->refcount_table[i] != 0)
            (void)count_alone(w, q->refcount_table[i], q->geometry.cluster_bytes);
}

/* ---- one tree ---- */

/* Counts what lies outside the tree of @view, so that it is found if the tree refers to
 * it. Of a layer that is active no two of these overlap (qcow2_collect_metadata). */
static void
count_other_tables(Walk *w, const QimgView *view) QIMG_REQUIRES(w->q->alloc_lock)
{
    Qcow2 *q = w->q;
    const QimgView *other = &q->base.active;

    count_fixed(w);
    (void)count_alone(w, q->header.snapshots_offset, q->snapshot_table_bytes);
    for (unsigned i = 0; i <= q->base.snapshots->n; i++) {
        if (other != view)
            (void)count_alone(w, other->l1_table_offset.v,
                              (uint64_t)other->n_l1_entries * 8);
        if (i < q->base.snapshots->n)
            other = &q->base.snapshots->items[i].view;
    }
}

/* Leaves the counts that the tree of @view makes. Its data must not lie in L2 tables of
 * the active disk either. */
static void
keep_tree(Walk *w, const QimgView *view, bool with_l1)
{
    unsigned bits = w->q->geometry.cluster_bits;
    uint64_t n_l1_bytes = with_l1 ? (uint64_t)view->n_l1_entries * 8 : 0;
    uint64_t l1_start = view->l1_table_offset.v >> bits;
    uint64_t l1_end = qimg_div_round_up(view->l1_table_offset.v + n_l1_bytes,
                                        w->q->geometry.cluster_bytes);

    for (uint64_t c = 0; c < w->counts->n_clusters; c++) {
        Qcow2Use use = qcow2_counts_get_use(w->counts, c);

        if (use == QCOW2_USE_ALONE && (c < l1_start || c >= l1_end))
            w->counts->words[c] = 0;
        else if (use == QCOW2_USE_DATA && qimg_index_set_has(w->q->metadata, c))
            add_problem(w, QIMG_RULE_METADATA_OVERLAP, c << bits);
    }
}

QimgErrno
qcow2_count_tree(Qcow2 *q, const QimgView *view, bool with_l1, Qcow2Counts *out)
{
    Walk w = {.q = q, .counts = out};
    QimgErrno err = begin_walk(&w);
    QimgRule rule = check_l1_table(q, view);

    if (!err && rule)
        add_problem(&w, rule, view->l1_table_offset.v);
    if (!err && !rule) {
        count_other_tables(&w, view);
        err = count_l1_table(&w, view);
        if (!err)
            err = count_l2_tables(&w);
        if (!err)
            keep_tree(&w, view, with_l1);
    }
    g_free(w.buffer);
    return err;
}

/* ---- the whole ---- */

static QimgErrno
count_all(Walk *w)
{
    QimgErrno err;

    count_fixed(w);
    err = count_extensions(w);
    if (!err)
        err = count_l1_table(w, &w->q->base.active);
    if (!err)
        err = count_snapshots(w);
    return err ? err : count_l2_tables(w);
}

QimgErrno
qcow2_count_references(Qcow2 *q, Qcow2Counts *out)
{
    Walk w = {.q = q, .counts = out};
    QimgErrno err = begin_walk(&w);

    if (!err)
        err = count_all(&w);
    g_free(w.buffer);
    return err;
}

void
qcow2_counts_clear(Qcow2Counts *counts)
{
    g_free(counts->words);
    g_clear_pointer(&counts->problems, g_array_unref);
}
