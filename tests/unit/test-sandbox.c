/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuse/sandbox/sandbox.c, and the calls of fuse/sandbox/sandbox-syscalls.c: the permitted
 * and refused actions of a confined process. Each case is a separate process. */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef HAVE_SECCOMP
#include <seccomp.h>

#include "sandbox/sandbox-calls.h"
#endif
#include "sandbox/sandbox-syscalls.h"
#include "sandbox/sandbox.h"
#include "test-util.h"

static char *dir;       /* with "read/file", "write/file", "remove/file", "other/file" */
static int open_fd;     /* a file opened before, */
static int open_socket; /* and a socket */
static bool has_files;  /* whether the kernel limits files, */
static bool has_calls;  /* and calls */

static char *
in_dir(const char *name)
{
    return g_build_filename(dir, name, NULL);
}

static int
errno_of(long result)
{
    return result < 0 ? errno : 0;
}

static int
errno_of_open(const char *name, int flags)
{
    g_autofree char *path = in_dir(name);
    int fd = open(path, flags | O_CLOEXEC, 0600);
    int err = errno_of(fd);

    if (fd >= 0)
        close(fd);
    return err;
}

static int
errno_of_unlink(const char *name)
{
    g_autofree char *path = in_dir(name);

    return errno_of(unlink(path));
}

/* ---- the cases: each returns the errno that it met ---- */

static int
open_elsewhere(void)
{
    int fd = open("/etc/passwd", O_RDONLY);

    return errno_of(fd);
}

static int
open_of_other_dir(void)
{
    return errno_of_open("other/file", O_RDONLY);
}

static int
list_other_dir(void)
{
    return errno_of_open("other", O_RDONLY | O_DIRECTORY);
}

static int
open_beneath_read(void)
{
    return errno_of_open("read/file", O_RDONLY);
}

static int
list_read_dir(void)
{
    return errno_of_open("read", O_RDONLY | O_DIRECTORY);
}

static int
write_beneath_read(void)
{
    return errno_of_open("read/file", O_RDWR);
}

static int
leave_read_dir(void)
{
    return errno_of_open("read/../other/file", O_RDONLY);
}

static int
follow_link_out(void)
{
    return errno_of_open("read/link", O_RDONLY);
}

static int
write_beneath_write(void)
{
    return errno_of_open("write/file", O_RDWR | O_TRUNC);
}

static int
create_beneath_write(void)
{
    return errno_of_open("write/new", O_RDWR | O_CREAT | O_EXCL);
}

static int
create_beneath_read(void)
{
    return errno_of_open("read/new", O_RDWR | O_CREAT | O_EXCL);
}

static int
remove_beneath_remove(void)
{
    return errno_of_unlink("remove/file");
}

static int
remove_beneath_read(void)
{
    return errno_of_unlink("read/file");
}

static int
use_open_file(void)
{
    char bytes[4];
    const struct iovec part = {bytes, sizeof bytes};

    if (pread(open_fd, bytes, sizeof bytes, 0) != 4 ||
        preadv2(open_fd, &part, 1, 0, 0) != 4 || pwritev(open_fd, &part, 1, 4096) != 4 ||
        ftruncate(open_fd, 100) < 0 || fdatasync(open_fd) < 0)
        return errno;
    return 0;
}

static int
reopen_open_file(void)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", open_fd);

    return errno_of(open(path, O_RDWR));
}

static int
start_program(void)
{
    char *argv[] = {"true", NULL};

    return errno_of(execv("/bin/true", argv));
}

static int
make_process(void)
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(0);
    return errno_of(pid);
}

static int
trace(void)
{
    return errno_of(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
}

static int
use_network(void)
{
    return errno_of(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

static int
use_netlink(void)
{
    return errno_of(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0));
}

static int
use_local_socket(void)
{
    return errno_of(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
}

static int
make_pair_of_sockets(void)
{
    int fds[2];

    return errno_of(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
}

/* Through an existing socket. */
static int
send_to_address(void)
{
    const struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};

    return errno_of(sendto(open_socket, "x", 1, 0, (const struct sockaddr *)&address,
                           sizeof address));
}

static int
connect_open_socket(void)
{
    const struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};

    return errno_of(
        connect(open_socket, (const struct sockaddr *)&address, sizeof address));
}

/* Could pass a descriptor on. */
static int
send_message(void)
{
    const struct msghdr message = {0};

    return errno_of(sendmsg(open_socket, &message, 0));
}

static int
signal_by_owner(void)
{
    return errno_of(fcntl(open_socket, F_SETOWN, getppid()));
}

static int
signal_thread_of_parent(void)
{
    return errno_of(syscall(SYS_tgkill, getppid(), getppid(), 0));
}

static int
signal_own_thread(void)
{
    return errno_of(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), 0));
}

