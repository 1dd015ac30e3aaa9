/* SPDX-License-Identifier: GPL-2.0-or-later */
/* codec/qcow2-snapshots.c: the specification's example, old and long extra data, decoding
 * of encoded entries, and that a new name changes nothing else. */
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

/* ---- encoding ---- */

/* All fields of our entries. */
static const struct {
    const char *id;
    const char *name;
    Qcow2SnapshotEntry entry;
} round_trips[] = {
    {"1", "s1", {.l1_table_offset = 0xf0000, .n_l1_entries = 1, .date_s = 0x6b0106b9}},
    {"1", "", {.disk_bytes = 512}},
    {"", "", {.icount = -1}},
    {"18446744073709551615",
     "a name with \xc3\xa4 and \xff",
     {.l1_table_offset = UINT64_C(0x00fffffffffffe00),
      .n_l1_entries = UINT32_MAX,
      .date_s = UINT32_MAX,
      .date_ns = 999999999,
      .vm_clock_ns = UINT64_MAX,
      .vm_state_bytes = UINT64_MAX,
      .disk_bytes = UINT64_MAX,
      .icount = INT64_MAX}},
    {"7", "state", {.vm_state_bytes = UINT32_MAX, .disk_bytes = 1, .icount = 1}},
    {"8", "state", {.vm_state_bytes = UINT64_C(1) << 32, .disk_bytes = QIMG_MIB}},
};

/* Encodes into a buffer of exactly the entry's length, filled with something else. */
static uint8_t *
encode(Qcow2SnapshotEntry *e, const char *id, const char *name)
{
    uint8_t *bytes;

    e->id_bytes = (uint16_t)strlen(id);
    e->name_bytes = (uint16_t)strlen(name);
    e->extra_bytes = QCOW2_SNAPSHOT_NEW_EXTRA_BYTES;
    qcow2_snapshot_set_entry_bytes(e);
    bytes = g_malloc(e->entry_bytes);
    memset(bytes, 0xa5, e->entry_bytes);
    qcow2_snapshot_encode(e, id, name, bytes);
    return bytes;
}

static void
assert_same_entry(const Qcow2SnapshotEntry *a, const Qcow2SnapshotEntry *b)
{
    g_assert_cmphex(a->l1_table_offset, ==, b->l1_table_offset);
    g_assert_cmpuint(a->n_l1_entries, ==, b->n_l1_entries);
    g_assert_cmpuint(a->id_bytes, ==, b->id_bytes);
    g_assert_cmpuint(a->name_bytes, ==, b->name_bytes);
    g_assert_cmpuint(a->date_s, ==, b->date_s);
    g_assert_cmpuint(a->date_ns, ==, b->date_ns);
    g_assert_cmpuint(a->vm_clock_ns, ==, b->vm_clock_ns);
    g_assert_cmpuint(a->vm_state_bytes, ==, b->vm_state_bytes);
    g_assert_cmpuint(a->extra_bytes, ==, b->extra_bytes);
    g_assert_cmpuint(a->disk_bytes, ==, b->disk_bytes);
    g_assert_cmpint(a->icount, ==, b->icount);
    g_assert_cmpuint(a->entry_bytes, ==, b->entry_bytes);
}

static void
test_round_trip(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(round_trips); i++) {
        const char *id = round_trips[i].id, *name = round_trips[i].name;
        Qcow2SnapshotEntry wanted = round_trips[i].entry, e;
        g_autofree uint8_t *bytes = encode(&wanted, id, name);
        uint64_t end = 64 + strlen(id) + strlen(name);

        g_assert_cmpuint(wanted.entry_bytes, ==, (end + 7) / 8 * 8);
        g_assert_cmpint(qcow2_snapshot_decode_fixed(bytes, &e).rule, ==, QIMG_RULE_OK);
        /* A reader without knowledge of extra data must not take a part of the size for
         * all of it. */
        g_assert_cmpuint(e.vm_state_bytes, ==,
                         wanted.vm_state_bytes <= UINT32_MAX ? wanted.vm_state_bytes : 0);
        qcow2_snapshot_decode_extra(bytes + QCOW2_SNAPSHOT_FIXED_BYTES, &e);
        g_assert_true(e.has_disk_size);
        assert_same_entry(&e, &wanted);
        g_assert_cmpmem(bytes + 64, strlen(id), id, strlen(id));
        g_assert_cmpmem(bytes + 64 + strlen(id), strlen(name), name, strlen(name));
        for (uint64_t at = end; at < wanted.entry_bytes; at++)
            g_assert_cmphex(bytes[at], ==, 0);
    }
}

