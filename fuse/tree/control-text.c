/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A text is a sequence of pieces, each generated from a place in it. Some passed places
 * are remembered as marks, so that a read elsewhere does not begin at the start. */
#include "tree/control-text.h"

#include <errno.h>
#include <string.h>

#include "base/lock.h"
#include "images/images-dir.h"
#include "images/images-open.h"
#include "tree/tree-bitmaps.h"
#include "tree/tree-inode.h"
#include "tree/tree-open.h"
#include "tree/tree-partitions.h"

/* One extent of a hostile image may take a second; a read takes little more. */
#define MAX_READ_USECS 1000000

/* Texts up to this size are generated whole. */
#define MAX_WHOLE_BYTES 32768u

/* With more partitions, the size of the list is not computed, since that reads each
 * partition's content. */
#define MAX_MEASURED_PARTITIONS 8u

#define N_MARKS        64u
#define MARK_BYTES     65536u
#define COUNTER_DIGITS 20

/* The start of a piece. */
typedef union {
    QimgInfoPlace info;
    uint64_t guest_offset;
    struct {
        unsigned number; /* of an image */
        unsigned place;  /* of a file that is no image, after these */
        bool is_begun;   /* an element was made */
        bool is_ended;
    } list;
} Place;

typedef struct {
    uint64_t position; /* in the text */
    Place place;
} Mark;

/* The source of a text. */
typedef struct {
    const Tree *tree;
    Node node;
    ImageEntry *entry; /* pinned if the node belongs to an image */
    QimgImage *image;  /* of map.json and of a bitmap: its layer */
    QimgBitmapReader *bitmap;
    unsigned layer; /* of the bitmap */
    QimgInfo *info; /* of info.json */
} Source;

struct ControlText {
    QimgMutex lock;
    Source source; /* const */
    char *whole;   /* const: all of the text, or NULL */
    size_t whole_bytes;
    /* All guarded by lock: */
    GString *piece;          /* the last one made */
    uint64_t piece_position; /* of its first byte in the text */
    Place next;              /* after the piece */
    Mark marks[N_MARKS];     /* places passed, rising */
    unsigned n_marks;
    uint64_t mark_distance; /* between them */
};

/* ---- pieces ---- */

static int
append_extent(const Source *source, Place *place, GString *out)
{
    uint64_t size_bytes = qimg_image_get_size_bytes(source->image);
    char text[QIMG_EXTENT_JSON_BYTES];

    if (place->guest_offset == UINT64_MAX)
        return 0;
    g_string_append(out, place->guest_offset == 0 ? "[" : ",\n");
    if (place->guest_offset < size_bytes) {
        QimgExtent extent = {.struct_bytes = sizeof extent};
        int err = qimg_image_map(source->image, place->guest_offset, &extent);

        if (err)
            return err;
        g_string_append_len(out, text, (gssize)qimg_extent_to_json(&extent, text));
        place->guest_offset += extent.length_bytes;
    }
    if (place->guest_offset >= size_bytes) {
        g_string_append(out, "]\n");
        place->guest_offset = UINT64_MAX;
    }
    return 0;
}

/* Appends @json without its line end, indenting all lines but the first; with @is_wide,
 * pads its numbers to the maximal width. */
static void
append_element(GString *out, const char *json, bool is_wide)
{
    bool is_in_string = false, is_escaped = false;
    size_t n = strlen(json);

    while (n > 0 && json[n - 1] == '\n')
        n--;
    for (size_t i = 0; i < n; i++) {
        if (json[i] == '"' && !is_escaped)
            is_in_string = !is_in_string;
        is_escaped = json[i] == '\\' && !is_escaped;
        if (is_wide && !is_in_string && i > 0 && json[i - 1] == ' ' &&
            g_ascii_isdigit(json[i])) {
            int n_digits = (int)strspn(json + i, "0123456789");

            g_string_append_printf(out, "%*.*s", COUNTER_DIGITS, n_digits, json + i);
            i += (size_t)n_digits - 1;
            continue;
        }
        g_string_append_c(out, json[i]);
        if (json[i] == '\n')
            g_string_append(out, "    ");
    }
}

/* Appends @text as a JSON string. */
static void
append_string(GString *out, const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    g_string_append_c(out, '"');
    for (const char *c = valid; *c; c++) {
        if (*c == '"' || *c == '\\')
            g_string_append_c(out, '\\');
        if ((unsigned char)*c < 0x20)
            g_string_append_printf(out, "\\u%04x", (unsigned)*c);
        else
            g_string_append_c(out, *c);
    }
    g_string_append_c(out, '"');
}

/* Begins an element of the list of images. */
static void
begin_element(Place *place, char bracket, GString *out)
{
    if (!place->list.is_begun)
        g_string_append_c(out, bracket);
    g_string_append(out, place->list.is_begun ? ",\n    " : "\n    ");
    place->list.is_begun = true;
}

