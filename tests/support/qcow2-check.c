/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Counts the references of each cluster, and then compares: with the refcounts, with the
 * COPIED bits, and with the cluster's other uses. The first corruption ends it. Spec:
 * qcow2-write section 13. */
#include "qcow2-check.h"

#include <inttypes.h>

#define OFFSET_MASK UINT64_C(0x00fffffffffffe00)
#define COPIED      (UINT64_C(1) << 63)
#define COMPRESSED  (UINT64_C(1) << 62)

typedef enum {
    USE_DATA = 1, /* or streams */
    USE_L2 = 2,
    USE_TABLE = 4, /* all exclusive uses */
} Use;

typedef struct {
    uint32_t n_refs;
    uint8_t uses;
    bool is_in_active_tree; /* as standard data or L2 table of the active disk */
} Cluster;

typedef struct {
    const uint8_t *bytes;
    uint64_t n_bytes;
    uint32_t version;
    uint32_t bits;
    uint64_t cluster_bytes;
    uint64_t incompatible;
    uint32_t refcount_order;
    uint64_t reftable_offset;
    uint64_t n_reftable_entries;
    bool is_extended;
    bool has_data_file;
    bool is_dirty;
    Cluster *clusters;
    uint64_t n_clusters;
    Qcow2CheckResult *result; /* NULL: not requested */
    char *problem;            /* the first */
} Check;

static void G_GNUC_PRINTF(2, 3) fail(Check *c, const char *text, ...)
{
    va_list args;

    if (c->problem)
        return;
    va_start(args, text);
    c->problem = g_strdup_vprintf(text, args);
    va_end(args);
}

/* A big-endian number of @n bytes; zeros past the end of the file. */
static uint64_t
get(const Check *c, uint64_t offset, unsigned n)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < n; i++)
        value = value << 8 | (offset + i < c->n_bytes ? c->bytes[offset + i] : 0);
    return value;
}

/* Counts one reference of each cluster touched by [@offset, + @n_bytes). */
static void
refer(Check *c, uint64_t offset, uint64_t n_bytes, Use use, const char *what)
{
    if (offset >= c->n_bytes || n_bytes > c->n_clusters * c->cluster_bytes - offset) {
        fail(c, "%s at %" PRIu64 " lies beyond the end of the file", what, offset);
        return;
    }
    for (uint64_t i = offset >> c->bits; i <= (offset + n_bytes - 1) >> c->bits; i++) {
        Cluster *cluster = &c->clusters[i];

        cluster->n_refs++;
        cluster->uses |= use;
        if (cluster->uses & (cluster->uses - 1))
            fail(c, "%s at %" PRIu64 " overlaps another structure (uses %u)", what,
                 i << c->bits, cluster->uses);
        if (use == USE_TABLE && cluster->n_refs > 1)
            fail(c, "%s at %" PRIu64 " overlaps another table", what, i << c->bits);
    }
}

static void
refer_aligned(Check *c, uint64_t offset, uint64_t n_bytes, Use use, const char *what)
{
    if (offset % c->cluster_bytes)
        fail(c, "%s at %" PRIu64 " is not aligned", what, offset);
    else if (offset == 0 && n_bytes > 0)
        fail(c, "%s lies in the header", what);
    else if (n_bytes > 0)
        refer(c, offset, n_bytes, use, what);
}

static uint64_t
refcount_of(const Check *c, uint64_t cluster)
{
    unsigned width = 1u << c->refcount_order;
    uint64_t per_block = c->cluster_bytes * 8 / width;
    uint64_t index = cluster / per_block;
    uint64_t in_block = cluster % per_block;
    uint64_t block;

    if (index >= c->n_reftable_entries)
        return 0;
    block = get(c, c->reftable_offset + index * 8, 8);
    if (block == 0)
        return 0;
    if (width >= 8)
        return get(c, block + in_block * (width / 8), width / 8);
    return get(c, block + in_block * width / 8, 1) >> (in_block * width % 8) &
           ((1u << width) - 1);
}

static void
mark_active(Check *c, uint64_t offset, const char *what)
{
    if (c->problem)
        return;
    if (c->clusters[offset >> c->bits].is_in_active_tree)
        fail(c, "%s at %" PRIu64 " is referred to twice by one disk", what, offset);
    c->clusters[offset >> c->bits].is_in_active_tree = true;
}

