/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The disk's size, and durability of changes. */
#include <errno.h>

#include "base/checked.h"
#include "base/task.h"
#include "base/trace.h"
#include "base/zeros.h"
#include "image/chain/changes.h"
#include "image/map/runs.h"
#include "image/write/resize.h"
#include "image/write/write.h"
#include "image/write/zero.h"

/* Step by which the range behind the end of a gradually growing disk is checked and
 * cleared. */
#define AHEAD_BYTES (4 * QIMG_MIB)
/* Range that is cleared between two reports of progress; a multiple of any cluster. */
#define CLEAR_STEP_BYTES (256 * QIMG_MIB)

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

/* Makes [@start, @end), behind the disk's end, read as zeros, durably; @end is that of a
 * cluster. */
static QimgErrno
make_zeros(QimgImage *image, uint64_t start, uint64_t end, const QimgTask *task)
{
    QimgFormat *top = image->chain->layers[0];
    uint64_t at = end;
    QimgErrno err;

    (void)!qimg_align_up(start, top->cluster_bytes, &at);
    err = image_write_zeros(image, start, at);
    while (!err && at < end) {
        uint64_t n_bytes = qimg_min_u64(end - at, CLEAR_STEP_BYTES);

        err = qimg_task_step(task, at - start, end - start);
        if (!err)
            err = image_zero_units(image, at, at + n_bytes, QIMG_ZERO_UNMAP);
        at += n_bytes;
    }
    return err ? err : top->driver->flush(top);
}

/* Finds how far beyond @near_end, the end needed now, the disk can grow at no cost: the
 * layers hold nothing there and the tables can reach it. @is_nothing: the layers hold
 * nothing up to @near_end; otherwise the answer is how far the tables can reach. */
static uint64_t
look_ahead(QimgImage *image, uint64_t near_end, uint64_t ahead_bytes, bool is_nothing)
{
    QimgFormat *top = image->chain->layers[0];
    uint64_t far_end;

    if (!qimg_align_up(near_end + ahead_bytes, top->cluster_bytes, &far_end) ||
        top->driver->extend_tables(top, far_end) != 0)
        return near_end;
    if (is_nothing &&
        (is_nothing_there(image, near_end, far_end, &is_nothing) || !is_nothing))
        return near_end;
    return far_end;
}

/* Makes the range that is added to the disk read as zeros, before it becomes a part of
 * it: the rest of its last cluster, old table entries behind it, and data of a longer
 * backing file. Does this for up to @ahead_bytes more. With the gate closed. */
static QimgErrno
prepare_growth(QimgImage *image, uint64_t new_size_bytes, uint64_t ahead_bytes,
               const QimgTask *task)
{
    QimgChain *chain = image->chain;
    QimgFormat *top = chain->layers[0];
    uint64_t start = qimg_max_u64(image_size_bytes(image), chain->zeros_end_bytes);
    uint64_t new_end;
    bool is_nothing;
    QimgErrno err;

    if (!top->driver->extend_tables || new_size_bytes <= chain->zeros_end_bytes)
        return 0;
    if (!qimg_align_up(new_size_bytes, top->cluster_bytes, &new_end))
        return -EFBIG;
    err = top->driver->extend_tables(top, new_end);
    if (!err)
        err = is_nothing_there(image, start, new_end, &is_nothing);
    if (err)
        return err;
    new_end = look_ahead(image, new_end, ahead_bytes, is_nothing);
    /* The change of an entry of the last cluster may not be durable yet. */
    if (!is_nothing || !qimg_is_aligned(start, top->cluster_bytes))
        err = make_zeros(image, start, new_end, task);
    if (!err)
        chain->zeros_end_bytes = new_end;
    return err;
}

/* With the gate closed; @ahead_bytes: as prepare_growth. */
static QimgErrno
resize_closed(QimgImage *image, uint64_t size_bytes, uint64_t ahead_bytes,
              const QimgTask *task)
{
    QimgChain *chain = image->chain;
    QimgFormat *top = chain->layers[0];
    QimgErrno err = 0;

    if (chain_is_stale(chain)) /* the content at its end is unknown */
        return -EIO;
    if (size_bytes > image_size_bytes(image))
        err = prepare_growth(image, size_bytes, ahead_bytes, task);
    else
        chain->zeros_end_bytes = 0;
    return err ? err : top->driver->resize(top, size_bytes, task);
}

/* Grows the disk during other requests if only its size changes; otherwise returns
 * -EAGAIN. A request that relies on the disk's end resets zeros_end_bytes first
 * (disk-end.h), so none is in flight here. */
