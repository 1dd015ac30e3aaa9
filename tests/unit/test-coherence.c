/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuse/ops/coherence.c, without a kernel: the order of telling and answering, and that
 * the notifier never waits for itself. */
#include "ops/coherence.h"

#include <pthread.h>
#include <string.h>

#include "test-util.h"

#define FOLIO_BYTES (UINT64_C(2) << 20)
#define N_FOLIOS    4u
#define N_VIEWS     3u
#define N_THREADS   6u
#define N_ROUNDS    2000u

/* A request, instead of libfuse's. */
struct fuse_req {
    bool is_answered;
    unsigned answered_at;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
/* Guarded by lock: */
static unsigned n_events;                      /* answers and drops */
static unsigned dropped_at[N_VIEWS][N_FOLIOS]; /* the event; 0: never */
static unsigned first_drop_at[N_VIEWS];
static bool is_page_locked[N_VIEWS][N_FOLIOS]; /* by an unanswered write */
static bool locks_pages;                       /* whether drops wait for that */

static void
send_answer(struct fuse_req *req, int err, uint64_t value)
{
    (void)value;
    g_assert_cmpint(err, ==, 0);
    pthread_mutex_lock(&lock);
    g_assert_false(req->is_answered);
    req->is_answered = true;
    req->answered_at = ++n_events;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* CoherentDrop: as the kernel, waits for the locks on the pages. */
static void
drop(void *user, uint64_t inode, int64_t start, int64_t length)
{
    uint64_t end = MIN((uint64_t)start + (uint64_t)length, N_FOLIOS * FOLIO_BYTES);

    (void)user;
    pthread_mutex_lock(&lock);
    for (uint64_t f = (uint64_t)start / FOLIO_BYTES; f * FOLIO_BYTES < end; f++) {
        while (locks_pages && is_page_locked[inode][f])
            pthread_cond_wait(&changed, &lock);
        dropped_at[inode][f] = ++n_events;
        if (first_drop_at[inode] == 0)
            first_drop_at[inode] = n_events;
    }
    pthread_mutex_unlock(&lock);
}

static CoherentAnswer
answer_to(struct fuse_req *req)
{
    return (CoherentAnswer){.send = send_answer, .req = req};
}

static void
wait_for(const struct fuse_req *req)
{
    pthread_mutex_lock(&lock);
    while (!req->is_answered)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

/* Views of the whole disk: each is another file with the same bytes. */
static Coherence *
start(CoherentView *views[N_VIEWS])
{
    Coherence *c = coherence_new();

    n_events = 0;
    memset(dropped_at, 0, sizeof dropped_at);
    memset(first_drop_at, 0, sizeof first_drop_at);
    for (unsigned i = 0; i < N_VIEWS; i++)
        views[i] = coherence_get_view(c, 0, i, 0, UINT64_MAX);
    g_assert_true(views[1] == coherence_get_view(c, 0, 1, 0, UINT64_MAX));
    g_assert_true(coherence_start(c, drop, NULL));
    return c;
}

static void
finish(CoherentView *view, CoherentChange *change, struct fuse_req *req)
{
    const CoherentAnswer answer = answer_to(req);

    coherence_finish(view, change, 0, 512, &answer);
}

/* A sync is answered after the changes before it were told, even if a change behind it,
 * which touches one of them, is already pending. */
static void
test_sync_after_joined(void)
{
    CoherentView *views[N_VIEWS];
    Coherence *c = start(views);
    struct fuse_req first = {0}, early = {0}, sync = {0}, later = {0};
    const CoherentAnswer sync_answer = answer_to(&sync);
    CoherentChange *first_change = coherence_begin(views[1], 0, 512);
    CoherentChange *early_change = coherence_begin(views[0], 0, 512);
    CoherentChange *later_change;

    coherence_sync(views[1], &sync_answer);
    later_change = coherence_begin(views[0], 512, 512);
    finish(views[0], later_change, &later);
    g_assert_true(later.is_answered); /* both are early: answered first */
    finish(views[0], early_change, &early);
    g_assert_true(early.is_answered);
    finish(views[1], first_change, &first);
    wait_for(&first);
    wait_for(&sync);
    g_assert_cmpuint(first_drop_at[1], >, 0); /* of the early change */
    g_assert_cmpuint(sync.answered_at, >, first_drop_at[1]);
    coherence_stop(c);
    coherence_free(c);
}

/* A change that is not early is told before it is answered. */
static void
test_told_first(void)
{
    CoherentView *views[N_VIEWS];
    Coherence *c = start(views);
    struct fuse_req req = {0}, sync = {0};
    const CoherentAnswer sync_answer = answer_to(&sync);

    finish(views[0], coherence_begin(views[0], 0, 512), &req);
    wait_for(&req);
    for (unsigned i = 1; i < N_VIEWS; i++) {
        g_assert_cmpuint(dropped_at[i][0], >, 0);
        g_assert_cmpuint(dropped_at[i][0], <, req.answered_at);
    }
    g_assert_cmpuint(dropped_at[0][0], ==, 0);
    coherence_sync(views[0], &sync_answer); /* nothing is pending */
    g_assert_true(sync.is_answered);
    coherence_stop(c);
    coherence_free(c);
}

/* Alone, or after the end, all changes are answered at once. */
static void
test_at_once(void)
{
    Coherence *c = coherence_new();
    CoherentView *alone = coherence_get_view(c, 7, 0, 0, UINT64_MAX);
    CoherentView *views[2] = {coherence_get_view(c, 8, 1, 0, UINT64_MAX),
                              coherence_get_view(c, 8, 2, 4096, 512)};
    struct fuse_req reqs[3] = {0};
    CoherentChange *change;

    g_assert_null(coherence_begin(alone, 0, 512));
    finish(alone, NULL, &reqs[0]);
    finish(NULL, NULL, &reqs[1]);
    change = coherence_begin(views[0], 0, 512);
    g_assert_nonnull(change);
    g_assert_true(coherence_start(c, drop, NULL));
    coherence_stop(c);
    coherence_stop(c);
    finish(views[0], change, &reqs[2]);
    for (unsigned i = 0; i < G_N_ELEMENTS(reqs); i++)
        g_assert_true(reqs[i].is_answered);
    coherence_free(c);
}

/* ---- many threads ---- */

static CoherentView *shared_views[N_VIEWS];
static uint32_t seed;

static void
lock_page(unsigned view, unsigned folio)
{
    pthread_mutex_lock(&lock);
    while (is_page_locked[view][folio])
        pthread_cond_wait(&changed, &lock);
    is_page_locked[view][folio] = true;
    pthread_mutex_unlock(&lock);
}

static void
unlock_page(unsigned view, unsigned folio)
{
    pthread_mutex_lock(&lock);
    is_page_locked[view][folio] = false;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* A write that the kernel sends with its page locked, then a sync. */
static void
write_and_sync(GRand *rand, unsigned view)
{
    unsigned folio = (unsigned)g_rand_int_range(rand, 0, N_FOLIOS);
    uint64_t at = folio * FOLIO_BYTES;
    struct fuse_req written = {0}, synced = {0};
    const CoherentAnswer answer = answer_to(&written), sync_answer = answer_to(&synced);
    CoherentChange *change = NULL;
    unsigned made_at;

    lock_page(view, folio);
    if (g_rand_int_range(rand, 0, 4) > 0) /* else as from a mapping's page */
        change = coherence_begin(shared_views[view], at, 4096);
    pthread_mutex_lock(&lock);
    made_at = n_events;
    pthread_mutex_unlock(&lock);
    coherence_finish(shared_views[view], change, at, 4096, &answer);
    wait_for(&written);
    unlock_page(view, folio);
    coherence_sync(shared_views[(view + 1) % N_VIEWS], &sync_answer);
    wait_for(&synced);
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < N_VIEWS; i++)
        if (i != view)
            g_assert_cmpuint(dropped_at[i][folio], >, made_at);
    pthread_mutex_unlock(&lock);
}

static void *
run_writer(void *user)
{
    unsigned number = GPOINTER_TO_UINT(user);
    GRand *rand = g_rand_new_with_seed(seed + number);

    for (unsigned i = 0; i < N_ROUNDS; i++)
        write_and_sync(rand, number % N_VIEWS);
    g_rand_free(rand);
    return NULL;
}

static void
test_threads(void)
{
    Coherence *c = start(shared_views);
    pthread_t threads[N_THREADS];

    seed = test_util_seed();
    locks_pages = true;
    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_create(&threads[i], NULL, run_writer, GUINT_TO_POINTER(i));
    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    locks_pages = false;
    coherence_stop(c);
    coherence_free(c);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/coherence/sync-after-joined", test_sync_after_joined);
    g_test_add_func("/coherence/told-first", test_told_first);
    g_test_add_func("/coherence/at-once", test_at_once);
    g_test_add_func("/coherence/threads", test_threads);
    return g_test_run();
}
