/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Entries of the qcow2 snapshot table. Spec: qcow2 section 8. Pure; any thread. */
#pragma once

#include "codec/rules.h"

#define QCOW2_SNAPSHOT_FIXED_BYTES 40u
/* The extra data of new entries: VM state size, disk size, icount. */
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

/* Decodes the fixed 40 bytes at @bytes: sets the lengths, does not read extra data. Rule
 * SNAPSHOT_ENTRY if the extra data exceed the format's limit. */
QimgDecode qcow2_snapshot_decode_fixed(const uint8_t bytes[QCOW2_SNAPSHOT_FIXED_BYTES],
                                       Qcow2SnapshotEntry *out);

/* As qcow2_snapshot_decode_fixed, for any length of the extra data. */
Qcow2SnapshotEntry
qcow2_snapshot_decode_any(const uint8_t bytes[QCOW2_SNAPSHOT_FIXED_BYTES]);

/* Bytes of extra data that an entry of version 3 needs: sizes of VM state and disk. */
#define QCOW2_SNAPSHOT_NEEDED_EXTRA 16u

/* Completes the entry at @bytes (of @entry->entry_bytes bytes) to the format's minimum,
 * with @disk_bytes as the disk's size if the entry stores none: at least
 * QCOW2_SNAPSHOT_NEEDED_EXTRA and at most QCOW2_MAX_SNAPSHOT_EXTRA bytes of extra data,
 * everything else unchanged. Writes at most entry_bytes + QCOW2_SNAPSHOT_NEEDED_EXTRA to
 * @out; returns the number, a multiple of 8. */
size_t qcow2_snapshot_complete(const uint8_t *bytes, const Qcow2SnapshotEntry *entry,
                               uint64_t disk_bytes, uint8_t *out);

/* Decodes the @entry->extra_bytes bytes of extra data at @extra into @entry. */
void qcow2_snapshot_decode_extra(const uint8_t *extra, Qcow2SnapshotEntry *entry);

/* Sets entry_bytes from the lengths in @entry. */
void qcow2_snapshot_set_entry_bytes(Qcow2SnapshotEntry *entry);

/* Encodes an entry with extra data of QCOW2_SNAPSHOT_NEW_EXTRA_BYTES, and the texts, not
 * NUL-terminated, of id_bytes and name_bytes, to the entry_bytes bytes at @bytes. */
void qcow2_snapshot_encode(const Qcow2SnapshotEntry *entry, const char *id,
                           const char *name, uint8_t *bytes);

/* Copies the entry at @old, with the lengths of @old_entry, with another name; everything
 * else stays, including unknown extra data. @bytes has room for the entry_bytes that
 * qcow2_snapshot_set_entry_bytes computes with the new name_bytes. */
void qcow2_snapshot_encode_renamed(const uint8_t *old,
                                   const Qcow2SnapshotEntry *old_entry, const char *name,
                                   uint16_t name_bytes, uint8_t *bytes);
