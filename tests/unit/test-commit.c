/* SPDX-License-Identifier: GPL-2.0-or-later */
/* image/commit.c: an interrupted commit leaves the overlay's disk as it was, and a base
 * that is sound. */
#include <string.h>

#include "event-storage.h"
#include "format/drivers.h"
#include "format/qcow2/amend.h"
#include "image/commit.h"
#include "image/image.h"
#include "image/open/chain-open.h"
#include "memory-image.h"
#include "memory-storage.h"
#include "qcow2-check.h"
#include "recording-storage.h"
#include "test-util.h"

#define CLUSTER    4096u
#define DISK_BYTES (40u * CLUSTER)
#define BASE_BYTES (30u * CLUSTER)

enum { TOP, BASE, N_FILES };

typedef struct {
    const char *name;
    unsigned version;
    unsigned base_cluster_bits;
} Case;

static const Case cases[] = {
    {"same-clusters", 3, 12},
    {"large-clusters", 3, 14},
    {"version-2", 2, 12},
};

static GByteArray *
make_file(const Case *c, unsigned file)
{
    const QimgCreateOptions options = {
        .size_bytes = file == TOP ? DISK_BYTES : BASE_BYTES,
        .cluster_bits = file == TOP ? 12 : c->base_cluster_bits,
        .version = c->version,
        .refcount_order = 4,
    };
    QimgHeaderChange change = QIMG_HEADER_CHANGE_NONE;
    g_autoptr(GByteArray) plain = memory_image_create(&qimg_driver_qcow2, &options);
    TestLayer layer = test_layer_open(plain, false);
    GError *error = NULL;
    GByteArray *bytes;

    change.sets_backing = file == TOP;
    change.backing_name = "base";
    change.backing_format = "qcow2";
    g_assert_true(qcow2_change_header(&layer.q->base, &change, NULL, &error));
    bytes = g_byte_array_ref(layer.storage->bytes);
    test_layer_close(&layer);
    return bytes;
}

/* Opens @storages (owned), from the top down. */
static QimgImage *
open_chain(QimgStorage *top, QimgStorage *base, bool is_writable)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    QimgStorage *storages[] = {top, base};
    g_autoptr(GError) error = NULL;
    QimgChain *chain;
    QimgImage *image;

    qimg_options_set(options, "threads", "1", NULL);
    options->is_writable = is_writable;
    chain = chain_open_storages(storages, base ? 2 : 1, options, &error);
    g_assert_no_error(error);
    image = image_new(chain, 0, &chain->layers[0]->active);
    chain_unref(chain);
    return image;
}

static QimgStorage *
storage_of(const GByteArray *bytes, unsigned file)
{
    return memory_storage_new(bytes->data, bytes->len, file == TOP ? "top" : "base");
}

static void
write_to(QimgImage *image, unsigned first, unsigned n, uint8_t value)
{
    g_autofree uint8_t *bytes = g_malloc((size_t)n * CLUSTER);

    memset(bytes, value, (size_t)n * CLUSTER);
    g_assert_cmpint(
        qimg_image_write(image, (uint64_t)first * CLUSTER, bytes, (size_t)n * CLUSTER),
        ==, 0);
}

/* Writes to the base, then to the overlay. */
static void
fill(GByteArray *files[N_FILES])
{
    QimgStorage *storage =
        memory_storage_new_writable(files[BASE]->data, files[BASE]->len, "base");
    QimgImage *image = open_chain(storage, NULL, true);

    write_to(image, 0, 20, 1);
    g_assert_cmpint(qimg_image_flush(image), ==, 0);
    g_byte_array_unref(files[BASE]);
    files[BASE] = memory_storage_copy_all(storage);
    qimg_image_close(image);
    storage = memory_storage_new_writable(files[TOP]->data, files[TOP]->len, "top");
    image = open_chain(storage, storage_of(files[BASE], BASE), true);
    write_to(image, 3, 5, 2);
    write_to(image, 33, 3, 3);
    g_assert_cmpint(qimg_image_zero(image, 10 * CLUSTER, 4 * CLUSTER), ==, 0);
    g_assert_cmpint(qimg_image_flush(image), ==, 0);
    g_byte_array_unref(files[TOP]);
    files[TOP] = memory_storage_copy_all(storage);
    qimg_image_close(image);
}

static void
check_left(GByteArray *top, GByteArray *base, const uint8_t *wanted)
{
    g_autofree char *top_problem = qcow2_check_bytes(top->data, top->len, NULL);
    g_autofree char *base_problem = qcow2_check_bytes(base->data, base->len, NULL);
    g_autofree uint8_t *bytes = g_malloc(DISK_BYTES);
    QimgImage *image = open_chain(storage_of(top, TOP), storage_of(base, BASE), false);

    g_assert_cmpstr(top_problem, ==, NULL);
    g_assert_cmpstr(base_problem, ==, NULL);
    g_assert_cmpint(qimg_image_read(image, 0, bytes, DISK_BYTES), ==, 0);
    g_assert_cmpmem(bytes, DISK_BYTES, wanted, DISK_BYTES);
    qimg_image_close(image);
    g_byte_array_unref(top);
    g_byte_array_unref(base);
}

