/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether a qcow2 file is sound: an own walk over its structures, that shares no code
 * with the library and is strict where qemu-img check is. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint64_t n_leaks; /* clusters that are counted higher than they are referred to */
    bool is_dirty;    /* refcounts and COPIED bits were not looked at then */
    /* COPIED bits that are not as the refcounts, but do not let two write to a cluster:
     * what a change of snapshots leaves that is cut short. Version 2 only, which has no
     * dirty bit, and only where the result is asked for; else they are a corruption. */
    uint64_t n_flags;
} Qcow2CheckResult;

/* NULL when no corruption was found in the file of @n_bytes, else what is wrong (free
 * with g_free). @out may be NULL. Not for encrypted images and bitmaps. */
char *qcow2_check_bytes(const uint8_t *bytes, size_t n_bytes, Qcow2CheckResult *out);
