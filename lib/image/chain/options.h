/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an image is opened with. */
#pragma once

#include "qimg.h"
#include "storage/open-policy.h"

typedef enum {
    DISCARD_UNMAP,
    DISCARD_ZERO,
    DISCARD_IGNORE,
} DiscardMode;

struct QimgOptions {
    char *format;           /* NULL: probe */
    QimgOpenPolicy *policy; /* owned */
    uint64_t l2_cache_bytes;
    uint64_t data_cache_bytes;
    unsigned n_threads;
    bool no_lock;
    bool is_direct; /* data pass by the page cache */
    bool inspect;
    bool is_writable; /* rw: the image itself takes writes */
    bool is_cow;      /* an overlay takes them */
    char *cow_path;   /* the overlay; NULL: one that vanishes */
    bool is_growable;
    QimgKeeper *keeper; /* NULL: none */
    DiscardMode discard;
};
