/* SPDX-License-Identifier: GPL-2.0-or-later */
/* image/rebase.c: an interrupted or failing rebase leaves the same disk, over the old
 * backing file or the new one. */
#include <errno.h>
#include <string.h>

#include "event-storage.h"
#include "format/drivers.h"
#include "format/qcow2/amend.h"
#include "image/image.h"
#include "image/open/chain-open.h"
#include "image/rebase.h"
#include "memory-image.h"
#include "memory-storage.h"
#include "qcow2-check.h"
#include "recording-storage.h"
#include "test-util.h"

#define CLUSTER    4096u
#define N_CLUSTERS 24u
#define DISK_BYTES (N_CLUSTERS * CLUSTER)
#define OLD_BYTES  (20u * CLUSTER)
#define NEW_BYTES  (22u * CLUSTER + 512)

typedef struct {
    const char *name;
    unsigned version;
    bool extended_l2;
    bool has_new; /* else: none */
} Case;

static const Case cases[] = {
    {"version-3", 3, false, true},
    {"version-2", 2, false, true},
    {"flatten", 3, false, false},
    {"subclusters", 3, true, true},
};

static const QimgHeaderChange to_old = {.sets_backing = true,
                                        .backing_name = "old",
                                        .backing_format = "raw",
                                        .refcount_order = QIMG_FIELD_STAYS,
                                        .lazy_refcounts = QIMG_FIELD_STAYS,
                                        .data_file_raw = QIMG_FIELD_STAYS};

/* The old file: data everywhere except in clusters 4 to 7; the new one: the same in the
 * clusters 0, 1 and 4, other data elsewhere. */
static uint8_t *
make_backing(bool is_new)
{
    uint8_t *bytes = g_malloc0(NEW_BYTES);

    for (unsigned c = 0; c < NEW_BYTES / CLUSTER; c++)
        memset(bytes + (size_t)c * CLUSTER,
               is_new && c > 1   ? (c == 4 ? 0 : 100 + (int)c)
               : c >= 4 && c < 8 ? 0
                                 : (int)c + 1,
               CLUSTER);
    return bytes;
}

static GByteArray *
make_top(const Case *c)
{
    const QimgCreateOptions options = {
        .size_bytes = DISK_BYTES,
        .cluster_bits = c->extended_l2 ? 14 : 12,
        .version = c->version,
        .refcount_order = 4,
        .extended_l2 = c->extended_l2,
    };
    g_autoptr(GByteArray) plain = memory_image_create(&qimg_driver_qcow2, &options);
    TestLayer layer = test_layer_open(plain, false);
    GError *error = NULL;
    GByteArray *bytes;

    g_assert_true(qcow2_change_header(&layer.q->base, &to_old, NULL, &error));
    bytes = g_byte_array_ref(layer.storage->bytes);
    test_layer_close(&layer);
    return bytes;
}

/* Opens @top (owned) over a backing file; NULL: over none. */
static QimgImage *
open_over(QimgStorage *top, const uint8_t *backing, size_t n_bytes, bool is_writable)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    QimgStorage *storages[] = {
        top, backing ? memory_storage_new(backing, n_bytes, "backing") : NULL};
    g_autoptr(GError) error = NULL;
    QimgChain *chain;
    QimgImage *image;

    qimg_options_set(options, "threads", "1", NULL);
    options->is_writable = is_writable;
    chain = chain_open_storages(storages, backing ? 2 : 1, options, &error);
    g_assert_no_error(error);
    image = image_new(chain, 0, &chain->layers[0]->active);
    chain_unref(chain);
    return image;
}

static void
write_some(GByteArray **top, const uint8_t *old)
{
    QimgStorage *storage = memory_storage_new_writable((*top)->data, (*top)->len, "top");
    QimgImage *image = open_over(storage, old, OLD_BYTES, true);
    uint8_t bytes[CLUSTER];

    memset(bytes, 0xee, sizeof bytes);
    g_assert_cmpint(qimg_image_write(image, 9 * CLUSTER, bytes, CLUSTER), ==, 0);
    g_assert_cmpint(qimg_image_flush(image), ==, 0);
    g_byte_array_unref(*top);
    *top = memory_storage_copy_all(storage);
    qimg_image_close(image);
}

static void
read_disk(QimgImage *image, uint8_t *bytes)
{
    g_assert_cmpint(qimg_image_read(image, 0, bytes, DISK_BYTES), ==, 0);
}

