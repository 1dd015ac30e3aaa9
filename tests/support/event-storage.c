/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A storage with a memory of its writes. */
#include "event-storage.h"

#include "format/drivers.h"
#include "format/qcow2/tables/map.h"

#include <string.h>

static void
apply(GByteArray *bytes, uint64_t offset, const void *data, size_t n)
{
    guint old = bytes->len;

    if (offset + n > old) {
        g_byte_array_set_size(bytes, (guint)(offset + n));
        memset(bytes->data + old, 0, offset + n - old);
    }
    memcpy(bytes->data + offset, data, n);
}

static ssize_t
event_pread(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
            void *buffer, size_t n_bytes)
{
    const EventStorage *j = (const EventStorage *)storage;

    (void)purpose;
    if (file_offset >= j->bytes->len)
        return 0;
    n_bytes = MIN(n_bytes, j->bytes->len - file_offset);
    memcpy(buffer, j->bytes->data + file_offset, n_bytes);
    return (ssize_t)n_bytes;
}

static ssize_t
event_pwritev(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
              const struct iovec *parts, int n_parts)
{
    EventStorage *j = (EventStorage *)storage;
    StorageEvent event = {file_offset, NULL, purpose};

    g_assert_cmpint(n_parts, ==, 1);
    if (j->errnum && j->n_until_failure-- == 0) {
        j->n_until_failure = 0; /* and all following ones */
        return -j->errnum;
    }
    event.bytes = g_bytes_new(parts[0].iov_base, parts[0].iov_len);
    g_array_append_val(j->events, event);
    apply(j->bytes, file_offset, parts[0].iov_base, parts[0].iov_len);
    return (ssize_t)parts[0].iov_len;
}

static QimgErrno
event_sync(QimgStorage *storage)
{
    EventStorage *j = (EventStorage *)storage;
    StorageEvent event = {0};

    g_array_append_val(j->events, event);
    return 0;
}

static QimgErrno
event_get_size(QimgStorage *storage, uint64_t *size_bytes_out)
{
    const EventStorage *j = (const EventStorage *)storage;

    *size_bytes_out = j->claimed_size ? j->claimed_size : j->bytes->len;
    return 0;
}

static void
event_close(QimgStorage *storage)
{
    EventStorage *j = (EventStorage *)storage;

    for (guint i = 0; i < j->events->len; i++)
        g_bytes_unref(g_array_index(j->events, StorageEvent, i).bytes);
    g_array_unref(j->events);
    g_byte_array_unref(j->bytes);
    g_free(j);
}

static const QimgStorageOps event_ops = {
    .pread = event_pread,
    .get_size = event_get_size,
    .pwritev = event_pwritev,
    .sync = event_sync,
    .close = event_close,
};

EventStorage *
event_storage_new(const GByteArray *bytes)
{
    EventStorage *j = g_new0(EventStorage, 1);

    qimg_storage_init(&j->storage, &event_ops, "image", bytes->len);
    j->bytes = g_byte_array_new();
    g_byte_array_append(j->bytes, bytes->data, bytes->len);
    j->events = g_array_new(FALSE, FALSE, sizeof(StorageEvent));
    return j;
}

GByteArray *
event_storage_after_power_cut(const GByteArray *start, const GArray *events, guint end,
                              uint64_t kept)
{
    GByteArray *bytes = g_byte_array_new();
    guint synced = 0;

    g_byte_array_append(bytes, start->data, start->len);
    for (guint i = 0; i < end; i++)
        if (!g_array_index(events, StorageEvent, i).bytes)
            synced = i;
    for (guint i = 0; i < end; i++) {
        const StorageEvent *event = &g_array_index(events, StorageEvent, i);
        gsize n;
        const void *data = event->bytes ? g_bytes_get_data(event->bytes, &n) : NULL;

        if (data && (i < synced || (kept >> (i % 64) & 1)))
            apply(bytes, event->file_offset, data, n);
    }
    return bytes;
}

TestLayer
test_layer_open(const GByteArray *bytes, bool is_writable)
{
    TestLayer layer = {.storage = event_storage_new(bytes),
                       .tables = slot_cache_new(TABLE_SLICE_BYTES, QIMG_MIB),
                       .gate = qimg_gate_new()};
    QimgFormatEnv env = {.tables = layer.tables,
                         .gate = layer.gate,
                         .is_writable = is_writable,
                         .drops_bitmaps = true, /* images with damaged ones open, too */
                         .has_snapshots = true,
                         .inspect = !is_writable,
                         .for_check = !is_writable};
    GError *error = NULL;

    layer.q = (Qcow2 *)qimg_driver_qcow2.open(&layer.storage->storage, &env, &error);
    g_assert_no_error(error);
    return layer;
}

void
test_layer_close(TestLayer *layer)
{
    qimg_format_close(&layer->q->base);
    slot_cache_free(layer->tables);
    qimg_gate_free(layer->gate);
}

void
test_layer_get_mapping(const TestLayer *layer, const QimgView *view, QimgRun *runs,
                       uint64_t n_clusters)
{
    QimgFormat *format = &layer->q->base;
    uint64_t cluster_bytes = format->cluster_bytes;

    for (uint64_t c = 0; c < n_clusters; c++)
        g_assert_cmpint(qcow2_map(format, view, qimg_guest(c * cluster_bytes),
                                  cluster_bytes, &runs[c]),
                        ==, 0);
}

void
test_assert_same_mapping(const QimgRun *runs, const QimgRun *wanted, uint64_t n_clusters)
{
    for (uint64_t c = 0; c < n_clusters; c++) {
        g_assert_cmpint(runs[c].kind, ==, wanted[c].kind);
        g_assert_cmpuint(runs[c].host_offset.v, ==, wanted[c].host_offset.v);
        g_assert_cmpuint(runs[c].stream_bytes, ==, wanted[c].stream_bytes);
    }
}
