/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The file of a format with tables: its end, slices, and safe changes of metadata. */
#define G_LOG_DOMAIN "qimg-format"

#include "format/table-file.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "base/errors.h"
#include "format/driver.h"

/* A valid image has no more: in qcow2, the L1 limit alone is 4194304 tables. */
#define MAX_METADATA_CLUSTERS (UINT64_C(1) << 23)
/* Words of a table that are read at once. */
#define MAX_PIECE_WORDS (8 * QIMG_KIB)

void
qimg_clusters_append(GArray *list, QimgClusters run)
{
    if (list->len > 0) {
        QimgClusters *last = &g_array_index(list, QimgClusters, list->len - 1);

        if (last->first_cluster + last->n_clusters == run.first_cluster) {
            last->n_clusters += run.n_clusters;
            return;
        }
    }
    g_array_append_val(list, run);
}

bool
qimg_format_look_at_end(QimgFormat *format, GError **error)
{
    uint64_t size_bytes = 0, end_bytes;
    QimgErrno err = qimg_storage_get_size(format->file, &size_bytes);

    if (!err && !qimg_align_up(size_bytes, QIMG_SECTOR_BYTES, &end_bytes))
        err = -EFBIG;
    if (err) {
        qimg_set_error_errno(error, -err, NULL, "cannot read the size of the file");
        return false;
    }
    atomic_init(&format->file_end_bytes, end_bytes);
    return true;
}

bool
qimg_format_is_beyond_end(QimgFormat *format, uint64_t host_offset)
{
    uint64_t size_bytes, end_bytes;

    if (host_offset < atomic_load_explicit(&format->file_end_bytes, memory_order_relaxed))
        return false;
    if (qimg_storage_get_size(format->file, &size_bytes) != 0 ||
        !qimg_align_up(size_bytes, QIMG_SECTOR_BYTES, &end_bytes))
        return true;
    atomic_store_explicit(&format->file_end_bytes, end_bytes, memory_order_relaxed);
    return host_offset >= end_bytes;
}

uint64_t
qimg_format_clip_clusters(QimgFormat *format, uint64_t host_offset,
                          uint64_t in_cluster_bytes, uint64_t length_bytes)
{
    uint64_t cluster_bytes = format->cluster_bytes;
    uint64_t end_bytes, until_end;

    if (qimg_format_is_beyond_end(format, host_offset))
        return 0;
    end_bytes = atomic_load_explicit(&format->file_end_bytes, memory_order_relaxed);
    until_end = qimg_div_round_up(end_bytes - host_offset, cluster_bytes) * cluster_bytes;
    if (in_cluster_bytes + length_bytes <= until_end ||
        !qimg_format_is_beyond_end(format, host_offset + until_end))
        return length_bytes;
    return until_end - in_cluster_bytes;
}

static TableFile
table_file_of(const QimgFormat *format)
{
    return (TableFile){
        .storage = format->file,
        .behind = format->behind,
        .layer = format->layer_index,
        .is_little_endian = format->driver->is_little_endian,
    };
}

QimgErrno
qimg_format_pin(QimgFormat *format, TableKind kind, uint64_t host_offset,
                unsigned n_words, TableSlice *slice_out)
{
    return table_cache_pin(format->tables, kind, table_file_of(format),
                           qimg_host(host_offset), n_words, slice_out);
}

QimgErrno
qimg_format_pin_to_change(QimgFormat *format, TableKind kind, uint64_t host_offset,
                          unsigned n_words, TableSlice *slice_out)
{
    return table_cache_pin_to_change(format->tables, kind, table_file_of(format),
                                     qimg_host(host_offset), n_words, slice_out);
}

void
qimg_format_will_pin(QimgFormat *format, TableKind kind, uint64_t host_offset,
                     unsigned n_words)
{
    if (!table_cache_has(format->tables, kind, format->layer_index,
                         qimg_host(host_offset)))
        qimg_storage_will_read(format->file, qimg_host(host_offset),
                               n_words * sizeof(uint64_t));
}

void
qimg_format_swap_words(const QimgFormat *format, uint64_t *words, size_t n_words)
{
    if (format->driver->is_little_endian)
        qimg_le64_array_to_host(words, n_words); /* its own inverse */
    else
        qimg_be64_array_to_host(words, n_words);
}

