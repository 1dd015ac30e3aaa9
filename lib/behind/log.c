/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ring of records. */
#include "behind/log.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"

/* The limit of words written at once. */
#define MAX_RUN_WORDS 512u

size_t
behind_log_bytes(uint64_t n_records)
{
    return sizeof(BehindLog) + n_records * sizeof(BehindRecord);
}

BehindLog *
behind_log_map_new(int fd, uint64_t n_records)
{
    size_t n_bytes = behind_log_bytes(n_records);
    BehindLog *log;

    if (ftruncate(fd, (off_t)n_bytes) < 0)
        return NULL;
    log = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (log == MAP_FAILED)
        return NULL;
    log->n_records = n_records;
    return log;
}

const BehindLog *
behind_log_map(int fd)
{
    struct stat status;
    const BehindLog *log;

    if (fstat(fd, &status) < 0 || status.st_size < (off_t)behind_log_bytes(1))
        return NULL;
    log = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (log == MAP_FAILED)
        return NULL;
    if (log->n_records > 0 && log->n_records < UINT32_MAX &&
        behind_log_bytes(log->n_records) == (uint64_t)status.st_size)
        return log;
    munmap((void *)log, (size_t)status.st_size);
    return NULL;
}

void
behind_log_unmap(const BehindLog *log)
{
    if (log)
        munmap((void *)log, behind_log_bytes(log->n_records));
}

QimgErrno
behind_log_write(const BehindLog *log, uint64_t from, uint64_t to, BehindWrite write,
                 void *user)
{
    uint64_t run[MAX_RUN_WORDS];
    uint64_t run_offset = 0, n_run = 0;
    QimgErrno err = 0;

    for (uint64_t number = from; number < to; number++) {
        const BehindRecord *r = &log->records[number % log->n_records];
        uint64_t n_words = qimg_min_u64(r->n_words, BEHIND_MAX_RECORD_WORDS);

        if (n_run > 0 && (n_run + n_words > MAX_RUN_WORDS ||
                          r->host_offset != run_offset + n_run * sizeof *run)) {
            err = write(user, run_offset, run, n_run * sizeof *run);
            if (err)
                return err;
            n_run = 0;
        }
        if (n_run == 0)
            run_offset = r->host_offset;
        memcpy(&run[n_run], r->words, n_words * sizeof *run);
        n_run += n_words;
    }
    return n_run > 0 ? write(user, run_offset, run, n_run * sizeof *run) : 0;
}
