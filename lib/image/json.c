/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Counters, findings and extents as JSON. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "image/chain/handle.h"

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
    /* All members are present from the start, so that the text keeps its length. */
    for (unsigned p = 0; p < QIMG_N_IO_PURPOSES; p++) {
        json_t *purpose = json_object();

        qimg_json_add_number(
            purpose, "reads",
            atomic_load_explicit(&storage->n_reads[p], memory_order_relaxed));
        qimg_json_add_number(
            purpose, "bytes",
            atomic_load_explicit(&storage->bytes_read[p], memory_order_relaxed));
        if (qimg_storage_is_writable(storage)) {
            qimg_json_add_number(
                purpose, "writes",
                atomic_load_explicit(&storage->n_writes[p], memory_order_relaxed));
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
    json_object_set_new(root, "dirty-flag", json_boolean(result->is_dirty));
    json_object_set_new(root, "corrupt", json_boolean(result->is_marked_corrupt));
    for (unsigned i = 0; i < result->n_findings; i++)
        json_array_append_new(findings,
                              finding_json(qimg_check_result_get_finding(result, i)));
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

    if (e->kind == QIMG_EXTENT_DATA && e->host_path)
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
