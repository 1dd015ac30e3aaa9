/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Ceiling of the benchmarks: presents one plain file at one path with as little work as
 * libfuse permits. Its speed is the limit of FUSE itself; the targets of the benchmarks
 * are percentages of it.
 *
 * It stays in the foreground, is read-only unless -w is given, and ends when it is
 * unmounted or gets a signal. Each request is answered in the thread that received it: a
 * read from the thread's buffer, a write from the request's buffer. */

#define FUSE_USE_VERSION 314

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

/* The largest request of the kernel: FUSE_MAX_MAX_PAGES = 256 pages of 4 KiB. */
#define MAX_REQUEST_BYTES    ((size_t)1 << 20)
#define BUFFER_ALIGN_BYTES   4096
#define MIN_THREADS          2
#define MAX_BACKGROUND       128
#define CONGESTION_THRESHOLD 96
/* Only the mount changes the file, so the kernel need never ask again: it knows its own
 * writes. */
#define ATTR_TIMEOUT_S 86400.0

static int plain_fd;     /* const after start */
static bool is_writable; /* const after start */

static void *
thread_buffer(void)
{
    static _Thread_local void *buffer; /* kept until the process ends */

    if (buffer == NULL)
        buffer = aligned_alloc(BUFFER_ALIGN_BYTES, MAX_REQUEST_BYTES);
    return buffer;
}

static void
ceiling_init(void *userdata, struct fuse_conn_info *conn)
{
    (void)userdata;
    /* Replies through a pipe cost more than the copy that they save. */
    conn->want &=
        ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
    conn->want |= conn->capable & FUSE_CAP_ASYNC_DIO;
    conn->max_background = MAX_BACKGROUND;
    conn->congestion_threshold = CONGESTION_THRESHOLD;
}

static void
ceiling_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat st;

    (void)fi;
    if (fstat(plain_fd, &st) != 0) {
        fuse_reply_err(req, errno);
        return;
    }
    st.st_ino = ino;
    st.st_nlink = 1;
    fuse_reply_attr(req, &st, ATTR_TIMEOUT_S);
}

static void
ceiling_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    if (!is_writable && (fi->flags & O_ACCMODE) != O_RDONLY) {
        fuse_reply_err(req, EROFS);
        return;
    }
    /* libfuse before 3.15 has no field for the second flag: the kernel's own structure.
     */
    const struct fuse_open_out opened = {
        .open_flags = FOPEN_KEEP_CACHE |
                      (is_writable ? (unsigned)FOPEN_PARALLEL_DIRECT_WRITES : 0)};
    fuse_reply_buf(req, (const char *)&opened, sizeof opened);
}

static void
ceiling_read(fuse_req_t req, fuse_ino_t ino, size_t length_bytes, off_t file_offset,
             struct fuse_file_info *fi)
{
    void *buffer = thread_buffer();

    (void)ino;
    (void)fi;
    if (buffer == NULL || length_bytes > MAX_REQUEST_BYTES) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    ssize_t n_read = pread(plain_fd, buffer, length_bytes, file_offset);
    if (n_read < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_buf(req, buffer, (size_t)n_read);
}

static void
ceiling_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t length_bytes,
              off_t file_offset, struct fuse_file_info *fi)
{
    (void)ino;
    (void)fi;
    ssize_t n_written = pwrite(plain_fd, bytes, length_bytes, file_offset);
    if (n_written < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_write(req, (size_t)n_written);
}

static void
ceiling_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    (void)ino;
    (void)fi;
    int result = datasync ? fdatasync(plain_fd) : fsync(plain_fd);
    fuse_reply_err(req, result == 0 ? 0 : errno);
}

static void
ceiling_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t file_offset,
                  off_t length_bytes, struct fuse_file_info *fi)
{
    (void)ino;
    (void)fi;
    int result = fallocate(plain_fd, mode, file_offset, length_bytes);
    fuse_reply_err(req, result == 0 ? 0 : errno);
}

static void
ceiling_lseek(fuse_req_t req, fuse_ino_t ino, off_t file_offset, int whence,
              struct fuse_file_info *fi)
{
    (void)ino;
    (void)fi;
    /* Moves the position shared by all threads; no thread reads at that position. */
    off_t found = lseek(plain_fd, file_offset, whence);
    if (found < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_lseek(req, found);
}

static const struct fuse_lowlevel_ops ceiling_ops = {
    .init = ceiling_init,
    .getattr = ceiling_getattr,
    .open = ceiling_open,
    .read = ceiling_read,
    .lseek = ceiling_lseek,
    .write = ceiling_write,
    .fsync = ceiling_fsync,
    .fallocate = ceiling_fallocate,
};

/* Serves @session with one thread per core. Returns 0, or an error. */
static int
serve(struct fuse_session *session)
{
    int n_cores = get_nprocs();
    unsigned n_threads = n_cores > MIN_THREADS ? (unsigned)n_cores : MIN_THREADS;
    struct fuse_loop_config *config = fuse_loop_cfg_create();

    if (config == NULL)
        return -ENOMEM;
    fuse_loop_cfg_set_max_threads(config, n_threads);
    fuse_loop_cfg_set_idle_threads(config, n_threads);
    fuse_loop_cfg_set_clone_fd(config, 0);
    int result = fuse_session_loop_mt(session, config);
    fuse_loop_cfg_destroy(config);
    return result;
}

int
main(int argc, char **argv)
{
    is_writable = argc == 4 && strcmp(argv[1], "-w") == 0;
    if (argc != 3 && !is_writable) {
        fprintf(stderr, "usage: %s [-w] PLAIN-FILE MOUNTPOINT-FILE\n", argv[0]);
        return 2;
    }
    const char *plain_path = argv[argc - 2];
    const char *mountpoint = argv[argc - 1];
    plain_fd = open(plain_path, (is_writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (plain_fd < 0) {
        fprintf(stderr, "%s: %s: %s\n", argv[0], plain_path, strerror(errno));
        return 1;
    }

    char *fuse_argv[] = {
        argv[0], "-o", is_writable ? "fsname=bench-ceiling" : "ro,fsname=bench-ceiling"};
    struct fuse_args args = FUSE_ARGS_INIT(3, fuse_argv);
    struct fuse_session *session =
        fuse_session_new(&args, &ceiling_ops, sizeof ceiling_ops, NULL);
    int status = 1;

    if (session != NULL && fuse_set_signal_handlers(session) == 0) {
        if (fuse_session_mount(session, mountpoint) == 0) {
            status = serve(session) == 0 ? 0 : 1;
            fuse_session_unmount(session);
        }
        fuse_remove_signal_handlers(session);
    }
    if (session != NULL)
        fuse_session_destroy(session);
    fuse_opt_free_args(&args);
    close(plain_fd);
    return status;
}
