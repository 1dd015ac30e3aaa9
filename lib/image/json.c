/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Facts about an image as JSON. Names of qemu-img's members are kept where the meaning is
 * the same. Bytes that are not UTF-8 are shown percent-encoded. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "image/handle.h"

#define MAX_NAME_BYTES 255u

static void
add_text(json_t *object, const char *name, const char *text, size_t n_bytes)
{
    g_autofree char *utf8 = qimg_json_utf8(text, n_bytes);

    json_object_set_new(object, name, json_string(utf8));
}

static void
add_flag(json_t *object, const char *name, bool flag)
{
    json_object_set_new(object, name, json_boolean(flag));
}

/* Adds a name of a snapshot. QEMU makes none of more than 255 bytes; what a damaged or
 * hostile image has beyond that is cut. */
static void
add_name(json_t *object, const char *name, const char *text, size_t n_bytes)
{
    if (n_bytes > MAX_NAME_BYTES) {
        n_bytes = MAX_NAME_BYTES;
        while (n_bytes > 0 && ((unsigned char)text[n_bytes] & 0xc0) == 0x80)
            n_bytes--; /* not within a UTF-8 character */
    }
    add_text(object, name, text, n_bytes);
}

static void
add_snapshot_members(json_t *o, const QimgSnapshot *s)
{
    add_name(o, "id", s->id, s->id_bytes);
    add_name(o, "name", s->name, s->name_bytes);
    qimg_json_add_number(o, "vm-state-size", s->vm_state_bytes);
    qimg_json_add_number(o, "disk-size", s->disk_bytes);
    qimg_json_add_number(o, "date-sec", (uint64_t)s->date_s);
    qimg_json_add_number(o, "date-nsec", s->date_ns);
    qimg_json_add_number(o, "vm-clock-sec", s->vm_clock_ns / 1000000000);
    qimg_json_add_number(o, "vm-clock-nsec", s->vm_clock_ns % 1000000000);
    if (s->icount >= 0)
        qimg_json_add_number(o, "icount", (uint64_t)s->icount);
}

/* Adds the persistent bitmaps. A directory that cannot be read is told in their place. */
static void
add_bitmaps(json_t *o, QimgFormat *layer)
{
    g_autoptr(GArray) bitmaps = NULL;
    json_t *list;
    QimgErrno err =
        layer->driver->list_bitmaps ? layer->driver->list_bitmaps(layer, &bitmaps) : 0;

    if (err)
        qimg_json_add_text(o, "bitmaps-error", g_strerror(-err));
    if (!bitmaps || bitmaps->len == 0)
        return;
    list = json_array();
    for (guint i = 0; i < bitmaps->len; i++) {
        const QimgBitmap *b = &g_array_index(bitmaps, QimgBitmap, i);
        json_t *bitmap = json_object(), *flags = json_array();

        add_text(bitmap, "name", b->name, b->name_bytes);
        qimg_json_add_number(bitmap, "granularity",
                             UINT64_C(1) << MIN(b->granularity_bits, 63u));
        if (b->is_in_use)
            json_array_append_new(flags, json_string("in-use"));
        if (b->is_auto)
            json_array_append_new(flags, json_string("auto"));
        json_object_set_new(bitmap, "flags", flags);
        json_array_append_new(list, bitmap);
    }
    json_object_set_new(o, "bitmaps", list);
}

static void
add_format_specific(json_t *o, QimgFormat *layer)
{
    json_t *specific, *data;

    if (layer->n_facts == 0)
        return;
    specific = json_object();
    data = json_object();
    qimg_json_add_text(specific, "type", layer->driver->name);
    for (unsigned i = 0; i < layer->n_facts; i++) {
        const QimgFact *fact = &layer->facts[i];

        switch (fact->kind) {
        case QIMG_FACT_BOOL:
            add_flag(data, fact->name, fact->flag);
            break;
        case QIMG_FACT_NUMBER:
            qimg_json_add_number(data, fact->name, fact->number);
            break;
        case QIMG_FACT_TEXT:
            qimg_json_add_text(data, fact->name, fact->text);
            break;
        }
    }
    if (layer->encryption) {
        json_t *encrypt = json_object();

        qimg_json_add_text(encrypt, "format", layer->encryption);
        json_object_set_new(data, "encrypt", encrypt);
    }
    add_bitmaps(data, layer);
    json_object_set_new(specific, "data", data);
    json_object_set_new(o, "format-specific", specific);
}

static uint64_t
occupied_bytes(const QimgFormat *layer)
{
    uint64_t n_blocks = (uint64_t)layer->file->status.st_blocks;

    if (layer->data_file)
        n_blocks += (uint64_t)layer->data_file->status.st_blocks;
    return n_blocks * QIMG_SECTOR_BYTES;
}

