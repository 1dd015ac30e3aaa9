/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "crypt/luks-slots.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/errors.h"
#include "crypt/cipher.h"
#include "crypt/hash.h"
#include "crypt/libcrypto.h"

/* The least that LUKS allows, for slots and digest. */
#define MIN_ITERATIONS 1000u
/* The digest is checked once for each slot; QEMU gives it an eighth, too. */
#define DIGEST_SHARE 8u
/* A measurement shorter than this is repeated with more iterations. */
#define MIN_MEASURE_NS UINT64_C(20000000)
#define NS_PER_MS      UINT64_C(1000000)
#define N_ERASURES     3u
#define RANDOM_BYTES   16u /* of a UUID */

void
luks_new_slot_clear(LuksNewSlot *slot)
{
    qimg_secret_free(g_steal_pointer(&slot->material));
}

static bool
fill_random(void *bytes, size_t n_bytes, GError **error)
{
    for (size_t done = 0; done < n_bytes;) {
        ssize_t n = getrandom((uint8_t *)bytes + done, n_bytes - done, 0);

        if (n < 0 && errno != EINTR) {
            qimg_set_error_errno(error, errno, NULL, "no random numbers for a key");
            return false;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static uint64_t
cpu_time_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000 * NS_PER_MS + (uint64_t)now.tv_nsec;
}

/* The iterations that make a key of @key_bytes in @time_ms; 0 with @error. */
static uint32_t
measure_iterations(const char *hash, unsigned key_bytes, unsigned time_ms, GError **error)
{
    static const uint8_t salt[LUKS_SALT_BYTES];
    uint8_t key[LUKS_MAX_KEY_BYTES];
    uint64_t elapsed_ns = 0, n;

    for (n = MIN_ITERATIONS; elapsed_ns < MIN_MEASURE_NS; n *= 2) {
        uint64_t start_ns = cpu_time_ns();

        if (libcrypto()->PKCS5_PBKDF2_HMAC("measure", -1, salt, sizeof salt, (int)n,
                                           qimg_hash_find(hash), (int)key_bytes,
                                           key) != 1) {
            qimg_set_error(error, QIMG_ERROR_FAILED,
                           "libcrypto cannot derive a key with the hash %s", hash);
            return 0;
        }
        elapsed_ns = cpu_time_ns() - start_ns;
    }
    n = n / 2 * time_ms * NS_PER_MS / elapsed_ns;
    return (uint32_t)CLAMP(n, MIN_ITERATIONS, LUKS_MAX_ITERATIONS);
}

static void
make_uuid(uint8_t random[RANDOM_BYTES], char uuid[LUKS_UUID_BYTES + 1])
{
    char *out = uuid;

    random[6] = (random[6] & 0x0f) | 0x40; /* version 4: random */
    random[8] = (random[8] & 0x3f) | 0x80;
    for (unsigned i = 0; i < RANDOM_BYTES; i++)
        out += sprintf(out, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                       random[i]);
}

QimgSecret *
luks_make_header(const LuksParameters *p, LuksHeader *header_out, GError **error)
{
    LuksHeader h = {.key_bytes = p->key_bytes};
    QimgSecret *key;
    uint8_t random[RANDOM_BYTES];

    if (!luks_check_names(p->cipher, p->mode, p->hash, p->key_bytes, error))
        return NULL;
    g_strlcpy(h.cipher, p->cipher, sizeof h.cipher);
    g_strlcpy(h.mode, p->mode, sizeof h.mode);
    g_strlcpy(h.hash, p->hash, sizeof h.hash);
    luks_header_lay_out(&h);
    h.digest_iterations = measure_iterations(p->hash, LUKS_DIGEST_BYTES,
                                             p->iter_time_ms / DIGEST_SHARE, error);
    key = qimg_secret_new(p->key_bytes);
    if (h.digest_iterations > 0 && fill_random(key->bytes, key->n_bytes, error) &&
        fill_random(h.digest_salt, sizeof h.digest_salt, error) &&
        fill_random(random, sizeof random, error) &&
        luks_digest(&h, key, h.digest, error)) {
        make_uuid(random, h.uuid);
        *header_out = h;
        return key;
    }
    qimg_secret_free(key);
    return NULL;
}

/* Splits @key into @stripes: all but the last are random. Spec: encryption section
 * 3.2. */
static bool
split(const LuksHeader *header, const QimgSecret *key, QimgSecret *stripes,
      GError **error)
{
    QimgSecret *last = qimg_secret_new(key->n_bytes);
    size_t n_before = key->n_bytes * (LUKS_STRIPES - 1);
    bool is_done = fill_random(stripes->bytes, n_before, error);

    /* With a last stripe of zeros, the merge gives what that stripe must cancel. */
    if (is_done && !luks_merge(header->hash, stripes->bytes, LUKS_STRIPES, last)) {
        qimg_set_error_errno(error, ENOMEM, NULL, "the LUKS key slot");
        is_done = false;
    }
    for (size_t i = 0; i < key->n_bytes; i++)
        stripes->bytes[n_before + i] = last->bytes[i] ^ key->bytes[i];
    qimg_secret_free(last);
    return is_done;
}

bool
luks_make_slot(const LuksHeader *header, unsigned index, const QimgSecret *key,
               const QimgSecret *passphrase, unsigned iter_time_ms, LuksNewSlot *slot_out,
               GError **error)
{
    LuksNewSlot new = {.slot = {.is_active = true,
                                .material_offset = header->slots[index].material_offset}};
    QimgSecret *slot_key = qimg_secret_new(header->key_bytes);
    QimgCipher *cipher = NULL;
    bool is_done = false;

    new.material = qimg_secret_new(luks_material_bytes(header));
    new.slot.iterations =
        measure_iterations(header->hash, header->key_bytes, iter_time_ms, error);
    if (new.slot.iterations > 0 &&
        fill_random(new.slot.salt, sizeof new.slot.salt, error) &&
        split(header, key, new.material, error) &&
        luks_derive(header, passphrase, new.slot.salt, new.slot.iterations, slot_key,
                    error))
        cipher = qimg_cipher_new(header->cipher, header->mode, slot_key, error);
    if (cipher) {
        is_done = qimg_cipher_encrypt(cipher, 0, new.material->bytes,
                                      new.material->n_bytes) == 0;
        if (!is_done)
            qimg_set_error_errno(error, ENOMEM, NULL, "the LUKS key slot");
    }
    qimg_cipher_free(cipher);
    qimg_secret_free(slot_key);
    if (!is_done)
        luks_new_slot_clear(&new);
    *slot_out = new;
    return is_done;
}

/* Writes the slot as it is in @header: all of it but the marker, and then, when that is
 * durable, the marker; so a cut at any byte leaves the old slot or an inactive one.
 * @marker_first: the other way round. */
static QimgErrno
write_slot(const LuksHeader *header, unsigned index, bool marker_first,
           const LuksDevice *device)
{
    uint8_t bytes[LUKS_SLOT_BYTES];
    QimgErrno err = 0;

    luks_slot_encode(header, index, bytes);
    for (int i = 0; i < 2 && !err; i++) {
        size_t start = (i == 0) == marker_first ? 0 : LUKS_SLOT_MARKER_BYTES;
        size_t end = start == 0 ? LUKS_SLOT_MARKER_BYTES : LUKS_SLOT_BYTES;

        err = device->write(device->user, luks_slot_offset(index) + start, bytes + start,
                            end - start);
        if (!err)
            err = device->sync(device->user);
    }
    return err;
}

QimgErrno
luks_store_slot(LuksHeader *header, unsigned index, const LuksNewSlot *slot,
                const LuksDevice *device)
{
    LuksHeader changed = *header;
    QimgErrno err;

    changed.slots[index] = slot->slot;
    err = device->write(device->user, slot->slot.material_offset, slot->material->bytes,
                        slot->material->n_bytes);
    if (!err)
        err = device->sync(device->user);
    if (!err)
        err = write_slot(&changed, index, false, device);
    if (!err)
        *header = changed;
    return err;
}

QimgErrno
luks_erase_slot(LuksHeader *header, unsigned index, const LuksDevice *device)
{
    LuksSlot *slot = &header->slots[index];
    g_autofree uint8_t *random = g_malloc(luks_material_bytes(header));
    QimgErrno err;

    *slot = (LuksSlot){.material_offset = slot->material_offset};
    err = write_slot(header, index, true, device);
    for (unsigned i = 0; i < N_ERASURES && !err; i++) {
        if (!fill_random(random, luks_material_bytes(header), NULL))
            return -EIO;
        err = device->write(device->user, slot->material_offset, random,
                            luks_material_bytes(header));
        /* Without a sync the kernel would write only the last one. */
        if (!err)
            err = device->sync(device->user);
    }
    return err;
}
