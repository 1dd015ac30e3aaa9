/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Loads the filter compiled from sandbox-calls.h at build time. */
#include "sandbox/sandbox-syscalls.h"

#include <errno.h>

#ifdef HAVE_SECCOMP

#include <glib.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox-filter.h" /* generated */
#include "sandbox/sandbox-calls.h"

#ifndef SECCOMP_FILTER_FLAG_SPEC_ALLOW
#define SECCOMP_FILTER_FLAG_SPEC_ALLOW (1ul << 2)
#endif

/* Fills in this process's number where the filter asks for it. */
static void
fill_in_pid(struct sock_filter *instructions, size_t n_instructions)
{
    for (size_t i = 0; i < n_instructions; i++)
        if (BPF_CLASS(instructions[i].code) == BPF_JMP &&
            instructions[i].k == CALL_OWN_PID)
            instructions[i].k = (uint32_t)getpid();
}

int
sandbox_limit_syscalls(bool has_dirs)
{
    const unsigned char *bytes = has_dirs ? filter_of_dirs : filter_of_images;
    size_t n_bytes = has_dirs ? sizeof filter_of_dirs : sizeof filter_of_images;
    g_autofree struct sock_filter *instructions = g_malloc(n_bytes);
    struct sock_fprog program = {.len = (unsigned short)(n_bytes / sizeof *instructions),
                                 .filter = instructions};

    memcpy(instructions, bytes, n_bytes);
    fill_in_pid(instructions, program.len);
    /* Turns off a costly defence against reading the process's own memory, if
     * possible. */
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                &program) == 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0)
        return 0;
    return errno == EINVAL ? -ENOSYS : -errno; /* EINVAL: a kernel without filters */
}

#else

int
sandbox_limit_syscalls(bool has_dirs)
{
    (void)has_dirs;
    return -ENOSYS;
}

#endif
