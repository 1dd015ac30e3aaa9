/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A walk over all tables, to find used clusters and problems. Spec: qed section 6.
 *
 * I1  The work is bounded by the file's length and its data: a table is walked once, for
 *     any number of entries that name it, and holes of the file are skipped. */
#include "format/qed/walk.h"

#include <errno.h>

#include "base/checked.h"
#include "format/qed/place.h"

/* Enough for 128 TiB of file with clusters of 64 KiB; pages of the bitmap for holes of a
 * sparse file are never touched. */
#define MAX_BITMAP_BYTES (256 * QIMG_MIB)

#define READ_BYTES (256 * QIMG_KIB)
#define READ_WORDS (READ_BYTES / sizeof(uint64_t))

typedef struct {
    Qed *qed;
    const QedWalkOptions *options;
    QedWalk *out;
    uint64_t *l1_words; /* READ_WORDS each */
    uint64_t *l2_words;
    uint64_t next_host_offset; /* behind the last data cluster, for the statistics */
    uint64_t n_tables_bytes;
} Walk;

static void
walk_note(Walk *w, QimgRule rule, uint64_t host_offset, uint64_t guest_offset)
{
    QimgFinding finding = {
        .kind =
            rule == QIMG_RULE_UNREADABLE ? QIMG_FINDING_ERROR : QIMG_FINDING_CORRUPTION,
        .host_offset = host_offset,
        .guest_offset = guest_offset,
    };

    if (w->out->first_rule == QIMG_RULE_OK) {
        w->out->first_rule = rule;
        w->out->first_host_offset = host_offset;
    }
    if (w->options->report)
        qimg_check_report_add(w->options->report, &finding, 1, "%s: %s",
                              qimg_rule_field(rule), qimg_rule_text(rule));
}

/* Marks @n_clusters at @host_offset, inside the file, as used. False if one of them was
 * used already. */
static bool
use(Walk *w, uint64_t host_offset, uint64_t n_clusters, uint64_t guest_offset)
{
    QedWalk *out = w->out;
    uint64_t first = host_offset >> w->qed->header.cluster_bits;
    bool is_free = true;
    uint64_t n;

    for (uint64_t c = first; c < first + n_clusters; c += n) {
        uint64_t mask;

        n = qimg_min_u64(64 - c % 64, first + n_clusters - c);
        mask = UINT64_MAX >> (64 - n) << c % 64;
        if (out->used[c / 64] & mask)
            is_free = false;
        out->used[c / 64] |= mask;
    }
    out->used_end_cluster = qimg_max_u64(out->used_end_cluster, first + n_clusters);
    if (!is_free) {
        out->n_shared++;
        walk_note(w, QIMG_RULE_QED_SHARED, host_offset, guest_offset);
    }
    return is_free;
}

/* Handles an invalid entry: it becomes 0 if the options say so. */
static QimgErrno
meet_invalid(Walk *w, QimgRule rule, TableKind kind, uint64_t table_offset,
             uint64_t index, uint64_t guest_offset)
{
    static const uint64_t nothing = QED_ENTRY_UNALLOCATED;
    QimgFormat *base = &w->qed->base;
    uint64_t slice_offset = qed_slice_offset(table_offset, index);
    table_autoslice slice = {0};
    QimgErrno err;

    w->out->n_invalid++;
    walk_note(w, rule, table_offset + index * sizeof(uint64_t), guest_offset);
    if (!w->options->mends)
        return 0;
    err = qimg_format_pin_to_change(base, kind, slice_offset, TABLE_SLICE_WORDS, &slice);
    if (!err)
        err = qimg_format_store_words(
            base,
            &(QimgTableChange){.purpose = kind == TABLE_L1 ? QIMG_IO_L1 : QIMG_IO_L2,
                               .slice_offset = slice_offset,
                               .slice = &slice,
                               .word_index = index % TABLE_SLICE_WORDS,
                               .words = &nothing,
                               .n_words = 1,
                               .entry_words = 1});
    if (!err)
        w->out->n_mended++;
    return err;
}

/* Reads a part of a table. Skips a hole of the file: then sets *@n_words to its length,
 * and returns false, as after an error. */
