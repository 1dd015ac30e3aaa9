/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changes of the snapshot table: always a new one in new clusters, to which one write of
 * the header switches. Unchanged entries are copied byte by byte, with all unknown
 * fields. Spec: qcow2 section 8, qcow2-write section 7. */
#include "format/qcow2/snapshot/snapshot-table.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/endian.h"
#include "codec/qcow2-snapshots.h"
#include "format/qcow2/layer/header-io.h"
#include "format/qcow2/refcount/pending.h"
#include "format/qcow2/snapshot/snapshot.h"

/* Finds and decodes the entry at @place of the table at @bytes. The table was read whole
 * when the image was opened, so it is valid unless another program writes it. */
static bool
find_entry(const GByteArray *table, unsigned place, guint *start_out,
           Qcow2SnapshotEntry *out)
{
    guint at = 0;

    for (unsigned i = 0;; i++) {
        if (table->len - at < QCOW2_SNAPSHOT_FIXED_BYTES ||
            qcow2_snapshot_decode_fixed(table->data + at, out).rule ||
            out->entry_bytes > table->len - at)
            return false;
        if (i == place) {
            *start_out = at;
            return true;
        }
        at += (guint)out->entry_bytes;
    }
}

QimgErrno
qcow2_snapshot_table_load(Qcow2 *q, GByteArray **table_out)
{
    g_autofree uint8_t *bytes = g_try_malloc(qimg_max_u64(q->snapshot_table_bytes, 1));
    uint64_t n_bytes = q->snapshot_table_bytes;
    uint64_t file_bytes = 0, n_there;
    QimgErrno err;

    if (!bytes)
        return -ENOMEM;
    err = qimg_storage_get_size(q->base.file, &file_bytes);
    if (err)
        return err;
    /* The last entry's padding may lie behind the end of the file. */
    n_there = qimg_min_u64(
        n_bytes, file_bytes - qimg_min_u64(file_bytes, q->header.snapshots_offset));
    memset(bytes, 0, n_bytes);
    err = qimg_storage_read(q->base.file, QIMG_IO_SNAPSHOT,
                            qimg_host(q->header.snapshots_offset), bytes, n_there);
    if (!err)
        *table_out = g_byte_array_new_take(g_steal_pointer(&bytes), n_bytes);
    return err;
}

/* Replaces the table's bytes [@start, + @n_old) by @n_new bytes. */
static void
splice(GByteArray *table, guint start, guint n_old, const uint8_t *new_bytes, guint n_new)
{
    g_autoptr(GByteArray) tail = g_byte_array_new();

    g_byte_array_append(tail, table->data + start + n_old, table->len - start - n_old);
    g_byte_array_set_size(table, start);
    if (n_new > 0)
        g_byte_array_append(table, new_bytes, n_new);
    g_byte_array_append(table, tail->data, tail->len);
}

QimgErrno
qcow2_snapshot_table_remove(GByteArray *table, unsigned place)
{
    Qcow2SnapshotEntry entry;
    guint start;

    if (!find_entry(table, place, &start, &entry))
        return -EIO;
    splice(table, start, (guint)entry.entry_bytes, NULL, 0);
    return 0;
}

QimgErrno
qcow2_snapshot_table_rename(GByteArray *table, unsigned place, const char *name)
{
    Qcow2SnapshotEntry entry, renamed;
    g_autofree uint8_t *bytes = NULL;
    guint start;

    if (!find_entry(table, place, &start, &entry))
        return -EIO;
    renamed = entry;
    renamed.name_bytes = (uint16_t)strlen(name);
    qcow2_snapshot_set_entry_bytes(&renamed);
    if (table->len - entry.entry_bytes + renamed.entry_bytes >
        QCOW2_MAX_SNAPSHOT_TABLE_BYTES)
        return -EFBIG;
    bytes = g_malloc(renamed.entry_bytes);
    qcow2_snapshot_encode_renamed(table->data + start, &entry, name, renamed.name_bytes,
                                  bytes);
    splice(table, start, (guint)entry.entry_bytes, bytes, (guint)renamed.entry_bytes);
    return 0;
}

/* The smallest number larger than all IDs. Spec: qcow2 section 8. */
static QimgErrno
next_id(const QimgSnapshots *snapshots, uint64_t *id_out)
{
    uint64_t max = 0;

    for (unsigned i = 0; i < snapshots->n; i++)
        max = qimg_max_u64(max, g_ascii_strtoull(snapshots->items[i].facts.id, NULL, 10));
    return qimg_add_u64(max, 1, id_out) ? 0 : -EFBIG;
}

