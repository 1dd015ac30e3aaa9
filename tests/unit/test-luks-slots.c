/* SPDX-License-Identifier: GPL-2.0-or-later */
/* crypt/luks-slots.c: new headers and slots open with their passphrases, and changes of
 * slots that are cut at any write leave each slot whole. Spec: encryption section 5. */
#include "crypt/luks-slots.h"

#include <errno.h>
#include <string.h>

#include "memory-storage.h"
#include "recording-storage.h"
#include "test-util.h"

#define AREA_BYTES (4u << 20)

static const LuksParameters parameters = {.cipher = "aes",
                                          .mode = "xts-plain64",
                                          .hash = "sha256",
                                          .key_bytes = 64,
                                          .iter_time_ms = 1};

/* ---- a device in memory ---- */

static QimgErrno
read_device(void *user, uint64_t offset, uint8_t *bytes, size_t n_bytes)
{
    return qimg_storage_read(user, QIMG_IO_HEADER, qimg_host(offset), bytes, n_bytes);
}

static QimgErrno
write_device(void *user, uint64_t offset, const uint8_t *bytes, size_t n_bytes)
{
    return qimg_storage_write(user, QIMG_IO_HEADER, qimg_host(offset), bytes, n_bytes);
}

static QimgErrno
sync_device(void *user)
{
    return qimg_storage_sync(user);
}

static LuksDevice
device_of(QimgStorage *storage)
{
    return (LuksDevice){read_device, write_device, sync_device, storage};
}

static QimgErrno
read_bytes(void *user, uint64_t offset, uint8_t *bytes, size_t n_bytes)
{
    const GByteArray *file = user;

    g_assert_cmpuint(offset + n_bytes, <=, file->len);
    memcpy(bytes, file->data + offset, n_bytes);
    return 0;
}

/* ---- a volume ---- */

typedef struct {
    LuksHeader header;
    QimgSecret *key;
    QimgSecret *words[3];
} Volume;

static void
set_slot(Volume *v, unsigned slot, unsigned word, const LuksDevice *device)
{
    LuksNewSlot new;

    g_assert_true(
        luks_make_slot(&v->header, slot, v->key, v->words[word], 1, &new, NULL));
    g_assert_cmpint(luks_store_slot(&v->header, slot, &new, device), ==, 0);
    luks_new_slot_clear(&new);
}

/* With word 0 in slot 0, in the bytes returned. */
static GByteArray *
make_volume(Volume *v, const LuksParameters *p)
{
    GByteArray *bytes = g_byte_array_new();
    QimgStorage *storage;
    LuksDevice device;

    for (unsigned i = 0; i < 3; i++)
        v->words[i] = qimg_secret_copy(&"one\0two\0six"[(size_t)4 * i], 3);
    v->key = luks_make_header(p, &v->header, NULL);
    g_assert_nonnull(v->key);
    g_byte_array_set_size(bytes, AREA_BYTES);
    memset(bytes->data, 0, bytes->len);
    luks_header_encode(&v->header, bytes->data);
    storage = memory_storage_new_writable(bytes->data, bytes->len, "volume");
    device = device_of(storage);
    set_slot(v, 0, 0, &device);
    g_byte_array_unref(bytes);
    bytes = memory_storage_copy_all(storage);
    qimg_storage_close(storage);
    return bytes;
}

static void
volume_clear(Volume *v)
{
    qimg_secret_free(v->key);
    for (unsigned i = 0; i < 3; i++)
        qimg_secret_free(v->words[i]);
}

/* The slot of @file that @word opens; -1: none. Each active slot must be opened by one of
 * the words. */
static void
find_slots(const Volume *v, GByteArray *file, int slots_out[3])
{
    LuksHeader h;
    QimgDecode decoded = luks_header_decode(file->data, file->len, file->len, &h);

    g_assert_cmpint(decoded.rule, ==, 0);
    for (unsigned word = 0; word < 3; word++)
        slots_out[word] = -1;
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        bool is_opened = false;

        for (unsigned word = 0; h.slots[i].is_active && word < 3 && !is_opened; word++) {
            QimgSecret *key = NULL;

            g_assert_true(
                luks_try_slot(&h, i, v->words[word], read_bytes, file, &key, NULL));
            if (!key)
                continue;
            g_assert_cmpmem(key->bytes, key->n_bytes, v->key->bytes, v->key->n_bytes);
            qimg_secret_free(key);
            slots_out[word] = (int)i;
            is_opened = true;
        }
        g_assert_true(is_opened || !h.slots[i].is_active);
    }
}

