/* SPDX-License-Identifier: GPL-2.0-or-later */
/* format/qcow2/check/ on request of the user: each kind of damage, in each mode, with a
 * failure or the end of the machine at each write. The disk and its snapshot stay the
 * same at any moment, and a second repair completes the first. */
#include "format/qcow2/check/check.h"
#include "format/qcow2/check/repair-refcounts.h"
#include "format/qcow2/check/repair.h"

#include <errno.h>
#include <string.h>

#include "codec/qcow2-tables.h"
#include "event-storage.h"
#include "format/drivers.h"
#include "image-builder.h"
#include "memory-storage.h"
#include "qcow2-check.h"
#include "test-util.h"

#define CLUSTER  512u
#define N_GUEST  200u /* clusters of the disk */
#define N_MAPPED (2 * N_GUEST)
#define ZEROS    120u /* a guest cluster of zeros, also in the snapshot */

/* ---- images ---- */

static uint64_t
get_be(const GByteArray *bytes, uint64_t offset, unsigned n_bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < n_bytes; i++)
        value = value << 8 | bytes->data[offset + i];
    return value;
}

static void
put_be64(GByteArray *bytes, uint64_t offset, uint64_t value)
{
    for (unsigned i = 0; i < 8; i++)
        bytes->data[offset + i] = (uint8_t)(value >> (56 - 8 * i));
}

static void
put_be32(GByteArray *bytes, uint64_t offset, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        bytes->data[offset + i] = (uint8_t)(value >> (24 - 8 * i));
}

/* Repairs the image in @bytes; -errno, or 0 with the result of the check after that. */
static QimgErrno
repair(TestLayer *layer, QimgRepair mode, QimgCheckResult *out)
{
    g_autoptr(GError) error = NULL;
    QimgCheckReport report;
    bool is_done;

    qimg_check_report_init(&report, NULL);
    is_done = qcow2_repair(&layer->q->base, mode, &report, &error);
    *out = report.result;
    qimg_check_report_clear(&report);
    g_assert_cmpint(is_done, ==, error == NULL);
    return is_done ? 0 : -EIO;
}

