/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Marks each cluster that the tables refer to. Spec: qed section 6. */
#include "qed-check.h"

#include <inttypes.h>
#include <string.h>

#define NEED_CHECK 2u

typedef struct {
    const uint8_t *bytes;
    uint64_t n_clusters;
    uint64_t cluster_bytes;
    uint64_t table_clusters;
    uint64_t header_clusters;
    bool *used;
    char *problem; /* the first */
} Check;

static uint64_t
get(const uint8_t *bytes, unsigned n)
{
    uint64_t value = 0;

    while (n-- > 0)
        value = value << 8 | bytes[n];
    return value;
}

bool
qed_check_is_qed(const uint8_t *bytes, size_t n_bytes)
{
    return n_bytes >= 64 && memcmp(bytes, "QED", 4) == 0;
}

static void
use(Check *c, const char *what, uint64_t offset, uint64_t n)
{
    uint64_t first = offset / c->cluster_bytes;

    if (c->problem)
        return;
    if (offset % c->cluster_bytes || first < c->header_clusters ||
        first + n > c->n_clusters) {
        c->problem = g_strdup_printf("%s at %#" PRIx64 " is no place", what, offset);
        return;
    }
    for (uint64_t i = first; i < first + n; i++) {
        if (c->used[i])
            c->problem =
                g_strdup_printf("%s at %#" PRIx64 " is used twice", what, offset);
        c->used[i] = true;
        if (c->problem)
            return;
    }
}

static void
walk(Check *c, uint64_t l1_offset)
{
    uint64_t n_entries = c->table_clusters * c->cluster_bytes / 8;

    use(c, "L1 table", l1_offset, c->table_clusters);
    for (uint64_t i = 0; i < n_entries && !c->problem; i++) {
        uint64_t l2_offset = get(c->bytes + l1_offset + i * 8, 8);

        if (l2_offset == 0)
            continue;
        use(c, "L2 table", l2_offset, c->table_clusters);
        for (uint64_t j = 0; j < n_entries && !c->problem; j++) {
            uint64_t entry = get(c->bytes + l2_offset + j * 8, 8);

            if (entry > 1)
                use(c, "data cluster", entry, 1);
        }
    }
}

char *
qed_check_bytes(const uint8_t *bytes, size_t n_bytes, bool may_leak, QedCheckResult *out)
{
    Check c = {.bytes = bytes};

    *out = (QedCheckResult){0};
    if (!qed_check_is_qed(bytes, n_bytes))
        return g_strdup("is no QED image");
    c.cluster_bytes = get(bytes + 4, 4);
    c.table_clusters = get(bytes + 8, 4);
    c.header_clusters = get(bytes + 12, 4);
    c.n_clusters = n_bytes / c.cluster_bytes;
    c.used = g_new0(bool, c.n_clusters + 1);
    out->is_dirty = get(bytes + 16, 8) & NEED_CHECK;
    for (uint64_t i = 0; i < MIN(c.header_clusters, c.n_clusters); i++)
        c.used[i] = true;
    walk(&c, get(bytes + 40, 8));
    for (uint64_t i = 0; i < c.n_clusters; i++)
        out->n_leaks += !c.used[i];
    if (!c.problem && !may_leak && !out->is_dirty && out->n_leaks > 0)
        c.problem =
            g_strdup_printf("%" PRIu64 " leaks, and NEED_CHECK is clear", out->n_leaks);
    g_free(c.used);
    return c.problem;
}
