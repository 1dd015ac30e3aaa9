/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The byte locks by which QEMU's processes and we tell each other how an image is used.
 * Spec: locking. */
#pragma once

#include <glib.h>

#include "base/types.h"

typedef enum {
    QIMG_PERM_READ = 1u << 0, /* consistent read */
    QIMG_PERM_WRITE = 1u << 1,
    QIMG_PERM_WRITE_SAME = 1u << 2,
    QIMG_PERM_RESIZE = 1u << 3,
} QimgPerm;

/* What a read-only opener takes and forbids. Spec: locking, "What we take". */
#define QIMG_LOCK_RO_PERM     QIMG_PERM_READ
#define QIMG_LOCK_RO_UNSHARED (QIMG_PERM_WRITE | QIMG_PERM_RESIZE)

/* What a read-write opener takes and forbids. */
#define QIMG_LOCK_RW_PERM     (QIMG_PERM_READ | QIMG_PERM_WRITE | QIMG_PERM_RESIZE)
#define QIMG_LOCK_RW_UNSHARED (QIMG_PERM_WRITE | QIMG_PERM_RESIZE)

typedef enum {
    QIMG_LOCK_TAKEN,
    QIMG_LOCK_NOT_SUPPORTED, /* the file system has no such locks: no error, warn */
    QIMG_LOCK_CONFLICT,      /* @error says with what */
} QimgLockResult;

/* Marks on @fd's open file description that we use @perm (bits of QimgPerm) and that
 * nobody else may use @unshared. The locks end with the last descriptor of it.
 * A conflict is tried again a few times within a quarter of a second: the other side may
 * be another opener that is giving up. On a conflict nothing stays locked. */
QimgLockResult qimg_file_lock(int fd, unsigned perm, unsigned unshared, GError **error);
