/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Interrupted changes of snapshots: for each change, the state left by a dying process or
 * machine after many of its steps. The snapshots and the disk are those before the change
 * or those after it; the image can be used, which repairs it, and writing to all of the
 * disk then changes no snapshot.
 *
 * QIMG_TEST_SEED repeats a run; CRASH_ROUNDS=N does N times as many, CRASH_KIND=NAME only
 * one kind, CRASH_KEEP=DIR keeps the files of a failure. */
#include <stdlib.h>
#include <string.h>

#include "crash-fixture.h"
#include "test-util.h"

#define N_CHANGES       6u
#define N_WRITES        5u
#define N_PREFIXES      4u /* of each change */
#define MAX_SNAPSHOTS   6u
#define QEMU_EVERY      19u
#define OVERWRITE_VALUE 0xee

typedef struct {
    char name[16];
    CrashModel *content;
} Saved;

/* The content of an image: the disk, and each snapshot in the order of the table. */
typedef struct {
    CrashModel *disk;
    Saved snapshots[MAX_SNAPSHOTS];
    unsigned n;
} State;

typedef struct {
    const CrashKind *kind;
    GRand *rand;
    uint32_t seed;
    bool is_version_2;
    CrashFixture *disk; /* as it was when the change began */
    CrashRecord *record;
    char change[32]; /* the present change */
    unsigned next_name;
    unsigned n_checks;
} Run;

/* ---- states ---- */

static void
state_clear(State *state)
{
    crash_model_free(state->disk);
    for (unsigned i = 0; i < state->n; i++)
        crash_model_free(state->snapshots[i].content);
    *state = (State){0};
}

/* The content of @image. */
static bool
state_load(State *state, QimgImage *image, char **problem_out)
{
    g_autoptr(QimgSnapshots) list = qimg_image_get_snapshots(image);

    *state = (State){.disk = crash_model_new(image, problem_out)};
    if (!state->disk)
        return false;
    if (qimg_snapshots_get_n(list) > MAX_SNAPSHOTS) {
        *problem_out = g_strdup("more snapshots than were ever made");
        return false;
    }
    for (unsigned i = 0; i < qimg_snapshots_get_n(list); i++) {
        const QimgSnapshot *s = qimg_snapshots_get(list, i);
        g_autoptr(GError) error = NULL;
        g_autoptr(QimgImage) snapshot =
            qimg_image_open_snapshot(image, s->serial, &error);
        Saved *saved = &state->snapshots[state->n];

        if (!snapshot) {
            *problem_out = g_strdup_printf("snapshot %s: %s", s->name, error->message);
            return false;
        }
        g_strlcpy(saved->name, s->name, sizeof saved->name);
        saved->content = crash_model_new(snapshot, problem_out);
        if (!saved->content)
            return false;
        state->n++;
    }
    return true;
}

/* NULL if the snapshots of @seen are those of @expected, else the difference. */
static char *
compare_snapshots(const State *expected, const State *seen)
{
    if (seen->n != expected->n)
        return g_strdup_printf("%u snapshots instead of %u", seen->n, expected->n);
    for (unsigned i = 0; i < seen->n; i++) {
        const Saved *a = &expected->snapshots[i], *b = &seen->snapshots[i];
        g_autofree char *problem = NULL;

        if (!g_str_equal(a->name, b->name))
            return g_strdup_printf("snapshot %s instead of %s", b->name, a->name);
        problem = crash_model_compare(a->content, NULL, 0, b->content);
        if (problem)
            return g_strdup_printf("snapshot %s: %s", a->name, problem);
    }
    return NULL;
}

static char *
compare(const State *expected, const State *seen)
{
    char *problem = crash_model_compare(expected->disk, NULL, 0, seen->disk);

    return problem ? problem : compare_snapshots(expected, seen);
}

/* ---- after a crash ---- */

static void
give_up(Run *run, const char *what, size_t prefix, const CrashFixture *crashed,
        const char *problem)
{
    const char *keep = g_getenv("CRASH_KEEP");

    for (size_t i = 0; i < crash_record_length(run->record); i++) {
        static const char *const names[] = {"write", "punch", "set-size", "sync"};
        const CrashEvent *e = crash_record_get(run->record, i);

        g_printerr("# event %zu: %s %s %" G_GUINT64_FORMAT " + %" G_GUINT64_FORMAT "\n",
                   i, names[e->kind], qimg_io_purpose_names[e->purpose], e->file_offset,
                   e->n_bytes);
    }
    if (keep)
        crash_fixture_save(crashed, keep);
    g_error("%s, seed %u: %s: %s after %zu events: %s", run->kind->name, run->seed,
            run->change, what, prefix, problem);
}

