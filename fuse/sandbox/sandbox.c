/* SPDX-License-Identifier: GPL-2.0-or-later */
/* In this order, each step covers the gaps of the previous one: no new privileges by
 * starting a program, no files by name and no network (Landlock), no capabilities, and no
 * system calls without use in a running mount (seccomp). */
#include "sandbox/sandbox.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "qimg.h"
#include "sandbox/sandbox-syscalls.h"

#if __has_include(<linux/landlock.h>)
#include <linux/landlock.h>
#define HAVE_LANDLOCK 1
#else
#define HAVE_LANDLOCK 0
#endif

typedef struct {
    int fd; /* O_PATH: stays the same directory or file if its path changes */
    unsigned access;
} Rule;

struct Sandbox {
    GArray *rules; /* Rule */
};

static void
clear_rule(void *rule)
{
    close(((Rule *)rule)->fd);
}

Sandbox *
sandbox_new(void)
{
    Sandbox *sandbox = g_new0(Sandbox, 1);

    sandbox->rules = g_array_new(FALSE, FALSE, sizeof(Rule));
    g_array_set_clear_func(sandbox->rules, clear_rule);
    return sandbox;
}

void
sandbox_free(Sandbox *sandbox)
{
    if (!sandbox)
        return;
    g_array_unref(sandbox->rules);
    g_free(sandbox);
}

void
sandbox_allow(Sandbox *sandbox, const char *path, unsigned access)
{
    Rule rule = {open(path, O_PATH | O_CLOEXEC), access};

    if (rule.fd >= 0)
        g_array_append_val(sandbox->rules, rule);
}

/* The allowed subset of READ and WRITE over all files. */
static unsigned
access_of_files(const Sandbox *sandbox)
{
    unsigned access = 0;

    for (guint i = 0; i < sandbox->rules->len; i++)
        access |= g_array_index(sandbox->rules, Rule, i).access;
    return access & (SANDBOX_READ | SANDBOX_WRITE);
}

/* ---- Landlock ---- */

#if HAVE_LANDLOCK

/* Missing in the headers of older kernels. */
#define ACCESS_REFER     (UINT64_C(1) << 13) /* ABI 2 */
#define ACCESS_TRUNCATE  (UINT64_C(1) << 14) /* ABI 3 */
#define ACCESS_IOCTL_DEV (UINT64_C(1) << 15) /* ABI 5 */
#define ACCESS_ALL       (ACCESS_IOCTL_DEV * 2 - 1)
#define NET_TCP          UINT64_C(3) /* ABI 4: bind and connect */
#define SCOPE_ALL        UINT64_C(3) /* ABI 6: abstract sockets of others, signals to them */

typedef struct {
    uint64_t access_files, access_net, scopes;
} RulesetAttributes;

/* The accesses refused from @abi on; accesses unknown to an older kernel stay allowed. */
static RulesetAttributes
attributes_of(long abi)
{
    uint64_t files = ACCESS_ALL;

    if (abi < 5)
        files &= ~ACCESS_IOCTL_DEV;
    if (abi < 3)
        files &= ~ACCESS_TRUNCATE;
    if (abi < 2)
        files &= ~ACCESS_REFER;
    return (RulesetAttributes){
        .access_files = files,
        .access_net = abi >= 4 ? NET_TCP : 0,
        .scopes = abi >= 6 ? SCOPE_ALL : 0,
    };
}

static uint64_t
rights_of(unsigned access, bool is_dir)
{
    uint64_t rights = 0;

    if (access & SANDBOX_READ)
        rights |= LANDLOCK_ACCESS_FS_READ_FILE;
    if (access & SANDBOX_WRITE)
        rights |= LANDLOCK_ACCESS_FS_WRITE_FILE | ACCESS_TRUNCATE;
    if (!is_dir)
        return rights; /* the others are refused for files */
    if (access & SANDBOX_READ)
        rights |= LANDLOCK_ACCESS_FS_READ_DIR;
    if (access & SANDBOX_WRITE)
        rights |= LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE;
    if (access & SANDBOX_REMOVE)
        rights |= LANDLOCK_ACCESS_FS_REMOVE_FILE;
    return rights;
}