static void
read_wanted(GByteArray *const files[N_FILES], uint8_t *wanted)
{
    QimgImage *image =
        open_chain(storage_of(files[TOP], TOP), storage_of(files[BASE], BASE), false);

    g_assert_cmpint(qimg_image_read(image, 0, wanted, DISK_BYTES), ==, 0);
    qimg_image_close(image);
}

static void
test_commit_crashes(const void *data)
{
    const Case *c = data;
    GByteArray *files[N_FILES] = {make_file(c, TOP), make_file(c, BASE)};
    g_autofree uint8_t *wanted = g_malloc(DISK_BYTES);
    g_autoptr(CrashRecord) record = crash_record_new();
    GRand *rand = g_rand_new_with_seed(test_util_seed());
    CrashReplay *replays[N_FILES];
    QimgImage *images[N_FILES];
    GError *error = NULL;

    fill(files);
    read_wanted(files, wanted);
    for (unsigned i = 0; i < N_FILES; i++) {
        images[i] =
            open_chain(recording_storage_new(memory_storage_new_writable(
                                                 files[i]->data, files[i]->len, "file"),
                                             record, i),
                       NULL, true);
        replays[i] = crash_replay_new(record, i, files[i]->data, files[i]->len);
    }
    g_assert_true(commit_to_base(images[TOP], images[BASE], NULL, &error));
    g_assert_true(commit_empty_overlay(images[TOP], NULL, &error));
    for (unsigned i = 0; i < N_FILES; i++)
        qimg_image_close(images[i]);
    for (size_t n = 0; n <= crash_record_length(record); n++) {
        for (unsigned i = 0; i < N_FILES; i++)
            crash_replay_advance(replays[i], n);
        check_left(crash_replay_process(replays[TOP], 0),
                   crash_replay_process(replays[BASE], 0), wanted);
        check_left(crash_replay_machine(replays[TOP], rand),
                   crash_replay_machine(replays[BASE], rand), wanted);
    }
    for (unsigned i = 0; i < N_FILES; i++) {
        crash_replay_free(replays[i]);
        g_byte_array_unref(files[i]);
    }
    g_rand_free(rand);
}

/* Each change of a file fails in turn, and all later ones. */
static void
test_commit_faults(const void *data)
{
    const Case *c = data;
    GByteArray *files[N_FILES] = {make_file(c, TOP), make_file(c, BASE)};
    g_autofree uint8_t *wanted = g_malloc(DISK_BYTES);

    fill(files);
    read_wanted(files, wanted);
    for (unsigned failing = 0; failing < N_FILES; failing++) {
        bool is_done = false;

        for (unsigned n = 0; !is_done; n++) {
            const MemoryFault fault = {.calls =
                                           MEMORY_WRITE | MEMORY_SYNC | MEMORY_SET_SIZE,
                                       .purpose = MEMORY_ANY_PURPOSE,
                                       .n_until = n,
                                       .n_fails = UINT64_MAX,
                                       .errnum = EIO};
            QimgStorage *storages[N_FILES];
            QimgImage *images[N_FILES];
            g_autoptr(GError) error = NULL;

            for (unsigned i = 0; i < N_FILES; i++) {
                storages[i] =
                    memory_storage_new_writable(files[i]->data, files[i]->len, "file");
                images[i] = open_chain(storages[i], NULL, true);
            }
            memory_storage_add_fault(storages[failing], &fault);
            is_done = commit_to_base(images[TOP], images[BASE], NULL, &error) &&
                      commit_empty_overlay(images[TOP], NULL, &error);
            g_assert_cmpint(error == NULL, ==, is_done);
            for (unsigned i = 0; i < N_FILES; i++)
                memory_storage_clear_faults(storages[i]);
            check_left(memory_storage_copy_all(storages[TOP]),
                       memory_storage_copy_all(storages[BASE]), wanted);
            for (unsigned i = 0; i < N_FILES; i++)
                qimg_image_close(images[i]);
        }
    }
    for (unsigned i = 0; i < N_FILES; i++)
        g_byte_array_unref(files[i]);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *crashes = g_strdup_printf("/commit/crashes/%s", cases[i].name);
        g_autofree char *faults = g_strdup_printf("/commit/faults/%s", cases[i].name);

        g_test_add_data_func(crashes, &cases[i], test_commit_crashes);
        g_test_add_data_func(faults, &cases[i], test_commit_faults);
    }
    return g_test_run();
}
