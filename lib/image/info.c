/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Properties of an image as JSON, generated piece by piece. Members have qemu-img's names
 * where the meaning is the same. Bytes that are not UTF-8 are percent-encoded.
 *
 * The text is a fixed sequence of steps for each layer, first for the top one, then for
 * every layer as an element of "chain". A place in it is a step and a number within the
 * step, so that generation can resume at any earlier place. The lists of snapshots and
 * the properties that can change are read once, inside the gate; the pieces are made
 * outside, except those of bitmaps, which enter it for one read of the directory. */
#include <string.h>

#include "base/json.h"
#include "image/chain/handle.h"

#define MAX_NAME_BYTES 255u

/* Levels of indentation. */
#define ROOT_LEVEL    1u
#define ELEMENT_LEVEL 3u
#define LEVEL_SPACES  4u

typedef enum {
    STEP_HEAD,      /* the layer's own members */
    STEP_SNAPSHOTS, /* one piece per snapshot */
    STEP_FORMAT,    /* members particular to the format */
    STEP_BITMAPS,   /* one piece for several bitmaps */
    STEP_END,
    N_STEPS,
} Step;

/* The content of a QimgInfoPlace. */
typedef struct {
    uint64_t number;
    uint64_t round, step;
} Place;

_Static_assert(sizeof(Place) <= sizeof(QimgInfoPlace), "there is room for it");

struct QimgInfo {
    const QimgImage *image; /* borrowed */
    unsigned first_layer, n_layers;
    uint64_t size_bytes;        /* of the first layer */
    bool is_dirty;              /* of the first layer */
    QimgSnapshots *snapshots[]; /* of each layer from the first one */
};

static void
add_bytes(json_t *object, const char *name, const char *text, size_t n_bytes)
{
    g_autofree char *utf8 = qimg_json_utf8(text, n_bytes);

    json_object_set_new(object, name, json_string(utf8));
}

/* Adds a name of a snapshot. QEMU limits names to 255 bytes; longer ones of a damaged or
 * hostile image are cut. */
static void
add_name(json_t *object, const char *name, const char *text, size_t n_bytes)
{
    if (n_bytes > MAX_NAME_BYTES) {
        n_bytes = MAX_NAME_BYTES;
        while (n_bytes > 0 && ((unsigned char)text[n_bytes] & 0xc0) == 0x80)
            n_bytes--; /* not inside a UTF-8 character */
    }
    add_bytes(object, name, text, n_bytes);
}

static json_t *
snapshot_json(const QimgSnapshot *s)
{
    json_t *o = json_object();

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
    return o;
}

static json_t *
bitmap_json(const QimgListedBitmap *b)
{
    json_t *bitmap = json_object(), *flags = json_array();

    add_bytes(bitmap, "name", b->name, b->name_bytes);
    qimg_json_add_number(bitmap, "granularity",
                         UINT64_C(1) << MIN(b->granularity_bits, 63u));
    if (b->is_in_use)
        json_array_append_new(flags, json_string("in-use"));
    if (b->is_auto)
        json_array_append_new(flags, json_string("auto"));
    json_object_set_new(bitmap, "flags", flags);
    return bitmap;
}

/* The mode is CIPHER-IVGEN:HASH. Spec: encryption section 3.1. */
static void
add_luks_cipher(json_t *o, const LuksHeader *header)
{
    g_auto(GStrv) parts = g_strsplit(header->mode, "-", 2);
    g_auto(GStrv) iv = g_strsplit(parts[0] && parts[1] ? parts[1] : "", ":", 2);
    bool has_two_keys = parts[0] && strcmp(parts[0], "xts") == 0;
    g_autofree char *cipher = g_strdup_printf(
        "%s-%u", header->cipher, header->key_bytes * 8 / (has_two_keys ? 2 : 1));

    qimg_json_add_text(o, "cipher-alg", cipher);
    qimg_json_add_text(o, "cipher-mode", parts[0] ? parts[0] : "");
    if (iv[0])
        qimg_json_add_text(o, "ivgen-alg", iv[0]);
    if (iv[0] && iv[1])
        qimg_json_add_text(o, "ivgen-hash-alg", iv[1]);
    qimg_json_add_text(o, "hash-alg", header->hash);
}

