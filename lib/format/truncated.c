/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See truncated.h. */
#include "format/truncated.h"

#define MAX_L1_WORDS (QIMG_MIB / sizeof(uint64_t))
#define PIECE_WORDS  8192u

uint64_t
qimg_find_l2_end(QimgFormat *format, const QimgView *view, uint64_t mask,
                 uint64_t table_bytes, uint64_t *last_table_out)
{
    uint64_t n_entries = qimg_min_u64(view->n_l1_entries_in_file, MAX_L1_WORDS);
    size_t n_words = (size_t)qimg_min_u64(n_entries, PIECE_WORDS);
    g_autofree uint64_t *words = g_new(uint64_t, n_words);
    uint64_t last_table = 0, end_bytes = 0;

    for (uint64_t at = 0; at < n_entries; at += n_words) {
        n_words = (size_t)qimg_min_u64(n_entries - at, PIECE_WORDS);
        if (qimg_format_read_words(format, QIMG_IO_L1,
                                   view->l1_table_offset.v + at * sizeof(uint64_t), words,
                                   n_words) != 0)
            break;
        for (size_t i = 0; i < n_words; i++)
            if (qimg_is_aligned(words[i] & mask, format->cluster_bytes))
                last_table = qimg_max_u64(last_table, words[i] & mask);
    }
    *last_table_out = last_table;
    return last_table > 0 && qimg_add_u64(last_table, table_bytes, &end_bytes) ? end_bytes
                                                                               : 0;
}

bool
qimg_format_warn_if_truncated(QimgFormat *format, uint64_t needed_bytes)
{
    uint64_t size_bytes = 0;

    if (needed_bytes == 0 || !qimg_format_is_beyond_end(format, needed_bytes - 1) ||
        qimg_storage_get_size(format->file, &size_bytes) != 0)
        return false;
    qimg_format_warn(format,
                     "is truncated: the file has %" PRIu64
                     " bytes, and its tables need at least %" PRIu64
                     "; reads of the missing parts fail (qimg map lists them; copy the "
                     "whole file)",
                     size_bytes, needed_bytes);
    return true;
}
