/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An open layer: the part that all formats share. A format knows only its own file (and
 * data file), no chain. */
#pragma once

#include <glib.h>
#include <inttypes.h>

#include "base/gate.h"
#include "base/index-set.h"
#include "behind/behind.h"
#include "cache/table-cache.h"
#include "codec/rules.h"
#include "crypt/keyring.h"
#include "format/inflight.h"
#include "format/sectors.h"
#include "format/snapshots.h"
#include "qimg.h"
#include "storage/storage.h"
#include "transform/compress.h"

typedef struct QimgDriver QimgDriver; /* format/driver.h */
typedef struct QimgFormat QimgFormat;

/* A format-specific property for users: one member of the "format-specific" object. */
typedef struct {
    const char *name; /* static */
    enum { QIMG_FACT_BOOL, QIMG_FACT_NUMBER, QIMG_FACT_TEXT } kind;
    bool flag;
    uint64_t number;
    const char *text; /* owned by the format, or static */
} QimgFact;

#define QIMG_MAX_FACTS 16

/* The head of every open layer; all fields are const once the chain is open, unless a
 * comment says otherwise. */
struct QimgFormat {
    const QimgDriver *driver;
    QimgStorage *file;        /* owned */
    QimgStorage *data_file;   /* owned; NULL: the data lie in @file */
    TableCache *tables;       /* shared by the chain */
    unsigned layer_index;     /* from the top of the chain; part of cache keys */
    InflightSet *inflight;    /* owned; NULL unless is_writable */
    QimgBehind *behind;       /* owned; NULL unless is_writable */
    uint64_t zero_unit_bytes; /* a writable layer's: see zero */

    QimgGate *gate;   /* the chain's; NULL: read-only */
    bool is_writable; /* this layer receives writes */
    /* atomic, relaxed: the file's length in bytes, rounded up to a sector; read again
     * when an offset seems to lie beyond it, since a running VM's file grows
     * (format/table-file.h) */
    _Atomic uint64_t file_end_bytes;
    _Atomic bool broken;        /* atomic: all further changes are refused */
    QimgRuleSet reported_rules; /* damage logged already */
    /* owned, a writable layer's: host clusters that hold metadata. Atomic to look up,
     * added to under the driver's allocation lock */
    QimgIndexSet *metadata;
    /* a writable layer's changes while the gate is closed, except the size (view.h) */
    QimgView active;
    uint64_t cluster_bytes;
    uint64_t
        alloc_unit_bytes; /* runs begin and end at multiples, except at the disk's end */
    bool may_compress;    /* COMPRESSED runs are possible */
    QimgErrno data_error; /* opened for inspection only: error of each read */

    char *backing_name;   /* as stored, NULL: none */
    char *backing_format; /* NULL: not recorded */
    bool lets_probe;      /* not recorded because it is not raw */
    bool needs_data_file;
    bool has_raw_data_file; /* which is the disk, byte for byte */
    char *data_file_name;   /* as stored, NULL: not recorded */

    const char *encryption; /* static; NULL: none */
    QimgCipher *cipher;     /* owned; of DATA runs. NULL: they are plain, or data_error */
    bool iv_counts_guest;   /* its sectors count guest offsets, not host offsets */
    QimgSectors *sectors;   /* owned; NULL unless is_writable, with a cipher */
    LuksHeader *luks;       /* owned; NULL: none, or, for inspection, a damaged one */
    uint64_t luks_offset;   /* its place in the file, in bytes */
    /* atomic: a writable layer is repaired at its first change */
    _Atomic bool is_dirty;
    bool is_corrupt;
    GPtrArray *warnings; /* char *, without the file's name */

    QimgSnapshots *snapshots; /* owned, never NULL: replaced while the gate is closed */
    uint32_t next_snapshot_serial; /* while the gate is closed */

    QimgFact facts[QIMG_MAX_FACTS];
    unsigned n_facts;
};

/* A driver's environment for opening a layer. */
typedef struct {
    TableCache *tables;
    unsigned layer_index;
    unsigned depth;             /* from the image itself; an own overlay has that, too */
    bool inspect;               /* open encrypted images, for their properties */
    bool without_key;           /* the same, also for changes that move no data */
    const QimgKeyring *keyring; /* passphrases; never NULL unless inspect */
    bool has_snapshots;         /* load the list of internal snapshots */
    QimgGate *gate;             /* NULL: read-only */
    QimgKeeper *keeper;         /* of a writable layer; NULL: no write-behind */
    bool is_writable;           /* refuse images that cannot be written */
    bool drops_bitmaps; /* of a writable layer: they become stale at the first change */
    uint64_t bitmap_cache_bytes; /* limit of the memory for their bits */
    bool for_check;              /* open damaged images, too, only for check and repair */
} QimgFormatEnv;

/* Sets the common head of a new layer. */
void qimg_format_init(QimgFormat *format, const QimgDriver *driver, QimgStorage *file,
                      const QimgFormatEnv *env);

/* Adds a warning about the layer. */
void qimg_format_warn(QimgFormat *format, const char *text, ...) G_GNUC_PRINTF(2, 3);

/* Reads the first @n_max bytes of @file, or as many as it has: *@n_bytes_out; the rest of
 * @bytes stays. False with @error set: of the storage. */
bool qimg_read_header(QimgStorage *file, void *bytes, size_t n_max, size_t *n_bytes_out,
                      GError **error);

/* Reads the backing file's name at @host_offset; the caller has bounded @length_bytes.
 * *@broken_out tells whether it contains a NUL. The caller frees the name. NULL with
 * @error set: of the storage. */
char *qimg_read_backing_name(QimgStorage *file, uint64_t host_offset,
                             uint32_t length_bytes, QimgDecode *broken_out,
                             GError **error);

/* Sets @error to the problem of a header, followed by @advice: other possible formats and
 * the user's remedy. Rule @magic says that the file is no image of the format. Returns
 * false. */
bool qimg_refuse_header(GError **error, QimgDecode broken, QimgRule magic,
                        const char *advice);

/* Reads and inflates the compressed cluster in the @stream_bytes at @host_offset of the
 * layer's file; bytes behind the stream are ignored. Threads, errors: as
 * QimgDriver.read_compressed. */
QimgErrno qimg_format_read_stream(QimgFormat *format, QimgCodec codec,
                                  QimgHostOffset host_offset, uint32_t stream_bytes,
                                  uint8_t *cluster_out) QIMG_MUST_CHECK;

/* The storage that DATA runs refer to. */
static inline QimgStorage *
qimg_format_data_storage(const QimgFormat *format)
{
    return format->data_file ? format->data_file : format->file;
}
