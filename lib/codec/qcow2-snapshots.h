/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Entries of the qcow2 snapshot table. Spec: qcow2 section 8. Pure; any thread. */
#pragma once

#include "codec/rules.h"

#define QCOW2_SNAPSHOT_FIXED_BYTES 40u
/* The extra data that new entries have: VM state size, disk size, icount. */
#define QCOW2_SNAPSHOT_NEW_EXTRA_BYTES 24u

typedef struct {
    uint64_t l1_table_offset;
    uint32_t n_l1_entries;
    uint16_t id_bytes;
    uint16_t name_bytes;
    uint32_t date_s;
    uint32_t date_ns;
    uint64_t vm_clock_ns;
    uint64_t vm_state_bytes;
    uint32_t extra_bytes;
    bool has_disk_size;
    uint64_t disk_bytes;  /* 0 unless has_disk_size */
    int64_t icount;       /* -1 if absent */
    uint64_t entry_bytes; /* with strings, rounded up to 8: where the next one starts */
} Qcow2SnapshotEntry;

/* Decodes the fixed 40 bytes at @bytes: lengths are known then, extra data are not read.
 * Rule SNAPSHOT_ENTRY when the extra data are longer than the format's limit. */
QimgDecode qcow2_snapshot_decode_fixed(const uint8_t bytes[QCOW2_SNAPSHOT_FIXED_BYTES],
                                       Qcow2SnapshotEntry *out);

/* As qcow2_snapshot_decode_fixed, whatever the length of the extra data is. */
Qcow2SnapshotEntry
qcow2_snapshot_decode_any(const uint8_t bytes[QCOW2_SNAPSHOT_FIXED_BYTES]);

/* Bytes of extra data that an entry of version 3 needs: sizes of VM state and disk. */
#define QCOW2_SNAPSHOT_NEEDED_EXTRA 16u

/* Makes an entry as the format wants it of the one at @bytes (its entry_bytes are
 * @entry->entry_bytes), the disk's size being @disk_bytes where the entry does not say:
 * extra data of QCOW2_SNAPSHOT_NEEDED_EXTRA bytes at least and QCOW2_MAX_SNAPSHOT_EXTRA
 * at most, all else as it is. Writes at most entry_bytes + QCOW2_SNAPSHOT_NEEDED_EXTRA to
 * @out; returns how many, a multiple of 8. */
size_t qcow2_snapshot_complete(const uint8_t *bytes, const Qcow2SnapshotEntry *entry,
                               uint64_t disk_bytes, uint8_t *out);

/* Adds what the @entry->extra_bytes bytes of extra data at @extra say. */
void qcow2_snapshot_decode_extra(const uint8_t *extra, Qcow2SnapshotEntry *entry);

/* Sets entry_bytes from the lengths in @entry. */
void qcow2_snapshot_set_entry_bytes(Qcow2SnapshotEntry *entry);

/* Encodes an entry with extra data of QCOW2_SNAPSHOT_NEW_EXTRA_BYTES, and the texts, not
 * NUL-terminated, of id_bytes and name_bytes, to the entry_bytes bytes at @bytes. */
void qcow2_snapshot_encode(const Qcow2SnapshotEntry *entry, const char *id,
                           const char *name, uint8_t *bytes);

/* Makes the entry at @old, of lengths as in @old_entry, one with another name: all else
 * stays, also what is not understood. @bytes has room for what
 * qcow2_snapshot_set_entry_bytes says with the new name_bytes. */
void qcow2_snapshot_encode_renamed(const uint8_t *old,
                                   const Qcow2SnapshotEntry *old_entry, const char *name,
                                   uint16_t name_bytes, uint8_t *bytes);
