/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making LUKS headers, and changing their key slots in place. Spec: encryption sections
 * 3.2 and 5.
 *
 * At any moment a change may be cut, and each slot opens with its passphrase or is
 * inactive: a slot becomes active by its marker alone, when all else is durable, and
 * loses that first. */
#pragma once

#include "base/task.h"
#include "crypt/luks.h"

#define LUKS_DEFAULT_ITER_TIME_MS 2000u
#define LUKS_MAX_ITER_TIME_MS     60000u

/* The area of header and key material in a file; offsets are from its start. */
typedef struct {
    LuksRead read;
    QimgErrno (*write)(void *user, uint64_t offset, const uint8_t *bytes, size_t n_bytes);
    QimgErrno (*sync)(void *user);
    void *user;
} LuksDevice;

/* A cipher for a new volume, by its names in the header. */
typedef struct {
    const char *cipher, *mode, *hash;
    unsigned key_bytes;
    unsigned iter_time_ms; /* CPU time for one try of a passphrase */
} LuksParameters;

/* A slot's key material, not yet in the file. */
typedef struct {
    LuksSlot slot;
    QimgSecret *material; /* encrypted: no secret; owned */
} LuksNewSlot;

void luks_new_slot_clear(LuksNewSlot *slot);

/* Makes a volume key and a header for it, with all slots inactive. Returns the key,
 * owned. Takes about an eighth of the time. Errors: ENCRYPTED if the parameters are not
 * supported; FAILED. */
QimgSecret *luks_make_header(const LuksParameters *parameters, LuksHeader *header_out,
                             GError **error);

/* Makes the slot @index of @header for @passphrase, with as many iterations as take
 * @iter_time_ms of CPU time, 1000 at least. @header stays. Errors: as luks_make_header.
 */
bool luks_make_slot(const LuksHeader *header, unsigned index, const QimgSecret *key,
                    const QimgSecret *passphrase, unsigned iter_time_ms,
                    LuksNewSlot *slot_out, GError **error);

/* Stores @slot, durably, as the slot @index of @header, which is inactive; then sets it
 * there, too. Errors: of the device; the slot is then inactive in the file. */
QimgErrno luks_store_slot(LuksHeader *header, unsigned index, const LuksNewSlot *slot,
                          const LuksDevice *device) QIMG_MUST_CHECK;

/* Erases the slot @index of @header, durably: first its marker, then its material, by
 * random bytes, several times. Errors: of the device; the slot may then be inactive and
 * its material still there. */
QimgErrno luks_erase_slot(LuksHeader *header, unsigned index, const LuksDevice *device)
    QIMG_MUST_CHECK;
