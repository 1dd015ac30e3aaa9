/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The header decoder with extensions and feature names, and the encoders on its results:
 * decode(encode(x)) = x. Input: the first bytes of a file. */
#include <stdlib.h>
#include <string.h>

#include "codec/qcow2-geometry.h"
#include "codec/qcow2-header.h"
#include "fuzz.h"

/* The promises of a decoded header to code that computes with it. */
static void
check_header(const Qcow2Header *h, size_t n_bytes)
{
    Qcow2Geometry g = qcow2_header_geometry(h);

    FUZZ_CHECK(h->version == 2 || h->version == 3);
    FUZZ_CHECK(h->cluster_bits >= 9 && h->cluster_bits <= 21);
    FUZZ_CHECK(h->header_bytes <= n_bytes && h->header_bytes <= g.cluster_bytes);
    FUZZ_CHECK(h->backing_name_offset <= g.cluster_bytes);
    FUZZ_CHECK(h->size_bytes % 512 == 0);
    if (h->incompatible_features & ~(uint64_t)QCOW2_INCOMPAT_KNOWN)
        return; /* refused before any other check */
    FUZZ_CHECK(h->size_bytes <= INT64_MAX);
    FUZZ_CHECK(h->l1_table_offset % g.cluster_bytes == 0);
    FUZZ_CHECK(h->n_l1_entries <= QCOW2_MAX_L1_BYTES / 8);
    FUZZ_CHECK(h->l1_table_offset + h->n_l1_entries * UINT64_C(8) <= INT64_MAX);
    FUZZ_CHECK(h->n_l1_entries == 0 || h->l1_table_offset > 0);
    FUZZ_CHECK(qcow2_geometry_l1_entries_for(&g, h->size_bytes) <= h->n_l1_entries);
    FUZZ_CHECK(h->snapshots_offset <= INT64_MAX && h->n_snapshots <= QCOW2_MAX_SNAPSHOTS);
    FUZZ_CHECK(!g.extended_l2 || g.subcluster_bits >= 9);
    FUZZ_CHECK(g.l1_shift < 64 && g.l2_bits >= 6);
}

/* A decoded header encodes to the same bytes, except for a size's part of a sector, and
 * the padding. */
static void
check_encode(const Qcow2Header *h, const uint8_t *bytes)
{
    size_t n_bytes = h->header_bytes;
    uint8_t *copy = malloc(n_bytes);

    if (!copy)
        return;
    memcpy(copy, bytes, n_bytes);
    FUZZ_CHECK(!qcow2_header_encode(h, copy, n_bytes - 1));
    FUZZ_CHECK(memcmp(copy, bytes, n_bytes) == 0);
    memset(copy, 0xa5, n_bytes < 112 ? n_bytes : 112);
    FUZZ_CHECK(qcow2_header_encode(h, copy, n_bytes));
    FUZZ_CHECK(copy[31] == 0 && copy[30] == (bytes[30] & 0xfe));
    for (size_t i = 105; i < n_bytes && i < 112; i++)
        FUZZ_CHECK(copy[i] == 0);
    memcpy(copy + 30, bytes + 30, 2);
    if (n_bytes > 105)
        memcpy(copy + 105, bytes + 105, 7);
    FUZZ_CHECK(memcmp(copy, bytes, n_bytes) == 0);
    free(copy);
}

static void
check_extension_encode(const Qcow2Extension *e)
{
    size_t n_bytes = 8 + (((size_t)e->data_bytes + 7) & ~(size_t)7);
    uint8_t *copy = malloc(n_bytes);
    size_t position = 0, end = 0;
    Qcow2Extension again;

    if (!copy)
        return;
    FUZZ_CHECK(!qcow2_extension_encode(e, copy, n_bytes - 1, &position));
    FUZZ_CHECK(qcow2_extension_encode(e, copy, n_bytes, &position));
    FUZZ_CHECK(position == n_bytes);
    FUZZ_CHECK(!qcow2_extension_decode(copy, n_bytes, &end, &again).rule);
    FUZZ_CHECK(end == n_bytes);
    FUZZ_CHECK(again.type == e->type && again.data_bytes == e->data_bytes);
    FUZZ_CHECK(memcmp(again.data, e->data, e->data_bytes) == 0);
    free(copy);
}

static void
walk_extensions(const Qcow2Header *h, const uint8_t *bytes, size_t n_bytes)
{
    size_t end = qcow2_header_extensions_end(h);
    size_t position = h->header_bytes;
    Qcow2Extension e;

    if (end > n_bytes)
        end = n_bytes;
    for (;;) {
        size_t before = position;
        char name[QCOW2_FEATURE_NAME_BYTES + 1];

        if (qcow2_extension_decode(bytes, end, &position, &e).rule ||
            e.type == QCOW2_EXT_END)
            return;
        FUZZ_CHECK(position >= before + 8);
        FUZZ_CHECK(e.data >= bytes && e.data + e.data_bytes <= bytes + end);
        check_extension_encode(&e);
        for (unsigned type = 0; type < 3; type++)
            for (unsigned bit = 0; bit < 64; bit++)
                if (qcow2_feature_name_find(&e, (uint8_t)type, (uint8_t)bit, name))
                    FUZZ_CHECK(memchr(name, 0, sizeof name) != NULL);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    Qcow2Header h;

    if (qcow2_header_probe(bytes, n_bytes))
        FUZZ_CHECK(n_bytes >=
                   4); /* a header cut inside its version is one of this format */
    if (qcow2_header_decode(bytes, n_bytes, &h).rule)
        return 0;
    FUZZ_CHECK(qcow2_header_probe(bytes, n_bytes));
    check_header(&h, n_bytes);
    check_encode(&h, bytes);
    walk_extensions(&h, bytes, n_bytes);
    return 0;
}
