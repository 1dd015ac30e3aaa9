/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Decodes and encodes snapshot table entries. Spec: qcow2 section 8. */
#include "codec/qcow2-snapshots.h"

#include <stddef.h>
#include <string.h>

#include "base/endian.h"
#include "codec/qcow2-geometry.h"

typedef struct {
    qimg_be64 l1_table_offset;
    qimg_be32 l1_size;
    qimg_be16 id_length;
    qimg_be16 name_length;
    qimg_be32 date_s;
    qimg_be32 date_ns;
    qimg_be64 vm_clock_ns;
    qimg_be32 vm_state_size_32;
    qimg_be32 extra_length;
} DiskSnapshot;

_Static_assert(sizeof(DiskSnapshot) == QCOW2_SNAPSHOT_FIXED_BYTES, "snapshot entry");

typedef struct {
    qimg_be64 vm_state_size;
    qimg_be64 disk_size;
    qimg_be64 icount;
} DiskExtra;

_Static_assert(sizeof(DiskExtra) == QCOW2_SNAPSHOT_NEW_EXTRA_BYTES, "extra data");

void
qcow2_snapshot_set_entry_bytes(Qcow2SnapshotEntry *entry)
{
    entry->entry_bytes = (QCOW2_SNAPSHOT_FIXED_BYTES + (uint64_t)entry->extra_bytes +
                          entry->id_bytes + entry->name_bytes + 7) &
                         ~UINT64_C(7);
}

Qcow2SnapshotEntry
qcow2_snapshot_decode_any(const uint8_t bytes[QCOW2_SNAPSHOT_FIXED_BYTES])
{
    DiskSnapshot disk;
    Qcow2SnapshotEntry e = {0};

    memcpy(&disk, bytes, sizeof disk);
    e.l1_table_offset = qimg_be64_get(disk.l1_table_offset);
    e.n_l1_entries = qimg_be32_get(disk.l1_size);
    e.id_bytes = qimg_be16_get(disk.id_length);
    e.name_bytes = qimg_be16_get(disk.name_length);
    e.date_s = qimg_be32_get(disk.date_s);
    e.date_ns = qimg_be32_get(disk.date_ns);
    e.vm_clock_ns = qimg_be64_get(disk.vm_clock_ns);
    e.vm_state_bytes = qimg_be32_get(disk.vm_state_size_32);
    e.extra_bytes = qimg_be32_get(disk.extra_length);
    e.icount = -1;
    qcow2_snapshot_set_entry_bytes(&e);
    return e;
}

QimgDecode
qcow2_snapshot_decode_fixed(const uint8_t bytes[QCOW2_SNAPSHOT_FIXED_BYTES],
                            Qcow2SnapshotEntry *out)
{
    Qcow2SnapshotEntry e = qcow2_snapshot_decode_any(bytes);

    if (e.extra_bytes > QCOW2_MAX_SNAPSHOT_EXTRA)
        return qimg_decode_broken(QIMG_RULE_SNAPSHOT_ENTRY, e.extra_bytes);
    *out = e;
    return qimg_decode_ok();
}

size_t
qcow2_snapshot_complete(const uint8_t *bytes, const Qcow2SnapshotEntry *entry,
                        uint64_t disk_bytes, uint8_t *out)
{
    const uint8_t *extra = bytes + QCOW2_SNAPSHOT_FIXED_BYTES;
    size_t n_text = (size_t)entry->id_bytes + entry->name_bytes;
    uint32_t n_old = entry->extra_bytes < QCOW2_MAX_SNAPSHOT_EXTRA
                         ? entry->extra_bytes
                         : QCOW2_MAX_SNAPSHOT_EXTRA;
    uint32_t n_new =
        n_old < QCOW2_SNAPSHOT_NEEDED_EXTRA ? QCOW2_SNAPSHOT_NEEDED_EXTRA : n_old;
    size_t n_bytes = QCOW2_SNAPSHOT_FIXED_BYTES + n_new + n_text;
    qimg_be32 extra_length = qimg_be32_set(n_new);
    DiskExtra disk = {
        .vm_state_size = qimg_be64_set(entry->vm_state_bytes),
        .disk_size = qimg_be64_set(disk_bytes),
    };

    memcpy(out, bytes, QCOW2_SNAPSHOT_FIXED_BYTES);
    memcpy(out + offsetof(DiskSnapshot, extra_length), &extra_length,
           sizeof extra_length);
    out += QCOW2_SNAPSHOT_FIXED_BYTES;
    memcpy(out, &disk, QCOW2_SNAPSHOT_NEEDED_EXTRA);
    /* The rest of a truncated field has no meaning. */
    memcpy(out, extra, n_old < n_new ? n_old & ~7u : n_old);
    memcpy(out + n_new, extra + entry->extra_bytes, n_text);
    memset(out + n_new + n_text, 0, -n_bytes & 7);
    return n_bytes + (-n_bytes & 7);
}

