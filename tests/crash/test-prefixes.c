/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Random operations on each kind of image, recorded; then for many prefixes of the record
 * the files left by a dying process, or a dying machine: sound except for leaks, usable,
 * and each byte permitted by the promises of qimg.h. Once with entries written before a
 * write returns, and once with entries written behind by a keeper that outlives the
 * process.
 *
 * QIMG_TEST_SEED repeats a run; CRASH_ROUNDS=N does N times as many, CRASH_KIND=NAME only
 * one kind, CRASH_KEEP=DIR keeps the files of a failure. */
#include <stdlib.h>
#include <string.h>

#include "behind/keeper.h"
#include "behind/log.h"
#include "crash-fixture.h"
#include "format/qcow2/bitmap/store.h"
#include "test-util.h"

#define N_OPS       40u
#define N_PREFIXES  50u
#define REUSE_EVERY 5u
#define QEMU_EVERY  17u
#define N_REUSE_OPS 6u
#define N_SNAPSHOTS 6u /* changes of them among N_OPS operations */

typedef struct {
    const CrashKind *kind;
    QimgKeeper *keeper; /* NULL: none */
    GRand *rand;
    uint32_t seed;
    CrashFixture *disk; /* before */
    CrashRecord *record;
    CrashOp ops[N_OPS + 1];
    size_t n_ops;
    CrashReplay *replays[CRASH_MAX_FILES];
    CrashModel *durable; /* after the last flush */
    size_t n_durable;    /* operations up to it */
    CrashModel *acked;   /* after all completed operations */
    size_t n_acked;
    CrashModel *first; /* before all operations */
    GHashTable *names; /* of the snapshots before */
    CrashSnapshots *known;
    unsigned n_checks;
} Run;

/* Ends the test with everything needed to repeat it. */
static void
give_up(Run *run, const char *what, size_t prefix, const CrashFixture *crashed,
        const char *problem)
{
    const char *keep = g_getenv("CRASH_KEEP");

    for (size_t i = 0; i < run->n_ops; i++)
        g_printerr("# op %zu: %s %" G_GUINT64_FORMAT " + %" G_GUINT64_FORMAT
                   " = %d, events %zu to %zu\n",
                   i, crash_op_names[run->ops[i].kind], run->ops[i].offset,
                   run->ops[i].n_bytes, run->ops[i].result, run->ops[i].start_event,
                   run->ops[i].end_event);
    for (size_t i = prefix > 30 ? prefix - 30 : 0; i < prefix; i++) {
        static const char *const names[] = {"write", "punch", "set-size", "sync"};
        const CrashEvent *e = crash_record_get(run->record, i);

        g_printerr("# event %zu: file %u %s %s %" G_GUINT64_FORMAT " + %" G_GUINT64_FORMAT
                   "\n",
                   i, e->file_index, names[e->kind], qimg_io_purpose_names[e->purpose],
                   e->file_offset, e->n_bytes);
    }
    if (keep)
        crash_fixture_save(crashed, keep);
    g_error("%s, seed %u: %s after %zu events (%zu operations done, %zu durable): %s",
            run->kind->name, run->seed, what, prefix, run->n_acked, run->n_durable,
            problem);
}

static CrashOp
choose(Run *run, QimgImage *image)
{
    if (g_rand_int_range(run->rand, 0, N_OPS) < (gint32)N_SNAPSHOTS)
        return crash_op_choose_snapshot(run->rand, image, run->known);
    return crash_op_choose(run->rand, qimg_image_get_size_bytes(image),
                           qimg_image_get_cluster_bytes(image));
}

static int
run_op(Run *run, QimgImage *image, const CrashOp *op)
{
    return op->kind >= CRASH_OP_TAKE ? crash_op_run_snapshot(image, op, NULL, run->known)
                                     : crash_op_run(image, op);
}

/* Opens the crashed disk for writing, uses it, and checks again. */
static char *
reuse(Run *run, const CrashFixture *crashed, const CrashModel *seen)
{
    g_autoptr(CrashRecord) record = crash_record_new();
    g_autoptr(CrashModel) model = crash_model_copy(seen);
    g_autoptr(CrashModel) now = NULL;
    g_autoptr(CrashFixture) after = NULL;
    Qcow2CheckResult result;
    char *problem = NULL;
    QimgImage *image = crash_fixture_open(crashed, record, NULL, &problem);

    for (unsigned i = 0; image && !problem && i < N_REUSE_OPS; i++) {
        CrashOp op = choose(run, image);

        op.result = run_op(run, image, &op);
        if (op.result && !crash_op_is_refused(&op))
            problem = g_strdup_printf("a later %s fails: %s", crash_op_names[op.kind],
                                      g_strerror(-op.result));
        else if (!op.result)
            crash_model_apply(model, &op);
    }
    if (!problem && qimg_image_flush(image))
        problem = g_strdup("a later flush fails");
    qimg_image_close(image);
    if (problem)
        return problem;
    after = crash_fixture_after(crashed, record);
    problem = crash_fixture_check(after, true, &result);
    if (problem)
        return problem;
    if (result.is_dirty && crash_record_length(record) > 0)
        return g_strdup("is still dirty after use");
    image = crash_fixture_open(after, NULL, NULL, &problem);
    if (image)
        now = crash_model_new(image, &problem);
    if (now)
        problem = crash_model_compare(model, NULL, 0, now);
    if (now && !problem)
        problem = crash_snapshots_compare(image, run->known);
    qimg_image_close(image);
    return problem;
}

