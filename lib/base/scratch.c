/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Per-thread growing buffers; a pthread key frees them with the thread. */
#include "base/scratch.h"

#include <pthread.h>
#include <stdlib.h>

typedef struct {
    void *bytes[QIMG_N_SCRATCH_USES];
    size_t capacity_bytes[QIMG_N_SCRATCH_USES];
} ThreadScratch;

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Thread_local ThreadScratch *mine;

static void
thread_scratch_free(void *value)
{
    ThreadScratch *scratch = value;

    for (unsigned i = 0; i < QIMG_N_SCRATCH_USES; i++)
        free(scratch->bytes[i]);
    free(scratch);
    mine = NULL;
}

static void
scratch_make_key(void)
{
    if (pthread_key_create(&key, thread_scratch_free) != 0)
        abort();
}

static bool
ensure_thread_scratch(void)
{
    if (mine)
        return true;
    pthread_once(&once, scratch_make_key);
    mine = calloc(1, sizeof *mine);
    if (mine && pthread_setspecific(key, mine) != 0) {
        free(mine);
        mine = NULL;
    }
    return mine != NULL;
}

void *
qimg_scratch_get(QimgScratchUse use, size_t n_bytes)
{
    if (!ensure_thread_scratch())
        return NULL;
    if (mine->capacity_bytes[use] < n_bytes) {
        size_t capacity =
            (n_bytes + QIMG_SCRATCH_ALIGNMENT - 1) & ~(QIMG_SCRATCH_ALIGNMENT - 1);

        free(mine->bytes[use]);
        mine->bytes[use] = aligned_alloc(QIMG_SCRATCH_ALIGNMENT, capacity);
        mine->capacity_bytes[use] = mine->bytes[use] ? capacity : 0;
    }
    return mine->bytes[use];
}
