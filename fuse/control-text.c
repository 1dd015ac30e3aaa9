/* SPDX-License-Identifier: GPL-2.0-or-later */
/* map.json is generated forwards; a read behind the place where the generator stands lets
 * it begin again. */
#include "control-text.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

/* One extent may take a second of a hostile image; a read takes little more. */
#define MAX_READ_USECS 1000000

struct ControlText {
    pthread_mutex_t lock;
    char *whole;       /* const: the text, or NULL: it is generated */
    QimgImage *image;  /* const: from which, or NULL */
    ImageEntry *entry; /* const: pinned for @image, or NULL */
    /* All guarded by lock: */
    uint64_t next_guest_offset;
    bool is_ended;
    char piece[QIMG_EXTENT_JSON_BYTES + 8]; /* generated last */
    size_t n_piece;
    uint64_t piece_position; /* of its first byte in the text */
};

ControlText *
control_text_open(const Tree *tree, Node node, GError **error)
{
    g_autofree char *whole = NULL;
    QimgImage *image = NULL;
    ImageEntry *entry = NULL;
    ControlText *text;

    if (node.kind == NODE_MAP) {
        image = tree_open_image(tree, node, &entry, error);
        if (!image)
            return NULL;
    } else {
        whole = tree_text(tree, node, error);
        if (!whole)
            return NULL;
    }
    text = g_new0(ControlText, 1);
    pthread_mutex_init(&text->lock, NULL);
    text->whole = g_steal_pointer(&whole);
    text->image = image;
    text->entry = entry;
    return text;
}

void
control_text_close(ControlText *text)
{
    qimg_image_close(text->image);
    image_entry_unpin(text->entry);
    g_free(text->whole);
    pthread_mutex_destroy(&text->lock);
    g_free(text);
}

static void
restart(ControlText *text)
{
    text->next_guest_offset = 0;
    text->is_ended = false;
    text->n_piece = 0;
    text->piece_position = 0;
}

/* Makes the next piece; an empty one at the end of the text. */
static int
next_piece(ControlText *text)
{
    uint64_t size_bytes = qimg_image_get_size_bytes(text->image);
    bool is_first = text->piece_position == 0 && text->n_piece == 0;
    char *out = text->piece;

    text->piece_position += text->n_piece;
    text->n_piece = 0;
    if (text->is_ended)
        return 0;
    if (is_first)
        out = stpcpy(out, "[");
    if (text->next_guest_offset < size_bytes) {
        QimgExtent extent;
        int err = qimg_image_map(text->image, text->next_guest_offset, &extent);

        if (err)
            return err;
        out += qimg_extent_to_json(&extent, out);
        text->next_guest_offset += extent.length_bytes;
    }
    if (text->next_guest_offset < size_bytes) {
        out = stpcpy(out, ",\n");
    } else {
        out = stpcpy(out, "]\n");
        text->is_ended = true;
    }
    text->n_piece = (size_t)(out - text->piece);
    return 0;
}

static ssize_t
read_generated(ControlText *text, uint64_t position, char *buffer, size_t n_bytes)
{
    gint64 late_usecs = g_get_monotonic_time() + MAX_READ_USECS;
    size_t done = 0;

    if (position < text->piece_position)
        restart(text);
    while (done < n_bytes) {
        uint64_t in_piece = position + done - text->piece_position;

        if (in_piece >= text->n_piece) {
            int err;

            /* The next read goes on from here, also after an interrupted jump ahead. */
            if (g_get_monotonic_time() > late_usecs)
                return done > 0 ? (ssize_t)done : -EINTR;
            err = next_piece(text);

            if (err)
                return done > 0 ? (ssize_t)done : err;
            if (text->n_piece == 0)
                break;
        } else {
            size_t n = MIN(n_bytes - done, text->n_piece - in_piece);

            memcpy(buffer + done, text->piece + in_piece, n);
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
        size_t length = strlen(text->whole);

        if (position >= length)
            return 0;
        n_bytes = MIN(n_bytes, length - position);
        memcpy(buffer, text->whole + position, n_bytes);
        return (ssize_t)n_bytes;
    }
    pthread_mutex_lock(&text->lock);
    n = read_generated(text, position, buffer, n_bytes);
    pthread_mutex_unlock(&text->lock);
    return n;
}
