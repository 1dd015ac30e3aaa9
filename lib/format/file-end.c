/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The end of a layer's file. */
#include "format/file-end.h"

#include <errno.h>

#include "base/checked.h"

static QimgErrno
look_up(QimgStorage *file, uint64_t *end_bytes_out)
{
    uint64_t size_bytes;
    QimgErrno err = qimg_storage_get_size(file, &size_bytes);

    if (!err && !qimg_align_up(size_bytes, QIMG_SECTOR_BYTES, end_bytes_out))
        err = -EFBIG;
    return err;
}

QimgErrno
file_end_init(FileEnd *end, QimgStorage *file)
{
    uint64_t end_bytes = 0;
    QimgErrno err = look_up(file, &end_bytes);

    end->file = file;
    atomic_init(&end->end_bytes, end_bytes);
    return err;
}

bool
file_end_is_still_before(FileEnd *end, uint64_t host_offset)
{
    uint64_t end_bytes;

    if (look_up(end->file, &end_bytes) != 0)
        return true;
    file_end_set(end, end_bytes);
    return host_offset >= end_bytes;
}

uint64_t
file_end_clip_clusters(FileEnd *end, uint64_t host_offset, uint64_t in_cluster_bytes,
                       uint64_t cluster_bytes, uint64_t length_bytes)
{
    uint64_t end_bytes, until_end;

    if (file_end_is_before(end, host_offset))
        return 0;
    end_bytes = file_end_get(end);
    if (end_bytes <= host_offset) /* the file has just been cut */
        return 0;
    until_end = qimg_div_round_up(end_bytes - host_offset, cluster_bytes) * cluster_bytes;
    if (in_cluster_bytes + length_bytes <= until_end ||
        !file_end_is_before(end, host_offset + until_end))
        return length_bytes;
    return until_end - in_cluster_bytes;
}
