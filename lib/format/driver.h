/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The contract between image/ and the formats: the few operations on an open layer. */
#pragma once

#include "format/bitmaps.h"
#include "format/check-report.h"
#include "format/create-options.h"
#include "format/format.h"
#include "format/header-change.h"
#include "format/run.h"
#include "format/write-plan.h"

struct QimgDriver {
    const char *name;
    bool is_little_endian; /* byte order of table words in the file */

    /* Whether images can record the format of their backing file. */
    bool records_backing_format;

    /* Whether the first @n_bytes of a file begin like an image of this format, including
     * versions that open does not support and truncated images: a file with the magic
     * number is no raw disk. NULL: never probed. */
    bool (*probe)(const uint8_t *bytes, size_t n_bytes);

    /* Opens the layer in @file; takes ownership on success only. NULL with @error set:
     * the text names the field, not the file. */
    QimgFormat *(*open)(QimgStorage *file, const QimgFormatEnv *env, GError **error);

    /* Returns the longest run of @view at @guest_offset, which lies below its size.
     * @length_bytes > 0 is the length that the caller can use; the run may be longer or,
     * after much work, shorter than the range with the same answer. Threads: any; no lock
     * may be held; waits for I/O on a cache miss. Errors: of the storage, -ENOMEM. Damage
     * is a run, not an error. */
    QimgErrno (*map)(QimgFormat *format, const QimgView *view,
                     QimgGuestOffset guest_offset, uint64_t length_bytes,
                     QimgRun *run_out);

    /* Announces that map will read the slice of the L1 table, or of the L2 table, that
     * tells of @guest_offset, which lies below the size of @view, unless it is cached.
     * NULL without tables.
     * Threads: any; no lock may be held; TABLE_L2 waits for I/O if the L1 slice is not
     * in the cache. */
    void (*will_map)(QimgFormat *format, const QimgView *view,
                     QimgGuestOffset guest_offset, TableKind level);

    /* Reads and inflates a whole compressed cluster. NULL without compression.
     * Threads: any; no lock may be held. Errors: -EIO for a broken stream, -ENOMEM. */
    QimgErrno (*read_compressed)(QimgFormat *format, QimgHostOffset host_offset,
                                 uint32_t stream_bytes, uint8_t *cluster_out);

    /* Checks that a snapshot of the list is usable, and returns where its VM state begins
     * in its view. NULL without snapshots. */
    bool (*check_snapshot)(QimgFormat *format, const QimgFormatSnapshot *snapshot,
                           QimgGuestOffset *vm_state_out, GError **error);

    /* Lists the valid persistent bitmaps: QimgListedBitmap, names freed with the array.
     * Returns those at *@position (0: the first) that one read of bounded length
     * contains, and advances it; an empty array at the end. NULL: the format has none.
     * Threads: any, inside the gate. Errors: -EIO for a damaged directory, those of the
     * storage, -ENOMEM. */
    QimgErrno (*list_bitmaps)(QimgFormat *format, uint64_t *position,
                              GArray **bitmaps_out);

    /* Reads the whole directory of bitmaps. NULL: the format has none. The list has the
     * problems. Threads: any, inside the gate. Errors: of the storage, -ENOMEM. */
    QimgErrno (*load_bitmaps)(QimgFormat *format, QimgBitmaps **list_out);

    /* Returns whether the bits at @guest_offset, which lies below the disk's size, are
     * set, and the length of the range with the same value, limited to a walk of about a
     * second. @cursor: see format/bitmaps.h. Threads: any, inside the gate; no lock but
     * TEXT may be held. Errors: -EINVAL for a bitmap with invalid bits, -EIO for damage,
     * of the storage. */
    QimgErrno (*map_bitmap)(QimgFormat *format, QimgBitmapCursor *cursor,
                            uint64_t guest_offset, bool *is_set_out,
                            uint64_t *length_bytes_out);

