/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Makes every kind of query to a chain of images in memory, within bounds. */
#pragma once

#include "codec/qed-header.h"
#include "image/chain/handle.h"

/* The format to open the image in @storage as, for any content. */
static inline const char *
fuzz_format_of(QimgStorage *storage)
{
    uint8_t magic[4];

    return qimg_storage_read(storage, QIMG_IO_HEADER, qimg_host(0), magic,
                             sizeof magic) == 0 &&
                   qed_header_probe(magic, sizeof magic)
               ? "qed"
               : "qcow2";
}

/* Opens @n_storages (owned) as a chain, the top one as an image of the format
 * @format_name, and examines all of it. */
void fuzz_chain(const char *format_name, QimgStorage *const *storages,
                unsigned n_storages);
