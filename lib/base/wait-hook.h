/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The hook that a thread calls before and after it waits: for a disk, or, in
 * qimg_cond_wait, for another thread, which may in turn wait for a disk. A front end uses
 * it to have other serving threads take over meanwhile. */
#pragma once

#include <stdbool.h>

#include "qimg.h"

typedef struct {
    /* Called before and after a wait. Locks may be held: these functions are short, and
     * take only a lock of rank SERVERS. */
    void (*begin)(void *user);
    void (*end)(void *user);
    void *user;
} QimgWaitHook;

/* Sets the calling thread's hook, initially none. @hook must live until the thread ends
 * or sets another. NULL: none. */
void qimg_wait_hook_set(const QimgWaitHook *hook);

/* Report a wait to the calling thread's hook. Of nested waits, only the outermost is
 * reported. Threads: any; each begin has its end in the same thread. */
void qimg_wait_begin(void);
void qimg_wait_end(void);

/* Reads of guest data that refuse to wait for a disk. */
typedef struct {
    bool is_expected;    /* in: such a read does not even try */
    bool is_refused;     /* out: it has failed with -EAGAIN, */
    QimgReadPlace place; /* out: because of these bytes */
} QimgWaitRefusal;

/* From now on, the calling thread's reads that would wait fail, by @refusal. NULL: they
 * wait again. */
void qimg_wait_refuse(QimgWaitRefusal *refusal);

/* The calling thread's current one; NULL: it waits. */
QimgWaitRefusal *qimg_wait_get_refusal(void);
