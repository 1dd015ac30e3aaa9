/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One mutex guards the faults, and the bytes of a writable storage, which no call reads
 * without it; those of a read-only one never change after new, only their number does. */
#include "memory-storage.h"

#include <errno.h>
#include <glib.h>
#include <pthread.h>
#include <string.h>

#include "sparse-bytes.h"

#define MAX_FAULTS 16u

typedef struct {
    unsigned n_until; /* reads that still succeed */
    unsigned n_fails; /* reads that fail then */
    int errnum;
    bool is_blocked;
} Faults;

typedef struct {
    QimgStorage storage;
    uint8_t *bytes; /* const; NULL in a writable storage */
    size_t n_bytes; /* guarded by lock; of them */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    SparseBytes *pages;                /* guarded by lock; NULL in a read-only storage */
    Faults faults[QIMG_N_IO_PURPOSES]; /* guarded by lock */
    MemoryFault rules[MAX_FAULTS];     /* guarded by lock; counted down */
    unsigned n_rules;                  /* guarded by lock */
    MemoryCalls blocked_calls;         /* guarded by lock */
    QimgIoPurpose blocked_purpose;     /* guarded by lock */
    uint64_t n_calls[6];               /* guarded by lock; by bit of MemoryCalls */
    size_t max_read_bytes;             /* guarded by lock; 0: no limit */
    size_t max_write_bytes;            /* guarded by lock; 0: no limit */
    unsigned n_blocked;                /* guarded by lock */
} MemoryStorage;

static bool
is_blocked(const MemoryStorage *memory, MemoryCalls call, QimgIoPurpose purpose)
{
    if (call == MEMORY_READ && memory->faults[purpose].is_blocked)
        return true;
    return (memory->blocked_calls & call) != 0 &&
           (memory->blocked_purpose == MEMORY_ANY_PURPOSE ||
            memory->blocked_purpose == purpose);
}

/* Counts the call against the rule; whether the rule hits it. */
static bool
is_hit(MemoryFault *rule, MemoryCalls call, QimgIoPurpose purpose)
{
    if (!(rule->calls & call) ||
        (rule->purpose != MEMORY_ANY_PURPOSE && rule->purpose != purpose))
        return false;
    if (rule->n_until > 0) {
        rule->n_until--;
        return false;
    }
    if (rule->n_fails == 0)
        return false;
    if (rule->n_fails != UINT64_MAX)
        rule->n_fails--;
    return true;
}

/* 0, or the errno with which this call fails. Reduces *@n_bytes for a call that is cut
 * short. Under lock, which is released while the call is blocked. */
static int
meet_faults(MemoryStorage *memory, MemoryCalls call, QimgIoPurpose purpose,
            size_t *n_bytes)
{
    const MemoryFault *hit = NULL;
    MemoryFault rule;

    memory->n_calls[__builtin_ctz(call)]++;
    if (is_blocked(memory, call, purpose)) {
        memory->n_blocked++;
        pthread_cond_broadcast(&memory->changed);
        while (is_blocked(memory, call, purpose))
            pthread_cond_wait(&memory->changed, &memory->lock);
        memory->n_blocked--;
    }
    for (unsigned i = 0; i < memory->n_rules; i++) {
        if (is_hit(&memory->rules[i], call, purpose) && !hit) {
            rule = memory->rules[i];
            hit = &rule;
        }
    }
    if (call == MEMORY_READ) {
        Faults *faults = &memory->faults[purpose];

        if (memory->max_read_bytes > 0)
            *n_bytes = MIN(*n_bytes, memory->max_read_bytes);
        if (faults->n_until > 0) {
            faults->n_until--;
        } else if (faults->n_fails > 0) {
            faults->n_fails--;
            return faults->errnum;
        }
    }
    if (call == MEMORY_WRITE && memory->max_write_bytes > 0)
        *n_bytes = MIN(*n_bytes, memory->max_write_bytes);
    if (!hit)
        return 0;
    if (hit->n_bytes_before > 0 && n_bytes) {
        *n_bytes = MIN(*n_bytes, hit->n_bytes_before);
        return 0;
    }
    return hit->errnum;
}

