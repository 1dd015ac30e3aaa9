/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The differences between two disks of one layer, from the tables alone. */
#include "image/snapshot-diff.h"

#include "base/checked.h"

static bool
is_same_run(const QimgRun *a, const QimgRun *b)
{
    if (a->kind != b->kind || a->kind == QIMG_RUN_DAMAGED)
        return false;
    return (a->kind != QIMG_RUN_DATA && a->kind != QIMG_RUN_COMPRESSED) ||
           a->host_offset.v == b->host_offset.v;
}

QimgErrno
image_diff_views(QimgFormat *layer, const QimgView *a, const QimgView *b,
                 QimgErrno (*func)(uint64_t guest_offset, uint64_t length_bytes,
                                   void *user),
                 void *user, const QimgTask *task)
{
    uint64_t end = qimg_min_u64(qimg_view_size_bytes(a), qimg_view_size_bytes(b));
    uint64_t at = 0;

    while (at < end) {
        QimgRun x, y;
        uint64_t n_bytes;
        QimgErrno err = qimg_task_step(task, at, end);

        if (!err)
            err = layer->driver->map(layer, a, qimg_guest(at), end - at, &x);
        if (!err)
            err = layer->driver->map(layer, b, qimg_guest(at), end - at, &y);
        if (err)
            return err;
        n_bytes = qimg_min_u64(qimg_min_u64(x.length_bytes, y.length_bytes), end - at);
        if (!is_same_run(&x, &y))
            err = func(at, n_bytes, user);
        if (err)
            return err;
        at += n_bytes;
    }
    return 0;
}
