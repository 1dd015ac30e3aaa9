/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The contract between image/ and the formats: the few questions that can be put to an
 * open layer. */
#pragma once

#include "format/bitmaps.h"
#include "format/check-report.h"
#include "format/create-options.h"
#include "format/format.h"
#include "format/run.h"
#include "format/write-plan.h"

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

    /* Announces that map will read the slice of the L1 table, or of the L2 table, that
     * tells of @guest_offset, which lies below the size of @view. NULL without tables.
     * Threads: any; no lock may be held; TABLE_L2 waits for I/O if the L1 slice is not
     * in the cache. */
    void (*will_map)(QimgFormat *format, const QimgView *view,
                     QimgGuestOffset guest_offset, TableKind level);

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

    /* Does all of @actions to the bitmap @name (NULL: none of them needs it), or nothing;
     * durably. NULL: there are none. With the gate closed, by the caller. */
    bool (*change_bitmaps)(QimgFormat *format, const char *name,
                           const QimgBitmapAction *const *actions, unsigned n_actions,
                           GError **error);

    /* ---- writing; all NULL where the format cannot ---- */

    /* Does what must come before the first change of a layer: feature bits, repair.
     * Called by qimg_format_activate, under the driver's allocation lock. NULL: nothing.
     */
    QimgErrno (*activate)(QimgFormat *format);

    /* Comes before a request changes anything of a range of the disk: records all of it,
     * even if nothing changes or the request fails. NULL: nothing to do.
     * Threads: any, inside the gate or while it is closed; no lock may be held. Errors:
     * as plan_write; -ENOBUFS if the memory for it would pass its bound and @may_exceed
     * is not set: the caller leaves the gate, calls make_room and tries again. */
    QimgErrno (*before_change)(QimgFormat *format, uint64_t guest_offset,
                               uint64_t length_bytes, bool may_exceed);

    /* Writes what before_change has recorded to the file. With the gate closed, by the
     * caller. */
    void (*make_room)(QimgFormat *format);

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

/* Closes a layer with its files; accepts NULL. */
void qimg_format_close(QimgFormat *format);