static int
limit_parent(void)
{
    return errno_of(syscall(SYS_prlimit64, getppid(), 0, NULL, NULL));
}

static int
look_at_processors_of_parent(void)
{
    unsigned long mask[64];

    return errno_of(syscall(SYS_sched_getaffinity, getppid(), sizeof mask, mask));
}

static int
control_terminal(void)
{
    return errno_of(ioctl(open_fd, TIOCSTI, "x"));
}

static int
make_process_by_clone(void)
{
    return errno_of(syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0));
}

static int
change_mode(void)
{
    return errno_of(fchmod(open_fd, 0777));
}

static int
mount_something(void)
{
    return errno_of(mount("none", dir, "tmpfs", 0, NULL));
}

static int
unmount_something(void)
{
    return errno_of(umount2("/", MNT_DETACH));
}

static int
load_program_into_kernel(void)
{
    return errno_of(syscall(SYS_bpf, 0, NULL, 0));
}

static int
make_ring(void)
{
    return errno_of(syscall(SYS_io_uring_setup, 1, NULL));
}

static int
use_keys(void)
{
    return errno_of(syscall(SYS_keyctl, 0, -3, 0));
}

static int
make_namespace(void)
{
    return errno_of(unshare(CLONE_NEWUSER));
}

static int
signal_parent(void)
{
    return errno_of(kill(getppid(), 0));
}

static int
become_somebody(void)
{
    return errno_of(syscall(SYS_setuid, 0));
}

static int
make_code(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return page == MAP_FAILED ? errno : 0;
}

static int
make_code_later(void)
{
    void *page =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return page == MAP_FAILED ? EINVAL
                              : errno_of(mprotect(page, 4096, PROT_READ | PROT_EXEC));
}

static int
call_unknown(void)
{
    return errno_of(syscall(SYS_personality, 0xffffffff));
}

static void *
sleep_for_ever(void *user)
{
    for (;;)
        pause();
    return user;
}

/* The needs of serving: threads are created, signalled and cancelled. */
static int
use_threads(void)
{
    pthread_t thread;
    int err = pthread_create(&thread, NULL, sleep_for_ever, NULL);

    if (err || (err = pthread_cancel(thread)))
        return err;
    return pthread_join(thread, NULL);
}

typedef enum {
    ANYWHERE,
    BY_FILES, /* needs Landlock */
    BY_CALLS, /* needs seccomp */
} Means;

