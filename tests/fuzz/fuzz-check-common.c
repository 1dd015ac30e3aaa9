/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The work of fuzz-qcow2-check and fuzz-qed-check: a further check reports the same as
 * the one after the repair, and no repair changes a mapping. */
#include "fuzz-check.h"

#include <string.h>

#include "format/drivers.h"
#include "fuzz.h"
#include "image/check.h"
#include "sparse-disk.h"

#define MAX_FILE_BYTES (64 * QIMG_MIB)
#define N_MAPPED       300u

typedef struct {
    TableCache *tables;
    QimgFormat *format; /* NULL: refused */
} Layer;

static Layer
open_layer(const QimgDriver *driver, SparseDisk *disk, bool is_writable)
{
    Layer layer = {.tables = slot_cache_new(TABLE_SLICE_BYTES, QIMG_MIB)};
    const QimgFormatEnv env = {
        .tables = layer.tables,
        .inspect = true,
        .has_snapshots = true,
        .for_check = true,
    };
    g_autoptr(GError) error = NULL;
    QimgStorage *file = sparse_disk_open(disk, is_writable);

    layer.format = driver->open(file, &env, &error);
    FUZZ_CHECK((layer.format == NULL) == (error != NULL));
    if (!layer.format)
        qimg_storage_close(file);
    return layer;
}

static void
close_layer(Layer *layer)
{
    qimg_format_close(layer->format);
    slot_cache_free(layer->tables);
}

/* Stores the mapping of the disk's first clusters; returns their number. */
static unsigned
get_mapping(const QimgDriver *driver, SparseDisk *disk, QimgRun runs[N_MAPPED])
{
    Layer layer = open_layer(driver, disk, false);
    QimgFormat *f = layer.format;
    unsigned n = 0;

    for (; f && n < N_MAPPED && n * f->cluster_bytes < f->active.size_bytes; n++)
        if (f->driver->map(f, &f->active, qimg_guest(n * f->cluster_bytes),
                           f->cluster_bytes, &runs[n]) != 0)
            break;
    close_layer(&layer);
    return n;
}

/* Checks, and repairs as @mode says; false if the image cannot be opened. */
static bool
check(const QimgDriver *driver, SparseDisk *disk, QimgRepair mode, QimgCheckResult *out)
{
    Layer layer = open_layer(driver, disk, mode != QIMG_REPAIR_NONE);
    g_autoptr(QimgCheckResult) result = NULL;
    g_autoptr(GError) error = NULL;

    if (layer.format) {
        g_autofree char *json = NULL;

        result = image_check(layer.format, "image", mode, NULL, &error);
        FUZZ_CHECK((result == NULL) == (error != NULL));
        if (result) {
            json = qimg_check_result_json(result);
            FUZZ_CHECK(g_utf8_validate(json, -1, NULL));
            *out = *result;
        }
    }
    close_layer(&layer);
    return result != NULL;
}

/* In a QED image, a complete repair drops entries outside the file. */
static void
compare_runs(const QimgDriver *driver, QimgRepair mode, const QimgRun *before,
             const QimgRun *after)
{
    if (driver == &qimg_driver_qed && mode == QIMG_REPAIR_ALL &&
        before->kind == QIMG_RUN_DAMAGED && after->kind == QIMG_RUN_UNALLOCATED)
        return;
    FUZZ_CHECK(before->kind == after->kind);
    FUZZ_CHECK(before->host_offset.v == after->host_offset.v);
}

void
fuzz_check(const QimgDriver *driver, const uint8_t *bytes, size_t n_bytes)
{
    static QimgRun before[N_MAPPED], after[N_MAPPED];
    QimgCheckResult found, repaired, again;
    SparseDisk *disk;
    QimgRepair mode;
    unsigned n;

    if (n_bytes == 0)
        return;
    mode = bytes[0] & 1 ? QIMG_REPAIR_ALL : QIMG_REPAIR_LEAKS;
    disk = sparse_disk_new(bytes + 1, n_bytes - 1, MAX_FILE_BYTES);
    n = get_mapping(driver, disk, before);
    if (check(driver, disk, QIMG_REPAIR_NONE, &found) &&
        check(driver, disk, mode, &repaired)) {
        FUZZ_CHECK(check(driver, disk, QIMG_REPAIR_NONE, &again));
        FUZZ_CHECK(again.n_corruptions == repaired.n_corruptions &&
                   again.n_leaks == repaired.n_leaks &&
                   again.n_check_errors == repaired.n_check_errors);
        FUZZ_CHECK(repaired.n_corruptions > 0 || !again.is_dirty);
        FUZZ_CHECK(get_mapping(driver, disk, after) == n);
        for (unsigned i = 0; i < n; i++)
            compare_runs(driver, mode, &before[i], &after[i]);
    }
    sparse_disk_free(disk);
}