QimgErrno
qimg_format_read_words(QimgFormat *format, QimgIoPurpose purpose, uint64_t host_offset,
                       uint64_t *words, size_t n_words)
{
    QimgErrno err = qimg_storage_read(format->file, purpose, qimg_host(host_offset),
                                      words, n_words * sizeof *words);

    if (!err)
        qimg_format_swap_words(format, words, n_words);
    return err;
}

QimgErrno
qimg_format_each_word(QimgFormat *format, QimgIoPurpose purpose, uint64_t host_offset,
                      uint64_t n_words, QimgWordFunc func, void *user)
{
    uint64_t n_piece = qimg_min_u64(n_words, MAX_PIECE_WORDS);
    g_autofree uint64_t *words = g_try_new(uint64_t, n_piece);

    if (!words && n_piece > 0)
        return -ENOMEM;
    for (uint64_t i = 0; i < n_words; i += n_piece) {
        uint64_t n = qimg_min_u64(n_words - i, n_piece);
        QimgErrno err =
            qimg_format_read_words(format, purpose, host_offset + i * 8, words, n);

        for (uint64_t j = 0; !err && j < n; j++)
            err = func(user, i + j, words[j]);
        if (err)
            return err;
    }
    return 0;
}

/* Makes the data of the new entries durable. */
static QimgErrno
sync_first(QimgFormat *format, const QimgTableChange *c)
{
    bool is_in_file = !format->data_file || c->purpose == QIMG_IO_L1 ||
                      behind_is_started(format->behind);
    QimgErrno err = format->data_file ? qimg_storage_sync(format->data_file) : 0;

    return err || !is_in_file ? err : qimg_storage_sync(format->file);
}

/* @old_words are those of the slice, in on-disk form. */
static QimgErrno
write_or_add(QimgFormat *format, const QimgTableChange *c, const uint64_t *disk_words,
             const uint64_t *old_words)
{
    uint64_t host_offset = c->slice_offset + c->word_index * sizeof(uint64_t);
    bool waits = behind_covers(format->behind, host_offset, c->n_words, c->entry_words);
    QimgErrno err = 0;

    if (behind_is_started(format->behind) && (c->data_first || waits)) {
        if (behind_is_kept(format->behind))
            return behind_add(format->behind, host_offset, disk_words, old_words,
                              c->n_words, c->entry_words);
        err = qimg_format_settle(format);
    }
    if (!err && c->data_first)
        err = sync_first(format, c);
    return err ? err
               : qimg_format_write_or_undo(format, c->purpose, host_offset, disk_words,
                                           old_words, c->n_words * sizeof(uint64_t));
}

QimgErrno
qimg_format_write_words(QimgFormat *format, const QimgTableChange *c)
{
    uint64_t disk_words[TABLE_SLICE_WORDS], old_words[TABLE_SLICE_WORDS];

    memcpy(disk_words, c->words, c->n_words * sizeof(uint64_t));
    qimg_format_swap_words(format, disk_words, c->n_words);
    for (uint64_t i = 0; i < c->n_words; i++)
        old_words[i] = table_slice_get(c->slice, c->word_index + i);
    qimg_format_swap_words(format, old_words, c->n_words);
    return write_or_add(format, c, disk_words, old_words);
}

QimgErrno
qimg_format_store_words(QimgFormat *format, const QimgTableChange *c)
{
    QimgErrno err = qimg_format_write_words(format, c);

    for (uint64_t i = 0; !err && i < c->n_words; i++)
        table_slice_set(c->slice, c->word_index + i, c->words[i]);
    return err;
}

static QimgErrno
settle(QimgFormat *format, bool *has_synced_out)
{
    QimgErrno err = behind_settle(format->behind, has_synced_out);

    return err && !qimg_is_lack_of_space(err) ? qimg_format_break(format, err) : err;
}

QimgErrno
qimg_format_settle(QimgFormat *format)
{
    return settle(format, NULL);
}

QimgErrno
qimg_format_sync(QimgFormat *format)
{
    bool has_synced = false;
    QimgErrno err = settle(format, &has_synced);

    if (!err && format->data_file && !has_synced) /* first: spec qcow2-write section 12 */
        err = qimg_storage_sync(format->data_file);
    return err ? err : qimg_storage_sync(format->file);
}

QimgErrno
qimg_format_metadata_add(QimgFormat *format, uint64_t host_offset, uint64_t n_bytes)
{
    uint64_t first = host_offset / format->cluster_bytes;
    uint64_t end = qimg_div_round_up(host_offset + n_bytes, format->cluster_bytes);

    if (end - first > MAX_METADATA_CLUSTERS - qimg_index_set_count(format->metadata))
        return -EFBIG;
    for (uint64_t c = first; c < end; c++)
        if (!qimg_index_set_add(format->metadata, c))
            return -ENOMEM;
    return 0;
}

