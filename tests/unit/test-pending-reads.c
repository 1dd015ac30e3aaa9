/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuse/threads/pending-reads.c and fuse/threads/device.c, without a kernel's requests:
 * pipes stand for disks, since a read of one waits until something is written, and for
 * the device. */
#include "threads/pending-reads.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test-util.h"
#include "threads/device.h"

#define N_DISKS     16u
#define READ_BYTES  4096u
#define N_TOO_MANY  1000u
#define N_LOOKED_AT 160u

typedef struct {
    int fds[2];
} Pipe;

static Pipe device;
static PendingReads *pending;

static void
write_to(const Pipe *pipe_, size_t n_bytes)
{
    static const char bytes[READ_BYTES];

    g_assert_cmpint(write(pipe_->fds[1], bytes, n_bytes), ==, (gssize)n_bytes);
}

static Pipe
make_pipe(void)
{
    Pipe made;

    g_assert_cmpint(pipe2(made.fds, O_CLOEXEC), ==, 0);
    return made;
}

static void
close_pipe(const Pipe *pipe_)
{
    close(pipe_->fds[0]);
    close(pipe_->fds[1]);
}

/* False: the kernel has no rings for us; the test is skipped. */
static bool
set_up(void)
{
    device = make_pipe();
    pending = pending_reads_new(device.fds[0]);
    if (!pending)
        g_test_skip("the kernel refuses io_uring");
    return pending != NULL;
}

static void
tear_down(void)
{
    pending_reads_free(pending);
    close_pipe(&device);
}

static bool
add(const Pipe *disk, void *request)
{
    QimgReadPlace place = {.fd = disk->fds[0], .length_bytes = READ_BYTES};

    return pending_reads_add(pending, place, false, request);
}

static void *
take(void)
{
    const uint8_t *bytes = NULL;
    int n_bytes = READ_BYTES;
    void *request = pending_reads_take(pending, &bytes, &n_bytes);

    g_assert_null(bytes);
    g_assert_cmpint(n_bytes, ==, READ_BYTES);
    return request;
}

/* Reads are in flight together, and are taken in the order of their disks' answers. */
static void
test_together(void)
{
    Pipe disks[N_DISKS];
    bool is_taken[N_DISKS] = {false};

    if (set_up()) {
        for (unsigned i = 0; i < N_DISKS; i++) {
            disks[i] = make_pipe();
            g_assert_true(add(&disks[i], &disks[i]));
        }
        g_assert_cmpuint(pending_reads_count(pending), ==, N_DISKS);
        g_assert_null(take());
        for (unsigned n = N_DISKS; n > 0; n--) {
            unsigned i = (n * 7) % N_DISKS; /* each once */
            Pipe *taken;

            write_to(&disks[i], READ_BYTES);
            pending_reads_wait(pending);
            taken = take();
            g_assert_true(taken == &disks[i]);
            g_assert_false(is_taken[i]);
            is_taken[i] = true;
            g_assert_null(take());
            g_assert_cmpuint(pending_reads_count(pending), ==, n - 1);
        }
        for (unsigned i = 0; i < N_DISKS; i++)
            close_pipe(&disks[i]);
    }
    tear_down();
}

/* A wait ends with the first of both: a request, or bytes from the disk. */
static void
test_wait_or_receive(void)
{
    Pipe disk = make_pipe();
    char byte;

    if (set_up()) {
        g_assert_true(add(&disk, &disk));
        for (unsigned i = 0; i < 3; i++) {
            write_to(&device, 1);
            pending_reads_wait_or_receive(pending);
            g_assert_null(take());
            g_assert_cmpint(read(device.fds[0], &byte, 1), ==, 1);
        }
        write_to(&disk, READ_BYTES);
        while (pending_reads_count(pending) > 0) {
            pending_reads_wait_or_receive(pending);
            if (take())
                g_assert_cmpuint(pending_reads_count(pending), ==, 0);
        }
    }
    tear_down();
    close_pipe(&disk);
}

static void
test_failing_read(void)
{
    QimgReadPlace place = {.fd = -1, .length_bytes = READ_BYTES};
    const uint8_t *bytes;
    int n_bytes = 0;

    if (set_up()) {
        g_assert_true(pending_reads_add(pending, place, true, &place));
        pending_reads_wait(pending);
        g_assert_true(pending_reads_take(pending, &bytes, &n_bytes) == &place);
        g_assert_cmpint(n_bytes, ==, -EBADF);
    }
    tear_down();
}