static void
walk_compressed(Check *c, uint64_t entry)
{
    unsigned shift = 62 - (c->bits - 8);
    uint64_t start = (entry & ((UINT64_C(1) << shift) - 1)) & ~UINT64_C(511);
    uint64_t n_sectors = ((entry & (COMPRESSED - 1)) >> shift) + 1;

    if (entry & COPIED)
        fail(c, "compressed entry %016" PRIx64 " has COPIED set", entry);
    else if (c->has_data_file)
        fail(c, "compressed entry with a data file");
    else
        refer(c, start, n_sectors * 512, USE_DATA, "compressed cluster");
}

static void
walk_data(Check *c, uint64_t entry, uint64_t bitmap, uint64_t guest_offset,
          bool is_active)
{
    uint64_t offset = entry & OFFSET_MASK;
    uint32_t allocated = (uint32_t)bitmap, zeros = (uint32_t)(bitmap >> 32);

    if (c->is_extended && (allocated & zeros))
        fail(c, "entry for %" PRIu64 " is both allocated and zero", guest_offset);
    if (c->version < 3 && (entry & 1))
        fail(c, "zero bit in version 2");
    if (c->is_extended && (entry & 1))
        fail(c, "zero bit in an extended entry");
    if (c->has_data_file) {
        if (offset && offset != guest_offset)
            fail(c, "entry for %" PRIu64 " refers to %" PRIu64 " of the data file",
                 guest_offset, offset);
        return;
    }
    if (!offset) {
        if (entry & COPIED)
            fail(c, "entry for %" PRIu64 " has COPIED set without a cluster",
                 guest_offset);
        if (allocated)
            fail(c, "entry for %" PRIu64 " has data without a cluster", guest_offset);
        return;
    }
    refer_aligned(c, offset, c->cluster_bytes, USE_DATA, "data cluster");
    if (is_active)
        mark_active(c, offset, "data cluster");
}

static void
walk_l2(Check *c, uint64_t l2_offset, uint64_t l1_index, bool is_active)
{
    unsigned entry_bytes = c->is_extended ? 16 : 8;
    uint64_t n_entries = c->cluster_bytes / entry_bytes;

    for (uint64_t i = 0; i < n_entries && !c->problem; i++) {
        uint64_t entry = get(c, l2_offset + i * entry_bytes, 8);
        uint64_t bitmap = c->is_extended ? get(c, l2_offset + i * entry_bytes + 8, 8) : 0;

        if (entry & COMPRESSED)
            walk_compressed(c, entry);
        else
            walk_data(c, entry, bitmap, (l1_index * n_entries + i) << c->bits, is_active);
    }
}

static void
walk_l1(Check *c, uint64_t l1_offset, uint64_t n_entries, bool is_active)
{
    refer_aligned(c, l1_offset, n_entries * 8, USE_TABLE, "L1 table");
    for (uint64_t i = 0; i < n_entries && !c->problem; i++) {
        uint64_t entry = get(c, l1_offset + i * 8, 8);
        uint64_t l2_offset = entry & OFFSET_MASK;

        if (!l2_offset)
            continue;
        refer_aligned(c, l2_offset, c->cluster_bytes, USE_L2, "L2 table");
        if (is_active)
            mark_active(c, l2_offset, "L2 table");
        if (!c->problem)
            walk_l2(c, l2_offset, i, is_active);
    }
}

static void
walk_snapshots(Check *c)
{
    uint64_t offset = get(c, 64, 8), start = offset;
    uint64_t n_snapshots = get(c, 60, 4);

    for (uint64_t i = 0; i < n_snapshots && !c->problem; i++) {
        uint64_t n_bytes =
            40 + get(c, offset + 36, 4) + get(c, offset + 12, 2) + get(c, offset + 14, 2);

        walk_l1(c, get(c, offset, 8), get(c, offset + 8, 4), false);
        offset += (n_bytes + 7) & ~UINT64_C(7);
    }
    if (n_snapshots > 0)
        refer_aligned(c, start, offset - start, USE_TABLE, "snapshot table");
}

static void
walk_refcounts(Check *c)
{
    refer_aligned(c, c->reftable_offset, c->n_reftable_entries * 8, USE_TABLE,
                  "refcount table");
    for (uint64_t i = 0; i < c->n_reftable_entries && !c->problem; i++) {
        uint64_t block = get(c, c->reftable_offset + i * 8, 8);

        if (block)
            refer_aligned(c, block, c->cluster_bytes, USE_TABLE, "refcount block");
    }
}