/* ---- tests ---- */

static void
test_round_trip(void)
{
    static const struct {
        const char *mode, *hash;
        unsigned key_bytes;
        uint64_t payload_bytes;
    } rows[] = {
        /* Lengths: spec, encryption section 3.1. */
        {"xts-plain64", "sha256", 64, 2068480},
        {"xts-essiv:sha256", "sha1", 48, 1544192},
        {"xts-plain", "sha512", 32, 1052672},
        {"cbc-essiv:sha256", "sha256", 16, 528384},
        {"ecb", "sha256", 24, 790528},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        LuksParameters p = parameters;
        Volume v = {0};
        GByteArray *file;
        uint8_t again[LUKS_HEADER_BYTES];
        LuksHeader h;
        int slots[3];

        p.mode = rows[i].mode;
        p.hash = rows[i].hash;
        p.key_bytes = rows[i].key_bytes;
        file = make_volume(&v, &p);
        g_assert_cmpuint(v.header.payload_offset, ==, rows[i].payload_bytes);
        find_slots(&v, file, slots);
        g_assert_cmpint(slots[0], ==, 0);
        g_assert_cmpint(slots[1], ==, -1);
        g_assert_cmpint(
            luks_header_decode(file->data, file->len, rows[i].payload_bytes, &h).rule, ==,
            0);
        g_assert_cmpuint(h.slots[0].iterations, >=, 1000);
        g_assert_cmpuint(h.digest_iterations, >=, 1000);
        g_assert_cmpuint(strlen(h.uuid), ==, 36);
        luks_header_encode(&h, again);
        g_assert_cmpmem(again, sizeof again, file->data, sizeof again);
        g_byte_array_unref(file);
        volume_clear(&v);
    }
}

static void
test_unsupported(void)
{
    LuksParameters p = parameters;
    LuksHeader h;
    g_autoptr(GError) error = NULL;

    p.cipher = "serpent";
    g_assert_null(luks_make_header(&p, &h, &error));
    g_assert_error(error, QIMG_ERROR, QIMG_ERROR_ENCRYPTED);
    g_assert_nonnull(strstr(error->message, "serpent"));
}

/* Slot 6 of the header crosses the end of a sector. */
static const unsigned places[] = {1, 6};

/* Adds word 1 in slot @place to @file, and erases slot 0. */
static QimgErrno
change(Volume *v, unsigned place, const LuksNewSlot *new, const LuksDevice *device)
{
    LuksHeader header = v->header;
    QimgErrno err = luks_store_slot(&header, place, new, device);

    return err ? err : luks_erase_slot(&header, 0, device);
}

static void
test_crashes(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(places); i++) {
        Volume v = {0};
        GByteArray *before = make_volume(&v, &parameters);
        g_autoptr(CrashRecord) record = crash_record_new();
        g_autoptr(CrashReplay) replay = NULL;
        g_autoptr(GRand) rand = g_rand_new_with_seed(i + 1);
        QimgStorage *storage = recording_storage_new(
            memory_storage_new_writable(before->data, before->len, "volume"), record, 0);
        LuksDevice device = device_of(storage);
        LuksNewSlot new;
        bool has_both = false;

        g_assert_true(
            luks_make_slot(&v.header, places[i], v.key, v.words[1], 1, &new, NULL));
        g_assert_cmpint(change(&v, places[i], &new, &device), ==, 0);
        replay = crash_replay_new(record, 0, before->data, before->len);
        for (size_t n = 0; n <= crash_record_length(record); n++) {
            const CrashEvent *next =
                n < crash_record_length(record) ? crash_record_get(record, n) : NULL;
            /* A marker is written as a whole. */
            uint64_t n_next = next && next->kind == CRASH_WRITE &&
                                      next->n_bytes > LUKS_SLOT_MARKER_BYTES
                                  ? next->n_bytes
                                  : 0;

            crash_replay_advance(replay, n);
            /* Of a process: cut inside the next write. Of the machine: in any way. */
            for (unsigned round = 0; round < 4; round++) {
                GByteArray *file = round == 0   ? crash_replay_process(replay, 0)
                                   : round == 1 ? crash_replay_process(replay, n_next / 2)
                                                : crash_replay_machine(replay, rand);
                int slots[3];

                find_slots(&v, file, slots);
                g_assert_true(slots[0] == 0 || slots[1] == (int)places[i]);
                has_both |= slots[0] == 0 && slots[1] == (int)places[i];
                if (n == crash_record_length(record))
                    g_assert_true(slots[0] == -1 && slots[1] == (int)places[i]);
                g_byte_array_unref(file);
            }
        }
        g_assert_true(has_both);
        luks_new_slot_clear(&new);
        qimg_storage_close(storage);
        g_byte_array_unref(before);
        volume_clear(&v);
    }
}

