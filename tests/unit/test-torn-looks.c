/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Lookups in tables that change between two loads. The sources under test are compiled
 * into this program with a load that stops at chosen words: other requests begin and end,
 * in another thread, before the lookup continues. */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "cache/table-cache.h"

static uint64_t load_and_stop(const TableSlice *slice, uint64_t word_index);

/* From here on each load of a word may stop. */
#define table_slice_get load_and_stop
#include "format/qcow2/tables/map.c"
#include "format/qcow2/write/write.c"
#include "format/qed/qed.h"
#include "format/runs.c"
#undef table_slice_get

#include "format/drivers.h"
#include "image/chain/handle.h"
#include "image/chain/options.h"
#include "image/image.h"
#include "image/open/chain-open.h"
#include "memory-storage.h"
#include "test-util.h"

#define CLUSTER    65536u
#define SUBCLUSTER (CLUSTER / 32)

typedef enum {
    WRITE,
    DISCARD,
} ActionKind;

/* The action at a stop. */
typedef struct {
    ActionKind kind;
    uint64_t guest_offset;
    uint64_t n_bytes;
    uint8_t value;
    bool has_next; /* the next action belongs to the same stop */
} Action;

static QimgImage *disk;

/* The stops of this thread: each load of [first_word, first_word + n_words) is one. */
static _Thread_local struct {
    uint64_t first_word;
    uint64_t n_words;
    const Action *actions;
    unsigned n_actions;
    unsigned n_stops;
} stops;

static void
write_value(uint64_t guest_offset, uint64_t n_bytes, uint8_t value)
{
    g_autofree uint8_t *data = g_malloc(n_bytes);

    memset(data, value, n_bytes);
    g_assert_cmpint(qimg_image_write(disk, guest_offset, data, n_bytes), ==, 0);
}

static void *
run_action(void *user)
{
    const Action *action = user;

    if (action->kind == WRITE)
        write_value(action->guest_offset, action->n_bytes, action->value);
    else
        g_assert_cmpint(qimg_image_discard(disk, action->guest_offset, action->n_bytes),
                        ==, 0);
    return action->has_next ? run_action((void *)(action + 1)) : NULL;
}

static uint64_t
load_and_stop(const TableSlice *slice, uint64_t word_index)
{
    uint64_t word = table_slice_get(slice, word_index);
    pthread_t thread;

    if (stops.n_stops < stops.n_actions && word_index >= stops.first_word &&
        word_index < stops.first_word + stops.n_words) {
        void *action = (void *)&stops.actions[stops.n_stops];

        while (stops.actions[stops.n_stops++].has_next)
            ;
        g_assert_cmpint(pthread_create(&thread, NULL, run_action, action), ==, 0);
        pthread_join(thread, NULL);
    }
    return word;
}

static void
stop_at(uint64_t first_word, uint64_t n_words, const Action *actions, unsigned n_actions)
{
    stops.first_word = first_word;
    stops.n_words = n_words;
    stops.actions = actions;
    stops.n_actions = n_actions;
    stops.n_stops = 0;
}

/* Makes an empty disk, open for writing. */
static void
open_disk(const QimgDriver *driver, const QimgCreateOptions *create)
{
    QimgStorage *file = memory_storage_new_writable("", 0, "image");
    g_autoptr(QimgOptions) options = qimg_options_new();
    g_autoptr(GError) error = NULL;
    QimgChain *chain;

    g_assert_true(driver->create(file, create, &error));
    g_assert_no_error(error);
    options->is_writable = true;
    chain = chain_open_storages(&file, 1, options, &error);
    g_assert_no_error(error);
    disk = image_new(chain, 0, &chain->layers[0]->active);
    chain_unref(chain);
}

static void
open_extended(void)
{
    open_disk(&qimg_driver_qcow2, &(QimgCreateOptions){.size_bytes = UINT64_C(1) << 30,
                                                       .version = 3,
                                                       .cluster_bits = 16,
                                                       .refcount_order = 4,
                                                       .extended_l2 = true});
}