void
qcow2_snapshot_decode_extra(const uint8_t *extra, Qcow2SnapshotEntry *entry)
{
    DiskExtra disk = {0};

    memcpy(&disk, extra,
           entry->extra_bytes < sizeof disk ? entry->extra_bytes : sizeof disk);
    if (entry->extra_bytes >= 8)
        entry->vm_state_bytes = qimg_be64_get(disk.vm_state_size);
    if (entry->extra_bytes >= 16) {
        entry->has_disk_size = true;
        entry->disk_bytes = qimg_be64_get(disk.disk_size);
    }
    if (entry->extra_bytes >= 24)
        entry->icount = (int64_t)qimg_be64_get(disk.icount);
}

void
qcow2_snapshot_encode(const Qcow2SnapshotEntry *entry, const char *id, const char *name,
                      uint8_t *bytes)
{
    DiskSnapshot disk = {
        .l1_table_offset = qimg_be64_set(entry->l1_table_offset),
        .l1_size = qimg_be32_set(entry->n_l1_entries),
        .id_length = qimg_be16_set(entry->id_bytes),
        .name_length = qimg_be16_set(entry->name_bytes),
        .date_s = qimg_be32_set(entry->date_s),
        .date_ns = qimg_be32_set(entry->date_ns),
        .vm_clock_ns = qimg_be64_set(entry->vm_clock_ns),
        .vm_state_size_32 = qimg_be32_set(
            entry->vm_state_bytes <= UINT32_MAX ? (uint32_t)entry->vm_state_bytes : 0),
        .extra_length = qimg_be32_set(QCOW2_SNAPSHOT_NEW_EXTRA_BYTES),
    };
    DiskExtra extra = {
        .vm_state_size = qimg_be64_set(entry->vm_state_bytes),
        .disk_size = qimg_be64_set(entry->disk_bytes),
        .icount = qimg_be64_set((uint64_t)entry->icount),
    };

    memset(bytes, 0, entry->entry_bytes);
    memcpy(bytes, &disk, sizeof disk);
    memcpy(bytes + sizeof disk, &extra, sizeof extra);
    bytes += sizeof disk + sizeof extra;
    memcpy(bytes, id, entry->id_bytes);
    memcpy(bytes + entry->id_bytes, name, entry->name_bytes);
}

void
qcow2_snapshot_encode_renamed(const uint8_t *old, const Qcow2SnapshotEntry *old_entry,
                              const char *name, uint16_t name_bytes, uint8_t *bytes)
{
    Qcow2SnapshotEntry renamed = *old_entry;
    size_t n_kept =
        QCOW2_SNAPSHOT_FIXED_BYTES + old_entry->extra_bytes + old_entry->id_bytes;
    qimg_be16 length = qimg_be16_set(name_bytes);

    renamed.name_bytes = name_bytes;
    qcow2_snapshot_set_entry_bytes(&renamed);
    memset(bytes, 0, renamed.entry_bytes);
    memcpy(bytes, old, n_kept);
    memcpy(bytes + offsetof(DiskSnapshot, name_length), &length, sizeof length);
    memcpy(bytes + n_kept, name, name_bytes);
}
