/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options of opening an image. */
#pragma once

#include "crypt/keyring.h"
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
    uint64_t bitmap_cache_bytes;
    bool drops_bitmaps; /* bitmaps=drop */
    unsigned n_threads;
    bool no_lock;
    bool is_direct; /* data bypass the page cache */
    bool inspect;
    bool without_key;    /* encrypted layers open without their data */
    unsigned max_layers; /* open no more; 0: all */
    bool is_writable;    /* rw: writes go to the image itself */
    bool is_cow;         /* writes go to an overlay */
    char *cow_path;      /* the overlay; NULL: a temporary one */
    bool is_growable;
    QimgKeeper *keeper; /* NULL: none */
    DiscardMode discard;
    QimgKeyring *keyring; /* owned, never NULL */
};
