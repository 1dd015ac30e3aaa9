/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* OFD read locks on single bytes. Conflicts are checked after locking, so that of two
 * racing openers at least one sees the other. Spec: locking, "Protocol". */
#include "storage/file-lock.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/errors.h"

#define N_PERMS             4u
#define USE_BYTE            100 /* + permission: "used by me" */
#define FORBID_BYTE         200 /* + permission: "forbidden to others" */
#define N_TRIES             5
#define FIRST_WAIT_US       5000u
#define WAIT_RANDOM_SPAN_US 10000

static const char *const perm_names[N_PERMS] = {"consistent read", "write",
                                                "write unchanged", "resize"};

static int
lock_byte(int fd, int command, short type, off_t byte, short *found_out)
{
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int err;

    do
        err = fcntl(fd, command, &lock) < 0 ? -errno : 0;
    while (err == -EINTR);
    if (!err && found_out)
        *found_out = lock.l_type;
    return err;
}

void
qimg_file_unlock(int fd)
{
    for (unsigned i = 0; i < N_PERMS; i++) {
        (void)lock_byte(fd, F_OFD_SETLK, F_UNLCK, USE_BYTE + (off_t)i, NULL);
        (void)lock_byte(fd, F_OFD_SETLK, F_UNLCK, FORBID_BYTE + (off_t)i, NULL);
    }
}

/* Locks the bytes at @base + i for each bit i of @mask. */
static int
mark(int fd, unsigned mask, off_t base)
{
    for (unsigned i = 0; i < N_PERMS; i++) {
        int err = 0;

        if (mask & (1u << i))
            err = lock_byte(fd, F_OFD_SETLK, F_RDLCK, base + (off_t)i, NULL);
        if (err)
            return err;
    }
    return 0;
}

/* The lowest bit of @mask whose byte at @base another opener holds, or -1. */
static int
find_conflict(int fd, unsigned mask, off_t base)
{
    for (unsigned i = 0; i < N_PERMS; i++) {
        short found = F_UNLCK;

        if ((mask & (1u << i)) &&
            (lock_byte(fd, F_OFD_GETLK, F_WRLCK, base + (off_t)i, &found) ||
             found != F_UNLCK))
            return (int)i;
    }
    return -1;
}

/* 0, -EAGAIN with *@bit_out and *@used_out set, or another -errno. */
static int
try_lock(int fd, unsigned perm, unsigned unshared, int *bit_out, bool *used_out)
{
    int err = mark(fd, perm, USE_BYTE);

    if (!err)
        err = mark(fd, unshared, FORBID_BYTE);
    if (!err && (*bit_out = find_conflict(fd, perm, FORBID_BYTE)) >= 0) {
        *used_out = false;
        err = -EAGAIN;
    }
    if (!err && (*bit_out = find_conflict(fd, unshared, USE_BYTE)) >= 0) {
        *used_out = true;
        err = -EAGAIN;
    }
    if (err)
        qimg_file_unlock(fd);
    return err;
}

QimgLockResult
qimg_file_lock(int fd, unsigned perm, unsigned unshared, GError **error)
{
    unsigned wait_us = FIRST_WAIT_US;
    bool used = false;
    int bit = 0;

    for (int i = 0; i < N_TRIES; i++) {
        int err = try_lock(fd, perm, unshared, &bit, &used);

        if (!err)
            return QIMG_LOCK_TAKEN;
        if (err == -EINVAL || err == -ENOLCK || err == -EOPNOTSUPP || err == -ENOSYS)
            return QIMG_LOCK_NOT_SUPPORTED;
        if (i + 1 == N_TRIES)
            break;
        g_usleep(wait_us + (gulong)g_random_int_range(0, WAIT_RANDOM_SPAN_US));
        wait_us *= 2;
    }
    qimg_set_error(
        error, QIMG_ERROR_LOCKED,
        "is in use: another process %s \"%s\" (lock byte %d); find the process with "
        "'fuser -v FILE' (stop that program or virtual machine%s)",
        used ? "has the permission" : "forbids others the permission", perm_names[bit],
        (used ? USE_BYTE : FORBID_BYTE) + bit,
        perm & QIMG_PERM_WRITE
            ? ""
            : "; -o nolock reads all the same, and may read inconsistent data");
    return QIMG_LOCK_CONFLICT;
}