/* The example, made by the encoder. */
static void
test_encode_example(void)
{
    Qcow2SnapshotEntry e;
    g_autofree uint8_t *bytes = NULL;
    uint8_t wanted[sizeof example];

    (void)qcow2_snapshot_decode_fixed(example, &e);
    qcow2_snapshot_decode_extra(example + 40, &e);
    bytes = encode(&e, "1", "s1");
    memcpy(wanted, example, sizeof wanted);
    memset(wanted + 32, 0, 4); /* too large for 32 bits */
    g_assert_cmpmem(bytes, e.entry_bytes, wanted, sizeof wanted);
}

/* ---- renaming ---- */

/* With each length of extra data and names that are shorter and longer: the fields, the
 * extra data and the ID stay, the rest is the name and zeros. */
static void
test_rename(void)
{
    static const uint32_t extras[] = {0, 1, 8, 16, 23, 24, 25, 64, 1023, 1024};
    static const uint16_t names[] = {0, 1, 7, 8, 255, 65535};

    for (size_t i = 0; i < G_N_ELEMENTS(extras) * G_N_ELEMENTS(names); i++) {
        uint32_t extra_bytes = extras[i / G_N_ELEMENTS(names)];
        uint16_t name_bytes = names[i % G_N_ELEMENTS(names)];
        size_t n_kept = QCOW2_SNAPSHOT_FIXED_BYTES + extra_bytes + 3;
        uint64_t new_bytes = (n_kept + name_bytes + 7) / 8 * 8;
        g_autofree uint8_t *old = g_malloc(n_kept + 5);
        g_autofree uint8_t *new = g_malloc(new_bytes);
        g_autofree char *name = g_malloc((gsize)name_bytes + 1);
        Qcow2SnapshotEntry e, renamed;

        for (size_t at = 0; at < n_kept + 5; at++)
            old[at] = (uint8_t)(at * 7 + 3);
        memcpy(old + 12, "\0\3\0\5", 4); /* an ID of 3 bytes, a name of 5 */
        memcpy(old + 36, "\0\0", 2);
        old[38] = (uint8_t)(extra_bytes >> 8);
        old[39] = (uint8_t)extra_bytes;
        memset(name, 'n', name_bytes);
        memset(new, 0xa5, new_bytes);
        g_assert_cmpint(qcow2_snapshot_decode_fixed(old, &e).rule, ==, QIMG_RULE_OK);
        qcow2_snapshot_encode_renamed(old, &e, name, name_bytes, new);

        g_assert_cmpint(qcow2_snapshot_decode_fixed(new, &renamed).rule, ==,
                        QIMG_RULE_OK);
        g_assert_cmpuint(renamed.entry_bytes, ==, new_bytes);
        g_assert_cmpuint(renamed.name_bytes, ==, name_bytes);
        g_assert_cmpmem(new, 14, old, 14);
        g_assert_cmpmem(new + 16, n_kept - 16, old + 16, n_kept - 16);
        g_assert_cmpmem(new + n_kept, name_bytes, name, name_bytes);
        for (uint64_t at = n_kept + name_bytes; at < new_bytes; at++)
            g_assert_cmphex(new[at], ==, 0);
    }
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/snapshots/example", test_example);
    g_test_add_func("/snapshots/extra-lengths", test_extra_lengths);
    g_test_add_func("/snapshots/largest", test_largest);
    g_test_add_func("/snapshots/round-trip", test_round_trip);
    g_test_add_func("/snapshots/encode-example", test_encode_example);
    g_test_add_func("/snapshots/rename", test_rename);
    return g_test_run();
}
