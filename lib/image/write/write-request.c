/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The public requests to write and to allocate: checks, and growth, before a write
 * continues inside the gate. */
#include <errno.h>

#include "base/checked.h"
#include "base/trace.h"
#include "image/chain/changes.h"
#include "image/write/resize.h"
#include "image/write/write.h"

gboolean
qimg_image_is_growable(const QimgImage *image)
{
    return image->chain->is_growable && !image->whole;
}

static QimgErrno
write_within(QimgImage *image, uint64_t guest_offset, const uint8_t *buffer,
             uint64_t length_bytes, bool may_exceed)
{
    QIMG_GATE_SCOPE(image->chain->gate);
    QimgErrno err;

    if (!qimg_range_fits(guest_offset, length_bytes, image_size_bytes(image)))
        return -ENOSPC;               /* the disk has become smaller meanwhile */
    if (chain_is_stale(image->chain)) /* the copied data would be wrong */
        return -EIO;
    err = image_before_change(image->chain, guest_offset, length_bytes, may_exceed);
    return err ? err : image_write_inside(image, guest_offset, buffer, length_bytes);
}

int
qimg_image_write(QimgImage *image, uint64_t guest_offset, const void *buffer,
                 size_t length_bytes)
{
    QIMG_TRACE_REQUEST("write", image, guest_offset, length_bytes);
    bool may_grow = image->chain->is_growable && !image->whole;
    QimgErrno err = 0;
    uint64_t end;

    if (!qimg_image_is_writable(image))
        return -EROFS;
    if (image->whole &&
        !qimg_range_fits(guest_offset, length_bytes, image_size_bytes(image)))
        return -ENOSPC;
    image = image_to_change(image, &guest_offset);
    if (!qimg_add_u64(guest_offset, length_bytes, &end) ||
        end > INT64_MAX - QIMG_SECTOR_BYTES)
        return -EFBIG;
    if (length_bytes == 0)
        return 0;
    if (end > image_size_bytes(image))
        err = may_grow ? image_grow(image, end) : -ENOSPC;
    if (!err)
        err = write_within(image, guest_offset, buffer, length_bytes, false);
    if (err == -ENOBUFS) {
        image_make_room(image->chain);
        err = write_within(image, guest_offset, buffer, length_bytes, true);
    }
    chain_count(image->chain, COUNTER_WRITES, 1);
    if (!err)
        chain_count(image->chain, COUNTER_BYTES_WRITTEN, length_bytes);
    image_after_change(image->chain, err);
    return err;
}

static QimgErrno
allocate_within(QimgImage *image, uint64_t guest_offset, uint64_t length_bytes)
{
    QIMG_GATE_SCOPE(image->chain->gate);

    if (!qimg_range_fits(guest_offset, length_bytes, image_size_bytes(image)))
        return -ENOSPC;               /* the disk has become smaller meanwhile */
    if (chain_is_stale(image->chain)) /* the copied data would be wrong */
        return -EIO;
    return image_allocate_inside(image, guest_offset, length_bytes, true);
}

int
qimg_image_allocate(QimgImage *image, uint64_t guest_offset, uint64_t length_bytes)
{
    QIMG_TRACE_REQUEST("allocate", image, guest_offset, length_bytes);
    QimgErrno err;

    if (!qimg_image_is_writable(image))
        return -EROFS;
    if (!qimg_range_fits(guest_offset, length_bytes, image_size_bytes(image)))
        return -EINVAL;
    image = image_to_change(image, &guest_offset);
    err = allocate_within(image, guest_offset, length_bytes);
    image_after_change(image->chain, err);
    return err;
}
