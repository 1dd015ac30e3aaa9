/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Each thread receives a request and answers it on its own (servers.h determines their
 * number). libfuse's loop is not used, since it counts idle threads under a lock for each
 * request.
 *
 * The main thread waits for signals. A serving thread sees the end of the mount as the
 * end of /dev/fuse, and tells the main thread by SIGUSR1. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "images/images-dir.h"
#include "mount/fuse-messages.h"
#include "mount/log.h"
#include "mount/mountpoint.h"
#include "mount/notify.h"
#include "mount/unmounter.h"
#include "ops/coherence.h"
#include "ops/ops.h"
#include "ops/read-ahead.h"
#include "serving.h"
#include "threads/pending-reads.h"
#include "threads/servers.h"
#include "tree/tree-lookup.h"

#define MAX_RINGS 16u

struct Session {
    const Options *options;
    struct fuse_session *fuse;
    struct fuse_lowlevel_ops ops;
    Mount mount;
    Device *device;
    bool may_wait;          /* const: for a disk */
    PendingReads **pending; /* of the first serving threads */
    unsigned n_pending;
    DirWatch *watch;           /* NULL: no directory of images */
    char *absolute_mountpoint; /* NULL: another program has mounted */
    bool is_mounted;           /* and not yet detached from the tree by us */
    Unmounter *unmounter;      /* NULL: we may unmount ourselves */
    int read_ahead_fd;         /* the mount's setting; -1: we may not change it */
    sigset_t signals;
    pthread_t main_thread;
    Servers *servers;
    atomic_int receive_error; /* atomic: -errno of the first failing receive */
};

static void
add_fuse_option(struct fuse_args *args, const char *option)
{
    char *list = NULL;

    /* Escaped, since file names may contain commas. */
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
    if (options->allow_other)
        /* The kernel enforces the shown permission bits: without this option, every user
         * with access may read, and write. */
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

/* Whether the parent process set the signal to be ignored, as nohup(1) does. sigwait
 * would receive it all the same. */
static bool
is_ignored(int number)
{
    struct sigaction action;

    return number != SIGUSR1 && sigaction(number, NULL, &action) == 0 &&
           action.sa_handler == SIG_IGN;
}

/* Blocks the signals that the main thread waits for, in all later threads. */
static void
block_signals(Session *session)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};

    sigemptyset(&session->signals);
    for (size_t i = 0; i < G_N_ELEMENTS(numbers); i++)
        if (!is_ignored(numbers[i]))
            sigaddset(&session->signals, numbers[i]);
    pthread_sigmask(SIG_BLOCK, &session->signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a write beyond our file size limit gets EFBIG */
}

/* Names in images of directories must not lead into the mount itself. */
static void
avoid_mount(Session *session)
{
    struct statx status;

    /* Without a request to ourselves. */
    if (session->absolute_mountpoint &&
        statx(AT_FDCWD, session->absolute_mountpoint,
              AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, 0, &status) == 0)
        images_avoid_device(session->mount.tree->images,
                            makedev(status.stx_dev_major, status.stx_dev_minor));
}

/* Whether reads of the named images may wait. Call before the mount, which may lie
 * over one. */
static bool
are_images_on_disk(const GPtrArray *paths)
{
    struct statfs host;

    for (guint i = 0; i < paths->len; i++)
        if (statfs(paths->pdata[i], &host) < 0 ||
            (host.f_type != TMPFS_MAGIC && host.f_type != RAMFS_MAGIC))
            return true;
    return false;
}

Session *
session_mount(const Options *options, const Tree *tree, DirWatch *watch, GError **error)
{
    Session *session = g_new0(Session, 1);
    g_autofree char *message = NULL;

    session->options = options;
    session->watch = watch;
    session->absolute_mountpoint = mountpoint_absolute(options->mountpoint);
    session->read_ahead_fd = -1;
    session->may_wait = are_images_on_disk(options->images);
    session->mount = (Mount){
        .tree = tree,
        .max_read_bytes = options->max_read_bytes,
        .files = g_hash_table_new(NULL, NULL),
    };
    if (options->is_writable && !options->no_partitions && !tree->is_single_file)
        session->mount.coherence = coherence_new();
    qimg_mutex_init(&session->mount.files_lock, QIMG_RANK_FILES);
    qimg_cond_init(&session->mount.released);
    ops_meta_fill(&session->ops, watch != NULL);
    ops_data_fill(&session->ops);
    ops_snapshot_fill(&session->ops);
    /* A signal between the mount and the wait for it must not leave a dead mount. */
    block_signals(session);
    fuse_messages_begin();
    session->fuse = session->mount.session = new_fuse_session(session);
    /* Absolute, since the mount is also unmounted by that path, from another
     * directory. */
    session->is_mounted =
        session->fuse &&
        fuse_session_mount(session->fuse, session->absolute_mountpoint
                                              ? session->absolute_mountpoint
                                              : options->mountpoint) == 0;
    message = fuse_messages_end(session->is_mounted);
    if (session->is_mounted) {
        session->device = device_new(fuse_session_fd(session->fuse));
        avoid_mount(session);
        return session;
    }
    g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED, "cannot mount there: %s", message);
    session_free(session);
    return NULL;
}