/* The smallest size that the first @n_ops operations may have set. */
static uint64_t
smallest_size(const Run *run, size_t n_ops)
{
    uint64_t size_bytes = run->first->size_bytes;

    for (size_t i = 0; i < n_ops; i++) {
        const CrashOp *op = &run->ops[i];

        if (op->kind == CRASH_OP_RESIZE)
            size_bytes = MIN(size_bytes, op->offset);
        else if (op->kind == CRASH_OP_REVERT)
            size_bytes = MIN(size_bytes, op->content->size_bytes);
    }
    return size_bytes;
}

/* Whether the bits of the bitmap at @place cover all bytes of @seen that differ from
 * those before all operations; behind @cut_bytes, where the disk was cut off and grew
 * again, all bytes that are not zero. */
static char *
check_covers(const Run *run, QimgImage *image, QimgBitmaps *list, unsigned place,
             const CrashModel *seen, uint64_t cut_bytes)
{
    g_autoptr(QimgBitmapReader) reader = qimg_bitmap_reader_new(image, list, place);
    QimgBitmapExtent extent = {.struct_bytes = sizeof extent};

    for (uint64_t at = 0; at < seen->size_bytes; at += extent.length_bytes) {
        int err = qimg_bitmap_reader_map(reader, at, &extent);

        if (err)
            return g_strdup_printf("the bits of a bitmap cannot be read: %s",
                                   g_strerror(-err));
        for (uint64_t i = at; !extent.is_dirty && i < at + extent.length_bytes; i++)
            if (seen->bytes[i] != run->first->bytes[i] &&
                (i < cut_bytes || seen->bytes[i] != 0))
                return g_strdup_printf("byte %" G_GUINT64_FORMAT
                                       " has changed and is clean in bitmap %s",
                                       i, qimg_bitmaps_get(list, place)->name);
    }
    return NULL;
}

/* NULL if each enabled bitmap of @image is in use or covers each change, and each
 * disabled one is sound, except while the disk changes its size. */
static char *
check_bitmaps(const Run *run, QimgImage *image, const CrashModel *seen, size_t n_durable,
              size_t n_begun)
{
    g_autoptr(QimgBitmaps) list = NULL;
    uint64_t cut_bytes = smallest_size(run, n_begun);
    bool resizes = false;
    char *problem = NULL;

    if (!run->kind->has_bitmaps)
        return NULL;
    for (size_t i = n_durable; i < n_begun; i++)
        resizes |= run->ops[i].kind == CRASH_OP_RESIZE ||
                   run->ops[i].kind == CRASH_OP_REVERT ||
                   (run->ops[i].kind == CRASH_OP_WRITE &&
                    run->ops[i].offset + run->ops[i].n_bytes > cut_bytes);
    list = qimg_image_read_bitmaps(image, NULL);
    if (!list || qimg_bitmaps_get_n(list) < 2 || qimg_bitmaps_get_damage(list))
        return g_strdup("the list of bitmaps is damaged");
    for (unsigned i = 0; !problem && i < qimg_bitmaps_get_n(list); i++) {
        const QimgBitmap *b = qimg_bitmaps_get(list, i);

        if (b->damage || b->is_stale)
            problem =
                g_strdup_printf("bitmap %s: %s", b->name, qimg_bitmap_get_reason(b));
        else if (b->is_in_use && b->name[0] == 'd' && !resizes)
            problem = g_strdup("the disabled bitmap is in use");
        else if (!b->is_in_use && b->name[0] == 'e')
            problem = check_covers(run, image, list, i, seen, cut_bytes);
    }
    return problem;
}

