/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Runs when qcowfs is built: writes the filters of system calls as C arrays, since
 * compiling a filter takes longer than the rest of a start.
 *
 *   sandbox-filter-gen ARCH   ARCH: libseccomp's name of the target machine
 *
 * The bytes are in the target's byte order. */
#include <errno.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sandbox/sandbox-calls.h"

#define N_ELEMENTS(array)       (sizeof(array) / sizeof(array)[0])
#define MAX_FILTER_BYTES        65536
#define BYTES_OF_A_LINE         16
#define BYTES_OF_AN_INSTRUCTION 8

typedef struct {
    const char *name;
    bool has_dirs, has_sanitizer;
} Variant;

static void
fail_if(int err, const char *what)
{
    if (err == 0)
        return;
    fprintf(stderr, "sandbox-filter-gen: %s: %s\n", what, strerror(err < 0 ? -err : err));
    exit(EXIT_FAILURE);
}

/* The number on this machine; libseccomp translates pseudo-numbers of other machines'
 * calls. */
static int
number_of(const char *name)
{
    int number = seccomp_syscall_resolve_name(name);

    fail_if(number == __NR_SCMP_ERROR ? EINVAL : 0, name);
    return number;
}

static bool
has_call(const Variant *variant, const AllowedCall *call)
{
    return call->scope == CALL_ALWAYS ||
           (call->scope == CALL_WITH_DIRS && variant->has_dirs) ||
           (call->scope == CALL_WITH_SANITIZER && variant->has_sanitizer);
}

/* Whether the call is allowed with any arguments, so that no other rule counts. */
static bool
is_allowed_freely(const Variant *variant, const char *name)
{
    for (size_t i = 0; i < N_ELEMENTS(sandbox_calls); i++)
        if (!sandbox_calls[i].mask && has_call(variant, &sandbox_calls[i]) &&
            strcmp(sandbox_calls[i].name, name) == 0)
            return true;
    return false;
}

/* s390x orders clone's arguments differently, and passes mmap's in memory, where a filter
 * cannot see them. */
static AllowedCall
adapt_to_machine(AllowedCall call, uint32_t arch)
{
    if (arch == SCMP_ARCH_S390X && strcmp(call.name, "clone") == 0)
        call.argument = 1;
    if (arch == SCMP_ARCH_S390X && strcmp(call.name, "mmap") == 0)
        call.mask = 0;
    return call;
}

static void
allow(scmp_filter_ctx filter, uint32_t arch, const Variant *variant,
      const AllowedCall *row)
{
    AllowedCall adapted = adapt_to_machine(*row, arch), *call = &adapted;
    int number = number_of(call->name);
    struct scmp_arg_cmp condition = {call->argument, SCMP_CMP_MASKED_EQ, call->mask,
                                     call->wanted};

    if (!call->mask)
        fail_if(seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0), call->name);
    else if (!is_allowed_freely(variant, call->name))
        fail_if(seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, number, 1, &condition),
                call->name);
}

static scmp_filter_ctx
make_filter(const char *arch_name, const Variant *variant)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    uint32_t arch = seccomp_arch_resolve_name(arch_name);

    fail_if(filter ? 0 : ENOMEM, "seccomp_init");
    fail_if(arch ? 0 : EINVAL, arch_name);
    if (arch != seccomp_arch_native()) {
        /* First, since a filter cannot mix two byte orders. */
        fail_if(seccomp_arch_remove(filter, SCMP_ARCH_NATIVE), arch_name);
        fail_if(seccomp_arch_add(filter, arch), arch_name);
    }
    seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    for (size_t i = 0; i < N_ELEMENTS(sandbox_calls); i++)
        if (has_call(variant, &sandbox_calls[i]))
            allow(filter, arch, variant, &sandbox_calls[i]);
    for (size_t i = 0; i < N_ELEMENTS(sandbox_refused_calls); i++) {
        const char *name = sandbox_refused_calls[i];

        if (!is_allowed_freely(variant, name))
            fail_if(seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), number_of(name), 0),
                    name);
    }
    return filter;
}

static void
print_filter(const char *arch_name, const Variant *variant)
{
    static unsigned char bytes[MAX_FILTER_BYTES];
    scmp_filter_ctx filter = make_filter(arch_name, variant);
    FILE *file = tmpfile();
    size_t n_bytes;

    fail_if(file ? 0 : errno, "temporary file");
    fail_if(seccomp_export_bpf(filter, fileno(file)), "seccomp_export_bpf");
    rewind(file);
    n_bytes = fread(bytes, 1, sizeof bytes, file);
    fail_if(n_bytes % BYTES_OF_AN_INSTRUCTION || n_bytes == sizeof bytes ? EMSGSIZE : 0,
            variant->name);
    printf("static const unsigned char %s[] = {", variant->name);
    for (size_t i = 0; i < n_bytes; i++)
        printf("%s0x%02x,", i % BYTES_OF_A_LINE ? "" : "\n    ", bytes[i]);
    printf("\n};\n");
    fclose(file);
    seccomp_release(filter);
}

int
main(int argc, char **argv)
{
    static const Variant plain[] = {{"filter_of_images", false, false},
                                    {"filter_of_dirs", true, false}};
    static const Variant sanitizer[] = {{"filter_of_images", false, true},
                                        {"filter_of_dirs", true, true}};

    fail_if(argc == 2 ? 0 : EINVAL, "usage");
    printf("#if SANDBOX_HAS_SANITIZER\n");
    for (size_t i = 0; i < N_ELEMENTS(sanitizer); i++)
        print_filter(argv[1], &sanitizer[i]);
    printf("#else\n");
    for (size_t i = 0; i < N_ELEMENTS(plain); i++)
        print_filter(argv[1], &plain[i]);
    printf("#endif\n");
    return EXIT_SUCCESS;
}
