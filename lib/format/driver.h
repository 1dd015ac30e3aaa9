/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The contract between image/ and the formats: an open layer, and the few questions that
 * can be put to it. A format knows its own file (and data file) and nothing of chains. */
#pragma once

#include <glib.h>
#include <inttypes.h>

#include "base/gate.h"
#include "base/index-set.h"
#include "base/task.h"
#include "behind/behind.h"
#include "cache/table-cache.h"
#include "codec/rules.h"
#include "format/bitmaps.h"
#include "format/check-report.h"
#include "format/foreign.h"
#include "format/inflight.h"
#include "format/snapshots.h"
#include "qimg.h"
#include "storage/storage.h"
#include "transform/compress.h"

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

/* A format-specific fact for people: one member of the "format-specific" object. */
typedef struct {
    const char *name; /* static */
    enum { QIMG_FACT_BOOL, QIMG_FACT_NUMBER, QIMG_FACT_TEXT } kind;
    bool flag;
    uint64_t number;
    const char *text; /* owned by the format, or static */
} QimgFact;

#define QIMG_MAX_FACTS 16

/* A persistent bitmap: which parts of the disk have changed. */
typedef struct {
    char *name; /* owned by the list */
    size_t name_bytes;
    unsigned granularity_bits; /* a bit stands for 2^this bytes */
    bool is_in_use;            /* was not stored properly: its bits mean nothing */
    bool is_auto;              /* all changes of the disk are recorded */
} QimgListedBitmap;

typedef enum {
    QIMG_PLAN_IN_PLACE,  /* the host bytes are the request's: just write them */
    QIMG_PLAN_ALLOCATES, /* fill, then publish or abandon */
} QimgPlanKind;

/* How a piece of a write is done. Between plan_write and publish (or abandon) of an
 * allocating plan, nobody else changes what lies at [fill_start, fill_end) of the disk.
 *
 *     plan_write ──▶ fill ──▶ publish
 *                      └─(any failure)─▶ abandon
 *
 * To fill, the caller writes all of [fill_start, fill_end) to the data storage, and sets
 * data_first; or the request alone, where is_zeroed and the disk held zeros there.
 *
 * A plan in place whose is_announced is set is ended by abandon, once its data is
 * written: until then nobody lets its bytes read as zeros.
 */
typedef struct {
    QimgPlanKind kind;
    uint64_t length_bytes;      /* > 0: how much of the request is planned */
    QimgHostOffset host_offset; /* of the request's first byte, in the data storage */
    bool is_announced;          /* IN_PLACE: abandon ends it */
    /* The rest for ALLOCATES only. The guest bytes that become valid by publishing; the
     * request lies inside. Guest offset G lies at host_offset + (G - request). */
    uint64_t fill_start;
    uint64_t fill_end;
    /* The host bytes read as zeros already, durably: where the disk holds zeros, too,
     * nothing but the request needs to be written. */
    bool is_zeroed;
    QimgRunKind old_kind; /* of the top layer at [fill_start, fill_end): UNALLOCATED or
                             ZERO where all of it is, DATA where it may hold anything */
    /* Where clusters_end is not 0: these guest bytes are all of old_kind and is_zeroed;
     * who finds that the disk holds zeros in all of them says so in all_is_zero before
     * publishing, and all of them become allocated. */
    uint64_t clusters_start;
    uint64_t clusters_end;
    bool all_is_zero;
    /* Of the caller, before publishing: the data must be durable before the entries. */
    bool data_first;
    QimgInflight inflight;
    /* The driver's own. */
    uint64_t l2_table_offset;
    uint64_t l2_index;
    uint64_t n_clusters;
    uint64_t host_cluster_offset;
    bool is_new_cluster;
} QimgWritePlan;

typedef enum {
    QIMG_ZERO_UNMAP, /* give space back */
    QIMG_ZERO_KEEP,  /* keep what is allocated, for writes to come */
} QimgZeroMode;

/* The head of every open layer; all fields are const once the chain is open, but where a
 * comment says else. */
struct QimgFormat {
    const QimgDriver *driver;
    QimgStorage *file;        /* owned */
    QimgStorage *data_file;   /* owned; NULL: the data lie in @file */
    TableCache *tables;       /* shared by the chain */
    unsigned layer_index;     /* from the top of the chain; part of cache keys */
    InflightSet *inflight;    /* owned; NULL unless is_writable */
    QimgBehind *behind;       /* owned; NULL unless is_writable */
    uint64_t zero_unit_bytes; /* a writable layer's: see zero */