static void
compare_refcounts(Check *c, Qcow2CheckResult *out)
{
    uint64_t per_block = c->cluster_bytes * 8 >> c->refcount_order;
    uint64_t n = MIN(c->n_reftable_entries * per_block, UINT32_MAX);

    for (uint64_t i = 0; i < MAX(n, c->n_clusters) && !c->problem; i++) {
        uint64_t n_refs = i < c->n_clusters ? c->clusters[i].n_refs : 0;
        uint64_t refcount;

        if (i % per_block == 0 && i >= c->n_clusters &&
            (i / per_block >= c->n_reftable_entries ||
             !get(c, c->reftable_offset + i / per_block * 8, 8))) {
            i += per_block - 1;
            continue;
        }
        refcount = refcount_of(c, i);
        if (refcount < n_refs)
            fail(c,
                 "cluster %" PRIu64 " has refcount %" PRIu64 " and %" PRIu64
                 " references (uses %u)",
                 i, refcount, n_refs, c->clusters[i].uses);
        out->n_leaks += refcount > n_refs;
    }
}

static void
check_copied(Check *c, uint64_t entry, const char *what, uint64_t place)
{
    uint64_t cluster = (entry & OFFSET_MASK) >> c->bits;

    bool is_right = ((entry & COPIED) != 0) == (refcount_of(c, cluster) == 1);

    if (!is_right && c->version == 2 && c->result)
        c->result->n_flags++;
    else if (!is_right)
        fail(c, "%s at %" PRIu64 ": entry %016" PRIx64 " and refcount %" PRIu64, what,
             place, entry, refcount_of(c, cluster));
    if ((entry & COPIED) && c->clusters[cluster].n_refs != 1)
        fail(c, "%s at %" PRIu64 ": entry %016" PRIx64 " and %u references", what, place,
             entry, c->clusters[cluster].n_refs);
}

static void
compare_copied(Check *c)
{
    unsigned entry_bytes = c->is_extended ? 16 : 8;
    uint64_t l1_offset = get(c, 40, 8), n_l1_entries = get(c, 36, 4);

    for (uint64_t i = 0; i < n_l1_entries && !c->problem; i++) {
        uint64_t l1_entry = get(c, l1_offset + i * 8, 8);
        uint64_t l2_offset = l1_entry & OFFSET_MASK;

        if (!l2_offset)
            continue;
        check_copied(c, l1_entry, "L1 entry", l1_offset + i * 8);
        for (uint64_t j = 0; j < c->cluster_bytes && !c->problem; j += entry_bytes) {
            uint64_t entry = get(c, l2_offset + j, 8);

            if (!(entry & COMPRESSED) && (entry & OFFSET_MASK) && !c->has_data_file)
                check_copied(c, entry, "L2 entry", l2_offset + j);
        }
    }
}

static bool
read_header(Check *c)
{
    c->version = get(c, 4, 4);
    c->bits = get(c, 20, 4);
    if (c->n_bytes < 72 || get(c, 0, 4) != 0x514649fb || c->version < 2 ||
        c->version > 3 || c->bits < 9 || c->bits > 21) {
        fail(c, "the header is no header");
        return false;
    }
    c->cluster_bytes = UINT64_C(1) << c->bits;
    c->incompatible = c->version >= 3 ? get(c, 72, 8) : 0;
    c->refcount_order = c->version >= 3 ? get(c, 96, 4) : 4;
    c->is_dirty = c->incompatible & 1;
    c->has_data_file = c->incompatible & 4;
    c->is_extended = c->incompatible & 16;
    c->reftable_offset = get(c, 48, 8);
    c->n_reftable_entries = get(c, 56, 4) * c->cluster_bytes / 8;
    if (c->incompatible & 2)
        fail(c, "the image is marked corrupt");
    if (c->incompatible & ~UINT64_C(0x1f) || c->refcount_order > 6)
        fail(c, "the header has unknown features");
    return !c->problem;
}

char *
qcow2_check_bytes(const uint8_t *bytes, size_t n_bytes, Qcow2CheckResult *out)
{
    Qcow2CheckResult result = {0};
    Check c = {.bytes = bytes, .n_bytes = n_bytes, .result = out ? &result : NULL};

    if (!read_header(&c))
        return c.problem;
    c.n_clusters = (n_bytes + c.cluster_bytes - 1) >> c.bits;
    c.clusters = g_new0(Cluster, c.n_clusters);
    refer(&c, 0, c.cluster_bytes, USE_TABLE, "header");
    walk_l1(&c, get(&c, 40, 8), get(&c, 36, 4), true);
    walk_snapshots(&c);
    walk_refcounts(&c);
    if (!c.problem && !c.is_dirty) {
        compare_refcounts(&c, &result);
        compare_copied(&c);
    }
    result.is_dirty = c.is_dirty;
    if (out)
        *out = result;
    g_free(c.clusters);
    return c.problem;
}