static void
end_list(Place *place, const char *brackets, GString *out)
{
    if (!place->list.is_ended && place->list.is_begun)
        g_string_append_printf(out, "\n%c\n", brackets[1]);
    else if (!place->list.is_ended)
        g_string_append_printf(out, "%s\n", brackets);
    place->list.is_ended = true;
}

static void
append_stats(const Source *source, Place *place, GString *out)
{
    Images *images = source->tree->images;

    while (!place->list.is_ended && images_next_open(images, &place->list.number)) {
        unsigned number = place->list.number++;
        g_autoptr(ImageEntry) entry = images_pin_open(images, number);
        g_autofree char *name = images_get_name(images, number);
        g_autofree char *stats = entry ? qimg_image_stats_json(entry->image) : NULL;

        if (!stats || !name)
            continue;
        begin_element(place, '{', out);
        append_string(out, name);
        g_string_append(out, ": ");
        append_element(out, stats, true);
        return;
    }
    end_list(place, "{}", out);
}

/* The next image that could not be opened, then the next file that holds another disk. */
static bool
next_error(Images *images, Place *place, char **file_out, char **reason_out)
{
    while (images_next_error(images, &place->list.number))
        if (images_get_error(images, place->list.number++, file_out, reason_out))
            return true;
    return images_get_other(images, place->list.place++, file_out, reason_out);
}

/* The images that could not be opened, each with its file and the reason. */
static void
append_error(const Source *source, Place *place, GString *out)
{
    g_autofree char *file = NULL;
    g_autofree char *reason = NULL;

    if (!place->list.is_ended &&
        next_error(source->tree->images, place, &file, &reason)) {
        begin_element(place, '[', out);
        g_string_append(out, "{\n        \"file\": ");
        append_string(out, file);
        g_string_append(out, ",\n        \"reason\": ");
        append_string(out, reason);
        g_string_append(out, "\n    }");
        return;
    }
    end_list(place, "[]", out);
}

/* A text that is one piece. */
static int
append_all(const Source *source, Place *place, GString *out)
{
    g_autofree char *text = NULL;

    if (place->list.is_ended)
        return 0;
    text = tree_text(source->tree, source->entry, source->node, NULL);
    if (!text)
        return -ENOENT;
    g_string_append(out, text);
    place->list.is_ended = true;
    return 0;
}

/* Appends the piece at *@place and moves *@place behind it; appends nothing at the
 * end. */
static int
append_piece(const Source *source, Place *place, GString *out)
{
    switch (source->node.kind) {
    case NODE_INFO:
        qimg_info_next(source->info, &place->info, out);
        return 0;
    case NODE_MAP:
        return append_extent(source, place, out);
    case NODE_BITMAP:
        return qimg_bitmap_reader_next_json(source->bitmap, source->layer,
                                            &place->guest_offset, out);
    case NODE_STATS:
        append_stats(source, place, out);
        return 0;
    case NODE_ERRORS:
        append_error(source, place, out);
        return 0;
    default:
        return append_all(source, place, out);
    }
}

/* The whole text, or NULL if it is long or cannot be generated. */
static GString *
make_whole(const Source *source)
{
    g_autoptr(GString) out = NULL;
    Place place = {0};
    gsize n_before;

    /* Each extent may be expensive. */
    if (source->node.kind == NODE_MAP || source->node.kind == NODE_BITMAP)
        return NULL;
    out = g_string_new(NULL);
    do {
        n_before = out->len;
        if (append_piece(source, &place, out) || out->len > MAX_WHOLE_BYTES)
            return NULL;
    } while (out->len > n_before);
    return g_steal_pointer(&out);
}

/* ---- open and size ---- */

static TextKey
key_of(const Tree *tree, ImageEntry *entry, Node node)
{
    struct stat status;

    qimg_image_get_stat(entry->image, &status);
    return (TextKey){
        .inode = tree_inode_of(tree, node),
        .opening = entry->opening,
        .n_changes = qimg_image_count_changes(entry->image),
        .n_blocks = (uint64_t)status.st_blocks,
        .version = partition_dir_get_version(&entry->partitions),
    };
}

/* Generates the text to measure its size. */
static uint64_t
measure(const Tree *tree, ImageEntry *entry, Node node)
{
    Source source = {.tree = tree, .node = node, .entry = entry};
    g_autoptr(QimgInfo) info = NULL;
    g_autoptr(GString) whole = NULL;

    if (node_is_of_partitions(node)) {
        g_autoptr(QimgPartitions) list = NULL;

        if (tree_get_partitions(tree, entry, node, &list, NULL) ||
            qimg_partitions_get_n(list) > MAX_MEASURED_PARTITIONS)
            return 0;
    }
    if (node.kind == NODE_INFO)
        source.info = info = qimg_image_info_new(entry->image);
    whole = make_whole(&source);
    return whole ? whole->len : 0;
}

uint64_t
control_text_measure(const Tree *tree, ImageEntry *entry, Node node)
{
    uint64_t n_bytes;
    TextKey key;

    if (!entry)
        return measure(tree, NULL, node);
    key = key_of(tree, entry, node);
    if (!text_sizes_find(tree->sizes, &key, &n_bytes)) {
        n_bytes = measure(tree, entry, node);
        text_sizes_add(tree->sizes, &key, n_bytes);
    }
    return n_bytes;
}

