/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading compressed clusters. The stream may cross host clusters and share its sectors
 * with others; the entry bounds its length (at most two clusters). */
#include "format/qcow2/tables/compressed.h"

QimgErrno
qcow2_read_compressed(QimgFormat *format, QimgHostOffset host_offset,
                      uint32_t stream_bytes, uint8_t *cluster_out)
{
    Qcow2 *q = (Qcow2 *)format;

    return qimg_format_read_stream(format, q->codec, host_offset, stream_bytes,
                                   cluster_out);
}
