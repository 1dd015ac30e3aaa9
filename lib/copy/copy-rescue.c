/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads the readable parts of a damaged range, and records the unreadable ones. */
#include "copy/copy-rescue.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "base/checked.h"

#define SECTOR_BYTES 512u

bool
copy_is_unreadable(QimgErrno err)
{
    return err && err != -ENOMEM && err != -EINVAL && err != -ENOKEY && err != -ECANCELED;
}

typedef struct {
    QimgImage *image;
    uint64_t buffer_offset; /* the guest offset of its first byte */
    uint8_t *buffer;
    const _Atomic bool *stop;
    GArray *bad;
} Rescue;

static void
give_up(Rescue *rescue, uint64_t guest_offset, uint64_t length_bytes, const char *reason)
{
    QimgUnreadable range = copy_unreadable(guest_offset, length_bytes, reason);

    memset(rescue->buffer + (guest_offset - rescue->buffer_offset), 0, length_bytes);
    g_array_append_val(rescue->bad, range);
}

static QimgErrno
rescue_read_part(Rescue *rescue, uint64_t guest_offset, uint64_t length_bytes)
{
    if (atomic_load_explicit(rescue->stop, memory_order_relaxed))
        return -ECANCELED;
    return qimg_image_read_with(rescue->image, guest_offset,
                                rescue->buffer + (guest_offset - rescue->buffer_offset),
                                length_bytes, QIMG_READ_ONCE);
}

/* Halves the range until its parts are readable or single sectors. */
static QimgErrno
bisect(Rescue *rescue, uint64_t guest_offset, uint64_t length_bytes)
{
    QimgErrno err = rescue_read_part(rescue, guest_offset, length_bytes);
    uint64_t half;

    if (!copy_is_unreadable(err))
        return err;
    if (length_bytes <= SECTOR_BYTES) {
        give_up(rescue, guest_offset, length_bytes, g_strerror(-err));
        return 0;
    }
    half = (length_bytes / 2 + SECTOR_BYTES - 1) / SECTOR_BYTES * SECTOR_BYTES;
    err = bisect(rescue, guest_offset, half);
    return err ? err : bisect(rescue, guest_offset + half, length_bytes - half);
}

/* The distance to the end of the cluster of layer @depth at @guest_offset. */
static uint64_t
left_in_cluster(const Rescue *rescue, unsigned depth, uint64_t guest_offset)
{
    uint64_t cluster_bytes = qimg_image_get_layer_cluster_bytes(rescue->image, depth);
    uint64_t layer_offset = qimg_image_get_start_bytes(rescue->image) + guest_offset;

    return cluster_bytes - (layer_offset & (cluster_bytes - 1));
}

/* Compressed clusters of layer @depth are readable as a whole or not at all. */
static QimgErrno
read_clusters(Rescue *rescue, uint64_t guest_offset, uint64_t length_bytes,
              unsigned depth)
{
    uint64_t end = guest_offset + length_bytes;

    while (guest_offset < end) {
        uint64_t n = qimg_min_u64(left_in_cluster(rescue, depth, guest_offset),
                                  end - guest_offset);
        QimgErrno err = rescue_read_part(rescue, guest_offset, n);

        if (err && !copy_is_unreadable(err))
            return err;
        if (err)
            give_up(rescue, guest_offset, n,
                    err == -EIO ? "a compressed cluster cannot be inflated"
                                : g_strerror(-err));
        guest_offset += n;
    }
    return 0;
}

/* Rescues the extent at @guest_offset, at most @length_bytes; *@done_out is its
 * length. */
static QimgErrno
rescue_extent(Rescue *rescue, uint64_t guest_offset, uint64_t length_bytes,
              uint64_t *done_out)
{
    QimgExtent extent = {.struct_bytes = sizeof extent};
    QimgErrno err =
        qimg_image_map_range(rescue->image, guest_offset, length_bytes, &extent);

    if (err) {
        if (!copy_is_unreadable(err))
            return err;
        /* The range of the unreadable table is unknown. */
        *done_out = qimg_min_u64(left_in_cluster(rescue, 0, guest_offset), length_bytes);
        give_up(rescue, guest_offset, *done_out, "a table of the image cannot be read");
        return 0;
    }
    *done_out = extent.length_bytes;
    if (extent.kind == QIMG_EXTENT_DAMAGED) {
        give_up(rescue, guest_offset, extent.length_bytes, extent.reason);
        return 0;
    }
    if (extent.kind == QIMG_EXTENT_COMPRESSED)
        return read_clusters(rescue, guest_offset, extent.length_bytes, extent.depth);
    return bisect(rescue, guest_offset, extent.length_bytes);
}

QimgErrno
copy_rescue(QimgImage *image, uint64_t guest_offset, size_t length_bytes, uint8_t *buffer,
            const _Atomic bool *stop, GArray *bad)
{
    Rescue rescue = {image, guest_offset, buffer, stop, bad};
    uint64_t done = 0;

    while (done < length_bytes) {
        uint64_t n = 0;
        QimgErrno err =
            rescue_extent(&rescue, guest_offset + done, length_bytes - done, &n);

        if (err)
            return err;
        done += n;
    }
    return 0;
}

/* ---- the record ---- */

void
range_log_init(RangeLog *log, void (*on_complete)(const QimgUnreadable *, void *),
               void *user)
{
    *log = (RangeLog){
        .listed = g_array_new(FALSE, FALSE, sizeof(QimgUnreadable)),
        .on_complete = on_complete,
        .user = user,
    };
}

void
range_log_clear(RangeLog *log)
{
    g_clear_pointer(&log->listed, g_array_unref);
}

void
range_log_finish(RangeLog *log)
{
    if (log->last.length_bytes == 0)
        return;
    if (log->listed->len < COPY_MAX_LISTED)
        g_array_append_val(log->listed, log->last);
    if (log->on_complete)
        log->on_complete(&log->last, log->user);
    log->last.length_bytes = 0;
}

void
range_log_add(RangeLog *log, const QimgUnreadable *range)
{
    log->n_bytes += range->length_bytes;
    if (log->last.length_bytes > 0 &&
        log->last.guest_offset + log->last.length_bytes == range->guest_offset &&
        strcmp(log->last.reason, range->reason) == 0) {
        log->last.length_bytes += range->length_bytes;
        return;
    }
    range_log_finish(log);
    log->last = *range;
    log->n_ranges++;
}

GArray *
range_log_snapshot(const RangeLog *log)
{
    GArray *copy;

    if (log->n_ranges > COPY_MAX_LISTED)
        return NULL;
    copy = g_array_copy(log->listed);
    if (log->last.length_bytes > 0)
        g_array_append_val(copy, log->last);
    return copy;
}
