/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads the readable parts of a damaged range, and records the unreadable ones. */
#include "copy/copy-rescue.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "image/chain/handle.h"
#include "image/map/runs.h"
#include "image/read/read.h"

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
    return image_read_bulk(rescue->image, guest_offset,
                           rescue->buffer + (guest_offset - rescue->buffer_offset),
                           length_bytes);
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

/* Compressed clusters are readable as a whole or not at all. */
static QimgErrno
read_clusters(Rescue *rescue, uint64_t guest_offset, uint64_t length_bytes,
              uint64_t cluster_bytes)
{
    uint64_t end = guest_offset + length_bytes;

    while (guest_offset < end) {
        uint64_t in_cluster_bytes =
            (rescue->image->base_bytes + guest_offset) & (cluster_bytes - 1);
        uint64_t n = qimg_min_u64(cluster_bytes - in_cluster_bytes, end - guest_offset);
        QimgErrno err = rescue_read_part(rescue, guest_offset, n);

        if (err && !copy_is_unreadable(err))
            return err;
        if (err)
            give_up(rescue, guest_offset, n,
                    err == -EIO ? qimg_rule_text(QIMG_RULE_COMPRESSED_STREAM)
                                : g_strerror(-err));
        guest_offset += n;
    }
    return 0;
}

/* Rescues the next run at @guest_offset, at most @length_bytes; *@done_out is its
 * length. */
static QimgErrno
rescue_run(Rescue *rescue, uint64_t guest_offset, uint64_t length_bytes,
           uint64_t *done_out)
{
    QimgImage *image = rescue->image;
    QimgChain *chain = image->chain;
    uint64_t cluster_bytes = chain->layers[image->first_layer]->cluster_bytes;
    ImageRun r;
    QimgErrno err =
        image_map_run(image, image->base_bytes + guest_offset, length_bytes, &r);

    if (err) {
        if (!copy_is_unreadable(err))
            return err;
        /* The range of the unreadable table is unknown. */
        *done_out = qimg_min_u64(cluster_bytes - (guest_offset & (cluster_bytes - 1)),
                                 length_bytes);
        give_up(rescue, guest_offset, *done_out, "a table of the image cannot be read");
        return 0;
    }
    *done_out = r.run.length_bytes;
    if (r.run.kind == QIMG_RUN_DAMAGED) {
        give_up(rescue, guest_offset, r.run.length_bytes, qimg_rule_text(r.run.rule));
        return 0;
    }
    if (r.run.kind == QIMG_RUN_COMPRESSED)
        return read_clusters(rescue, guest_offset, r.run.length_bytes,
                             chain->layers[r.layer_index]->cluster_bytes);
    return bisect(rescue, guest_offset, r.run.length_bytes);
}

QimgErrno
copy_rescue(QimgImage *image, uint64_t guest_offset, size_t length_bytes, uint8_t *buffer,
            const _Atomic bool *stop, GArray *bad)
{
    Rescue rescue = {image, guest_offset, buffer, stop, bad};
    uint64_t done = 0;

    while (done < length_bytes) {
        uint64_t n = 0;
        QimgErrno err = rescue_run(&rescue, guest_offset + done, length_bytes - done, &n);

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
