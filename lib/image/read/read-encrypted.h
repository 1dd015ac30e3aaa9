/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading DATA runs of encrypted layers. */
#pragma once

#include "image/chain/chain.h"

/* Reads and decrypts @length_bytes at @host_offset of the data of @layer; they are at
 * @guest_offset of the disk. @workers share the work of long ranges; may be NULL.
 * Threads: any, inside the gate; waits for writers of the same sectors of a writable
 * layer. Errors: of the storage, -ENOMEM, -ENOKEY if the layer has no cipher. */
QimgErrno read_encrypted(QimgFormat *layer, QimgHostOffset host_offset,
                         uint64_t guest_offset, uint8_t *target, uint64_t length_bytes,
                         QimgWorkers *workers);

/* Reads and decrypts whole sectors, which no other request changes. As read_encrypted. */
QimgErrno read_encrypted_sectors(QimgFormat *layer, QimgHostOffset host_offset,
                                 uint64_t guest_offset, uint8_t *bytes, uint64_t n_bytes);
