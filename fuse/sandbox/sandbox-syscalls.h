/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The system calls of a running mount. */
#pragma once

#include <stdbool.h>

/* A sanitizer reports in its own way: it opens files, and starts a process that traces
 * this one. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANDBOX_HAS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||               \
    __has_feature(memory_sanitizer)
#define SANDBOX_HAS_SANITIZER 1
#endif
#endif
#ifndef SANDBOX_HAS_SANITIZER
#define SANDBOX_HAS_SANITIZER 0
#endif

/* Restricts the calling thread, and the threads that it makes, to the calls of a running
 * mount; with @has_dirs, also to those for following directories. Other calls fail with
 * ENOSYS or EPERM: killing the process would lose data over a call that a newer C library
 * may try. Returns 0 or a negated errno: -ENOSYS if the kernel has no filters, or this
 * build was made without. */
int sandbox_limit_syscalls(bool has_dirs);
