/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "format/inflight.h"

#include <pthread.h>
#include <stdatomic.h>

#include "test-util.h"

/* A range is cut where another owner's begins, and released in part. */
static void
test_ranges(void)
{
    InflightSet *set = inflight_set_new();
    QimgInflight a, b, c;
    uint64_t end = 200;

    inflight_begin(set, &a, 100, &end);
    g_assert_cmpuint(end, ==, 200);
    end = 150;
    inflight_begin(set, &b, 0, &end);
    g_assert_cmpuint(end, ==, 100);
    inflight_shorten(set, &a, 120);
    end = 1000;
    inflight_begin(set, &c, 120, &end);
    g_assert_cmpuint(end, ==, 1000);
    inflight_end(set, &b);
    inflight_end(set, &a);
    inflight_end(set, &c);
    inflight_set_free(set);
}

/* Shared ranges may overlap, and are cut by one that is not shared. */
static void
test_shared(void)
{
    InflightSet *set = inflight_set_new();
    QimgInflight a, b, c, d;
    uint64_t end = 200;

    inflight_begin_shared(set, &a, 100, &end);
    inflight_begin_shared(set, &b, 150, &end);
    g_assert_cmpuint(end, ==, 200);
    end = 300;
    inflight_begin(set, &c, 200, &end);
    g_assert_cmpuint(end, ==, 300);
    end = 150;
    inflight_begin(set, &d, 50, &end);
    g_assert_cmpuint(end, ==, 100);
    inflight_end(set, &d);
    end = 300;
    inflight_end(set, &b);
    inflight_begin_shared(set, &b, 180, &end);
    g_assert_cmpuint(end, ==, 200);
    inflight_end(set, &b);
    inflight_end(set, &c);
    inflight_end(set, &a);
    inflight_set_free(set);
}

#define N_THREADS 4u
#define N_CELLS   16u

typedef struct {
    InflightSet *set;
    int cells[N_CELLS]; /* each changed only by the owner of its range */
    atomic_uint next_seed;
} Case;

static void *
change(void *user)
{
    Case *c = user;
    g_autoptr(GRand) random = g_rand_new_with_seed(atomic_fetch_add(&c->next_seed, 1));

    for (unsigned i = 0; i < 3000; i++) {
        uint64_t start = (uint64_t)g_rand_int_range(random, 0, N_CELLS);
        uint64_t end = (uint64_t)g_rand_int_range(random, (gint32)start + 1, N_CELLS + 1);
        QimgInflight mine;

        if (g_rand_int_range(random, 0, 3) == 0) {
            inflight_begin_shared(c->set, &mine, start, &end);
            for (uint64_t cell = start; cell < end; cell++)
                g_assert_cmpint(c->cells[cell], ==, 0);
            inflight_end(c->set, &mine);
            continue;
        }

        inflight_begin(c->set, &mine, start, &end);
        for (uint64_t cell = start; cell < end; cell++)
            g_assert_cmpint(c->cells[cell]++, ==, 0);
        for (uint64_t cell = start; cell < end; cell++)
            c->cells[cell]--;
        inflight_end(c->set, &mine);
    }
    return NULL;
}

static void
test_threads(void)
{
    Case c = {.set = inflight_set_new(), .next_seed = test_util_seed()};
    pthread_t threads[N_THREADS];

    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_create(&threads[i], NULL, change, &c);
    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    inflight_set_free(c.set);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/inflight/ranges", test_ranges);
    g_test_add_func("/inflight/shared", test_shared);
    g_test_add_func("/inflight/threads", test_threads);
    return g_test_run();
}
