/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Standard and extended L2 entries. Input: cluster bits, flags (1 version 2, 2 data file,
 * 4 extended), six bytes of the cluster's index, then pairs of eight big-endian bytes:
 * entry and bitmap. */
#include "base/endian.h"
#include "codec/qcow2-header.h"
#include "codec/qcow2-tables.h"
#include "fuzz.h"

static void
check_entry(const Qcow2Geometry *g, const QimgL2Entry *e, uint64_t guest_offset)
{
    FUZZ_CHECK((e->kind == QIMG_L2_DAMAGED) == (e->rule != QIMG_RULE_OK));
    FUZZ_CHECK(e->n_subclusters >= 1 && e->n_subclusters <= QCOW2_N_SUBCLUSTERS);
    if (e->kind == QIMG_L2_DATA) {
        FUZZ_CHECK(e->host_offset % g->cluster_bytes == 0);
        FUZZ_CHECK(e->host_offset < QCOW2_MAX_HOST_OFFSET);
        FUZZ_CHECK(!g->has_data_file || e->host_offset == guest_offset);
    } else if (e->kind == QIMG_L2_STREAM) {
        FUZZ_CHECK(e->host_offset < QCOW2_MAX_HOST_OFFSET);
        FUZZ_CHECK(e->stream_bytes >= 1 && e->stream_bytes <= 2 * g->cluster_bytes);
        FUZZ_CHECK(!g->has_data_file);
    }
}

/* Walking from part to part must agree with decoding each subcluster alone. */
static void
check_extended(const Qcow2Geometry *g, uint64_t word, uint64_t bitmap,
               uint64_t guest_offset)
{
    uint32_t s = 0;

    while (s < QCOW2_N_SUBCLUSTERS) {
        QimgL2Entry part = qcow2_l2_decode_extended(g, word, bitmap, s, guest_offset);

        check_entry(g, &part, guest_offset);
        FUZZ_CHECK(s + part.n_subclusters <= QCOW2_N_SUBCLUSTERS);
        for (uint32_t i = 0; i < part.n_subclusters; i++) {
            QimgL2Entry e =
                qcow2_l2_decode_extended(g, word, bitmap, s + i, guest_offset);

            FUZZ_CHECK(e.kind == part.kind && e.rule == part.rule);
            FUZZ_CHECK(e.n_subclusters == part.n_subclusters - i);
            if (e.kind == QIMG_L2_DATA) {
                FUZZ_CHECK(e.host_offset == part.host_offset);
                FUZZ_CHECK(bitmap >> (s + i) & 1);
            }
            FUZZ_CHECK(e.kind != QIMG_L2_ZEROS || (bitmap >> (32 + s + i) & 1));
        }
        s += part.n_subclusters;
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    Qcow2Header header = {.version = 3};
    Qcow2Geometry g;
    uint64_t guest_offset;

    if (n_bytes < 8)
        return 0;
    header.cluster_bits = 9 + bytes[0] % 13u;
    if (bytes[1] & 1)
        header.version = 2;
    if (bytes[1] & 2)
        header.incompatible_features |= QCOW2_INCOMPAT_DATA_FILE;
    if ((bytes[1] & 4) && header.cluster_bits >= 14)
        header.incompatible_features |= QCOW2_INCOMPAT_EXTENDED_L2;
    g = qcow2_header_geometry(&header);
    guest_offset = (qimg_be64_at(bytes) & 0xffffffffffff) << g.cluster_bits >> 5;
    guest_offset -= guest_offset % g.cluster_bytes;
    for (size_t at = 8; at + 16 <= n_bytes; at += 16) {
        uint64_t word = qimg_be64_at(bytes + at);
        uint64_t bitmap = qimg_be64_at(bytes + at + 8);

        if (g.extended_l2) {
            check_extended(&g, word, bitmap, guest_offset);
        } else {
            QimgL2Entry e = qcow2_l2_decode(&g, word, guest_offset);

            check_entry(&g, &e, guest_offset);
            FUZZ_CHECK(e.n_subclusters == 1);
        }
    }
    return 0;
}
