/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The progress line: share, amount, rate and time left. */
#include "progress.h"

#include "output.h"

#include <stdio.h>
#include <unistd.h>

#include "interrupt.h"

#define REDRAW_US (G_USEC_PER_SEC / 10)
/* A rate measured over a shorter time is a guess. */
#define SETTLED_US G_USEC_PER_SEC

static struct {
    const char *what;
    bool in_bytes;
    uint64_t first_done; /* not done by this run: excluded from its rate */
    bool has_first;
    bool is_shown; /* standard error is a terminal */
    gint64 begin_us;
    gint64 drawn_us; /* 0: never */
} progress;

void
progress_begin(const char *what, bool in_bytes, bool is_quiet)
{
    progress.what = what;
    progress.in_bytes = in_bytes;
    progress.has_first = false;
    progress.is_shown = !is_quiet && isatty(STDERR_FILENO) == 1;
    progress.begin_us = g_get_monotonic_time();
    progress.drawn_us = 0;
}

/* Whether the line may be drawn again. */
static bool
is_due(gint64 now_us)
{
    if (!progress.is_shown ||
        (progress.drawn_us && now_us - progress.drawn_us < REDRAW_US))
        return false;
    progress.drawn_us = now_us;
    return true;
}

static void
draw_amount(uint64_t done, uint64_t total, gint64 elapsed_us)
{
    g_autofree char *done_text = output_short_size(done);
    g_autofree char *total_text = output_short_size(total);

    fprintf(stderr, ", %s of %s", done_text, total_text);
    if (elapsed_us >= SETTLED_US && done > progress.first_done) {
        double rate =
            (double)(done - progress.first_done) * G_USEC_PER_SEC / (double)elapsed_us;
        guint64 left_s = (guint64)((double)(total - MIN(done, total)) / rate);
        g_autofree char *rate_text = output_short_size((guint64)rate);

        fprintf(stderr, ", %s/s, %" G_GUINT64_FORMAT ":%02u:%02u left", rate_text,
                left_s / 3600, (unsigned)(left_s / 60 % 60), (unsigned)(left_s % 60));
    }
}

gboolean
progress_update(uint64_t done, uint64_t total, void *user)
{
    gint64 now_us = g_get_monotonic_time();

    (void)user;
    if (!progress.has_first)
        progress.first_done = done;
    progress.has_first = true;
    if (is_due(now_us)) {
        fprintf(stderr, "\r%s: %5.1f %%", progress.what,
                total ? 100 * (double)done / (double)total : 100.0);
        if (progress.in_bytes)
            draw_amount(done, total, now_us - progress.begin_us);
        fprintf(stderr, "\033[K"); /* erases the rest of the previous, longer line */
    }
    return !interrupt_is_asked();
}

void
progress_end(void)
{
    if (progress.is_shown && progress.drawn_us)
        fprintf(stderr, "\r\033[K");
    progress.is_shown = false;
}
