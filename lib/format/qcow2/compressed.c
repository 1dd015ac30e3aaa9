/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reading compressed clusters. The stream may lie across host clusters and share its
 * sectors with others; what can be read is bounded by the entry (at most two clusters).
 */
#include <errno.h>

#include "base/scratch.h"
#include "format/qcow2/qcow2.h"

QimgErrno
qcow2_read_compressed(QimgFormat *format, QimgHostOffset host_offset,
                      uint32_t stream_bytes, uint8_t *cluster_out)
{
    Qcow2 *q = (Qcow2 *)format;
    uint8_t *stream = qimg_scratch_get(QIMG_SCRATCH_STREAM, stream_bytes);
    QimgErrno err;

    if (!stream)
        return -ENOMEM;
    err = qimg_storage_read(format->file, QIMG_IO_COMPRESSED, host_offset, stream,
                            stream_bytes);
    if (err)
        return err;
    return qimg_decompress(q->codec, stream, stream_bytes, cluster_out,
                           q->geometry.cluster_bytes);
}
