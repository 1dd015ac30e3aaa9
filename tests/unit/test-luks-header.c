/* SPDX-License-Identifier: GPL-2.0-or-later */
/* codec/luks-header.c: each check of a hostile header. Spec: encryption section 3.5. */
#include "codec/luks-header.h"

#include <string.h>

#include "base/endian.h"
#include "test-util.h"

/* The positions of the fields. Spec: encryption section 3.1. */
enum {
    VERSION = 6,
    CIPHER = 8,
    MODE = 40,
    HASH = 72,
    PAYLOAD = 104,
    KEY_BYTES = 108,
    DIGEST_ITERATIONS = 164,
    SLOTS = 208,
    SLOT_BYTES = 48,
    SLOT_ITERATIONS = 4,
    SLOT_MATERIAL = 40,
    SLOT_STRIPES = 44,
    /* Of a key of 64 bytes. */
    SLOT_SECTORS = 504,
    FIRST_SECTOR = 8,
    AREA_BYTES = 2068480,
};

#define ACTIVE   UINT32_C(0x00ac71f3)
#define INACTIVE UINT32_C(0x0000dead)

static void
set32(uint8_t *bytes, unsigned position, uint32_t value)
{
    qimg_be32 field = qimg_be32_set(value);

    memcpy(bytes + position, &field, sizeof field);
}

/* A sound header, as in an image of qemu-img with AES-256-XTS. */
static void
make_header(uint8_t bytes[LUKS_HEADER_BYTES])
{
    memset(bytes, 0, LUKS_HEADER_BYTES);
    memcpy(bytes, "LUKS\xba\xbe\0\1", 8);
    strcpy((char *)bytes + CIPHER, "aes");
    strcpy((char *)bytes + MODE, "xts-plain64");
    strcpy((char *)bytes + HASH, "sha256");
    set32(bytes, PAYLOAD, AREA_BYTES / QIMG_SECTOR_BYTES);
    set32(bytes, KEY_BYTES, 64);
    set32(bytes, DIGEST_ITERATIONS, 1000);
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        unsigned slot = SLOTS + i * SLOT_BYTES;

        set32(bytes, slot, i == 0 ? ACTIVE : INACTIVE);
        set32(bytes, slot + SLOT_ITERATIONS, i == 0 ? 5000 : 0);
        set32(bytes, slot + SLOT_MATERIAL, FIRST_SECTOR + i * SLOT_SECTORS);
        set32(bytes, slot + SLOT_STRIPES, LUKS_STRIPES);
    }
}

static void
test_sound(void)
{
    uint8_t bytes[LUKS_HEADER_BYTES];
    LuksHeader h;

    make_header(bytes);
    g_assert_cmpint(luks_header_decode(bytes, sizeof bytes, AREA_BYTES, &h).rule, ==, 0);
    g_assert_cmpstr(h.cipher, ==, "aes");
    g_assert_cmpstr(h.mode, ==, "xts-plain64");
    g_assert_cmpstr(h.hash, ==, "sha256");
    g_assert_cmpuint(h.key_bytes, ==, 64);
    g_assert_cmpuint(h.digest_iterations, ==, 1000);
    g_assert_cmpuint(h.payload_offset, ==, AREA_BYTES);
    g_assert_cmpuint(luks_material_bytes(&h), ==, 256000);
    g_assert_true(h.slots[0].is_active);
    g_assert_false(h.slots[7].is_active);
    g_assert_cmpuint(h.slots[0].iterations, ==, 5000);
    g_assert_cmpuint(h.slots[7].material_offset, ==,
                     (FIRST_SECTOR + 7 * SLOT_SECTORS) * QIMG_SECTOR_BYTES);
}

#define SLOT(i, field) (SLOTS + (i)*SLOT_BYTES + (field))

