/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The snapshot table and the views of snapshots. Spec: qcow2 section 8. */
#include "format/qcow2/snapshot/snapshot.h"

#include "codec/qcow2-snapshots.h"

#include "base/checked.h"
#include "base/errors.h"

void
qcow2_view_clip_to_file(Qcow2 *q, QimgView *view)
{
    uint64_t end_bytes =
        atomic_load_explicit(&q->base.file_end_bytes, memory_order_relaxed);
    uint64_t start = view->l1_table_offset.v;
    uint64_t n_there = start < end_bytes ? (end_bytes - start) / 8 : 0;

    view->n_l1_entries_in_file = (uint32_t)qimg_min_u64(view->n_l1_entries, n_there);
}

/* Reads @n_bytes of text at @host_offset into a new NUL-terminated string. */
static char *
load_text(Qcow2 *q, uint64_t host_offset, uint16_t n_bytes)
{
    char *text = g_malloc((gsize)n_bytes + 1);

    if (qimg_storage_read(q->base.file, QIMG_IO_SNAPSHOT, qimg_host(host_offset), text,
                          n_bytes) != 0) {
        g_free(text);
        return NULL;
    }
    text[n_bytes] = '\0';
    return text;
}

/* Reads the entry at @entry_offset. False if it is damaged. */
static bool
load_entry(Qcow2 *q, uint64_t entry_offset, uint64_t table_end, QimgFormatSnapshot *out,
           uint64_t *entry_bytes_out)
{
    uint8_t fixed[QCOW2_SNAPSHOT_FIXED_BYTES];
    uint8_t extra[QCOW2_MAX_SNAPSHOT_EXTRA];
    uint64_t text_offset;
    Qcow2SnapshotEntry e;

    if (qimg_format_is_beyond_end(&q->base, entry_offset) ||
        qimg_storage_read(q->base.file, QIMG_IO_SNAPSHOT, qimg_host(entry_offset), fixed,
                          sizeof fixed) != 0)
        return false;
    e = qcow2_snapshot_decode_any(fixed); /* a check continues with any length */
    if ((!q->is_open_for_check && qcow2_snapshot_decode_fixed(fixed, &e).rule) ||
        e.entry_bytes > table_end - entry_offset ||
        qimg_format_is_beyond_end(&q->base, entry_offset + QCOW2_SNAPSHOT_FIXED_BYTES +
                                                e.extra_bytes + e.id_bytes +
                                                e.name_bytes - 1))
        return false;
    if (e.extra_bytes > 0) {
        if (qimg_storage_read(q->base.file, QIMG_IO_SNAPSHOT,
                              qimg_host(entry_offset + QCOW2_SNAPSHOT_FIXED_BYTES), extra,
                              qimg_min_u64(e.extra_bytes, sizeof extra)) != 0)
            return false;
        qcow2_snapshot_decode_extra(extra, &e);
    }
    text_offset = entry_offset + QCOW2_SNAPSHOT_FIXED_BYTES + e.extra_bytes;
    *out = (QimgFormatSnapshot){
        .facts =
            {
                .id = load_text(q, text_offset, e.id_bytes),
                .name = load_text(q, text_offset + e.id_bytes, e.name_bytes),
                .id_bytes = e.id_bytes,
                .name_bytes = e.name_bytes,
                .date_s = e.date_s,
                .date_ns = e.date_ns,
                .vm_clock_ns = e.vm_clock_ns,
                .vm_state_bytes = e.vm_state_bytes,
                .disk_bytes =
                    qimg_align_down(e.has_disk_size ? e.disk_bytes : q->header.size_bytes,
                                    QIMG_SECTOR_BYTES),
                .icount = e.icount,
            },
        .view =
            {
                .l1_table_offset = qimg_host(e.l1_table_offset),
                .n_l1_entries = e.n_l1_entries,
            },
    };
    out->view.size_bytes = out->facts.disk_bytes;
    *entry_bytes_out = e.entry_bytes;
    return out->facts.id && out->facts.name;
}

void
qcow2_load_snapshots(Qcow2 *q)
{
    uint64_t at = q->header.snapshots_offset;
    uint64_t table_end = at + QCOW2_MAX_SNAPSHOT_TABLE_BYTES;
    g_autoptr(GArray) list = g_array_new(FALSE, TRUE, sizeof(QimgFormatSnapshot));
    unsigned n_loaded;

    for (uint32_t i = 0; i < q->header.n_snapshots; i++) {
        QimgFormatSnapshot snapshot = {0};
        uint64_t entry_bytes = 0;

        if (!load_entry(q, at, table_end, &snapshot, &entry_bytes)) {
            qimg_format_snapshot_clear(&snapshot);
            qimg_format_warn(&q->base,
                             "snapshot table: entry %" PRIu32 " of %" PRIu32
                             " does not fit in the file or its limits; the snapshots "
                             "from there on are not shown (run qimg check)",
                             i, q->header.n_snapshots);
            break;
        }
        g_array_append_val(list, snapshot);
        at += entry_bytes;
    }
    q->snapshot_table_bytes = at - q->header.snapshots_offset;
    for (guint i = 0; i < list->len; i++)
        qcow2_view_clip_to_file(q, &g_array_index(list, QimgFormatSnapshot, i).view);
    qimg_snapshots_unref(q->base.snapshots);
    n_loaded = list->len;
    q->base.snapshots =
        qimg_snapshots_new((QimgFormatSnapshot *)g_array_steal(list, NULL), n_loaded);
    q->base.next_snapshot_serial = n_loaded;
}

bool
qcow2_check_snapshot(QimgFormat *format, const QimgFormatSnapshot *snapshot,
                     QimgGuestOffset *vm_state_out, GError **error)
{
    Qcow2 *q = (Qcow2 *)format;
    const QimgView *view = &snapshot->view;
    uint64_t vm_state_offset, vm_state_end;
    QimgRule rule = qcow2_check_table(
        view->l1_table_offset.v, view->n_l1_entries, 8, q->geometry.cluster_bytes,
        QCOW2_MAX_L1_BYTES, QIMG_RULE_SNAPSHOT_L1_SIZE, QIMG_RULE_SNAPSHOT_L1_OFFSET);

    if (!rule && view->n_l1_entries > 0 && view->l1_table_offset.v == 0)
        rule = QIMG_RULE_SNAPSHOT_L1_OFFSET;
    if (!rule &&
        (!qimg_align_up(view->size_bytes, UINT64_C(1) << q->geometry.l1_shift,
                        &vm_state_offset) ||
         !qimg_add_u64(vm_state_offset, snapshot->facts.vm_state_bytes, &vm_state_end) ||
         vm_state_end > INT64_MAX))
        rule = QIMG_RULE_VIRTUAL_SIZE;
    if (rule) {
        qimg_set_error(error, QIMG_ERROR_INVALID, "snapshot %u: %s: %s (run qimg check)",
                       snapshot->facts.serial, qimg_rule_field(rule),
                       qimg_rule_text(rule));
        return false;
    }
    *vm_state_out = qimg_guest(vm_state_offset);
    return true;
}
