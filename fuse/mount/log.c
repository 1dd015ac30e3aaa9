/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mount/log.h"

#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "base/lock.h"

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

/* ---- the system's log: syslog(3) would open its socket at an arbitrary time ---- */

#define SYSLOG_SOCKET  "/dev/log"
#define MAX_TIME_BYTES 32

static struct {
    QimgMutex lock; /* rank QIMG_RANK_LOG: held for one message; taken under other locks,
                       takes none */
    int fd;         /* connected, or -1 */
    LogConnect connect;
    void *user;
} syslog_socket = {.lock = QIMG_MUTEX_INITIALIZER(QIMG_RANK_LOG), .fd = -1};

int
log_connect(void)
{
    const struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SYSLOG_SOCKET};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static int
connect_here(void *user)
{
    (void)user;
    return log_connect();
}

/* A line in the format of the system's log: "<30>Jan  2 03:04:05 qcowfs[6]: text". */
static char *
syslog_line(int priority, const char *text)
{
    char now[MAX_TIME_BYTES] = "";
    time_t seconds = time(NULL);
    struct tm parts;

    if (localtime_r(&seconds, &parts))
        strftime(now, sizeof now, "%b %e %T", &parts);
    return g_strdup_printf("<%d>%s qcowfs[%d]: %s", LOG_DAEMON | priority, now,
                           (int)getpid(), text);
}

/* Retries with a new socket if the old one has lost its peer. */
static void
write_to_syslog(const char *line)
{
    size_t n_bytes = strlen(line);

    qimg_mutex_lock(&syslog_socket.lock);
    if (syslog_socket.fd < 0 || write(syslog_socket.fd, line, n_bytes) < 0) {
        if (syslog_socket.fd >= 0)
            close(syslog_socket.fd);
        syslog_socket.fd = syslog_socket.connect(syslog_socket.user);
        if (syslog_socket.fd >= 0 && write(syslog_socket.fd, line, n_bytes) < 0) {
            close(syslog_socket.fd);
            syslog_socket.fd = -1;
        }
    }
    qimg_mutex_unlock(&syslog_socket.lock);
}

static void
send_to_syslog(const char *domain, GLogLevelFlags level, const char *message,
               gpointer user)
{
    g_autofree char *text = log_line(message);
    g_autofree char *line = syslog_line(level & ERROR_LEVELS          ? LOG_ERR
                                        : level & G_LOG_LEVEL_WARNING ? LOG_WARNING
                                        : level & QUIET_LEVELS        ? LOG_DEBUG
                                                                      : LOG_NOTICE,
                                        text);

    (void)domain, (void)user;
    write_to_syslog(line);
}

void
log_to_terminal(void)
{
    g_log_set_default_handler(print, NULL);
}

void
log_to_syslog(void)
{
    tzset();
    log_connect_by(NULL, NULL);
    syslog_socket.fd = log_connect();
    g_log_set_default_handler(send_to_syslog, NULL);
}

void
log_connect_by(LogConnect connect_by, void *user)
{
    qimg_mutex_lock(&syslog_socket.lock);
    syslog_socket.connect = connect_by ? connect_by : connect_here;
    syslog_socket.user = user;
    qimg_mutex_unlock(&syslog_socket.lock);
}
