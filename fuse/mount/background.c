/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mount/background.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "qimg.h"

/* -1 until opened. */
static int null_fd = -1;

static void
open_null(void)
{
    if (null_fd < 0)
        null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
}

/* Runs in the first process; touches nothing that it shares with the new one. */
static G_GNUC_NORETURN void
wait_until_ready(int fd)
{
    char byte;
    ssize_t n;

    do
        n = read(fd, &byte, 1);
    while (n < 0 && errno == EINTR);
    _exit(n == 1 ? EXIT_SUCCESS : EXIT_FAILURE);
}

int
background_fork(GError **error)
{
    int fds[2];
    pid_t pid = -1;

    open_null();
    if (pipe2(fds, O_CLOEXEC) == 0) {
        pid = fork();
        if (pid > 0) {
            close(fds[1]);
            wait_until_ready(fds[0]);
        }
        close(fds[0]);
        if (pid < 0)
            close(fds[1]);
    }
    if (pid < 0 || chdir("/") < 0) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED,
                    "cannot go to the background: %s (try -f)", g_strerror(errno));
        return -1;
    }
    setsid();
    return fds[1];
}

void
background_leave_terminal(void)
{
    open_null();
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (null_fd < 0 || dup2(null_fd, fd) < 0)
            close(fd);
    if (null_fd >= 0)
        close(null_fd);
    null_fd = -1;
}

void
background_enter(int ready_fd)
{
    char byte = 0;

    background_leave_terminal();
    while (write(ready_fd, &byte, 1) < 0 && errno == EINTR)
        ;
    close(ready_fd);
}
