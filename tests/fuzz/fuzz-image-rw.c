/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A whole image, qcow2 or QED, opened for writing and changed; then examined as by
 * fuzz-image. Input: SCRIPT_BYTES with the operations (OP_BYTES each), then the file. A
 * damaged image may map two places of the disk to one place of the file, so only one fact
 * is known about its content: a piece inside a cluster has the bytes just written to
 * it. An encrypted one has the key "words". */
#include <errno.h>
#include <string.h>

#include "fuzz-image.h"
#include "fuzz.h"
#include "image/chain/chain.h"
#include "image/chain/handle.h"
#include "image/image.h"
#include "image/open/chain-open.h"
#include "memory-storage.h"
#include "sparse-disk.h"

#define N_OPS          12u
#define OP_BYTES       3u
#define SCRIPT_BYTES   (1 + N_OPS * OP_BYTES)
#define MAX_FILE_BYTES (64 * QIMG_MIB)
#define MAX_WRITE      (128 * 1024u)
#define MAX_GROWTH     (4 * QIMG_MIB)
#define MAX_RANGE      (8 * QIMG_MIB)
#define N_BITMAPS      4u
#define N_EXTENTS      20u
#define BASE_BYTES     5000u
#define MAX_INPUT_US   (G_USEC_PER_SEC / 2)
#define PASSPHRASE     "words"
#define MAX_ITERATIONS "20000"          /* some 10 ms */
#define MIN_LONG_BYTES (640 * QIMG_KIB) /* the smallest area of LUKS needs 504 KiB */

typedef struct {
    QimgImage *image;
    uint8_t *buffer; /* MAX_WRITE */
    uint8_t *found;  /* MAX_WRITE */
    uint8_t fill;    /* of the next write */
} Change;

static void
check_answer(int err)
{
    FUZZ_CHECK(err == 0 || err == -EIO || err == -ENOSPC || err == -EROFS ||
               err == -ENOMEM || err == -EINVAL || err == -EFBIG || err == -EOPNOTSUPP ||
               err == -ENOKEY || err == -EBUSY);
}

/* The pieces of a write in different clusters may be at one place of the file; the last
 * piece was written last. */
static void
expect_last_cluster(Change *c, uint64_t start, uint64_t length, const uint8_t *written)
{
    uint64_t cluster_bytes = qimg_image_get_cluster_bytes(c->image);
    uint64_t in_cluster = (start + length - 1) % cluster_bytes + 1;
    uint64_t n = MIN(in_cluster, length);

    FUZZ_CHECK(qimg_image_read(c->image, start + length - n, c->found, n) == 0);
    for (uint64_t i = 0; i < n; i++)
        FUZZ_CHECK(c->found[i] == (written ? written[length - n + i] : 0));
}

/* An offset on the disk: in the first clusters, anywhere, or near the end. */
static uint64_t
choose_place(const Change *c, uint8_t choice)
{
    uint64_t size_bytes = qimg_image_get_size_bytes(c->image);
    uint64_t cluster_bytes = qimg_image_get_cluster_bytes(c->image);
    uint64_t at;

    if (choice < 160)
        at = choice / 4 * cluster_bytes + choice % 4 * (cluster_bytes / 4 + 1);
    else if (choice < 220)
        at = size_bytes / 60 * (choice - 160u);
    else
        at = size_bytes - MIN(size_bytes, (choice - 220u) * 1000u);
    return at < size_bytes ? at : size_bytes - MIN(size_bytes, 1);
}

static uint64_t
choose_length(const Change *c, uint8_t choice)
{
    uint64_t cluster_bytes = qimg_image_get_cluster_bytes(c->image);

    if (choice < 64)
        return 1 + choice * 37;
    if (choice < 160)
        return cluster_bytes * (choice - 63u) / 8;
    return (choice - 159u) * 4096;
}

static void
do_write(Change *c, uint64_t start, uint64_t length)
{
    int err;

    length = MIN(length, MAX_WRITE);
    for (uint64_t i = 0; i < length; i++)
        c->buffer[i] = (uint8_t)(c->fill + i % 251);
    c->fill += 17;
    err = qimg_image_write(c->image, start, c->buffer, length);
    check_answer(err);
    if (err == 0)
        expect_last_cluster(c, start, length, c->buffer);
}

