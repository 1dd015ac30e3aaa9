/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Unreadable ranges of a disk. */
#pragma once

#include "base/types.h"
#include "qimg.h"

/* Limit of stored unreadable ranges: 1.5 MiB. */
#define COPY_MAX_LISTED 65536u

/* Makes a range for a log, or the caller. */
static inline QimgUnreadable
copy_unreadable(uint64_t guest_offset, uint64_t length_bytes, const char *reason)
{
    return (QimgUnreadable){sizeof(QimgUnreadable), guest_offset, length_bytes, reason};
}

/* Whether @err, from a read, means that the range itself is unreadable, rather than that
 * reading is impossible now. */
bool copy_is_unreadable(QimgErrno err);

/* Reads the readable parts of the range into @buffer, with zeros for the rest, which is
 * added to @bad (QimgUnreadable). The resolution is a sector of the host, or a cluster if
 * compressed. Slow. Errors: those for which copy_is_unreadable is false; -ECANCELED once
 * *@stop is set. */
QimgErrno copy_rescue(QimgImage *image, uint64_t guest_offset, size_t length_bytes,
                      uint8_t *buffer, const _Atomic bool *stop, GArray *bad)
    QIMG_MUST_CHECK;

/* The unreadable ranges of a disk, in order; adjacent ranges with the same reason are
 * merged. */
typedef struct {
    GArray *listed;      /* QimgUnreadable: the first COPY_MAX_LISTED complete ones */
    QimgUnreadable last; /* may still grow; length 0: none */
    uint64_t n_ranges;   /* including the last */
    uint64_t n_bytes;
    void (*on_complete)(const QimgUnreadable *range, void *user); /* may be NULL */
    void *user;
} RangeLog;

void range_log_init(RangeLog *log, void (*on_complete)(const QimgUnreadable *, void *),
                    void *user);
void range_log_clear(RangeLog *log);
/* Adds a range behind all others. */
void range_log_add(RangeLog *log, const QimgUnreadable *range);
/* Completes the last range. */
void range_log_finish(RangeLog *log);
/* A copy of the listed ranges and the last one; free with g_array_unref. NULL if there
 * are more than can be listed. */
GArray *range_log_snapshot(const RangeLog *log);
