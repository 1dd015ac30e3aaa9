/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A whole qcow2 image, checked, repaired and checked again. Input: a byte for the kind of
 * repair, then the file. */
#include "format/drivers.h"
#include "fuzz-check.h"
#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    fuzz_check(&qimg_driver_qcow2, bytes, n_bytes);
    return 0;
}
