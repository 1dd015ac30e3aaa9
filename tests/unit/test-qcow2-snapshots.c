/* SPDX-License-Identifier: GPL-2.0-or-later */
/* codec/qcow2-snapshots.c: the specification's example, old and long extra data. */
#include "codec/qcow2-snapshots.h"

#include "codec/qcow2-geometry.h"
#include "test-util.h"

/* Spec section 8, with the VM state's size and the icount made visible. */
static const uint8_t example[72] = {
    0x00, 0x00, 0x00, 0x00, 0x00, 0x0f, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x01,
    0x00, 0x02, 0x6b, 0x01, 0x06, 0xb9, 0x2c, 0xe7, 0xf8, 0xc0, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x09, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00, 0x00, 0x18, 0x00, 0x00,
    0x00, 0x01, 0x00, 0x00, 0x00, 0x06, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x07, '1',  's',  '1',
};

static void
test_example(void)
{
    Qcow2SnapshotEntry e;

    g_assert_cmpint(qcow2_snapshot_decode_fixed(example, &e).rule, ==, QIMG_RULE_OK);
    g_assert_cmphex(e.l1_table_offset, ==, 0xf0000);
    g_assert_cmpuint(e.n_l1_entries, ==, 1);
    g_assert_cmpuint(e.id_bytes, ==, 1);
    g_assert_cmpuint(e.name_bytes, ==, 2);
    g_assert_cmphex(e.date_s, ==, 0x6b0106b9);
    g_assert_cmpuint(e.date_ns, ==, 0x2ce7f8c0);
    g_assert_cmpuint(e.vm_clock_ns, ==, 9);
    g_assert_cmpuint(e.vm_state_bytes, ==, 5);
    g_assert_cmpuint(e.extra_bytes, ==, 24);
    g_assert_cmpuint(e.entry_bytes, ==, 0x48);
    g_assert_false(e.has_disk_size);
    g_assert_cmpint(e.icount, ==, -1);
    qcow2_snapshot_decode_extra(example + 40, &e);
    g_assert_cmphex(e.vm_state_bytes, ==, UINT64_C(0x100000006));
    g_assert_true(e.has_disk_size);
    g_assert_cmpuint(e.disk_bytes, ==, 64 * QIMG_MIB);
    g_assert_cmpint(e.icount, ==, 7);
}

/* Each length of extra data: only whole fields count. */
static void
test_extra_lengths(void)
{
    for (uint32_t extra_bytes = 0; extra_bytes <= 1030; extra_bytes++) {
        uint8_t fixed[QCOW2_SNAPSHOT_FIXED_BYTES];
        g_autofree uint8_t *extra = g_malloc0(MAX(extra_bytes, 1));
        Qcow2SnapshotEntry e = {.n_l1_entries = 77};
        QimgDecode decoded;

        memcpy(fixed, example, sizeof fixed);
        fixed[38] = (uint8_t)(extra_bytes >> 8);
        fixed[39] = (uint8_t)extra_bytes;
        memcpy(extra, example + 40, MIN(extra_bytes, 24));
        decoded = qcow2_snapshot_decode_fixed(fixed, &e);
        if (extra_bytes > QCOW2_MAX_SNAPSHOT_EXTRA) {
            g_assert_cmpint(decoded.rule, ==, QIMG_RULE_SNAPSHOT_ENTRY);
            g_assert_cmpuint(decoded.value, ==, extra_bytes);
            g_assert_cmpuint(e.n_l1_entries, ==, 77);
            continue;
        }
        g_assert_cmpint(decoded.rule, ==, QIMG_RULE_OK);
        g_assert_cmpuint(e.entry_bytes, ==, (40 + extra_bytes + 3 + 7) / 8 * 8);
        qcow2_snapshot_decode_extra(extra, &e);
        g_assert_cmphex(e.vm_state_bytes, ==,
                        extra_bytes >= 8 ? UINT64_C(0x100000006) : 5);
        g_assert_cmpint(e.has_disk_size, ==, extra_bytes >= 16);
        g_assert_cmpuint(e.disk_bytes, ==, extra_bytes >= 16 ? 64 * QIMG_MIB : 0);
        g_assert_cmpint(e.icount, ==, extra_bytes >= 24 ? 7 : -1);
    }
}

static void
test_largest(void)
{
    uint8_t fixed[QCOW2_SNAPSHOT_FIXED_BYTES];
    Qcow2SnapshotEntry e;

    memset(fixed, 0xff, sizeof fixed);
    g_assert_cmpint(qcow2_snapshot_decode_fixed(fixed, &e).rule, ==,
                    QIMG_RULE_SNAPSHOT_ENTRY);
    memset(fixed + 36, 0, 4);
    g_assert_cmpint(qcow2_snapshot_decode_fixed(fixed, &e).rule, ==, QIMG_RULE_OK);
    g_assert_cmpuint(e.entry_bytes, ==, (40 + 2 * 65535 + 7) / 8 * 8);
    g_assert_cmpuint(e.vm_state_bytes, ==, UINT32_MAX);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/snapshots/example", test_example);
    g_test_add_func("/snapshots/extra-lengths", test_extra_lengths);
    g_test_add_func("/snapshots/largest", test_largest);
    return g_test_run();
}
