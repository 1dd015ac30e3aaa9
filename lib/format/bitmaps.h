/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The persistent bitmaps of a layer at one moment: a list that never changes. */
#pragma once

#include <stdatomic.h>

#include "qimg.h"

#define QIMG_BITMAP_WINDOW_WORDS 512u
#define QIMG_BITMAP_WINDOW_BYTES (64u * 1024)

/* A persistent bitmap: the changed parts of the disk. */
typedef struct {
    char *name; /* owned by the list */
    size_t name_bytes;
    unsigned granularity_bits; /* one bit stands for 2^this bytes */
    bool is_in_use;            /* was not stored properly: its bits are invalid */
    bool is_auto;              /* all changes of the disk are recorded */
} QimgListedBitmap;

typedef struct {
    QimgBitmap facts; /* name owned */
    /* The driver's own: */
    uint64_t directory_position; /* bytes: start of the entry in the directory */
    uint64_t entry_bytes;
    uint64_t table_offset; /* host offset */
    uint32_t n_table_entries;
    uint32_t flags;
    unsigned granularity_bits;
} QimgFormatBitmap;

struct QimgBitmaps {
    atomic_uint refs; /* atomic */
    unsigned n;
    QimgFormatBitmap *items; /* @n */
    const char *damage;      /* static: why the list ends early; NULL */
    gboolean is_stale;       /* the disk was changed by a program that ignored them */
};

typedef struct QimgFormat QimgFormat;
typedef struct QimgBitmapCursor QimgBitmapCursor;

/* A QimgBitmapAction for the driver. */
typedef struct {
    QimgBitmapActionKind kind;
    uint64_t granularity_bytes;      /* ADD */
    const char *source;              /* MERGE */
    QimgFormat *source_layer;        /* MERGE from another image; NULL: from this one */
    QimgBitmapCursor *source_cursor; /* for that */
} QimgFormatBitmapAction;

/* An empty list with room for @n bitmaps; NULL if memory is short. */
QimgBitmaps *qimg_bitmaps_new(unsigned n);

/* The place of the bitmap with that name; -1: there is none. */
int qimg_bitmaps_place_of(const QimgBitmaps *list, const char *name, size_t name_bytes);

/* A reader's position in one bitmap, with the data read last, so that short extents do
 * not cost a read each. Initially zeros, except @list and @place. */
struct QimgBitmapCursor {
    const QimgBitmaps *list; /* borrowed */
    unsigned place;
    uint64_t first_word; /* index in the table of words[0] */
    unsigned n_words;
    uint64_t words[QIMG_BITMAP_WINDOW_WORDS]; /* host-endian */
    uint64_t first_byte;                      /* of the bitmap's data, of bytes[0] */
    uint64_t n_bytes;
    uint8_t bytes[QIMG_BITMAP_WINDOW_BYTES];
};
