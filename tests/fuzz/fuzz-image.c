/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A whole image, qcow2 or QED, opened, mapped and read. Input: the file. */
#include "fuzz-image.h"
#include "fuzz.h"
#include "memory-storage.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    QimgStorage *storage = memory_storage_new(bytes, n_bytes, "image");

    fuzz_chain(fuzz_format_of(storage), &storage, 1);
    return 0;
}
