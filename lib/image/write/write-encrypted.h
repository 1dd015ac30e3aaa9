/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing data of encrypted layers. */
#pragma once

#include <sys/uio.h>

#include "image/chain/chain.h"

/* Parts of one call of write_encrypted. */
#define WRITE_ENCRYPTED_MAX_PARTS 3

/* Encrypts the @n_parts parts, one after the other, and writes them at @host_offset of
 * the data of @layer; they belong at @guest_offset of the disk. Host and guest offset are
 * alike in their sectors; sectors at both ends may be covered in part, and keep the rest.
 * @workers share the work of long ranges; may be NULL. Threads: any, inside the gate;
 * waits for requests that read or write the same sectors, and may hold an announced
 * range, but no sectors. Errors: of the storage, -ENOMEM, -ENOKEY if the layer has no
 * cipher. */
QimgErrno write_encrypted(QimgFormat *layer, QimgHostOffset host_offset,
                          uint64_t guest_offset, const struct iovec *parts,
                          unsigned n_parts, QimgWorkers *workers) QIMG_MUST_CHECK;
