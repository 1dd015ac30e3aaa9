/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The state of a range of the disk in one layer: the answer of QimgDriver.map. */
#pragma once

#include "base/types.h"
#include "codec/rules.h"

typedef enum {
    QIMG_RUN_UNALLOCATED, /* the backing file decides */
    QIMG_RUN_ZERO,
    QIMG_RUN_DATA,       /* bytes at host_offset of the layer's data storage */
    QIMG_RUN_COMPRESSED, /* (part of) one compressed cluster */
    QIMG_RUN_DAMAGED,    /* see rule */
} QimgRunKind;

/* The state of a guest range in one layer. */
typedef struct {
    QimgRunKind kind;
    QimgRule rule;              /* DAMAGED */
    uint64_t length_bytes;      /* > 0 */
    QimgHostOffset host_offset; /* DATA: of the first byte; COMPRESSED: of the stream */
    uint32_t stream_bytes;      /* COMPRESSED: bytes of the stream that may be read */
} QimgRun;

static inline QimgRun
qimg_run_damaged(QimgRule rule, uint64_t length_bytes)
{
    return (QimgRun){
        .kind = QIMG_RUN_DAMAGED, .rule = rule, .length_bytes = length_bytes};
}
