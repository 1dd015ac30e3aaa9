/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The progress callback of a long call, which may also cancel the call. */
#pragma once

#include <errno.h>

#include "base/types.h"
#include "qimg.h"

typedef struct {
    QimgProgress tell; /* NULL: none */
    void *user;
} QimgTask;

/* Reports that @done of @total units are done; @task may be NULL. Returns 0, or
 * -ECANCELED if the caller cancels. Call in the thread of the call, without a lock that
 * requests take. */
static inline QimgErrno QIMG_MUST_CHECK
qimg_task_step(const QimgTask *task, uint64_t done, uint64_t total)
{
    if (!task || !task->tell || task->tell(done, total, task->user))
        return 0;
    return -ECANCELED;
}
