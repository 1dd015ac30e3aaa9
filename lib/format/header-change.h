/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A change of an image's header, for the drivers. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define QIMG_FIELD_STAYS (-1)

/* Texts are borrowed; fields with QIMG_FIELD_STAYS or NULL, and version 0, stay. */
typedef struct {
    bool sets_backing;          /* the next two count */
    const char *backing_name;   /* stored unchanged; NULL: none */
    const char *backing_format; /* NULL: not recorded */
    const char *data_file_name; /* stored unchanged */
    uint32_t version;           /* qcow2: 2 or 3 */
    int refcount_order;         /* refcounts of 2^this bits */
    int lazy_refcounts;         /* 0 or 1 */
    int data_file_raw;          /* 0 or 1 */
} QimgHeaderChange;

#define QIMG_HEADER_CHANGE_NONE                                                          \
    ((QimgHeaderChange){.refcount_order = QIMG_FIELD_STAYS,                              \
                        .lazy_refcounts = QIMG_FIELD_STAYS,                              \
                        .data_file_raw = QIMG_FIELD_STAYS})