/* Writes to all of the disk, and checks that nothing else changed. */
static char *
overwrite(Run *run, const CrashFixture *crashed, const State *seen)
{
    g_autoptr(CrashRecord) record = crash_record_new();
    g_autoptr(CrashFixture) after = NULL;
    g_autofree uint8_t *bytes = g_malloc(seen->disk->size_bytes);
    Qcow2CheckResult result;
    State now = {0};
    char *problem = NULL;
    QimgImage *image = crash_fixture_open(crashed, record, NULL, &problem);

    memset(bytes, OVERWRITE_VALUE, seen->disk->size_bytes);
    if (image && qimg_image_write(image, 0, bytes, seen->disk->size_bytes))
        problem = g_strdup("a later write fails");
    if (image && !problem && qimg_image_flush(image))
        problem = g_strdup("a later flush fails");
    qimg_image_close(image);
    if (problem)
        return problem;
    after = crash_fixture_after(crashed, record);
    if (!run->is_version_2) { /* whose wrong flags no program can recognize */
        problem = crash_fixture_check(after, false, &result);
        if (!problem && result.is_dirty)
            problem = g_strdup("is still dirty after use");
        if (problem)
            return problem;
    }
    image = crash_fixture_open(after, NULL, NULL, &problem);
    if (image && state_load(&now, image, &problem)) {
        problem = compare_snapshots(seen, &now);
        if (!problem && memcmp(now.disk->bytes, bytes, seen->disk->size_bytes) != 0)
            problem = g_strdup("the disk does not hold what was written");
    }
    state_clear(&now);
    qimg_image_close(image);
    return problem;
}

static void
check_crashed(Run *run, const char *what, size_t prefix, const CrashFixture *crashed,
              const State *before, const State *after)
{
    char *problem = NULL;
    QimgImage *image = crash_fixture_open(crashed, NULL, NULL, &problem);
    State seen = {0};

    if (image && state_load(&seen, image, &problem)) {
        g_autofree char *problem_before = compare(before, &seen);
        g_autofree char *problem_after = compare(after, &seen);

        if (problem_before && problem_after)
            problem = g_strdup_printf("neither as before (%s) nor as after (%s)",
                                      problem_before, problem_after);
    }
    qimg_image_close(image);
    if (!problem && !run->is_version_2)
        problem = crash_fixture_check(crashed, false, NULL);
    if (!problem)
        problem = overwrite(run, crashed, &seen);
    if (problem)
        give_up(run, what, prefix, crashed, problem);
    state_clear(&seen);
}

/* Both kinds of crash after some prefixes of the record. */
static void
check_change(Run *run, const State *before, const State *after)
{
    size_t length = crash_record_length(run->record);
    g_autoptr(CrashReplay) replay = crash_replay_new(
        run->record, 0, run->disk->files[0]->data, run->disk->files[0]->len);
    g_autofree bool *is_chosen = g_new0(bool, length + 1);

    for (unsigned i = 0; i < N_PREFIXES; i++)
        is_chosen[g_rand_int_range(run->rand, 0, (gint32)length + 1)] = true;
    is_chosen[length] = true;
    for (size_t prefix = 0; prefix <= length; prefix++) {
        g_autoptr(CrashFixture) process = NULL, machine = NULL;

        crash_replay_advance(replay, prefix);
        if (!is_chosen[prefix])
            continue;
        process = crash_fixture_new_like(run->disk);
        machine = crash_fixture_new_like(run->disk);
        process->files[0] = crash_replay_process(replay, 0);
        machine->files[0] = crash_replay_machine(replay, run->rand);
        check_crashed(run, "the process dies", prefix, process, before, after);
        check_crashed(run, "the machine dies", prefix, machine, before, after);
    }
}

/* ---- changes ---- */

