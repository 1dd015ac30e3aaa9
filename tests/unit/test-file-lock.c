/* SPDX-License-Identifier: GPL-2.0-or-later */
/* storage/file-lock.c: readers coexist; writers, in both directions, exclude. Spec:
 * locking. */
#include "storage/file-lock.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "qimg.h"
#include "storage/file.h"
#include "test-util.h"

#define VM_PERM     (QIMG_PERM_READ | QIMG_PERM_WRITE)
#define VM_UNSHARED (QIMG_PERM_WRITE | QIMG_PERM_RESIZE)
#define ADVICE                                                                           \
    "; find the process with 'fuser -v FILE' (stop that program or virtual "             \
    "machine; "                                                                          \
    "-o nolock reads all the same, and may read inconsistent data)"

typedef struct {
    const char *name;
    unsigned perm, unshared; /* of the first opener; the second reads */
    const char *error;       /* NULL: both get their locks */
} Row;

static const Row rows[] = {
    {"nobody", 0, 0, NULL},
    {"reader", QIMG_LOCK_RO_PERM, QIMG_LOCK_RO_UNSHARED, NULL},
    {"reader-of-anything", QIMG_PERM_READ, 0, NULL},
    {"write-unchanged", QIMG_PERM_READ | QIMG_PERM_WRITE_SAME, 0, NULL},
    {"writer", VM_PERM, VM_UNSHARED,
     "is in use: another process has the permission \"write\" (lock byte 101)" ADVICE},
    {"writer-that-shares", QIMG_PERM_WRITE, 0,
     "is in use: another process has the permission \"write\" (lock byte 101)" ADVICE},
    {"resizer", QIMG_PERM_RESIZE, 0,
     "is in use: another process has the permission \"resize\" (lock byte 103)" ADVICE},
    {"no-readers", 0, QIMG_PERM_READ,
     "is in use: another process forbids others the permission \"consistent read\" (lock "
     "byte 200)" ADVICE},
    {"everything", 15, 15,
     "is in use: another process forbids others the permission \"consistent read\" (lock "
     "byte 200)" ADVICE},
};

static void
test_row(gconstpointer user)
{
    const Row *row = user;
    char *dir = test_util_make_dir();
    g_autofree char *path = test_util_write(dir, "image", "x", 1);
    qimg_autofd first = open(path, O_RDONLY | O_CLOEXEC);
    qimg_autofd second = open(path, O_RDONLY | O_CLOEXEC);
    GError *error = NULL;
    QimgLockResult result = qimg_file_lock(first, row->perm, row->unshared, &error);

    g_assert_no_error(error);
    if (result == QIMG_LOCK_NOT_SUPPORTED) {
        g_test_skip("this file system has no byte locks");
        test_util_remove_dir(dir);
        return;
    }
    g_assert_cmpint(result, ==, QIMG_LOCK_TAKEN);
    result = qimg_file_lock(second, QIMG_LOCK_RO_PERM, QIMG_LOCK_RO_UNSHARED, &error);
    g_assert_cmpint(result, ==, row->error ? QIMG_LOCK_CONFLICT : QIMG_LOCK_TAKEN);
    if (row->error) {
        test_util_check_error(&error, QIMG_ERROR_LOCKED, row->error);
        /* On a conflict nothing stays locked: even the most exclusive opener succeeds
         * once the first one is gone, though the second is still open. */
        close(qimg_steal_fd(&first));
        first = open(path, O_RDONLY | O_CLOEXEC);
        g_assert_cmpint(qimg_file_lock(first, 15, 15, &error), ==, QIMG_LOCK_TAKEN);
    }
    test_util_remove_dir(dir);
}

/* The locks belong to the open file description: a duplicate keeps them. */
static void
test_lifetime(void)
{
    char *dir = test_util_make_dir();
    g_autofree char *path = test_util_write(dir, "image", "x", 1);
    int first = open(path, O_RDONLY | O_CLOEXEC);
    qimg_autofd second = open(path, O_RDONLY | O_CLOEXEC);
    int duplicate = dup(first);

    if (qimg_file_lock(first, VM_PERM, VM_UNSHARED, NULL) != QIMG_LOCK_TAKEN) {
        g_test_skip("this file system has no byte locks");
    } else {
        close(open(path, O_RDONLY | O_CLOEXEC)); /* this would drop POSIX locks */
        close(first);
        g_assert_cmpint(
            qimg_file_lock(second, QIMG_LOCK_RO_PERM, QIMG_LOCK_RO_UNSHARED, NULL), ==,
            QIMG_LOCK_CONFLICT);
        close(duplicate);
        g_assert_cmpint(
            qimg_file_lock(second, QIMG_LOCK_RO_PERM, QIMG_LOCK_RO_UNSHARED, NULL), ==,
            QIMG_LOCK_TAKEN);
    }
    test_util_remove_dir(dir);
}

/* A storage's own close ends its locks, though another process has a reference to the
 * open file; unless another storage shares them. */
static void
test_unlock_at_close(void)
{
    char *dir = test_util_make_dir();
    g_autofree char *path = test_util_write(dir, "image", "x", 1);

    for (int is_shared = 0; is_shared < 2; is_shared++) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        qimg_autofd second = open(path, O_RDONLY | O_CLOEXEC);
        qimg_autofd elsewhere = dup(fd);
        QimgStorage *storage = qimg_file_storage_new(fd, path, false, NULL);
        QimgStorage *share = NULL;

        g_assert_cmpint(elsewhere, >=, 0);
        if (qimg_file_lock(fd, VM_PERM, VM_UNSHARED, NULL) != QIMG_LOCK_TAKEN) {
            g_test_skip("this file system has no byte locks");
            qimg_storage_close(storage);
            break;
        }
        qimg_file_storage_unlock_at_close(storage);
        if (is_shared)
            share = qimg_file_storage_share(storage, NULL);
        qimg_storage_close(storage);
        g_assert_cmpint(
            qimg_file_lock(second, QIMG_LOCK_RO_PERM, QIMG_LOCK_RO_UNSHARED, NULL), ==,
            is_shared ? QIMG_LOCK_CONFLICT : QIMG_LOCK_TAKEN);
        qimg_storage_close(share);
    }
    test_util_remove_dir(dir);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/file-lock/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    g_test_add_func("/file-lock/lifetime", test_lifetime);
    g_test_add_func("/file-lock/unlock-at-close", test_unlock_at_close);
    return g_test_run();
}