static const struct {
    unsigned position;
    uint32_t value;
    QimgRule rule; /* 0: accepted */
} rows[] = {
    {0, 0x4c554b54, QIMG_RULE_LUKS_MAGIC},
    {4, 0xbabe0002, QIMG_RULE_LUKS_VERSION},
    {4, 0xbabe0000, QIMG_RULE_LUKS_VERSION},
    {PAYLOAD, 0, QIMG_RULE_LUKS_MATERIAL},
    {PAYLOAD, 8, QIMG_RULE_LUKS_MATERIAL},
    {PAYLOAD, AREA_BYTES / QIMG_SECTOR_BYTES - 5, QIMG_RULE_LUKS_MATERIAL},
    {PAYLOAD, UINT32_MAX, 0},
    {KEY_BYTES, 0, QIMG_RULE_LUKS_KEY_BYTES},
    {KEY_BYTES, 65, QIMG_RULE_LUKS_KEY_BYTES},
    {KEY_BYTES, UINT32_MAX, QIMG_RULE_LUKS_KEY_BYTES},
    {DIGEST_ITERATIONS, 0, QIMG_RULE_LUKS_ITERATIONS},
    {DIGEST_ITERATIONS, UINT32_MAX, 0}, /* the cost is checked elsewhere */
    {SLOT(0, 0), 1, QIMG_RULE_LUKS_SLOT_MARKER},
    {SLOT(7, 0), 0, QIMG_RULE_LUKS_SLOT_MARKER},
    {SLOT(0, SLOT_ITERATIONS), 0, QIMG_RULE_LUKS_ITERATIONS},
    {SLOT(7, SLOT_ITERATIONS), 0, 0},
    {SLOT(0, SLOT_STRIPES), 3999, QIMG_RULE_LUKS_STRIPES},
    {SLOT(7, SLOT_STRIPES), UINT32_MAX, QIMG_RULE_LUKS_STRIPES},
    {SLOT(0, SLOT_MATERIAL), 1, QIMG_RULE_LUKS_MATERIAL},
    {SLOT(0, SLOT_MATERIAL), 2, 0},
    {SLOT(0, SLOT_MATERIAL), 13, QIMG_RULE_LUKS_MATERIAL}, /* reaches into slot 1 */
    {SLOT(7, SLOT_MATERIAL), FIRST_SECTOR, QIMG_RULE_LUKS_MATERIAL},
    {SLOT(7, SLOT_MATERIAL), 4000, QIMG_RULE_LUKS_MATERIAL},
    {SLOT(7, SLOT_MATERIAL), UINT32_MAX, QIMG_RULE_LUKS_MATERIAL},
};

static void
test_hostile(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        uint8_t bytes[LUKS_HEADER_BYTES];
        LuksHeader h;

        make_header(bytes);
        set32(bytes, rows[i].position, rows[i].value);
        g_test_message("row %u", i);
        g_assert_cmpint(luks_header_decode(bytes, sizeof bytes, AREA_BYTES, &h).rule, ==,
                        rows[i].rule);
    }
}

static void
test_names_without_end(void)
{
    static const unsigned names[] = {CIPHER, MODE, HASH};

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        uint8_t bytes[LUKS_HEADER_BYTES];
        LuksHeader h;

        make_header(bytes);
        memset(bytes + names[i], 'x', LUKS_NAME_BYTES);
        g_assert_cmpint(luks_header_decode(bytes, sizeof bytes, AREA_BYTES, &h).rule, ==,
                        QIMG_RULE_LUKS_NAME);
    }
}

static void
test_short(void)
{
    uint8_t bytes[LUKS_HEADER_BYTES];
    LuksHeader h;

    make_header(bytes);
    g_assert_cmpint(luks_header_decode(bytes, sizeof bytes - 1, AREA_BYTES, &h).rule, ==,
                    QIMG_RULE_LUKS_SHORT);
    g_assert_cmpint(
        luks_header_decode(bytes, sizeof bytes, LUKS_HEADER_BYTES - 1, &h).rule, ==,
        QIMG_RULE_LUKS_SHORT);
    g_assert_cmpint(luks_header_decode(bytes, sizeof bytes, LUKS_HEADER_BYTES, &h).rule,
                    ==, QIMG_RULE_LUKS_MATERIAL);
    g_assert_cmpint(luks_header_decode(bytes, sizeof bytes, AREA_BYTES - 5000, &h).rule,
                    ==, QIMG_RULE_LUKS_MATERIAL);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/luks-header/sound", test_sound);
    g_test_add_func("/luks-header/hostile", test_hostile);
    g_test_add_func("/luks-header/names-without-end", test_names_without_end);
    g_test_add_func("/luks-header/short", test_short);
    return g_test_run();
}