static ssize_t
read_locked(MemoryStorage *memory, QimgIoPurpose purpose, uint64_t file_offset,
            void *buffer, size_t n_bytes)
{
    int errnum = meet_faults(memory, MEMORY_READ, purpose, &n_bytes);
    uint64_t size_bytes =
        memory->pages ? sparse_bytes_size(memory->pages) : memory->n_bytes;

    if (errnum)
        return -errnum;
    if (file_offset >= size_bytes)
        return 0;
    n_bytes = MIN(n_bytes, size_bytes - file_offset);
    if (memory->pages)
        sparse_bytes_read(memory->pages, file_offset, buffer, n_bytes);
    else
        memcpy(buffer, memory->bytes + file_offset, n_bytes);
    return (ssize_t)n_bytes;
}

static ssize_t
memory_pread(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
             void *buffer, size_t n_bytes)
{
    MemoryStorage *memory = (MemoryStorage *)storage;
    ssize_t got;

    pthread_mutex_lock(&memory->lock);
    got = read_locked(memory, purpose, file_offset, buffer, n_bytes);
    pthread_mutex_unlock(&memory->lock);
    return got;
}

static QimgErrno
memory_get_size(QimgStorage *storage, uint64_t *size_bytes_out)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_mutex_lock(&memory->lock);
    *size_bytes_out = memory->pages ? sparse_bytes_size(memory->pages) : memory->n_bytes;
    pthread_mutex_unlock(&memory->lock);
    return 0;
}

static ssize_t
write_locked(MemoryStorage *memory, QimgIoPurpose purpose, uint64_t file_offset,
             const struct iovec *parts, int n_parts)
{
    size_t n_left = 0, done = 0;
    int errnum;

    for (int i = 0; i < n_parts; i++)
        n_left += parts[i].iov_len;
    errnum = meet_faults(memory, MEMORY_WRITE, purpose, &n_left);
    if (errnum)
        return -errnum;
    for (int i = 0; i < n_parts && n_left > 0; i++) {
        size_t n = MIN(parts[i].iov_len, n_left);
        size_t put =
            sparse_bytes_write(memory->pages, file_offset + done, parts[i].iov_base, n);

        done += put;
        n_left -= n;
        if (put < n)
            return done > 0 ? (ssize_t)done : -ENOSPC;
    }
    return (ssize_t)done;
}

static ssize_t
memory_pwritev(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
               const struct iovec *parts, int n_parts)
{
    MemoryStorage *memory = (MemoryStorage *)storage;
    ssize_t put;

    pthread_mutex_lock(&memory->lock);
    put = write_locked(memory, purpose, file_offset, parts, n_parts);
    pthread_mutex_unlock(&memory->lock);
    return put;
}

static QimgErrno
memory_sync(QimgStorage *storage)
{
    MemoryStorage *memory = (MemoryStorage *)storage;
    int errnum;

    pthread_mutex_lock(&memory->lock);
    errnum = meet_faults(memory, MEMORY_SYNC, MEMORY_ANY_PURPOSE, NULL);
    pthread_mutex_unlock(&memory->lock);
    return -errnum;
}

static QimgErrno
memory_punch(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
             uint64_t n_bytes)
{
    MemoryStorage *memory = (MemoryStorage *)storage;
    int errnum;

    pthread_mutex_lock(&memory->lock);
    errnum = meet_faults(memory, MEMORY_PUNCH, purpose, NULL);
    if (storage->punch_unit_bytes &&
        (file_offset | n_bytes) % storage->punch_unit_bytes != 0)
        errnum = EINVAL; /* as a device */
    if (!errnum)
        sparse_bytes_punch(memory->pages, file_offset, n_bytes);
    pthread_mutex_unlock(&memory->lock);
    return -errnum;
}

