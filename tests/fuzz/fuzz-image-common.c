/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The work of fuzz-image and fuzz-chain: map, seek, read, facts, layers, snapshots. Each
 * extent is read at its two ends, so that an exabyte of zeros costs no time. A single
 * call may take a second (see qimg_image_map); an input as a whole gets little more. */
#include <errno.h>
#include <string.h>

#include "fuzz-image.h"
#include "fuzz.h"
#include "image/chain/chain.h"
#include "image/chain/handle.h"
#include "image/image.h"
#include "image/open/chain-open.h"

#define MAX_EXTENTS    300u
#define MAX_SNAPSHOTS  3u
#define READ_BYTES     (64 * 1024u)
#define MAX_READ_BYTES (4 * 1024u * 1024u)
#define MAX_INPUT_US   (G_USEC_PER_SEC / 2)

static gint64 begin_us; /* of the present input */

static bool
is_late(void)
{
    return g_get_monotonic_time() - begin_us > MAX_INPUT_US;
}

typedef struct {
    QimgImage *image;
    uint8_t *buffer;
    uint64_t bytes_left; /* that may still be read */
} Look;

/* Reads the end of the extent that begins or ends at @at. */
static void
read_piece(Look *look, uint64_t at, uint64_t length_bytes, const QimgExtent *e)
{
    int err;

    length_bytes = MIN(length_bytes, READ_BYTES);
    if (length_bytes > look->bytes_left)
        return;
    look->bytes_left -= length_bytes;
    err = qimg_image_read(look->image, at, look->buffer, length_bytes);
    FUZZ_CHECK(err == 0 || err == -EIO || err == -ENOMEM || err == -ENOKEY ||
               err == -EINVAL);
    if (err == -ENOKEY)
        return;
    if (e->kind == QIMG_EXTENT_DAMAGED)
        FUZZ_CHECK(err == -EIO);
    if (e->kind == QIMG_EXTENT_UNALLOCATED || e->kind == QIMG_EXTENT_ZERO) {
        FUZZ_CHECK(err == 0);
        for (uint64_t i = 0; i < length_bytes; i++)
            FUZZ_CHECK(look->buffer[i] == 0);
    }
}

static bool
is_encrypted(const QimgImage *image, unsigned depth)
{
    return (qimg_image_get_layer_flags(image, depth) & QIMG_LAYER_ENCRYPTED) != 0;
}

static void
look_at_extents(Look *look)
{
    uint64_t size_bytes = qimg_image_get_size_bytes(look->image);
    uint64_t at = 0;

    for (unsigned n = 0; at < size_bytes && n < MAX_EXTENTS && !is_late(); n++) {
        char json[QIMG_EXTENT_JSON_BYTES];
        QimgExtent e = {.struct_bytes = sizeof e};
        int err = qimg_image_map(look->image, at, &e);

        FUZZ_CHECK(err == 0 || err == -EIO || err == -ENOMEM || err == -EINVAL);
        if (err)
            return;
        FUZZ_CHECK(e.guest_offset == at && e.length_bytes > 0);
        FUZZ_CHECK(e.length_bytes <= size_bytes - at);
        FUZZ_CHECK(e.depth < qimg_image_get_n_layers(look->image));
        FUZZ_CHECK((e.kind == QIMG_EXTENT_DAMAGED) == (e.reason != NULL));
        FUZZ_CHECK((e.kind == QIMG_EXTENT_DATA && !is_encrypted(look->image, e.depth)) ==
                   (e.host_path != NULL));
        FUZZ_CHECK(qimg_extent_to_json(&e, json) < sizeof json);
        read_piece(look, at, e.length_bytes, &e);
        if (e.length_bytes > READ_BYTES)
            read_piece(look, at + e.length_bytes - READ_BYTES, READ_BYTES, &e);
        at += e.length_bytes;
    }
}

static void
look_at_holes(Look *look)
{
    uint64_t size_bytes = qimg_image_get_size_bytes(look->image);
    uint64_t at = 0;

    for (unsigned n = 0; at < size_bytes && n < 20 && !is_late(); n++) {
        uint64_t found;
        int err = qimg_image_seek(look->image, at, n % 2, &found);

        if (err)
            return;
        FUZZ_CHECK(found >= at && found <= size_bytes);
        at = found;
    }
}

static void
look_at(QimgImage *image)
{
    Look look = {.image = image, .bytes_left = MAX_READ_BYTES};
    uint64_t size_bytes = qimg_image_get_size_bytes(image);
    g_autofree char *info = qimg_image_info_json(image);
    g_autofree char *stats = qimg_image_stats_json(image);

    FUZZ_CHECK(info && stats && g_utf8_validate(info, -1, NULL));
    /* Exactly one piece, so that a sanitizer sees a byte beyond it. */
    look.buffer = g_malloc(READ_BYTES);
    look_at_extents(&look);
    look_at_holes(&look);
    for (uint64_t at = 511; at < size_bytes && at < 16 * READ_BYTES && !is_late();
         at += READ_BYTES)
        (void)qimg_image_read(image, at, look.buffer, MIN(READ_BYTES, size_bytes - at));
    FUZZ_CHECK(qimg_image_read(image, size_bytes, look.buffer, 1) != 0);
    g_free(look.buffer);
}

static void
look_at_handle(QimgImage *opened)
{
    if (opened && !is_late())
        look_at(opened);
    qimg_image_close(opened);
}

void
fuzz_chain(const char *format_name, QimgStorage *const *storages, unsigned n_storages)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgSnapshots) snapshots = NULL;
    QimgChain *chain;
    QimgImage *image;

    begin_us = g_get_monotonic_time();
    FUZZ_CHECK(qimg_options_set(options, "format", format_name, NULL));
    FUZZ_CHECK(qimg_options_set(options, "l2_cache", "64K", NULL));
    FUZZ_CHECK(qimg_options_set(options, "data_cache", "256K", NULL));
    /* One thread: a sanitizer's findings must not depend on timing. */
    FUZZ_CHECK(qimg_options_set(options, "threads", "1", NULL));
    options->inspect = true;
    chain = chain_open_storages(storages, n_storages, options, &error);
    if (!chain) {
        FUZZ_CHECK(error && error->domain == QIMG_ERROR);
        FUZZ_CHECK(strpbrk(error->message, "\n\r\033") == NULL);
        return;
    }
    FUZZ_CHECK(!error);
    image = image_new(chain, 0, &chain->layers[0]->active);
    chain_unref(chain);
    look_at(image);
    for (unsigned depth = 1; depth < n_storages; depth++)
        look_at_handle(qimg_image_open_layer(image, depth, NULL));
    snapshots = qimg_image_get_snapshots(image);
    for (unsigned i = 0; i < MIN(qimg_snapshots_get_n(snapshots), MAX_SNAPSHOTS); i++) {
        g_autofree char *json = qimg_snapshot_json(qimg_snapshots_get(snapshots, i));

        FUZZ_CHECK(json && g_utf8_validate(json, -1, NULL));
        look_at_handle(qimg_image_open_snapshot(image, i, NULL));
        look_at_handle(qimg_image_open_vmstate(image, i, NULL));
    }
    qimg_image_close(image);
}
