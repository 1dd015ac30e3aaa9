/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The begin and the end of a session: when IN_USE is set and when bits are stored. */
#define G_LOG_DOMAIN "qimg-format"

#include "format/qcow2/bitmap/session.h"

#include <errno.h>
#include <time.h>

#include "base/endian.h"
#include "base/workers.h"
#include "format/qcow2/bitmap/directory.h"
#include "format/qcow2/bitmap/store.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/refcount/alloc.h"
#include "format/qcow2/refcount/refcount.h"

#define IDLE_TICK_S 1
#define IDLE_TICKS  2u /* without a change, until bits are stored */

/* ---- when idle ---- */

static void *
store_when_idle(void *data)
{
    Qcow2Tracker *t = data;
    unsigned n_quiet = 0;

    qimg_mutex_lock(&t->lock);
    while (!t->is_ending) {
        struct timespec deadline;

        /* Between sessions nothing is to be stored. */
        while (!t->is_ending && !atomic_load(&t->is_session))
            qimg_cond_wait(&t->wakes, &t->lock);
        clock_gettime(CLOCK_REALTIME, &deadline);
        deadline.tv_sec += IDLE_TICK_S;
        (void)qimg_cond_wait_until(&t->wakes, &t->lock, &deadline);
        if (atomic_exchange_explicit(&t->is_touched, false, memory_order_relaxed))
            n_quiet = 0;
        else if (n_quiet < IDLE_TICKS)
            n_quiet++;
        if (t->is_ending || n_quiet < IDLE_TICKS || !atomic_load(&t->is_session))
            continue;
        qimg_mutex_unlock(&t->lock);
        qimg_gate_close(t->q->base.gate);
        if (!atomic_load(&t->is_touched))
            qcow2_store_bitmaps(t);
        qimg_gate_open(t->q->base.gate);
        qimg_mutex_lock(&t->lock);
        n_quiet = 0;
    }
    qimg_mutex_unlock(&t->lock);
    return NULL;
}

/* ---- the begin ---- */

/* Whether each cluster of the directory and the tables is counted only once, so that
 * nothing else uses it. Under alloc_lock. */
static QimgErrno
check_counted_once(Qcow2 *q, uint64_t host_offset, uint64_t n_bytes)
{
    unsigned bits = q->geometry.cluster_bits;

    for (uint64_t c = host_offset >> bits; c <= (host_offset + n_bytes - 1) >> bits;
         c++) {
        uint64_t refcount = 0;
        QimgErrno err = qcow2_refcount_get(q, c, &refcount);

        if (err)
            return err;
        if (refcount != 1) {
            g_warning("%s: a cluster of its bitmaps is counted %" G_GUINT64_FORMAT
                      " times, so it is not written to (run qimg check, or give the "
                      "bitmaps up with the option bitmaps=drop)",
                      q->base.file->path, refcount);
            return -EROFS;
        }
    }
    return 0;
}

static QimgErrno
check_own_clusters(Qcow2Tracker *t)
{
    Qcow2 *q = t->q;
    QIMG_LOCK_SCOPE(qcow2_alloc_lock(q));
    QimgErrno err = 0;

    if (t->list->n == 0)
        return 0;
    err = check_counted_once(q, q->bitmaps.directory_offset, q->bitmaps.directory_bytes);

    for (unsigned i = 0; !err && i < t->list->n; i++) {
        const QimgFormatBitmap *b = &t->list->items[i];

        if (!b->facts.damage && !b->facts.is_in_use)
            err =
                check_counted_once(q, b->table_offset, (uint64_t)b->n_table_entries * 8);
    }
    return err;
}

/* Sets IN_USE in the file, and syncs. Damaged enabled bitmaps get it, too: no program
 * shall take their bits for complete. */
static QimgErrno
mark_in_use(Qcow2Tracker *t, bool with_disabled)
{
    QimgErrno err = 0;

    for (unsigned i = 0; !err && i < t->list->n; i++) {
        const QimgFormatBitmap *b = &t->list->items[i];
        bool is_meant = b->facts.is_enabled || (with_disabled && !b->facts.damage);

        if (is_meant && !(b->flags & QCOW2_BITMAP_IN_USE))
            err = qcow2_write_bitmap_flags(t->q, b, b->flags | QCOW2_BITMAP_IN_USE);
    }
    return err ? err : qimg_storage_sync(t->q->base.file);
}

/* The fallback if IN_USE cannot be set: the file says that all bitmaps are stale. */
static QimgErrno
drop(Qcow2Tracker *t)
{
    Qcow2 *q = t->q;
    uint64_t kept = q->header.autoclear_features & ~(uint64_t)QCOW2_AUTOCLEAR_BITMAPS;
    qimg_be64 field = qimg_be64_set(kept);
    QIMG_LOCK_SCOPE(qcow2_alloc_lock(q));
    QimgErrno err =
        qcow2_write_header_field(q, QCOW2_HEADER_AT_AUTOCLEAR, &field, sizeof field);

    if (err)
        return err;
    qcow2_header_to_change(q)->autoclear_features = kept;
    atomic_store(&t->is_dropped, true);
    g_warning("%s: its bitmaps could not be marked as in use and are stale from now on",
              q->base.file->path);
    return 0;
}

static QimgErrno
begin_locked(Qcow2Tracker *t, bool with_disabled)
{
    QimgErrno err = qcow2_begin_change(t->q);

    if (!err)
        err = check_own_clusters(t);
    if (!err)
        err = qcow2_tracker_load(t);
    if (err)
        return err;
    err = mark_in_use(t, with_disabled);
    if (err)
        return drop(t);
    t->has_marked_disabled |= with_disabled;
    if (t->n_tracked > 0 && !t->has_thread && !t->is_ending)
        t->has_thread = qimg_thread_start(&t->thread, store_when_idle, t);
    /* Release pairs with the acquire of qcow2_before_change. */
    atomic_store_explicit(&t->is_session, true, memory_order_release);
    qimg_cond_signal(&t->wakes);
    return 0;
}

QimgErrno
qcow2_bitmaps_begin(Qcow2Tracker *t, bool with_disabled)
{
    QIMG_LOCK_SCOPE(&t->lock);

    if (atomic_load(&t->is_dropped) || (atomic_load(&t->is_session) && !with_disabled))
        return 0;
    return begin_locked(t, with_disabled);
}

QimgErrno
qcow2_before_change(QimgFormat *format, uint64_t guest_offset, uint64_t length_bytes,
                    bool may_exceed)
{
    Qcow2Tracker *t = ((Qcow2 *)format)->tracker;

    if (!t || length_bytes == 0 ||
        atomic_load_explicit(&t->is_dropped, memory_order_relaxed))
        return 0;
    /* Acquire pairs with the release of begin_locked. */
    if (!atomic_load_explicit(&t->is_session, memory_order_acquire)) {
        QimgErrno err = qcow2_bitmaps_begin(t, false);

        if (err)
            return err;
    }
    if (!atomic_load_explicit(&t->is_touched, memory_order_relaxed))
        atomic_store_explicit(&t->is_touched, true, memory_order_relaxed);
    return qcow2_tracker_set(t, guest_offset, length_bytes, may_exceed) ? 0 : -ENOBUFS;
}
