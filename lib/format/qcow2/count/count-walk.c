/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Counting single references. I1, I2: see count.c. */

#include "format/qcow2/count/count-walk.h"

#include <errno.h>

#include "base/checked.h"
#include "format/check-report.h"
#include "format/qcow2/count/counts.h"

#define MAX_LATE          65536u
#define MAX_SHARED_TABLES 256u

void
qcow2_walk_problem(Qcow2Walk *w, QimgRule rule, uint64_t host_offset)
{
    Qcow2Problem problem = {rule, host_offset, QIMG_NO_GUEST_OFFSET};

    if (w->counts->n_problems++ < QCOW2_MAX_LISTED_PROBLEMS)
        g_array_append_val(w->counts->problems, problem);
}

void
qcow2_walk_unread(Qcow2Walk *w, QimgRule rule, uint64_t host_offset)
{
    qcow2_walk_problem(w, rule, host_offset);
    w->counts->n_unread++;
}

void
qcow2_walk_note_beyond(Qcow2Walk *w, uint64_t host_offset)
{
    uint64_t cluster =
        qimg_max_u64(host_offset >> w->q->geometry.cluster_bits, w->counts->n_clusters);

    w->first_beyond = qimg_min_u64(w->first_beyond, cluster);
}

QimgErrno
qcow2_walk_error(Qcow2Walk *w, QimgErrno err, uint64_t host_offset)
{
    if (!w->options->is_for_check || err == -ENOMEM)
        return err;
    qcow2_walk_unread(w, QIMG_RULE_UNREADABLE, host_offset);
    w->counts->n_errors++;
    return 0;
}

/* Adds to a list of limited length; the excess is not counted. */
static void
set_apart(Qcow2Walk *w, GArray *list, guint max, uint64_t cluster, uint32_t weight)
{
    Qcow2Reference reference = {cluster, weight};

    if (list->len < max)
        g_array_append_val(list, reference);
    else
        w->counts->n_unread++;
}

void
qcow2_walk_add_late(Qcow2Walk *w, uint64_t cluster, uint32_t weight)
{
    set_apart(w, w->late, MAX_LATE, cluster, weight);
}

/* An L1 entry refers to a table in a cluster with another use. */
static void
add_shared_table(Qcow2Walk *w, uint64_t cluster)
{
    for (guint i = 0; i < w->shared_tables->len; i++) {
        Qcow2Reference *r = &g_array_index(w->shared_tables, Qcow2Reference, i);

        if (r->cluster == cluster) {
            r->weight++;
            return;
        }
    }
    set_apart(w, w->shared_tables, MAX_SHARED_TABLES, cluster, 1);
}

void
qcow2_walk_add(Qcow2Walk *w, uint64_t cluster, uint32_t weight)
{
    uint64_t count = qcow2_counts_get(w->counts, cluster);

    if (weight > QCOW2_MAX_COUNT - count)
        qcow2_walk_problem(w, QIMG_RULE_REFCOUNT_RANGE,
                           cluster << w->q->geometry.cluster_bits);
    qcow2_counts_set(w->counts, cluster, count + weight);
}

void
qcow2_walk_cluster(Qcow2Walk *w, uint64_t cluster, Qcow2Use use, uint32_t weight)
{
    Qcow2Use old_use = qcow2_counts_get_use(w->counts, cluster);

    if (old_use == QCOW2_USE_NONE) {
        w->counts->words[cluster] = (uint32_t)use << QCOW2_USE_SHIFT;
    } else if (old_use != use || use == QCOW2_USE_ALONE) {
        /* One of the two may have lost its content. */
        qcow2_walk_unread(w, QIMG_RULE_METADATA_OVERLAP,
                          cluster << w->q->geometry.cluster_bits);
        if (use == QCOW2_USE_ALONE)
            w->counts->n_table_overlaps++;
        if (use == QCOW2_USE_L2)
            add_shared_table(w, cluster);
        if (old_use == QCOW2_USE_L2) { /* I2 */
            qcow2_walk_add_late(w, cluster, weight);
            return;
        }
    }
    qcow2_walk_add(w, cluster, weight);
}

bool
qcow2_walk_range(Qcow2Walk *w, uint64_t host_offset, uint64_t n_bytes, Qcow2Use use,
                 uint32_t weight, QimgRule beyond_rule)
{
    const Qcow2Geometry *g = &w->q->geometry;
    uint64_t end = UINT64_MAX, end_cluster;

    if (n_bytes == 0)
        return true;
    if (!qimg_add_u64(host_offset, n_bytes, &end))
        end = UINT64_MAX;
    end_cluster = qimg_div_round_up(end, g->cluster_bytes);
    for (uint64_t c = host_offset >> g->cluster_bits;
         c < qimg_min_u64(end_cluster, w->counts->n_clusters); c++)
        qcow2_walk_cluster(w, c, use, weight);
    if (end_cluster <= w->counts->n_clusters)
        return true;
    qcow2_walk_note_beyond(w, host_offset);
    qcow2_walk_problem(w, beyond_rule, host_offset);
    return false;
}

bool
qcow2_walk_alone(Qcow2Walk *w, uint64_t host_offset, uint64_t n_bytes)
{
    return qcow2_walk_range(w, host_offset, n_bytes, QCOW2_USE_ALONE, 1,
                            QIMG_RULE_TABLE_BEYOND_EOF);
}

bool
qcow2_walk_table(Qcow2Walk *w, uint64_t host_offset, uint64_t n_bytes)
{
    uint64_t end_bytes = w->counts->n_clusters << w->q->geometry.cluster_bits;

    if (n_bytes > w->table_bytes_left) { /* I1 */
        bool is_inside = qimg_range_fits(host_offset, n_bytes, end_bytes);

        if (!is_inside)
            qcow2_walk_note_beyond(w, host_offset);
        qcow2_walk_unread(
            w, is_inside ? QIMG_RULE_METADATA_OVERLAP : QIMG_RULE_TABLE_BEYOND_EOF,
            host_offset);
        return false;
    }
    w->table_bytes_left -= n_bytes;
    if (qcow2_walk_alone(w, host_offset, n_bytes))
        return true;
    w->counts->n_unread++;
    return false;
}

QimgErrno
qcow2_walk_read(Qcow2Walk *w, QimgIoPurpose purpose, uint64_t host_offset,
                uint64_t n_words)
{
    return qimg_format_read_words(&w->q->base, purpose, host_offset, w->buffer, n_words);
}
