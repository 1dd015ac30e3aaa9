/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/index-set.h"

#include <pthread.h>
#include <stdatomic.h>

#include "test-util.h"

static void
test_model(void)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(test_util_seed());
    g_autoptr(GHashTable) model = g_hash_table_new(NULL, NULL);
    QimgIndexSet *set = qimg_index_set_new();

    for (unsigned i = 0; i < 100000; i++) {
        uint64_t index = (uint64_t)g_rand_int_range(random, 0, 3000) << (i % 3 * 10);
        gpointer key = GSIZE_TO_POINTER(index + 1);

        g_assert_cmpint(qimg_index_set_has(set, index), ==,
                        g_hash_table_contains(model, key));
        if (g_rand_boolean(random)) {
            g_assert_true(qimg_index_set_add(set, index));
            g_hash_table_add(model, key);
        } else {
            qimg_index_set_remove(set, index);
            g_hash_table_remove(model, key);
        }
        g_assert_cmpuint(qimg_index_set_count(set), ==, g_hash_table_size(model));
    }
    qimg_index_set_free(set);
}

typedef struct {
    QimgIndexSet *set;
    atomic_bool is_over;
} Shared;

/* Each look finds the indices added before the threads began. */
static void *
look(void *user)
{
    Shared *shared = user;

    while (!atomic_load(&shared->is_over))
        for (uint64_t i = 0; i < 100; i++)
            g_assert_true(qimg_index_set_has(shared->set, i * 7));
    return NULL;
}

static void
test_readers(void)
{
    Shared shared = {.set = qimg_index_set_new()};
    pthread_t threads[3];

    for (uint64_t i = 0; i < 100; i++)
        g_assert_true(qimg_index_set_add(shared.set, i * 7));
    for (unsigned i = 0; i < G_N_ELEMENTS(threads); i++)
        pthread_create(&threads[i], NULL, look, &shared);
    for (uint64_t i = 0; i < 50000; i++) {
        g_assert_true(qimg_index_set_add(shared.set, 1000 + i));
        if (i % 3 == 0)
            qimg_index_set_remove(shared.set, 1000 + i / 2);
    }
    atomic_store(&shared.is_over, true);
    for (unsigned i = 0; i < G_N_ELEMENTS(threads); i++)
        pthread_join(threads[i], NULL);
    qimg_index_set_free(shared.set);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/index-set/model", test_model);
    g_test_add_func("/index-set/readers", test_readers);
    return g_test_run();
}