static void
do_range(Change *c, uint8_t kind, uint64_t start, uint64_t length)
{
    uint64_t size_bytes = qimg_image_get_size_bytes(c->image);
    uint64_t tail;
    int err;

    length = MIN(MIN(length, MAX_RANGE), size_bytes - start);
    if (length == 0)
        return;
    if (kind == 2) {
        check_answer(qimg_image_allocate(c->image, start, length));
        return;
    }
    err = kind == 0 ? qimg_image_zero(c->image, start, length)
                    : qimg_image_discard(c->image, start, length);
    check_answer(err);
    tail = MIN(length, MAX_WRITE);
    if (err == 0)
        expect_last_cluster(c, start + length - tail, tail, NULL);
}

static void
do_resize(Change *c, uint8_t place, uint8_t amount)
{
    uint64_t size_bytes = qimg_image_get_size_bytes(c->image);
    uint64_t wanted = place < 128 ? size_bytes - MIN(size_bytes, amount * 3000u)
                                  : size_bytes + amount * (MAX_GROWTH / 256);
    int err = qimg_image_resize(c->image, wanted, NULL, NULL);

    check_answer(err);
    if (err == 0)
        FUZZ_CHECK(qimg_image_get_size_bytes(c->image) >= wanted &&
                   qimg_image_get_size_bytes(c->image) - wanted < QIMG_SECTOR_BYTES);
}

/* Checks a change of snapshots; on success the list grows by @n_more. */
static void
check_list(Change *c, QimgSnapshots *before, gboolean is_done, int n_more)
{
    QimgSnapshots *after = qimg_image_get_snapshots(c->image);
    unsigned n_before = qimg_snapshots_get_n(before);

    FUZZ_CHECK(qimg_snapshots_get_n(after) ==
               n_before + (is_done ? (unsigned)n_more : 0));
    qimg_snapshots_unref(before);
    qimg_snapshots_unref(after);
}

/* Takes a snapshot, or renames, deletes or reverts to the one at a place of the list, all
 * while the one before it is open. */
static void
do_snapshot(Change *c, uint8_t kind, uint8_t place)
{
    QimgSnapshots *list = qimg_image_get_snapshots(c->image);
    unsigned n = qimg_snapshots_get_n(list);
    QimgImage *open = NULL;
    uint32_t serial = 0;
    char name[8] = {(char)('a' + place % 26), (char)('a' + place / 26), '\0'};

    if (kind == 0) {
        check_list(c, list, qimg_image_create_snapshot(c->image, name, NULL, NULL, NULL),
                   1);
        return;
    }
    if (n > 0)
        serial = qimg_snapshots_get(list, place % n)->serial;
    if (n > 1)
        open = qimg_image_open_snapshot(
            c->image, qimg_snapshots_get(list, (place + 1) % n)->serial, NULL);
    if (kind == 1)
        check_list(c, list, qimg_image_rename_snapshot(c->image, serial, name, NULL), 0);
    else if (kind == 2)
        check_list(c, list,
                   qimg_image_delete_snapshot(c->image, serial, NULL, NULL, NULL), -1);
    else
        check_list(c, list,
                   qimg_image_revert_to_snapshot(c->image, serial, NULL, NULL, NULL), 0);
    if (open && qimg_image_get_size_bytes(open) > 0)
        check_answer(qimg_image_read(open, 0, c->found,
                                     MIN(MAX_WRITE, qimg_image_get_size_bytes(open))));
    qimg_image_close(open);
}

/* Reads the first extents of each bitmap. */
static void
read_bitmaps(Change *c)
{
    QimgBitmaps *list = qimg_image_read_bitmaps(c->image, NULL);

    for (unsigned i = 0; list && i < MIN(qimg_bitmaps_get_n(list), N_BITMAPS); i++) {
        QimgBitmapReader *reader = qimg_bitmap_reader_new(c->image, list, i);
        uint64_t size_bytes = qimg_bitmaps_get(list, i)->size_bytes, at = 0;
        QimgBitmapExtent extent = {.struct_bytes = sizeof extent};

        for (unsigned n = 0; n < N_EXTENTS && at < size_bytes; n++) {
            int err = qimg_bitmap_reader_map(reader, at, &extent);

            check_answer(err);
            if (err)
                break;
            FUZZ_CHECK(extent.length_bytes > 0 && extent.length_bytes <= size_bytes - at);
            at += extent.length_bytes;
        }
        qimg_bitmap_reader_free(reader);
    }
    qimg_bitmaps_unref(list);
}

static void
do_bitmap(Change *c, uint8_t kind, bool of_image)
{
    const QimgBitmapAction action = {.struct_bytes = sizeof action,
                                     .kind = (QimgBitmapActionKind)(kind % 8),
                                     .source = "bits"};
    const QimgBitmapAction *actions[] = {&action};

    (void)qimg_image_change_bitmaps(c->image, of_image ? "bits" : "b", actions, 1, NULL,
                                    NULL, NULL);
    read_bitmaps(c);
}