/* The members that one layer has, whether it stands alone or in the chain. */
static void
add_layer_members(json_t *o, QimgFormat *layer, const QimgFormat *backing)
{
    qimg_json_add_text(o, "filename", layer->file->path);
    qimg_json_add_text(o, "format", layer->driver->name);
    qimg_json_add_number(o, "virtual-size", layer->active.size_bytes);
    qimg_json_add_number(o, "actual-size", occupied_bytes(layer));
    add_flag(o, "dirty-flag", layer->is_dirty);
    add_flag(o, "encrypted", layer->encryption != NULL);
    if (layer->n_facts > 0)
        qimg_json_add_number(o, "cluster-size", layer->cluster_bytes);
    if (layer->backing_name) {
        qimg_json_add_text(o, "backing-filename", layer->backing_name);
        if (layer->backing_format)
            qimg_json_add_text(o, "backing-filename-format", layer->backing_format);
        if (backing)
            qimg_json_add_text(o, "full-backing-filename", backing->file->path);
    }
    if (layer->data_file)
        qimg_json_add_text(o, "full-data-filename", layer->data_file->path);
    if (layer->snapshots->n > 0) {
        json_t *snapshots = json_array();

        for (unsigned i = 0; i < layer->snapshots->n; i++) {
            json_t *snapshot = json_object();

            add_snapshot_members(snapshot, &layer->snapshots->items[i].facts);
            json_array_append_new(snapshots, snapshot);
        }
        json_object_set_new(o, "snapshots", snapshots);
    }
    add_format_specific(o, layer);
}

char *
qimg_image_info_json(const QimgImage *image)
{
    QIMG_GATE_SCOPE(image->chain->gate);
    const QimgChain *chain = image->chain;
    json_t *root = json_object(), *layers = json_array(), *warnings = json_array();

    for (unsigned i = image->first_layer; i < chain->n_layers; i++) {
        const QimgFormat *backing = i + 1 < chain->n_layers ? chain->layers[i + 1] : NULL;
        json_t *layer = json_object();

        if (i == image->first_layer)
            add_layer_members(root, chain->layers[i], backing);
        add_layer_members(layer, chain->layers[i], backing);
        json_array_append_new(layers, layer);
    }
    json_object_set_new(root, "chain", layers);
    for (const char *const *w = qimg_image_get_warnings(image); *w; w++) {
        g_autofree char *utf8 = qimg_json_utf8(*w, strlen(*w));

        json_array_append_new(warnings, json_string(utf8));
    }
    json_object_set_new(root, "warnings", warnings);
    return qimg_json_finish(root);
}

char *
qimg_snapshot_json(const QimgSnapshot *snapshot)
{
    json_t *root = json_object();

    add_snapshot_members(root, snapshot);
    return qimg_json_finish(root);
}

static void
add_cache(json_t *o, const char *name, const SlotCache *const *caches, unsigned n_caches)
{
    SlotCacheStats sum = {0};
    json_t *cache = json_object();

    for (unsigned i = 0; i < n_caches; i++) {
        SlotCacheStats s;
        bool is_counted = !caches[i];

        for (unsigned j = 0; j < i; j++)
            is_counted |= caches[j] == caches[i];
        if (is_counted)
            continue;
        s = slot_cache_get_stats(caches[i]);
        sum.n_hits += s.n_hits;
        sum.n_misses += s.n_misses;
        sum.used_bytes += s.used_bytes;
        sum.max_bytes += s.max_bytes;
    }
    qimg_json_add_number(cache, "hits", sum.n_hits);
    qimg_json_add_number(cache, "misses", sum.n_misses);
    qimg_json_add_number(cache, "used-bytes", sum.used_bytes);
    qimg_json_add_number(cache, "max-bytes", sum.max_bytes);
    json_object_set_new(o, name, cache);
}

static json_t *
storage_json(const QimgStorage *storage)
{
    json_t *file = json_object();

    qimg_json_add_text(file, "filename", storage->path);
    for (unsigned p = 0; p < QIMG_N_IO_PURPOSES; p++) {
        uint64_t n_reads =
            atomic_load_explicit(&storage->n_reads[p], memory_order_relaxed);
        uint64_t n_writes =
            atomic_load_explicit(&storage->n_writes[p], memory_order_relaxed);
        json_t *purpose;

        if (n_reads == 0 && n_writes == 0)
            continue;
        purpose = json_object();
        qimg_json_add_number(purpose, "reads", n_reads);
        qimg_json_add_number(
            purpose, "bytes",
            atomic_load_explicit(&storage->bytes_read[p], memory_order_relaxed));
        if (n_writes > 0) {
            qimg_json_add_number(purpose, "writes", n_writes);
            qimg_json_add_number(
                purpose, "bytes-written",
                atomic_load_explicit(&storage->bytes_written[p], memory_order_relaxed));
        }
        json_object_set_new(file, qimg_io_purpose_names[p], purpose);
    }
    if (qimg_storage_is_writable(storage))
        qimg_json_add_number(
            file, "syncs", atomic_load_explicit(&storage->n_syncs, memory_order_relaxed));
    return file;
}

