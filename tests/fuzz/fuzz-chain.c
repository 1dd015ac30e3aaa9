/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A chain of images. Input: for each layer from the top its length in four big-endian
 * bytes and the file; the last one may be cut, and may be raw. */
#include <string.h>

#include "base/endian.h"
#include "codec/qcow1-header.h"
#include "codec/qcow2-header.h"
#include "fuzz-image.h"
#include "fuzz.h"
#include "memory-storage.h"

#define MAX_LAYERS 6u

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    QimgStorage *storages[MAX_LAYERS];
    unsigned n_storages = 0;
    bool has_more = true;

    while (n_bytes >= sizeof(qimg_be32) && n_storages < MAX_LAYERS && has_more) {
        qimg_be32 length;
        size_t n_file;

        memcpy(&length, bytes, sizeof length);
        bytes += sizeof length;
        n_bytes -= sizeof length;
        n_file = MIN(qimg_be32_get(length), n_bytes);
        /* Nothing lies below a raw image. */
        has_more = qcow2_header_probe(bytes, n_file) || qcow1_header_probe(bytes, n_file);
        storages[n_storages++] = memory_storage_new(bytes, n_file, "layer");
        bytes += n_file;
        n_bytes -= n_file;
    }
    if (n_storages > 0)
        fuzz_chain("qcow2", storages, n_storages);
    return 0;
}
