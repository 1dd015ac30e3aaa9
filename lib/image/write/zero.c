/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Zeroing of ranges: whole units of the top layer by its tables, the rest at both ends as
 * data. */
#include <errno.h>

#include "base/checked.h"
#include "base/trace.h"
#include "base/zeros.h"
#include "image/chain/changes.h"
#include "image/map/runs.h"
#include "image/write/disk-end.h"
#include "image/write/write.h"
#include "image/write/zero.h"

/* Zeroed at once, before others may flush or change the size: pending frees stay bounded,
 * and no cluster crosses a boundary. */
#define SEGMENT_BYTES (UINT64_C(1) << 32)

/* Zeros written at once. */
#define ZEROS_BYTES (64 * QIMG_KIB)

QimgErrno
image_write_zeros(QimgImage *image, uint64_t start, uint64_t end)
{
    while (start < end) {
        uint64_t n_bytes;
        QimgErrno err;
        ImageRun r;

        err = image_map_run(image, start, end - start, &r);
        if (err)
            return err;
        n_bytes = r.run.length_bytes;
        if (r.run.kind != QIMG_RUN_UNALLOCATED && r.run.kind != QIMG_RUN_ZERO) {
            n_bytes = qimg_min_u64(n_bytes, ZEROS_BYTES);
            err = image_write_inside(image, start, qimg_zeros, n_bytes);
            if (err)
                return err;
        }
        start += n_bytes;
    }
    return 0;
}

/* Whether a run reads as zeros, and zeroing it would free no space. */
static bool
is_nothing_to_do(const ImageRun *r, QimgZeroMode mode)
{
    if (r->run.kind == QIMG_RUN_ZERO)
        return r->layer_index > 0 || mode == QIMG_ZERO_KEEP;
    return r->run.kind == QIMG_RUN_UNALLOCATED;
}

QimgErrno
image_zero_units(QimgImage *image, uint64_t start, uint64_t end, QimgZeroMode mode)
{
    QimgFormat *top = image->chain->layers[0];

    while (start < end) {
        uint64_t run_end = end, n_done = 0;
        bool below_is_zero;
        QimgErrno err;
        ImageRun r;

        err = image_map_run(image, start, end - start, &r);
        if (err)
            return err;
        if (is_nothing_to_do(&r, mode) && (r.run.length_bytes >= top->zero_unit_bytes ||
                                           start + r.run.length_bytes == end)) {
            uint64_t next = start + r.run.length_bytes;

            start = next < end ? qimg_align_down(next, top->zero_unit_bytes) : end;
            continue;
        }
        if (!qimg_align_up(start + r.run.length_bytes, top->zero_unit_bytes, &run_end) ||
            run_end > end)
            run_end = end;
        err = image_is_zero_below(image->chain, start, run_end - start, &below_is_zero);
        if (!err)
            err = top->driver->zero(top, qimg_guest(start), run_end - start, mode,
                                    below_is_zero, &n_done);
        if (err == -EOPNOTSUPP) {
            err = image_write_zeros(image, start, run_end);
            n_done = run_end - start;
        }
        if (err)
            return err;
        start += n_done;
    }
    return 0;
}

static QimgErrno
zero_units(QimgImage *image, uint64_t guest_offset, uint64_t length_bytes,
           QimgZeroMode mode, bool may_exceed)
{
    QIMG_GATE_SCOPE(image->chain->gate);
    uint64_t unit_bytes = image->chain->layers[0]->zero_unit_bytes;
    uint64_t end = guest_offset + length_bytes;
    uint64_t first_unit, last_unit;
    QimgErrno err;

    if (!qimg_range_fits(guest_offset, length_bytes, image_size_bytes(image)))
        return -EINVAL;
    if (chain_is_stale(image->chain))
        return -EIO;
    err = image_before_change(image->chain, guest_offset, length_bytes, may_exceed);
    if (err)
        return err;
    if (!qimg_align_up(guest_offset, unit_bytes, &first_unit))
        first_unit = end;
    /* The range behind the disk's end belongs to the last unit; nothing is appended there
     * meanwhile, nor later before it is zeros again: the backing file may show
     * through. */
    last_unit = qimg_align_down(end, unit_bytes);
    if (last_unit < end && image_hold_end(image, end))
        last_unit = end;
    if (first_unit >= last_unit)
        return image_write_zeros(image, guest_offset, end);
    err = image_write_zeros(image, guest_offset, first_unit);
    if (!err)
        err = image_zero_units(image, first_unit, last_unit, mode);
    if (!err)
        err = image_write_zeros(image, last_unit, end);
    return err;
}

static int
zero_checked(QimgImage *image, uint64_t guest_offset, uint64_t length_bytes,
             QimgZeroMode mode)
{
    QimgErrno err = 0;

    if (!qimg_image_is_writable(image))
        return -EROFS;
    if (!qimg_range_fits(guest_offset, length_bytes, image_size_bytes(image)))
        return -EINVAL;
    image = image_to_change(image, &guest_offset);
    while (!err && length_bytes > 0) {
        uint64_t n_bytes =
            qimg_min_u64(length_bytes, SEGMENT_BYTES - guest_offset % SEGMENT_BYTES);

        err = zero_units(image, guest_offset, n_bytes, mode, false);
        if (err == -ENOBUFS) {
            image_make_room(image->chain);
            err = zero_units(image, guest_offset, n_bytes, mode, true);
        }
        image_after_change(image->chain, err);
        guest_offset += n_bytes;
        length_bytes -= n_bytes;
    }
    return err;
}

int
qimg_image_zero(QimgImage *image, uint64_t guest_offset, uint64_t length_bytes)
{
    QIMG_TRACE_REQUEST("zero", image, guest_offset, length_bytes);

    return zero_checked(image, guest_offset, length_bytes, QIMG_ZERO_KEEP);
}

int
qimg_image_discard(QimgImage *image, uint64_t guest_offset, uint64_t length_bytes)
{
    QIMG_TRACE_REQUEST("discard", image, guest_offset, length_bytes);

    if (image->chain->discard == DISCARD_IGNORE && qimg_image_is_writable(image))
        return -EOPNOTSUPP;
    return zero_checked(image, guest_offset, length_bytes,
                        image->chain->discard == DISCARD_UNMAP ? QIMG_ZERO_UNMAP
                                                               : QIMG_ZERO_KEEP);
}