static void
assert_value(uint64_t guest_offset, uint64_t n_bytes, uint8_t value)
{
    g_autofree uint8_t *data = g_malloc(n_bytes);

    g_assert_cmpint(qimg_image_read(disk, guest_offset, data, n_bytes), ==, 0);
    for (uint64_t i = 0; i < n_bytes; i++)
        g_assert_cmpint(data[i], ==, value);
}

/* A write has read the location of its cluster; then the cluster is freed, and the
 * write's subcluster allocated in another one. */
static void
test_write(void)
{
    const uint64_t cluster = 3 * CLUSTER, half = SUBCLUSTER / 2;
    const uint64_t subcluster = cluster + 5 * SUBCLUSTER;
    const Action actions[] = {
        {DISCARD, cluster, SUBCLUSTER, 0, true},
        {WRITE, subcluster, half, 2, false},
    };

    const Action rest = {DISCARD, cluster + SUBCLUSTER, CLUSTER - SUBCLUSTER, 0, false};

    open_extended();
    write_value(cluster, CLUSTER, 1);
    run_action((void *)&rest);
    stop_at(6, 1, actions, G_N_ELEMENTS(actions));
    write_value(subcluster + half, half, 3);
    g_assert_cmpuint(stops.n_stops, ==, G_N_ELEMENTS(actions));
    assert_value(subcluster, half, 2);
    assert_value(subcluster + half, half, 3);
    qimg_image_close(disk);
}

/* A read meets the entry without a cluster at each load of its word, and allocated at
 * each load of its bitmap. */
static void
test_read(void)
{
    const uint64_t cluster = 3 * CLUSTER, subcluster = cluster + 5 * SUBCLUSTER;
    const Action actions[] = {
        {WRITE, subcluster, SUBCLUSTER, 1, false},
        {DISCARD, cluster, CLUSTER, 0, false},
        {WRITE, subcluster, SUBCLUSTER, 1, false},
    };

    open_extended();
    write_value(cluster, CLUSTER, 1);
    run_action((void *)&actions[1]);
    stop_at(6, 2, actions, G_N_ELEMENTS(actions));
    assert_value(subcluster, SUBCLUSTER, 1);
    g_assert_cmpuint(stops.n_stops, ==, G_N_ELEMENTS(actions));
    qimg_image_close(disk);
}

/* A read has found no L2 table; then one is added. */
static void
read_while_table_is_made(uint64_t table_guest_bytes)
{
    const uint64_t cluster = table_guest_bytes + 9 * CLUSTER;
    const Action actions[] = {{WRITE, cluster, CLUSTER, 1, false}};

    write_value(0, CLUSTER, 1);
    stop_at(1, 1, actions, G_N_ELEMENTS(actions));
    assert_value(table_guest_bytes, CLUSTER, 0);
    g_assert_cmpuint(stops.n_stops, ==, G_N_ELEMENTS(actions));
    assert_value(cluster, CLUSTER, 1);
    qimg_image_close(disk);
}

static void
test_table_qcow2(void)
{
    open_disk(&qimg_driver_qcow2, &(QimgCreateOptions){.size_bytes = UINT64_C(2) << 30,
                                                       .version = 3,
                                                       .cluster_bits = 16,
                                                       .refcount_order = 4});
    read_while_table_is_made(UINT64_C(512) << 20);
}

static void
test_table_qed(void)
{
    open_disk(&qimg_driver_qed,
              &(QimgCreateOptions){.size_bytes = UINT64_C(8) << 30, .cluster_bits = 16});
    read_while_table_is_made(UINT64_C(2) << 30);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/torn-looks/write", test_write);
    g_test_add_func("/torn-looks/read", test_read);
    g_test_add_func("/torn-looks/table-qcow2", test_table_qcow2);
    g_test_add_func("/torn-looks/table-qed", test_table_qed);
    return g_test_run();
}
