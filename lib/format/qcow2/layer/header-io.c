/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changes of the header. */
#define G_LOG_DOMAIN "qimg-format"

#include "format/qcow2/layer/header-io.h"

#include <errno.h>

#include "base/endian.h"
#include "base/lock.h"

struct Qcow2HeaderState {
    QimgMutex lock;                 /* rank QIMG_RANK_HEADER */
    uint64_t incompatible_features; /* guarded by lock */
    bool is_marked;   /* guarded by lock: marked corrupt since open; never reset */
    bool stays_dirty; /* changed with the gate closed */
};

Qcow2HeaderState *
qcow2_header_state_new(const Qcow2 *q)
{
    Qcow2HeaderState *state = g_new0(Qcow2HeaderState, 1);

    qimg_mutex_init(&state->lock, QIMG_RANK_HEADER);
    state->incompatible_features = q->header.incompatible_features;
    return state;
}

void
qcow2_header_state_free(Qcow2HeaderState *state)
{
    if (!state)
        return;
    qimg_mutex_clear(&state->lock);
    g_free(state);
}

Qcow2Header *
qcow2_header_to_change(Qcow2 *q)
{
    return (Qcow2Header *)&q->header;
}

QimgErrno
qcow2_write_header_field(Qcow2 *q, uint64_t position, const void *bytes, size_t n_bytes)
{
    uint8_t old_bytes[QCOW2_MAX_FIELD_BYTES];
    QimgErrno err;

    g_assert(n_bytes <= sizeof old_bytes);
    err = qimg_storage_read(q->base.file, QIMG_IO_HEADER, qimg_host(position), old_bytes,
                            n_bytes);
    if (!err)
        err = qimg_format_write_or_undo(&q->base, QIMG_IO_HEADER, position, bytes,
                                        old_bytes, n_bytes);
    if (err)
        return err;
    err = qimg_storage_sync(q->base.file);
    return err ? qimg_format_break(&q->base, err) : 0;
}

uint64_t
qcow2_get_incompatible(Qcow2 *q)
{
    QIMG_LOCK_SCOPE(&q->header_state->lock);

    return q->header_state->incompatible_features;
}

QimgErrno
qcow2_change_incompatible(Qcow2 *q, uint64_t set, uint64_t clear)
{
    Qcow2HeaderState *state = q->header_state;
    QIMG_LOCK_SCOPE(&state->lock);
    uint64_t kept = state->is_marked ? QCOW2_INCOMPAT_CORRUPT : 0;
    uint64_t features = ((state->incompatible_features | set) & ~clear) | kept;
    qimg_be64 field = qimg_be64_set(features);
    QimgErrno err;

    if (features == state->incompatible_features)
        return 0;
    err = qcow2_write_header_field(q, QCOW2_HEADER_AT_INCOMPATIBLE, &field, sizeof field);
    if (err)
        return err;
    state->incompatible_features = features;
    q->base.is_dirty = (features & QCOW2_INCOMPAT_DIRTY) != 0;
    if (!kept)
        q->base.is_corrupt = (features & QCOW2_INCOMPAT_CORRUPT) != 0;
    return 0;
}

QimgErrno
qcow2_set_dirty(Qcow2 *q, bool is_dirty)
{
    if (q->header.version < 3 || (!is_dirty && q->header_state->stays_dirty))
        return 0;
    return qcow2_change_incompatible(q, is_dirty ? QCOW2_INCOMPAT_DIRTY : 0,
                                     is_dirty ? 0 : QCOW2_INCOMPAT_DIRTY);
}

void
qcow2_keep_dirty(Qcow2 *q)
{
    q->header_state->stays_dirty = true;
}

/* Tries to set the corrupt bit: the layer is broken in any case. */
static void
store_corrupt_bit(Qcow2 *q)
{
    Qcow2HeaderState *state = q->header_state;
    QIMG_LOCK_SCOPE(&state->lock);
    qimg_be64 field;

    state->is_marked = true;
    state->incompatible_features |= QCOW2_INCOMPAT_CORRUPT;
    field = qimg_be64_set(state->incompatible_features);
    if (!qimg_storage_write(q->base.file, QIMG_IO_HEADER,
                            qimg_host(QCOW2_HEADER_AT_INCOMPATIBLE), &field,
                            sizeof field))
        (void)!qimg_storage_sync(q->base.file);
}

QimgErrno
qcow2_mark_corrupt(Qcow2 *q, QimgRule rule, uint64_t host_offset)
{
    qimg_format_report(&q->base, rule, host_offset);
    if (atomic_exchange(&q->base.broken, true))
        return -EIO;
    if (q->header.version < 3) {
        g_warning("%s: it is read-only from now on", q->base.file->path);
        return -EIO;
    }
    g_warning("%s: it is marked corrupt and read-only from now on", q->base.file->path);
    store_corrupt_bit(q);
    return -EIO;
}
