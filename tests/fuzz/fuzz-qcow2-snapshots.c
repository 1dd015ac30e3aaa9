/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Snapshot table entries. Input: a snapshot table. Each complete entry is encoded again,
 * and renamed, into buffers of exactly the needed length. */
#include <stdlib.h>
#include <string.h>

#include "codec/qcow2-geometry.h"
#include "codec/qcow2-snapshots.h"
#include "fuzz.h"

/* Decoding one of our entries gives the same facts. */
static void
check_encoding(const Qcow2SnapshotEntry *e, const char *texts)
{
    Qcow2SnapshotEntry ours = *e, found;
    uint8_t *bytes;

    ours.extra_bytes = QCOW2_SNAPSHOT_NEW_EXTRA_BYTES;
    qcow2_snapshot_set_entry_bytes(&ours);
    bytes = malloc(ours.entry_bytes);
    if (!bytes)
        return;
    qcow2_snapshot_encode(&ours, texts, texts + ours.id_bytes, bytes);
    FUZZ_CHECK(qcow2_snapshot_decode_fixed(bytes, &found).rule == QIMG_RULE_OK);
    qcow2_snapshot_decode_extra(bytes + QCOW2_SNAPSHOT_FIXED_BYTES, &found);
    FUZZ_CHECK(found.l1_table_offset == ours.l1_table_offset);
    FUZZ_CHECK(found.n_l1_entries == ours.n_l1_entries);
    FUZZ_CHECK(found.vm_state_bytes == ours.vm_state_bytes);
    FUZZ_CHECK(found.disk_bytes == ours.disk_bytes && found.icount == ours.icount);
    FUZZ_CHECK(found.date_s == ours.date_s && found.vm_clock_ns == ours.vm_clock_ns);
    FUZZ_CHECK(found.entry_bytes == ours.entry_bytes);
    FUZZ_CHECK(memcmp(bytes + QCOW2_SNAPSHOT_FIXED_BYTES + found.extra_bytes, texts,
                      (size_t)ours.id_bytes + ours.name_bytes) == 0);
    free(bytes);
}

/* Everything but the name stays; renaming it back gives the old bytes. */
static void
check_renaming(const Qcow2SnapshotEntry *e, const uint8_t *old)
{
    static const char name[] = "another name";
    size_t n_kept = (size_t)QCOW2_SNAPSHOT_FIXED_BYTES + e->extra_bytes + e->id_bytes;
    Qcow2SnapshotEntry renamed = *e;
    uint8_t *bytes, *back;

    renamed.name_bytes = sizeof name - 1;
    qcow2_snapshot_set_entry_bytes(&renamed);
    bytes = malloc(renamed.entry_bytes);
    back = malloc(e->entry_bytes);
    if (bytes && back) {
        qcow2_snapshot_encode_renamed(old, e, name, renamed.name_bytes, bytes);
        FUZZ_CHECK(memcmp(bytes + n_kept, name, renamed.name_bytes) == 0);
        qcow2_snapshot_encode_renamed(bytes, &renamed, (const char *)old + n_kept,
                                      e->name_bytes, back);
        FUZZ_CHECK(memcmp(back, old, n_kept + e->name_bytes) == 0);
    }
    free(bytes);
    free(back);
}

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
        /* Exact size, so that a sanitizer sees one byte more. */
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
        check_encoding(&e, (const char *)bytes + at + QCOW2_SNAPSHOT_FIXED_BYTES +
                               e.extra_bytes);
        check_renaming(&e, bytes + at);
        at += e.entry_bytes;
    }
    return 0;
}