QimgErrno
qcow2_snapshot_table_append(const Qcow2 *q, GByteArray *table,
                            const QimgNewSnapshot *snapshot, guint *start_out)
{
    Qcow2SnapshotEntry entry = {
        .n_l1_entries = q->base.active.n_l1_entries,
        .name_bytes = (uint16_t)strlen(snapshot->name),
        .date_s = (uint32_t)snapshot->date_s,
        .date_ns = snapshot->date_ns,
        .extra_bytes = QCOW2_SNAPSHOT_NEW_EXTRA_BYTES,
        .disk_bytes = q->header.size_bytes,
    };
    g_autofree char *id = NULL;
    uint64_t number;
    guint start = table->len;

    if (q->base.snapshots->n >= QCOW2_MAX_SNAPSHOTS)
        return -EFBIG;
    if (next_id(q->base.snapshots, &number))
        return -EFBIG;
    id = g_strdup_printf("%" G_GUINT64_FORMAT, (guint64)number);
    entry.id_bytes = (uint16_t)strlen(id);
    qcow2_snapshot_set_entry_bytes(&entry);
    if (start + entry.entry_bytes > QCOW2_MAX_SNAPSHOT_TABLE_BYTES)
        return -EFBIG;
    g_byte_array_set_size(table, start + (guint)entry.entry_bytes);
    qcow2_snapshot_encode(&entry, id, snapshot->name, table->data + start);
    *start_out = start;
    return 0;
}

void
qcow2_snapshot_table_set_l1(GByteArray *table, guint start, uint64_t l1_table_offset)
{
    qimg_be64 field = qimg_be64_set(l1_table_offset); /* an entry's first field */

    memcpy(table->data + start, &field, sizeof field);
}

QimgErrno
qcow2_snapshot_table_write(Qcow2 *q, const GByteArray *table, uint64_t host_offset)
{
    /* The rest of the last cluster is zeros (W1). */
    return qimg_storage_write(q->base.file, QIMG_IO_SNAPSHOT, qimg_host(host_offset),
                              table->data, table->len);
}

uint64_t
qcow2_snapshot_table_clusters(const Qcow2 *q, const GByteArray *table)
{
    return qimg_div_round_up(table->len, q->geometry.cluster_bytes);
}

QimgErrno
qcow2_snapshot_table_store_place(Qcow2 *q, uint64_t host_offset, uint32_t n_snapshots)
{
    struct {
        qimg_be32 n_snapshots;
        qimg_be64 offset;
    } field = {qimg_be32_set(n_snapshots), qimg_be64_set(host_offset)};
    QimgErrno err =
        qcow2_write_header_field(q, QCOW2_HEADER_AT_SNAPSHOTS, &field, sizeof field);

    if (err)
        return err;
    qcow2_header_to_change(q)->snapshots_offset = host_offset;
    qcow2_header_to_change(q)->n_snapshots = n_snapshots;
    return 0;
}

QimgErrno
qcow2_snapshot_table_switch(Qcow2 *q, uint64_t host_offset, unsigned n_snapshots,
                            unsigned removed_place)
{
    unsigned bits = q->geometry.cluster_bits;
    QimgClusters old_place = {
        q->header.snapshots_offset >> bits,
        qimg_div_round_up(q->snapshot_table_bytes, q->geometry.cluster_bytes)};
    QimgSnapshots *old_list;
    uint32_t serial = q->base.next_snapshot_serial;
    QimgErrno err = qcow2_snapshot_table_store_place(q, host_offset, n_snapshots);

    if (err)
        return err;
    if (old_place.n_clusters > 0)
        qcow2_free_later(q, old_place);
    old_list = qimg_snapshots_ref(q->base.snapshots);
    qcow2_load_snapshots(q);
    /* A failure to read it back now is an error of the host: all further changes are
     * refused. */
    if (q->base.snapshots->n < n_snapshots)
        err = qimg_format_break(&q->base, -EIO);
    qimg_snapshots_adopt(q->base.snapshots, old_list, removed_place, serial);
    q->base.next_snapshot_serial = serial + (n_snapshots > old_list->n ? 1 : 0);
    qimg_snapshots_unref(old_list);
    return err;
}