/* A write or sync that fails ends the change with its error; one passphrase opens. */
static void
test_faults(void)
{
    static const MemoryCalls kinds[] = {MEMORY_WRITE, MEMORY_SYNC};
    Volume v = {0};
    GByteArray *before = make_volume(&v, &parameters);
    LuksNewSlot new;
    unsigned n_failed = 0;

    g_assert_true(luks_make_slot(&v.header, 1, v.key, v.words[1], 1, &new, NULL));
    for (unsigned kind = 0; kind < G_N_ELEMENTS(kinds); kind++) {
        QimgErrno err = -1;

        for (uint64_t n = 0; err != 0; n++) {
            QimgStorage *storage =
                memory_storage_new_writable(before->data, before->len, "volume");
            MemoryFault fault = {.calls = kinds[kind],
                                 .purpose = MEMORY_ANY_PURPOSE,
                                 .n_until = n,
                                 .n_fails = UINT64_MAX,
                                 .errnum = EIO};
            LuksDevice device = device_of(storage);
            GByteArray *file;
            int slots[3];

            memory_storage_add_fault(storage, &fault);
            err = change(&v, 1, &new, &device);
            g_assert_true(err == 0 || err == -EIO);
            n_failed += err != 0;
            memory_storage_clear_faults(storage);
            file = memory_storage_copy_all(storage);
            find_slots(&v, file, slots);
            g_assert_true(slots[0] == 0 || slots[1] == 1);
            g_byte_array_unref(file);
            qimg_storage_close(storage);
        }
    }
    g_assert_cmpuint(n_failed, >=, 12);
    luks_new_slot_clear(&new);
    g_byte_array_unref(before);
    volume_clear(&v);
}

/* Nothing of a slot is left: its material, salt and iterations. */
static void
test_erased(void)
{
    Volume v = {0};
    GByteArray *before = make_volume(&v, &parameters), *after;
    QimgStorage *storage =
        memory_storage_new_writable(before->data, before->len, "volume");
    LuksDevice device = device_of(storage);
    static const uint8_t zeros[LUKS_SALT_BYTES];
    uint64_t at = v.header.slots[0].material_offset;
    LuksHeader h;
    size_t n_same = 0;

    set_slot(&v, 7, 2, &device);
    g_assert_cmpint(luks_erase_slot(&v.header, 0, &device), ==, 0);
    after = memory_storage_copy_all(storage);
    g_assert_cmpint(luks_header_decode(after->data, after->len, after->len, &h).rule, ==,
                    0);
    g_assert_false(h.slots[0].is_active);
    g_assert_cmpuint(h.slots[0].iterations, ==, 0);
    g_assert_cmpmem(h.slots[0].salt, LUKS_SALT_BYTES, zeros, sizeof zeros);
    for (uint64_t i = 0; i < luks_material_bytes(&h); i += 16)
        n_same += memcmp(before->data + at + i, after->data + at + i, 16) == 0;
    g_assert_cmpuint(n_same, ==, 0);
    qimg_storage_close(storage);
    g_byte_array_unref(before);
    g_byte_array_unref(after);
    volume_clear(&v);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/luks-slots/round-trip", test_round_trip);
    g_test_add_func("/luks-slots/unsupported", test_unsupported);
    g_test_add_func("/luks-slots/crashes", test_crashes);
    g_test_add_func("/luks-slots/faults", test_faults);
    g_test_add_func("/luks-slots/erased", test_erased);
    return g_test_run();
}
