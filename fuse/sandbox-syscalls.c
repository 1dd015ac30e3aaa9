/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An allow list, since what a server calls is known: what libqimg, libfuse, GLib and the
 * C library need between the start and the end of a mount. A call that is missing here
 * fails with ENOSYS, for which the C library has other ways; those by which a process
 * gets out are named, and fail with EPERM, on all kernels alike. */
#include "sandbox-syscalls.h"

#include <errno.h>

#ifdef HAVE_SECCOMP

#include <glib.h>
#include <linux/fs.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static const int allowed[] = {
    /* Data of images and requests. */
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64),
    SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(preadv2),
    SCMP_SYS(pwritev2), SCMP_SYS(lseek), SCMP_SYS(_llseek), SCMP_SYS(fallocate),
    SCMP_SYS(ftruncate), SCMP_SYS(ftruncate64), SCMP_SYS(fsync), SCMP_SYS(fdatasync),
    SCMP_SYS(sync_file_range), SCMP_SYS(fadvise64), SCMP_SYS(fadvise64_64),
    SCMP_SYS(readahead), SCMP_SYS(copy_file_range), SCMP_SYS(splice), SCMP_SYS(vmsplice),
    SCMP_SYS(tee), SCMP_SYS(pipe), SCMP_SYS(pipe2),
    /* Files and descriptors; Landlock decides which can be opened. */
    SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(close), SCMP_SYS(close_range),
    SCMP_SYS(dup), SCMP_SYS(dup2), SCMP_SYS(dup3), SCMP_SYS(fcntl), SCMP_SYS(fcntl64),
    SCMP_SYS(flock), SCMP_SYS(fstat), SCMP_SYS(fstat64), SCMP_SYS(newfstatat),
    SCMP_SYS(fstatat64), SCMP_SYS(stat), SCMP_SYS(stat64), SCMP_SYS(lstat),
    SCMP_SYS(lstat64), SCMP_SYS(statx), SCMP_SYS(statfs), SCMP_SYS(statfs64),
    SCMP_SYS(fstatfs), SCMP_SYS(fstatfs64), SCMP_SYS(access), SCMP_SYS(faccessat),
    SCMP_SYS(faccessat2), SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(unlink),
    SCMP_SYS(unlinkat), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(ppoll_time64),
    SCMP_SYS(select), SCMP_SYS(_newselect), SCMP_SYS(pselect6), SCMP_SYS(eventfd2),
    /* Memory; also as a file, for what looks into partitions. */
    SCMP_SYS(memfd_create), SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap),
    SCMP_SYS(madvise), SCMP_SYS(mlock), SCMP_SYS(mlock2), SCMP_SYS(munlock),
    SCMP_SYS(membarrier),
    /* Threads, signals, the helper's end. */
    SCMP_SYS(futex), SCMP_SYS(futex_time64), SCMP_SYS(set_robust_list),
    SCMP_SYS(get_robust_list), SCMP_SYS(rseq), SCMP_SYS(set_tid_address), SCMP_SYS(exit),
    SCMP_SYS(exit_group), SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity),
    SCMP_SYS(getcpu), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn), SCMP_SYS(sigreturn), SCMP_SYS(rt_sigtimedwait),
    SCMP_SYS(rt_sigtimedwait_time64), SCMP_SYS(rt_sigpending), SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall), SCMP_SYS(wait4), SCMP_SYS(waitpid), SCMP_SYS(waitid),
    /* Time, chance, facts about the process and the machine. */
    SCMP_SYS(clock_gettime), SCMP_SYS(clock_gettime64), SCMP_SYS(clock_getres),
    SCMP_SYS(clock_getres_time64), SCMP_SYS(clock_nanosleep),
    SCMP_SYS(clock_nanosleep_time64), SCMP_SYS(nanosleep), SCMP_SYS(gettimeofday),
    SCMP_SYS(time), SCMP_SYS(getrandom), SCMP_SYS(getpid), SCMP_SYS(gettid),
    SCMP_SYS(getppid), SCMP_SYS(getuid), SCMP_SYS(getuid32), SCMP_SYS(geteuid),
    SCMP_SYS(geteuid32), SCMP_SYS(getgid), SCMP_SYS(getgid32), SCMP_SYS(getegid),
    SCMP_SYS(getegid32), SCMP_SYS(uname), SCMP_SYS(sysinfo), SCMP_SYS(getrusage),
    SCMP_SYS(getrlimit), SCMP_SYS(ugetrlimit),
    /* Messages to the system's log, which may be started anew meanwhile. */
    SCMP_SYS(connect), SCMP_SYS(send), SCMP_SYS(sendto), SCMP_SYS(sendmsg)};

