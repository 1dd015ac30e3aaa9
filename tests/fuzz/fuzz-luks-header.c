/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The LUKS header decoder, its mirror, and the checks before a passphrase is tried.
 * Input: the first bytes of the area of header and key material. */
#include <string.h>

#include "crypt/luks.h"
#include "fuzz.h"

#define AREA_BYTES (UINT64_C(4) << 20)

/* The promises of a decoded header to code that reads its key material. */
static void
check_header(const LuksHeader *h)
{
    FUZZ_CHECK(h->key_bytes >= 1 && h->key_bytes <= LUKS_MAX_KEY_BYTES);
    FUZZ_CHECK(memchr(h->cipher, 0, sizeof h->cipher) != NULL);
    FUZZ_CHECK(memchr(h->mode, 0, sizeof h->mode) != NULL);
    FUZZ_CHECK(memchr(h->hash, 0, sizeof h->hash) != NULL);
    FUZZ_CHECK(h->digest_iterations > 0);
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        const LuksSlot *slot = &h->slots[i];

        FUZZ_CHECK(slot->iterations > 0 || !slot->is_active);
        FUZZ_CHECK(slot->material_offset >= LUKS_HEADER_BYTES);
        FUZZ_CHECK(slot->material_offset + luks_material_bytes(h) <= AREA_BYTES);
        for (unsigned j = 0; j < i; j++)
            FUZZ_CHECK(slot->material_offset >=
                           h->slots[j].material_offset + luks_material_bytes(h) ||
                       h->slots[j].material_offset >=
                           slot->material_offset + luks_material_bytes(h));
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    uint8_t encoded[LUKS_HEADER_BYTES], slot[LUKS_SLOT_BYTES];
    LuksHeader h;

    if (luks_header_decode(bytes, n_bytes, AREA_BYTES, &h).rule)
        return 0;
    FUZZ_CHECK(n_bytes >= LUKS_HEADER_BYTES);
    check_header(&h);
    luks_header_encode(&h, encoded);
    FUZZ_CHECK(memcmp(encoded, bytes, sizeof encoded) == 0);
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        luks_slot_encode(&h, i, slot);
        FUZZ_CHECK(memcmp(slot, bytes + luks_slot_offset(i), sizeof slot) == 0);
    }
    (void)luks_check(&h, LUKS_MAX_ITERATIONS, NULL);
    return 0;
}