    /* Does all of @actions to the bitmap @name (NULL: none of them needs it), or nothing;
     * durably. NULL: there are none. With the gate closed, by the caller. */
    bool (*change_bitmaps)(QimgFormat *format, const char *name,
                           const QimgFormatBitmapAction *actions, unsigned n_actions,
                           const QimgTask *task, GError **error);

    /* ---- writing; all NULL if the format cannot ---- */

    /* Does the work that must precede the first change of a layer: feature bits, repair.
     * Called by qimg_format_activate, under the driver's allocation lock. NULL:
     * nothing. */
    QimgErrno (*activate)(QimgFormat *format);

    /* Comes before a request changes anything of a range of the disk: records all of it,
     * even if nothing changes or the request fails. NULL: nothing to do.
     * Threads: any, inside the gate or while it is closed; no lock may be held. Errors:
     * as plan_write; -ENOBUFS if the memory for it would pass its bound and @may_exceed
     * is not set: the caller leaves the gate, calls make_room and tries again. */
    QimgErrno (*before_change)(QimgFormat *format, uint64_t guest_offset,
                               uint64_t length_bytes, bool may_exceed);

    /* Writes the records of before_change to the file. The caller has closed the gate. */
    void (*make_room)(QimgFormat *format);

    /* Plans the write of at most @length_bytes > 0 at @guest_offset, within the disk. The
     * first change of an image activates the layer first (feature bits). Threads: any,
     * inside the gate; no lock may be held. Waits for other changes of the same clusters.
     * Errors: -EROFS after corruption was found or a write of metadata failed, -EIO for
     * damage, -ENOSPC and others of the storage, -ENOMEM. */
    QimgErrno (*plan_write)(QimgFormat *format, QimgGuestOffset guest_offset,
                            uint64_t length_bytes, QimgWritePlan *plan_out);

    /* Publishes the data of an allocating plan, and ends the plan, also on failure: the
     * disk is then unchanged. */
    QimgErrno (*publish)(QimgFormat *format, QimgWritePlan *plan);

    /* Ends a plan without a change of the tables. */
    void (*abandon)(QimgFormat *format, QimgWritePlan *plan);

    /* Makes at most @length_bytes at @guest_offset, both multiples of zero_unit_bytes
     * (except at the disk's end), read as zeros; *@done_out > 0 is the length done.
     * @below_is_zero: the layers below read as zeros there. Threads, errors: as
     * plan_write; -EOPNOTSUPP if zeros must be written as data. */
    QimgErrno (*zero)(QimgFormat *format, QimgGuestOffset guest_offset,
                      uint64_t length_bytes, QimgZeroMode mode, bool below_is_zero,
                      uint64_t *done_out);

    /* Returns when all earlier writes are on stable storage, and does the frees that this
     * permits. Threads: any, outside the gate. Errors: those of the storage, on every
     * call once a sync has failed. */
    QimgErrno (*flush)(QimgFormat *format);

    /* Whether the pending work warrants a flush now. */
    bool (*wants_flush)(QimgFormat *format);

    /* Makes the tables able to map a disk of @size_bytes, without a change of the disk:
     * map, plan_write and zero may then be used up to there. The caller has closed the
     * gate. NULL: nothing to do. Errors: as plan_write; -EFBIG, -EOPNOTSUPP. */
    QimgErrno (*extend_tables)(QimgFormat *format, uint64_t size_bytes);

    /* Changes the disk's size to @size_bytes, rounded up to a size that the format can
     * express, durably with the next flush at the latest. The added range reads as the
     * content that extend_tables and the caller have left there, durably. The caller has
     * closed the gate. Errors: as extend_tables; -ECANCELED by @task (may be NULL) if the
     * disk has been made smaller, and not all of its space freed. */
    QimgErrno (*resize)(QimgFormat *format, uint64_t size_bytes, const QimgTask *task);