/* Each kept read has its own bytes, also after others have been taken and added. */
static void
test_kept(void)
{
    Pipe disks[N_DISKS];

    if (set_up()) {
        for (unsigned i = 0; i < N_DISKS; i++) {
            QimgReadPlace place = {.length_bytes = 2};

            disks[i] = make_pipe();
            place.fd = disks[i].fds[0];
            g_assert_true(pending_reads_add(pending, place, true, &disks[i]));
        }
        for (unsigned round = 0; round < 3; round++)
            for (unsigned n = 0; n < N_DISKS; n++) {
                unsigned i = (n * 5 + round) % N_DISKS;
                QimgReadPlace place = {.fd = disks[i].fds[0], .length_bytes = 2};
                const uint8_t wanted[] = {(uint8_t)i, (uint8_t)round};
                const uint8_t *bytes;
                int n_bytes;

                g_assert_cmpint(write(disks[i].fds[1], wanted, 2), ==, 2);
                pending_reads_wait(pending);
                g_assert_true(pending_reads_take(pending, &bytes, &n_bytes) == &disks[i]);
                g_assert_cmpmem(bytes, (gsize)n_bytes, wanted, sizeof wanted);
                g_assert_true(pending_reads_add(pending, place, true, &disks[i]));
            }
        for (unsigned i = 0; i < N_DISKS; i++)
            close_pipe(&disks[i]); /* ends their reads */
    }
    tear_down();
}

/* The number is bounded; refused ones leave no trace. */
static void
test_too_many(void)
{
    Pipe disk = make_pipe();
    unsigned n = 0;

    if (set_up()) {
        while (n < N_TOO_MANY && add(&disk, &disk))
            n++;
        g_assert_cmpuint(n, >=, N_DISKS);
        g_assert_cmpuint(n, <, N_TOO_MANY);
        g_assert_cmpuint(pending_reads_count(pending), ==, n);
        for (; n > 0; n--) {
            write_to(&disk, READ_BYTES);
            pending_reads_wait(pending);
            g_assert_true(take() == &disk);
        }
        g_assert_cmpuint(pending_reads_count(pending), ==, 0);
        g_assert_true(add(&disk, &disk));
        write_to(&disk, READ_BYTES);
        pending_reads_wait(pending);
        g_assert_nonnull(take());
    }
    tear_down();
    close_pipe(&disk);
}

static void
test_expectation(void)
{
    unsigned n_expected = 0;

    if (set_up()) {
        g_assert_false(pending_reads_expect_wait(pending));
        for (unsigned i = 0; i < N_DISKS; i++)
            pending_reads_note(pending, true);
        for (unsigned i = 0; i < N_LOOKED_AT; i++)
            n_expected += pending_reads_expect_wait(pending);
        g_assert_cmpuint(n_expected, >=, N_LOOKED_AT / 2);
        g_assert_cmpuint(n_expected, <, N_LOOKED_AT);
        pending_reads_note(pending, false);
        g_assert_false(pending_reads_expect_wait(pending));
    }
    tear_down();
}

/* The descriptor of the only ring of this process. */
static int
find_ring(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *path = g_strconcat("/proc/self/fd/", name, NULL);
        g_autofree char *target = g_file_read_link(path, NULL);

        if (target && strstr(target, "io_uring"))
            return atoi(name);
    }
    return -1;
}

/* The ring can only read: its restrictions are in force, and they name nothing else. */
static void
test_restricted(void)
{
    struct io_uring_probe *probe = g_malloc0(sizeof *probe + 256 * sizeof probe->ops[0]);

    if (set_up()) {
        int ring_fd = find_ring();

        g_assert_cmpint(ring_fd, >=, 0);
        g_assert_cmpint((int)syscall(__NR_io_uring_register, ring_fd,
                                     IORING_REGISTER_PROBE, probe, 256),
                        ==, -1);
        g_assert_cmpint(errno, ==, EACCES);
    }
    tear_down();
    g_free(probe);
}

static bool
is_nonblocking(int fd)
{
    return fcntl(fd, F_GETFL) & O_NONBLOCK;
}

/* Receiving waits only if no thread has pending reads, and all is calm. */
static void
test_device(void)
{
    Pipe ends = make_pipe();
    int fd = ends.fds[0];
    Device *shared = device_new(fd);

    device_calm_down(shared);
    g_assert_false(is_nonblocking(fd));
    device_begin_polling(shared);
    g_assert_true(is_nonblocking(fd));
    device_begin_polling(shared);
    device_end_polling(shared);
    device_calm_down(shared); /* one is left */
    g_assert_true(is_nonblocking(fd));
    device_end_polling(shared);
    g_assert_true(is_nonblocking(fd));
    device_calm_down(shared);
    g_assert_false(is_nonblocking(fd));
    device_begin_polling(shared);
    g_assert_true(is_nonblocking(fd));
    write_to(&ends, 1);
    device_wait(shared);
    device_free(shared);
    close_pipe(&ends);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/pending-reads/together", test_together);
    g_test_add_func("/pending-reads/wait-or-receive", test_wait_or_receive);
    g_test_add_func("/pending-reads/failing-read", test_failing_read);
    g_test_add_func("/pending-reads/kept", test_kept);
    g_test_add_func("/pending-reads/too-many", test_too_many);
    g_test_add_func("/pending-reads/expectation", test_expectation);
    g_test_add_func("/pending-reads/restricted", test_restricted);
    g_test_add_func("/device/polling", test_device);
    return g_test_run();
}
