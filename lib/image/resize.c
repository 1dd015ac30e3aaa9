/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The disk's size, and what makes changes durable. */
#include <errno.h>

#include "base/checked.h"
#include "base/zeros.h"
#include "image/resize.h"
#include "image/runs.h"
#include "image/write.h"
#include "image/zero.h"

/* Whether no layer holds anything at [@start, @end), behind the disk's end. */
static QimgErrno
is_nothing_there(const QimgImage *image, uint64_t start, uint64_t end,
                 bool *is_nothing_out)
{
    *is_nothing_out = false;
    while (start < end) {
        ImageRun r;
        QimgErrno err = image_map_run(image, start, end - start, &r);

        if (err || r.run.kind != QIMG_RUN_UNALLOCATED)
            return err;
        start += r.run.length_bytes;
    }
    *is_nothing_out = true;
    return 0;
}

/* Lets what is added to the disk read as zeros, before it becomes a part of it: the rest
 * of its last cluster, what tables still hold behind it, and what a longer backing file
 * has there. */
static QimgErrno
prepare_growth(QimgImage *image, uint64_t new_size_bytes)
{
    QimgFormat *top = image->chain->layers[0];
    uint64_t size_bytes = image_size_bytes(image);
    uint64_t cluster_end, new_end;
    bool is_nothing;
    QimgErrno err;

    if (!top->driver->extend_tables)
        return 0;
    if (!qimg_align_up(size_bytes, top->cluster_bytes, &cluster_end) ||
        !qimg_align_up(new_size_bytes, top->cluster_bytes, &new_end))
        return -EFBIG;
    err = top->driver->extend_tables(top, new_end);
    if (!err)
        err = is_nothing_there(image, size_bytes, new_end, &is_nothing);
    if (err || is_nothing)
        return err;
    err = image_write_zeros(image, size_bytes, cluster_end);
    if (!err)
        err = image_zero_units(image, cluster_end, new_end, QIMG_ZERO_UNMAP);
    return err ? err : top->driver->flush(top);
}

/* With the gate closed. */
static QimgErrno
resize_closed(QimgImage *image, uint64_t size_bytes)
{
    QimgChain *chain = image->chain;
    QimgFormat *top = chain->layers[0];
    QimgErrno err = 0;

    if (size_bytes > image_size_bytes(image))
        err = prepare_growth(image, size_bytes);
    if (!err)
        err = top->driver->resize(top, size_bytes);
    atomic_store_explicit(&chain->disk_bytes, top->active.size_bytes,
                          memory_order_release);
    return err;
}

QimgErrno
image_grow(QimgImage *image, uint64_t min_size_bytes)
{
    QimgErrno err = 0;

    qimg_gate_close(image->chain->gate);
    if (min_size_bytes > image_size_bytes(image)) /* nobody else has grown it meanwhile */
        err = resize_closed(image, min_size_bytes);
    qimg_gate_open(image->chain->gate);
    return err;
}

/* What can be told without a look at the format. */
static QimgErrno
check_resizable(const QimgImage *image, uint64_t size_bytes)
{
    if (!qimg_image_is_writable(image))
        return -EROFS;
    if (image->whole)
        return -EINVAL;
    return size_bytes > INT64_MAX - QIMG_SECTOR_BYTES ? -EFBIG : 0;
}

int
qimg_image_resize(QimgImage *image, uint64_t size_bytes)
{
    QimgErrno err = check_resizable(image, size_bytes);

    if (err)
        return err;
    qimg_gate_close(image->chain->gate);
    if (size_bytes != image_size_bytes(image))
        err = resize_closed(image, size_bytes);
    qimg_gate_open(image->chain->gate);
    image_after_change(image->chain, err);
    return err;
}

/* Stores the zeros from @start to @end of the disk, with the gate closed. */
static QimgErrno
preallocate(QimgImage *image, uint64_t start, uint64_t end,
            QimgPreallocation preallocation)
{
    QimgFormat *top = image->chain->layers[0];
    QimgErrno err = 0;

    while (!err && start < end) {
        uint64_t n_bytes = qimg_min_u64(end - start, QIMG_ZEROS_BYTES);

        err = preallocation == QIMG_PREALLOCATION_FULL
                  ? image_write_inside(image, start, qimg_zeros, n_bytes)
                  : image_allocate_inside(image, start, n_bytes,
                                          preallocation == QIMG_PREALLOCATION_FALLOC);
        if (!err && top->driver->wants_flush && top->driver->wants_flush(top))
            err = top->driver->flush(top);
        start += n_bytes;
    }
    return err;
}

int
qimg_image_grow(QimgImage *image, uint64_t size_bytes, QimgPreallocation preallocation)
{
    uint64_t old_size_bytes;
    QimgErrno err = check_resizable(image, size_bytes);

    if (err)
        return err;
    if (preallocation == QIMG_PREALLOCATION_METADATA &&
        !image->chain->layers[0]->driver->extend_tables)
        return -EOPNOTSUPP; /* there are none */
    qimg_gate_close(image->chain->gate);
    old_size_bytes = image_size_bytes(image);
    err = size_bytes > old_size_bytes ? resize_closed(image, size_bytes) : -EINVAL;
    if (!err && preallocation != QIMG_PREALLOCATION_OFF) {
        err = preallocate(image, old_size_bytes, image_size_bytes(image), preallocation);
        if (err && resize_closed(image, old_size_bytes) != 0)
            g_debug("the disk stays larger than it was");
    }
    qimg_gate_open(image->chain->gate);
    image_after_change(image->chain, err);
    return err;
}

int
qimg_image_flush(QimgImage *image)
{
    QimgFormat *top = image->chain->layers[0];

    if (!image->chain->gate)
        return 0;
    return top->driver->flush(top);
}
