/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bytes from which partitions and their contents are read. */
#pragma once

#include "base/types.h"

typedef struct {
    /* Reads bytes that lie within the size; 0 or a negated errno value. */
    QimgErrno (*read)(void *user, uint64_t offset_bytes, void *buffer,
                      size_t length_bytes);
    void *user;
    uint64_t size_bytes;
} PartitionSource;
