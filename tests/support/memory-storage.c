/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One mutex guards the faults; the bytes never change after new. */
#include "memory-storage.h"

#include <errno.h>
#include <glib.h>
#include <pthread.h>

typedef struct {
    unsigned n_until; /* reads that still succeed */
    unsigned n_fails; /* reads that fail then */
    int errnum;
    bool is_blocked;
} Faults;

typedef struct {
    QimgStorage storage;
    uint8_t *bytes; /* const */
    size_t n_bytes; /* const */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    Faults faults[QIMG_N_IO_PURPOSES]; /* guarded by lock */
    size_t max_read_bytes;             /* guarded by lock; 0: no limit */
    unsigned n_blocked;                /* guarded by lock */
} MemoryStorage;

/* 0, or the errno that this read fails with. */
static int
meet_faults(MemoryStorage *memory, QimgIoPurpose purpose, size_t *n_bytes)
{
    Faults *faults = &memory->faults[purpose];
    int errnum = 0;

    pthread_mutex_lock(&memory->lock);
    if (faults->is_blocked) {
        memory->n_blocked++;
        pthread_cond_broadcast(&memory->changed);
        while (faults->is_blocked)
            pthread_cond_wait(&memory->changed, &memory->lock);
        memory->n_blocked--;
    }
    if (faults->n_until > 0) {
        faults->n_until--;
    } else if (faults->n_fails > 0) {
        faults->n_fails--;
        errnum = faults->errnum;
    }
    if (memory->max_read_bytes > 0)
        *n_bytes = MIN(*n_bytes, memory->max_read_bytes);
    pthread_mutex_unlock(&memory->lock);
    return errnum;
}

static ssize_t
memory_pread(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
             void *buffer, size_t n_bytes)
{
    MemoryStorage *memory = (MemoryStorage *)storage;
    int errnum = meet_faults(memory, purpose, &n_bytes);

    if (errnum)
        return -errnum;
    if (file_offset >= memory->n_bytes)
        return 0;
    n_bytes = MIN(n_bytes, memory->n_bytes - file_offset);
    memcpy(buffer, memory->bytes + file_offset, n_bytes);
    return (ssize_t)n_bytes;
}

static QimgErrno
memory_get_size(QimgStorage *storage, uint64_t *size_bytes_out)
{
    *size_bytes_out = ((MemoryStorage *)storage)->n_bytes;
    return 0;
}

static void
memory_close(QimgStorage *storage)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_cond_destroy(&memory->changed);
    pthread_mutex_destroy(&memory->lock);
    g_free(memory->bytes);
    g_free(memory);
}

static const QimgStorageOps memory_ops = {
    .pread = memory_pread,
    .get_size = memory_get_size,
    .close = memory_close,
};

QimgStorage *
memory_storage_new(const void *bytes, size_t n_bytes, const char *path)
{
    MemoryStorage *memory = g_new0(MemoryStorage, 1);

    qimg_storage_init(&memory->storage, &memory_ops, path);
    /* Exactly as long, so that a sanitizer sees a read beyond it. */
    memory->bytes = g_memdup2(bytes, n_bytes);
    memory->n_bytes = n_bytes;
    pthread_mutex_init(&memory->lock, NULL);
    pthread_cond_init(&memory->changed, NULL);
    return &memory->storage;
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
memory_storage_block(QimgStorage *storage, QimgIoPurpose purpose)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_mutex_lock(&memory->lock);
    memory->faults[purpose].is_blocked = true;
    pthread_mutex_unlock(&memory->lock);
}

void
memory_storage_wait_blocked(QimgStorage *storage, unsigned n_readers)
{
    MemoryStorage *memory = (MemoryStorage *)storage;

    pthread_mutex_lock(&memory->lock);
    while (memory->n_blocked < n_readers)
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
    pthread_cond_broadcast(&memory->changed);
    pthread_mutex_unlock(&memory->lock);
}