static const struct {
    const char *name;
    int (*act)(void);
    Means means;
    int expected;
} cases[] = {
    {"open-elsewhere", open_elsewhere, BY_FILES, EACCES},
    {"open-of-other-dir", open_of_other_dir, BY_FILES, EACCES},
    {"list-other-dir", list_other_dir, BY_FILES, EACCES},
    {"open-beneath-read", open_beneath_read, ANYWHERE, 0},
    {"list-read-dir", list_read_dir, ANYWHERE, 0},
    {"write-beneath-read", write_beneath_read, BY_FILES, EACCES},
    {"leave-read-dir", leave_read_dir, BY_FILES, EACCES},
    {"follow-link-out", follow_link_out, BY_FILES, EACCES},
    {"write-beneath-write", write_beneath_write, ANYWHERE, 0},
    {"create-beneath-write", create_beneath_write, ANYWHERE, 0},
    {"create-beneath-read", create_beneath_read, BY_FILES, EACCES},
    {"remove-beneath-remove", remove_beneath_remove, ANYWHERE, 0},
    {"remove-beneath-read", remove_beneath_read, BY_FILES, EACCES},
    {"use-open-file", use_open_file, ANYWHERE, 0},
    {"reopen-open-file", reopen_open_file, BY_FILES, EACCES},
    {"start-program", start_program, BY_CALLS, EPERM},
    {"make-process", make_process, BY_CALLS, ENOSYS},
    {"trace", trace, BY_CALLS, EPERM},
    {"use-network", use_network, BY_CALLS, EPERM},
    {"use-netlink", use_netlink, BY_CALLS, EPERM},
    {"use-local-socket", use_local_socket, BY_CALLS, EPERM},
    {"make-pair-of-sockets", make_pair_of_sockets, BY_CALLS, EPERM},
    {"send-to-address", send_to_address, BY_CALLS, EPERM},
    {"connect-open-socket", connect_open_socket, BY_CALLS, EPERM},
    {"send-message", send_message, BY_CALLS, EPERM},
    {"signal-by-owner", signal_by_owner, BY_CALLS, ENOSYS},
    {"signal-thread-of-parent", signal_thread_of_parent, BY_CALLS, ENOSYS},
    {"signal-own-thread", signal_own_thread, ANYWHERE, 0},
    {"limit-parent", limit_parent, BY_CALLS, ENOSYS},
    {"look-at-processors-of-parent", look_at_processors_of_parent, BY_CALLS, ENOSYS},
    {"control-terminal", control_terminal, BY_CALLS, ENOSYS},
    {"make-process-by-clone", make_process_by_clone, BY_CALLS, ENOSYS},
    {"change-mode", change_mode, BY_CALLS, ENOSYS},
    {"mount-something", mount_something, BY_CALLS, EPERM},
    {"unmount-something", unmount_something, BY_CALLS, EPERM},
    {"load-program-into-kernel", load_program_into_kernel, BY_CALLS, EPERM},
    {"make-ring", make_ring, BY_CALLS, EPERM},
    {"use-keys", use_keys, BY_CALLS, EPERM},
    {"make-namespace", make_namespace, BY_CALLS, EPERM},
    {"signal-parent", signal_parent, BY_CALLS, EPERM},
    {"become-somebody", become_somebody, BY_CALLS, EPERM},
    {"make-code", make_code, BY_CALLS, ENOSYS},
    {"make-code-later", make_code_later, BY_CALLS, ENOSYS},
    {"call-unknown", call_unknown, BY_CALLS, ENOSYS},
    {"use-threads", use_threads, ANYWHERE, 0},
};

static Sandbox *
make_sandbox(void)
{
    static const struct {
        const char *name;
        unsigned access;
    } rules[] = {{"read", SANDBOX_READ},
                 {"write", SANDBOX_READ | SANDBOX_WRITE},
                 {"remove", SANDBOX_REMOVE},
                 {"not-there", SANDBOX_READ}};
    Sandbox *sandbox = sandbox_new();

    for (size_t i = 0; i < G_N_ELEMENTS(rules); i++) {
        g_autofree char *path = in_dir(rules[i].name);

        sandbox_allow(sandbox, path, rules[i].access);
    }
    return sandbox;
}

/* Runs @act in a confined process; returns its result, or 255. */
static int
run_confined(Sandbox *sandbox, int (*act)(void))
{
    int status = 0;
    pid_t pid = fork();

    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        g_autofree char *report = NULL;
        g_autoptr(GError) error = NULL;

        if (!sandbox_enter(sandbox, &report, &error))
            _exit(255);
        _exit(act());
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void
test_case(gconstpointer user)
{
    size_t i = GPOINTER_TO_SIZE(user);
    g_autoptr(Sandbox) sandbox = make_sandbox();

    if (SANDBOX_HAS_SANITIZER && cases[i].means != ANYWHERE) {
        g_test_skip("a sanitizer's reports take files and calls");
        return;
    }
    if ((cases[i].means == BY_FILES && !has_files) ||
        (cases[i].means == BY_CALLS && !has_calls)) {
        g_test_skip(has_calls ? "no Landlock here" : "no seccomp here");
        return;
    }
    g_assert_cmpint(run_confined(sandbox, cases[i].act), ==, cases[i].expected);
}

static int
read_status(void)
{
    char text[4096];
    ssize_t n = pread(open_fd, text, sizeof text - 1, 0);

    if (n <= 0)
        return EIO;
    text[n] = '\0';
    return strstr(text, "\nCapEff:\t0000000000000000\n") &&
                   strstr(text, "\nCapPrm:\t0000000000000000\n") &&
                   strstr(text, "\nNoNewPrivs:\t1\n") &&
                   (!has_calls || strstr(text, "\nSeccomp:\t2\n"))
               ? 0
               : ENOTEMPTY;
}

/* No capability, for a mount of images alone: according to the kernel, read through a
 * file opened before. */
static void
test_status(void)
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        g_autoptr(Sandbox) sandbox = sandbox_new();
        g_autofree char *report = NULL;

        open_fd = open("/proc/self/status", O_RDONLY);
        _exit(sandbox_enter(sandbox, &report, NULL) ? read_status() : 255);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(WEXITSTATUS(status), ==, 0);
}

