/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Each thread receives a request and answers it, on its own: libfuse's loop, which counts
 * idle threads under a lock for each request, is not used.
 *
 * The main thread waits for signals. The end of the mount reaches a serving thread as the
 * end of /dev/fuse, and the main thread as SIGUSR1 from there. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "coherence.h"
#include "log.h"
#include "mountpoint.h"
#include "ops.h"
#include "read-ahead.h"

struct Session {
    const Options *options;
    struct fuse_session *fuse;
    struct fuse_lowlevel_ops ops;
    Mount mount;
    DirWatch *watch; /* NULL: there is no directory of images */
    char *absolute_mountpoint;
    bool is_mounted;
    sigset_t signals;
    pthread_t main_thread;
    pthread_t *threads;
    unsigned n_threads;
    atomic_int receive_error; /* atomic: -errno of the first failing receive */
};

/* What libfuse said last: it becomes part of our one line. */
static char libfuse_message[256];

static void
keep_libfuse_message(enum fuse_log_level level, const char *format, va_list args)
{
    if (level <= FUSE_LOG_ERR) {
        vsnprintf(libfuse_message, sizeof libfuse_message, format, args);
        g_strchomp(libfuse_message);
    } else {
        vfprintf(stderr, format, args);
    }
}

static void
add_fuse_option(struct fuse_args *args, const char *option)
{
    char *list = NULL;

    /* Escaped, since file names may hold commas. */
    fuse_opt_add_opt_escaped(&list, option);
    fuse_opt_add_arg(args, "-o");
    fuse_opt_add_arg(args, list);
    free(list);
}

static struct fuse_session *
new_fuse_session(Session *session)
{
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    const Options *options = session->options;
    bool has_name = false;
    struct fuse_session *fuse;

    fuse_opt_add_arg(&args, "qcowfs");
    if (!options->is_writable)
        add_fuse_option(&args, "ro");
    else if (options->allow_other)
        /* Who may write is a matter of permission bits: without this, all who may enter.
         */
        add_fuse_option(&args, "default_permissions");
    add_fuse_option(&args, "subtype=qcowfs");
    for (guint i = 0; i < options->fuse_options->len; i++) {
        has_name |= g_str_has_prefix(options->fuse_options->pdata[i], "fsname=");
        add_fuse_option(&args, options->fuse_options->pdata[i]);
    }
    if (!has_name) {
        g_autofree char *name = g_strconcat(
            "fsname=", options->images->len == 1 ? options->images->pdata[0] : "qcowfs",
            NULL);

        add_fuse_option(&args, name);
    }
    if (options->debug)
        fuse_opt_add_arg(&args, "-d");
    fuse = fuse_session_new(&args, &session->ops, sizeof session->ops, &session->mount);
    fuse_opt_free_args(&args);
    return fuse;
}

/* Blocks the signals that the main thread waits for, in all threads to come. */
static void
block_signals(Session *session)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};

    sigemptyset(&session->signals);
    for (size_t i = 0; i < G_N_ELEMENTS(numbers); i++)
        sigaddset(&session->signals, numbers[i]);
    pthread_sigmask(SIG_BLOCK, &session->signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* the write that is too long for our limit gets EFBIG */
}

/* What the images of directories name must not lead into the mount itself. */
static void
avoid_mount(Session *session)
{
    struct statx status;

    /* Without asking ourselves. */
    if (session->absolute_mountpoint &&
        !g_str_has_prefix(session->options->mountpoint, "/dev/fd/") &&
        statx(AT_FDCWD, session->absolute_mountpoint,
              AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &status) == 0)
        images_avoid_device(session->mount.tree->images,
                            makedev(status.stx_dev_major, status.stx_dev_minor));
}

Session *
session_mount(const Options *options, const Tree *tree, DirWatch *watch, GError **error)
{
    Session *session = g_new0(Session, 1);
    const char *mountpoint = options->mountpoint;

    fuse_set_log_func(keep_libfuse_message);
    session->options = options;
    session->watch = watch;
    session->absolute_mountpoint = mountpoint_absolute(options->mountpoint);
    session->mount = (Mount){
        .tree = tree,
        .max_read_bytes = options->max_read_bytes,
        .files = g_hash_table_new(NULL, NULL),
    };
    if (options->is_writable && !options->no_partitions && !tree->is_single_file)
        session->mount.coherence = coherence_new();
    pthread_mutex_init(&session->mount.files_lock, NULL);
    pthread_cond_init(&session->mount.released, NULL);
    ops_meta_fill(&session->ops, watch != NULL);
    ops_data_fill(&session->ops);
    ops_snapshot_fill(&session->ops);
    session->fuse = new_fuse_session(session);
    /* Absolute, since it is also unmounted by that path, from another directory. */
    if (session->absolute_mountpoint && !g_str_has_prefix(mountpoint, "/dev/fd/"))
        mountpoint = session->absolute_mountpoint;
    /* A signal between the mount and the wait for it must not leave a dead mount. */
    block_signals(session);
    if (!session->fuse || fuse_session_mount(session->fuse, mountpoint) != 0) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED, "cannot mount there: %s",
                    *libfuse_message ? libfuse_message
                                     : "fusermount3 refused, for the reason above or "
                                       "since it is not installed");
        session_free(session);
        return NULL;
    }
    session->is_mounted = true;
    avoid_mount(session);
    return session;
}

