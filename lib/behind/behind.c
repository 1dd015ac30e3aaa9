/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The pending entries, by place, and the thread that publishes them in time. */

#include "behind/behind.h"

#include <glib.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/lock.h"
#include "base/workers.h"
#include "behind/log.h"

/* The limit of pending entries: 4 MiB. */
#define MAX_RECORDS (UINT64_C(1) << 17)
/* From this number on, publishing them is worth while. */
#define MANY_RECORDS (MAX_RECORDS / 4)
/* The maximal age of a pending entry. Also, two rounds are separated by a rest as long as
 * the last round, so that the disk has time for other work. */
#define MAX_AGE_NS (200 * 1000000)

#define MAX_READ_WORDS 512u

/* The limit of sectors remembered to have room. */
#define MAX_SECTORS 65536u

struct QimgBehind {
    QimgKeeper *keeper;      /* const; NULL: disables writing behind */
    QimgStorage *file;       /* const */
    QimgStorage *data_file;  /* const once started; may be NULL */
    _Atomic bool is_started; /* atomic: release, after all fields marked "const once
                                started" are set */
    BehindLog *log;          /* const once started */
    int log_fd;
    KeeperPlace place; /* const once started */
    pthread_t publisher;
    QimgMutex lock;      /* rank QIMG_RANK_BEHIND */
    QimgCond settled;    /* signalled when a round of publishing has ended */
    QimgCond added;      /* wakes the publisher */
    GHashTable *latest;  /* guarded by lock: the last pending record of each place */
    GHashTable *sectors; /* guarded by lock: numbers of sectors with room (B4) */
    bool is_publishing;  /* guarded by lock: serializes rounds */
    bool has_failed;     /* guarded by lock: the last round failed */
    bool ends;           /* guarded by lock */
    /* Atomic: number of pending records. Changes under lock. If a thread that has seen an
     * entry added reads 0, the entry is in the file. */
    _Atomic uint64_t n_waiting;
};

QimgBehind *
behind_new(QimgKeeper *keeper, QimgStorage *file)
{
    QimgBehind *b = g_new0(QimgBehind, 1);

    b->keeper = keeper;
    b->file = file;
    b->log_fd = -1;
    b->place = KEEPER_NOWHERE;
    qimg_mutex_init(&b->lock, QIMG_RANK_BEHIND);
    qimg_cond_init(&b->settled);
    qimg_cond_init(&b->added);
    /* A record begins with its place, which is the key. */
    b->latest = g_hash_table_new(g_int64_hash, g_int64_equal);
    b->sectors = g_hash_table_new(g_direct_hash, g_direct_equal);
    return b;
}

bool
behind_is_started(const QimgBehind *b)
{
    return b && atomic_load_explicit(&b->is_started, memory_order_acquire);
}

bool
behind_is_kept(const QimgBehind *b)
{
    return keeper_is_alive(b->keeper);
}

static uint64_t
n_waiting(const QimgBehind *b)
{
    /* Acquire: pairs with the release in end_round. */
    return atomic_load_explicit(&b->n_waiting, memory_order_acquire);
}

static void
set_n_waiting(QimgBehind *b)
{
    atomic_store_explicit(&b->n_waiting,
                          atomic_load(&b->log->n_appended) -
                              atomic_load(&b->log->n_published),
                          memory_order_release);
}

/* ---- publishing ---- */

/* BehindWrite. */
static QimgErrno
write_storage(void *user, uint64_t host_offset, const void *bytes, size_t n_bytes)
{
    return qimg_storage_write(user, QIMG_IO_L2, qimg_host(host_offset), bytes, n_bytes);
}

/* Syncs, then writes the records [@from, @to). Only one thread at a time does so. */
static QimgErrno
publish(QimgBehind *b, uint64_t from, uint64_t to)
{
    QimgErrno err = b->data_file ? qimg_storage_sync(b->data_file) : 0;

    if (!err)
        err = qimg_storage_sync(b->file);
    return err ? err : behind_log_write(b->log, from, to, write_storage, b->file);
}

/* Under lock. */
static void
end_round(QimgBehind *b, uint64_t from, uint64_t to, bool is_written)
{
    for (uint64_t number = from; is_written && number < to; number++) {
        BehindRecord *r = behind_log_at(b->log, number);

        if (g_hash_table_lookup(b->latest, r) == r)
            g_hash_table_remove(b->latest, r);
    }
    if (is_written)
        atomic_store(&b->log->n_published, to);
    set_n_waiting(b);
    b->is_publishing = false;
    b->has_failed = !is_written;
    qimg_cond_broadcast(&b->settled);
}

/* Runs one round. Under lock, which is released meanwhile. */
static QimgErrno
publish_round(QimgBehind *b)
{
    uint64_t from = atomic_load(&b->log->n_published);
    uint64_t to = atomic_load(&b->log->n_appended);
    QimgErrno err;

    b->is_publishing = true;
    qimg_mutex_unlock(&b->lock);
    err = publish(b, from, to);
    qimg_mutex_lock(&b->lock);
    end_round(b, from, to, err == 0);
    return err;
}

