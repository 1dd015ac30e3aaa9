/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inflating ahead of sequential readers: while an answer is on its way, the workers fill
 * the cache with the next compressed clusters.
 *
 * A job belongs to the thread that has set is_busy from 0 to 1, until its run has ended.
 * There is a fixed number of jobs; if none is free, nothing is read ahead.
 *
 * All streams together keep at most a quarter of the cache of clusters ahead of their
 * readers, so that none evicts clusters that another needs next; clusters being read need
 * room, too.
 *
 * A job may run after its reader has gone on, outside the request that queued it. It does
 * nothing if the reader has passed the cluster and inflates it itself, or if the cluster
 * may have been freed since it was mapped (qimg_gate_get_epoch). */
#include "image/read/read-ahead.h"
#include "image/map/runs.h"
#include "image/read/compressed.h"

#include "base/checked.h"
#include "base/lock.h"

#define N_JOBS           64u
#define N_STREAMS        16u
#define MAX_WINDOW_BYTES (2 * QIMG_MIB)
/* A stream that has not advanced while all others have this often has ended, or is
 * slow. */
#define MAX_STREAM_AGE (4 * N_STREAMS)

/* A sequential reader. */
typedef struct {
    const QimgImage *image;       /* guarded by lock: its owner, never followed */
    uint64_t noted_at;            /* guarded by lock: ReadAhead.n_notes */
    uint64_t ahead_until;         /* guarded by lock: queued up to this guest offset */
    _Atomic uint64_t read_until;  /* atomic, relaxed: guest offset */
    _Atomic uint64_t n_takeovers; /* atomic, relaxed: by other readers */
} Stream;

typedef struct {
    QimgJob job;
    /* Guarded by is_busy: */
    CompressedCluster cluster;
    const Stream *stream;
    uint64_t n_takeovers;  /* of the stream when the job was queued */
    uint64_t guest_offset; /* where the stream meets the cluster */
    uint64_t gate_epoch;   /* from before the cluster was mapped */
    _Atomic bool is_busy;  /* atomic */
} AheadJob;

struct ReadAhead {
    QimgChain *chain;
    AheadJob jobs[N_JOBS];
    atomic_uint next_job; /* atomic, relaxed: where to look for a free one */
    QimgMutex lock;       /* rank QIMG_RANK_STREAMS */
    uint64_t n_notes;     /* guarded by lock */
    Stream streams[N_STREAMS];
};

ReadAhead *
read_ahead_new(QimgChain *chain)
{
    ReadAhead *ahead;

    if (qimg_workers_get_n_threads(chain->workers) < 2)
        return NULL;
    ahead = g_new0(ReadAhead, 1);
    ahead->chain = chain;
    qimg_mutex_init(&ahead->lock, QIMG_RANK_STREAMS);
    return ahead;
}

/* Cancels queued jobs; running ones end before the workers, which are freed next. */
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
    qimg_mutex_clear(&ahead->lock);
    g_free(ahead);
}

/* Whether the reader still needs the cluster of @job, and it still exists. Inside the
 * gate. */
static bool
is_wanted(const AheadJob *job)
{
    const Stream *stream = job->stream;

    return qimg_gate_get_epoch(job->cluster.chain->gate) == job->gate_epoch &&
           atomic_load_explicit(&stream->n_takeovers, memory_order_relaxed) ==
               job->n_takeovers &&
           atomic_load_explicit(&stream->read_until, memory_order_relaxed) <=
               job->guest_offset;
}

static void
inflate(const AheadJob *job)
{
    const CompressedCluster *cluster = &job->cluster;
    QIMG_GATE_SCOPE(cluster->chain->gate);
    Slot *slot;

    if (!is_wanted(job))
        return;
    /* The reader meets an error again, and reports it. */
    if (compressed_pin(cluster, &slot) == 0)
        slot_cache_unpin(cluster->chain->clusters[cluster->layer_index], slot);
    chain_count(cluster->chain, COUNTER_READ_AHEAD_CLUSTERS, 1);
}

static void
run_job(QimgJob *job)
{
    AheadJob *ahead = (AheadJob *)job;

    inflate(ahead);
    /* Pairs with the acquire in start_job. */
    atomic_store_explicit(&ahead->is_busy, false, memory_order_release);
}

/* Queues @wanted; false if no job is free. */
static bool
start_job(ReadAhead *ahead, const AheadJob *wanted)
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
        job->cluster = wanted->cluster;
        job->stream = wanted->stream;
        job->n_takeovers = wanted->n_takeovers;
        job->guest_offset = wanted->guest_offset;
        job->gate_epoch = wanted->gate_epoch;
        if (qimg_workers_submit(ahead->chain->workers, &job->job, false))
            return true;
        atomic_store_explicit(&job->is_busy, false, memory_order_release);
        return false;
    }
    return false;
}

/* Queues the compressed clusters of [@start, @end), guest offsets of @image; returns
 * where it stopped. @wanted: the stream they are for. */
