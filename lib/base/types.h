/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The address types of the library: guest and host offsets are distinct one-member
 * structs, so that neither can be passed for the other. Also the error convention of the
 * I/O paths. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 0 or a negated errno value: the result of functions on the kernel's path. */
typedef int QimgErrno;

#define QIMG_MUST_CHECK __attribute__((warn_unused_result))

typedef struct {
    uint64_t v;
} QimgGuestOffset; /* bytes from the start of the virtual disk */

typedef struct {
    uint64_t v;
} QimgHostOffset; /* bytes from the start of a host file */

static inline QimgGuestOffset
qimg_guest(uint64_t bytes)
{
    return (QimgGuestOffset){bytes};
}

static inline QimgHostOffset
qimg_host(uint64_t bytes)
{
    return (QimgHostOffset){bytes};
}

#define QIMG_SECTOR_BYTES 512u
#define QIMG_KIB          (UINT64_C(1) << 10)
#define QIMG_MIB          (UINT64_C(1) << 20)
