/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The contract between image/ and the formats: an open layer, and the few questions that
 * can be put to it. A format knows its own file (and data file) and nothing of chains. */
#pragma once

#include <glib.h>
#include <inttypes.h>

#include "cache/table-cache.h"
#include "codec/rules.h"
#include "qimg.h"
#include "storage/storage.h"

typedef struct QimgDriver QimgDriver;
typedef struct QimgFormat QimgFormat;

typedef enum {
    QIMG_RUN_UNALLOCATED, /* the backing file decides */
    QIMG_RUN_ZERO,
    QIMG_RUN_DATA,       /* bytes at host_offset of the layer's data storage */
    QIMG_RUN_COMPRESSED, /* (part of) one compressed cluster */
    QIMG_RUN_DAMAGED,    /* rule says why */
} QimgRunKind;

/* What a stretch of the guest's disk is, in one layer. */
typedef struct {
    QimgRunKind kind;
    QimgRule rule;              /* DAMAGED */
    uint64_t length_bytes;      /* > 0 */
    QimgHostOffset host_offset; /* DATA: of the first byte; COMPRESSED: of the stream */
    uint32_t stream_bytes;      /* COMPRESSED: what may be read of the stream */
} QimgRun;

/* A disk inside a layer: the active one or a snapshot. */
typedef struct {
    uint64_t size_bytes;
    QimgHostOffset l1_table_offset;
    uint32_t n_l1_entries;
    uint32_t n_l1_entries_in_file; /* those that lie before the end of the file */
} QimgView;

typedef struct {
    QimgSnapshot facts; /* strings owned by the format */
    QimgView view;      /* of its disk; checked by open_snapshot */
} QimgFormatSnapshot;

/* A format-specific fact for people: one member of the "format-specific" object. */
typedef struct {
    const char *name; /* static */
    enum { QIMG_FACT_BOOL, QIMG_FACT_NUMBER, QIMG_FACT_TEXT } kind;
    bool flag;
    uint64_t number;
    const char *text; /* owned by the format, or static */
} QimgFact;

#define QIMG_MAX_FACTS 16

/* The head of every open layer; all fields are const once the chain is open. */
struct QimgFormat {
    const QimgDriver *driver;
    QimgStorage *file;      /* owned */
    QimgStorage *data_file; /* owned; NULL: the data lie in @file */
    TableCache *tables;     /* shared by the chain */
    unsigned layer_index;   /* from the top of the chain; part of cache keys */

    QimgView active;
    uint64_t cluster_bytes;
    uint64_t
        alloc_unit_bytes; /* runs begin and end at multiples, but for the disk's end */
    bool may_compress;    /* COMPRESSED runs are possible */
    QimgErrno data_error; /* opened for inspection only: what reading answers */

    char *backing_name;   /* as stored, NULL: none */
    char *backing_format; /* NULL: not recorded */
    bool needs_data_file;
    char *data_file_name; /* as stored, NULL: not recorded */

    const char *encryption; /* static; NULL: none */
    bool is_dirty;
    bool is_corrupt;
    GPtrArray *warnings; /* char *, without the file's name */

    QimgFormatSnapshot *snapshots;
    unsigned n_snapshots;

    QimgFact facts[QIMG_MAX_FACTS];
    unsigned n_facts;
};

/* What a driver may use to open a layer. */
typedef struct {
    TableCache *tables;
    unsigned layer_index;
    bool inspect; /* open what cannot be decrypted, for its facts */
} QimgFormatEnv;

struct QimgDriver {
    const char *name;

    /* Whether the first @n_bytes of a file are of this format. NULL: never probed. */
    bool (*probe)(const uint8_t *bytes, size_t n_bytes);

    /* Opens the layer in @file, of which it takes possession on success only. NULL with
     * @error set: the text names the field, not the file. */
    QimgFormat *(*open)(QimgStorage *file, const QimgFormatEnv *env, GError **error);

    /* Gives the longest run of @view at @guest_offset, which lies below its size.
     * @length_bytes > 0 is how much the caller can use; the run may be longer or, after
     * much work, shorter than what has the same answer.
     * Threads: any; no lock may be held; waits for I/O on a cache miss.
     * Errors: of the storage, -ENOMEM. Damage is a run, not an error. */
    QimgErrno (*map)(QimgFormat *format, const QimgView *view,
                     QimgGuestOffset guest_offset, uint64_t length_bytes,
                     QimgRun *run_out);

    /* Reads and inflates a whole compressed cluster. NULL without compression.
     * Threads: any; no lock may be held. Errors: -EIO for a broken stream, -ENOMEM. */
    QimgErrno (*read_compressed)(QimgFormat *format, QimgHostOffset host_offset,
                                 uint32_t stream_bytes, uint8_t *cluster_out);

    /* Checks snapshot @index for use, and where its VM state begins in its view.
     * NULL without snapshots. */
    bool (*check_snapshot)(QimgFormat *format, unsigned index,
                           QimgGuestOffset *vm_state_out, GError **error);

    /* Frees what the driver has; the common head is freed by qimg_format_close. */
    void (*close)(QimgFormat *format);
};

/* The driver called @name, or NULL. */
const QimgDriver *qimg_driver_find(const char *name);

/* The driver for a file that begins with @bytes (raw where no format is recognised).
 * NULL with @error set for formats that are recognised and cannot be read. */
const QimgDriver *qimg_driver_probe(const uint8_t *bytes, size_t n_bytes, GError **error);

/* Sets the common head of a new layer. */
void qimg_format_init(QimgFormat *format, const QimgDriver *driver, QimgStorage *file,
                      const QimgFormatEnv *env);

/* Closes a layer with its files; accepts NULL. */
void qimg_format_close(QimgFormat *format);

/* Adds a warning about the layer. */
void qimg_format_warn(QimgFormat *format, const char *text, ...) G_GNUC_PRINTF(2, 3);

/* The storage that DATA runs refer to. */
static inline QimgStorage *
qimg_format_data_storage(const QimgFormat *format)
{
    return format->data_file ? format->data_file : format->file;
}

extern const QimgDriver qimg_driver_raw;
extern const QimgDriver qimg_driver_qcow2;