char *
qimg_image_stats_json(const QimgImage *image)
{
    static const char *const names[N_COUNTERS] = {
        [COUNTER_READS] = "reads",
        [COUNTER_BYTES] = "bytes-read",
        [COUNTER_ZERO_BYTES] = "zero-bytes",
        [COUNTER_INFLATED_CLUSTERS] = "inflated-clusters",
        [COUNTER_READ_AHEAD_CLUSTERS] = "read-ahead-clusters",
        [COUNTER_RESOLVED_REGIONS] = "resolved-regions",
        [COUNTER_WRITES] = "writes",
        [COUNTER_BYTES_WRITTEN] = "bytes-written",
        [COUNTER_ALLOCATING_WRITES] = "allocating-writes",
        [COUNTER_COPIED_BYTES] = "copied-bytes",
        [COUNTER_ERRORS] = "errors",
    };
    const QimgChain *chain = image->chain;
    const SlotCache *tables = chain->tables;
    json_t *root = json_object(), *files = json_array();

    for (unsigned i = 0; i < N_COUNTERS; i++)
        qimg_json_add_number(
            root, names[i],
            atomic_load_explicit(&chain->counters[i], memory_order_relaxed));
    add_cache(root, "table-cache", &tables, 1);
    add_cache(root, "cluster-cache", (const SlotCache *const *)chain->clusters,
              chain->n_layers);
    for (unsigned i = 0; i < chain->n_layers; i++) {
        json_array_append_new(files, storage_json(chain->layers[i]->file));
        if (chain->layers[i]->data_file)
            json_array_append_new(files, storage_json(chain->layers[i]->data_file));
    }
    json_object_set_new(root, "files", files);
    return qimg_json_finish(root);
}

static json_t *
finding_json(const QimgFinding *finding)
{
    static const char *const kinds[] = {
        [QIMG_FINDING_CORRUPTION] = "corruption",
        [QIMG_FINDING_LEAK] = "leak",
        [QIMG_FINDING_ERROR] = "error",
    };
    json_t *o = json_object();

    qimg_json_add_text(o, "kind", kinds[finding->kind]);
    qimg_json_add_number(o, "host-offset", finding->host_offset);
    if (finding->length_bytes > 0)
        qimg_json_add_number(o, "length", finding->length_bytes);
    if (finding->guest_offset != UINT64_MAX)
        qimg_json_add_number(o, "guest-offset", finding->guest_offset);
    qimg_json_add_text(o, "text", finding->text);
    return o;
}

char *
qimg_check_result_json(const QimgCheckResult *result)
{
    json_t *root = json_object(), *findings = json_array();

    qimg_json_add_text(root, "filename", result->filename);
    qimg_json_add_text(root, "format", result->format);
    qimg_json_add_number(root, "check-errors", result->n_check_errors);
    qimg_json_add_number(root, "corruptions", result->n_corruptions);
    qimg_json_add_number(root, "leaks", result->n_leaks);
    qimg_json_add_number(root, "corruptions-fixed", result->n_corruptions_fixed);
    qimg_json_add_number(root, "leaks-fixed", result->n_leaks_fixed);
    qimg_json_add_number(root, "image-end-offset", result->image_end_offset);
    qimg_json_add_number(root, "total-clusters", result->n_total_clusters);
    qimg_json_add_number(root, "allocated-clusters", result->n_allocated_clusters);
    qimg_json_add_number(root, "fragmented-clusters", result->n_fragmented_clusters);
    qimg_json_add_number(root, "compressed-clusters", result->n_compressed_clusters);
    add_flag(root, "dirty-flag", result->is_dirty);
    add_flag(root, "corrupt", result->is_marked_corrupt);
    for (unsigned i = 0; i < result->n_findings; i++)
        json_array_append_new(findings, finding_json(&result->findings[i]));
    json_object_set_new(root, "findings", findings);
    qimg_json_add_number(root, "findings-not-listed",
                         result->n_all_findings - result->n_findings);
    return qimg_json_finish(root);
}

size_t
qimg_extent_to_json(const QimgExtent *e, char buffer[QIMG_EXTENT_JSON_BYTES])
{
    bool is_zero = e->kind == QIMG_EXTENT_UNALLOCATED || e->kind == QIMG_EXTENT_ZERO;
    char tail[160] = "";
    int n;

    if (e->kind == QIMG_EXTENT_DATA)
        snprintf(tail, sizeof tail, ", \"offset\": %" PRIu64, e->host_offset);
    else if (e->kind == QIMG_EXTENT_DAMAGED)
        snprintf(tail, sizeof tail, ", \"error\": \"%s\"", e->reason);
    n = snprintf(buffer, QIMG_EXTENT_JSON_BYTES,
                 "{ \"start\": %" PRIu64 ", \"length\": %" PRIu64
                 ", \"depth\": %u, \"present\": %s, \"zero\": %s, \"data\": %s, "
                 "\"compressed\": %s%s}",
                 e->guest_offset, e->length_bytes, e->depth,
                 e->present ? "true" : "false", is_zero ? "true" : "false",
                 is_zero ? "false" : "true",
                 e->kind == QIMG_EXTENT_COMPRESSED ? "true" : "false", tail);
    return (size_t)n;
}
