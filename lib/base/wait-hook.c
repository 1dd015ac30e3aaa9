/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/wait-hook.h"

#include <stddef.h>

static _Thread_local const QimgWaitHook *my_hook;
static _Thread_local unsigned my_depth; /* of waits inside waits */
static _Thread_local QimgWaitRefusal *my_refusal;

void
qimg_wait_hook_set(const QimgWaitHook *hook)
{
    my_hook = hook;
}

void
qimg_wait_begin(void)
{
    if (my_depth++ == 0 && my_hook)
        my_hook->begin(my_hook->user);
}

void
qimg_wait_end(void)
{
    if (--my_depth == 0 && my_hook)
        my_hook->end(my_hook->user);
}

void
qimg_wait_refuse(QimgWaitRefusal *refusal)
{
    my_refusal = refusal;
}

QimgWaitRefusal *
qimg_wait_get_refusal(void)
{
    return my_refusal;
}