static json_t *
luks_slot_json(const LuksSlot *slot)
{
    json_t *o = json_object();

    json_object_set_new(o, "active", json_boolean(slot->is_active));
    if (slot->is_active)
        qimg_json_add_number(o, "iters", slot->iterations);
    qimg_json_add_number(o, "key-offset", slot->material_offset);
    if (slot->is_active)
        qimg_json_add_number(o, "stripes", LUKS_STRIPES);
    return o;
}

static void
add_luks(json_t *o, const LuksHeader *header)
{
    json_t *slots = json_array();

    add_luks_cipher(o, header);
    qimg_json_add_text(o, "uuid", header->uuid);
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        json_array_append_new(slots, luks_slot_json(&header->slots[i]));
    json_object_set_new(o, "slots", slots);
    qimg_json_add_number(o, "payload-offset", header->payload_offset);
    qimg_json_add_number(o, "master-key-iters", header->digest_iterations);
    json_object_set_new(o, "detached-header", json_false());
}

/* Whether it is one itself, without another format around it. */
static bool
is_luks_volume(const QimgFormat *layer)
{
    return layer->luks && layer->n_facts == 0;
}

static json_t *
facts_json(const QimgFormat *layer)
{
    json_t *data = json_object();

    for (unsigned i = 0; i < layer->n_facts; i++) {
        const QimgFact *fact = &layer->facts[i];

        switch (fact->kind) {
        case QIMG_FACT_BOOL:
            json_object_set_new(data, fact->name, json_boolean(fact->flag));
            break;
        case QIMG_FACT_NUMBER:
            qimg_json_add_number(data, fact->name, fact->number);
            break;
        case QIMG_FACT_TEXT:
            qimg_json_add_text(data, fact->name, fact->text);
            break;
        }
    }
    if (is_luks_volume(layer)) {
        add_luks(data, layer->luks);
    } else if (layer->encryption) {
        json_t *encrypt = json_object();

        qimg_json_add_text(encrypt, "format", layer->encryption);
        if (layer->luks)
            add_luks(encrypt, layer->luks);
        json_object_set_new(data, "encrypt", encrypt);
    }
    return data;
}

static uint64_t
occupied_bytes(const QimgFormat *layer)
{
    uint64_t n_blocks = (uint64_t)layer->file->status.st_blocks;

    if (layer->data_file)
        n_blocks += (uint64_t)layer->data_file->status.st_blocks;
    return n_blocks * QIMG_SECTOR_BYTES;
}

static json_t *
head_json(const QimgInfo *info, unsigned i)
{
    const QimgChain *chain = info->image->chain;
    const QimgFormat *layer = chain->layers[info->first_layer + i];
    const QimgFormat *backing =
        i + 1 < info->n_layers ? chain->layers[info->first_layer + i + 1] : NULL;
    json_t *o = json_object();

    qimg_json_add_text(o, "filename", layer->file->path);
    qimg_json_add_text(o, "format", layer->driver->name);
    qimg_json_add_number(o, "virtual-size",
                         i == 0 ? info->size_bytes
                                : qimg_view_size_bytes(&layer->active));
    qimg_json_add_number(o, "actual-size", occupied_bytes(layer));
    json_object_set_new(o, "dirty-flag",
                        json_boolean(i == 0 ? info->is_dirty : layer->is_dirty));
    json_object_set_new(o, "encrypted", json_boolean(layer->encryption != NULL));
    if (layer->n_facts > 0)
        qimg_json_add_number(o, "cluster-size", layer->cluster_bytes);
    if (layer->backing_name) {
        qimg_json_add_text(o, "backing-filename", layer->backing_name);
        qimg_json_add_text(o, "backing-filename-format", layer->backing_format);
        if (backing)
            qimg_json_add_text(o, "full-backing-filename", backing->file->path);
    }
    if (layer->data_file)
        qimg_json_add_text(o, "full-data-filename", layer->data_file->path);
    return o;
}

