/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "log.h"

#include <glib.h>
#include <stdio.h>
#include <syslog.h>

#define ERROR_LEVELS (G_LOG_LEVEL_ERROR | G_LOG_LEVEL_CRITICAL)
#define QUIET_LEVELS (G_LOG_LEVEL_INFO | G_LOG_LEVEL_DEBUG)

char *
log_line(const char *text)
{
    char *line = g_utf8_make_valid(text, -1);

    for (char *c = line; *c; c++)
        if (g_ascii_iscntrl(*c))
            *c = '?';
    return line;
}

static void
print(const char *domain, GLogLevelFlags level, const char *message, gpointer user)
{
    g_autofree char *line = log_line(message);

    (void)domain, (void)user;
    if (level & QUIET_LEVELS)
        return;
    fprintf(stderr, "qcowfs: %s%s\n",
            level & ERROR_LEVELS          ? "error: "
            : level & G_LOG_LEVEL_WARNING ? "warning: "
                                          : "",
            line);
}

static void
send_to_syslog(const char *domain, GLogLevelFlags level, const char *message,
               gpointer user)
{
    g_autofree char *line = log_line(message);

    (void)domain, (void)user;
    syslog(level & ERROR_LEVELS          ? LOG_ERR
           : level & G_LOG_LEVEL_WARNING ? LOG_WARNING
           : level & QUIET_LEVELS        ? LOG_DEBUG
                                         : LOG_NOTICE,
           "%s", line);
}

void
log_to_terminal(void)
{
    g_log_set_default_handler(print, NULL);
}

void
log_to_syslog(void)
{
    openlog("qcowfs", LOG_PID | LOG_NDELAY, LOG_DAEMON);
    g_log_set_default_handler(send_to_syslog, NULL);
}