static QimgCheckResult
check(const GByteArray *bytes)
{
    TestLayer layer = test_layer_open(bytes, false);
    g_autoptr(GError) error = NULL;
    QimgCheckReport report;
    QimgCheckResult result;

    qimg_check_report_init(&report, NULL);
    g_assert_true(qcow2_check(&layer.q->base, &report, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(layer.storage->events->len, ==, 0); /* it never writes */
    result = report.result;
    qimg_check_report_clear(&report);
    test_layer_close(&layer);
    return result;
}

static bool
is_sound(const QimgCheckResult *r)
{
    return r->n_corruptions == 0 && r->n_leaks == 0 && r->n_check_errors == 0;
}

/* A sound image with data, compressed and zero clusters, shared with a snapshot except
 * those at the end. */
static GByteArray *
make_sound(uint32_t refcount_order)
{
    g_autoptr(ImageBuilder) b = image_builder_new(3, 9, N_GUEST * CLUSTER, false);
    uint8_t content[CLUSTER];
    QimgCheckResult result;
    GByteArray *bytes;
    TestLayer layer;

    for (uint64_t c = 0; c < 60; c++) {
        memset(content, 1 + (int)c, sizeof content);
        image_builder_add_data(b, c, content);
    }
    for (uint64_t c = 60; c < 70; c++)
        g_assert_cmpuint(image_builder_add_compressed(b, c, content), !=, 0);
    image_builder_set_entry(b, b->header.l1_table_offset, 90,
                            image_builder_allocate(b, 1) | 1, 0);
    image_builder_set_entry(b, b->header.l1_table_offset, ZEROS, 1, 0);
    image_builder_add_snapshot(b);
    for (uint64_t c = 130; c < N_GUEST; c++)
        image_builder_add_data(b, c, content);
    b->header.refcount_order = refcount_order;
    image_builder_finish(b);
    layer = test_layer_open(b->bytes, false); /* the builder makes no refcounts */
    g_assert_cmpint(repair(&layer, QIMG_REPAIR_ALL, &result), ==, 0);
    g_assert_true(is_sound(&result));
    bytes = g_byte_array_ref(layer.storage->bytes);
    test_layer_close(&layer);
    return bytes;
}

/* ---- damage ---- */

static uint64_t
first_block(const GByteArray *bytes)
{
    return get_be(bytes, get_be(bytes, 48, 8), 8);
}

static uint64_t
l2_entry_offset(const GByteArray *bytes, uint64_t guest_cluster)
{
    uint64_t l1 = get_be(bytes, 40, 8);

    return (get_be(bytes, l1 + guest_cluster / 64 * 8, 8) & QCOW2_OFFSET_MASK) +
           guest_cluster % 64 * 8;
}

static void
nothing(GByteArray *bytes)
{
    (void)bytes;
}

static void
leaks(GByteArray *bytes)
{
    /* Too many references to some clusters, and three more clusters. */
    guint old = bytes->len;
    uint64_t per_block = 8 * CLUSTER >> get_be(bytes, 96, 4);

    g_byte_array_set_size(bytes, old + 3 * CLUSTER);
    memset(bytes->data + old, 0x11, 3 * CLUSTER);
    for (uint64_t c = 10; c < 30; c++)
        bytes->data[first_block(bytes) + (c + 1) * CLUSTER / per_block - 1] |= 6;
}

static void
no_counts(GByteArray *bytes)
{
    memset(bytes->data + first_block(bytes), 0, CLUSTER);
}

static void
no_block(GByteArray *bytes)
{
    put_be64(bytes, get_be(bytes, 48, 8), 0);
}

static void
ruined_entry(GByteArray *bytes)
{
    put_be64(bytes, get_be(bytes, 48, 8), 0x123457);
}

static void
ruined_table(GByteArray *bytes)
{
    put_be64(bytes, 48, UINT64_C(1) << 50);
}

static void
block_on_l2(GByteArray *bytes)
{
    put_be64(bytes, get_be(bytes, 48, 8), l2_entry_offset(bytes, 0));
}

static void
flags(GByteArray *bytes)
{
    for (uint64_t c = 0; c < N_GUEST; c += 3) {
        uint64_t at = l2_entry_offset(bytes, c);
        uint64_t word = get_be(bytes, at, 8);

        if (!(word & QCOW2_L2_COMPRESSED) && (word & QCOW2_OFFSET_MASK))
            put_be64(bytes, at, word ^ QCOW2_ENTRY_COPIED);
    }
}

static void
short_snapshot(GByteArray *bytes)
{
    uint64_t at = get_be(bytes, 64, 8);
    uint32_t extra = (uint32_t)get_be(bytes, at + 36, 4);

    g_assert_cmpuint(extra, >=, 16);
    memmove(bytes->data + at + 48, bytes->data + at + 40 + extra, 32 - extra / 2);
    put_be32(bytes, at + 36, 8);
}

static void
everything(GByteArray *bytes)
{
    leaks(bytes);
    flags(bytes);
    short_snapshot(bytes);
    memset(bytes->data + first_block(bytes), 0, CLUSTER / 4);
    put_be64(bytes, 72, 3);
}

static void
everything_ruined(GByteArray *bytes)
{
    everything(bytes);
    ruined_entry(bytes);
}

static const struct {
    const char *name;
    void (*damage)(GByteArray *);
    bool is_mended_by_leaks;
} damages[] = {
    {"nothing", nothing, true},
    {"leaks", leaks, false},
    {"no-counts", no_counts, false},
    {"no-block", no_block, false},
    {"ruined-entry", ruined_entry, false},
    {"ruined-table", ruined_table, false},
    {"block-on-l2", block_on_l2, false},
    {"flags", flags, true},
    {"short-snapshot", short_snapshot, false},
    {"everything", everything, false},
    {"everything-ruined", everything_ruined, false},
};

/* ---- the content of the disks ---- */

/* The mapping of each cluster of the disk, then of the snapshot. */
static void
get_mapping(const GByteArray *bytes, QimgRun runs[N_MAPPED])
{
    TestLayer layer = test_layer_open(bytes, false);

    g_assert_cmpuint(layer.q->base.snapshots->n, ==, 1);
    test_layer_get_mapping(&layer, &layer.q->base.active, runs, N_GUEST);
    test_layer_get_mapping(&layer, &layer.q->base.snapshots->items[0].view,
                           runs + N_GUEST, N_GUEST);
    test_layer_close(&layer);
}

static void
assert_mapping_is(const GByteArray *bytes, const QimgRun wanted[N_MAPPED])
{
    QimgRun runs[N_MAPPED];

    get_mapping(bytes, runs);
    test_assert_same_mapping(runs, wanted, N_MAPPED);
}

/* The separate check, by other code, agrees. */
static void
assert_sound(const GByteArray *bytes)
{
    QimgCheckResult result = check(bytes);
    Qcow2CheckResult other;
    g_autofree char *problem = qcow2_check_bytes(bytes->data, bytes->len, &other);

    g_assert_true(is_sound(&result));
    g_assert_null(problem);
    g_assert_cmpuint(other.n_leaks, ==, 0);
    g_assert_false(other.is_dirty);
}

/* Repairs everything in a copy of @bytes, whose mapping is @wanted. */
static void
assert_repairable(const GByteArray *bytes, const QimgRun wanted[N_MAPPED])
{
    TestLayer layer = test_layer_open(bytes, false);
    QimgCheckResult result;

    g_assert_cmpint(repair(&layer, QIMG_REPAIR_ALL, &result), ==, 0);
    g_assert_true(is_sound(&result));
    assert_sound(layer.storage->bytes);
    assert_mapping_is(layer.storage->bytes, wanted);
    test_layer_close(&layer);
}

/* ---- tests ---- */

static void
test_modes(void)
{
    for (uint32_t order = 3; order <= 6; order++) {
        g_autoptr(GByteArray) sound = make_sound(order);
        QimgRun wanted[N_MAPPED];

        get_mapping(sound, wanted);
        for (size_t i = 0; i < G_N_ELEMENTS(damages); i++) {
            g_autoptr(GByteArray) bytes = g_byte_array_new();
            QimgCheckResult before, after;
            TestLayer layer;

            g_test_message("%s, order %u", damages[i].name, order);
            g_byte_array_append(bytes, sound->data, sound->len);
            damages[i].damage(bytes);
            before = check(bytes);
            g_assert_cmpint(is_sound(&before), ==, damages[i].damage == nothing);
            assert_repairable(bytes, wanted);
            layer = test_layer_open(bytes, false);
            g_assert_cmpint(repair(&layer, QIMG_REPAIR_LEAKS, &after), ==, 0);
            g_assert_cmpuint(after.n_corruptions, <=, before.n_corruptions);
            g_assert_cmpuint(after.n_leaks, <=, before.n_leaks);
            if (damages[i].is_mended_by_leaks)
                assert_sound(layer.storage->bytes);
            assert_repairable(layer.storage->bytes, wanted);
            test_layer_close(&layer);
        }
    }
}

static GByteArray *
make_damaged(size_t index, QimgRun wanted[N_MAPPED])
{
    GByteArray *bytes = make_sound(6);

    get_mapping(bytes, wanted);
    damages[index].damage(bytes);
    return bytes;
}

/* Every write in turn fails, with all later ones; then the repair is repeated. */
static void
test_failing_writes(void)
{
    static const int errnums[] = {EIO, ENOSPC};

    for (size_t i = 0; i < 2 * G_N_ELEMENTS(damages); i++) {
        QimgRepair mode = i % 2 ? QIMG_REPAIR_ALL : QIMG_REPAIR_LEAKS;
        QimgRun wanted[N_MAPPED];
        g_autoptr(GByteArray) bytes = make_damaged(i / 2, wanted);
        bool is_done = false;

        g_test_message("%s, mode %d", damages[i / 2].name, mode);
        for (unsigned n = 0; !is_done; n++) {
            TestLayer layer = test_layer_open(bytes, false);
            QimgCheckResult result;

            layer.storage->errnum = errnums[n % 2];
            layer.storage->n_until_failure = n;
            is_done = repair(&layer, mode, &result) == 0;
            assert_mapping_is(layer.storage->bytes, wanted);
            assert_repairable(layer.storage->bytes, wanted);
            test_layer_close(&layer);
        }
    }
}

/* The machine ends after each write; unsynced writes are there in part. */
static void
test_power_cuts(void)
{
    static const uint64_t kept[] = {0, UINT64_MAX, UINT64_C(0x5555555555555555),
                                    UINT64_C(0xaaaaaaaaaaaaaaaa)};

    for (size_t i = 0; i < 2 * G_N_ELEMENTS(damages); i++) {
        QimgRepair mode = i % 2 ? QIMG_REPAIR_ALL : QIMG_REPAIR_LEAKS;
        QimgRun wanted[N_MAPPED];
        g_autoptr(GByteArray) bytes = make_damaged(i / 2, wanted);
        TestLayer layer = test_layer_open(bytes, false);
        const GArray *events = layer.storage->events;
        QimgCheckResult result;

        g_test_message("%s, mode %d", damages[i / 2].name, mode);
        g_assert_cmpint(repair(&layer, mode, &result), ==, 0);
        for (guint end = 0; end <= events->len; end++) {
            for (size_t k = 0; k < G_N_ELEMENTS(kept); k++) {
                g_autoptr(GByteArray) cut =
                    event_storage_after_power_cut(bytes, events, end, kept[k]);

                assert_mapping_is(cut, wanted);
                assert_repairable(cut, wanted);
            }
        }
        test_layer_close(&layer);
    }
}

/* The header never refers to a refcount table that is missing, or lacks blocks. */
static void
test_rebuilt_before_switched(void)
{
    QimgRun wanted[N_MAPPED];
    g_autoptr(GByteArray) bytes = make_damaged(4, wanted); /* ruined-entry */
    TestLayer layer = test_layer_open(bytes, false);
    const GArray *events = layer.storage->events;
    QimgCheckResult result;
    unsigned n_switched = 0;

    g_assert_cmpint(repair(&layer, QIMG_REPAIR_ALL, &result), ==, 0);
    for (guint end = 0; end <= events->len; end++) {
        for (unsigned i = 0; i <= end; i++) {
            g_autoptr(GByteArray) cut = event_storage_after_power_cut(
                bytes, events, end, UINT64_C(1) << (i % 64));

            if (get_be(cut, 48, 8) == get_be(bytes, 48, 8))
                continue;
            result = check(cut);
            g_assert_cmpuint(result.n_corruptions, ==, 0);
            n_switched++;
        }
    }
    g_assert_cmpuint(n_switched, >, 0);
    test_layer_close(&layer);
}

/* If refcounts can be kept, none is too low at any moment from the first lowering on. */
static void
test_raised_before_lowered(void)
{
    QimgRun wanted[N_MAPPED];
    g_autoptr(GByteArray) bytes = make_damaged(9, wanted); /* everything */
    TestLayer layer = test_layer_open(bytes, false);
    const GArray *events = layer.storage->events;
    QimgCheckResult result, before = check(bytes);
    bool is_lowered = false;

    g_assert_cmpint(repair(&layer, QIMG_REPAIR_ALL, &result), ==, 0);
    g_assert_cmpuint(before.n_leaks, >, 0);
    for (guint end = 0; end <= events->len; end++) {
        g_autoptr(GByteArray) cut =
            event_storage_after_power_cut(bytes, events, end, UINT64_MAX);

        result = check(cut);
        if (result.n_leaks < before.n_leaks && result.n_corruptions == 0)
            is_lowered = true;
        if (is_lowered)
            g_assert_cmpuint(result.n_corruptions, ==, 0);
    }
    g_assert_true(is_lowered);
    /* The marks of the header are cleared last. */
    g_assert_cmpuint(g_array_index(events, StorageEvent, events->len - 2).file_offset, ==,
                     72);
    test_layer_close(&layer);
}

/* Entries of zero clusters in larger clusters, of a disk and of a snapshot alone. */
static void
test_unaligned_zeros(void)
{
    for (unsigned extended = 0; extended < 2; extended++) {
        g_autoptr(ImageBuilder) b = image_builder_new(3, 14, 64 * 16384, extended == 1);
        uint64_t l1 = b->header.l1_table_offset;
        uint64_t word = 16384 + 512 + (extended ? 0 : 1);
        uint64_t bitmap = UINT64_C(0x0000ffff00000000);
        uint64_t zeros = extended ? 0 : 1;
        QimgCheckResult result;
        uint64_t l2, own_l2;
        TestLayer layer;

        image_builder_set_entry(b, l1, 1, word, bitmap);
        image_builder_add_snapshot(b);
        l2 = image_builder_get_be64(b, l1) & QCOW2_OFFSET_MASK;
        image_builder_put_be64(b, l1, 0); /* the snapshot's alone */
        image_builder_set_entry(b, l1, 2, word, bitmap);
        own_l2 = image_builder_get_be64(b, l1) & QCOW2_OFFSET_MASK;
        image_builder_finish(b);
        result = check(b->bytes);
        g_assert_cmpuint(result.n_corruptions, >=, 2);
        layer = test_layer_open(b->bytes, false);
        g_assert_cmpint(repair(&layer, QIMG_REPAIR_ALL, &result), ==, 0);
        g_assert_true(is_sound(&result));
        g_assert_cmpuint(get_be(layer.storage->bytes, l2 + (8u << extended), 8), ==,
                         zeros);
        g_assert_cmpuint(get_be(layer.storage->bytes, own_l2 + (16u << extended), 8), ==,
                         zeros);
        if (extended)
            g_assert_cmpuint(get_be(layer.storage->bytes, l2 + 24, 8), ==, bitmap);
        test_layer_close(&layer);
    }
}

/* While a table cannot be found, nothing is freed, and no cluster inside the file is
 * reused. */
static void
test_nothing_is_freed_in_doubt(void)
{
    static void (*const more[])(GByteArray *) = {nothing, leaks, no_block, ruined_entry,
                                                 ruined_table};

    for (size_t i = 0; i < G_N_ELEMENTS(more); i++) {
        g_autoptr(GByteArray) bytes = make_sound(4);
        uint64_t l1 = get_be(bytes, 40, 8);
        uint64_t entry = get_be(bytes, l1, 8), snapshot_l1;
        guint n_bytes;
        QimgCheckResult result;
        TestLayer layer;

        /* Both the disk's and the snapshot's first L2 table. */
        snapshot_l1 = get_be(bytes, get_be(bytes, 64, 8), 8);
        put_be64(bytes, l1, UINT64_C(1) << 40);
        put_be64(bytes, snapshot_l1, UINT64_C(1) << 40);
        more[i](bytes);
        n_bytes = bytes->len;
        for (unsigned mode = QIMG_REPAIR_LEAKS; mode <= QIMG_REPAIR_ALL; mode++) {
            layer = test_layer_open(bytes, false);
            g_assert_cmpint(repair(&layer, (QimgRepair)mode, &result), ==, 0);
            g_assert_cmpuint(result.n_corruptions, >, 0);
            for (guint e = 0; e < layer.storage->events->len; e++) {
                const StorageEvent *event =
                    &g_array_index(layer.storage->events, StorageEvent, e);

                if (event->bytes && event->purpose == QIMG_IO_REFCOUNT &&
                    event->file_offset < n_bytes)
                    g_assert_cmpuint(event->file_offset, ==, first_block(bytes));
            }
            /* With the entries restored, everything that they refer to is still there:
             * more[2] to more[4] have no old refcounts, except those of a lost block. */
            put_be64(layer.storage->bytes, l1, entry);
            put_be64(layer.storage->bytes, snapshot_l1, entry & ~QCOW2_ENTRY_COPIED);
            if (i < 2 || (mode == QIMG_REPAIR_ALL && i > 2)) {
                uint64_t block = first_block(layer.storage->bytes);
                uint64_t l2 = entry & QCOW2_OFFSET_MASK;

                g_assert_cmpuint(
                    get_be(layer.storage->bytes, block + l2 / CLUSTER * 2, 2), >, 0);
                for (uint64_t c = 0; c < 60; c++)
                    g_assert_cmpuint(get_be(layer.storage->bytes,
                                            block + (get_be(bytes, l2 + 8 * c, 8) &
                                                     QCOW2_OFFSET_MASK) /
                                                        CLUSTER * 2,
                                            2),
                                     >, 0);
            }
            test_layer_close(&layer);
        }
    }
}

/* A table that the host's file system cannot read: unreadable places are reported
 * separately from faults, and everything that they may refer to is kept. */
static void
test_unreadable(void)
{
    static const QimgIoPurpose purposes[] = {QIMG_IO_L1, QIMG_IO_L2, QIMG_IO_REFCOUNT};
    g_autoptr(GByteArray) bytes = make_sound(4);

    for (size_t i = 0; i < G_N_ELEMENTS(purposes); i++) {
        QimgStorage *storage =
            memory_storage_new_writable(bytes->data, bytes->len, "image");
        TableCache *tables = slot_cache_new(TABLE_SLICE_BYTES, QIMG_MIB);
        const QimgFormatEnv env = {
            .tables = tables, .has_snapshots = true, .for_check = true};
        QimgFormat *format = qimg_driver_qcow2.open(storage, &env, NULL);
        g_autoptr(GByteArray) after = NULL;
        QimgCheckReport report;
        bool is_done;

        g_assert_nonnull(format);
        memory_storage_fail(storage, purposes[i], 0, UINT_MAX, EIO);
        qimg_check_report_init(&report, NULL);
        g_assert_true(qcow2_check(format, &report, NULL));
        g_assert_cmpuint(report.result.n_check_errors, >, 0);
        qimg_check_report_clear(&report);
        qimg_check_report_init(&report, NULL);
        is_done = qcow2_repair(format, QIMG_REPAIR_ALL, &report, NULL);
        g_assert_true(!is_done || report.result.n_check_errors > 0);
        qimg_check_report_clear(&report);
        after = memory_storage_copy_all(storage);
        g_assert_cmpmem(after->data, after->len, bytes->data, bytes->len);
        qimg_format_close(format);
        slot_cache_free(tables);
    }
}

/* Any bytes in place of tables and of the header's fields for them. The separate check
 * finds repaired images sound; and mapped clusters stay. */
static void
test_hostile(void)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(test_util_seed());
    unsigned n_mended = 0, n_left = 0;

    for (unsigned round = 0; round < 400; round++) {
        g_autoptr(GByteArray) bytes =
            make_sound((uint32_t)g_rand_int_range(random, 3, 7));
        unsigned n_changes = (unsigned)g_rand_int_range(random, 1, 5);
        QimgRun before[N_MAPPED];
        QimgCheckResult result, again;
        TestLayer layer;

        for (unsigned i = 0; i < n_changes; i++) {
            uint64_t end = g_rand_boolean(random) ? 4 * CLUSTER : bytes->len;
            uint64_t at =
                (uint64_t)g_rand_int_range(random, CLUSTER, (gint32)end) & ~UINT64_C(7);
            uint64_t cluster = (uint64_t)g_rand_int_range(random, 0, 160);
            uint64_t high = (uint64_t)g_rand_int_range(random, 0, 4) << 62;

            if (g_rand_int_range(random, 0, 6) == 0)
                at = 48; /* the refcount table's place */
            if (at / CLUSTER == get_be(bytes, 64, 8) / CLUSTER)
                continue; /* so that the snapshot stays to be mapped */
            put_be64(bytes, at, high | cluster * CLUSTER | (high ? 0 : round % 2));
        }
        get_mapping(bytes, before);
        layer = test_layer_open(bytes, false);
        g_assert_cmpint(repair(&layer, QIMG_REPAIR_ALL, &result), ==, 0);
        assert_mapping_is(layer.storage->bytes, before);
        again = check(layer.storage->bytes);
        g_assert_cmpuint(again.n_corruptions, ==, result.n_corruptions);
        g_assert_cmpuint(again.n_leaks, ==, result.n_leaks);
        if (is_sound(&again)) {
            g_autofree char *problem = qcow2_check_bytes(layer.storage->bytes->data,
                                                         layer.storage->bytes->len, NULL);

            /* The separate check calls these corrupt; they are only odd. */
            if (!problem || (!strstr(problem, "referred to twice") &&
                             !strstr(problem, "COPIED set without a cluster")))
                g_assert_cmpstr(problem, ==, NULL);
            n_mended++;
        } else {
            n_left++;
        }
        test_layer_close(&layer);
    }
    g_test_message("%u mended, %u not", n_mended, n_left);
    g_assert_cmpuint(n_mended, >, 100);
    g_assert_cmpuint(n_left, >, 2);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/qcow2-check/modes", test_modes);
    g_test_add_func("/qcow2-check/failing-writes", test_failing_writes);
    g_test_add_func("/qcow2-check/power-cuts", test_power_cuts);
    g_test_add_func("/qcow2-check/rebuilt-before-switched", test_rebuilt_before_switched);
    g_test_add_func("/qcow2-check/raised-before-lowered", test_raised_before_lowered);
    g_test_add_func("/qcow2-check/unaligned-zeros", test_unaligned_zeros);
    g_test_add_func("/qcow2-check/doubt", test_nothing_is_freed_in_doubt);
    g_test_add_func("/qcow2-check/unreadable", test_unreadable);
    g_test_add_func("/qcow2-check/hostile", test_hostile);
    return g_test_run();
}