/* ---- pieces ---- */

static void
new_line(GString *out, unsigned level)
{
    g_string_append_printf(out, "\n%*s", (int)(level * LEVEL_SPACES), "");
}

/* Begins an element or member: @is_first of its array or object. */
static void
begin_item(GString *out, bool is_first, unsigned level)
{
    if (!is_first)
        g_string_append_c(out, ',');
    new_line(out, level);
}

static void
append_snapshot(const QimgInfo *info, unsigned i, uint64_t place, unsigned level,
                GString *out)
{
    const QimgSnapshots *list = info->snapshots[i];

    if (place == 0) {
        begin_item(out, false, level);
        g_string_append(out, "\"snapshots\": [");
    }
    begin_item(out, place == 0, level + 1);
    qimg_json_append(out, snapshot_json(qimg_snapshots_get(list, (unsigned)place)),
                     level + 1);
    if (place + 1 == qimg_snapshots_get_n(list)) {
        new_line(out, level);
        g_string_append_c(out, ']');
    }
}

/* Appends the bitmaps from @*position on, as many as one read of their directory returns.
 * Returns whether there may be more. */
static bool
append_bitmaps(const QimgInfo *info, QimgFormat *layer, uint64_t *position,
               unsigned level, GString *out)
{
    g_autoptr(GArray) bitmaps = NULL;
    bool is_first = *position == 0;
    QimgErrno err;

    if (!layer->driver->list_bitmaps)
        return false;
    {
        QIMG_GATE_SCOPE(info->image->chain->gate);

        err = layer->driver->list_bitmaps(layer, position, &bitmaps);
    }
    for (guint i = 0; !err && i < bitmaps->len; i++) {
        if (is_first && i == 0) {
            begin_item(out, false, level);
            g_string_append(out, "\"bitmaps\": [");
        }
        begin_item(out, is_first && i == 0, level + 1);
        qimg_json_append(out, bitmap_json(&g_array_index(bitmaps, QimgListedBitmap, i)),
                         level + 1);
    }
    if (!err && bitmaps->len > 0)
        return true;
    if (!is_first) {
        new_line(out, level);
        g_string_append_c(out, ']');
    }
    if (err) {
        json_t *o = json_object();

        /* An error takes the place of the bitmaps. */
        qimg_json_add_text(o, "bitmaps-error", g_strerror(-err));
        begin_item(out, false, level);
        qimg_json_append_members(out, o, level);
    }
    return false;
}

static void
append_end(const QimgInfo *info, unsigned i, bool is_element, bool has_facts,
           unsigned level, GString *out)
{
    if (has_facts) {
        new_line(out, level + 1);
        g_string_append_c(out, '}');
        new_line(out, level);
        g_string_append_c(out, '}');
    }
    if (is_element) {
        new_line(out, level - 1);
        g_string_append_c(out, '}');
    }
    if (is_element && i + 1 == info->n_layers) {
        json_t *warnings = json_array(), *o = json_object();

        new_line(out, ROOT_LEVEL);
        g_string_append_c(out, ']');
        for (const char *const *w = qimg_image_get_warnings(info->image); *w; w++) {
            g_autofree char *utf8 = qimg_json_utf8(*w, strlen(*w));

            json_array_append_new(warnings, json_string(utf8));
        }
        json_object_set_new(o, "warnings", warnings);
        begin_item(out, false, ROOT_LEVEL);
        qimg_json_append_members(out, o, ROOT_LEVEL);
        g_string_append(out, "\n}\n");
    }
}

