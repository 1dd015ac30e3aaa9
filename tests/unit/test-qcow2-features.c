/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The feature bits of a qcow2 header, changed by several threads at once. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "event-storage.h"
#include "format/drivers.h"
#include "format/qcow2/layer/header-io.h"
#include "memory-storage.h"
#include "test-util.h"

static TestLayer layer;
static const QimgStorageOps *inner_ops;
static QimgStorageOps ops;
static _Atomic int other_thread; /* atomic: its number; 0: it has not begun */
static _Atomic bool has_ended;   /* atomic: the other thread */
static _Atomic bool is_armed;    /* atomic: the next write of the bits stops */
static bool marks_first;         /* const while threads run */
static pthread_t other;

static void
change_bits(bool marks)
{
    if (marks)
        g_assert_cmpint(qcow2_mark_corrupt(layer.q, QIMG_RULE_L2_UNALIGNED, 512), ==,
                        -EIO);
    else
        (void)!qcow2_set_dirty(layer.q, true);
}

static void *
run_other(void *user)
{
    (void)user;
    atomic_store(&other_thread, (int)gettid());
    change_bits(!marks_first);
    atomic_store(&has_ended, true);
    return NULL;
}

/* Whether the other thread waits, which is possible only for a lock. */
static bool
is_waiting(void)
{
    g_autofree char *path =
        g_strdup_printf("/proc/self/task/%d/stat", atomic_load(&other_thread));
    g_autofree char *text = NULL;
    const char *state;

    if (!g_file_get_contents(path, &text, NULL, NULL))
        return false;
    state = strrchr(text, ')');
    return state && state[2] == 'S';
}

/* Stops the first write of the bits until the other thread has made its change, or waits
 * for this one. */
static ssize_t
write_and_stop(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
               const struct iovec *parts, int n_parts)
{
    if (file_offset == QCOW2_HEADER_AT_INCOMPATIBLE &&
        atomic_exchange(&is_armed, false)) {
        g_assert_cmpint(pthread_create(&other, NULL, run_other, NULL), ==, 0);
        while (!atomic_load(&has_ended) && !(atomic_load(&other_thread) && is_waiting()))
            sched_yield();
    }
    return inner_ops->pwritev(storage, purpose, file_offset, parts, n_parts);
}

static void
open_layer(void)
{
    QimgStorage *file = memory_storage_new_writable("", 0, "new");
    const QimgCreateOptions create = {
        .size_bytes = 1 << 20, .version = 3, .cluster_bits = 16, .refcount_order = 4};
    g_autoptr(GByteArray) bytes = NULL;
    g_autoptr(GError) error = NULL;

    g_assert_true(qimg_driver_qcow2.create(file, &create, &error));
    bytes = memory_storage_copy_all(file);
    qimg_storage_close(file);
    layer = test_layer_open(bytes, true);
    inner_ops = layer.storage->storage.ops;
    ops = *inner_ops;
    ops.pwritev = write_and_stop;
    layer.storage->storage.ops = &ops;
    atomic_store(&other_thread, 0);
    atomic_store(&has_ended, false);
}

static void
assert_bits(uint64_t wanted)
{
    qimg_be64 field;

    memcpy(&field, layer.storage->bytes->data + QCOW2_HEADER_AT_INCOMPATIBLE,
           sizeof field);
    g_assert_cmpuint(qimg_be64_get(field), ==, wanted);
}

/* Damage is met while the dirty bit is set, and the other way round. */
static void
test_both_at_once(void)
{
    for (unsigned i = 0; i < 2; i++) {
        open_layer();
        marks_first = i == 1;
        atomic_store(&is_armed, true);
        change_bits(marks_first);
        pthread_join(other, NULL);
        assert_bits(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
        test_layer_close(&layer);
    }
}

/* The change of snapshots, which ends later, clears only its own bit. */
static void
test_mark_stays(void)
{
    open_layer();
    g_assert_cmpint(qcow2_set_dirty(layer.q, true), ==, 0);
    change_bits(true);
    assert_bits(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
    g_assert_cmpint(qcow2_set_dirty(layer.q, false), ==, 0);
    assert_bits(QCOW2_INCOMPAT_CORRUPT);
    test_layer_close(&layer);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/qcow2-features/both-at-once", test_both_at_once);
    g_test_add_func("/qcow2-features/mark-stays", test_mark_stays);
    return g_test_run();
}
