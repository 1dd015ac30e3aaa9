/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ops/coherence.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/lock.h"

/* A lock on one page may cover a large folio around it. */
#define NEAR_BYTES (UINT64_C(2) << 20)
/* Limit of pending early changes per view: beyond it they are merged into one. */
#define MAX_EARLY 64u

typedef struct {
    GPtrArray *views;    /* CoherentView *, owned; guarded by lock */
    atomic_uint n_views; /* atomic: their number */
} Disk;

struct CoherentView {
    Coherence *coherence;          /* const */
    Disk *disk;                    /* const */
    uint64_t inode, start, length; /* const */
};

struct CoherentChange {
    CoherentView *view;  /* const; for a sync: any view of the disk */
    uint64_t start, end; /* on the disk */
    bool is_sync;
    bool is_early; /* answered, or about to be, without waiting */
    bool is_ready; /* the change is made: the notifier may process it */
    bool is_running;
    CoherentAnswer answer; /* unused if is_early */
};

struct Coherence {
    CoherentDrop drop; /* const after start */
    void *user;        /* of drop; const after start */
    pthread_t thread;
    bool is_started;
    QimgMutex lock; /* never held over I/O */
    QimgCond wakes;
    /* Guarded by lock: */
    GHashTable *disks; /* by image: Disk *, owned */
    GQueue changes;    /* CoherentChange *, owned, in the order of registration */
    bool is_stopping;
};

static void
free_disk(gpointer data)
{
    Disk *disk = data;

    g_ptr_array_unref(disk->views);
    g_free(disk);
}

Coherence *
coherence_new(void)
{
    Coherence *c = g_new0(Coherence, 1);

    qimg_mutex_init(&c->lock, QIMG_RANK_COHERENCE);
    qimg_cond_init(&c->wakes);
    c->disks = g_hash_table_new_full(NULL, NULL, NULL, free_disk);
    g_queue_init(&c->changes);
    return c;
}

void
coherence_free(Coherence *c)
{
    if (!c)
        return;
    g_queue_clear_full(&c->changes, g_free);
    g_hash_table_unref(c->disks);
    qimg_cond_clear(&c->wakes);
    qimg_mutex_clear(&c->lock);
    g_free(c);
}

static CoherentView *
find_view(const Disk *disk, uint64_t inode)
{
    for (guint i = 0; i < disk->views->len; i++) {
        CoherentView *view = disk->views->pdata[i];

        if (view->inode == inode)
            return view;
    }
    return NULL;
}

CoherentView *
coherence_get_view(Coherence *c, unsigned image_index, uint64_t inode, uint64_t start,
                   uint64_t length)
{
    CoherentView *view;
    Disk *disk;

    qimg_mutex_lock(&c->lock);
    disk = g_hash_table_lookup(c->disks, GUINT_TO_POINTER(image_index));
    if (!disk) {
        disk = g_new0(Disk, 1);
        disk->views = g_ptr_array_new_with_free_func(g_free);
        g_hash_table_insert(c->disks, GUINT_TO_POINTER(image_index), disk);
    }
    view = find_view(disk, inode);
    if (!view) {
        view = g_new(CoherentView, 1);
        *view = (CoherentView){c, disk, inode, start, length};
        g_ptr_array_add(disk->views, view);
        /* A writer re-checks n_views after its change: either it sees the view, or the
         * view's first read sees the change. */
        atomic_fetch_add(&disk->n_views, 1);
    }
    qimg_mutex_unlock(&c->lock);
    return view;
}

static bool
is_shared(const CoherentView *view)
{
    return view && atomic_load(&view->disk->n_views) > 1;
}

