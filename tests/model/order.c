/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The order in which entries are written behind (lib/behind/behind.h, B1 to B3; W1 to W3
 * of qcow2.h), as a model that is explored exhaustively: one guest cluster, whose writer
 * replaces it repeatedly, a thread that publishes, and one that flushes and frees. In
 * each state reached by any interleaving of their steps, the machine may end, with any
 * part of the unsynced writes, and the server may end, whereupon the keeper stores the
 * pending entries, step by step, while the machine may end again.
 *
 * Each rule can be left out: then the model must find a fault, else it would prove
 * nothing. */
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define N_CLUSTERS   4u
#define N_WRITES     4u
#define N_FLUSHES    2u
#define N_ROUNDS     2u /* of the publisher */
#define MAX_UNSYNCED 24u
#define GARBAGE      99u /* content of a free cluster */
#define BASE         0u  /* the entry, and the value, before the first write */

typedef struct {
    bool sync_before_entries; /* B1, W2, W1 */
    bool sync_before_freeing; /* W3 */
    bool keeper;              /* B3 */
    bool later_states_wait;   /* B2 */
} Rules;

/* A place on the disk: its durable value, and the values written since the last sync. */
typedef struct {
    uint8_t durable;
    uint8_t n;
    uint8_t unsynced[MAX_UNSYNCED];
} Place;

enum { WRITE_ALLOC, WRITE_FILL, WRITE_ADD, WRITE_ACK };
enum { IDLE, SYNCED, WRITTEN, DURABLE };

/* A thread that settles pending entries. */
typedef struct {
    uint8_t step;
    uint8_t to;      /* of the log */
    uint8_t next;    /* of the log: to be written */
    uint8_t n_left;  /* rounds to go */
    uint8_t to_free; /* bits: clusters, taken before the sync */
} Settler;

typedef struct {
    Place entry;
    Place data[N_CLUSTERS + 1]; /* by the value of an entry; 0 is the base */
    Place refcount[N_CLUSTERS + 1];
    uint8_t log[N_WRITES + 1];
    uint8_t n_appended, n_published;
    uint8_t seen;    /* the entry as seen by readers of the mount */
    uint8_t is_free; /* bits: clusters */
    uint8_t waiting; /* bits: clusters to be freed after the next flush */
    uint8_t write;   /* its number from 1: the value that it writes */
    uint8_t write_step;
    uint8_t cluster;  /* of the write */
    uint8_t acked;    /* the last write that has returned */
    uint8_t sure;     /* the last write that a flush has made durable */
    uint8_t flushing; /* the value of acked when the flush began */
    bool is_publishing;
    Settler publisher, flusher;
} State;

typedef struct {
    Rules rules;
    GHashTable *visited;
    uint64_t n_faults;
} Model;

/* ---- the disk ---- */

static void
put(Place *p, uint8_t value)
{
    g_assert_cmpuint(p->n, <, MAX_UNSYNCED);
    p->unsynced[p->n++] = value;
}

static uint8_t
latest(const Place *p)
{
    return p->n > 0 ? p->unsynced[p->n - 1] : p->durable;
}

static void
sync_place(Place *p)
{
    p->durable = latest(p);
    p->n = 0;
    memset(p->unsynced, 0, sizeof p->unsynced);
}

static void
sync_all(State *s)
{
    sync_place(&s->entry);
    for (unsigned c = 0; c <= N_CLUSTERS; c++) {
        sync_place(&s->data[c]);
        sync_place(&s->refcount[c]);
    }
}

/* A possible value after the end of the machine: number @i, from 0 (durable) to n. */
static uint8_t
survivor(const Place *p, unsigned i)
{
    return i == 0 ? p->durable : p->unsynced[i - 1];
}

/* ---- invariants ---- */

/* Whether the machine may end in @s: for all surviving values, the cluster has the
 * durable value or a later one, and the cluster referred to by the entry is counted. */
