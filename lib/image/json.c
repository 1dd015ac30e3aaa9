/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Facts about an image as JSON. Names of qemu-img's members are kept where the meaning is
 * the same. Bytes that are not UTF-8 are shown percent-encoded. */
#include <inttypes.h>
#include <json-glib/json-glib.h>
#include <stdio.h>
#include <string.h>

#include "image/image.h"

/* @bytes as UTF-8: as they are where they are that, else with all but ASCII encoded. */
static char *
utf8_of(const char *bytes, size_t n_bytes)
{
    g_autofree char *encoded = NULL;

    if (g_utf8_validate(bytes, (gssize)n_bytes, NULL))
        return g_strndup(bytes, n_bytes);
    encoded = g_uri_escape_bytes((const guint8 *)bytes, n_bytes, " !#$&'()*+,/:;=?@[]");
    return g_steal_pointer(&encoded);
}

static void
add_text(JsonBuilder *b, const char *name, const char *text, size_t n_bytes)
{
    g_autofree char *utf8 = utf8_of(text, n_bytes);

    json_builder_set_member_name(b, name);
    json_builder_add_string_value(b, utf8);
}

static void
add_string(JsonBuilder *b, const char *name, const char *text)
{
    add_text(b, name, text, strlen(text));
}

static void
add_number(JsonBuilder *b, const char *name, uint64_t number)
{
    json_builder_set_member_name(b, name);
    json_builder_add_int_value(b, (gint64)number);
}

static void
add_flag(JsonBuilder *b, const char *name, bool flag)
{
    json_builder_set_member_name(b, name);
    json_builder_add_boolean_value(b, flag);
}

static char *
finish(JsonBuilder *b)
{
    g_autoptr(JsonGenerator) generator = json_generator_new();
    g_autoptr(JsonNode) root = json_builder_get_root(b);
    g_autofree char *text = NULL;

    json_generator_set_pretty(generator, TRUE);
    json_generator_set_indent(generator, 4);
    json_generator_set_root(generator, root);
    text = json_generator_to_data(generator, NULL);
    return g_strconcat(text, "\n", NULL);
}

static void
add_snapshot_members(JsonBuilder *b, const QimgSnapshot *s)
{
    add_text(b, "id", s->id, s->id_bytes);
    add_text(b, "name", s->name, s->name_bytes);
    add_number(b, "vm-state-size", s->vm_state_bytes);
    add_number(b, "disk-size", s->disk_bytes);
    add_number(b, "date-sec", (uint64_t)s->date_s);
    add_number(b, "date-nsec", s->date_ns);
    add_number(b, "vm-clock-sec", s->vm_clock_ns / 1000000000);
    add_number(b, "vm-clock-nsec", s->vm_clock_ns % 1000000000);
    if (s->icount >= 0)
        add_number(b, "icount", (uint64_t)s->icount);
}

