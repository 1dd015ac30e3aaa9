/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Header and L2 entries of qcow version 1. Input: the first bytes of a file; L2 entries
 * follow the header. */
#include <string.h>

#include "base/endian.h"
#include "codec/qcow1-tables.h"
#include "fuzz.h"

static void
check_header(const Qcow1Header *h)
{
    uint64_t table_guest_bytes = UINT64_C(1) << (h->cluster_bits + h->l2_bits);

    FUZZ_CHECK(h->cluster_bits >= 9 && h->cluster_bits <= 16);
    FUZZ_CHECK(h->l2_bits >= 6 && h->l2_bits <= 13);
    FUZZ_CHECK(h->size_bytes % 512 == 0 && h->size_bytes <= INT64_MAX);
    FUZZ_CHECK(h->n_l1_entries >= 1 && h->n_l1_entries <= QCOW1_MAX_L1_ENTRIES);
    FUZZ_CHECK(h->n_l1_entries * table_guest_bytes >= h->size_bytes);
    FUZZ_CHECK(h->l1_table_offset % 8 == 0 && h->l1_table_offset >= QCOW1_HEADER_BYTES);
    FUZZ_CHECK(h->l1_table_offset + h->n_l1_entries * UINT64_C(8) <= INT64_MAX);
    FUZZ_CHECK(h->crypt_method <= 1);
}

static void
check_entry(unsigned cluster_bits, uint64_t word)
{
    QimgL2Entry e = qcow1_l2_decode(cluster_bits, word);

    FUZZ_CHECK((e.kind == QIMG_L2_DAMAGED) == (e.rule != QIMG_RULE_OK));
    FUZZ_CHECK((e.kind == QIMG_L2_UNALLOCATED) == (word == 0));
    if (e.kind == QIMG_L2_DATA)
        FUZZ_CHECK(e.host_offset % 512 == 0 && e.host_offset <= INT64_MAX);
    if (e.kind == QIMG_L2_STREAM) {
        FUZZ_CHECK(e.stream_bytes > 0 && e.stream_bytes < 1u << cluster_bits);
        FUZZ_CHECK(e.host_offset < UINT64_C(1) << (63 - cluster_bits));
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    Qcow1Header h;

    if (qcow1_header_decode(bytes, n_bytes, &h).rule)
        return 0;
    FUZZ_CHECK(qcow1_header_probe(bytes, n_bytes));
    check_header(&h);
    for (size_t at = QCOW1_HEADER_BYTES; at + 8 <= n_bytes; at += 8) {
        qimg_be64 word;

        memcpy(&word, bytes + at, sizeof word);
        check_entry(h.cluster_bits, qimg_be64_get(word));
    }
    return 0;
}
