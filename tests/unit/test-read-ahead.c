/* SPDX-License-Identifier: GPL-2.0-or-later */
/* image/read/read-ahead.c: sequential readers of a compressed image do not undo each
 * other's work, and clusters that may have been freed are not inflated. */
#include <pthread.h>
#include <string.h>

#include "base/gate.h"
#include "image-builder.h"
#include "image/image.h"
#include "image/open/chain-open.h"
#include "memory-storage.h"
#include "test-util.h"

#define CLUSTER_BITS  16u
#define CLUSTER_BYTES (1u << CLUSTER_BITS)
#define N_READERS     4u
#define N_OF_READER   256u /* clusters */
#define N_CLUSTERS    (N_READERS * N_OF_READER)
#define N_OF_REQUEST  4u
#define CACHE_BYTES   (4 * QIMG_MIB)
#define N_WORKERS     2u

static uint8_t
byte_of(unsigned cluster)
{
    return (uint8_t)(cluster * 7 + 1);
}

/* A disk of compressed clusters only. */
static QimgChain *
open_compressed(unsigned n_clusters, bool is_writable, QimgStorage **storage_out)
{
    g_autoptr(ImageBuilder) b =
        image_builder_new(3, CLUSTER_BITS, (uint64_t)n_clusters * CLUSTER_BYTES, false);
    g_autoptr(QimgOptions) options = qimg_options_new();
    g_autofree uint8_t *content = g_malloc(CLUSTER_BYTES);
    GError *error = NULL;
    QimgChain *chain;

    for (unsigned i = 0; i < n_clusters; i++) {
        memset(content, byte_of(i), CLUSTER_BYTES);
        g_assert_cmpuint(image_builder_add_compressed(b, i, content), !=, 0);
    }
    image_builder_finish(b);
    options->is_writable = is_writable;
    options->n_threads = N_WORKERS;
    options->data_cache_bytes = CACHE_BYTES;
    *storage_out = (is_writable ? memory_storage_new_writable : memory_storage_new)(
        b->bytes->data, b->bytes->len, "image");
    chain = chain_open_storages(storage_out, 1, options, &error);
    g_assert_no_error(error);
    return chain;
}

static uint64_t
count_inflated(QimgChain *chain)
{
    return atomic_load(&chain->counters[COUNTER_INFLATED_CLUSTERS]);
}

static void
read_clusters(QimgImage *image, unsigned cluster, unsigned n_clusters)
{
    size_t n_bytes = (size_t)n_clusters * CLUSTER_BYTES;
    g_autofree uint8_t *bytes = g_malloc(n_bytes);

    g_assert_cmpint(
        qimg_image_read(image, (uint64_t)cluster * CLUSTER_BYTES, bytes, n_bytes), ==, 0);
    for (unsigned i = 0; i < n_clusters; i++) {
        const uint8_t *content = bytes + (size_t)i * CLUSTER_BYTES;

        g_assert_cmpuint(content[0], ==, byte_of(cluster + i));
        g_assert_cmpint(memcmp(content, content + 1, CLUSTER_BYTES - 1), ==, 0);
    }
}

/* Jobs that occupy all workers until both sides have come to the barrier. */
typedef struct {
    QimgJob job;
    pthread_barrier_t *barrier;
} Blocker;

static void
run_blocker(QimgJob *job)
{
    pthread_barrier_wait(((Blocker *)job)->barrier);
    pthread_barrier_wait(((Blocker *)job)->barrier);
}

/* Until the second barrier, all workers are busy, and have finished the queued jobs. */
static void
block_workers(QimgChain *chain, Blocker *blockers, pthread_barrier_t *barrier)
{
    for (unsigned i = 0; i < N_WORKERS; i++) {
        blockers[i] = (Blocker){.job.run = run_blocker, .barrier = barrier};
        g_assert_true(qimg_workers_submit(chain->workers, &blockers[i].job, false));
    }
    pthread_barrier_wait(barrier);
}

/* Returns when the workers have finished the queued jobs. @blockers and @barrier stay
 * until the workers have ended. */
