/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inflating ahead of a sequential reader: while its answer travels, the workers fill the
 * cache with the compressed clusters that come next.
 *
 * A job belongs to whoever has set is_busy from 0 to 1, until its run has ended. There is
 * a fixed number of jobs; where none is free, nothing is read ahead. */
#include "image/read/read-ahead.h"
#include "image/map/runs.h"
#include "image/read/compressed.h"

#include "base/checked.h"

#define N_JOBS           64u
#define MAX_WINDOW_BYTES (2 * QIMG_MIB)

typedef struct {
    QimgJob job;
    CompressedCluster cluster; /* guarded by is_busy */
    _Atomic bool is_busy;      /* atomic */
} AheadJob;

struct ReadAhead {
    QimgChain *chain;
    AheadJob jobs[N_JOBS];
    atomic_uint next_job; /* atomic, relaxed: where to look for a free one */
};

ReadAhead *
read_ahead_new(QimgChain *chain)
{
    ReadAhead *ahead;

    if (qimg_workers_get_n_threads(chain->workers) < 2)
        return NULL;
    ahead = g_new0(ReadAhead, 1);
    ahead->chain = chain;
    return ahead;
}

/* Cancels what is queued; what runs ends before the workers do, who are freed next. */
void
read_ahead_free(ReadAhead *ahead)
{
    if (!ahead)
        return;
    for (unsigned i = 0; i < N_JOBS; i++)
        if (atomic_load_explicit(&ahead->jobs[i].is_busy, memory_order_acquire))
            (void)qimg_workers_cancel(ahead->chain->workers, &ahead->jobs[i].job);
    qimg_workers_free(ahead->chain->workers);
    ahead->chain->workers = NULL;
    g_free(ahead);
}

static void
run_job(QimgJob *job)
{
    AheadJob *ahead = (AheadJob *)job;
    Slot *slot;

    /* An error is met again, and reported, by who reads there. */
    if (compressed_pin(&ahead->cluster, &slot) == 0)
        slot_cache_unpin(ahead->cluster.chain->clusters[ahead->cluster.layer_index],
                         slot);
    chain_count(ahead->cluster.chain, COUNTER_READ_AHEAD_CLUSTERS, 1);
    /* Pairs with the acquire in start_job. */
    atomic_store_explicit(&ahead->is_busy, false, memory_order_release);
}

/* Queues the inflation of @cluster; false when no job is free. */
static bool
start_job(ReadAhead *ahead, const CompressedCluster *cluster)
{
    unsigned start = atomic_fetch_add_explicit(&ahead->next_job, 1, memory_order_relaxed);

    for (unsigned i = 0; i < N_JOBS; i++) {
        AheadJob *job = &ahead->jobs[(start + i) % N_JOBS];
        bool is_busy = false;

        if (!atomic_compare_exchange_strong_explicit(&job->is_busy, &is_busy, true,
                                                     memory_order_acquire,
                                                     memory_order_relaxed))
            continue;
        job->job.run = run_job;
        job->cluster = *cluster;
        if (qimg_workers_submit(ahead->chain->workers, &job->job, false))
            return true;
        atomic_store_explicit(&job->is_busy, false, memory_order_release);
        return false;
    }
    return false;
}

/* Queues the compressed clusters of [@start, @end), guest offsets of @image; returns
 * where it stopped. */
static uint64_t
inflate_range(const QimgImage *image, uint64_t start, uint64_t end)
{
    while (start < end) {
        CompressedCluster cluster = {.chain = image->chain};
        SlotCache *cache;
        ImageRun r;
        Slot *slot;

        if (image_map_run(image, image->base_bytes + start, end - start, &r))
            return end;
        start += r.run.length_bytes;
        if (r.run.kind != QIMG_RUN_COMPRESSED)
            continue;
        cluster.layer_index = r.layer_index;
        cluster.host_offset = r.run.host_offset;
        cluster.stream_bytes = r.run.stream_bytes;
        cache = image->chain->clusters[r.layer_index];
        slot = slot_cache_pin_present(
            cache, compressed_key(cluster.layer_index, cluster.host_offset));
        if (slot)
            slot_cache_unpin(cache, slot);
        else if (!start_job(image->chain->read_ahead, &cluster))
            return start - r.run.length_bytes;
    }
    return end;
}

/* Tells that [@guest_offset, @guest_offset + @length_bytes) is being read and holds
 * compressed clusters of @cluster_bytes: reads ahead where this goes on from the last
 * such read. Threads: any; the hints may race, at the cost of some work done in vain. */
void
read_ahead_note(QimgImage *image, uint64_t guest_offset, uint64_t length_bytes,
                uint64_t cluster_bytes)
{
    uint64_t end = guest_offset + length_bytes;
    uint64_t expected = atomic_exchange_explicit(&image->next_sequential_offset, end,
                                                 memory_order_relaxed);
    uint64_t done_until, window_bytes, from, until;

    if (!image->chain->read_ahead || guest_offset != expected || guest_offset == 0)
        return;
    window_bytes = qimg_min_u64(qimg_max_u64(MAX_WINDOW_BYTES, 2 * cluster_bytes),
                                image->chain->data_cache_bytes / 4);
    if (window_bytes < cluster_bytes)
        return;
    done_until =
        atomic_load_explicit(&image->read_ahead_end_offset, memory_order_relaxed);
    from = done_until > end && done_until <= end + window_bytes ? done_until : end;
    until = qimg_min_u64(end + window_bytes, image_size_bytes(image));
    if (from >= until)
        return;
    atomic_store_explicit(&image->read_ahead_end_offset,
                          inflate_range(image, from, until), memory_order_relaxed);
}
