/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The image file of a format whose disk is mapped by tables in it: its end, slices of its
 * tables, and changes of tables that survive a failure in between.
 *
 * T1  When a write is acknowledged, its entries are in the file, or pending in memory
 *     that outlives the process (behind/behind.h) until their data are durable. A slice
 *     that a writer changes is pinned while it writes the file and then the slice, so
 *     that no other thread loads it in between.
 *
 * T2  A failed write of metadata makes the layer read-only (broken), except for lack of
 *     space: then the old bytes are written back. */
#pragma once

#include "base/checked.h"
#include "base/lock.h"
#include "format/format.h"

/* Contiguous host clusters. */
typedef struct {
    uint64_t first_cluster;
    uint64_t n_clusters;
} QimgClusters;

/* Adds @run to a list of runs (QimgClusters), joined with the last if they touch. */
void qimg_clusters_append(GArray *list, QimgClusters run);

#define QIMG_MAX_RESERVE_BYTES (64 * QIMG_MIB)

/* How many bytes of clusters to prepare at once, which costs a sync: the last suggestion
 * (twice the previous amount), limited to a share of the disk; a process that dies leaks
 * the rest of them. */
static inline uint64_t
qimg_reserve_bytes(const QimgFormat *format, uint64_t suggested_bytes)
{
    uint64_t max_bytes =
        qimg_min_u64(QIMG_MAX_RESERVE_BYTES,
                     qimg_max_u64(qimg_view_size_bytes(&format->active) / 8, QIMG_MIB));

    return qimg_max_u64(qimg_min_u64(suggested_bytes, max_bytes), QIMG_MIB);
}

/* Reads the file's length for qimg_format_is_beyond_end. At open. False with @error
 * set. */
bool qimg_format_look_at_end(QimgFormat *format, GError **error);

/* Whether @host_offset lies beyond the end of the image file. Any thread. */
bool qimg_format_is_beyond_end(QimgFormat *format, uint64_t host_offset);

/* How many of the @length_bytes from @in_cluster_bytes on, in contiguous clusters from
 * @host_offset on, belong to clusters that begin before the end: the last one may be
 * truncated. 0: none. Any thread. */
uint64_t qimg_format_clip_clusters(QimgFormat *format, uint64_t host_offset,
                                   uint64_t in_cluster_bytes, uint64_t length_bytes);

/* Pins the slice of a table that begins at @host_offset; as table_cache_pin and
 * table_cache_pin_to_change. */
QimgErrno qimg_format_pin(QimgFormat *format, TableKind kind, uint64_t host_offset,
                          unsigned n_words, TableSlice *slice_out) QIMG_MUST_CHECK;
QimgErrno qimg_format_pin_to_change(QimgFormat *format, TableKind kind,
                                    uint64_t host_offset, unsigned n_words,
                                    TableSlice *slice_out) QIMG_MUST_CHECK;

/* Announces that qimg_format_pin will read the slice, unless it is cached. Any thread. */
void qimg_format_will_pin(QimgFormat *format, TableKind kind, uint64_t host_offset,
                          unsigned n_words);

/* Converts @n_words of a table from on-disk to host byte order, or back. */
void qimg_format_swap_words(const QimgFormat *format, uint64_t *words, size_t n_words);

/* Reads @n_words of a table past the cache, host-endian. Errors: of the storage. */
QimgErrno qimg_format_read_words(QimgFormat *format, QimgIoPurpose purpose,
                                 uint64_t host_offset, uint64_t *words, size_t n_words)
    QIMG_MUST_CHECK;

/* Called with a word of a table and its index in it; an error ends the walk. */
typedef QimgErrno (*QimgWordFunc)(void *user, uint64_t index, uint64_t word);

/* Calls @func for each of @n_words, as read by qimg_format_read_words, in pieces of 64
 * KiB. Errors: as that, -ENOMEM, those of @func. */
