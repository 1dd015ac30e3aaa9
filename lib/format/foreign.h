/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Formats that are known by their first bytes and cannot be read here. Taken for raw
 * disks, they would show bytes that are not the disk's, and lose their headers to the
 * first write. */
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *what; /* "a VMDK image": after "is" */
    const char *advice;
} QimgForeign;

/* The foreign format of a file that begins with the @n_bytes @bytes (512 are enough);
 * static, NULL: none. Any thread. */
const QimgForeign *qimg_foreign_find(const uint8_t *bytes, size_t n_bytes);