    /* Grows the disk to @size_bytes inside the gate. The added range lies within the size
     * of the last extend_tables, and reads as zeros, durably. NULL: unsupported. Threads:
     * any, inside the gate; the caller holds a lock of rank SIZE, and no other. Errors:
     * -EAGAIN if more than the stored size must change: use resize; else as resize. */
    QimgErrno (*grow)(QimgFormat *format, uint64_t size_bytes);

    /* Drops all data of the disk, which then is the backing file's; durably with the next
     * flush. An interrupted one has dropped some. The caller has closed the gate. NULL:
     * unsupported. Errors: as plan_write, -ECANCELED. */
    QimgErrno (*make_empty)(QimgFormat *format, const QimgTask *task);

    /* ---- changing snapshots; NULL if the format has none ----
     *
     * The caller has closed the gate. On success the change is durable, and
     * format->snapshots is a new list. Errors of all: as plan_write, and -EOPNOTSUPP if
     * this image cannot have snapshots. With a task (may be NULL): -ECANCELED, and
     * nothing has changed. */

    /* Takes a snapshot of the active disk. Errors: -ERANGE if a refcount is at its
     * maximum, -EFBIG if the table of snapshots is full. */
    QimgErrno (*create_snapshot)(QimgFormat *format, const QimgNewSnapshot *snapshot,
                                 const QimgTask *task);

    /* Deletes the snapshot at @place of the list; no handle uses it. */
    QimgErrno (*delete_snapshot)(QimgFormat *format, unsigned place,
                                 const QimgTask *task);

    QimgErrno (*rename_snapshot)(QimgFormat *format, unsigned place, const char *name);

    /* Restores the snapshot's content and size of the disk. */
    QimgErrno (*revert_to_snapshot)(QimgFormat *format, unsigned place,
                                    const QimgTask *task);

    /* ---- checking; all NULL if the format has no check ---- */

    /* Checks all metadata of the file and adds the problems to @report. Never writes. The
     * layer was opened for_check. False with @error set if the check could not run at
     * all. */
    bool (*check)(QimgFormat *format, QimgCheckReport *report, GError **error);

    /* Makes the repairs that @mode (not NONE) allows, in an order that is safe to
     * interrupt anywhere, and then checks as above. The layer was opened for_check, its
     * file for writing. Errors: those of the storage, -ENOMEM. */
    bool (*repair)(QimgFormat *format, QimgRepair mode, QimgCheckReport *report,
                   GError **error);

    /* ---- the header ---- */

    /* Makes @change, durably, by one write that a crash leaves undone or done; nothing
     * has changed on failure, except for unused space. The layer was opened for_check,
     * its file for writing, or is writable, with the gate closed; of a writable one, only
     * the backing file is changed, and it is closed afterwards. NULL: the format has no
     * such properties. Errors: USAGE, REFUSED where something would be lost, UNSUPPORTED,
     * CANCELED, those of the storage. */
    bool (*change_header)(QimgFormat *format, const QimgHeaderChange *change,
                          const QimgTask *task, GError **error);

    /* ---- creation ---- */

    /* The checks that create does before it writes. NULL: none. Errors: USAGE. */
    bool (*check_create)(const QimgCreateOptions *options, GError **error);

    /* Creates a new image in @file, whose content is lost. Writes the header when all
     * else is durable, so that an incomplete image is not recognised as one; all is
     * durable on return. NULL if images of the format cannot be created. Errors: USAGE
     * for a field that breaks a rule or limit, CANCELED, those of the storage. */
    bool (*create)(QimgStorage *file, const QimgCreateOptions *options, GError **error);

    /* ---- end ---- */

    /* Stores the pending state of a writable layer before it is closed; logs errors (to
     * receive them, flush before). No request is in flight. NULL: nothing. */
    void (*end_writing)(QimgFormat *format);

    /* Frees the driver's own state; qimg_format_close frees the common head. */
    void (*close)(QimgFormat *format);
};

/* Closes a layer with its files; accepts NULL. */
void qimg_format_close(QimgFormat *format);