QimgErrno qimg_format_each_word(QimgFormat *format, QimgIoPurpose purpose,
                                uint64_t host_offset, uint64_t n_words, QimgWordFunc func,
                                void *user) QIMG_MUST_CHECK;

/* New words for a part of a slice, whole entries. */
typedef struct {
    QimgIoPurpose purpose;
    uint64_t slice_offset; /* of the slice in the file */
    TableSlice *slice;     /* pinned for a change */
    uint64_t word_index;   /* in the slice */
    const uint64_t *words; /* host-endian */
    uint64_t n_words;
    unsigned entry_words; /* of one entry */
    bool data_first;      /* their data may not be durable yet */
} QimgTableChange;

/* Writes the change to the file, or makes it pending until it may be written (T1). Does
 * not change the slice: the caller does so (table_slice_set) afterwards. Threads: one for
 * each entry. Errors: as qimg_format_write_or_undo, those of syncs. */
QimgErrno qimg_format_write_words(QimgFormat *format, const QimgTableChange *change)
    QIMG_MUST_CHECK;

/* Like qimg_format_write_words, and changes the slice, too. */
QimgErrno qimg_format_store_words(QimgFormat *format, const QimgTableChange *change)
    QIMG_MUST_CHECK;

/* Whether entries stay pending until their data are durable, also those of new clusters,
 * which then need not be prepared durably. Changes only with the first change of the
 * layer. */
static inline bool
qimg_format_is_behind(const QimgFormat *format)
{
    return behind_is_started(format->behind);
}

/* Writes pending entries, so that readers that bypass the cache see the tables that all
 * users of the layer see. With the gate closed, or the entries in question announced.
 * Errors: those of the storages. */
QimgErrno qimg_format_settle(QimgFormat *format) QIMG_MUST_CHECK;

/* Makes all earlier writes durable, tables and data. Threads: any; a lock of rank ALLOC
 * may be held. Errors: those of the storages. */
QimgErrno qimg_format_sync(QimgFormat *format) QIMG_MUST_CHECK;

/* Adds the host clusters that [@host_offset, + @n_bytes) touches to the layer's metadata.
 * Under the allocation lock or before the layer is active. -EFBIG if there are more than
 * any valid image has. */
QimgErrno qimg_format_metadata_add(QimgFormat *format, uint64_t host_offset,
                                   uint64_t n_bytes) QIMG_MUST_CHECK;
void qimg_format_metadata_remove(QimgFormat *format, uint64_t host_offset,
                                 uint64_t n_bytes);

/* Whether [@host_offset, + @n_bytes) touches a cluster of metadata. Any thread. */
bool qimg_format_touches_metadata(const QimgFormat *format, uint64_t host_offset,
                                  uint64_t n_bytes);

/* Writes metadata in place of @old_bytes (T2). Locks: as for metadata. */
QimgErrno qimg_format_write_or_undo(QimgFormat *format, QimgIoPurpose purpose,
                                    uint64_t host_offset, const void *bytes,
                                    const void *old_bytes, size_t n_bytes)
    QIMG_MUST_CHECK;

/* Whether @err means a lack of space: the layer need not be broken. */
bool qimg_is_lack_of_space(QimgErrno err);

/* Whether all writes are refused: the layer is broken, or a sync has failed. */
bool qimg_format_is_broken(const QimgFormat *format);

/* Prepares the first change, by QimgDriver.activate under @alloc_lock, until it succeeds,
 * and then sets *@is_active. Cheap when done. Threads: any; no lock may be held. Errors:
 * -EROFS for a broken layer; those of the driver. */
QimgErrno qimg_format_activate(QimgFormat *format, QimgMutex *alloc_lock,
                               _Atomic bool *is_active) QIMG_MUST_CHECK;

/* Refuses every further change: @err is a failed write of metadata. Returns @err. */
QimgErrno qimg_format_break(QimgFormat *format, QimgErrno err);

/* Logs damage, once for each rule. Any thread. */
void qimg_format_report(QimgFormat *format, QimgRule rule, uint64_t host_offset);