static QimgErrno
memory_allocate(QimgStorage *storage, uint64_t file_offset, uint64_t n_bytes)
{
    MemoryStorage *memory = (MemoryStorage *)storage;
    int errnum;

    pthread_mutex_lock(&memory->lock);
    errnum = meet_faults(memory, MEMORY_ALLOCATE, MEMORY_ANY_PURPOSE, NULL);
    if (!errnum && !sparse_bytes_allocate(memory->pages, file_offset, n_bytes))
        errnum = ENOSPC;
    pthread_mutex_unlock(&memory->lock);
    return -errnum;
}

static QimgErrno
memory_set_size(QimgStorage *storage, uint64_t size_bytes)
{
    MemoryStorage *memory = (MemoryStorage *)storage;
    int errnum;

    pthread_mutex_lock(&memory->lock);
    errnum = meet_faults(memory, MEMORY_SET_SIZE, MEMORY_ANY_PURPOSE, NULL);
    if (!errnum)
        sparse_bytes_set_size(memory->pages, size_bytes);
    pthread_mutex_unlock(&memory->lock);
    return -errnum;
}

static void
memory_close(QimgStorage *storage)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_cond_destroy(&memory->changed);
    pthread_mutex_destroy(&memory->lock);
    sparse_bytes_free(memory->pages);
    g_free(memory->bytes);
    g_free(memory);
}

static const QimgStorageOps memory_ops = {
    .pread = memory_pread,
    .get_size = memory_get_size,
    .close = memory_close,
};

static const QimgStorageOps writable_ops = {
    .pread = memory_pread,
    .get_size = memory_get_size,
    .pwritev = memory_pwritev,
    .sync = memory_sync,
    .punch = memory_punch,
    .allocate = memory_allocate,
    .set_size = memory_set_size,
    .close = memory_close,
};

static MemoryStorage *
new_memory(const QimgStorageOps *ops, const char *path, size_t n_bytes)
{
    MemoryStorage *memory = g_new0(MemoryStorage, 1);

    qimg_storage_init(&memory->storage, ops, path, n_bytes);
    pthread_mutex_init(&memory->lock, NULL);
    pthread_cond_init(&memory->changed, NULL);
    return memory;
}

QimgStorage *
memory_storage_new(const void *bytes, size_t n_bytes, const char *path)
{
    MemoryStorage *memory = new_memory(&memory_ops, path, n_bytes);

    /* Exact size, so that a sanitizer sees a read beyond it. */
    memory->bytes = g_memdup2(bytes, n_bytes);
    memory->n_bytes = n_bytes;
    return &memory->storage;
}

QimgStorage *
memory_storage_new_writable(const void *bytes, size_t n_bytes, const char *path)
{
    MemoryStorage *memory = new_memory(&writable_ops, path, n_bytes);

    memory->pages = sparse_bytes_new(n_bytes);
    sparse_bytes_write(memory->pages, 0, bytes, n_bytes);
    return &memory->storage;
}

void
memory_storage_cut(QimgStorage *storage, size_t n_bytes)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_mutex_lock(&memory->lock);
    if (memory->pages)
        sparse_bytes_set_size(memory->pages, n_bytes);
    else
        memory->n_bytes = MIN(n_bytes, memory->n_bytes);
    pthread_mutex_unlock(&memory->lock);
}

void
memory_storage_set_capacity(QimgStorage *storage, uint64_t n_bytes)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_mutex_lock(&memory->lock);
    sparse_bytes_set_capacity(memory->pages, n_bytes);
    pthread_mutex_unlock(&memory->lock);
}

uint64_t
memory_storage_used(QimgStorage *storage)
{
    MemoryStorage *memory = (MemoryStorage *)storage;
    uint64_t n_bytes;

    pthread_mutex_lock(&memory->lock);
    n_bytes = sparse_bytes_used(memory->pages);
    pthread_mutex_unlock(&memory->lock);
    return n_bytes;
}