static void
add_format_specific(JsonBuilder *b, const QimgFormat *layer)
{
    if (layer->n_facts == 0)
        return;
    json_builder_set_member_name(b, "format-specific");
    json_builder_begin_object(b);
    add_string(b, "type", layer->driver->name);
    json_builder_set_member_name(b, "data");
    json_builder_begin_object(b);
    for (unsigned i = 0; i < layer->n_facts; i++) {
        const QimgFact *fact = &layer->facts[i];

        switch (fact->kind) {
        case QIMG_FACT_BOOL:
            add_flag(b, fact->name, fact->flag);
            break;
        case QIMG_FACT_NUMBER:
            add_number(b, fact->name, fact->number);
            break;
        case QIMG_FACT_TEXT:
            add_string(b, fact->name, fact->text);
            break;
        }
    }
    if (layer->encryption) {
        json_builder_set_member_name(b, "encrypt");
        json_builder_begin_object(b);
        add_string(b, "format", layer->encryption);
        json_builder_end_object(b);
    }
    json_builder_end_object(b);
    json_builder_end_object(b);
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
add_layer_members(JsonBuilder *b, const QimgFormat *layer, const QimgFormat *backing)
{
    add_string(b, "filename", layer->file->path);
    add_string(b, "format", layer->driver->name);
    add_number(b, "virtual-size", layer->active.size_bytes);
    add_number(b, "actual-size", occupied_bytes(layer));
    add_flag(b, "dirty-flag", layer->is_dirty);
    add_flag(b, "encrypted", layer->encryption != NULL);
    if (layer->n_facts > 0)
        add_number(b, "cluster-size", layer->cluster_bytes);
    if (layer->backing_name) {
        add_string(b, "backing-filename", layer->backing_name);
        if (layer->backing_format)
            add_string(b, "backing-filename-format", layer->backing_format);
        if (backing)
            add_string(b, "full-backing-filename", backing->file->path);
    }
    if (layer->data_file)
        add_string(b, "full-data-filename", layer->data_file->path);
    if (layer->n_snapshots > 0) {
        json_builder_set_member_name(b, "snapshots");
        json_builder_begin_array(b);
        for (unsigned i = 0; i < layer->n_snapshots; i++) {
            json_builder_begin_object(b);
            add_snapshot_members(b, &layer->snapshots[i].facts);
            json_builder_end_object(b);
        }
        json_builder_end_array(b);
    }
    add_format_specific(b, layer);
}

char *
qimg_image_info_json(const QimgImage *image)
{
    g_autoptr(JsonBuilder) b = json_builder_new();
    const QimgChain *chain = image->chain;

    json_builder_begin_object(b);
    for (unsigned i = image->first_layer; i < chain->n_layers; i++) {
        const QimgFormat *backing = i + 1 < chain->n_layers ? chain->layers[i + 1] : NULL;

        if (i == image->first_layer) {
            add_layer_members(b, chain->layers[i], backing);
            json_builder_set_member_name(b, "chain");
            json_builder_begin_array(b);
        }
        json_builder_begin_object(b);
        add_layer_members(b, chain->layers[i], backing);
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
    json_builder_set_member_name(b, "warnings");
    json_builder_begin_array(b);
    for (const char *const *w = qimg_image_get_warnings(image); *w; w++) {
        g_autofree char *utf8 = utf8_of(*w, strlen(*w));

        json_builder_add_string_value(b, utf8);
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
    return finish(b);
}

char *
qimg_image_snapshot_json(const QimgImage *image, unsigned index)
{
    const QimgSnapshot *snapshot = qimg_image_get_snapshot(image, index);
    g_autoptr(JsonBuilder) b = NULL;

    if (!snapshot)
        return NULL;
    b = json_builder_new();
    json_builder_begin_object(b);
    add_snapshot_members(b, snapshot);
    json_builder_end_object(b);
    return finish(b);
}

static void
add_cache(JsonBuilder *b, const char *name, const SlotCache *const *caches,
          unsigned n_caches)
{
    SlotCacheStats sum = {0};

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
    json_builder_set_member_name(b, name);
    json_builder_begin_object(b);
    add_number(b, "hits", sum.n_hits);
    add_number(b, "misses", sum.n_misses);
    add_number(b, "used-bytes", sum.used_bytes);
    add_number(b, "max-bytes", sum.max_bytes);
    json_builder_end_object(b);
}

static void
add_storage(JsonBuilder *b, const QimgStorage *storage)
{
    json_builder_begin_object(b);
    add_string(b, "filename", storage->path);
    for (unsigned p = 0; p < QIMG_N_IO_PURPOSES; p++) {
        uint64_t n = atomic_load_explicit(&storage->n_reads[p], memory_order_relaxed);

        if (n == 0)
            continue;
        json_builder_set_member_name(b, qimg_io_purpose_names[p]);
        json_builder_begin_object(b);
        add_number(b, "reads", n);
        add_number(b, "bytes",
                   atomic_load_explicit(&storage->bytes_read[p], memory_order_relaxed));
        json_builder_end_object(b);
    }
    json_builder_end_object(b);
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
        [COUNTER_ERRORS] = "errors",
    };
    g_autoptr(JsonBuilder) b = json_builder_new();
    const QimgChain *chain = image->chain;
    const SlotCache *tables = chain->tables;

    json_builder_begin_object(b);
    for (unsigned i = 0; i < N_COUNTERS; i++)
        add_number(b, names[i],
                   atomic_load_explicit(&chain->counters[i], memory_order_relaxed));
    add_cache(b, "table-cache", &tables, 1);
    add_cache(b, "cluster-cache", (const SlotCache *const *)chain->clusters,
              chain->n_layers);
    json_builder_set_member_name(b, "files");
    json_builder_begin_array(b);
    for (unsigned i = 0; i < chain->n_layers; i++) {
        add_storage(b, chain->layers[i]->file);
        if (chain->layers[i]->data_file)
            add_storage(b, chain->layers[i]->data_file);
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
    return finish(b);
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
