/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing. The top layer plans each piece; this file moves the data: in place, or into
 * newly allocated clusters, filled up with the disk's old content around the request. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/scratch.h"
#include "base/trace.h"
#include "image/map/runs.h"
#include "image/read/read.h"
#include "image/write/write-encrypted.h"
#include "image/write/write.h"

/* Limit of a piece that no data of a request bound (allocation). */
#define MAX_FILL_BYTES (2 * QIMG_MIB)

/* Writes the parts to the data of the top layer at @host_offset; they belong at
 * @guest_offset of the disk. */
static QimgErrno
store_parts(QimgImage *image, QimgHostOffset host_offset, uint64_t guest_offset,
            struct iovec *parts, int n_parts)
{
    QimgFormat *top = image->chain->layers[0];

    if (top->encryption)
        return write_encrypted(top, host_offset, guest_offset, parts, (unsigned)n_parts,
                               image->chain->workers);
    return qimg_storage_writev(qimg_format_data_storage(top), QIMG_IO_DATA, host_offset,
                               parts, n_parts);
}

/* Reads the disk's content at [@start, @end), which may pass its end: zeros there. */
static QimgErrno
read_old(QimgImage *image, uint64_t start, uint64_t end, uint8_t *target)
{
    uint64_t size_bytes = image_size_bytes(image);
    uint64_t n_there = start < size_bytes ? qimg_min_u64(end, size_bytes) - start : 0;

    memset(target + n_there, 0, end - start - n_there);
    chain_count(image->chain, COUNTER_COPIED_BYTES, n_there);
    return n_there > 0 ? image_read_inside(image, start, target, n_there) : 0;
}

/* Whether the disk holds zeros at [@start, @end); the top layer's answer is
 * @a->old_kind. */
static QimgErrno
holds_zeros(const QimgImage *image, const QimgAllocation *a, uint64_t start, uint64_t end,
            bool *holds_zeros_out)
{
    *holds_zeros_out = a->old_kind == QIMG_RUN_ZERO;
    if (a->old_kind != QIMG_RUN_UNALLOCATED)
        return 0;
    return image_is_zero_below(image->chain, start, end - start, holds_zeros_out);
}

/* The end of the bytes to fill, of which the request's end at @data_end. An external data
 * file, which may be the disk itself, ends where the disk ends. If it is encrypted, what
 * the disk shows when it grows must be encrypted zeros already: only a device ends
 * before. */
static uint64_t
find_fill_end(const QimgImage *image, const QimgWritePlan *plan, uint64_t data_end)
{
    const QimgFormat *top = image->chain->layers[0];
    uint64_t end = plan->allocation.fill_end;

    if (!top->data_file || (top->encryption && !S_ISBLK(top->data_file->status.st_mode)))
        return end;
    return qimg_min_u64(end, qimg_max_u64(image_size_bytes(image), data_end));
}

/* Fills the host bytes of an allocating plan: @buffer at @guest_offset, the disk's old
 * content around it. */
static QimgErrno
fill(QimgImage *image, const QimgWritePlan *plan, uint64_t guest_offset,
     const uint8_t *buffer)
{
    uint64_t data_end = buffer ? guest_offset + plan->length_bytes : guest_offset;
    uint64_t head_bytes = guest_offset - plan->allocation.fill_start;
    uint64_t tail_bytes = find_fill_end(image, plan, data_end) - data_end;
    uint8_t *old = NULL;
    struct iovec parts[3];
    QimgErrno err = 0;
    int n = 0;

    if (head_bytes + tail_bytes > 0) {
        old = qimg_scratch_get(QIMG_SCRATCH_FILL, head_bytes + tail_bytes);
        if (!old)
            return -ENOMEM;
    }
    if (head_bytes > 0) {
        err = read_old(image, plan->allocation.fill_start, guest_offset, old);
        parts[n++] = (struct iovec){old, head_bytes};
    }
    if (buffer)
        parts[n++] = (struct iovec){(void *)buffer, plan->length_bytes};
    if (!err && tail_bytes > 0) {
        err = read_old(image, data_end, data_end + tail_bytes, old + head_bytes);
        parts[n++] = (struct iovec){old + head_bytes, tail_bytes};
    }
    if (err)
        return err;
    return store_parts(image, qimg_host(plan->host_offset.v - head_bytes),
                       plan->allocation.fill_start, parts, n);
}

/* Writes only the request; without data, reserves host space for it if @reserves. */
static QimgErrno
store_request(QimgImage *image, const QimgWritePlan *plan, uint64_t guest_offset,
              const uint8_t *buffer, bool reserves)
{
    struct iovec part = {(void *)buffer, plan->length_bytes};

    if (buffer)
        return store_parts(image, plan->host_offset, guest_offset, &part, 1);
    return reserves
               ? qimg_storage_allocate(qimg_format_data_storage(image->chain->layers[0]),
                                       plan->host_offset, plan->length_bytes)
               : 0;
}

