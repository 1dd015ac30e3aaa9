/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "unmounter.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "background.h"
#include "mountpoint.h"
#include "qimg.h"

struct Unmounter {
    int fd; /* a byte there is the order, and one back whether it went well; or its end */
    pid_t pid;
};

static void
close_from_to(unsigned first, unsigned last)
{
    unsigned end = (unsigned)sysconf(_SC_OPEN_MAX);

#ifdef SYS_close_range
    if (syscall(SYS_close_range, first, last, 0) == 0)
        return;
#endif
    for (unsigned fd = first; fd <= last && fd < end; fd++)
        close((int)fd);
}

/* Keeps @fd alone: images would stay locked, the mount alive, and the reader of a pipe
 * waiting, for as long as this process has theirs. */
static void
close_others(int fd)
{
    background_leave_terminal();
    if (fd > STDERR_FILENO + 1)
        close_from_to(STDERR_FILENO + 1, (unsigned)fd - 1);
    close_from_to((unsigned)fd + 1, ~0u);
}

/* Signals are blocked here as they are in the server: those to a group or a control group
 * must leave this process the last. */
static G_GNUC_NORETURN void
wait_for_order(int fd, const char *absolute_path, const char *device)
{
    g_autofree char *device_now = NULL;
    char order, is_done = 0;
    ssize_t n;

    close_others(fd);
    setsid();
    if (chdir("/") < 0)
        _exit(1);
    do
        n = read(fd, &order, 1);
    while (n < 0 && errno == EINTR);
    if (n == 1) {
        device_now = mountpoint_device(absolute_path);
        is_done = g_strcmp0(device, device_now) == 0 && mountpoint_unmount(absolute_path);
        if (write(fd, &is_done, 1) < 0)
            _exit(1);
    }
    _exit(0);
}

Unmounter *
unmounter_start(const char *absolute_path, GError **error)
{
    g_autofree char *device = mountpoint_device(absolute_path);
    Unmounter *unmounter;
    int fds[2];
    pid_t pid = -1;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0) {
        pid = fork();
        if (pid == 0)
            wait_for_order(fds[1], absolute_path, device);
        if (pid < 0)
            close(fds[0]);
        close(fds[1]);
    }
    if (pid < 0) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED,
                    "cannot start the process that unmounts: %s (-o nosandbox does "
                    "without it)",
                    g_strerror(errno));
        return NULL;
    }
    unmounter = g_new0(Unmounter, 1);
    *unmounter = (Unmounter){.fd = fds[0], .pid = pid};
    return unmounter;
}

bool
unmounter_unmount(Unmounter *unmounter)
{
    char byte = 0;

    return write(unmounter->fd, &byte, 1) == 1 && read(unmounter->fd, &byte, 1) == 1 &&
           byte;
}

void
unmounter_end(Unmounter *unmounter)
{
    if (!unmounter)
        return;
    close(unmounter->fd);
    while (waitpid(unmounter->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    g_free(unmounter);
}
