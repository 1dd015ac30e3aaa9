/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stripes of the disk, so that requests to different places share no cache line; each
 * counts its changes. */
#include "format/sectors.h"

#include <glib.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

#define STRIPE_BYTES     QIMG_MIB
#define N_STRIPES        64u
#define CACHE_LINE_BYTES 64

typedef struct {
    _Alignas(CACHE_LINE_BYTES) _Atomic uint64_t n_begun; /* atomic: changes */
    _Atomic uint64_t n_ended;                            /* atomic: of them */
    InflightSet *held;                                   /* const */
} Stripe;

struct QimgSectors {
    Stripe stripes[N_STRIPES];
};

static unsigned
sector_stripe_of(uint64_t guest_offset)
{
    return (unsigned)(guest_offset / STRIPE_BYTES % N_STRIPES);
}

/* Lowers *@end to the end of the stripe at @start. */
static void
clip_to_stripe(uint64_t start, uint64_t *end)
{
    *end = qimg_min_u64(*end, start - start % STRIPE_BYTES + STRIPE_BYTES);
}

QimgSectors *
qimg_sectors_new(void)
{
    QimgSectors *sectors = aligned_alloc(CACHE_LINE_BYTES, sizeof *sectors);

    if (!sectors)
        g_error("out of memory");
    memset(sectors, 0, sizeof *sectors);
    for (unsigned i = 0; i < N_STRIPES; i++)
        sectors->stripes[i].held = inflight_set_new();
    return sectors;
}

void
qimg_sectors_free(QimgSectors *sectors)
{
    if (!sectors)
        return;
    for (unsigned i = 0; i < N_STRIPES; i++)
        inflight_set_free(sectors->stripes[i].held);
    free(sectors);
}

void
qimg_sectors_hold(QimgSectors *sectors, QimgInflight *mine, uint64_t start, uint64_t *end)
{
    clip_to_stripe(start, end);
    inflight_begin(sectors->stripes[sector_stripe_of(start)].held, mine, start, end);
}

void
qimg_sectors_release(QimgSectors *sectors, QimgInflight *mine)
{
    inflight_end(sectors->stripes[sector_stripe_of(mine->start)].held, mine);
}

void
qimg_sectors_begin_change(QimgSectors *sectors, QimgInflight *mine, uint64_t start,
                          uint64_t *end)
{
    qimg_sectors_hold(sectors, mine, start, end);
    /* Before the change; pairs with the second load of a look. */
    atomic_fetch_add_explicit(&sectors->stripes[sector_stripe_of(start)].n_begun, 1,
                              memory_order_acq_rel);
}

void
qimg_sectors_end_change(QimgSectors *sectors, QimgInflight *mine)
{
    /* After the change; pairs with the first load of a look. */
    atomic_fetch_add_explicit(&sectors->stripes[sector_stripe_of(mine->start)].n_ended, 1,
                              memory_order_acq_rel);
    qimg_sectors_release(sectors, mine);
}

bool
qimg_sectors_begin_look(QimgSectors *sectors, uint64_t start, uint64_t *end,
                        QimgSectorsLook *look_out)
{
    Stripe *stripe = &sectors->stripes[sector_stripe_of(start)];

    clip_to_stripe(start, end);
    /* In this order: if both are alike, no change was in flight at the second load. */
    look_out->n_changes = atomic_load_explicit(&stripe->n_ended, memory_order_acquire);
    look_out->stripe = sector_stripe_of(start);
    return atomic_load_explicit(&stripe->n_begun, memory_order_acquire) ==
           look_out->n_changes;
}

bool
qimg_sectors_end_look(QimgSectors *sectors, const QimgSectorsLook *look)
{
    /* Adding nothing keeps the reads before it; a load would not. */
    return atomic_fetch_add_explicit(&sectors->stripes[look->stripe].n_begun, 0,
                                     memory_order_acq_rel) == look->n_changes;
}