static QimgErrno
grow_inside(QimgImage *image, uint64_t min_size_bytes)
{
    QimgChain *chain = image->chain;
    QimgFormat *top = chain->layers[0];
    QIMG_GATE_SCOPE(chain->gate);
    QIMG_LOCK_SCOPE(&chain->size_lock);

    if (min_size_bytes <= image_size_bytes(image)) /* another request has grown it */
        return 0;
    if (!top->driver->grow ||
        (top->driver->extend_tables && min_size_bytes > chain->zeros_end_bytes))
        return -EAGAIN;
    return top->driver->grow(top, min_size_bytes);
}

QimgErrno
image_grow(QimgImage *image, uint64_t min_size_bytes)
{
    QimgErrno err = grow_inside(image, min_size_bytes);

    if (err != -EAGAIN)
        return err;
    err = 0;
    qimg_gate_close(image->chain->gate);
    if (min_size_bytes >
        image_size_bytes(image)) /* no other request has grown it meanwhile */
        err = resize_closed(image, min_size_bytes, AHEAD_BYTES, NULL);
    qimg_gate_open(image->chain->gate);
    return err;
}

/* Checks that do not depend on the format. */
static QimgErrno
check_resizable(const QimgImage *image, uint64_t size_bytes)
{
    if (!qimg_image_is_writable(image))
        return -EROFS;
    if (image->whole)
        return -EINVAL;
    return size_bytes > INT64_MAX - QIMG_SECTOR_BYTES ? -EFBIG : 0;
}

/* Clears the rest of the disk's last sector behind @size_bytes. With the gate closed. */
static QimgErrno
clear_rest(QimgImage *image, uint64_t size_bytes)
{
    uint64_t end = image_size_bytes(image);
    QimgErrno err = 0;

    if (size_bytes < end)
        err = image_before_change(image->chain, size_bytes, end - size_bytes, true);
    if (!err && size_bytes < end)
        err = image_write_zeros(image, size_bytes, end);
    return err;
}

int
qimg_image_resize(QimgImage *image, uint64_t size_bytes, QimgProgress progress,
                  void *user)
{
    const QimgTask task = {progress, user};
    QimgErrno err = check_resizable(image, size_bytes);

    if (err)
        return err;
    qimg_gate_close(image->chain->gate);
    if (size_bytes != image_size_bytes(image))
        err = resize_closed(image, size_bytes, 0, &task);
    if (!err || err == -ECANCELED) {
        QimgErrno rest_err = clear_rest(image, size_bytes);

        err = rest_err ? rest_err : err;
    }
    qimg_gate_open(image->chain->gate);
    image_after_change(image->chain, err == -ECANCELED ? 0 : err);
    return err;
}

/* Stores the zeros from @start to @end of the disk, with the gate closed. */
static QimgErrno
preallocate(QimgImage *image, uint64_t start, uint64_t end,
            QimgPreallocation preallocation, const QimgTask *task)
{
    uint64_t first = start;
    QimgFormat *top = image->chain->layers[0];
    QimgErrno err = 0;

    while (!err && start < end) {
        uint64_t n_bytes = qimg_min_u64(end - start, QIMG_ZEROS_BYTES);

        err = qimg_task_step(task, start - first, end - first);
        if (!err)
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
qimg_image_grow(QimgImage *image, uint64_t size_bytes, QimgPreallocation preallocation,
                QimgProgress progress, void *user)
{
    const QimgTask task = {progress, user};
    uint64_t old_size_bytes;
    QimgErrno err = check_resizable(image, size_bytes);

    if (err)
        return err;
    if (preallocation == QIMG_PREALLOCATION_METADATA &&
        !image->chain->layers[0]->driver->extend_tables)
        return -EOPNOTSUPP; /* there are none */
    qimg_gate_close(image->chain->gate);
    old_size_bytes = image_size_bytes(image);
    err = size_bytes > old_size_bytes ? resize_closed(image, size_bytes, 0, &task)
                                      : -EINVAL;
    if (!err && preallocation != QIMG_PREALLOCATION_OFF) {
        err = preallocate(image, old_size_bytes, image_size_bytes(image), preallocation,
                          &task);
        if (err && resize_closed(image, old_size_bytes, 0, NULL) != 0)
            g_debug("the disk stays larger than it was");
    }
    qimg_gate_open(image->chain->gate);
    image_after_change(image->chain, err == -ECANCELED ? 0 : err);
    return err;
}

int
qimg_image_flush(QimgImage *image)
{
    QIMG_TRACE_REQUEST("flush", image, UINT64_C(0), UINT64_C(0));
    QimgFormat *top = image->chain->layers[0];
    QimgErrno err;

    if (!image->chain->gate)
        return 0;
    err = top->driver->flush(top);
    /* Clusters were freed, so the space that the file occupies changed. */
    atomic_fetch_add_explicit(&image->chain->n_changes, 1, memory_order_release);
    return err;
}

uint64_t
qimg_image_count_changes(const QimgImage *image)
{
    return atomic_load_explicit(&image->chain->n_changes, memory_order_acquire);
}