/* Checks one crashed disk against @base and the operations that may also be visible. */
static void
check_crashed(Run *run, const char *what, size_t prefix, const CrashFixture *crashed,
              const CrashModel *base, const CrashOp *ops, size_t n_ops)
{
    Qcow2CheckResult result = {0};
    char *problem = crash_fixture_check(crashed, false, &result);
    g_autoptr(CrashModel) seen = NULL;
    QimgImage *image = NULL;

    if (!problem)
        image = crash_fixture_open(crashed, NULL, NULL, &problem);
    if (image)
        seen = crash_model_new(image, &problem);
    if (seen)
        problem = crash_model_compare(base, ops, n_ops, seen);
    if (seen && !problem)
        problem = crash_model_compare_data_file(base, ops, n_ops, seen, crashed);
    if (seen && !problem) /* they are durable when done */
        problem = crash_snapshots_compare_names(
            image, run->names, run->ops, run->n_acked,
            MAX((size_t)(ops - run->ops) + n_ops, run->n_acked));
    if (seen && !problem)
        problem = crash_snapshots_compare(image, run->known);
    if (seen && !problem)
        problem = check_bitmaps(run, image, seen, (size_t)(ops - run->ops),
                                MAX((size_t)(ops - run->ops) + n_ops, run->n_acked));
    qimg_image_close(image);
    run->n_checks++;
    if (!problem && run->n_checks % REUSE_EVERY == 0)
        problem = reuse(run, crashed, seen);
    if (!problem && !result.is_dirty && result.n_flags == 0 &&
        run->n_checks % QEMU_EVERY == 0)
        problem = crash_fixture_qemu_check(crashed);
    if (problem)
        give_up(run, what, prefix, crashed, problem);
}

/* The entries pending to be written behind: records. */
static GByteArray *
look_at_log(void *user)
{
    QimgImage *image = user;
    const BehindLog *log = behind_get_log(image->chain->layers[0]->behind);
    GByteArray *waiting = g_byte_array_new();
    uint64_t to = log ? atomic_load(&log->n_appended) : 0;

    for (uint64_t n = log ? atomic_load(&log->n_published) : 0; n < to; n++)
        g_byte_array_append(waiting, (const guint8 *)&log->records[n % log->n_records],
                            sizeof(BehindRecord));
    return waiting;
}

/* Acts as the keeper when the process dies before event number @prefix. */
static void
keep(const Run *run, size_t prefix, GByteArray *file)
{
    const GByteArray *waiting;

    if (!run->keeper || prefix == crash_record_length(run->record))
        return;
    waiting = crash_record_get(run->record, prefix)->seen;
    for (guint at = 0; waiting && at < waiting->len; at += sizeof(BehindRecord)) {
        BehindRecord r;

        memcpy(&r, waiting->data + at, sizeof r);
        g_assert_cmpuint(r.host_offset + r.n_words * 8, <=, file->len);
        memcpy(file->data + r.host_offset, r.words, r.n_words * 8);
    }
}

/* Whole sectors of the next write, or none. */
static uint64_t
choose_cut(Run *run, size_t prefix)
{
    const CrashEvent *next;
    uint64_t cut;

    if (prefix == crash_record_length(run->record) || g_rand_boolean(run->rand))
        return 0;
    next = crash_record_get(run->record, prefix);
    cut = (uint64_t)(g_rand_double(run->rand) * (double)next->n_bytes);
    cut -= MIN(cut, (next->file_offset + cut) % 512);
    return cut;
}

/* Both kinds of crash after @prefix events, with run->n_acked operations done and perhaps
 * the next one in flight. */
static void
check_prefix(Run *run, size_t prefix)
{
    g_autoptr(CrashFixture) process = crash_fixture_new_like(run->disk);
    g_autoptr(CrashFixture) machine = crash_fixture_new_like(run->disk);
    size_t n_begun = MIN(run->n_acked + 1, run->n_ops);
    uint64_t cut = choose_cut(run, prefix);

    if (n_begun == run->n_acked + 1 && run->ops[run->n_acked].start_event >= prefix &&
        cut == 0 && !run->keeper)
        n_begun--; /* nothing of it is visible, not even in a log */
    for (unsigned i = 0; i < run->disk->n_files; i++) {
        crash_replay_advance(run->replays[i], prefix);
        process->files[i] = crash_replay_process(run->replays[i], cut);
        if (i == 0)
            keep(run, prefix, process->files[i]);
        machine->files[i] = crash_replay_machine(run->replays[i], run->rand);
    }
    check_crashed(run, "the process dies", prefix, process, run->acked,
                  run->ops + run->n_acked, n_begun - run->n_acked);
    check_crashed(run, "the machine dies", prefix, machine, run->durable,
                  run->ops + run->n_durable, n_begun - run->n_durable);
}

/* Stores the bitmaps, as the idle thread does. */
static void
store_bitmaps(QimgImage *image)
{
    qimg_gate_close(image->chain->gate);
    qcow2_store_bitmaps(((Qcow2 *)image->chain->layers[0])->tracker);
    qimg_gate_open(image->chain->gate);
}

