/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The keeper's process, and the table shared by both processes. */
#define G_LOG_DOMAIN "qimg"

#include "behind/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/lock.h"
#include "base/workers.h"
#include "behind/log.h"

#define MAX_KEPT 4096

/* A descriptor and the identity of its file: a reused number must never lead to another
 * file. */
typedef struct {
    int fd; /* -1: none */
    dev_t device;
    ino_t inode;
} KeptFile;

typedef struct {
    _Atomic bool is_kept; /* atomic: the rest is valid. Set last, cleared first */
    bool is_taken;        /* guarded by the keeper's lock */
    KeptFile log, file, data_file;
} Kept;

struct QimgKeeper {
    Kept *kept;     /* const: MAX_KEPT, shared by both processes */
    QimgMutex lock; /* rank QIMG_RANK_KEEPER */
    pid_t pid;      /* const once started; 0: not */
    int pid_fd;     /* the keeper's pidfd */
    int end_fd;     /* a byte ends the keeper, which holds the other end */
    int end_read_fd;
    _Atomic bool is_alive;
    bool is_watched; /* guarded by lock: a thread waits for the keeper's end */
    pthread_t watcher;
};

QimgKeeper *
qimg_keeper_new(void)
{
    QimgKeeper *keeper = g_new0(QimgKeeper, 1);

    keeper->kept = mmap(NULL, MAX_KEPT * sizeof *keeper->kept, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (keeper->kept == MAP_FAILED)
        keeper->kept = NULL;
    keeper->pid_fd = keeper->end_fd = keeper->end_read_fd = -1;
    qimg_mutex_init(&keeper->lock, QIMG_RANK_KEEPER);
    return keeper;
}

/* ---- in the keeper's process ---- */

static bool
is_same(const KeptFile *kept)
{
    struct stat status;

    return fstat(kept->fd, &status) == 0 && status.st_dev == kept->device &&
           status.st_ino == kept->inode;
}

/* BehindWrite; @user is the descriptor. */
static QimgErrno
write_file(void *user, uint64_t host_offset, const void *bytes, size_t n_bytes)
{
    int fd = *(const int *)user;
    const char *left = bytes;

    while (n_bytes > 0) {
        ssize_t n = pwrite(fd, left, n_bytes, (off_t)host_offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENOSPC;
        left += n;
        host_offset += (uint64_t)n;
        n_bytes -= (size_t)n;
    }
    return 0;
}

static QimgErrno
keeper_publish(const Kept *kept)
{
    const BehindLog *log = is_same(&kept->log) ? behind_log_map(kept->log.fd) : NULL;
    int fd = kept->file.fd;
    uint64_t from, to;
    QimgErrno err = 0;

    if (!log)
        return -EINVAL;
    from = atomic_load(&log->n_published);
    to = atomic_load(&log->n_appended);
    if (from == to || to - from > log->n_records)
        return from == to ? 0 : -EINVAL;
    if (!is_same(&kept->file) || (kept->data_file.fd >= 0 && !is_same(&kept->data_file)))
        return -EBADF;
    /* After a failed sync no entry may refer to the data that it was to make durable. */
    if ((kept->data_file.fd >= 0 && fdatasync(kept->data_file.fd) < 0) ||
        fdatasync(fd) < 0)
        return -errno;
    err = behind_log_write(log, from, to, write_file, &fd);
    if (!err && fdatasync(fd) < 0)
        err = -errno;
    return err;
}

static void
publish_all(const Kept *kept)
{
    for (unsigned i = 0; i < MAX_KEPT; i++) {
        QimgErrno err = atomic_load(&kept[i].is_kept) ? keeper_publish(&kept[i]) : 0;

        if (err)
            g_warning("image %u: its server has died, and its last writes could not be "
                      "stored: %s (run qimg check)",
                      i, g_strerror(-err));
    }
}

static G_GNUC_NORETURN void
keep(const Kept *kept, int end_fd, pid_t served)
{
    int served_fd = (int)syscall(SYS_pidfd_open, served, 0);
    struct pollfd waits[] = {{.fd = end_fd, .events = POLLIN},
                             {.fd = served_fd, .events = POLLIN}};
    sigset_t all;

    /* Signals to a process group, such as ^C on a terminal, must not reach this
     * process. */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    setsid();
    prctl(PR_SET_NAME, "qimg-keeper");
    if (chdir("/") < 0 || served_fd < 0)
        _exit(1);
    while (getppid() == served && !waits[0].revents && !waits[1].revents)
        (void)poll(waits, G_N_ELEMENTS(waits), -1);
    if (!waits[0].revents)
        publish_all(kept);
    _exit(0);
}

/* ---- in the kept process ---- */

/* A process with its own memory and our table of files. */
static pid_t
clone_with_files(void)
{
#if defined __s390__ || defined __CRIS__
    return (pid_t)syscall(SYS_clone, NULL, CLONE_FILES | SIGCHLD, NULL, NULL, NULL);
#else
    return (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
#endif
}

gboolean
qimg_keeper_start(QimgKeeper *keeper, GError **error)
{
    pid_t own_pid = getpid();
    int fds[2] = {-1, -1};

    g_return_val_if_fail(keeper->pid == 0, FALSE);
    if (keeper->kept && pipe2(fds, O_CLOEXEC) == 0)
        keeper->pid = clone_with_files();
    if (keeper->pid == 0 && fds[0] >= 0)
        keep(keeper->kept, fds[0], own_pid);
    keeper->end_read_fd = fds[0];
    keeper->end_fd = fds[1];
    if (keeper->pid > 0)
        keeper->pid_fd = (int)syscall(SYS_pidfd_open, keeper->pid, 0);
    if (keeper->pid_fd >= 0) {
        atomic_store(&keeper->is_alive, true);
        return TRUE;
    }
    qimg_set_error(error, QIMG_ERROR_FAILED,
                   "cannot start the process that stores pending data when this one "
                   "dies: %s",
                   g_strerror(keeper->kept ? errno : ENOMEM));
    return FALSE;
}

/* Waits for the keeper's end. */
static void *
watch(void *user)
{
    QimgKeeper *keeper = user;
    struct pollfd end = {.fd = keeper->pid_fd, .events = POLLIN};

    while (poll(&end, 1, -1) < 0 && errno == EINTR)
        ;
    if (atomic_exchange(&keeper->is_alive, false))
        g_warning("the process that stores pending data when this one dies has ended: "
                  "writes are slower from now on (mount again)");
    return NULL;
}

static bool
is_watched(QimgKeeper *keeper)
{
    struct pollfd end = {.fd = keeper->pid_fd, .events = POLLIN};

    if (keeper->pid == 0) /* pretended */
        return true;
    if (!keeper->is_watched && poll(&end, 1, 0) == 0)
        keeper->is_watched = qimg_thread_start(&keeper->watcher, watch, keeper);
    return keeper->is_watched;
}

static KeptFile
kept_file(int fd)
{
    struct stat status = {0};

    if (fd >= 0 && fstat(fd, &status) < 0)
        fd = -1;
    return (KeptFile){.fd = fd, .device = status.st_dev, .inode = status.st_ino};
}

KeeperPlace
keeper_keep(QimgKeeper *keeper, int log_fd, int file_fd, int data_fd)
{
    QIMG_LOCK_SCOPE(&keeper->lock);

    if (!keeper_is_alive(keeper) || !is_watched(keeper))
        return KEEPER_NOWHERE;
    if (keeper->pid > 0 && file_fd < 0) /* a storage that is no file */
        return KEEPER_NOWHERE;
    for (KeeperPlace place = 0; place < MAX_KEPT; place++) {
        Kept *kept = &keeper->kept[place];

        if (kept->is_taken)
            continue;
        kept->is_taken = true;
        kept->log = kept_file(log_fd);
        kept->file = kept_file(file_fd);
        kept->data_file = kept_file(data_fd);
        atomic_store(&kept->is_kept, true);
        return place;
    }
    return KEEPER_NOWHERE;
}

void
keeper_forget(QimgKeeper *keeper, KeeperPlace place)
{
    if (place == KEEPER_NOWHERE)
        return;
    QIMG_LOCK_SCOPE(&keeper->lock);
    atomic_store(&keeper->kept[place].is_kept, false);
    keeper->kept[place].is_taken = false;
}

bool
keeper_is_alive(const QimgKeeper *keeper)
{
    return atomic_load_explicit(&keeper->is_alive, memory_order_relaxed);
}

pid_t
keeper_get_pid(const QimgKeeper *keeper)
{
    return keeper->pid > 0 ? keeper->pid : 0;
}

void
keeper_pretend(QimgKeeper *keeper, bool is_alive)
{
    atomic_store(&keeper->is_alive, is_alive && keeper->kept);
}

void
qimg_keeper_free(QimgKeeper *keeper)
{
    char byte = 0;

    if (!keeper)
        return;
    if (keeper->pid > 0) {
        atomic_store(&keeper->is_alive, false);
        while (write(keeper->end_fd, &byte, 1) < 0 && errno == EINTR)
            ;
        if (keeper->is_watched)
            pthread_join(keeper->watcher, NULL);
        while (waitpid(keeper->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    if (keeper->pid_fd >= 0)
        close(keeper->pid_fd);
    if (keeper->end_fd >= 0)
        close(keeper->end_fd);
    if (keeper->end_read_fd >= 0)
        close(keeper->end_read_fd);
    if (keeper->kept)
        munmap(keeper->kept, MAX_KEPT * sizeof *keeper->kept);
    qimg_mutex_clear(&keeper->lock);
    g_free(keeper);
}
