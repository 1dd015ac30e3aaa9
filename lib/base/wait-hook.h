/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a thread does before and after it waits: for a disk, or, in qimg_cond_wait, for
 * another thread, which may. A front end whose threads answer requests has others take
 * over meanwhile. */
#pragma once

typedef struct {
    /* Before a wait, and after it. Locks may be held: these functions are short, and
     * take none but one of rank SERVERS. */
    void (*begin)(void *user);
    void (*end)(void *user);
    void *user;
} QimgWaitHook;

/* Makes @hook the one of the calling thread, which has none at first. It must stay until
 * the thread ends or sets another. NULL: none. */
void qimg_wait_hook_set(const QimgWaitHook *hook);

/* Tells the calling thread's hook of a wait. Of waits inside a wait, only the outermost
 * one is told. Threads: any; each begin has its end in the same thread. */
void qimg_wait_begin(void);
void qimg_wait_end(void);
