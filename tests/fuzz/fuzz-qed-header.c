/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The QED header decoder, and that accepted headers encode to the same bytes. Input: the
 * first bytes of a file. */
#include <string.h>

#include "codec/qed-header.h"
#include "fuzz.h"

/* The promises of a decoded header to code that computes with it. */
static void
check_header(const QedHeader *h)
{
    uint64_t name_end = (uint64_t)h->backing_name_offset + h->backing_name_bytes;

    FUZZ_CHECK(h->cluster_bits >= QED_MIN_CLUSTER_BITS &&
               h->cluster_bits <= QED_MAX_CLUSTER_BITS);
    FUZZ_CHECK(h->table_clusters >= 1 && h->table_clusters <= QED_MAX_TABLE_SIZE);
    FUZZ_CHECK((h->table_clusters & (h->table_clusters - 1)) == 0);
    FUZZ_CHECK(h->header_clusters >= 1);
    FUZZ_CHECK(h->size_bytes % 512 == 0 && h->size_bytes <= qed_max_size_bytes(h));
    FUZZ_CHECK(qed_max_size_bytes(h) <= INT64_MAX);
    FUZZ_CHECK(h->l1_table_offset % qed_cluster_bytes(h) == 0);
    FUZZ_CHECK(h->l1_table_offset >= qed_header_end(h));
    FUZZ_CHECK(h->l1_table_offset + qed_table_bytes(h) <= INT64_MAX);
    FUZZ_CHECK(h->backing_name_bytes <= QED_MAX_BACKING_NAME);
    FUZZ_CHECK(name_end <= qed_header_end(h));
    if (!(h->features & QED_FEATURE_BACKING))
        FUZZ_CHECK(name_end == 0);
}

static void
check_encode(const QedHeader *h, const uint8_t *bytes)
{
    uint8_t copy[QED_HEADER_BYTES];

    qed_header_encode(h, copy);
    /* Without a backing file the name's fields have no meaning. */
    if (!(h->features & QED_FEATURE_BACKING))
        memcpy(copy + 56, bytes + 56, 8);
    FUZZ_CHECK(memcmp(copy, bytes, sizeof copy) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    QedHeader h;

    if (qed_header_decode(bytes, n_bytes, &h).rule)
        return 0;
    FUZZ_CHECK(qed_header_probe(bytes, n_bytes) && n_bytes >= QED_HEADER_BYTES);
    if (h.features & ~QED_FEATURES_KNOWN)
        return 0;
    check_header(&h);
    check_encode(&h, bytes);
    return 0;
}