ControlText *
control_text_open(const Tree *tree, Node node, GError **error)
{
    ControlText *text;
    ImageEntry *entry = NULL;
    QimgImage *image = NULL;
    GString *whole;

    if (node.kind == NODE_MAP || node.kind == NODE_BITMAP)
        image = tree_open_image(tree, node, &entry, error);
    else if (node_is_of_image(node))
        entry = images_pin(tree->images, node.image_index, error);
    if (!entry && node_is_of_image(node))
        return NULL;
    text = g_new0(ControlText, 1);
    qimg_mutex_init(&text->lock, QIMG_RANK_TEXT);
    text->source = (Source){.tree = tree, .node = node, .entry = entry, .image = image};
    if (node.kind == NODE_INFO)
        text->source.info = qimg_image_info_new(entry->image);
    if (node.kind == NODE_BITMAP)
        text->source.bitmap =
            tree_read_bitmap(entry, node, image, &text->source.layer, error);
    text->piece = g_string_new(NULL);
    if (node.kind == NODE_BITMAP && !text->source.bitmap) {
        control_text_close(text);
        return NULL;
    }
    text->mark_distance = MARK_BYTES;
    whole = make_whole(&text->source);
    if (whole) {
        text->whole_bytes = whole->len;
        text->whole = g_memdup2(whole->str, whole->len);
        g_string_free(whole, TRUE);
    }
    return text;
}

void
control_text_close(ControlText *text)
{
    qimg_info_free(text->source.info);
    qimg_bitmap_reader_free(text->source.bitmap);
    qimg_image_close(text->source.image);
    image_entry_unpin(text->source.entry);
    g_string_free(text->piece, TRUE);
    g_free(text->whole);
    qimg_mutex_clear(&text->lock);
    g_free(text);
}

/* ---- reading ---- */

/* Goes back to the last mark at or before @position. */
static void
go_back(ControlText *text, uint64_t position)
{
    unsigned n = text->n_marks;

    while (n > 0 && text->marks[n - 1].position > position)
        n--;
    text->piece_position = n > 0 ? text->marks[n - 1].position : 0;
    text->next = n > 0 ? text->marks[n - 1].place : (Place){0};
    g_string_truncate(text->piece, 0);
}

/* Remembers the start of the next piece. */
static void
set_mark(ControlText *text)
{
    uint64_t last = text->n_marks > 0 ? text->marks[text->n_marks - 1].position : 0;

    if (text->piece_position < last + text->mark_distance)
        return;
    if (text->n_marks == N_MARKS) { /* keep every other one */
        for (unsigned i = 1; i < N_MARKS; i += 2)
            text->marks[i / 2] = text->marks[i];
        text->n_marks /= 2;
        text->mark_distance *= 2;
    }
    text->marks[text->n_marks++] =
        (Mark){.position = text->piece_position, .place = text->next};
}

/* Generates the next piece; an empty one at the end of the text. */
static int
next_piece(ControlText *text)
{
    text->piece_position += text->piece->len;
    g_string_truncate(text->piece, 0);
    set_mark(text);
    return append_piece(&text->source, &text->next, text->piece);
}

static ssize_t
read_generated(ControlText *text, uint64_t position, char *buffer, size_t n_bytes)
{
    gint64 late_usecs = g_get_monotonic_time() + MAX_READ_USECS;
    size_t done = 0;

    if (position < text->piece_position)
        go_back(text, position);
    while (done < n_bytes) {
        uint64_t in_piece = position + done - text->piece_position;

        if (in_piece >= text->piece->len) {
            Place before = text->next;
            int err;

            /* The next read continues here, also after an interrupted jump ahead. */
            if (g_get_monotonic_time() > late_usecs)
                return done > 0 ? (ssize_t)done : -EINTR;
            err = next_piece(text);
            if (err) {
                text->next = before;
                g_string_truncate(text->piece, 0);
                return done > 0 ? (ssize_t)done : err;
            }
            if (text->piece->len == 0)
                break;
        } else {
            size_t n = MIN(n_bytes - done, text->piece->len - in_piece);

            memcpy(buffer + done, text->piece->str + in_piece, n);
            done += n;
        }
    }
    return (ssize_t)done;
}

ssize_t
control_text_read(ControlText *text, uint64_t position, char *buffer, size_t n_bytes)
{
    ssize_t n;

    if (text->whole) {
        if (position >= text->whole_bytes)
            return 0;
        n_bytes = MIN(n_bytes, text->whole_bytes - position);
        memcpy(buffer, text->whole + position, n_bytes);
        return (ssize_t)n_bytes;
    }
    qimg_mutex_lock(&text->lock);
    n = read_generated(text, position, buffer, n_bytes);
    qimg_mutex_unlock(&text->lock);
    return n;
}
