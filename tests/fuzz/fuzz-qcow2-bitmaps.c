/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The location of bitmaps: the header extension, then consecutive directory entries, then
 * each word of the input as a table's entry. Input: cluster bits, a byte with the
 * extension's length, the extension, the directory. */
#include <stdlib.h>
#include <string.h>

#include "codec/qcow2-bitmaps.h"
#include "fuzz.h"

static void
check_directory(const uint8_t *bytes, uint64_t n_bytes, uint64_t cluster_bytes)
{
    uint64_t at = 0;
    Qcow2BitmapEntry e;

    while (!qcow2_bitmap_entry_decode(bytes + at, n_bytes - at, &e).rule) {
        FUZZ_CHECK(e.entry_bytes >= QCOW2_BITMAP_FIXED_BYTES && e.entry_bytes % 8 == 0);
        FUZZ_CHECK(e.entry_bytes <= n_bytes - at);
        FUZZ_CHECK(e.name_position + e.name_bytes <= e.entry_bytes);
        if (!qcow2_bitmap_entry_check_table(&e, cluster_bytes).rule) {
            FUZZ_CHECK(e.table_offset != 0 && e.table_offset % cluster_bytes == 0);
            FUZZ_CHECK(e.n_table_entries >= 1);
            FUZZ_CHECK(e.n_table_entries <= QCOW2_MAX_BITMAP_TABLE_ENTRIES);
        }
        at += e.entry_bytes;
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    Qcow2BitmapsExtension e;
    uint64_t cluster_bytes;
    uint32_t data_bytes;
    uint8_t *exact;

    if (n_bytes < 2)
        return 0;
    cluster_bytes = UINT64_C(1) << (9 + bytes[0] % 13u);
    data_bytes = (uint32_t)qimg_min_u64(bytes[1], n_bytes - 2);
    bytes += 2;
    n_bytes -= 2;
    exact = malloc(n_bytes + 1); /* a sanitizer sees a step outside */
    if (!exact)
        return 0;
    memcpy(exact, bytes, data_bytes);
    if (!qcow2_bitmaps_extension_decode(exact, data_bytes, cluster_bytes, &e).rule) {
        FUZZ_CHECK(e.n_bitmaps >= 1 && e.n_bitmaps <= QCOW2_MAX_BITMAPS);
        FUZZ_CHECK(e.directory_bytes >= e.n_bitmaps * QCOW2_BITMAP_FIXED_BYTES);
        FUZZ_CHECK(e.directory_bytes <= QCOW2_MAX_BITMAP_DIRECTORY_BYTES);
        FUZZ_CHECK(e.directory_offset != 0 && e.directory_offset % cluster_bytes == 0);
    }
    free(exact);
    bytes += data_bytes;
    n_bytes -= data_bytes;
    exact = malloc(n_bytes ? n_bytes : 1);
    if (!exact)
        return 0;
    memcpy(exact, bytes, n_bytes);
    check_directory(exact, n_bytes, cluster_bytes);
    for (size_t at = 0; at + 8 <= n_bytes; at += 8) {
        uint64_t host_offset = 0;
        qimg_be64 word;

        memcpy(&word, exact + at, sizeof word);
        if (qcow2_bitmap_table_entry_decode(qimg_be64_get(word), cluster_bytes,
                                            &host_offset)
                .rule)
            continue;
        FUZZ_CHECK(host_offset % cluster_bytes == 0);
        FUZZ_CHECK(qimg_be64_get(word) - host_offset <= (host_offset ? 0 : 1));
    }
    free(exact);
    return 0;
}