    QimgGate *gate;   /* the chain's; NULL: nothing is ever written */
    bool is_writable; /* this layer takes writes */
    /* atomic, relaxed: the file's length in bytes, rounded up to a sector; looked up
     * again when something seems to lie beyond it, since a running VM's file grows
     * (format/table-file.h) */
    _Atomic uint64_t file_end_bytes;
    _Atomic bool broken;        /* atomic: nothing is changed any more */
    QimgRuleSet reported_rules; /* damage logged already */
    /* owned, a writable layer's: host clusters in which metadata lie. Atomic to look up,
     * added to under the driver's allocation lock */
    QimgIndexSet *metadata;
    /* a writable layer's changes while the gate is closed, but for the size (view.h) */
    QimgView active;
    uint64_t cluster_bytes;
    uint64_t
        alloc_unit_bytes; /* runs begin and end at multiples, but for the disk's end */
    bool may_compress;    /* COMPRESSED runs are possible */
    QimgErrno data_error; /* opened for inspection only: what reading answers */

    char *backing_name;   /* as stored, NULL: none */
    char *backing_format; /* NULL: not recorded */
    bool lets_probe;      /* it is not recorded since it is not raw */
    bool needs_data_file;
    char *data_file_name; /* as stored, NULL: not recorded */

    const char *encryption; /* static; NULL: none */
    /* atomic: a writable layer is repaired at its first change */
    _Atomic bool is_dirty;
    bool is_corrupt;
    GPtrArray *warnings; /* char *, without the file's name */

    QimgSnapshots *snapshots; /* owned, never NULL: replaced while the gate is closed */
    uint32_t next_snapshot_serial; /* while the gate is closed */

    QimgFact facts[QIMG_MAX_FACTS];
    unsigned n_facts;
};

/* What a driver may use to open a layer. */
typedef struct {
    TableCache *tables;
    unsigned layer_index;
    bool inspect;       /* open what cannot be decrypted, for its facts */
    bool has_snapshots; /* load the list of internal snapshots */
    QimgGate *gate;     /* NULL: read-only */
    QimgKeeper *keeper; /* of a writable layer; NULL: nothing is written behind */
    bool is_writable;   /* refuse what cannot be written to */
    bool for_check;     /* open what is damaged, too, for check and repair alone */
} QimgFormatEnv;

/* What a new image shall be; the driver looks at what its format has. */
typedef struct {
    uint64_t size_bytes; /* a multiple of a sector */
    unsigned cluster_bits;
    unsigned table_clusters;    /* QED: of a table; 0: the default */
    unsigned version;           /* 2 or 3; the rest as 2 has it: no field marked 3 */
    unsigned refcount_order;    /* refcounts of 2^this bits; 4, other: 3 */
    QimgCodec compression;      /* DEFLATE, other: 3 */
    bool extended_l2;           /* 3 */
    bool lazy_refcounts;        /* 3 */
    const char *backing_name;   /* stored as it is; NULL: none */
    const char *backing_format; /* NULL: not recorded */
    const char *data_file_name; /* stored as it is; NULL: none. 3. The file itself is the
                                   caller's: zeros, as long as the disk */
    bool data_file_raw;         /* the data file alone shall always be the disk */
    QimgPreallocation preallocation; /* raw: not METADATA. With a data file no more than
                                        METADATA: the rest is the caller's, too */
    const QimgTask *task;            /* of the caller; may be NULL */
} QimgCreateOptions;

/* What a new snapshot is called, and when it was taken. */
typedef struct {
    const char *name; /* at most QIMG_MAX_SNAPSHOT_NAME_BYTES */
    int64_t date_s;   /* since 1970 */
    uint32_t date_ns;
} QimgNewSnapshot;

struct QimgDriver {
    const char *name;
    bool is_little_endian; /* the words of tables in the file */

    /* Whether images can say of which format their backing file is. */
    bool records_backing_format;

    /* Whether the first @n_bytes of a file begin as images of this format do, of versions
     * that open does not know and cut ones as well: a file that has the magic number is
     * no raw disk. NULL: never probed. */
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

    /* Checks a snapshot of the list for use, and where its VM state begins in its view.
     * NULL without snapshots. */
    bool (*check_snapshot)(QimgFormat *format, const QimgFormatSnapshot *snapshot,
                           QimgGuestOffset *vm_state_out, GError **error);

