/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mount/notify.h"

#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int notify_fd = -1;

void
notify_open(void)
{
    g_autofree char *path = g_strdup(g_getenv("NOTIFY_SOCKET"));
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t n = path ? strlen(path) : 0;

    g_unsetenv("NOTIFY_SOCKET");
    if (n < 2 || n >= sizeof address.sun_path || !strchr("/@", path[0]))
        return;
    memcpy(address.sun_path, path, n);
    if (path[0] ==
        '@') /* an abstract socket: its name begins with NUL and ends after n bytes */
        address.sun_path[0] = '\0';
    notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (notify_fd >= 0 &&
        connect(notify_fd, (const struct sockaddr *)&address,
                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) < 0) {
        close(notify_fd);
        notify_fd = -1;
    }
}

void
notify_send(const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    if (notify_fd < 0)
        return;
    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    /* No SIGPIPE: it applies to streams only. */
    if (write(notify_fd, text, strlen(text)) < 0)
        g_debug("the service manager cannot be told \"%s\"", text);
}
