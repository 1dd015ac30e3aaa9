/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bytes that must not leave the process: passphrases and keys. */
#pragma once

#include <stdint.h>

#include "base/types.h"

/* Bytes outside of core dumps and, where the limit of locked memory permits, of swap. */
typedef struct {
    size_t n_bytes; /* const */
    uint8_t *bytes; /* const */
} QimgSecret;

/* Returns @n_bytes zeros; aborts without memory. Free with qimg_secret_free. */
QimgSecret *qimg_secret_new(size_t n_bytes);

/* As qimg_secret_new, with a copy of @bytes. */
QimgSecret *qimg_secret_copy(const void *bytes, size_t n_bytes);

/* Wipes and frees @secret; accepts NULL. */
void qimg_secret_free(QimgSecret *secret);
