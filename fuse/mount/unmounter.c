/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mount/unmounter.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/lock.h"
#include "mount/background.h"
#include "mount/log.h"
#include "mount/mountpoint.h"
#include "qimg.h"

struct Unmounter {
    int fd; /* carries one byte per order, and one byte back for its success; or end of
               file */
    pid_t pid;
    QimgMutex lock; /* rank QIMG_RANK_UNMOUNTER: from an order to its answer */
};

enum { ORDER_UNMOUNT = 'u', ORDER_LOG = 'l' };

/* Room for one descriptor beside a byte. */
typedef union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
} Passed;

/* Answers with the byte @is_done; with @passed_fd, unless it is -1. */
static bool
send_answer(int fd, char is_done, int passed_fd)
{
    struct iovec part = {&is_done, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    Passed passed = {.header = {.cmsg_len = CMSG_LEN(sizeof passed_fd),
                                .cmsg_level = SOL_SOCKET,
                                .cmsg_type = SCM_RIGHTS}};

    if (passed_fd >= 0) {
        message.msg_control = &passed;
        message.msg_controllen = sizeof passed;
        memcpy(CMSG_DATA(&passed.header), &passed_fd, sizeof passed_fd);
    }
    return sendmsg(fd, &message, MSG_NOSIGNAL) == 1;
}

/* Returns the descriptor of a successful answer, or -1. */
static int
receive_descriptor(int fd)
{
    char is_done = 0;
    struct iovec part = {&is_done, 1};
    Passed passed = {{0}};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &passed,
                             .msg_controllen = sizeof passed};
    const struct cmsghdr *header;
    int passed_fd = -1;

    if (recvmsg(fd, &message, MSG_CMSG_CLOEXEC) != 1)
        return -1;
    header = CMSG_FIRSTHDR(&message);
    if (is_done && header && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof passed_fd))
        memcpy(&passed_fd, CMSG_DATA(header), sizeof passed_fd);
    return passed_fd;
}

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

/* Closes all descriptors except @fd: copies in this process would keep images locked, the
 * mount alive, and the reader of a pipe waiting. */
static void
close_others(int fd)
{
    background_leave_terminal();
    if (fd > STDERR_FILENO + 1)
        close_from_to(STDERR_FILENO + 1, (unsigned)fd - 1);
    close_from_to((unsigned)fd + 1, ~0u);
}

static bool
unmount_own(const char *absolute_path, const char *device)
{
    g_autofree char *device_now = absolute_path ? mountpoint_device(absolute_path) : NULL;

    return absolute_path && g_strcmp0(device, device_now) == 0 &&
           mountpoint_unmount(absolute_path);
}

static bool
answer_with_log(int fd)
{
    int log_fd = log_connect();
    bool is_sent = send_answer(fd, log_fd >= 0, log_fd);

    if (log_fd >= 0)
        close(log_fd);
    return is_sent;
}

/* Signals are blocked here as in the server: this process must outlive all others of its
 * process group or control group. An order is one byte, since the server may be
 * compromised; the first unknown byte ends the process. */
static G_GNUC_NORETURN void
take_orders(int fd, const char *absolute_path, const char *device)
{
    bool goes_on = true;
    char order;
    ssize_t n;

    close_others(fd);
    setsid();
    if (chdir("/") < 0)
        _exit(1);
    while (goes_on) {
        n = read(fd, &order, 1);
        if (n == 1 && order == ORDER_UNMOUNT)
            goes_on = send_answer(fd, unmount_own(absolute_path, device), -1);
        else if (n == 1 && order == ORDER_LOG)
            goes_on = answer_with_log(fd);
        else
            goes_on = n < 0 && errno == EINTR;
    }
    _exit(0);
}

Unmounter *
unmounter_start(const char *absolute_path, GError **error)
{
    g_autofree char *device = absolute_path ? mountpoint_device(absolute_path) : NULL;
    Unmounter *unmounter;
    int fds[2];
    pid_t pid = -1;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0) {
        pid = fork();
        if (pid == 0)
            take_orders(fds[1], absolute_path, device);
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
    qimg_mutex_init(&unmounter->lock, QIMG_RANK_UNMOUNTER);
    return unmounter;
}

bool
unmounter_unmount(Unmounter *unmounter)
{
    char byte = ORDER_UNMOUNT;
    bool is_done;

    qimg_mutex_lock(&unmounter->lock);
    is_done =
        write(unmounter->fd, &byte, 1) == 1 && read(unmounter->fd, &byte, 1) == 1 && byte;
    qimg_mutex_unlock(&unmounter->lock);
    return is_done;
}

int
unmounter_connect_log(void *user)
{
    Unmounter *unmounter = user;
    char byte = ORDER_LOG;
    int fd = -1;

    /* The process may be unmounting, which may wait until the caller answers a
     * request. */
    if (!qimg_mutex_trylock(&unmounter->lock))
        return -1;
    if (write(unmounter->fd, &byte, 1) == 1)
        fd = receive_descriptor(unmounter->fd);
    qimg_mutex_unlock(&unmounter->lock);
    return fd;
}

void
unmounter_end(Unmounter *unmounter)
{
    if (!unmounter)
        return;
    close(unmounter->fd);
    while (waitpid(unmounter->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    qimg_mutex_clear(&unmounter->lock);
    g_free(unmounter);
}