/* Writes all data that must precede the publishing of an allocating plan. */
static QimgErrno
prepare(QimgImage *image, QimgWritePlan *plan, uint64_t guest_offset,
        const uint8_t *buffer, bool reserves)
{
    QimgAllocation *a = &plan->allocation;
    /* Zeros in the file of an encrypted layer are noise on the disk. */
    bool is_zeroed = a->is_zeroed && !image->chain->layers[0]->encryption;
    bool is_zero_there;
    QimgErrno err = holds_zeros(image, a, a->fill_start, a->fill_end, &is_zero_there);

    if (!err && is_zero_there && is_zeroed && a->clusters_end > 0)
        err = holds_zeros(image, a, a->clusters_start, a->clusters_end, &a->all_is_zero);
    if (err)
        return err;
    if (is_zero_there && is_zeroed)
        /* A disk may hold any mixture of old and new bytes after a crash: nothing needs
         * to be durable first. */
        return store_request(image, plan, guest_offset, buffer, reserves);
    a->data_first = true;
    return fill(image, plan, guest_offset, buffer);
}

/* Writes the next piece of a request: plan, then write in place, or fill and publish.
 * @buffer may be NULL: the content stays; @reserves: reserves space in the host's file.
 */
static QimgErrno
write_piece(QimgImage *image, uint64_t guest_offset, const uint8_t *buffer, bool reserves,
            uint64_t length_bytes, uint64_t *done_out)
{
    QimgFormat *top = image->chain->layers[0];
    QimgWritePlan plan;
    QimgErrno err =
        top->driver->plan_write(top, qimg_guest(guest_offset), length_bytes, &plan);

    if (err)
        return err;
    *done_out = plan.length_bytes;
    switch (plan.kind) {
    case QIMG_PLAN_IN_PLACE:
        return store_request(image, &plan, guest_offset, buffer, reserves);
    case QIMG_PLAN_IN_PLACE_HELD:
        err = store_request(image, &plan, guest_offset, buffer, reserves);
        top->driver->abandon(top, &plan);
        return err;
    case QIMG_PLAN_ALLOCATES:
        break;
    }
    chain_count(image->chain, COUNTER_ALLOCATING_WRITES, 1);
    err = prepare(image, &plan, guest_offset, buffer, reserves);
    if (!err) {
        QIMG_TRACE4(publish, top->file->path, plan.allocation.fill_start,
                    plan.allocation.fill_end - plan.allocation.fill_start,
                    plan.host_offset.v);
        return top->driver->publish(top, &plan);
    }
    top->driver->abandon(top, &plan);
    return err;
}

QimgErrno
image_write_inside(QimgImage *image, uint64_t guest_offset, const uint8_t *buffer,
                   uint64_t length_bytes)
{
    uint64_t done = 0;

    while (done < length_bytes) {
        uint64_t n_bytes = 0;
        QimgErrno err = write_piece(image, guest_offset + done, buffer + done, false,
                                    length_bytes - done, &n_bytes);

        if (err)
            return err;
        done += n_bytes;
    }
    return 0;
}

QimgErrno
image_allocate_inside(QimgImage *image, uint64_t guest_offset, uint64_t length_bytes,
                      bool reserves)
{
    uint64_t done = 0;

    while (done < length_bytes) {
        uint64_t n_bytes = 0;
        QimgErrno err =
            write_piece(image, guest_offset + done, NULL, reserves,
                        qimg_min_u64(length_bytes - done, MAX_FILL_BYTES), &n_bytes);

        if (err)
            return err;
        done += n_bytes;
    }
    return 0;
}

gboolean
qimg_image_is_writable(const QimgImage *image)
{
    return image->is_disk && image->chain->layers[0]->is_writable;
}

void
image_after_change(QimgChain *chain, QimgErrno err)
{
    QimgFormat *top = chain->layers[0];

    /* Release pairs with the acquire of qimg_image_count_changes. */
    atomic_fetch_add_explicit(&chain->n_changes, 1, memory_order_release);
    if (err)
        chain_count(chain, COUNTER_ERRORS, 1);
    /* The next requested flush meets a failure again. */
    if (top->driver->wants_flush && top->driver->wants_flush(top))
        (void)top->driver->flush(top);
}

QimgErrno
image_before_change(QimgChain *chain, uint64_t guest_offset, uint64_t length_bytes,
                    bool may_exceed)
{
    QimgFormat *top = chain->layers[0];

    return top->driver->before_change
               ? top->driver->before_change(top, guest_offset, length_bytes, may_exceed)
               : 0;
}

void
image_make_room(QimgChain *chain)
{
    qimg_gate_close(chain->gate);
    chain->layers[0]->driver->make_room(chain->layers[0]);
    qimg_gate_open(chain->gate);
}