static void
drain_workers(QimgChain *chain, Blocker *blockers, pthread_barrier_t *barrier)
{
    block_workers(chain, blockers, barrier);
    pthread_barrier_wait(barrier);
}

/* Sequential readers, each of its own part, take turns; the windows of all of them
 * together would be twice the cache. Clusters read ahead for one are still there when its
 * turn comes, except where a set of the cache was full: hardly a cluster is inflated
 * twice (each is if the windows are not divided among the readers). */
static void
test_readers_in_turn(void)
{
    QimgStorage *storage;
    QimgChain *chain = open_compressed(N_CLUSTERS, false, &storage);
    QimgImage *images[N_READERS];
    Blocker blockers[N_WORKERS];
    pthread_barrier_t barrier;

    pthread_barrier_init(&barrier, NULL, N_WORKERS + 1);
    for (unsigned i = 0; i < N_READERS; i++)
        images[i] = image_new(chain, 0, &chain->layers[0]->active);
    for (unsigned done = 0; done < N_OF_READER; done += N_OF_REQUEST)
        for (unsigned i = 0; i < N_READERS; i++) {
            read_clusters(images[i], i * N_OF_READER + done, N_OF_REQUEST);
            drain_workers(chain, blockers, &barrier);
        }
    g_test_message("%u clusters, inflated %u times", N_CLUSTERS,
                   (unsigned)count_inflated(chain));
    g_assert_cmpuint(count_inflated(chain), >=, N_CLUSTERS);
    g_assert_cmpuint(count_inflated(chain), <=, N_CLUSTERS + N_CLUSTERS / 4);
    g_assert_cmpuint(atomic_load(&chain->counters[COUNTER_READ_AHEAD_CLUSTERS]), >,
                     N_CLUSTERS / 2);
    for (unsigned i = 0; i < N_READERS; i++)
        qimg_image_close(images[i]);
    chain_unref(chain);
    pthread_barrier_destroy(&barrier);
}

typedef enum { NOTHING, GRACE, EXCLUSIVE, READ } Meanwhile;

/* The number of clusters inflated ahead if @meanwhile happens between their queueing and
 * their execution. */
static uint64_t
count_ahead(Meanwhile meanwhile)
{
    QimgStorage *storage;
    QimgChain *chain = open_compressed(64, true, &storage);
    QimgImage *image = image_new(chain, 0, &chain->layers[0]->active);
    Blocker blockers[2][N_WORKERS];
    pthread_barrier_t barrier;
    uint64_t n_before, n_after;

    pthread_barrier_init(&barrier, NULL, N_WORKERS + 1);
    block_workers(chain, blockers[0], &barrier);
    read_clusters(image, 0, 1);
    read_clusters(image, 1, 1); /* the next ones are queued */
    if (meanwhile == GRACE)
        qimg_gate_wait_for_requests(chain->gate);
    if (meanwhile == EXCLUSIVE) {
        qimg_gate_close(chain->gate);
        qimg_gate_open(chain->gate);
    }
    if (meanwhile == READ) /* by the reader itself, in one request */
        read_clusters(image, 2, 62);
    n_before = atomic_load(&storage->n_reads[QIMG_IO_COMPRESSED]);
    pthread_barrier_wait(&barrier);
    block_workers(chain, blockers[1], &barrier);
    n_after = atomic_load(&storage->n_reads[QIMG_IO_COMPRESSED]);
    pthread_barrier_wait(&barrier);
    qimg_image_close(image);
    chain_unref(chain);
    pthread_barrier_destroy(&barrier);
    return n_after - n_before;
}

static void
test_queued_jobs(void)
{
    g_assert_cmpuint(count_ahead(NOTHING), >, 8);
    g_assert_cmpuint(count_ahead(GRACE), ==, 0);
    g_assert_cmpuint(count_ahead(EXCLUSIVE), ==, 0);
    g_assert_cmpuint(count_ahead(READ), ==, 0);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/read-ahead/readers-in-turn", test_readers_in_turn);
    g_test_add_func("/read-ahead/queued-jobs", test_queued_jobs);
    return g_test_run();
}