/* Returns 0 or a negated errno. */
static int
add_rule(int ruleset_fd, Rule rule, uint64_t handled)
{
    struct landlock_path_beneath_attr beneath = {.parent_fd = rule.fd};
    struct stat status;

    if (fstat(rule.fd, &status) < 0)
        return -errno;
    beneath.allowed_access = rights_of(rule.access, S_ISDIR(status.st_mode)) & handled;
    if (beneath.allowed_access && syscall(SYS_landlock_add_rule, ruleset_fd,
                                          LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) < 0)
        return -errno;
    return 0;
}

static int
add_rules(const Sandbox *sandbox, int ruleset_fd, uint64_t handled)
{
    int err = 0;

    for (guint i = 0; i < sandbox->rules->len && err == 0; i++)
        err = add_rule(ruleset_fd, g_array_index(sandbox->rules, Rule, i), handled);
    return err;
}

/* Returns the ABI, 0 where there is none, or a negated errno. */
static long
limit_files(const Sandbox *sandbox)
{
    long abi =
        syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    RulesetAttributes attributes;
    int fd, err;

    /* Landlock is not built in, not enabled at boot, or refused by a container's older
     * filter. */
    if (abi < 0)
        return errno == ENOSYS || errno == EOPNOTSUPP || errno == EPERM ? 0 : -errno;
    attributes = attributes_of(abi);
    /* An older kernel accepts the longer struct if its unknown part is 0. */
    fd = (int)syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0);
    if (fd < 0)
        return -errno;
    err = add_rules(sandbox, fd, attributes.access_files);
    if (err == 0 && syscall(SYS_landlock_restrict_self, fd, 0) < 0)
        err = -errno;
    close(fd);
    return err ? err : abi;
}

#else

static long
limit_files(const Sandbox *sandbox)
{
    (void)sandbox;
    return 0;
}

#endif

/* ---- capabilities ---- */

/* Capabilities for opening other users' images below a directory: reading them in spite
 * of permission bits, and leaving their access time alone. */
static uint64_t
kept_capabilities(unsigned access)
{
    uint64_t kept = 0;

    if (access & SANDBOX_READ)
        kept |= UINT64_C(1) << CAP_DAC_READ_SEARCH | UINT64_C(1) << CAP_FOWNER;
    if (access & SANDBOX_WRITE)
        kept |= UINT64_C(1) << CAP_DAC_OVERRIDE;
    return kept;
}

/* Returns 0 or a negated errno. */
static int
drop_capabilities(unsigned access)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    uint64_t kept = kept_capabilities(access);

    if (syscall(SYS_capget, &header, data) < 0)
        return -errno;
    /* The capabilities gained by starting a program, up to the kernel's last one; EPERM
     * for processes that have none. */
    for (unsigned long i = 0; prctl(PR_CAPBSET_DROP, i, 0, 0, 0) == 0; i++)
        ;
    for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
        data[i].permitted &= (uint32_t)(kept >> 32 * i);
        data[i].effective = data[i].permitted;
        data[i].inheritable = 0;
    }
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

/* ---- the whole ---- */

/* Loads libraries that would otherwise be loaded at first use. */
static void
load_late_parts(void)
{
    /* The C library loads it for pthread_cancel; if it has another name or is linked
     * statically, that load does not happen either. */
    (void)dlopen("libgcc_s.so.1", RTLD_NOW | RTLD_NODELETE);
}

static bool
sandbox_fail(GError **error, const char *what, int err)
{
    g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED,
                "cannot confine the process: %s: %s (-o nosandbox does without)", what,
                g_strerror(-err));
    return false;
}

bool
sandbox_enter(Sandbox *sandbox, char **report_out, GError **error)
{
    unsigned access = access_of_files(sandbox);
    long abi;
    int err;

    load_late_parts();
    /* A sanitizer's reads and writes are its own business. */
    if (SANDBOX_HAS_SANITIZER)
        sandbox_allow(sandbox, "/", SANDBOX_READ | SANDBOX_WRITE);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return sandbox_fail(error, "no_new_privs", -errno);
    abi = limit_files(sandbox);
    if (abi < 0)
        return sandbox_fail(error, "Landlock", (int)abi);
    err = drop_capabilities(access);
    if (err)
        return sandbox_fail(error, "capabilities", err);
    err = sandbox_limit_syscalls(access != 0);
    if (err && err != -ENOSYS)
        return sandbox_fail(error, "seccomp", err);
    *report_out = g_strdup_printf(
        "confined: no new privileges, %s, %s",
        abi ? "no other files (Landlock)" : "but this kernel has no Landlock",
        err ? "but no filter of system calls (seccomp) is available"
            : "no needless system calls (seccomp)");
    return true;
}