static bool
may_crash(const State *s)
{
    for (unsigned e = 0; e <= s->entry.n; e++) {
        uint8_t c = survivor(&s->entry, e);

        for (unsigned d = 0; d <= s->data[c].n; d++) {
            uint8_t value = survivor(&s->data[c], d);

            if (value == GARBAGE || value < s->sure || value > s->write)
                return false;
        }
        for (unsigned r = 0; c != BASE && r <= s->refcount[c].n; r++)
            if (survivor(&s->refcount[c], r) == 0)
                return false;
    }
    return true;
}

/* Whether the server may end in @s: the keeper syncs, and writes the pending entries. */
static bool
may_die(const Rules *rules, const State *s)
{
    State after = *s;
    uint8_t value;

    sync_all(&after);
    for (unsigned n = s->n_published; rules->keeper && n < s->n_appended; n++) {
        put(&after.entry, s->log[n]);
        if (!may_crash(&after))
            return false;
    }
    value = latest(&after.data[latest(&after.entry)]);
    return value == s->acked || value == s->write;
}

/* ---- steps ---- */

/* The writer: a cluster, its data, the entry, the answer. */
static bool
step_writer(const Rules *rules, State *s)
{
    if (s->acked == N_WRITES)
        return false;
    switch (s->write_step) {
    case WRITE_ALLOC:
        for (s->cluster = 1; s->cluster <= N_CLUSTERS; s->cluster++)
            if (s->is_free & 1u << s->cluster)
                break;
        if (s->cluster > N_CLUSTERS)
            return false; /* waits for a flush */
        s->is_free &= (uint8_t) ~(1u << s->cluster);
        put(&s->refcount[s->cluster], 1);
        break;
    case WRITE_FILL:
        s->write++;
        put(&s->data[s->cluster], s->write);
        break;
    case WRITE_ADD:
        /* Every second one needs no order by itself, like zeroing a cluster: it goes to
         * the file at once, unless an entry is pending for the place. */
        if (s->write % 2 == 0 &&
            (s->n_appended == s->n_published || !rules->later_states_wait)) {
            sync_place(&s->data[s->cluster]);
            sync_place(&s->refcount[s->cluster]);
            put(&s->entry, s->cluster);
        } else {
            s->log[s->n_appended++] = s->cluster;
        }
        if (s->seen != BASE)
            s->waiting |= (uint8_t)(1u << s->seen);
        s->seen = s->cluster;
        break;
    case WRITE_ACK:
        s->acked = s->write;
        break;
    }
    s->write_step = (s->write_step + 1) % 4;
    return true;
}

/* Both settlers: sync, write the pending entries, and continue. */
static bool
step_settle(const Rules *rules, State *s, Settler *t)
{
    switch (t->step) {
    case IDLE:
        if (s->is_publishing)
            return false;
        s->is_publishing = true;
        t->to = s->n_appended;
        t->next = s->n_published;
        if (rules->sync_before_entries)
            sync_all(s);
        t->step = SYNCED;
        return true;
    case SYNCED:
        if (t->next < t->to) /* one at a time; the log's start moves afterwards */
            put(&s->entry, s->log[t->next++]);
        else
            t->step = WRITTEN;
        return true;
    case WRITTEN:
        s->n_published = t->to;
        s->is_publishing = false;
        t->step = DURABLE;
        return true;
    }
    return false;
}

static bool
step_publisher(const Rules *rules, State *s)
{
    Settler *t = &s->publisher;

    if (t->step == DURABLE) {
        t->step = IDLE;
        t->n_left--;
        return true;
    }
    if (t->step == IDLE && (t->n_left == 0 || s->n_appended == s->n_published))
        return false;
    return step_settle(rules, s, t);
}

