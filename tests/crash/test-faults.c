/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Repeats the same operations, each time with another storage call failing: operations
 * reported as done are done, failed ones left old or new bytes, operations continue after
 * lack of space but not after a failed sync, and the file is sound after the close. If
 * entries are written behind, operations reported as done may be lost with a later
 * failure, unless they were flushed, or only space is lacking.
 *
 * QIMG_TEST_SEED repeats a run; CRASH_TRIES=N makes N calls fail instead of 3,
 * CRASH_ROUNDS=N runs N seeds, CRASH_KIND=NAME one kind of image. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "behind/keeper.h"
#include "crash-fixture.h"
#include "memory-storage.h"
#include "test-util.h"

#define N_OPS   14u
#define ONE_IN  6  /* operations is a change of the snapshots */
#define N_TRIES 3u /* per fault and kind; fewer if entries are written behind */

typedef struct {
    const char *name;
    MemoryCalls calls;
    uint64_t n_fails;
    int errnum;
    size_t n_bytes_before; /* of the first affected write */
    unsigned n_again;      /* how often it recurs, after a few calls */
} Fault;

static const Fault faults[] = {
    {"EIO", MEMORY_CHANGES, 1, EIO, 0},
    {"EIO for ever", MEMORY_CHANGES | MEMORY_SYNC, UINT64_MAX, EIO, 0},
    {"ENOSPC", MEMORY_CHANGES, 1, ENOSPC, 0},
    {"ENOSPC for a while", MEMORY_CHANGES, 5, ENOSPC, 0},
    {"ENOSPC now and then", MEMORY_CHANGES, 1, ENOSPC, 0, 12},
    {"ENOSPC for a while, now and then", MEMORY_WRITE, 3, ENOSPC, 0, 5},
    {"short write, then ENOSPC", MEMORY_WRITE, 1, ENOSPC, 512},
    {"EDQUOT", MEMORY_CHANGES, 2, EDQUOT, 0},
    {"short write, then EIO", MEMORY_WRITE, 1, EIO, 512},
    {"short write", MEMORY_WRITE, 1, 0, 1},
    {"failing sync", MEMORY_SYNC, 1, EIO, 0},
    {"EIO of any call", MEMORY_ANY_CALL, 1, EIO, 0},
};

typedef struct {
    const CrashKind *kind;
    const Fault *fault;
    uint64_t n_until;
    uint32_t seed;
    const CrashFixture *disk;
    QimgStorage *storages[CRASH_MAX_FILES];
    unsigned file_index; /* of the failing file */
    CrashRecord *record;
    QimgImage *image;
    CrashModel *model;
    CrashModel *durable; /* after the last flush */
    CrashSnapshots *known;
    CrashOp ops[2 * N_OPS];
    unsigned n_ops;
    CrashOp failed[2 * N_OPS]; /* those with possible traces in the file */
    unsigned n_failed;
    CrashOp later[4 * N_OPS]; /* the same, and those since the last flush */
    unsigned n_later;
    bool has_sync_failed;
    char *problem;
} Try;

static uint64_t
calls_of(const Try *try)
{
    return memory_storage_n_calls(try->storages[try->file_index], try->fault->calls);
}

static void
set_fault(Try *try)
{
    QimgStorage *storage = try->storages[try->file_index];
    MemoryFault rule = {.calls = try->fault->calls,
                        .purpose = MEMORY_ANY_PURPOSE,
                        .n_until = try->n_until,
                        .n_fails = try->fault->n_fails,
                        .errnum = try->fault->errnum,
                        .n_bytes_before = try->fault->n_bytes_before};

    memory_storage_add_fault(storage, &rule);
    if (try->fault->n_again > 0) {
        g_autoptr(GRand) rand = g_rand_new_with_seed(try->seed ^ (uint32_t)try->n_until);

        for (unsigned i = 0; i < try->fault->n_again; i++) {
            rule.n_until += rule.n_fails + (uint64_t)g_rand_int_range(rand, 1, 10);
            memory_storage_add_fault(storage, &rule);
        }
        return;
    }
    if (rule.n_bytes_before == 0 || rule.errnum == 0)
        return;
    rule.n_bytes_before = 0; /* the rest of that write fails */
    rule.n_until++;
    memory_storage_add_fault(storage, &rule);
}

/* Stores the image's content after a failed operation: old or new bytes. */
static void
take_over(Try *try, const CrashOp *op)
{
    char *problem = NULL;
    g_autoptr(CrashModel) seen = crash_model_new(try->image, &problem);

    if (seen)
        problem = crash_model_compare(try->model, op, 1, seen);
    if (problem) {
        try->problem =
            g_strdup_printf("after a failed %s: %s", crash_op_names[op->kind], problem);
        g_free(problem);
        return;
    }
    crash_model_free(try->model);
    try->model = g_steal_pointer(&seen);
}

