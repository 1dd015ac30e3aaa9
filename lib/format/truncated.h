/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The first look for an image file that ends too early: a few reads, whatever the size of
 * the image; no walk over its tables. */
#pragma once

#include "format/table-file.h"

/* Returns where the L2 table, of @table_bytes, with the highest offset ends, by the
 * aligned entries in the first MiB of the L1 table of @view; 0 if there is none. @mask:
 * the bits of an entry that are the offset. *@last_table_out: its offset. Reads past the
 * cache. At open. */
uint64_t qimg_find_l2_end(QimgFormat *format, const QimgView *view, uint64_t mask,
                          uint64_t table_bytes, uint64_t *last_table_out);

/* Adds a warning and returns true if the file ends before @needed_bytes, which its tables
 * need. At open. */
bool qimg_format_warn_if_truncated(QimgFormat *format, uint64_t needed_bytes);