QimgErrno
behind_settle(QimgBehind *b, bool *has_synced_out)
{
    QimgErrno err = 0;
    uint64_t wanted;

    if (has_synced_out)
        *has_synced_out = false;
    if (!behind_is_started(b) || n_waiting(b) == 0)
        return 0;
    QIMG_LOCK_SCOPE(&b->lock);
    wanted = atomic_load(&b->log->n_appended);
    while (!err && atomic_load(&b->log->n_published) < wanted) {
        if (b->is_publishing) {
            qimg_cond_wait(&b->settled, &b->lock);
            continue;
        }
        err = publish_round(b);
        if (has_synced_out)
            *has_synced_out = err == 0;
    }
    return err;
}

static struct timespec
after_ns(int64_t n_ns)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += (t.tv_nsec + n_ns) / 1000000000;
    t.tv_nsec = (t.tv_nsec + n_ns) % 1000000000;
    return t;
}

/* Waits until an entry has been pending for long, or many are. Under lock. */
static void
wait_for_work(QimgBehind *b, int64_t age_ns)
{
    struct timespec deadline;

    while (!b->ends && n_waiting(b) == 0)
        qimg_cond_wait(&b->added, &b->lock);
    deadline = after_ns(age_ns);
    while (!b->ends && (n_waiting(b) < MANY_RECORDS || b->has_failed) &&
           qimg_cond_wait_until(&b->added, &b->lock, &deadline))
        ;
    while (!b->ends && b->is_publishing)
        qimg_cond_wait(&b->settled, &b->lock);
}

static void *
publish_forever(void *user)
{
    QimgBehind *b = user;
    int64_t age_ns = MAX_AGE_NS;
    QIMG_LOCK_SCOPE(&b->lock);

    while (!b->ends) {
        int64_t start_us;

        wait_for_work(b, age_ns);
        if (b->ends || n_waiting(b) == 0)
            continue;
        start_us = g_get_monotonic_time();
        /* The next flush meets a failure again. */
        (void)!publish_round(b);
        age_ns = MAX_AGE_NS + (g_get_monotonic_time() - start_us) * 1000;
    }
    return NULL;
}

/* ---- adding ---- */

static int
descriptor_of(const QimgStorage *storage)
{
    return storage->ops->get_fd ? storage->ops->get_fd(storage) : -1;
}

void
behind_start(QimgBehind *b, QimgStorage *data_file)
{
    g_assert(!behind_is_started(b));
    /* A storage that is never synced ends with the process. */
    if (!b || !b->keeper || !behind_is_kept(b) || !b->file->ops->sync)
        return;
    if (data_file && descriptor_of(data_file) < 0 && descriptor_of(b->file) >= 0)
        return;
    b->data_file = data_file;
    b->log_fd = memfd_create("qimg-behind", MFD_CLOEXEC);
    b->log = b->log_fd >= 0 ? behind_log_map_new(b->log_fd, MAX_RECORDS) : NULL;
    if (b->log)
        b->place = keeper_keep(b->keeper, b->log_fd, descriptor_of(b->file),
                               data_file ? descriptor_of(data_file) : -1);
    if (b->place == KEEPER_NOWHERE)
        return;
    if (qimg_thread_start(&b->publisher, publish_forever, b))
        atomic_store_explicit(&b->is_started, true, memory_order_release);
}

/* Whether any place in [@start, @end) is pending. Under lock. */
static bool
has_place_within(QimgBehind *b, uint64_t start, uint64_t end)
{
    GHashTableIter iter;
    void *key;

    g_hash_table_iter_init(&iter, b->latest);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        const BehindRecord *r = key;

        if (r->host_offset >= start && r->host_offset < end)
            return true;
    }
    return false;
}

bool
behind_covers(QimgBehind *b, uint64_t host_offset, uint64_t n_words, unsigned entry_words)
{
    if (!behind_is_started(b) || n_waiting(b) == 0)
        return false;
    QIMG_LOCK_SCOPE(&b->lock);
    if (g_hash_table_size(b->latest) < n_words / entry_words)
        return has_place_within(b, host_offset, host_offset + n_words * sizeof(uint64_t));
    for (uint64_t i = 0; i < n_words; i += entry_words) {
        uint64_t place = host_offset + i * sizeof(uint64_t);

        if (g_hash_table_contains(b->latest, &place))
            return true;
    }
    return false;
}

/* Whether the sector is known to have room; marks it as having room. */
static bool
take_note_of_sector(QimgBehind *b, uint64_t sector)
{
    QIMG_LOCK_SCOPE(&b->lock);

    if (g_hash_table_size(b->sectors) >= MAX_SECTORS && n_waiting(b) == 0)
        g_hash_table_remove_all(b->sectors);
    return !g_hash_table_add(b->sectors, GSIZE_TO_POINTER((gsize)sector));
}

static void
forget_sector(QimgBehind *b, uint64_t sector)
{
    QIMG_LOCK_SCOPE(&b->lock);

    g_hash_table_remove(b->sectors, GSIZE_TO_POINTER((gsize)sector));
}