/* Whether the image left by an interruption names the new file; its disk is @wanted. */
static bool
check_left(GByteArray *top, const uint8_t *old, const uint8_t *new, const uint8_t *wanted)
{
    g_autofree char *problem = qcow2_check_bytes(top->data, top->len, NULL);
    g_autofree uint8_t *bytes = g_malloc(DISK_BYTES);
    TestLayer layer = test_layer_open(top, false);
    bool is_new = g_strcmp0(layer.q->base.backing_name, "old") != 0;
    QimgImage *image;

    test_layer_close(&layer);
    g_assert_cmpstr(problem, ==, NULL);
    image = open_over(memory_storage_new(top->data, top->len, "top"), is_new ? new : old,
                      is_new ? NEW_BYTES : OLD_BYTES, false);
    read_disk(image, bytes);
    g_assert_cmpmem(bytes, DISK_BYTES, wanted, DISK_BYTES);
    qimg_image_close(image);
    g_byte_array_unref(top);
    return is_new;
}

static bool
rebase(QimgImage *image, const Case *c, const uint8_t *new, GError **error)
{
    QimgHeaderChange change = to_old;
    QimgImage *new_image = NULL;
    bool is_done;

    change.backing_name = c->has_new ? "new" : NULL;
    change.backing_format = c->has_new ? "raw" : NULL;
    if (c->has_new)
        new_image = open_over(memory_storage_new(new, NEW_BYTES, "new"), NULL, 0, false);
    is_done = rebase_image(image, new_image, &change, NULL, error);
    qimg_image_close(new_image);
    return is_done;
}

static void
test_crashes(const void *data)
{
    const Case *c = data;
    g_autofree uint8_t *old = make_backing(false);
    g_autofree uint8_t *all_new = make_backing(true);
    g_autofree uint8_t *wanted = g_malloc(DISK_BYTES);
    uint8_t *new = c->has_new ? all_new : NULL;
    GByteArray *top = make_top(c);
    g_autoptr(CrashRecord) record = crash_record_new();
    GRand *rand = g_rand_new_with_seed(test_util_seed());
    GError *error = NULL;
    unsigned n_old = 0, n_new = 0;
    CrashReplay *replay;
    QimgImage *image;

    write_some(&top, old);
    image =
        open_over(recording_storage_new(
                      memory_storage_new_writable(top->data, top->len, "top"), record, 0),
                  old, OLD_BYTES, true);
    read_disk(image, wanted);
    g_assert_true(rebase(image, c, new, &error));
    qimg_image_close(image);
    replay = crash_replay_new(record, 0, top->data, top->len);
    for (size_t i = 0; i <= crash_record_length(record); i++) {
        crash_replay_advance(replay, i);
        for (unsigned k = 0; k < 4; k++) {
            bool is_new = check_left(k == 0 ? crash_replay_process(replay, 0)
                                            : crash_replay_machine(replay, rand),
                                     old, new, wanted);

            n_new += is_new;
            n_old += !is_new;
        }
    }
    g_assert_cmpuint(n_old, >, 0);
    g_assert_cmpuint(n_new, >, 0);
    crash_replay_free(replay);
    g_rand_free(rand);
    g_byte_array_unref(top);
}

/* Each change of the file fails in turn, and all later ones. */
static void
test_faults(const void *data)
{
    const Case *c = data;
    g_autofree uint8_t *old = make_backing(false);
    g_autofree uint8_t *all_new = make_backing(true);
    g_autofree uint8_t *wanted = g_malloc(DISK_BYTES);
    uint8_t *new = c->has_new ? all_new : NULL;
    GByteArray *top = make_top(c);
    bool is_done = false;

    write_some(&top, old);
    for (unsigned n = 0; !is_done; n++) {
        QimgStorage *storage = memory_storage_new_writable(top->data, top->len, "top");
        QimgImage *image = open_over(storage, old, OLD_BYTES, true);
        g_autoptr(GError) error = NULL;

        read_disk(image, wanted);
        memory_storage_add_fault(
            storage, &(MemoryFault){.calls = MEMORY_WRITE | MEMORY_SYNC | MEMORY_SET_SIZE,
                                    .purpose = MEMORY_ANY_PURPOSE,
                                    .n_until = n,
                                    .n_fails = UINT64_MAX,
                                    .errnum = EIO});
        is_done = rebase(image, c, new, &error);
        g_assert_cmpint(error == NULL, ==, is_done);
        memory_storage_clear_faults(storage);
        check_left(memory_storage_copy_all(storage), old, new, wanted);
        qimg_image_close(image);
    }
    g_byte_array_unref(top);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *crashes = g_strdup_printf("/rebase/crashes/%s", cases[i].name);
        g_autofree char *faults = g_strdup_printf("/rebase/faults/%s", cases[i].name);

        g_test_add_data_func(crashes, &cases[i], test_crashes);
        g_test_add_data_func(faults, &cases[i], test_faults);
    }
    return g_test_run();
}