static uint64_t
inflate_range(const QimgImage *image, AheadJob *wanted, uint64_t start, uint64_t end)
{
    while (start < end) {
        SlotCache *cache;
        ImageRun r;
        Slot *slot;

        if (image_map_run(image, image->base_bytes + start, end - start, &r))
            return end;
        wanted->guest_offset = start;
        start += r.run.length_bytes;
        if (r.run.kind != QIMG_RUN_COMPRESSED)
            continue;
        wanted->cluster = (CompressedCluster){.chain = image->chain,
                                              .layer_index = r.layer_index,
                                              .host_offset = r.run.host_offset,
                                              .stream_bytes = r.run.stream_bytes};
        cache = image->chain->clusters[r.layer_index];
        slot = slot_cache_pin_present(cache,
                                      compressed_key(r.layer_index, r.run.host_offset));
        if (slot)
            slot_cache_unpin(cache, slot);
        else if (!start_job(image->chain->read_ahead, wanted))
            return wanted->guest_offset;
    }
    return end;
}

/* The advancing stream of @image; under lock. Takes over the oldest stream of readers
 * that have ended. */
static Stream *
find_stream(ReadAhead *ahead, const QimgImage *image)
{
    Stream *oldest = ahead->streams;

    for (unsigned i = 0; i < N_STREAMS; i++) {
        Stream *stream = &ahead->streams[i];

        if (stream->image == image)
            return stream;
        if (stream->noted_at < oldest->noted_at)
            oldest = stream;
    }
    oldest->image = image;
    oldest->ahead_until = 0;
    atomic_fetch_add_explicit(&oldest->n_takeovers, 1, memory_order_relaxed);
    return oldest;
}

/* The number of advancing streams. Under lock. */
static unsigned
count_streams(const ReadAhead *ahead)
{
    unsigned n = 0;

    for (unsigned i = 0; i < N_STREAMS; i++)
        n += ahead->streams[i].noted_at + MAX_STREAM_AGE > ahead->n_notes &&
             ahead->streams[i].noted_at > 0;
    return n;
}

/* The range that a reader at @end needs next. */
typedef struct {
    uint64_t start, end; /* guest offsets */
    Stream *stream;
    uint64_t n_takeovers;
} Window;

/* Claims the next window of @image; false: there is none. */
static bool
claim_window(ReadAhead *ahead, QimgImage *image, uint64_t end, uint64_t cluster_bytes,
             Window *out)
{
    QIMG_LOCK_SCOPE(&ahead->lock);
    Stream *stream = find_stream(ahead, image);
    uint64_t max_bytes = qimg_max_u64(MAX_WINDOW_BYTES, 2 * cluster_bytes);
    uint64_t window_bytes;

    stream->noted_at = ++ahead->n_notes;
    atomic_store_explicit(&stream->read_until, end, memory_order_relaxed);
    window_bytes = qimg_min_u64(max_bytes, ahead->chain->data_cache_bytes / 4 /
                                               count_streams(ahead));
    if (window_bytes < cluster_bytes)
        return false;
    out->stream = stream;
    out->n_takeovers = atomic_load_explicit(&stream->n_takeovers, memory_order_relaxed);
    out->end = qimg_min_u64(end + window_bytes, image_size_bytes(image));
    out->start = stream->ahead_until > end && stream->ahead_until <= end + max_bytes
                     ? stream->ahead_until
                     : end;
    if (out->start >= out->end)
        return false;
    stream->ahead_until = out->end;
    return true;
}

/* Records that @stream was queued only up to @until. */
static void
ahead_give_back(ReadAhead *ahead, const Window *window, uint64_t until)
{
    QIMG_LOCK_SCOPE(&ahead->lock);

    if (atomic_load_explicit(&window->stream->n_takeovers, memory_order_relaxed) ==
            window->n_takeovers &&
        window->stream->ahead_until == window->end)
        window->stream->ahead_until = until;
}

bool
read_ahead_is_sequential(const QimgImage *image, uint64_t guest_offset)
{
    return guest_offset != 0 &&
           guest_offset ==
               atomic_load_explicit(&image->next_sequential_offset, memory_order_relaxed);
}

void
read_ahead_note(QimgImage *image, uint64_t guest_offset, uint64_t length_bytes,
                uint64_t cluster_bytes)
{
    ReadAhead *ahead = image->chain->read_ahead;
    uint64_t end = guest_offset + length_bytes;
    /* Before any cluster is mapped. */
    uint64_t gate_epoch = qimg_gate_get_epoch(image->chain->gate);
    bool is_sequential = read_ahead_is_sequential(image, guest_offset);
    uint64_t until;
    Window window;

    atomic_store_explicit(&image->next_sequential_offset, end, memory_order_relaxed);
    if (!ahead || !is_sequential ||
        !claim_window(ahead, image, end, cluster_bytes, &window))
        return;
    until = inflate_range(image,
                          &(AheadJob){.stream = window.stream,
                                      .n_takeovers = window.n_takeovers,
                                      .gate_epoch = gate_epoch},
                          window.start, window.end);
    if (until < window.end)
        ahead_give_back(ahead, &window, until);
}
