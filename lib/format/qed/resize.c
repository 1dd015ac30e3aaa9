/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The disk's size. Spec: qed section 5. */
#include "format/qed/resize.h"

#include <errno.h>

#include "base/checked.h"
#include "base/endian.h"

QimgErrno
qed_extend_tables(QimgFormat *format, uint64_t size_bytes)
{
    Qed *qed = (Qed *)format;
    uint64_t max_bytes;

    /* The existing tables can map the largest disk. The caller's last cluster may cross
     * its end. */
    if (!qimg_align_up(qed_max_size_bytes(&qed->header), format->cluster_bytes,
                       &max_bytes) ||
        size_bytes > max_bytes)
        return -EFBIG;
    return qed_begin_change(qed);
}

QimgErrno
qed_grow(QimgFormat *format, uint64_t size_bytes)
{
    Qed *qed = (Qed *)format;
    uint64_t old_bytes = qimg_view_size_bytes(&format->active);
    qimg_le64 field, old_field;
    QimgErrno err;

    /* A refused size changes nothing, so check it before the first change. */
    if (!qimg_align_up(size_bytes, QIMG_SECTOR_BYTES, &size_bytes) ||
        size_bytes > qed_max_size_bytes(&qed->header))
        return -EFBIG;
    if (size_bytes < old_bytes)
        return -EOPNOTSUPP;
    err = qed_begin_change(qed);
    if (err || size_bytes == old_bytes)
        return err;
    /* Not synced: the range that a larger size shows is durable already. */
    field = qimg_le64_set(size_bytes);
    old_field = qimg_le64_set(old_bytes);
    err = qimg_format_write_or_undo(format, QIMG_IO_HEADER, QED_HEADER_AT_IMAGE_SIZE,
                                    &field, &old_field, sizeof field);
    if (!err)
        qimg_view_set_size_bytes(&format->active, size_bytes);
    return err;
}

QimgErrno
qed_resize(QimgFormat *format, uint64_t size_bytes, const QimgTask *task)
{
    (void)task; /* only the size is stored */
    return qed_grow(format, size_bytes);
}