bool
session_detach(Session *session, GError **error)
{
    (void)session;
    if (fuse_daemonize(0) == 0) {
        log_to_syslog();
        return true;
    }
    g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED,
                "cannot go to the background (try -f): %s", g_strerror(errno));
    return false;
}

/* Answers the kernel's first request, which waits since the mount, so that the mount is
 * ready before other threads take over. Failures are met again by those. */
static void
answer_first_request(Session *session)
{
    struct fuse_buf buffer = {0};

    if (fuse_session_receive_buf(session->fuse, &buffer) > 0)
        fuse_session_process_buf(session->fuse, &buffer);
    free(buffer.mem);
}

static void
free_buffer(void *user)
{
    free(((struct fuse_buf *)user)->mem);
}

/* Whether the mount has ended: then a receive fails in one way or another. */
static bool
is_connection_gone(struct fuse_session *fuse)
{
    struct pollfd device = {.fd = fuse_session_fd(fuse)};

    return poll(&device, 1, 0) == 1 && (device.revents & POLLERR) != 0;
}

static void *
serve(void *user)
{
    Session *session = user;
    struct fuse_buf buffer = {0};

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    pthread_cleanup_push(free_buffer, &buffer);
    while (!fuse_session_exited(session->fuse)) {
        int n;

        /* The main thread ends a waiting thread, and never one that answers. */
        pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
        n = fuse_session_receive_buf(session->fuse, &buffer);
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
        if (n == -EINTR || n == -EAGAIN)
            continue;
        if (n <= 0) {
            int none = 0;

            if (n < 0 && !is_connection_gone(session->fuse))
                atomic_compare_exchange_strong(&session->receive_error, &none, n);
            break;
        }
        fuse_session_process_buf(session->fuse, &buffer);
    }
    fuse_session_exit(session->fuse);
    pthread_kill(session->main_thread, SIGUSR1);
    pthread_cleanup_pop(1);
    return NULL;
}

/* Lets the kernel forget a name: requests about it may have been answered from what it
 * knew for at most NAMES_TIMEOUT_S. */
static void
forget_name(uint64_t parent_inode, const char *name, void *user)
{
    Session *session = user;

    fuse_lowlevel_notify_inval_entry(session->fuse, parent_inode, name, strlen(name));
}

static void
forget_image(const char *name, void *user)
{
    Session *session = user;

    tree_list_names(session->mount.tree, name, forget_name, session);
}

static void
wait_for_end(Session *session)
{
    int number = 0;

    do
        while (sigwait(&session->signals, &number) != 0)
            ;
    while (number == SIGUSR1 && !fuse_session_exited(session->fuse));
    coherence_stop(session->mount.coherence);
    if (session->watch) /* while there are threads that answer */
        dir_watch_stop(session->watch);
    fuse_session_exit(session->fuse);
}

/* Below a loop device, memory is freed by writing through us: we must not wait for that
 * when we need memory ourselves. Inherited by threads; needs CAP_SYS_RESOURCE. */
static void
become_io_flusher(void)
{
#ifdef PR_SET_IO_FLUSHER
    if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
        g_debug("PR_SET_IO_FLUSHER: %s", g_strerror(errno));
#endif
}

bool
session_run(Session *session, GError **error)
{
    session->main_thread = pthread_self();
    if (session->options->is_writable)
        become_io_flusher();
    answer_first_request(session);
    if (session->mount.coherence &&
        !coherence_start(session->mount.coherence, session->fuse)) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED, "cannot serve the mount: %s",
                    g_strerror(EAGAIN));
        return false;
    }
    if (session->watch && !dir_watch_start(session->watch, forget_image, session))
        g_warning("directories are not watched: %s", g_strerror(errno));
    session->threads = g_new0(pthread_t, session->options->n_threads);
    while (session->n_threads < session->options->n_threads &&
           pthread_create(&session->threads[session->n_threads], NULL, serve, session) ==
               0)
        session->n_threads++;
    if (session->n_threads > 0) {
        if (session->absolute_mountpoint)
            read_ahead_raise(session->mount.tree, session->absolute_mountpoint);
        wait_for_end(session);
    }
    coherence_stop(session->mount.coherence);
    if (session->watch) /* without threads, too */
        dir_watch_stop(session->watch);
    for (unsigned i = 0; i < session->n_threads; i++)
        pthread_cancel(session->threads[i]);
    for (unsigned i = 0; i < session->n_threads; i++)
        pthread_join(session->threads[i], NULL);
    fuse_session_unmount(session->fuse);
    session->is_mounted = false;
    if (session->n_threads > 0 && session->receive_error == 0)
        return true;
    g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED, "cannot serve the mount: %s",
                g_strerror(session->n_threads ? -session->receive_error : EAGAIN));
    return false;
}

void
session_free(Session *session)
{
    if (session->is_mounted)
        fuse_session_unmount(session->fuse);
    if (session->fuse)
        fuse_session_destroy(session->fuse);
    ops_data_close_files(&session->mount);
    coherence_free(session->mount.coherence);
    g_hash_table_unref(session->mount.files);
    pthread_cond_destroy(&session->mount.released);
    pthread_mutex_destroy(&session->mount.files_lock);
    g_free(session->threads);
    g_free(session->absolute_mountpoint);
    g_free(session);
}
