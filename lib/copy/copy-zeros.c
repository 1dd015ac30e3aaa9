/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finds zeros in read data. */
#include "copy/copy-zeros.h"

#include <string.h>

#include "base/checked.h"
#include "base/zeros.h"

static bool
granule_is_zero(const uint8_t *bytes, size_t n_bytes)
{
    /* Mostly the first bytes decide. */
    size_t n_head = n_bytes < 16 ? n_bytes : 16;

    return memcmp(bytes, qimg_zeros, n_head) == 0 &&
           memcmp(bytes, qimg_zeros, n_bytes) == 0;
}

bool
copy_find_data(const uint8_t *buffer, size_t n_bytes, size_t *start_inout,
               size_t *end_out)
{
    bool is_found = false;
    size_t at = *start_inout;

    while (at < n_bytes) {
        size_t n = qimg_min_u64(COPY_GRANULE_BYTES, n_bytes - at);
        bool is_data = !granule_is_zero(buffer + at, n);

        if (is_data && !is_found)
            *start_inout = at;
        else if (!is_data && is_found)
            break;
        is_found |= is_data;
        at += n;
    }
    *end_out = at;
    return is_found;
}