/* Runs one operation, which may fail if @may_fail. */
static void
step(Try *try, GRand *rand, bool may_fail)
{
    CrashOp *op = &try->ops[try->n_ops++];

    if (g_rand_int_range(rand, 0, ONE_IN) == 0) {
        *op = crash_op_choose_snapshot(rand, try->image, try->known);
        op->result = crash_op_run_snapshot(try->image, op, try->model, try->known);
    } else {
        *op = crash_op_choose(rand, qimg_image_get_size_bytes(try->image), 4096);
        op->result = crash_op_run(try->image, op);
    }
    if (op->kind == CRASH_OP_FLUSH && try->has_sync_failed && op->result == 0)
        try->problem = g_strdup("a flush succeeds after a sync that failed");
    try->has_sync_failed = atomic_load(&try->image->chain->layers[0]->file->sync_error);
    if (crash_op_is_refused(op))
        return;
    try->later[try->n_later++] = *op;
    if (op->result && !may_fail)
        try->problem = g_strdup_printf("a %s fails without a fault: %s",
                                       crash_op_names[op->kind], g_strerror(-op->result));
    if (op->result) {
        try->failed[try->n_failed++] = *op;
        take_over(try, op);
    } else
        crash_model_apply(try->model, op);
    if (op->kind == CRASH_OP_FLUSH && op->result == 0) {
        crash_model_free(try->durable);
        try->durable = crash_model_copy(try->model);
        memcpy(try->later, try->failed, sizeof try->failed);
        try->n_later = try->n_failed;
    }
}

static bool
is_lack_of_space(const Fault *fault)
{
    return fault->errnum == ENOSPC || fault->errnum == EDQUOT;
}

/* Checks the file after the close. A write reported as failed, or as not durable, may be
 * there all the same. */
static void
check_closed(Try *try)
{
    g_autoptr(CrashFixture) after = crash_fixture_after(try->disk, try->record);
    g_autoptr(CrashModel) seen = NULL;
    bool may_be_lost = try->disk->keeper && !is_lack_of_space(try->fault);
    const CrashModel *base = may_be_lost ? try->durable : try->model;
    const CrashOp *ops = may_be_lost ? try->later : try->failed;
    unsigned n_ops = may_be_lost ? try->n_later : try->n_failed;
    QimgImage *image = NULL;
    Qcow2CheckResult result;

    try->problem = crash_fixture_check(after, true, &result);
    if (!try->problem)
        image = crash_fixture_open(after, NULL, NULL, &try->problem);
    if (image)
        seen = crash_model_new(image, &try->problem);
    if (seen)
        try->problem = crash_model_compare(
            base, ops, is_lack_of_space(try->fault) ? 0 : n_ops, seen);
    /* There, failed operations may also be visible after lack of space. */
    if (seen && !try->problem)
        try->problem = crash_model_compare_data_file(base, ops, n_ops, seen, after);
    if (seen && !try->problem)
        try->problem = crash_snapshots_compare(image, try->known);
    qimg_image_close(image);
    if (try->problem && g_getenv("CRASH_KEEP"))
        crash_fixture_save(after, g_getenv("CRASH_KEEP"));
}

static void
give_up(const Try *try)
{
    for (unsigned i = 0; i < try->n_ops; i++)
        g_printerr("# op %u: %s %" G_GUINT64_FORMAT " + %" G_GUINT64_FORMAT " = %d\n", i,
                   crash_op_names[try->ops[i].kind], try->ops[i].offset,
                   try->ops[i].n_bytes, try->ops[i].result);
    for (size_t i = 0; i < crash_record_length(try->record); i++) {
        static const char *const names[] = {"write", "punch", "set-size", "sync"};
        const CrashEvent *e = crash_record_get(try->record, i);

        g_printerr("# event %zu: file %u %s %s %" G_GUINT64_FORMAT " + %" G_GUINT64_FORMAT
                   "\n",
                   i, e->file_index, names[e->kind], qimg_io_purpose_names[e->purpose],
                   e->file_offset, e->n_bytes);
    }
    g_error("%s, seed %u, %s at call %" G_GUINT64_FORMAT " of file %u: %s",
            try->kind->name, try->seed, try->fault->name, try->n_until, try->file_index,
            try->problem);
}

