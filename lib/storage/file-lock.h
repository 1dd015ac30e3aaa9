/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The byte locks by which QEMU's processes and ours announce their use of an image. Spec:
 * locking. */
#pragma once

#include <glib.h>

#include "base/types.h"

typedef enum {
    QIMG_PERM_READ = 1u << 0, /* consistent read */
    QIMG_PERM_WRITE = 1u << 1,
    QIMG_PERM_WRITE_SAME = 1u << 2,
    QIMG_PERM_RESIZE = 1u << 3,
} QimgPerm;

/* The locks of a read-only opener. Spec: locking, "What we take". */
#define QIMG_LOCK_RO_PERM     QIMG_PERM_READ
#define QIMG_LOCK_RO_UNSHARED (QIMG_PERM_WRITE | QIMG_PERM_RESIZE)

/* The locks of a read-write opener. */
#define QIMG_LOCK_RW_PERM     (QIMG_PERM_READ | QIMG_PERM_WRITE | QIMG_PERM_RESIZE)
#define QIMG_LOCK_RW_UNSHARED (QIMG_PERM_WRITE | QIMG_PERM_RESIZE)

typedef enum {
    QIMG_LOCK_TAKEN,
    QIMG_LOCK_NOT_SUPPORTED, /* the file system has no such locks: no error, warn */
    QIMG_LOCK_CONFLICT,      /* @error names the conflict */
} QimgLockResult;

/* Announces on @fd's open file description that we use @perm (bits of QimgPerm) and
 * forbid @unshared to others. The locks end with its last descriptor. On a conflict,
 * retries a few times within a quarter of a second, since the other opener may be about
 * to give up; nothing stays locked after a conflict. */
QimgLockResult qimg_file_lock(int fd, unsigned perm, unsigned unshared, GError **error);

/* Ends all these locks of @fd's open file description. */
void qimg_file_unlock(int fd);
