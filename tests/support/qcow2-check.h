/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether a qcow2 file is sound: a separate walk over its structures that shares no code
 * with the library and is as strict as qemu-img check. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint64_t n_leaks; /* clusters with a refcount above their references */
    bool is_dirty;    /* refcounts and COPIED bits were not checked then */
    /* COPIED bits that do not match the refcounts, but permit no two writers of a
     * cluster, as an interrupted change of snapshots leaves them. Only for version 2,
     * which has no dirty bit, and only if the result is requested; else they are a
     * corruption. */
    uint64_t n_flags;
} Qcow2CheckResult;

/* NULL if no corruption was found in the file of @n_bytes, else the fault (free with
 * g_free). @out may be NULL. Not for encrypted images and bitmaps. */
char *qcow2_check_bytes(const uint8_t *bytes, size_t n_bytes, Qcow2CheckResult *out);