static uint64_t
add_clipped(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static CoherentChange *
new_change(CoherentView *view, uint64_t start, uint64_t length)
{
    CoherentChange *change = g_new0(CoherentChange, 1);

    change->view = view;
    change->start = add_clipped(view->start, start);
    change->end = add_clipped(change->start, length);
    return change;
}

/* Whether one may lock or drop pages because of the other. */
static bool
may_collide(const CoherentChange *a, const CoherentChange *b)
{
    return a->view != b->view && a->view->disk == b->view->disk && !a->is_sync &&
           !b->is_sync && a->start < add_clipped(b->end, NEAR_BYTES) &&
           b->start < add_clipped(a->end, NEAR_BYTES);
}

CoherentChange *
coherence_begin(CoherentView *view, uint64_t start, uint64_t length)
{
    CoherentChange *change;
    Coherence *c;

    if (!is_shared(view))
        return NULL;
    c = view->coherence;
    change = new_change(view, start, length);
    qimg_mutex_lock(&c->lock);
    for (GList *l = c->changes.head; l && !change->is_early; l = l->next)
        change->is_early = may_collide(change, l->data); /* I1 */
    g_queue_push_tail(&c->changes, change);
    qimg_mutex_unlock(&c->lock);
    return change;
}

static void
send(const CoherentAnswer *answer)
{
    answer->send(answer->req, answer->err, answer->value);
}

/* Merges @change, which is early and ready, into a pending one of its file: if they
 * touch, or if too many are pending. Merges only changes between the same two syncs of
 * the disk: a sync waits for those before it, and would miss one that moves behind it.
 * The lock is held. */
static void
join_early(Coherence *c, CoherentChange *change)
{
    CoherentChange *last = NULL;
    bool is_past = false;
    unsigned n = 0;

    for (GList *l = c->changes.head; l; l = l->next) {
        CoherentChange *other = l->data;

        if (other == change) {
            is_past = true;
        } else if (other->is_sync && other->view->disk == change->view->disk) {
            if (is_past)
                break;
            last = NULL;
            n = 0;
        } else if (other->view == change->view && !other->is_sync && other->is_early &&
                   other->is_ready && !other->is_running) {
            n++;
            if ((change->start <= other->end && other->start <= change->end) ||
                (n >= MAX_EARLY && !last))
                last = other;
        }
    }
    if (!last)
        return;
    last->start = MIN(last->start, change->start);
    last->end = MAX(last->end, change->end);
    g_queue_remove(&c->changes, change);
    g_free(change);
}

/* Answers before the others are told. */
static void
finish_early(Coherence *c, CoherentChange *change, const CoherentAnswer *answer)
{
    send(answer);
    qimg_mutex_lock(&c->lock);
    change->is_ready = true;
    join_early(c, change);
    qimg_cond_signal(&c->wakes);
    qimg_mutex_unlock(&c->lock);
}

void
coherence_finish(CoherentView *view, CoherentChange *change, uint64_t start,
                 uint64_t length, const CoherentAnswer *answer)
{
    Coherence *c;
    bool waits = false;

    if (!change && !is_shared(view)) {
        send(answer);
        return;
    }
    c = view->coherence;
    qimg_mutex_lock(&c->lock);
    if (!change) { /* register before answering: a sync must find it */
        change = new_change(view, start, length);
        change->is_early = true;
        g_queue_push_tail(&c->changes, change);
    }
    if (!change->is_early && !c->is_stopping) {
        change->answer = *answer;
        change->is_ready = waits = true;
        qimg_cond_signal(&c->wakes);
    }
    change->is_early |= c->is_stopping;
    qimg_mutex_unlock(&c->lock);
    if (!waits)
        finish_early(c, change, answer);
}

/* Whether early changes of the disk precede @sync. The lock is held. */
static bool
has_early_before(const Coherence *c, const CoherentChange *sync)
{
    for (const GList *l = c->changes.head; l && l->data != sync; l = l->next) {
        const CoherentChange *change = l->data;

        if (change->view->disk == sync->view->disk && change->is_early)
            return true;
    }
    return false;
}

void
coherence_sync(CoherentView *view, const CoherentAnswer *answer)
{
    CoherentChange *sync = NULL;

    if (is_shared(view)) {
        Coherence *c = view->coherence;

        sync = new_change(view, 0, 0);
        sync->is_sync = sync->is_ready = true;
        sync->answer = *answer;
        qimg_mutex_lock(&c->lock);
        if (!c->is_stopping && has_early_before(c, sync)) {
            g_queue_push_tail(&c->changes, sync);
            qimg_cond_signal(&c->wakes);
        } else {
            g_clear_pointer(&sync, g_free);
        }
        qimg_mutex_unlock(&c->lock);
    }
    if (!sync)
        send(answer);
}

/* ---- the notifier ---- */

/* Whether the notifier may process @change now. The lock is held. */
static bool
is_runnable(const Coherence *c, const CoherentChange *change)
{
    if (!change->is_ready || c->is_stopping)
        return change->is_ready;
    if (change->is_sync)
        return !has_early_before(c, change);
    for (const GList *l = c->changes.head; change->is_early && l; l = l->next) {
        const CoherentChange *other = l->data;

        if (!other->is_early && may_collide(change, other)) /* I3 */
            return false;
    }
    return true;
}

static CoherentChange *
next_change(const Coherence *c)
{
    for (const GList *l = c->changes.head; l; l = l->next)
        if (is_runnable(c, l->data))
            return l->data;
    return NULL;
}

typedef struct {
    uint64_t inode;
    int64_t start;
    int64_t length;
} Stretch;

/* The ranges of the change in the other views. The lock is held. */
static GArray *
stretches_of(const CoherentChange *change)
{
    GArray *stretches = g_array_new(FALSE, FALSE, sizeof(Stretch));
    const GPtrArray *views = change->view->disk->views;

    for (guint i = 0; i < views->len && !change->is_sync; i++) {
        const CoherentView *view = views->pdata[i];
        uint64_t start = MAX(change->start, view->start);
        uint64_t end = MIN(change->end, add_clipped(view->start, view->length));
        Stretch stretch;

        if (view == change->view || start >= end || start - view->start > INT64_MAX)
            continue;
        stretch.inode = view->inode;
        stretch.start = (int64_t)(start - view->start);
        stretch.length = (int64_t)MIN(end - start, (uint64_t)(INT64_MAX - stretch.start));
        g_array_append_val(stretches, stretch);
    }
    return stretches;
}

static void
tell(Coherence *c, const GArray *stretches)
{
    for (guint i = 0; i < stretches->len; i++) {
        const Stretch *s = &g_array_index(stretches, Stretch, i);

        c->drop(c->user, s->inode, s->start, s->length);
    }
}

static void *
notify(void *user)
{
    Coherence *c = user;

    qimg_mutex_lock(&c->lock);
    for (;;) {
        CoherentChange *change = next_change(c);
        g_autoptr(GArray) stretches = NULL;
        bool is_silent = c->is_stopping;

        if (!change && c->is_stopping)
            break;
        if (!change) {
            qimg_cond_wait(&c->wakes, &c->lock);
            continue;
        }
        change->is_running = true;
        stretches = stretches_of(change);
        qimg_mutex_unlock(&c->lock);
        if (!is_silent)
            tell(c, stretches);
        qimg_mutex_lock(&c->lock);
        g_queue_remove(&c->changes, change);
        qimg_mutex_unlock(&c->lock);
        /* Answer last: the answered writer may go on through another file at once, and
         * not early. */
        if (!change->is_early)
            send(&change->answer);
        g_free(change);
        qimg_mutex_lock(&c->lock);
    }
    qimg_mutex_unlock(&c->lock);
    return NULL;
}

bool
coherence_start(Coherence *c, CoherentDrop drop, void *user)
{
    c->drop = drop;
    c->user = user;
    c->is_started = pthread_create(&c->thread, NULL, notify, c) == 0;
    return c->is_started;
}

void
coherence_stop(Coherence *c)
{
    if (!c || !c->is_started)
        return;
    qimg_mutex_lock(&c->lock);
    c->is_stopping = true;
    qimg_cond_signal(&c->wakes);
    qimg_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    c->is_started = false;
}