static bool
walk_read_part(Walk *w, QimgIoPurpose purpose, uint64_t host_offset, uint64_t *words,
               uint64_t *n_words, QimgErrno *err)
{
    uint64_t n_bytes = *n_words * sizeof *words;
    bool is_data = true;
    uint64_t end = 0;

    /* A table of one part is not worth the query. */
    if (n_bytes > READ_BYTES &&
        qimg_storage_find_extent(w->qed->base.file, qimg_host(host_offset), &is_data,
                                 &end) == 0 &&
        !is_data && end - host_offset >= sizeof *words) {
        *n_words = qimg_min_u64(n_bytes, end - host_offset) / sizeof *words;
        return false;
    }
    *n_words = qimg_min_u64(*n_words, READ_WORDS);
    *err = qimg_format_read_words(&w->qed->base, purpose, host_offset, words, *n_words);
    if (!*err)
        return true;
    if (*err != -ENOMEM) { /* the rest can be checked */
        w->out->n_errors++;
        walk_note(w, QIMG_RULE_UNREADABLE, host_offset, QIMG_NO_GUEST_OFFSET);
        *err = 0;
    }
    return false;
}

static QimgErrno
walk_l2_entry(Walk *w, uint64_t table_offset, uint64_t index, uint64_t entry,
              uint64_t guest_offset)
{
    QimgCheckReport *report = w->options->report;

    if (entry == QED_ENTRY_ZERO)
        return 0;
    if (!qed_is_place_for_cluster(w->qed, entry))
        return meet_invalid(w, QIMG_RULE_QED_DATA, TABLE_L2, table_offset, index,
                            guest_offset);
    (void)use(w, entry, 1, guest_offset);
    if (report) {
        report->result.n_allocated_clusters++;
        if (w->next_host_offset != 0 && w->next_host_offset != entry)
            report->result.n_fragmented_clusters++;
        w->next_host_offset = entry + w->qed->base.cluster_bytes;
    }
    return 0;
}

static QimgErrno
walk_l2_table(Walk *w, uint64_t table_offset, uint64_t l1_index)
{
    Qed *qed = w->qed;
    uint64_t n_entries = UINT64_C(1) << qed->entry_bits;
    uint64_t guest_offset = l1_index << qed->l1_shift;
    uint64_t n;

    for (uint64_t i = 0; i < n_entries; i += n) {
        QimgErrno err = 0;

        n = n_entries - i;
        if (!walk_read_part(w, QIMG_IO_L2, table_offset + i * sizeof(uint64_t),
                            w->l2_words, &n, &err)) {
            if (err)
                return err;
            continue;
        }
        for (uint64_t j = 0; j < n && !err; j++)
            if (w->l2_words[j] != QED_ENTRY_UNALLOCATED)
                err = walk_l2_entry(w, table_offset, i + j, w->l2_words[j],
                                    guest_offset + ((i + j) << qed->header.cluster_bits));
        if (err)
            return err;
    }
    return 0;
}

static QimgErrno
walk_l1_entry(Walk *w, uint64_t l1_index, uint64_t entry)
{
    Qed *qed = w->qed;
    uint64_t guest_offset = l1_index << qed->l1_shift;
    QimgErrno err;

    if (!qed_is_place_for_table(qed, entry))
        return meet_invalid(w, QIMG_RULE_QED_TABLE, TABLE_L1, qed->header.l1_table_offset,
                            l1_index, guest_offset);
    w->n_tables_bytes += qed_table_bytes(&qed->header);
    err = qimg_task_step(
        w->options->task,
        qimg_min_u64(w->n_tables_bytes >> qed->header.cluster_bits, w->out->n_clusters),
        w->out->n_clusters);
    if (err)
        return err;
    /* The table was walked already, or is no table. */
    if (!use(w, entry, qed->header.table_clusters, guest_offset))
        return 0;
    if (w->options->collects) {
        err = qimg_format_metadata_add(&qed->base, entry, qed_table_bytes(&qed->header));
        if (err)
            return err;
    }
    return walk_l2_table(w, entry, l1_index);
}

