/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Snapshot table entries. Input: a snapshot table. */
#include <stdlib.h>
#include <string.h>

#include "codec/qcow2-geometry.h"
#include "codec/qcow2-snapshots.h"
#include "fuzz.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    size_t at = 0;

    while (n_bytes - at >= QCOW2_SNAPSHOT_FIXED_BYTES) {
        Qcow2SnapshotEntry e;
        uint8_t *extra;

        if (qcow2_snapshot_decode_fixed(bytes + at, &e).rule)
            return 0;
        FUZZ_CHECK(e.extra_bytes <= QCOW2_MAX_SNAPSHOT_EXTRA);
        FUZZ_CHECK(e.entry_bytes % 8 == 0);
        FUZZ_CHECK(e.entry_bytes >= QCOW2_SNAPSHOT_FIXED_BYTES + e.extra_bytes +
                                        (uint64_t)e.id_bytes + e.name_bytes);
        FUZZ_CHECK(e.entry_bytes <= QCOW2_SNAPSHOT_FIXED_BYTES + 1024 + 2 * 65536);
        if (e.extra_bytes > n_bytes - at - QCOW2_SNAPSHOT_FIXED_BYTES)
            return 0;
        /* Exactly as long, so that a sanitizer sees one byte more. */
        extra = malloc(e.extra_bytes ? e.extra_bytes : 1);
        if (!extra)
            return 0;
        memcpy(extra, bytes + at + QCOW2_SNAPSHOT_FIXED_BYTES, e.extra_bytes);
        qcow2_snapshot_decode_extra(extra, &e);
        free(extra);
        FUZZ_CHECK(e.has_disk_size == (e.extra_bytes >= 16));
        FUZZ_CHECK(e.has_disk_size || e.disk_bytes == 0);
        if (e.entry_bytes > n_bytes - at)
            return 0;
        at += e.entry_bytes;
    }
    return 0;
}