/* Rewrites the file's present words, so that they are no hole (B4): the old words, if
 * none of them is pending. If one is, there is room already. */
static QimgErrno
make_room(QimgBehind *b, uint64_t host_offset, const uint64_t *old_words,
          uint64_t n_words, unsigned entry_words)
{
    uint64_t end = host_offset + n_words * sizeof *old_words;

    for (uint64_t at = host_offset, next; at < end; at = next) {
        uint64_t sector = at / QIMG_SECTOR_BYTES;
        QimgErrno err;

        next = qimg_min_u64((sector + 1) * QIMG_SECTOR_BYTES, end);
        if (take_note_of_sector(b, sector) ||
            behind_covers(b, at, (next - at) / sizeof *old_words, entry_words))
            continue;
        err = qimg_storage_write(b->file, QIMG_IO_L2, qimg_host(at),
                                 old_words + (at - host_offset) / sizeof *old_words,
                                 next - at);
        if (err) {
            forget_sector(b, sector);
            return err;
        }
    }
    return 0;
}

/* Waits until @n more records may be added. Under lock. */
static QimgErrno
wait_for_space(QimgBehind *b, uint64_t n)
{
    QimgErrno err = 0;

    while (!err && n_waiting(b) + n > MAX_RECORDS) {
        if (b->is_publishing)
            qimg_cond_wait(&b->settled, &b->lock);
        else
            err = publish_round(b);
    }
    return err;
}

/* Under lock. */
static void
append(QimgBehind *b, uint64_t host_offset, const uint64_t *words, uint64_t n_words,
       unsigned entry_words)
{
    uint64_t number = atomic_load(&b->log->n_appended);

    for (uint64_t i = 0; i < n_words; i += entry_words, number++) {
        BehindRecord *r = behind_log_at(b->log, number);

        r->host_offset = host_offset + i * sizeof *words;
        r->n_words = entry_words;
        memcpy(r->words, &words[i], entry_words * sizeof *words);
        g_hash_table_add(b->latest, r);
    }
    atomic_store(&b->log->n_appended, number);
}

QimgErrno
behind_add(QimgBehind *b, uint64_t host_offset, const uint64_t *words,
           const uint64_t *old_words, uint64_t n_words, unsigned entry_words)
{
    uint64_t n_before;
    QimgErrno err = make_room(b, host_offset, old_words, n_words, entry_words);

    if (err)
        return err;
    QIMG_LOCK_SCOPE(&b->lock);
    err = wait_for_space(b, n_words / entry_words);
    if (err)
        return err;
    n_before = n_waiting(b);
    append(b, host_offset, words, n_words, entry_words);
    set_n_waiting(b);
    if (n_before == 0 || (n_before < MANY_RECORDS && n_waiting(b) >= MANY_RECORDS))
        qimg_cond_signal(&b->added);
    return 0;
}

/* ---- reading ---- */

QimgErrno
behind_read(QimgBehind *b, QimgStorage *file, QimgIoPurpose purpose,
            QimgHostOffset host_offset, void *bytes, size_t n_bytes)
{
    struct {
        unsigned at;
        BehindRecord record;
    } found[MAX_READ_WORDS];
    unsigned n_found = 0;
    QimgErrno err;

    if (!behind_is_started(b) || n_waiting(b) == 0)
        return qimg_storage_read(file, purpose, host_offset, bytes, n_bytes);
    /* Look here first: an entry that is no longer pending when the file is read is in the
     * file. */
    qimg_mutex_lock(&b->lock);
    for (unsigned at = 0; at < n_bytes; at += sizeof(uint64_t)) {
        uint64_t place = host_offset.v + at;
        const BehindRecord *r = g_hash_table_lookup(b->latest, &place);

        if (r) {
            found[n_found].at = at;
            found[n_found++].record = *r;
        }
    }
    qimg_mutex_unlock(&b->lock);
    err = qimg_storage_read(file, purpose, host_offset, bytes, n_bytes);
    for (unsigned i = 0; !err && i < n_found; i++)
        memcpy((char *)bytes + found[i].at, found[i].record.words,
               found[i].record.n_words * sizeof(uint64_t));
    return err;
}

const BehindLog *
behind_get_log(const QimgBehind *b)
{
    return behind_is_started(b) ? b->log : NULL;
}

/* ---- the end ---- */

void
behind_free(QimgBehind *b)
{
    if (!b)
        return;
    if (behind_is_started(b)) {
        qimg_mutex_lock(&b->lock);
        b->ends = true;
        qimg_cond_broadcast(&b->added);
        qimg_cond_broadcast(&b->settled);
        qimg_mutex_unlock(&b->lock);
        pthread_join(b->publisher, NULL);
    }
    if (b->keeper)
        keeper_forget(b->keeper, b->place);
    behind_log_unmap(b->log);
    if (b->log_fd >= 0)
        close(b->log_fd);
    g_hash_table_destroy(b->latest);
    g_hash_table_destroy(b->sectors);
    qimg_cond_clear(&b->added);
    qimg_cond_clear(&b->settled);
    qimg_mutex_clear(&b->lock);
    g_free(b);
}