/* Makes one at random; false if none is possible. */
static bool
change(Run *run, QimgImage *image, const State *state, GError **error)
{
    g_autoptr(QimgSnapshots) list = qimg_image_get_snapshots(image);
    unsigned n = qimg_snapshots_get_n(list);
    unsigned place = n > 0 ? (unsigned)g_rand_int_range(run->rand, 0, (gint32)n) : 0;
    const QimgSnapshot *s = qimg_snapshots_get(list, place);
    int choice = g_rand_int_range(run->rand, 0, 10);
    char name[16];

    g_assert_cmpuint(n, ==, state->n);
    g_snprintf(name, sizeof name, "name-%u", run->next_name++);
    if (n == 0 || (choice < 4 && n < MAX_SNAPSHOTS)) {
        g_snprintf(run->change, sizeof run->change, "create %s", name);
        return qimg_image_create_snapshot(image, name, NULL, NULL, error);
    }
    if (choice < 6) {
        g_snprintf(run->change, sizeof run->change, "delete %s", s->name);
        return qimg_image_delete_snapshot(image, s->serial, NULL, NULL, error);
    }
    if (choice < 7) {
        g_snprintf(run->change, sizeof run->change, "rename %s", s->name);
        return qimg_image_rename_snapshot(image, s->serial, name, error);
    }
    g_snprintf(run->change, sizeof run->change, "revert %s", s->name);
    return qimg_image_revert_to_snapshot(image, s->serial, NULL, NULL, error);
}

/* Writes something, durably, to a separate image: only the change is recorded. */
static void
write_something(Run *run)
{
    g_autoptr(CrashRecord) record = crash_record_new();
    char *problem = NULL;
    QimgImage *image = crash_fixture_open(run->disk, record, NULL, &problem);
    CrashFixture *after;

    g_assert_nonnull(image);
    for (unsigned i = 0; i < N_WRITES; i++) {
        CrashOp op = crash_op_choose(run->rand, qimg_image_get_size_bytes(image),
                                     qimg_image_get_cluster_bytes(image));

        op.result = crash_op_run(image, &op);
        g_assert_true(op.result == 0 || crash_op_is_refused(&op));
    }
    qimg_image_close(image);
    after = crash_fixture_after(run->disk, record);
    crash_fixture_free(run->disk);
    run->disk = after;
}

/* One change, and the states left when it is interrupted. */
static void
run_change(Run *run)
{
    g_autoptr(GError) error = NULL;
    State before = {0}, after = {0};
    char *problem = NULL;
    QimgImage *image;
    CrashFixture *next;

    run->record = crash_record_new();
    image = crash_fixture_open(run->disk, run->record, NULL, &problem);
    if (!image || !state_load(&before, image, &problem))
        g_error("%s: %s", run->kind->name, problem);
    if (!change(run, image, &before, &error) &&
        !g_error_matches(error, QIMG_ERROR, QIMG_ERROR_TOO_LARGE))
        g_error("%s, seed %u: %s: %s", run->kind->name, run->seed, run->change,
                error->message);
    if (!state_load(&after, image, &problem))
        give_up(run, "nobody dies", 0, run->disk, problem);
    qimg_image_close(image);
    check_change(run, &before, &after);
    next = crash_fixture_after(run->disk, run->record);
    if (++run->n_checks % QEMU_EVERY == 0) {
        problem = crash_fixture_qemu_check(next);
        if (problem)
            give_up(run, "all is done", 0, next, problem);
    }
    crash_fixture_free(run->disk);
    run->disk = next;
    crash_record_free(run->record);
    state_clear(&before);
    state_clear(&after);
}

static uint32_t first_seed;

static void
test_kind(const void *data)
{
    const CrashKind *kind = data;
    const char *rounds = g_getenv("CRASH_ROUNDS");
    unsigned n_rounds = rounds ? (unsigned)atoi(rounds) : 1;

    for (unsigned i = 0; i < n_rounds; i++) {
        Run run = {.kind = kind,
                   .seed = first_seed + i,
                   .rand = g_rand_new_with_seed(first_seed + i),
                   .disk = crash_fixture_make(kind)};

        run.is_version_2 = run.disk->files[0]->data[7] == 2;
        for (unsigned j = 0; j < N_CHANGES; j++) {
            write_something(&run);
            run_change(&run);
        }
        crash_fixture_free(run.disk);
        g_rand_free(run.rand);
    }
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    crash_need_qemu();
    first_seed = test_util_seed();
    for (unsigned i = 0; i < crash_n_kinds; i++) {
        const CrashKind *kind = &crash_kinds[i];
        g_autofree char *path = g_strdup_printf("/snapshots/%s", kind->name);

        if (kind->has_no_snapshots)
            continue;
        if (crash_is_chosen(i, 0, first_seed) || crash_is_chosen(i, 1, first_seed))
            g_test_add_data_func(path, kind, test_kind);
    }
    return g_test_run();
}