/* Runs the operations; the last event is that of the close. */
static void
record_run(Run *run)
{
    char *problem = NULL;
    QimgImage *image;

    run->disk->keeper = run->keeper;
    image = crash_fixture_open(run->disk, run->record, NULL, &problem);
    if (!image)
        g_error("%s: %s", run->kind->name, problem);
    if (run->keeper)
        crash_record_set_look(run->record, look_at_log, image);
    run->known = crash_snapshots_new(image);
    run->acked = crash_model_new(image, &problem);
    g_assert_nonnull(run->acked);
    run->durable = crash_model_copy(run->acked);
    run->first = crash_model_copy(run->acked);
    for (unsigned i = 0; i < N_OPS; i++) {
        CrashOp op = choose(run, image);

        op.start_event = crash_record_length(run->record);
        op.result = run_op(run, image, &op);
        if (op.kind == CRASH_OP_FLUSH && run->kind->has_bitmaps)
            store_bitmaps(image);
        op.end_event = crash_record_length(run->record);
        run->ops[run->n_ops++] = op;
        if (crash_op_is_refused(&op))
            run->n_ops--;
        else if (op.result)
            give_up(run, "an operation fails", op.end_event, run->disk,
                    g_strerror(-op.result));
    }
    if (run->keeper) /* nothing is pending when it is closed, so the log must not be read
                        then */
        g_assert_cmpint(qimg_image_flush(image), ==, 0);
    crash_record_set_look(run->record, NULL, NULL);
    qimg_image_close(image);
}

/* Goes along the record, with the models. */
static void
check_run(Run *run, unsigned n_prefixes)
{
    size_t length = crash_record_length(run->record);
    g_autofree bool *is_chosen = g_new0(bool, length + 1);
    size_t prefix = 0;

    for (unsigned i = 0; i < n_prefixes; i++)
        is_chosen[g_rand_int_range(run->rand, 0, (gint32)length + 1)] = true;
    is_chosen[length] = true;
    for (;; prefix++) {
        while (run->n_acked < run->n_ops && run->ops[run->n_acked].end_event <= prefix) {
            crash_model_apply(run->acked, &run->ops[run->n_acked]);
            if (run->ops[run->n_acked++].kind != CRASH_OP_FLUSH)
                continue;
            crash_model_free(run->durable);
            run->durable = crash_model_copy(run->acked);
            run->n_durable = run->n_acked;
        }
        if (is_chosen[prefix])
            check_prefix(run, prefix);
        if (prefix == length)
            break;
    }
}

static void
run_kind(const CrashKind *kind, QimgKeeper *keeper, uint32_t seed, unsigned n_prefixes)
{
    Run run = {
        .kind = kind, .keeper = keeper, .seed = seed, .rand = g_rand_new_with_seed(seed)};

    run.disk = crash_fixture_make(kind);
    run.record = crash_record_new();
    run.names = crash_snapshots_names(run.disk);
    for (unsigned i = 0; i < run.disk->n_files; i++)
        run.replays[i] = crash_replay_new(run.record, i, run.disk->files[i]->data,
                                          run.disk->files[i]->len);
    record_run(&run);
    check_run(&run, n_prefixes);
    for (unsigned i = 0; i < run.disk->n_files; i++)
        crash_replay_free(run.replays[i]);
    crash_model_free(run.first);
    crash_model_free(run.durable);
    crash_model_free(run.acked);
    crash_snapshots_free(run.known);
    g_hash_table_unref(run.names);
    crash_record_free(run.record);
    crash_fixture_free(run.disk);
    g_rand_free(run.rand);
}

static uint32_t first_seed;

static void
test_kind(const void *data)
{
    const char *rounds = g_getenv("CRASH_ROUNDS");
    unsigned n_rounds = rounds ? (unsigned)atoi(rounds) : 1;

    for (unsigned i = 0; i < n_rounds; i++)
        run_kind(data, NULL, first_seed + i, N_PREFIXES);
}

static void
test_kind_behind(const void *data)
{
    const char *rounds = g_getenv("CRASH_ROUNDS");
    unsigned n_rounds = rounds ? (unsigned)atoi(rounds) : 1;
    g_autoptr(QimgKeeper) keeper = qimg_keeper_new();

    keeper_pretend(keeper, true);
    for (unsigned i = 0; i < n_rounds; i++)
        run_kind(data, keeper, first_seed + i, N_PREFIXES);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    crash_need_qemu();
    first_seed = test_util_seed();
    for (unsigned i = 0; i < crash_n_kinds; i++) {
        g_autofree char *path = g_strdup_printf("/crash/%s", crash_kinds[i].name);
        g_autofree char *behind = g_strdup_printf("/behind/%s", crash_kinds[i].name);

        if (crash_is_chosen(i, 0, first_seed))
            g_test_add_data_func(path, &crash_kinds[i], test_kind);
        if (crash_is_chosen(i, 1, first_seed))
            g_test_add_data_func(behind, &crash_kinds[i], test_kind_behind);
    }
    return g_test_run();
}