void
qimg_format_metadata_remove(QimgFormat *format, uint64_t host_offset, uint64_t n_bytes)
{
    uint64_t first = host_offset / format->cluster_bytes;
    uint64_t end = qimg_div_round_up(host_offset + n_bytes, format->cluster_bytes);

    for (uint64_t c = first; c < end; c++)
        qimg_index_set_remove(format->metadata, c);
}

bool
qimg_format_touches_metadata(const QimgFormat *format, uint64_t host_offset,
                             uint64_t n_bytes)
{
    uint64_t first = host_offset / format->cluster_bytes;
    uint64_t last = (host_offset + n_bytes - 1) / format->cluster_bytes;

    for (uint64_t c = first; c <= last; c++)
        if (qimg_index_set_has(format->metadata, c))
            return true;
    return false;
}

/* Whether the file holds @bytes at @host_offset. */
static bool
holds_bytes(QimgFormat *format, QimgIoPurpose purpose, uint64_t host_offset,
            const void *bytes, size_t n_bytes)
{
    uint8_t found[TABLE_SLICE_BYTES];

    for (size_t done = 0; done < n_bytes; done += sizeof found) {
        size_t n = qimg_min_u64(n_bytes - done, sizeof found);

        if (qimg_storage_read(format->file, purpose, qimg_host(host_offset + done), found,
                              n) ||
            memcmp(found, (const uint8_t *)bytes + done, n) != 0)
            return false;
    }
    return true;
}

QimgErrno
qimg_format_write_or_undo(QimgFormat *format, QimgIoPurpose purpose, uint64_t host_offset,
                          const void *bytes, const void *old_bytes, size_t n_bytes)
{
    QimgErrno err =
        qimg_storage_write(format->file, purpose, qimg_host(host_offset), bytes, n_bytes);

    if (!err)
        return 0;
    /* In a hole of the file there is no room for the old bytes either, and no need. */
    if (qimg_is_lack_of_space(err) &&
        (holds_bytes(format, purpose, host_offset, old_bytes, n_bytes) ||
         qimg_storage_write(format->file, purpose, qimg_host(host_offset), old_bytes,
                            n_bytes) == 0 ||
         holds_bytes(format, purpose, host_offset, old_bytes, n_bytes)))
        return err;
    return qimg_format_break(format, err);
}

bool
qimg_is_lack_of_space(QimgErrno err)
{
    return err == -ENOSPC || err == -EDQUOT || err == -EFBIG || err == -ENOMEM;
}

bool
qimg_format_is_broken(const QimgFormat *format)
{
    return atomic_load_explicit(&format->broken, memory_order_relaxed) ||
           atomic_load_explicit(&format->file->sync_error, memory_order_relaxed) ||
           (format->data_file &&
            atomic_load_explicit(&format->data_file->sync_error, memory_order_relaxed));
}

QimgErrno
qimg_format_activate(QimgFormat *format, QimgMutex *alloc_lock, _Atomic bool *is_active)
{
    QimgErrno err = 0;

    if (qimg_format_is_broken(format))
        return -EROFS;
    /* Acquire pairs with the release below. */
    if (atomic_load_explicit(is_active, memory_order_acquire))
        return 0;
    QIMG_LOCK_SCOPE(alloc_lock);
    if (atomic_load_explicit(is_active, memory_order_relaxed))
        return 0; /* by another thread meanwhile */
    err = format->driver->activate(format);
    if (!err) {
        behind_start(format->behind, format->data_file);
        atomic_store_explicit(is_active, true, memory_order_release);
    }
    return err;
}

QimgErrno
qimg_format_break(QimgFormat *format, QimgErrno err)
{
    if (!atomic_exchange(&format->broken, true))
        g_warning("%s: its tables could not be written: %s; it is read-only from now on "
                  "(look at the host's file system, then mount it again)",
                  format->file->path, g_strerror(-err));
    return err;
}

void
qimg_format_report(QimgFormat *format, QimgRule rule, uint64_t host_offset)
{
    if (qimg_rule_set_add(&format->reported_rules, rule))
        g_warning("%s: %s: %s (host offset %" PRIu64
                  "; further places of this kind are not logged; run qimg check)",
                  format->file->path, qimg_rule_field(rule), qimg_rule_text(rule),
                  host_offset);
}
