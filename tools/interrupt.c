/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "interrupt.h"

#include <glib.h>
#include <signal.h>
#include <stddef.h>

/* Set before the handlers are installed, read by them. */
static void (*stop_task)(void *user);
static void *stop_user;
static volatile sig_atomic_t is_asked;

static void
on_signal(int signal_number)
{
    (void)signal_number;
    is_asked = 1;
    if (stop_task)
        stop_task(stop_user);
}

static void
set_handlers(const struct sigaction *action)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

    for (size_t i = 0; i < G_N_ELEMENTS(signals); i++) {
        struct sigaction old;

        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(signals[i], action, NULL);
    }
}

void
interrupt_begin(void (*stop)(void *user), void *user)
{
    const struct sigaction action = {.sa_handler = on_signal,
                                     .sa_flags = (int)SA_RESETHAND};

    stop_task = stop;
    stop_user = user;
    is_asked = 0;
    set_handlers(&action);
}

bool
interrupt_is_asked(void)
{
    return is_asked;
}

void
interrupt_end(void)
{
    const struct sigaction action = {.sa_handler = SIG_DFL};

    set_handlers(&action);
}
