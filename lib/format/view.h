/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A disk inside a layer: the active one or a snapshot. */
#pragma once

#include "base/types.h"

typedef struct {
    uint64_t size_bytes;
    QimgHostOffset l1_table_offset;
    uint32_t n_l1_entries;
    uint32_t n_l1_entries_in_file; /* those that lie before the end of the file */
} QimgView;