static const int allowed_with_dirs[] = {
    SCMP_SYS(getdents), SCMP_SYS(getdents64), SCMP_SYS(inotify_init1),
    SCMP_SYS(inotify_add_watch), SCMP_SYS(inotify_rm_watch)};

#if !SANDBOX_HAS_SANITIZER
/* The ways out, which exist on kernels of all ages. */
static const int refused[] = {SCMP_SYS(execve),
                              SCMP_SYS(execveat),
                              SCMP_SYS(fork),
                              SCMP_SYS(vfork),
                              SCMP_SYS(ptrace),
                              SCMP_SYS(process_vm_readv),
                              SCMP_SYS(process_vm_writev),
                              SCMP_SYS(kill),
                              SCMP_SYS(mount),
                              SCMP_SYS(umount),
                              SCMP_SYS(umount2),
                              SCMP_SYS(fsopen),
                              SCMP_SYS(fsmount),
                              SCMP_SYS(open_tree),
                              SCMP_SYS(move_mount),
                              SCMP_SYS(pivot_root),
                              SCMP_SYS(chroot),
                              SCMP_SYS(unshare),
                              SCMP_SYS(setns),
                              SCMP_SYS(open_by_handle_at),
                              SCMP_SYS(bpf),
                              SCMP_SYS(perf_event_open),
                              SCMP_SYS(userfaultfd),
                              SCMP_SYS(io_uring_setup),
                              SCMP_SYS(keyctl),
                              SCMP_SYS(add_key),
                              SCMP_SYS(request_key),
                              SCMP_SYS(init_module),
                              SCMP_SYS(finit_module),
                              SCMP_SYS(delete_module),
                              SCMP_SYS(kexec_load),
                              SCMP_SYS(kexec_file_load),
                              SCMP_SYS(reboot),
                              SCMP_SYS(swapon),
                              SCMP_SYS(swapoff),
                              SCMP_SYS(setuid),
                              SCMP_SYS(setgid),
                              SCMP_SYS(setreuid),
                              SCMP_SYS(setregid),
                              SCMP_SYS(setresuid),
                              SCMP_SYS(setresgid),
                              SCMP_SYS(setgroups),
                              SCMP_SYS(capset)};
#else
/* LeakSanitizer traces the process from a copy of it; a report is symbolized by another
 * program, and has colours where it goes to a terminal. */
static const int allowed_for_reports[] = {SCMP_SYS(ptrace),
                                          SCMP_SYS(clone),
                                          SCMP_SYS(fork),
                                          SCMP_SYS(vfork),
                                          SCMP_SYS(execve),
                                          SCMP_SYS(kill),
                                          SCMP_SYS(tgkill),
                                          SCMP_SYS(tkill),
                                          SCMP_SYS(prctl),
                                          SCMP_SYS(ioctl),
                                          SCMP_SYS(personality),
                                          SCMP_SYS(getdents),
                                          SCMP_SYS(getdents64),
                                          SCMP_SYS(getcwd),
                                          SCMP_SYS(mmap),
                                          SCMP_SYS(mmap2),
                                          SCMP_SYS(mprotect),
                                          SCMP_SYS(mincore),
                                          SCMP_SYS(prlimit64),
                                          SCMP_SYS(setrlimit),
                                          SCMP_SYS(rename),
                                          SCMP_SYS(mkdir),
                                          SCMP_SYS(process_vm_readv),
                                          SCMP_SYS(socket)};