static bool
step_flusher(const Rules *rules, State *s)
{
    Settler *t = &s->flusher;

    if (t->step == IDLE && t->n_left == 0)
        return false;
    if (t->step == IDLE && !s->is_publishing) {
        t->to_free = s->waiting;
        s->waiting = 0;
        s->flushing = s->acked;
    }
    if (t->step != DURABLE)
        return step_settle(rules, s, t);
    if (rules->sync_before_freeing)
        sync_all(s);
    s->sure = MAX(s->sure, rules->sync_before_freeing ? s->flushing : s->sure);
    for (unsigned c = 1; c <= N_CLUSTERS; c++) {
        if (!(t->to_free & 1u << c))
            continue;
        put(&s->refcount[c], 0);
        put(&s->data[c], GARBAGE); /* its space is freed */
        s->is_free |= (uint8_t)(1u << c);
    }
    t->to_free = 0;
    t->step = IDLE;
    t->n_left--;
    return true;
}

/* ---- all states ---- */

static guint
hash_state(gconstpointer key)
{
    const uint8_t *bytes = key;
    guint hash = 2166136261u;

    for (size_t i = 0; i < sizeof(State); i++)
        hash = (hash ^ bytes[i]) * 16777619u;
    return hash;
}

static gboolean
equal_states(gconstpointer a, gconstpointer b)
{
    return memcmp(a, b, sizeof(State)) == 0;
}

static void
visit(Model *m, GQueue *todo, const State *s)
{
    State *copy;

    if (g_hash_table_contains(m->visited, s))
        return;
    copy = g_memdup2(s, sizeof *s);
    g_hash_table_add(m->visited, copy);
    g_queue_push_tail(todo, copy);
    if (!may_crash(s) || !may_die(&m->rules, s))
        m->n_faults++;
}

/* Returns the number of faulty states. */
static uint64_t
explore(Rules rules, uint64_t *n_states_out)
{
    static bool (*const steps[])(const Rules *, State *) = {step_writer, step_publisher,
                                                            step_flusher};
    Model m = {.rules = rules,
               .visited = g_hash_table_new_full(hash_state, equal_states, g_free, NULL)};
    GQueue *todo = g_queue_new();
    State first;

    memset(&first, 0, sizeof first); /* padding, too: states are compared by bytes */
    first.publisher.n_left = N_ROUNDS;
    first.flusher.n_left = N_FLUSHES;
    for (unsigned c = 1; c <= N_CLUSTERS; c++) {
        first.data[c].durable = GARBAGE;
        first.is_free |= (uint8_t)(1u << c);
    }
    visit(&m, todo, &first);
    while (!g_queue_is_empty(todo)) {
        const State *s = g_queue_pop_head(todo);

        for (size_t i = 0; i < G_N_ELEMENTS(steps); i++) {
            State next = *s;

            if (steps[i](&rules, &next))
                visit(&m, todo, &next);
        }
    }
    g_queue_free(todo);
    if (n_states_out)
        *n_states_out = g_hash_table_size(m.visited);
    g_hash_table_unref(m.visited);
    return m.n_faults;
}

static const Rules all_rules = {true, true, true, true};

static void
test_all_rules(void)
{
    uint64_t n_states = 0;

    g_assert_cmpuint(explore(all_rules, &n_states), ==, 0);
    g_test_message("%" G_GUINT64_FORMAT " states", n_states);
    g_assert_cmpuint(n_states, >, 1000);
}

/* Each rule is needed. */
static void
test_one_rule_less(void)
{
    Rules rules = all_rules;

    rules.sync_before_entries = false;
    g_assert_cmpuint(explore(rules, NULL), >, 0);
    rules = all_rules;
    rules.sync_before_freeing = false;
    g_assert_cmpuint(explore(rules, NULL), >, 0);
    rules = all_rules;
    rules.keeper = false;
    g_assert_cmpuint(explore(rules, NULL), >, 0);
    rules = all_rules;
    rules.later_states_wait = false;
    g_assert_cmpuint(explore(rules, NULL), >, 0);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/order/all-rules", test_all_rules);
    g_test_add_func("/order/one-rule-less", test_one_rule_less);
    return g_test_run();
}