static QimgErrno
qed_walk_l1_table(Walk *w)
{
    Qed *qed = w->qed;
    uint64_t l1_offset = qed->header.l1_table_offset;
    uint64_t n_entries = qed->base.active.n_l1_entries_in_file;
    uint64_t n;

    if (n_entries < qed->base.active.n_l1_entries) {
        w->out->n_invalid++;
        walk_note(w, QIMG_RULE_L1_BEYOND_EOF, l1_offset, QIMG_NO_GUEST_OFFSET);
    }
    for (uint64_t i = 0; i < n_entries; i += n) {
        QimgErrno err = 0;

        n = n_entries - i;
        if (!walk_read_part(w, QIMG_IO_L1, l1_offset + i * sizeof(uint64_t), w->l1_words,
                            &n, &err)) {
            if (err)
                return err;
            continue;
        }
        for (uint64_t j = 0; j < n && !err; j++)
            if (w->l1_words[j] != 0)
                err = walk_l1_entry(w, i + j, w->l1_words[j]);
        if (err)
            return err;
    }
    return 0;
}

/* The header and the L1 table, as far as the file holds them. */
static QimgErrno
use_fixed(Walk *w)
{
    Qed *qed = w->qed;
    unsigned bits = qed->header.cluster_bits;
    uint64_t l1_first = qed->header.l1_table_offset >> bits;
    uint64_t n_header = qimg_min_u64(qed->header.header_clusters, w->out->n_clusters);
    uint64_t l1_end =
        qimg_min_u64(l1_first + qed->header.table_clusters, w->out->n_clusters);
    QimgErrno err = 0;

    (void)use(w, 0, n_header, QIMG_NO_GUEST_OFFSET);
    if (l1_first < l1_end)
        (void)use(w, l1_first << bits, l1_end - l1_first, QIMG_NO_GUEST_OFFSET);
    if (w->options->collects) {
        err = qimg_format_metadata_add(&qed->base, 0, qed_header_end(&qed->header));
        if (!err)
            err = qimg_format_metadata_add(&qed->base, qed->header.l1_table_offset,
                                           qed_table_bytes(&qed->header));
    }
    return err;
}

QimgErrno
qed_walk(Qed *qed, const QedWalkOptions *options, QedWalk *out)
{
    Walk w = {.qed = qed, .options = options, .out = out};
    uint64_t size_bytes = 0, end_bytes = 0;
    QimgErrno err = qimg_storage_get_size(qed->base.file, &size_bytes);

    *out = (QedWalk){0};
    if (err)
        return err;
    if (!qimg_align_up(size_bytes, QIMG_SECTOR_BYTES, &end_bytes))
        return -EFBIG;
    out->n_clusters = end_bytes >> qed->header.cluster_bits;
    if (out->n_clusters / 8 > MAX_BITMAP_BYTES)
        return -EFBIG;
    out->used = g_try_malloc0((out->n_clusters / 64 + 1) * sizeof *out->used);
    w.l1_words = g_try_malloc(READ_BYTES);
    w.l2_words = g_try_malloc(READ_BYTES);
    err = out->used && w.l1_words && w.l2_words ? use_fixed(&w) : -ENOMEM;
    if (!err)
        err = qed_walk_l1_table(&w);
    g_free(w.l1_words);
    g_free(w.l2_words);
    return err;
}

void
qed_walk_clear(QedWalk *walk)
{
    g_clear_pointer(&walk->used, g_free);
}

static bool
is_cluster_used(const QedWalk *walk, uint64_t cluster)
{
    return walk->used[cluster / 64] >> cluster % 64 & 1;
}

bool
qed_walk_find_unused(const QedWalk *walk, QimgClusters *run)
{
    uint64_t c = run->first_cluster + run->n_clusters, n = 0;

    while (c < walk->used_end_cluster && is_cluster_used(walk, c))
        c += walk->used[c / 64] == UINT64_MAX ? 64 - c % 64 : 1;
    while (c + n < walk->used_end_cluster && !is_cluster_used(walk, c + n))
        n += (c + n) % 64 == 0 && walk->used[(c + n) / 64] == 0 ? 64 : 1;
    *run = (QimgClusters){c, n};
    return n > 0;
}
