/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The properties of a new image, for the drivers. */
#pragma once

#include "base/task.h"
#include "codec/luks-header.h"
#include "crypt/secret.h"
#include "qimg.h"
#include "transform/compress.h"

/* The properties of a new image; the driver ignores those that its format lacks. */
typedef struct {
    uint64_t size_bytes; /* a multiple of a sector */
    unsigned cluster_bits;
    unsigned table_clusters;    /* QED: of a table; 0: the default */
    unsigned version;           /* 2 or 3; version 2 excludes the fields marked 3 */
    unsigned refcount_order;    /* refcounts of 2^this bits; 4, other: 3 */
    QimgCodec compression;      /* DEFLATE, other: 3 */
    bool extended_l2;           /* 3 */
    bool lazy_refcounts;        /* 3 */
    const char *backing_name;   /* stored unchanged; NULL: none */
    const char *backing_format; /* NULL: not recorded */
    const char *data_file_name; /* stored unchanged; NULL: none. 3. The caller creates the
                                   file: zeros, as long as the disk */
    bool data_file_raw;         /* the data file alone is always the complete disk */
    const LuksHeader *luks; /* NULL: not encrypted. check_create uses only its layout */
    const QimgSecret *luks_material; /* of slot 0 of @luks, the only active one */
    QimgPreallocation preallocation; /* raw: not METADATA. With a data file at most
                                        METADATA: the caller does the rest */
    const QimgTask *task;            /* of the caller; may be NULL */
} QimgCreateOptions;
