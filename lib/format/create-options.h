/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a new image is made of, for the drivers. */
#pragma once

#include "base/task.h"
#include "qimg.h"
#include "transform/compress.h"

/* What a new image shall be; the driver looks at what its format has. */
typedef struct {
    uint64_t size_bytes; /* a multiple of a sector */
    unsigned cluster_bits;
    unsigned table_clusters;    /* QED: of a table; 0: the default */
    unsigned version;           /* 2 or 3; the rest as 2 has it: no field marked 3 */
    unsigned refcount_order;    /* refcounts of 2^this bits; 4, other: 3 */
    QimgCodec compression;      /* DEFLATE, other: 3 */
    bool extended_l2;           /* 3 */
    bool lazy_refcounts;        /* 3 */
    const char *backing_name;   /* stored as it is; NULL: none */
    const char *backing_format; /* NULL: not recorded */
    const char *data_file_name; /* stored as it is; NULL: none. 3. The file itself is the
                                   caller's: zeros, as long as the disk */
    bool data_file_raw;         /* the data file alone shall always be the disk */
    QimgPreallocation preallocation; /* raw: not METADATA. With a data file no more than
                                        METADATA: the rest is the caller's, too */
    const QimgTask *task;            /* of the caller; may be NULL */
} QimgCreateOptions;
