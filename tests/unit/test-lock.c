/* SPDX-License-Identifier: GPL-2.0-or-later */
/* base/lock.h: debug builds abort on a wrong order of locks, and on I/O under one. */
#include "base/lock.h"

#include "test-util.h"

static QimgMutex outer, inner;

static void
test_right_order(void)
{
    qimg_mutex_init(&outer, QIMG_RANK_CACHE);
    qimg_mutex_init(&inner, QIMG_RANK_WORKERS);
    for (int i = 0; i < 2; i++) {
        QIMG_LOCK_SCOPE(&outer);
        QIMG_LOCK_SCOPE(&inner);
    }
    qimg_lock_assert_none_held();
    /* Locks may be released in any order. */
    qimg_mutex_lock(&outer);
    qimg_mutex_lock(&inner);
    qimg_mutex_unlock(&outer);
    qimg_mutex_unlock(&inner);
    qimg_lock_assert_none_held();
    qimg_mutex_clear(&inner);
    qimg_mutex_clear(&outer);
}

static void
wrong_order(void)
{
    qimg_mutex_init(&outer, QIMG_RANK_CACHE);
    qimg_mutex_init(&inner, QIMG_RANK_WORKERS);
    qimg_mutex_lock(&inner);
    qimg_mutex_lock(&outer);
}

static void
same_rank(void)
{
    qimg_mutex_init(&outer, QIMG_RANK_CACHE);
    qimg_mutex_init(&inner, QIMG_RANK_CACHE);
    qimg_mutex_lock(&outer);
    qimg_mutex_lock(&inner);
}

/* Whole operations of the file system may be serialised; no other lock is held over
 * I/O. */
static void
test_outer_ranks(void)
{
    static const struct timespec past = {.tv_sec = 1};
    QimgCond never;

    qimg_cond_init(&never);
    qimg_mutex_init(&outer, QIMG_RANK_SCAN);
    qimg_mutex_init(&inner, QIMG_RANK_IMAGES);
    qimg_mutex_lock(&outer);
    qimg_lock_assert_none_held();
    qimg_lock_assert_metadata_io();
    qimg_mutex_lock(&inner);
    g_assert_false(qimg_cond_wait_until(&never, &inner, &past));
    qimg_mutex_unlock(&inner);
    qimg_mutex_unlock(&outer);
    qimg_mutex_clear(&inner);
    qimg_mutex_clear(&outer);
    qimg_cond_clear(&never);
}

/* Trylock fails on a lock held elsewhere, and a failure does not count as held. */
static void
test_trylock(void)
{
    static QimgMutex fixed = QIMG_MUTEX_INITIALIZER(QIMG_RANK_LOG);

    g_assert_true(qimg_mutex_trylock(&fixed));
    g_assert_false(qimg_mutex_trylock(&fixed));
    qimg_mutex_unlock(&fixed);
    qimg_lock_assert_none_held();
    qimg_mutex_lock(&fixed);
    qimg_mutex_unlock(&fixed);
}

/* The registry's lock is taken before those of an image's caches. */
static void
registry_last(void)
{
    qimg_mutex_init(&outer, QIMG_RANK_IMAGES);
    qimg_mutex_init(&inner, QIMG_RANK_PARTITIONS);
    qimg_mutex_lock(&inner);
    qimg_mutex_lock(&outer);
}

/* A lock of the file system is further out than those of the library. */
static void
program_last(void)
{
    qimg_mutex_init(&outer, QIMG_RANK_COHERENCE);
    qimg_mutex_init(&inner, QIMG_RANK_COPY);
    qimg_mutex_lock(&inner);
    qimg_mutex_lock(&outer);
}

static void
registry_at_io(void)
{
    qimg_mutex_init(&outer, QIMG_RANK_IMAGES);
    qimg_mutex_lock(&outer);
    qimg_lock_assert_metadata_io();
}

static void
held_at_io(void)
{
    qimg_mutex_init(&outer, QIMG_RANK_STORAGE);
    qimg_mutex_lock(&outer);
    qimg_lock_assert_none_held();
}

/* Runs @misuse in a separate process, which must abort. */
static void
test_misuse(gconstpointer misuse)
{
#ifdef NDEBUG
    (void)misuse;
    g_test_skip("the checks of lock ranks are for debug builds");
#else
    if (g_test_subprocess()) {
        ((void (*)(void))misuse)();
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr("*held_ranks*");
#endif
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/lock/right-order", test_right_order);
    g_test_add_data_func("/lock/wrong-order", (gconstpointer)wrong_order, test_misuse);
    g_test_add_data_func("/lock/same-rank", (gconstpointer)same_rank, test_misuse);
    g_test_add_data_func("/lock/held-at-io", (gconstpointer)held_at_io, test_misuse);
    g_test_add_func("/lock/outer-ranks", test_outer_ranks);
    g_test_add_func("/lock/trylock", test_trylock);
    g_test_add_data_func("/lock/registry-last", (gconstpointer)registry_last,
                         test_misuse);
    g_test_add_data_func("/lock/program-last", (gconstpointer)program_last, test_misuse);
    g_test_add_data_func("/lock/registry-at-io", (gconstpointer)registry_at_io,
                         test_misuse);
    return g_test_run();
}
