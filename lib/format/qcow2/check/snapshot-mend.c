/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Entries of the snapshot table that do not follow the format, and a new table with
 * correct ones. Spec: qcow2 section 8, qcow2-write sections 7 and 13.
 *
 * A table that cannot be read to its end is left unchanged: the rest may hold snapshots
 * that are still needed. */
#include "format/qcow2/check/snapshot-mend.h"

#include <errno.h>
#include <inttypes.h>

#include "base/checked.h"
#include "codec/qcow2-snapshots.h"
#include "format/qcow2/check/repair-refcounts.h"
#include "format/qcow2/count/counts.h"
#include "format/qcow2/snapshot/snapshot-table.h"

static bool
is_entry_sound(const Qcow2 *q, const Qcow2SnapshotEntry *e)
{
    return e->extra_bytes <= QCOW2_MAX_SNAPSHOT_EXTRA &&
           (q->header.version < 3 || e->extra_bytes >= QCOW2_SNAPSHOT_NEEDED_EXTRA);
}

/* Decodes the fixed part of the entry at @host_offset. */
static QimgErrno
load_fixed(Qcow2 *q, uint64_t host_offset, Qcow2SnapshotEntry *out)
{
    uint8_t bytes[QCOW2_SNAPSHOT_FIXED_BYTES];
    QimgErrno err = qimg_storage_read(q->base.file, QIMG_IO_SNAPSHOT,
                                      qimg_host(host_offset), bytes, sizeof bytes);

    if (!err)
        *out = qcow2_snapshot_decode_any(bytes);
    return err;
}

QimgErrno
qcow2_check_snapshot_entries(Qcow2 *q, QimgCheckReport *report, uint64_t *n_out)
{
    uint64_t at = q->header.snapshots_offset;

    *n_out = 0;
    for (unsigned i = 0; i < q->base.snapshots->n; i++) {
        Qcow2SnapshotEntry e;
        QimgErrno err = load_fixed(q, at, &e);

        if (err)
            return err;
        if (!is_entry_sound(q, &e)) {
            ++*n_out;
            if (report)
                qimg_check_report_add(
                    report,
                    &(QimgFinding){.kind = QIMG_FINDING_CORRUPTION,
                                   .host_offset = at,
                                   .guest_offset = QIMG_NO_GUEST_OFFSET},
                    1, "snapshot table: entry %u has %" PRIu32 " bytes of extra data%s",
                    i, e.extra_bytes,
                    e.extra_bytes > QCOW2_MAX_SNAPSHOT_EXTRA
                        ? ", more than the format allows"
                        : " and lacks what version 3 needs");
        }
        at += e.entry_bytes;
    }
    return 0;
}

/* The table with all entries corrected. NULL: no memory. */
static GByteArray *
make_table(Qcow2 *q, const uint8_t *old)
{
    GByteArray *table = g_byte_array_new();
    uint64_t at = 0;

    for (unsigned i = 0; i < q->base.snapshots->n; i++) {
        g_autofree uint8_t *entry = NULL;
        Qcow2SnapshotEntry e = qcow2_snapshot_decode_any(old + at);

        entry = g_try_malloc(e.entry_bytes + QCOW2_SNAPSHOT_NEEDED_EXTRA);
        if (!entry) {
            g_byte_array_unref(table);
            return NULL;
        }
        g_byte_array_append(
            table, entry,
            (guint)qcow2_snapshot_complete(old + at, &e, q->header.size_bytes, entry));
        at += e.entry_bytes;
    }
    return table;
}

/* Takes clusters behind the file for the new table, and frees those of the old one.
 * False: there is no room. */
static bool
take_clusters(Qcow2Repair *r)
{
    const Qcow2Geometry *g = &r->q->geometry;
    uint64_t n_new = qimg_div_round_up(r->snapshot_table->len, g->cluster_bytes);
    uint64_t first_old = r->q->header.snapshots_offset >> g->cluster_bits;
    uint64_t n_old = qimg_div_round_up(r->q->snapshot_table_bytes, g->cluster_bytes);

    if (!qcow2_repair_take_run(r, n_new, &r->snapshot_table_start))
        return false;
    for (uint64_t i = 0; i < n_old; i++)
        qcow2_counts_set(&r->counts, first_old + i,
                         qcow2_counts_get(&r->counts, first_old + i) - 1);
    return true;
}

QimgErrno
qcow2_plan_snapshot_table(Qcow2Repair *r)
{
    Qcow2 *q = r->q;
    g_autofree uint8_t *old = NULL;
    uint64_t n_bad;
    QimgErrno err = qcow2_check_snapshot_entries(q, NULL, &n_bad);

    /* If tables overlap, it is unknown which of them has lost its content. */
    if (err || n_bad == 0 || q->base.snapshots->n < q->header.n_snapshots ||
        r->counts.n_table_overlaps > 0)
        return err;
    old = g_try_malloc0(q->snapshot_table_bytes);
    if (!old)
        return -ENOMEM;
    err = qimg_storage_read(q->base.file, QIMG_IO_SNAPSHOT,
                            qimg_host(q->header.snapshots_offset), old,
                            q->snapshot_table_bytes);
    if (err)
        return err;
    r->snapshot_table = make_table(q, old);
    if (!r->snapshot_table)
        return -ENOMEM;
    if (r->snapshot_table->len > QCOW2_MAX_SNAPSHOT_TABLE_BYTES || !take_clusters(r))
        g_clear_pointer(&r->snapshot_table, g_byte_array_unref);
    return 0;
}

QimgErrno
qcow2_write_snapshot_table(Qcow2Repair *r)
{
    Qcow2 *q = r->q;
    uint64_t host_offset = r->snapshot_table_start << q->geometry.cluster_bits;

    if (!r->snapshot_table)
        return 0;
    return qimg_storage_write(q->base.file, QIMG_IO_SNAPSHOT, qimg_host(host_offset),
                              r->snapshot_table->data, r->snapshot_table->len);
}

QimgErrno
qcow2_switch_snapshot_table(Qcow2Repair *r)
{
    Qcow2 *q = r->q;
    uint64_t host_offset = r->snapshot_table_start << q->geometry.cluster_bits;
    QimgErrno err;

    if (!r->snapshot_table)
        return 0;
    err = qcow2_snapshot_table_store_place(q, host_offset, q->header.n_snapshots);
    if (err)
        return err;
    q->snapshot_table_bytes = r->snapshot_table->len;
    return 0;
}