    /* Lists persistent bitmaps that are valid: QimgListedBitmap, names freed with the
     * array. Those at *@position (0: the first) that one read of bounded length gives,
     * which it moves behind them; an empty array behind the last one. NULL: there are
     * none. Threads: any, inside the gate. Errors: -EIO for a damaged directory, those of
     * the storage, -ENOMEM. */
    QimgErrno (*list_bitmaps)(QimgFormat *format, uint64_t *position,
                              GArray **bitmaps_out);

    /* Reads all of the directory of bitmaps. NULL: there are none. What is wrong is said
     * in the list. Threads: any, inside the gate. Errors: of the storage, -ENOMEM. */
    QimgErrno (*load_bitmaps)(QimgFormat *format, QimgBitmaps **list_out);

    /* Whether the bits at @guest_offset, which lies below the disk's size, are set, and
     * how many bytes from there on it holds for: as far as they are alike, or as the walk
     * went in about a second. @cursor: see format/bitmaps.h.
     * Threads: any, inside the gate; no lock but TEXT may be held. Errors: -EINVAL for a
     * bitmap whose bits mean nothing, -EIO for damage, of the storage. */
    QimgErrno (*map_bitmap)(QimgFormat *format, QimgBitmapCursor *cursor,
                            uint64_t guest_offset, bool *is_set_out,
                            uint64_t *length_bytes_out);

    /* ---- writing; all NULL where the format cannot ---- */

    /* Does what must come before the first change of a layer: feature bits, repair.
     * Called by qimg_format_activate, under the driver's allocation lock. NULL: nothing.
     */
    QimgErrno (*activate)(QimgFormat *format);

    /* Plans the write of at most @length_bytes > 0 at @guest_offset, which lie within the
     * disk. The first change of an image does what must come before any (feature bits).
     * Threads: any, inside the gate; no lock may be held. Waits for others who change the
     * same clusters. Errors: -EROFS after corruption was met or a write of metadata
     * failed, -EIO for damage, -ENOSPC and others of the storage, -ENOMEM. */
    QimgErrno (*plan_write)(QimgFormat *format, QimgGuestOffset guest_offset,
                            uint64_t length_bytes, QimgWritePlan *plan_out);

    /* Makes an allocating plan's data the disk's, and ends it, also on failure: then the
     * disk is as it was. */
    QimgErrno (*publish)(QimgFormat *format, QimgWritePlan *plan);

    /* Ends a plan without a change of the tables. */
    void (*abandon)(QimgFormat *format, QimgWritePlan *plan);

    /* Lets at most @length_bytes at @guest_offset, both multiples of zero_unit_bytes (but
     * for the disk's end), read as zeros; *@done_out > 0 tells how far it went.
     * @below_is_zero: the layers below read as zeros there.
     * Threads, errors: as plan_write; -EOPNOTSUPP where zeros must be written as data. */
    QimgErrno (*zero)(QimgFormat *format, QimgGuestOffset guest_offset,
                      uint64_t length_bytes, QimgZeroMode mode, bool below_is_zero,
                      uint64_t *done_out);

    /* Returns when all that was written before is on stable storage, and frees what that
     * allows to free. Threads: any, outside the gate. Errors: those of the storage, again
     * and again once a sync has failed. */
    QimgErrno (*flush)(QimgFormat *format);

    /* Whether so much waits for the next flush that somebody should call it. */
    bool (*wants_flush)(QimgFormat *format);

    /* Makes the tables able to map a disk of @size_bytes, without a change of the disk:
     * map, plan_write and zero may then be used up to there. With the gate closed, by the
     * caller. NULL: nothing to do. Errors: as plan_write; -EFBIG, -EOPNOTSUPP. */
    QimgErrno (*extend_tables)(QimgFormat *format, uint64_t size_bytes);

    /* Changes the disk's size to @size_bytes, rounded up to what the format can express,
     * durably with the next flush at the latest. What is added reads as what
     * extend_tables and the caller have left there, who have made that durable.
     * With the gate closed, by the caller. Errors: as extend_tables. */
    QimgErrno (*resize)(QimgFormat *format, uint64_t size_bytes);

    /* Lets the disk grow to @size_bytes inside the gate. What is added lies before the
     * end of what extend_tables was called for, and reads as zeros, durably. NULL: never.
     * Threads: any, inside the gate; the caller holds a lock of rank SIZE, and no other.
     * Errors: -EAGAIN where it takes more than to store the size: resize does that; else
     * as resize. */
    QimgErrno (*grow)(QimgFormat *format, uint64_t size_bytes);

    /* ---- changing snapshots; NULL where there are none ----
     *
     * With the gate closed, by the caller. On success the change is durable, and
     * format->snapshots another list. Errors of all: as plan_write, and -EOPNOTSUPP where
     * this image cannot have snapshots. With a task (may be NULL): -ECANCELED, and
     * nothing has changed. */