/* ---- each call ---- */

#ifdef HAVE_SECCOMP

enum {
    N_CALLS = 1024,
    NOT_REFUSED = 1,
};

/* Calls that do not return. */
static bool
is_end(const char *name)
{
    return g_str_equal(name, "exit") || g_str_equal(name, "exit_group") ||
           g_str_has_suffix(name, "sigreturn");
}

static bool
is_refusal(long result)
{
    return result == -1 && (errno == ENOSYS || errno == EPERM);
}

/* Calls @number with invalid arguments, except @value. */
static long
call_with(long number, unsigned argument, uint64_t value)
{
    long a[] = {-1, -1, -1, -1, -1, -1};

    a[argument] = (long)value;
    return syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static const AllowedCall *tried;

static int
try_call(void)
{
    int number = seccomp_syscall_resolve_name(tried->name);
    uint64_t value = tried->wanted == CALL_OWN_PID ? (uint64_t)getpid() : tried->wanted;
    long result = call_with(number, tried->argument, tried->mask ? value : UINT64_MAX);

    /* Not all operations of a futex exist, but 0 does. */
    if (is_refusal(result) && !tried->mask)
        result = syscall(number, 0, 0, 0, 0, 0, 0);
    return is_refusal(result) ? errno : 0;
}

/* Each row has a user, and none is refused. */
static void
test_allowed(void)
{
    g_autoptr(Sandbox) sandbox = make_sandbox();

    for (size_t i = 0; i < G_N_ELEMENTS(sandbox_calls); i++) {
        tried = &sandbox_calls[i];
        g_assert_cmpint(strlen(tried->user), >, 3);
        if (tried->scope == CALL_WITH_SANITIZER || is_end(tried->name) ||
            seccomp_syscall_resolve_name(tried->name) < 0)
            continue; /* another machine's; each case tries how a process ends */
        g_test_message("%s", tried->name);
        g_assert_cmpint(run_confined(sandbox, try_call), ==, 0);
    }
}

static const bool *is_listed;

/* uretprobe and uprobe, which the kernel never filters: they work only for its own
 * trampoline and are SIGILL elsewhere. */
static bool
is_trampoline(int number)
{
#ifdef __x86_64__
    return number == 335 || number == 336;
#else
    return number < 0;
#endif
}

static int
try_all_others(void)
{
    for (int number = 0; number < N_CALLS; number++)
        if (!is_listed[number] && !is_trampoline(number) &&
            !is_refusal(call_with(number, 0, UINT64_MAX))) {
            g_autofree char *text = g_strdup_printf("system call %d is done\n", number);

            if (write(STDERR_FILENO, text, strlen(text)) < 0)
                return errno;
            return NOT_REFUSED;
        }
    return 0;
}

static void
test_all_others(void)
{
    static bool listed[N_CALLS];
    g_autoptr(Sandbox) with_dirs = make_sandbox();
    g_autoptr(Sandbox) without = sandbox_new();

    if (SANDBOX_HAS_SANITIZER || !has_calls) {
        g_test_skip("no filter, or one for a sanitizer's reports");
        return;
    }
    is_listed = listed;
    for (int is_with_dirs = 0; is_with_dirs < 2; is_with_dirs++) {
        for (size_t i = 0; i < G_N_ELEMENTS(sandbox_calls); i++) {
            const AllowedCall *call = &sandbox_calls[i];
            int number = seccomp_syscall_resolve_name(call->name);

            if (number >= 0 && (call->scope == CALL_ALWAYS ||
                                (is_with_dirs && call->scope == CALL_WITH_DIRS)))
                listed[number] = true;
        }
        g_assert_cmpint(run_confined(is_with_dirs ? with_dirs : without, try_all_others),
                        ==, 0);
    }
}

/* Calls with a condition are refused if it is not met. */
static int
try_without_condition(void)
{
    return is_refusal(call_with(seccomp_syscall_resolve_name(tried->name),
                                tried->argument, tried->wanted ? 0 : UINT64_MAX))
               ? 0
               : NOT_REFUSED;
}

static void
test_conditions(void)
{
    g_autoptr(Sandbox) sandbox = make_sandbox();

    if (SANDBOX_HAS_SANITIZER || !has_calls) {
        g_test_skip("no filter, or one for a sanitizer's reports");
        return;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(sandbox_calls); i++) {
        tried = &sandbox_calls[i];
        if (!tried->mask || seccomp_syscall_resolve_name(tried->name) < 0)
            continue;
        g_test_message("%s", tried->name);
        g_assert_cmpint(run_confined(sandbox, try_without_condition), ==, 0);
    }
}

#endif

/* ---- set up ---- */

static void
make_files(void)
{
    static const char *const names[] = {"read", "write", "remove", "other"};
    g_autofree char *link = NULL;
    g_autofree char *target = NULL;

    dir = g_dir_make_tmp("test-sandbox-XXXXXX", NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *sub_dir = in_dir(names[i]);
        g_autofree char *file = g_build_filename(sub_dir, "file", NULL);

        g_assert_cmpint(g_mkdir(sub_dir, 0700), ==, 0);
        g_assert_true(g_file_set_contents(file, "text", -1, NULL));
    }
    link = in_dir("read/link");
    target = in_dir("other/file");
    g_assert_cmpint(symlink(target, link), ==, 0);
    open_fd = open(target, O_RDWR | O_CLOEXEC);
    open_socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

static void
remove_files(void)
{
    static const char *const names[] = {"read/file",
                                        "read/link",
                                        "write/file",
                                        "write/new",
                                        "remove/file",
                                        "other/file",
                                        "read",
                                        "write",
                                        "remove",
                                        "other",
                                        ""};

    close(open_fd);
    close(open_socket);
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = in_dir(names[i]);

        (void)remove(path);
    }
    g_free(dir);
}

/* The features of this kernel, according to the sandbox itself. */
static void
find_means(void)
{
    int fds[2], status;
    char text[512] = "";

    g_assert_cmpint(pipe(fds), ==, 0);
    if (fork() == 0) {
        g_autoptr(Sandbox) sandbox = sandbox_new();
        g_autofree char *report = NULL;

        if (sandbox_enter(sandbox, &report, NULL) &&
            write(fds[1], report, strlen(report)) < 0)
            _exit(1);
        _exit(0);
    }
    g_assert_cmpint(wait(&status), >, 0);
    g_assert_cmpint(status, ==, 0);
    g_assert_cmpint(read(fds[0], text, sizeof text - 1), >, 0);
    close(fds[0]);
    close(fds[1]);
    has_files = strstr(text, "no other files (Landlock)") != NULL;
    has_calls = strstr(text, "no needless system calls (seccomp)") != NULL;
    g_test_message("%s", text);
}

int
main(int argc, char **argv)
{
    int result;

    g_test_init(&argc, &argv, NULL);
    make_files();
    find_means();
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strconcat("/sandbox/", cases[i].name, NULL);

        g_test_add_data_func(path, GSIZE_TO_POINTER(i), test_case);
    }
    g_test_add_func("/sandbox/status", test_status);
#ifdef HAVE_SECCOMP
    g_test_add_func("/sandbox/calls/allowed", test_allowed);
    g_test_add_func("/sandbox/calls/all-others", test_all_others);
    g_test_add_func("/sandbox/calls/conditions", test_conditions);
#endif
    result = g_test_run();
    remove_files();
    return result;
}
