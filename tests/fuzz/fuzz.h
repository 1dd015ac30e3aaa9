/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The function of every fuzz target: called by libFuzzer, or by replay.c for each file of
 * the corpus. Always returns 0; for any bytes, it must not crash, hang, or need more
 * memory than the options permit. */
#pragma once

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

/* Called once before the first input. */
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* A broken promise: unlike assert, active even with NDEBUG. */
#define FUZZ_CHECK(condition)                                                            \
    do {                                                                                 \
        if (!(condition))                                                                \
            __builtin_trap();                                                            \
    } while (0)