static void
append_head(const QimgInfo *info, unsigned i, bool is_element, unsigned level,
            GString *out)
{
    if (is_element && i == 0) {
        begin_item(out, false, ROOT_LEVEL);
        g_string_append(out, "\"chain\": [");
    }
    if (is_element)
        begin_item(out, i == 0, level - 1);
    g_string_append_c(out, '{');
    new_line(out, level);
    qimg_json_append_members(out, head_json(info, i), level);
}

static void
append_format(const QimgFormat *layer, unsigned level, GString *out)
{
    json_t *o = json_object();

    qimg_json_add_text(o, "type", layer->driver->name);
    begin_item(out, false, level);
    g_string_append(out, "\"format-specific\": {");
    new_line(out, level + 1);
    qimg_json_append_members(out, o, level + 1);
    begin_item(out, false, level + 1);
    g_string_append(out, "\"data\": {");
    new_line(out, level + 2);
    qimg_json_append_members(out, facts_json(layer), level + 2);
}

gboolean
qimg_info_next(const QimgInfo *info, QimgInfoPlace *public_place, GString *out)
{
    Place *place = (Place *)public_place->private_words;
    gsize n_before = out->len;

    while (out->len == n_before && place->round <= info->n_layers) {
        /* The first round is the top layer's own members. */
        bool is_element = place->round > 0;
        unsigned i = is_element ? (unsigned)place->round - 1 : 0;
        unsigned level = is_element ? ELEMENT_LEVEL : ROOT_LEVEL;
        QimgFormat *layer = info->image->chain->layers[info->first_layer + i];
        bool has_facts = layer->n_facts > 0 || is_luks_volume(layer), is_done = true;

        switch ((Step)place->step) {
        case STEP_HEAD:
            append_head(info, i, is_element, level, out);
            break;
        case STEP_SNAPSHOTS:
            if (place->number < qimg_snapshots_get_n(info->snapshots[i])) {
                append_snapshot(info, i, place->number, level, out);
                place->number++;
                is_done = false;
            }
            break;
        case STEP_FORMAT:
            if (has_facts)
                append_format(layer, level, out);
            break;
        case STEP_BITMAPS:
            is_done = !has_facts ||
                      !append_bitmaps(info, layer, &place->number, level + 2, out);
            break;
        case STEP_END:
        case N_STEPS:
            append_end(info, i, is_element, has_facts, level, out);
            break;
        }
        if (is_done) {
            place->number = 0;
            place->step++;
        }
        if (place->step == N_STEPS) {
            place->step = 0;
            place->round++;
        }
    }
    return out->len > n_before;
}

QimgInfo *
qimg_image_info_new(const QimgImage *image)
{
    QIMG_GATE_SCOPE(image->chain->gate);
    const QimgChain *chain = image->chain;
    unsigned n_layers = chain->n_layers - image->first_layer;
    QimgInfo *info = g_malloc0(sizeof *info + n_layers * sizeof info->snapshots[0]);

    info->image = image;
    info->first_layer = image->first_layer;
    info->n_layers = n_layers;
    info->size_bytes = qimg_view_size_bytes(&chain->layers[image->first_layer]->active);
    info->is_dirty = chain->layers[image->first_layer]->is_dirty;
    for (unsigned i = 0; i < n_layers; i++)
        info->snapshots[i] =
            qimg_snapshots_ref(chain->layers[image->first_layer + i]->snapshots);
    return info;
}

void
qimg_info_free(QimgInfo *info)
{
    if (!info)
        return;
    for (unsigned i = 0; i < info->n_layers; i++)
        qimg_snapshots_unref(info->snapshots[i]);
    g_free(info);
}

char *
qimg_image_info_json(const QimgImage *image)
{
    g_autoptr(QimgInfo) info = qimg_image_info_new(image);
    GString *text = g_string_new(NULL);
    QimgInfoPlace place = {0};

    while (qimg_info_next(info, &place, text))
        ;
    return g_string_free(text, FALSE);
}

char *
qimg_snapshot_json(const QimgSnapshot *snapshot)
{
    return qimg_json_finish(snapshot_json(snapshot));
}
