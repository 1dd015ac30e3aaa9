/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What every fuzz target defines: called by libFuzzer, or by replay.c for each file of
 * the corpus. Always returns 0; whatever the bytes are, it must not crash, hang, or ask
 * for more memory than the options allow. */
#pragma once

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

/* Called once before the first input. */
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* A broken promise: unlike assert, also where NDEBUG is set. */
#define FUZZ_CHECK(condition)                                                            \
    do {                                                                                 \
        if (!(condition))                                                                \
            __builtin_trap();                                                            \
    } while (0)
