/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A short list under one lock: it has one range for each allocating thread. */
#include "format/inflight.h"

#include <glib.h>

#include "base/lock.h"

struct InflightSet {
    QimgMutex lock;      /* rank QIMG_RANK_INFLIGHT */
    QimgCond ended;      /* a range has ended or become shorter */
    QimgInflight *first; /* guarded by lock */
    unsigned n_waiting;  /* guarded by lock */
};

InflightSet *
inflight_set_new(void)
{
    InflightSet *set = g_new0(InflightSet, 1);

    qimg_mutex_init(&set->lock, QIMG_RANK_INFLIGHT);
    qimg_cond_init(&set->ended);
    return set;
}

void
inflight_set_free(InflightSet *set)
{
    if (!set)
        return;
    g_assert(!set->first);
    qimg_cond_clear(&set->ended);
    qimg_mutex_clear(&set->lock);
    g_free(set);
}

static bool
excludes(const QimgInflight *other, bool is_shared)
{
    return !(is_shared && other->is_shared);
}

static bool
is_taken(const InflightSet *set, uint64_t offset, bool is_shared)
{
    for (const QimgInflight *other = set->first; other; other = other->next)
        if (offset >= other->start && offset < other->end && excludes(other, is_shared))
            return true;
    return false;
}

static void
begin(InflightSet *set, QimgInflight *mine, uint64_t start, uint64_t *end, bool is_shared)
{
    QIMG_LOCK_SCOPE(&set->lock);

    while (is_taken(set, start, is_shared)) {
        set->n_waiting++;
        qimg_cond_wait(&set->ended, &set->lock);
        set->n_waiting--;
    }
    for (const QimgInflight *other = set->first; other; other = other->next)
        if (other->start > start && other->start < *end && excludes(other, is_shared))
            *end = other->start;
    *mine = (QimgInflight){
        .start = start, .end = *end, .is_shared = is_shared, .next = set->first};
    set->first = mine;
}

void
inflight_begin(InflightSet *set, QimgInflight *mine, uint64_t start, uint64_t *end)
{
    begin(set, mine, start, end, false);
}

void
inflight_begin_shared(InflightSet *set, QimgInflight *mine, uint64_t start, uint64_t *end)
{
    begin(set, mine, start, end, true);
}

void
inflight_shorten(InflightSet *set, QimgInflight *mine, uint64_t end)
{
    QIMG_LOCK_SCOPE(&set->lock);

    mine->end = end;
    if (set->n_waiting > 0)
        qimg_cond_broadcast(&set->ended);
}

void
inflight_end(InflightSet *set, QimgInflight *mine)
{
    QIMG_LOCK_SCOPE(&set->lock);
    QimgInflight **link = &set->first;

    while (*link != mine)
        link = &(*link)->next;
    *link = mine->next;
    if (set->n_waiting > 0)
        qimg_cond_broadcast(&set->ended);
}
