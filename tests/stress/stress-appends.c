/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Threads that append to one disk, each its own blocks, and zero their blocks at its end
 * or near it: no appended block is lost, and no other content appears. Also for
 * ThreadSanitizer. */
#include <pthread.h>
#include <string.h>

#include "grow-cases.h"
#include "memory-image.h"
#include "test-util.h"

#define N_THREADS 4u
#define N_BLOCKS  2000u /* per thread */
/* So that a block at the end covers a last unit only in part. */
#define BLOCK_BYTES 4608u

static const GrowCase cases[] = {
    GROW_CASES(12, 16, 0),
    {"tiny-clusters", &qimg_driver_qcow2, GROW_QCOW2(.cluster_bits = 10)},
};

typedef struct {
    QimgImage *disk;
    unsigned thread;
    GRand *rand;
    bool is_zero[N_BLOCKS];
    unsigned n_done;
    pthread_barrier_t *start;
} Worker;

static uint64_t
block_offset(const Worker *w, unsigned i)
{
    return ((uint64_t)i * N_THREADS + w->thread) * BLOCK_BYTES;
}

static void
fill_block(const Worker *w, unsigned i, uint8_t *block)
{
    memset(block, w->is_zero[i] ? 0 : (int)((i * N_THREADS + w->thread) % 255 + 1),
           BLOCK_BYTES);
}

static void
check_block(const Worker *w, unsigned i)
{
    uint8_t block[BLOCK_BYTES], wanted[BLOCK_BYTES];

    fill_block(w, i, wanted);
    g_assert_cmpint(qimg_image_read(w->disk, block_offset(w, i), block, sizeof block), ==,
                    0);
    g_assert_cmpmem(block, sizeof block, wanted, sizeof wanted);
}

static void *
work(void *user)
{
    Worker *w = user;
    uint8_t block[BLOCK_BYTES];

    pthread_barrier_wait(w->start);
    while (w->n_done < N_BLOCKS) {
        unsigned i = w->n_done++, back;

        fill_block(w, i, block);
        g_assert_cmpint(
            qimg_image_write(w->disk, block_offset(w, i), block, sizeof block), ==, 0);
        g_assert_cmpuint(qimg_image_get_size_bytes(w->disk), >=,
                         block_offset(w, i) + sizeof block);
        if (g_rand_boolean(w->rand))
            continue;
        back = (unsigned)g_rand_int_range(w->rand, 0, 3);
        i -= MIN(i, back);
        w->is_zero[i] = true;
        g_assert_cmpint(g_rand_boolean(w->rand)
                            ? qimg_image_discard(w->disk, block_offset(w, i), BLOCK_BYTES)
                            : qimg_image_zero(w->disk, block_offset(w, i), BLOCK_BYTES),
                        ==, 0);
        check_block(w, i);
    }
    return NULL;
}

static void
test_case(const void *data)
{
    const GrowCase *c = data;
    static Worker workers[N_THREADS];
    uint32_t seed = test_util_seed();
    pthread_t threads[N_THREADS];
    pthread_barrier_t start;
    QimgImage *disk = memory_image_new(c->driver, &c->create).disk;

    pthread_barrier_init(&start, NULL, N_THREADS);
    for (unsigned i = 0; i < N_THREADS; i++) {
        workers[i] = (Worker){.disk = disk,
                              .thread = i,
                              .rand = g_rand_new_with_seed(seed + i),
                              .start = &start};
        g_assert_cmpint(pthread_create(&threads[i], NULL, work, &workers[i]), ==, 0);
    }
    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < N_THREADS; i++) {
        for (unsigned j = 0; j < N_BLOCKS; j++)
            check_block(&workers[i], j);
        g_rand_free(workers[i].rand);
    }
    pthread_barrier_destroy(&start);
    qimg_image_close(disk);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/stress-appends/%s", cases[i].name);

        g_test_add_data_func(path, &cases[i], test_case);
    }
    return g_test_run();
}
