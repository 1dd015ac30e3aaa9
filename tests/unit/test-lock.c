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
    /* Locks may be given back in any order. */
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

static void
held_at_io(void)
{
    qimg_mutex_init(&outer, QIMG_RANK_STORAGE);
    qimg_mutex_lock(&outer);
    qimg_lock_assert_none_held();
}

/* Runs @misuse in a process of its own, which must abort. */
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
    return g_test_run();
}