void
memory_storage_copy(QimgStorage *storage, uint64_t file_offset, void *buffer,
                    size_t n_bytes)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_mutex_lock(&memory->lock);
    sparse_bytes_read(memory->pages, file_offset, buffer, n_bytes);
    pthread_mutex_unlock(&memory->lock);
}

GByteArray *
memory_storage_copy_all(QimgStorage *storage)
{
    MemoryStorage *memory = (MemoryStorage *)storage;
    GByteArray *bytes = g_byte_array_new();

    pthread_mutex_lock(&memory->lock);
    g_byte_array_set_size(bytes, (guint)sparse_bytes_size(memory->pages));
    sparse_bytes_read(memory->pages, 0, bytes->data, bytes->len);
    pthread_mutex_unlock(&memory->lock);
    return bytes;
}

void
memory_storage_add_fault(QimgStorage *storage, const MemoryFault *fault)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_mutex_lock(&memory->lock);
    g_assert(memory->n_rules < MAX_FAULTS);
    memory->rules[memory->n_rules++] = *fault;
    pthread_mutex_unlock(&memory->lock);
}

void
memory_storage_clear_faults(QimgStorage *storage)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_mutex_lock(&memory->lock);
    memory->n_rules = 0;
    for (unsigned i = 0; i < QIMG_N_IO_PURPOSES; i++)
        memory->faults[i].n_until = memory->faults[i].n_fails = 0;
    pthread_mutex_unlock(&memory->lock);
}

uint64_t
memory_storage_n_calls(QimgStorage *storage, MemoryCalls calls)
{
    MemoryStorage *memory = (MemoryStorage *)storage;
    uint64_t n = 0;

    pthread_mutex_lock(&memory->lock);
    for (unsigned i = 0; i < G_N_ELEMENTS(memory->n_calls); i++)
        if (calls & (1 << i))
            n += memory->n_calls[i];
    pthread_mutex_unlock(&memory->lock);
    return n;
}

void
memory_storage_fail(QimgStorage *storage, QimgIoPurpose purpose, unsigned first,
                    unsigned n_fails, int errnum)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_mutex_lock(&memory->lock);
    memory->faults[purpose].n_until = first;
    memory->faults[purpose].n_fails = n_fails;
    memory->faults[purpose].errnum = errnum;
    pthread_mutex_unlock(&memory->lock);
}

void
memory_storage_limit(QimgStorage *storage, size_t n_bytes)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_mutex_lock(&memory->lock);
    memory->max_read_bytes = n_bytes;
    pthread_mutex_unlock(&memory->lock);
}

void
memory_storage_limit_writes(QimgStorage *storage, size_t n_bytes)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_mutex_lock(&memory->lock);
    memory->max_write_bytes = n_bytes;
    pthread_mutex_unlock(&memory->lock);
}

void
memory_storage_block(QimgStorage *storage, QimgIoPurpose purpose)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_mutex_lock(&memory->lock);
    memory->faults[purpose].is_blocked = true;
    pthread_mutex_unlock(&memory->lock);
}

void
memory_storage_block_calls(QimgStorage *storage, MemoryCalls calls, QimgIoPurpose purpose)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_mutex_lock(&memory->lock);
    memory->blocked_calls = calls;
    memory->blocked_purpose = purpose;
    pthread_mutex_unlock(&memory->lock);
}

void
memory_storage_wait_blocked(QimgStorage *storage, unsigned n_calls)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_mutex_lock(&memory->lock);
    while (memory->n_blocked < n_calls)
        pthread_cond_wait(&memory->changed, &memory->lock);
    pthread_mutex_unlock(&memory->lock);
}

void
memory_storage_release(QimgStorage *storage)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_mutex_lock(&memory->lock);
    for (unsigned i = 0; i < QIMG_N_IO_PURPOSES; i++)
        memory->faults[i].is_blocked = false;
    memory->blocked_calls = 0;
    pthread_cond_broadcast(&memory->changed);
    pthread_mutex_unlock(&memory->lock);
}