static void
run_script(Change *c, const uint8_t *script)
{
    gint64 end_us = g_get_monotonic_time() + MAX_INPUT_US;

    for (unsigned i = 0; i < N_OPS && g_get_monotonic_time() < end_us; i++) {
        const uint8_t *op = script + i * OP_BYTES;
        uint64_t start = choose_place(c, op[1]);
        uint64_t length = choose_length(c, op[2]);

        switch (op[0] % 16) {
        case 0 ... 3:
            do_write(c, start, length);
            break;
        case 4:
            do_write(c, qimg_image_get_size_bytes(c->image) + op[1] * 100u, length);
            break;
        case 5 ... 6:
            do_range(c, 0, start, length);
            break;
        case 7 ... 8:
            do_range(c, 1, start, length);
            break;
        case 9:
            do_range(c, 2, start, length);
            break;
        case 10:
            do_resize(c, op[1], op[2]);
            break;
        case 11:
            if (op[1] % 2 == 1)
                do_bitmap(c, op[2], op[1] / 2 % 2 == 1);
            else
                check_answer(qimg_image_flush(c->image));
            break;
        default:
            do_snapshot(c, op[0] % 16 - 12, op[1]);
            break;
        }
    }
}

static QimgOptions *
make_options(QimgStorage *storage, uint8_t choices)
{
    QimgOptions *options = qimg_options_new();

    FUZZ_CHECK(qimg_options_set(options, "rw", NULL, NULL));
    FUZZ_CHECK(qimg_options_set(options, "format", fuzz_format_of(storage), NULL));
    FUZZ_CHECK(qimg_options_set(options, "l2_cache", "64K", NULL));
    FUZZ_CHECK(qimg_options_set(options, "data_cache", "256K", NULL));
    FUZZ_CHECK(qimg_options_set(options, "threads", "1", NULL));
    FUZZ_CHECK(qimg_options_set(options, "max_iterations", MAX_ITERATIONS, NULL));
    FUZZ_CHECK(
        qimg_options_add_passphrase(options, PASSPHRASE, strlen(PASSPHRASE), 0, NULL));
    if (choices & 2)
        FUZZ_CHECK(qimg_options_set(options, "discard", "zero", NULL));
    return options;
}

/* Opens the file above a small raw one, or with a hole at its end, if so chosen; and with
 * a data file if the image needs one. */
static QimgImage *
open_image(SparseDisk *disk, SparseDisk *data, uint8_t choices)
{
    QimgStorage *storages[2] = {sparse_disk_open(disk, true)};
    g_autoptr(QimgOptions) options = make_options(storages[0], choices);
    unsigned n_storages = 1;
    QimgChain *chain;
    QimgImage *image;

    if (choices & 4)
        FUZZ_CHECK(qimg_storage_set_size(storages[0], MIN_LONG_BYTES) == 0);
    if (choices & 1) {
        uint8_t base[BASE_BYTES];

        memset(base, 0xb5, sizeof base);
        storages[n_storages++] = memory_storage_new(base, sizeof base, "base");
    }
    chain = chain_open_storages(storages, n_storages, options, NULL);
    if (!chain)
        return NULL;
    if (chain->layers[0]->needs_data_file && !chain->layers[0]->data_file)
        chain->layers[0]->data_file = sparse_disk_open(data, true);
    image = image_new(chain, 0, &chain->layers[0]->active);
    chain_unref(chain);
    return image;
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    SparseDisk *disk;
    SparseDisk *data;
    QimgStorage *result;
    Change change = {.fill = 1};

    if (n_bytes < SCRIPT_BYTES)
        return 0;
    disk = sparse_disk_new(bytes + SCRIPT_BYTES, n_bytes - SCRIPT_BYTES, MAX_FILE_BYTES);
    data = sparse_disk_new(NULL, 0, MAX_FILE_BYTES);
    change.image = open_image(disk, data, bytes[0]);
    if (change.image) {
        /* Exactly as long as needed, so that a sanitizer sees a byte beyond. */
        change.buffer = g_malloc(MAX_WRITE);
        change.found = g_malloc(MAX_WRITE);
        run_script(&change, bytes + 1);
        qimg_image_close(change.image);
        g_free(change.buffer);
        g_free(change.found);
        result = sparse_disk_open(disk, false);
        fuzz_chain(fuzz_format_of(result), &result, 1);
    }
    sparse_disk_free(disk);
    sparse_disk_free(data);
    return 0;
}
