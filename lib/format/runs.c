/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The walk over tables, slice by slice. */
#include "format/runs.h"

#include "base/checked.h"
#include "base/scratch.h"
#include "format/table-file.h"

/* Slices that one call examines at most (some milliseconds of work); the caller
 * continues. */
#define MAX_SLICES_PER_CALL 4096u

/* Bytes per read of a walk over empty tables, past the cache. */
#define MAX_PEEK_BYTES (64 * QIMG_KIB)

static bool
run_continues(const QimgRun *run, const QimgRun *next)
{
    if (next->kind != run->kind)
        return false;
    switch (run->kind) {
    case QIMG_RUN_DATA:
        return next->host_offset.v == run->host_offset.v + run->length_bytes;
    case QIMG_RUN_DAMAGED:
        return next->rule == run->rule;
    case QIMG_RUN_COMPRESSED:
        return false;
    default:
        return true;
    }
}

QimgErrno
qimg_map_by_steps(QimgFormat *format, const QimgView *view, const void *user,
                  uint64_t guest_offset, uint64_t length_bytes,
                  uint64_t slice_guest_bytes, QimgMapStep step, QimgMapPeek peek,
                  QimgRun *run_out)
{
    bool at_end;
    QimgRun run;
    QimgErrno err = step(format, view, user, guest_offset, length_bytes, &run, &at_end);

    if (err)
        return err;
    for (unsigned n = 1;
         n < MAX_SLICES_PER_CALL && at_end && run.length_bytes < length_bytes; n++) {
        QimgRun next;

        if (peek && run.kind == QIMG_RUN_UNALLOCATED &&
            run.length_bytes >= slice_guest_bytes) {
            /* At most the length skipped already: little is read in vain. */
            uint64_t more_bytes =
                peek(format, view, user, guest_offset + run.length_bytes,
                     qimg_min_u64(length_bytes - run.length_bytes, run.length_bytes));

            run.length_bytes += more_bytes;
            if (more_bytes > 0)
                continue;
        }
        err = step(format, view, user, guest_offset + run.length_bytes,
                   length_bytes - run.length_bytes, &next, &at_end);
        if (err || !run_continues(
                       &run, &next)) /* a request at that offset meets the error again */
            break;
        run.length_bytes += next.length_bytes;
    }
    *run_out = run;
    return 0;
}

/* The number of zero words at the start of @words; zero is zero in any byte order. */
static uint64_t
count_leading_zeros(const uint64_t *words, uint64_t n_words)
{
    uint64_t n = 0;

    while (n + 8 <= n_words &&
           (words[n] | words[n + 1] | words[n + 2] | words[n + 3] | words[n + 4] |
            words[n + 5] | words[n + 6] | words[n + 7]) == 0)
        n += 8;
    while (n < n_words && words[n] == 0)
        n++;
    return n;
}

uint64_t
qimg_count_zero_entries(QimgFormat *format, uint64_t host_offset, uint64_t n_entries,
                        uint64_t entry_words)
{
    uint64_t entry_bytes = entry_words * sizeof(uint64_t);
    uint64_t n_bytes =
        qimg_min_u64(n_entries, MAX_PEEK_BYTES / entry_bytes) * entry_bytes;
    void *words;

    if (n_bytes == 0)
        return 0;
    words = qimg_scratch_get(QIMG_SCRATCH_TABLE, n_bytes);
    /* First: entries that are not pending then are in the file. */
    if (behind_covers(format->behind, host_offset, n_bytes / sizeof(uint64_t),
                      (unsigned)entry_words))
        return 0;
    if (!words || qimg_format_is_beyond_end(format, host_offset + n_bytes - 1) ||
        qimg_storage_read(format->file, QIMG_IO_L2, qimg_host(host_offset), words,
                          n_bytes))
        return 0;
    return count_leading_zeros(words, n_bytes / sizeof(uint64_t)) / entry_words;
}

void
qimg_will_read_l1(QimgFormat *format, const QimgView *view, uint64_t l1_index)
{
    if (l1_index < view->n_l1_entries_in_file)
        qimg_format_will_pin(format, TABLE_L1,
                             view->l1_table_offset.v +
                                 qimg_align_down(l1_index, TABLE_SLICE_WORDS) *
                                     sizeof(uint64_t),
                             TABLE_SLICE_WORDS);
}

QimgErrno
qimg_count_empty_l1(QimgFormat *format, const QimgView *view, uint64_t l1_index,
                    uint64_t n_wanted, uint64_t offset_mask, uint64_t *entry_out,
                    uint64_t *n_empty_out)
{
    uint64_t in_slice = l1_index % TABLE_SLICE_WORDS;
    uint64_t slice_offset = view->l1_table_offset.v + (l1_index - in_slice) * 8;
    uint64_t n_max =
        qimg_min_u64(n_wanted, qimg_min_u64(TABLE_SLICE_WORDS - in_slice,
                                            view->n_l1_entries_in_file - l1_index));
    uint64_t n_empty;
    table_autoslice slice = {0};
    QimgErrno err =
        qimg_format_pin(format, TABLE_L1, slice_offset, TABLE_SLICE_WORDS, &slice);

    if (err)
        return err;
    /* Loads the first entry once: a writer may be making its table. */
    *entry_out = table_slice_get(&slice, in_slice);
    if ((*entry_out & offset_mask) != 0) {
        *n_empty_out = 0;
        return 0;
    }
    n_empty = 1 + table_slice_count_zeros(&slice, in_slice + 1, n_max - 1);
    while (n_empty < n_max &&
           (table_slice_get(&slice, in_slice + n_empty) & offset_mask) == 0)
        n_empty++;
    *n_empty_out = n_empty;
    return 0;
}

QimgRun
qimg_run_of_entry(QimgFormat *format, const QimgL2Entry *e, uint64_t in_cluster_bytes,
                  uint64_t length_bytes)
{
    QimgRun run = {.length_bytes = length_bytes};

    switch (e->kind) {
    case QIMG_L2_UNALLOCATED:
        run.kind = QIMG_RUN_UNALLOCATED;
        return run;
    case QIMG_L2_ZEROS:
        run.kind = QIMG_RUN_ZERO;
        return run;
    case QIMG_L2_DAMAGED:
        return qimg_run_damaged(e->rule, length_bytes);
    case QIMG_L2_STREAM:
        if (qimg_format_is_beyond_end(format, e->host_offset))
            return qimg_run_damaged(QIMG_RULE_DATA_BEYOND_EOF, length_bytes);
        run.kind = QIMG_RUN_COMPRESSED;
        run.host_offset = qimg_host(e->host_offset);
        run.stream_bytes = e->stream_bytes;
        return run;
    case QIMG_L2_DATA:
        break;
    }
    run.kind = QIMG_RUN_DATA;
    run.host_offset = qimg_host(e->host_offset + in_cluster_bytes);
    if (format->needs_data_file)
        return run;
    run.length_bytes =
        qimg_format_clip_clusters(format, e->host_offset, in_cluster_bytes, length_bytes);
    if (run.length_bytes == 0)
        return qimg_run_damaged(QIMG_RULE_DATA_BEYOND_EOF, length_bytes);
    return run;
}
