/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Probes for bpftrace, SystemTap and perf: docs/tracing.md lists them with their
 * arguments. A probe is one instruction that does nothing until a tracer replaces it; a
 * build without <sys/sdt.h> has none. */
#pragma once

#ifdef HAVE_SDT
#include <sys/sdt.h>
#define QIMG_TRACE1(name, a)          DTRACE_PROBE1(qimg, name, a)
#define QIMG_TRACE2(name, a, b)       DTRACE_PROBE2(qimg, name, a, b)
#define QIMG_TRACE3(name, a, b, c)    DTRACE_PROBE3(qimg, name, a, b, c)
#define QIMG_TRACE4(name, a, b, c, d) DTRACE_PROBE4(qimg, name, a, b, c, d)
#else
#define QIMG_TRACE1(name, a)          ((void)(a))
#define QIMG_TRACE2(name, a, b)       ((void)(a), (void)(b))
#define QIMG_TRACE3(name, a, b, c)    ((void)(a), (void)(b), (void)(c))
#define QIMG_TRACE4(name, a, b, c, d) ((void)(a), (void)(b), (void)(c), (void)(d))
#endif

/* A request on an image, until the end of the block. */
typedef struct {
    const char *kind;
    const void *image;
} QimgTracedRequest;

static inline void
qimg_trace_request_end(const QimgTracedRequest *request)
{
    QIMG_TRACE2(request__end, request->kind, request->image);
}

/* Fires request__begin now, and request__end at the end of the block. @kind_text is a
 * constant. */
#define QIMG_TRACE_REQUEST(kind_text, traced_image, guest_offset, length_bytes)          \
    __attribute__((cleanup(qimg_trace_request_end)))                                     \
    QimgTracedRequest traced = {kind_text, traced_image};                                \
    QIMG_TRACE4(request__begin, traced.kind, traced.image, guest_offset, length_bytes)