/* Below a loop device, the kernel frees memory by writing through us: our own allocations
 * must not wait for that. Threads inherit the setting; needs CAP_SYS_RESOURCE. */
static void
become_io_flusher(void)
{
#ifdef PR_SET_IO_FLUSHER
    if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
        g_debug("PR_SET_IO_FLUSHER: %s", g_strerror(errno));
#endif
}

/* For the threads that are always there, since others come only if those wait; for a
 * few, since each has many reads in flight. */
static void
prepare_pending_reads(Session *session)
{
    unsigned n_threads = MIN(session->options->n_threads, MAX_RINGS);

    if (!session->may_wait)
        return;
    session->pending = g_new0(PendingReads *, n_threads);
    while (session->n_pending < n_threads) {
        PendingReads *pending = pending_reads_new(fuse_session_fd(session->fuse));

        if (!pending)
            break;
        session->pending[session->n_pending++] = pending;
    }
}

bool
session_confine(Session *session, Sandbox *sandbox, char **report_out, GError **error)
{
    if (session->options->is_writable)
        become_io_flusher();
    if (session->absolute_mountpoint)
        session->read_ahead_fd = read_ahead_open(session->absolute_mountpoint);
    if (sandbox && (session->absolute_mountpoint || !session->options->foreground)) {
        session->unmounter = unmounter_start(session->absolute_mountpoint, error);
        if (!session->unmounter)
            return false;
        log_connect_by(unmounter_connect_log, session->unmounter);
    }
    prepare_pending_reads(session);
    return !sandbox || sandbox_enter(sandbox, report_out, error);
}

/* Answers the kernel's first request, pending since the mount, so that the mount is ready
 * before other threads take over. Those meet a failure again. */
static void
answer_first_request(Session *session)
{
    struct fuse_buf buffer = {0};

    if (fuse_session_receive_buf(session->fuse, &buffer) > 0)
        fuse_session_process_buf(session->fuse, &buffer);
    free(buffer.mem);
}

/* Serve. */
static void
serve(void *user, Server *server)
{
    Session *session = user;
    unsigned place = server_place(server);
    int error = 0, none = 0;
    ServeEnd end = serve_requests(
        session->fuse, session->device,
        place < session->n_pending ? session->pending[place] : NULL, server, &error);

    if (end == SERVE_FAILED)
        atomic_compare_exchange_strong(&session->receive_error, &none, error);
    if (end == SERVE_SPARE)
        return;
    fuse_session_exit(session->fuse);
    pthread_kill(session->main_thread, SIGUSR1);
}

/* Makes the kernel forget a name: for at most NAMES_TIMEOUT_S, it may have answered
 * requests about the name from its cache. */
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

/* Detaches the mount from the tree; programs with open files keep it. */
static void
leave_tree(Session *session)
{
    if (!session->is_mounted || !session->absolute_mountpoint)
        return;
    if (session->unmounter ? unmounter_unmount(session->unmounter)
                           : mountpoint_unmount(session->absolute_mountpoint))
        session->is_mounted = false;
}

static const char *
are(unsigned n)
{
    return n == 1 ? "is" : "are";
}

/* Handles a signal: the mount is detached at once. Data already written are never given
 * up, but later writes of running programs are, unless the server waits for them. Returns
 * whether to wait for programs that have files open. */
