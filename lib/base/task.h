/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A long call's caller, who is told how far it is and may end it. */
#pragma once

#include <errno.h>

#include "base/types.h"
#include "qimg.h"

typedef struct {
    QimgProgress tell; /* NULL: not wanted */
    void *user;
} QimgTask;

/* Tells that @done of @total units are done; @task may be NULL. Returns 0, or -ECANCELED
 * where the caller wants no more. In the thread of the call, without a lock that requests
 * take. */
static inline QimgErrno QIMG_MUST_CHECK
qimg_task_step(const QimgTask *task, uint64_t done, uint64_t total)
{
    if (!task || !task->tell || task->tell(done, total, task->user))
        return 0;
    return -ECANCELED;
}