    /* Takes a snapshot of the active disk. Errors: -ERANGE where refcounts cannot count
     * one more, -EFBIG where the table of snapshots is full. */
    QimgErrno (*create_snapshot)(QimgFormat *format, const QimgNewSnapshot *snapshot,
                                 const QimgTask *task);

    /* Deletes the snapshot at @place of the list, which no handle uses. */
    QimgErrno (*delete_snapshot)(QimgFormat *format, unsigned place,
                                 const QimgTask *task);

    QimgErrno (*rename_snapshot)(QimgFormat *format, unsigned place, const char *name);

    /* Makes the disk what it was, in content and size. */
    QimgErrno (*revert_to_snapshot)(QimgFormat *format, unsigned place,
                                    const QimgTask *task);

    /* ---- checking; all NULL where there is no check ---- */

    /* Looks at all that the file says of itself and adds what is wrong to @report. Never
     * writes. The layer was opened for_check. False with @error set where that could not
     * be done at all. */
    bool (*check)(QimgFormat *format, QimgCheckReport *report, GError **error);

    /* Repairs what @mode (not NONE) allows, in an order that can be interrupted anywhere,
     * and then checks as above. The layer was opened for_check, its file for writing.
     * Errors: those of the storage, -ENOMEM. */
    bool (*repair)(QimgFormat *format, QimgRepair mode, QimgCheckReport *report,
                   GError **error);

    /* ---- making ---- */

    /* Checks what create checks before it writes. NULL: nothing. Errors: USAGE. */
    bool (*check_create)(const QimgCreateOptions *options, GError **error);

    /* Makes a new image in @file, whose content is lost. The header is written when all
     * else is durable, so that what is half-made is no image; all of it is durable on
     * return. NULL where images of the format are not made. Errors: USAGE for a field
     * that breaks a rule or limit, CANCELED, those of the storage. */
    bool (*create)(QimgStorage *file, const QimgCreateOptions *options, GError **error);

    /* ---- end ---- */

    /* Stores what must not stay behind when a writable layer is closed; errors are logged
     * (flush before, to be told of them). No request runs any more. NULL: nothing. */
    void (*end_writing)(QimgFormat *format);

    /* Frees what the driver has; the common head is freed by qimg_format_close. */
    void (*close)(QimgFormat *format);
};

/* The driver called @name, or NULL. */
const QimgDriver *qimg_driver_find(const char *name);

/* The names of all formats, or of those of which images can be made, as a text: "A, B or
 * C". Free with g_free. */
char *qimg_driver_names(bool made_only);

/* The driver for a file that begins with @bytes: that of the format whose magic number
 * they have, whether or not it can read the rest, else raw. NULL with *@foreign_out set
 * where they are of a format that has no driver. */
const QimgDriver *qimg_driver_probe(const uint8_t *bytes, size_t n_bytes,
                                    const QimgForeign **foreign_out);

/* Sets the common head of a new layer. */
void qimg_format_init(QimgFormat *format, const QimgDriver *driver, QimgStorage *file,
                      const QimgFormatEnv *env);

/* Closes a layer with its files; accepts NULL. */
void qimg_format_close(QimgFormat *format);

/* Adds a warning about the layer. */
void qimg_format_warn(QimgFormat *format, const char *text, ...) G_GNUC_PRINTF(2, 3);

/* Sets @error to what is wrong with a header, followed by @advice: what the image may be
 * then and what to do. Rule @magic says that it is no image of the format. Returns false.
 */
bool qimg_refuse_header(GError **error, QimgDecode broken, QimgRule magic,
                        const char *advice);

/* Reads and inflates the compressed cluster in the @stream_bytes at @host_offset of the
 * layer's file; what lies behind the stream does not matter.
 * Threads, errors: as QimgDriver.read_compressed. */
QimgErrno qimg_format_read_stream(QimgFormat *format, QimgCodec codec,
                                  QimgHostOffset host_offset, uint32_t stream_bytes,
                                  uint8_t *cluster_out) QIMG_MUST_CHECK;

/* The storage that DATA runs refer to. */
static inline QimgStorage *
qimg_format_data_storage(const QimgFormat *format)
{
    return format->data_file ? format->data_file : format->file;
}

extern const QimgDriver qimg_driver_raw;
extern const QimgDriver qimg_driver_qcow2;
extern const QimgDriver qimg_driver_qed;
extern const QimgDriver qimg_driver_qcow1;