static bool
begin_end(Session *session)
{
    const Options *options = session->options;
    unsigned n_writers, n_files;

    notify_send("STOPPING=1");
    if (serve_is_connection_gone(session->fuse))
        return false;
    leave_tree(session);
    n_files = ops_data_count_files(&session->mount, &n_writers);
    if (n_files == 0)
        return false;
    if (n_writers == 0 || (options->is_cow && !options->cow_file)) {
        g_message("%s: ends while %u of its files %s open, with errors from now on",
                  options->mountpoint, n_files, are(n_files));
        return false;
    }
    if (session->is_mounted) {
        g_warning(
            "%s: ends while %u of its files %s open for writing: later writes are lost",
            options->mountpoint, n_writers, are(n_writers));
        return false;
    }
    g_warning("%s: is unmounted, but %u of its files %s open for writing: ends with the "
              "last close, such as by losetup -d (a second signal ends it now, and later "
              "writes are lost)",
              options->mountpoint, n_writers, are(n_writers));
    notify_send("STATUS=Waits until %u file%s closed", n_writers,
                n_writers == 1 ? " is" : "s are");
    return true;
}

static void
wait_for_end(Session *session)
{
    bool was_asked = false;
    int number = 0;

    for (;;) {
        while (sigwait(&session->signals, &number) != 0)
            ;
        if (number == SIGUSR1 ? fuse_session_exited(session->fuse)
                              : was_asked || !begin_end(session))
            break;
        was_asked |= number != SIGUSR1;
    }
    coherence_stop(session->mount.coherence);
    if (session->watch) /* while threads still answer */
        dir_watch_stop(session->watch);
    fuse_session_exit(session->fuse);
}

/* Ends the connection to the kernel: waiting callers get an error. libfuse does so while
 * unmounting, in ways closed to a confined process; if it finds an ended descriptor, like
 * a pipe without reader, it only cleans up. */
static void
end_connection(Session *session)
{
    /* In that case another mount may have taken this one's place. */
    bool is_gone = serve_is_connection_gone(session->fuse);
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) == 0) {
        close(fds[0]);
        dup2(fds[1], fuse_session_fd(session->fuse));
        close(fds[1]);
    }
    if (!is_gone) { /* only now: the unmounting process must not wait for our answer */
        leave_tree(session);
        if (session->is_mounted && session->absolute_mountpoint)
            g_warning("%s: cannot be unmounted, and gives errors from now on (unmount "
                      "the mounts over it, then use fusermount3 -u)",
                      session->options->mountpoint);
    }
    fuse_session_unmount(session->fuse);
    session->is_mounted = false;
}

/* CoherentDrop. Fails if the kernel has forgotten the file, and its pages with it. */
static void
drop_pages(void *user, uint64_t inode, int64_t start, int64_t length)
{
    const Session *session = user;

    (void)fuse_lowlevel_notify_inval_inode(session->fuse, inode, start, length);
}

bool
session_run(Session *session, GError **error)
{
    unsigned n_threads;

    session->main_thread = pthread_self();
    answer_first_request(session);
    if (session->mount.coherence &&
        !coherence_start(session->mount.coherence, drop_pages, session)) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED, "cannot serve the mount: %s",
                    g_strerror(EAGAIN));
        return false;
    }
    if (session->watch && !dir_watch_start(session->watch, forget_image, session))
        g_warning("directories are not watched: %s", g_strerror(errno));
    session->servers =
        servers_new(session->options->n_threads,
                    servers_limit(session->options->n_threads), serve, session);
    n_threads = servers_start(session->servers);
    if (n_threads > 0) {
        notify_send("READY=1\nMAINPID=%d\nSTATUS=Serves %s", (int)getpid(),
                    session->options->mountpoint);
        read_ahead_raise(session->mount.tree, session->read_ahead_fd);
        wait_for_end(session);
    }
    coherence_stop(session->mount.coherence);
    if (session->watch) /* also without threads */
        dir_watch_stop(session->watch);
    servers_stop(session->servers);
    end_connection(session);
    if (n_threads > 0 && session->receive_error == 0)
        return true;
    g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED, "cannot serve the mount: %s",
                g_strerror(n_threads ? -session->receive_error : EAGAIN));
    return false;
}

void
session_free(Session *session)
{
    if (session->is_mounted)
        end_connection(session);
    log_connect_by(NULL, NULL);
    unmounter_end(session->unmounter);
    if (session->read_ahead_fd >= 0)
        close(session->read_ahead_fd);
    if (session->fuse)
        fuse_session_destroy(session->fuse);
    ops_data_close_files(&session->mount);
    coherence_free(session->mount.coherence);
    g_hash_table_unref(session->mount.files);
    qimg_cond_clear(&session->mount.released);
    qimg_mutex_clear(&session->mount.files_lock);
    servers_free(session->servers);
    while (session->n_pending > 0)
        pending_reads_free(session->pending[--session->n_pending]);
    g_free(session->pending);
    device_free(session->device);
    g_free(session->absolute_mountpoint);
    g_free(session);
}