/* Returns the number of calls that the fault could have hit. */
static uint64_t
run_try(Try *try)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(try->seed);
    uint64_t n_calls;

    try->record = crash_record_new();
    try->image = crash_fixture_open(try->disk, try->record, try->storages, &try->problem);
    if (!try->image)
        give_up(try);
    try->model = crash_model_new(try->image, &try->problem);
    try->durable = crash_model_copy(try->model);
    try->known = crash_snapshots_new(try->image);
    set_fault(try);
    n_calls = calls_of(try);
    for (unsigned i = 0; i < N_OPS && !try->problem; i++)
        step(try, rand, true);
    n_calls = calls_of(try) - n_calls;
    memory_storage_clear_faults(try->storages[try->file_index]);
    /* Without the fault: everything works again after lack of space; otherwise nothing
     * needs to. */
    for (unsigned i = 0; i < N_OPS / 2 && !try->problem; i++)
        step(try, rand, !is_lack_of_space(try->fault) && try->fault->errnum != 0);
    qimg_image_close(try->image);
    if (!try->problem)
        check_closed(try);
    if (try->problem)
        give_up(try);
    crash_model_free(try->model);
    crash_model_free(try->durable);
    crash_snapshots_free(try->known);
    crash_record_free(try->record);
    return n_calls;
}

static uint32_t first_seed;

static void
run_fault(const CrashKind *kind, const CrashFixture *disk, const Fault *fault,
          uint32_t seed, uint64_t n_tries)
{
    for (unsigned f = 0; f < disk->n_files; f++) {
        Try try = {.kind = kind, .fault = fault, .seed = seed, .disk = disk};
        uint64_t n_calls, stride, n = 0;

        try.file_index = f;
        try.n_until = UINT64_MAX; /* hits none: counts the calls */
        n_calls = run_try(&try);
        stride = MAX(n_calls / n_tries, 1);
        for (n = seed % stride; n < n_calls; n += stride) {
            try = (Try){.kind = kind, .fault = fault, .seed = seed, .disk = disk};
            try.file_index = f;
            try.n_until = n;
            run_try(&try);
        }
    }
}

static void
test_kind_with(const CrashKind *kind, QimgKeeper *keeper)
{
    const char *rounds = g_getenv("CRASH_ROUNDS"), *tries = g_getenv("CRASH_TRIES");
    uint64_t n_tries = tries    ? MAX(g_ascii_strtoull(tries, NULL, 10), 1)
                       : keeper ? N_TRIES - 1
                                : N_TRIES;
    unsigned n_rounds = rounds ? (unsigned)atoi(rounds) : 1;
    g_autoptr(CrashFixture) disk = crash_fixture_make(kind);

    disk->keeper = keeper;
    for (unsigned i = 0; i < n_rounds; i++)
        for (size_t f = 0; f < G_N_ELEMENTS(faults); f++)
            run_fault(kind, disk, &faults[f], first_seed + i, n_tries);
}

static void
test_kind(const void *data)
{
    test_kind_with(data, NULL);
}

static void
test_kind_behind(const void *data)
{
    g_autoptr(QimgKeeper) keeper = qimg_keeper_new();

    keeper_pretend(keeper, true);
    test_kind_with(data, keeper);
}

/* Runs that once found a fault. */
static const struct {
    const char *kind;
    uint32_t seed;
    uint64_t n_tries; /* determines the failing calls, too */
} known[] = {
    /* References across a border of refcount blocks, with five changes lacking room: the
     * first block's were lowered twice. */
    {"tiny-64bit", 3454523732, 6},
};

static void
test_known(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        const CrashKind *kind = crash_kinds;
        g_autoptr(CrashFixture) disk = NULL;

        while (!g_str_equal(kind->name, known[i].kind))
            kind++;
        disk = crash_fixture_make(kind);
        for (size_t f = 0; f < G_N_ELEMENTS(faults); f++)
            run_fault(kind, disk, &faults[f], known[i].seed, known[i].n_tries);
    }
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    crash_need_qemu();
    g_log_set_handler("qimg-format", G_LOG_LEVEL_MASK, g_log_default_handler, NULL);
    first_seed = test_util_seed();
    for (unsigned i = 0; i < crash_n_kinds; i++) {
        g_autofree char *path = g_strdup_printf("/faults/%s", crash_kinds[i].name);
        g_autofree char *behind = g_strdup_printf("/behind/%s", crash_kinds[i].name);

        if (crash_is_chosen(i, 0, first_seed))
            g_test_add_data_func(path, &crash_kinds[i], test_kind);
        if (crash_is_chosen(i, 1, first_seed))
            g_test_add_data_func(behind, &crash_kinds[i], test_kind_behind);
    }
    if (!g_getenv("CRASH_KIND"))
        g_test_add_func("/faults/known", test_known);
    return g_test_run();
}