#endif

/* Adds rules until one fails; then does nothing. */
typedef struct {
    scmp_filter_ctx filter;
    int err;
} Rules;

static void
add(Rules *rules, uint32_t action, int number)
{
    if (rules->err == 0)
        rules->err = seccomp_rule_add(rules->filter, action, number, 0);
}

static void
add_list(Rules *rules, uint32_t action, const int *numbers, size_t n_numbers)
{
    for (size_t i = 0; i < n_numbers; i++)
        add(rules, action, numbers[i]);
}

#if !SANDBOX_HAS_SANITIZER
static void
add_if(Rules *rules, uint32_t action, int number, struct scmp_arg_cmp condition)
{
    if (rules->err == 0)
        rules->err = seccomp_rule_add(rules->filter, action, number, 1, condition);
}

/* Calls that are allowed for one purpose of many. */
static void
add_conditional(Rules *rules)
{
    static const unsigned long requests[] = {BLKGETSIZE64, BLKDISCARD, BLKZEROOUT};
    const uint32_t refusal = SCMP_ACT_ERRNO(EPERM);

    for (size_t i = 0; i < G_N_ELEMENTS(requests); i++)
        add_if(rules, SCMP_ACT_ALLOW, SCMP_SYS(ioctl),
               SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, requests[i]));
    /* Memory holds data or code, and all the code is there. */
    add_if(rules, SCMP_ACT_ALLOW, SCMP_SYS(mmap),
           SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    add_if(rules, SCMP_ACT_ALLOW, SCMP_SYS(mmap2),
           SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    add_if(rules, SCMP_ACT_ALLOW, SCMP_SYS(mprotect),
           SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    /* Threads, and no processes. clone3 cannot be looked into, so it is not there: the C
     * library then takes clone. */
    add_if(rules, SCMP_ACT_ALLOW, SCMP_SYS(clone),
           SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
    add_if(rules, refusal, SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
    add_if(rules, SCMP_ACT_ALLOW, SCMP_SYS(tgkill),
           SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
    add_if(rules, SCMP_ACT_ALLOW, SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
    add_if(rules, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), SCMP_A2(SCMP_CMP_EQ, 0));
    add_if(rules, SCMP_ACT_ALLOW, SCMP_SYS(socket), SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
    add_if(rules, refusal, SCMP_SYS(socket), SCMP_A0(SCMP_CMP_NE, AF_UNIX));
}
#endif

int
sandbox_limit_syscalls(bool has_dirs)
{
    Rules rules = {.filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS))};

    if (!rules.filter)
        return -ENOMEM;
    /* Not worth a word where they are missing: the order of the comparisons, and doing
     * without a costly defence against reading one's own memory. */
    seccomp_attr_set(rules.filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    seccomp_attr_set(rules.filter, SCMP_FLTATR_CTL_SSB, 1);
    seccomp_attr_set(rules.filter, SCMP_FLTATR_API_SYSRAWRC, 1);
    add_list(&rules, SCMP_ACT_ALLOW, allowed, G_N_ELEMENTS(allowed));
    if (has_dirs)
        add_list(&rules, SCMP_ACT_ALLOW, allowed_with_dirs,
                 G_N_ELEMENTS(allowed_with_dirs));
#if SANDBOX_HAS_SANITIZER
    add_list(&rules, SCMP_ACT_ALLOW, allowed_for_reports,
             G_N_ELEMENTS(allowed_for_reports));
#else
    add_conditional(&rules);
    add_list(&rules, SCMP_ACT_ERRNO(EPERM), refused, G_N_ELEMENTS(refused));
#endif
    if (rules.err == 0)
        rules.err = seccomp_load(rules.filter);
    seccomp_release(rules.filter);
    /* EINVAL: a kernel without filters. */
    return rules.err == -EINVAL ? -ENOSYS : rules.err;
}

#else

int
sandbox_limit_syscalls(bool has_dirs)
{
    (void)has_dirs;
    return -ENOSYS;
}

#endif
