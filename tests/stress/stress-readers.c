/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Many threads over one chain of files, with caches so small that everything is evicted
 * all the time: reads, maps and seeks, handles that come and go, read-ahead of compressed
 * clusters. Meant for ThreadSanitizer, and bounded in time everywhere. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "image-builder.h"
#include "qimg.h"
#include "test-util.h"

#define N_LAYERS   8u
#define N_THREADS  8u
#define DISK_BYTES (1536 * QIMG_KIB)
#define RUN_US     (2 * G_USEC_PER_SEC)
#define MAX_READ   (160 * 1024u)

static uint8_t expected[DISK_BYTES];

/* Adds clusters to one layer: a third of it, in stretches, of all kinds. */
static void
fill_layer(GRand *rand, ImageBuilder *b, uint8_t *layer_expected)
{
    uint64_t n_clusters = DISK_BYTES / b->cluster_bytes;
    g_autofree uint8_t *content = g_malloc(b->cluster_bytes);

    for (uint64_t cluster = 0; cluster < n_clusters; cluster++) {
        int kind = g_rand_int_range(rand, 0, 8);

        if (kind == 0)
            cluster += (uint64_t)g_rand_int_range(rand, 0, 64);
        if (kind > 4 || cluster >= n_clusters)
            continue;
        for (uint64_t i = 0; i < b->cluster_bytes; i++)
            content[i] = (uint8_t)(i % 16 == 0 ? g_rand_int(rand) : cluster + i / 64);
        if (kind == 1) {
            memset(content, 0, b->cluster_bytes);
            image_builder_set_entry(b, b->header.l1_table_offset, cluster, 1, 0);
        } else if (kind == 2 || !image_builder_add_compressed(b, cluster, content)) {
            image_builder_add_data(b, cluster, content);
        }
        memcpy(layer_expected + cluster * b->cluster_bytes, content, b->cluster_bytes);
    }
}

/* Makes the chain's files from the bottom up; returns the path of the topmost. */
static char *
make_chain(const char *dir, uint32_t seed)
{
    static const uint32_t cluster_bits[] = {9, 12, 16, 14, 12, 9, 16, 12};
    GRand *rand = g_rand_new_with_seed(seed);
    g_autofree char *name = NULL;

    for (unsigned i = 0; i < N_LAYERS; i++) {
        g_autoptr(ImageBuilder) b =
            image_builder_new(3, cluster_bits[i % 8], DISK_BYTES, false);
        char *backing = name;

        if (i % 2) {
            b->header.compression_type = 1;
            b->header.incompatible_features |= 8;
        }
        if (backing)
            image_builder_set_backing(b, backing, "qcow2");
        /* Parts left open by a layer keep the value of those below. */
        fill_layer(rand, b, expected);
        image_builder_finish(b);
        name = g_strdup_printf("%u", i);
        g_free(test_util_write(dir, name, b->bytes->data, b->bytes->len));
        g_free(backing);
    }
    g_rand_free(rand);
    return g_build_filename(dir, name, NULL);
}

typedef struct {
    QimgImage *image;
    uint32_t seed;
    gint64 end_us;
    atomic_uint *n_wrong;
    uint64_t n_requests;
} Worker;

static bool
check_read(QimgImage *image, uint8_t *buffer, uint64_t at, size_t n_bytes)
{
    return qimg_image_read(image, at, buffer, n_bytes) == 0 &&
           memcmp(buffer, expected + at, n_bytes) == 0;
}

/* The range of a hole must be zeros. */
static bool
check_map(QimgImage *image, uint64_t at)
{
    QimgExtent e = {.struct_bytes = sizeof e};

    if (qimg_image_map(image, at, &e) != 0 || e.length_bytes == 0 ||
        e.length_bytes > DISK_BYTES - at)
        return false;
    for (uint64_t i = 0; i < e.length_bytes; i++)
        if ((e.kind == QIMG_EXTENT_ZERO || e.kind == QIMG_EXTENT_UNALLOCATED) &&
            expected[at + i] != 0)
            return false;
    return true;
}

static void *
work(void *user)
{
    Worker *w = user;
    GRand *rand = g_rand_new_with_seed(w->seed);
    g_autofree uint8_t *buffer = g_malloc(MAX_READ);
    uint64_t sequential = 0;

    while (g_get_monotonic_time() < w->end_us) {
        uint64_t at = (uint64_t)g_rand_int_range(rand, 0, DISK_BYTES);
        size_t n_bytes = (size_t)g_rand_int_range(rand, 1, MAX_READ);
        bool is_right = true;
        QimgImage *layer;

        switch (g_rand_int_range(rand, 0, 8)) {
        case 0:
            is_right = check_map(w->image, at);
            break;
        case 1: /* handles are private to a thread, the chain is not */
            layer = qimg_image_open_layer(
                w->image, (unsigned)g_rand_int_range(rand, 0, N_LAYERS), NULL);
            is_right = layer && qimg_image_read(layer, at, buffer, 1) == 0;
            qimg_image_close(layer);
            break;
        case 2:
        case 3: /* in order, so that clusters are read ahead */
            n_bytes = MIN(65536, DISK_BYTES - sequential);
            is_right = check_read(w->image, buffer, sequential, n_bytes);
            sequential = (sequential + n_bytes) % DISK_BYTES;
            break;
        case 4:
            is_right = check_read(w->image, buffer, at, MIN(n_bytes, DISK_BYTES - at));
            break;
        default:
            is_right =
                check_read(w->image, buffer, at, MIN(n_bytes % 5000, DISK_BYTES - at));
            break;
        }
        w->n_requests++;
        if (!is_right)
            atomic_fetch_add(w->n_wrong, 1);
    }
    g_rand_free(rand);
    return NULL;
}

static void
run(const char *path, uint32_t seed, const char *data_cache)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    atomic_uint n_wrong = 0;
    Worker workers[N_THREADS];
    pthread_t threads[N_THREADS];
    uint64_t n_requests = 0;
    GError *error = NULL;
    g_autoptr(QimgImage) image = NULL;

    g_assert_true(qimg_options_set(options, "l2_cache", "64K", NULL));
    g_assert_true(qimg_options_set(options, "data_cache", data_cache, NULL));
    g_assert_true(qimg_options_set(options, "threads", "3", NULL));
    image = qimg_image_open(path, options, &error);
    g_assert_no_error(error);
    for (unsigned i = 0; i < N_THREADS; i++) {
        workers[i] = (Worker){.image = image,
                              .seed = seed + i,
                              .end_us = g_get_monotonic_time() + RUN_US,
                              .n_wrong = &n_wrong};
        g_assert_cmpint(pthread_create(&threads[i], NULL, work, &workers[i]), ==, 0);
    }
    for (unsigned i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        n_requests += workers[i].n_requests;
    }
    g_test_message("data_cache=%s: %" G_GUINT64_FORMAT " requests", data_cache,
                   (guint64)n_requests);
    g_assert_cmpuint(atomic_load(&n_wrong), ==, 0);
}

static void
test_readers(gconstpointer data_cache)
{
    char *dir = test_util_make_dir();
    uint32_t seed = test_util_seed();
    g_autofree char *path = NULL;

    memset(expected, 0, sizeof expected);
    path = make_chain(dir, seed);
    run(path, seed, data_cache);
    test_util_remove_dir(dir);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_data_func("/stress/readers/no-data-cache", "0", test_readers);
    g_test_add_data_func("/stress/readers/tiny-data-cache", "40K", test_readers);
    g_test_add_data_func("/stress/readers/data-cache", "16M", test_readers);
    return g_test_run();
}
