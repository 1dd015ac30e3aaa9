/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Interrupted and failing changes of bitmaps: for each list of actions, the state left by
 * a dying process or machine after each of its steps, and by an error of each call. The
 * bitmaps are those before the actions or those after them, never some of both; the disk
 * is the same, the image sound except for leaks, and the same actions can be done again.
 *
 * QIMG_TEST_SEED repeats a run; ALL=1 takes all lists of actions, CRASH_KEEP=DIR keeps
 * the files of a failure. */
#include <stdlib.h>
#include <string.h>

#include "crash-fixture.h"
#include "memory-storage.h"
#include "test-util.h"

#define MAX_ACTIONS    3u
#define N_MACHINES     2u /* drawn for each prefix */
#define DEFAULT_ONE_IN 4u

typedef struct {
    const char *name;
    const char *kind;
    const char *bitmap;
    QimgBitmapAction actions[MAX_ACTIONS];
    bool is_left_in_use; /* the enabled bitmaps, before */
} Row;

#define DO(action)                                                                       \
    {                                                                                    \
        .struct_bytes = sizeof(QimgBitmapAction), .kind = QIMG_BITMAP_##action           \
    }
#define MERGE(from)                                                                      \
    {                                                                                    \
        .struct_bytes = sizeof(QimgBitmapAction), .kind = QIMG_BITMAP_MERGE,             \
        .source = from                                                                   \
    }

static const Row rows[] = {
    {"first", "small", "new", {DO(ADD)}},
    {"first-in-full-header", "tiny-16bit", "new", {DO(ADD)}},
    {"add", "bitmaps", "new", {DO(ADD)}},
    {"add-merged", "bitmaps-tiny", "new", {DO(ADD), DO(DISABLE), MERGE("e")}},
    {"remove", "bitmaps-tiny", "e", {DO(REMOVE)}},
    {"replace", "bitmaps", "e", {DO(REMOVE), DO(ADD)}},
    {"remove-all", "bitmaps-tiny", NULL, {DO(REMOVE_ALL)}},
    {"clear", "bitmaps-tiny", "e", {DO(CLEAR)}},
    {"disable", "bitmaps-snapshot", "e", {DO(DISABLE)}},
    {"merge", "bitmaps-tiny", "d", {DO(ENABLE), MERGE("e"), MERGE("e2")}},
    {"recover", "bitmaps-tiny", "e", {DO(RECOVER)}, true},
    {"remove-in-use", "bitmaps", "e", {DO(REMOVE)}, true},
};

typedef struct {
    const Row *row;
    GRand *rand;
    uint32_t seed;
    CrashFixture *disk; /* before */
    CrashModel *content;
    char *before, *after; /* the bitmaps, as text */
} Run;

static uint32_t first_seed;

static const CrashKind *
find_kind(const char *name)
{
    for (unsigned i = 0; i < crash_n_kinds; i++)
        if (g_str_equal(crash_kinds[i].name, name))
            return &crash_kinds[i];
    g_error("there is no kind %s", name);
}

/* ---- the content of the file ---- */

static void
append_bits(GString *out, QimgImage *image, QimgBitmaps *list, unsigned place)
{
    g_autoptr(QimgBitmapReader) reader = qimg_bitmap_reader_new(image, list, place);
    uint64_t at = 0;

    for (gsize n = out->len + 1; n != out->len;) {
        n = out->len;
        if (qimg_bitmap_reader_next_json(reader, 0, &at, out)) {
            g_string_append(out, "unreadable bits");
            return;
        }
    }
}

/* All bitmaps of @image; stale ones are none. */
static char *
describe(QimgImage *image)
{
    g_autoptr(QimgBitmaps) list = qimg_image_read_bitmaps(image, NULL);
    GString *out = g_string_new(NULL);

    if (!list || qimg_bitmaps_get_damage(list))
        g_string_append(out, "a damaged list");
    for (unsigned i = 0; list && i < qimg_bitmaps_get_n(list); i++)
        if (!qimg_bitmaps_get(list, i)->is_stale)
            append_bits(out, image, list, i);
    return g_string_free(out, FALSE);
}

static bool
run_actions(const Run *run, QimgImage *image, GError **error)
{
    const QimgBitmapAction *actions[MAX_ACTIONS];
    unsigned n = 0;

    while (n < MAX_ACTIONS && run->row->actions[n].struct_bytes > 0) {
        actions[n] = &run->row->actions[n];
        n++;
    }
    return qimg_image_change_bitmaps(image, run->row->bitmap, actions, n, NULL, NULL,
                                     error);
}

static void
give_up(const Run *run, const CrashFixture *left, const char *what, uint64_t place,
        const char *problem)
{
    const char *keep = g_getenv("CRASH_KEEP");

    if (keep)
        crash_fixture_save(left, keep);
    g_error("%s, seed %u: %s %" G_GUINT64_FORMAT ": %s", run->row->name, run->seed, what,
            place, problem);
}

/* Whether an image that was left can be changed again; NULL: it can. */
static char *
reuse_left(const CrashFixture *left)
{
    static const QimgBitmapAction add = DO(ADD);
    const QimgBitmapAction *actions[] = {&add};
    g_autoptr(CrashRecord) record = crash_record_new();
    g_autoptr(CrashFixture) after = NULL;
    g_autoptr(GError) error = NULL;
    char *problem = NULL;
    QimgImage *image = crash_fixture_open(left, record, NULL, &problem);

    if (!image)
        return problem;
    if (!qimg_image_change_bitmaps(image, "later", actions, 1, NULL, NULL, &error))
        problem = g_strdup_printf("a later change fails: %s", error->message);
    qimg_image_close(image);
    if (problem)
        return problem;
    after = crash_fixture_after(left, record);
    return crash_fixture_check(after, true, NULL);
}

/* Checks a file that was left: @must_be_after: the actions were reported as done. */
static void
check_left(const Run *run, const CrashFixture *left, bool must_be_after, const char *what,
           uint64_t place)
{
    g_autofree char *seen = NULL;
    g_autoptr(CrashModel) content = NULL;
    char *problem = NULL;
    QimgImage *image = crash_fixture_open(left, NULL, NULL, &problem);

    if (image)
        content = crash_model_new(image, &problem);
    if (content)
        problem = crash_model_compare(run->content, NULL, 0, content);
    if (image)
        seen = describe(image);
    qimg_image_close(image);
    if (!problem && !g_str_equal(seen, run->after) &&
        (must_be_after || !g_str_equal(seen, run->before)))
        problem = g_strdup_printf("the bitmaps are\n%s\nand were\n%s\nthen\n%s", seen,
                                  run->before, run->after);
    if (!problem)
        problem = crash_fixture_check(left, true, NULL);
    if (!problem)
        problem = reuse_left(left);
    if (problem)
        give_up(run, left, what, place, problem);
}

/* ---- deaths ---- */

static void
check_prefixes(const Run *run, CrashRecord *record)
{
    size_t length = crash_record_length(record);
    g_autoptr(CrashReplay) replay =
        crash_replay_new(record, 0, run->disk->files[0]->data, run->disk->files[0]->len);

    for (size_t prefix = 0; prefix <= length; prefix++) {
        const CrashEvent *next =
            prefix < length ? crash_record_get(record, prefix) : NULL;

        crash_replay_advance(replay, prefix);
        for (unsigned i = 0; i < 2 + N_MACHINES; i++) {
            g_autoptr(CrashFixture) left = crash_fixture_new_like(run->disk);
            bool is_process = i < 2;

            if (i == 1 && (!next || next->kind != CRASH_WRITE || next->n_bytes <= 512))
                continue;
            left->files[0] = is_process ? crash_replay_process(replay, i == 1 ? 512 : 0)
                                        : crash_replay_machine(replay, run->rand);
            check_left(run, left, false,
                       is_process ? "the process dies after event"
                                  : "the machine dies after event",
                       prefix);
        }
    }
}

/* ---- errors ---- */

static const struct {
    const char *name;
    MemoryCalls calls;
    int errnum;
    size_t n_bytes_before;
} faults[] = {
    {"EIO of call", MEMORY_ANY_CALL, EIO, 0},
    {"ENOSPC of change", MEMORY_CHANGES, ENOSPC, 0},
    {"a write of 512 bytes, EIO of change", MEMORY_WRITE, EIO, 512},
};

/* One failing call; false if there are not that many. */
static bool
check_fault(const Run *run, size_t fault, uint64_t n_until)
{
    QimgStorage *storages[CRASH_MAX_FILES];
    g_autoptr(CrashRecord) record = crash_record_new();
    g_autoptr(CrashFixture) left = NULL;
    g_autoptr(GError) error = NULL;
    char *problem = NULL;
    QimgImage *image = crash_fixture_open(run->disk, record, storages, &problem);
    uint64_t n_calls;
    bool is_good;

    if (!image)
        g_error("%s: %s", run->row->name, problem);
    memory_storage_add_fault(
        storages[0], &(MemoryFault){.calls = faults[fault].calls,
                                    .purpose = MEMORY_ANY_PURPOSE,
                                    .n_until = n_until,
                                    .n_fails = 1,
                                    .errnum = faults[fault].errnum,
                                    .n_bytes_before = faults[fault].n_bytes_before});
    n_calls = memory_storage_n_calls(storages[0], faults[fault].calls);
    is_good = run_actions(run, image, &error);
    n_calls = memory_storage_n_calls(storages[0], faults[fault].calls) - n_calls;
    memory_storage_clear_faults(storages[0]);
    g_assert_true(is_good || error);
    qimg_image_close(image);
    left = crash_fixture_after(run->disk, record);
    check_left(run, left, is_good, faults[fault].name, n_until);
    return n_calls > n_until;
}

/* ---- one list of actions ---- */

/* The file left by a process that dies after a write. */
static void
leave_in_use(Run *run)
{
    g_autoptr(CrashRecord) record = crash_record_new();
    char *problem = NULL;
    QimgImage *image = crash_fixture_open(run->disk, record, NULL, &problem);
    CrashFixture *left;

    g_assert_nonnull(image);
    g_assert_cmpint(qimg_image_write(image, 0, "x", 1), ==, 0);
    left = crash_fixture_after(run->disk, record);
    qimg_image_close(image);
    crash_fixture_free(run->disk);
    run->disk = left;
}

static void
test_row(const void *data)
{
    const Row *row = data;
    Run run = {
        .row = row, .seed = first_seed, .disk = crash_fixture_make(find_kind(row->kind))};
    g_autoptr(CrashRecord) record = crash_record_new();
    g_autoptr(GError) error = NULL;
    char *problem = NULL;
    QimgImage *image;

    run.rand = g_rand_new_with_seed(run.seed);
    if (row->is_left_in_use)
        leave_in_use(&run);
    image = crash_fixture_open(run.disk, record, NULL, &problem);
    if (!image)
        g_error("%s: %s", row->name, problem);
    run.content = crash_model_new(image, &problem);
    run.before = describe(image);
    run_actions(&run, image, &error);
    g_assert_no_error(error);
    run.after = describe(image);
    qimg_image_close(image);
    g_assert_cmpstr(run.before, !=, run.after);

    check_prefixes(&run, record);
    for (size_t i = 0; i < G_N_ELEMENTS(faults); i++)
        for (uint64_t n_until = 0; check_fault(&run, i, n_until);)
            n_until++;
    crash_fixture_free(run.disk);
    crash_model_free(run.content);
    g_rand_free(run.rand);
    g_free(run.before);
    g_free(run.after);
}

int
main(int argc, char **argv)
{
    const char *one_in = g_getenv("CRASH_ONE_IN");
    unsigned n = one_in ? (unsigned)MAX(atoi(one_in), 1) : DEFAULT_ONE_IN;

    test_util_init(&argc, &argv);
    crash_need_qemu();
    first_seed = test_util_seed();
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/bitmap-changes/%s", rows[i].name);

        if (g_strcmp0(g_getenv("ALL"), "1") == 0 || (i + first_seed) % n == 0)
            g_test_add_data_func(path, &rows[i], test_row);
    }
    return g_test_run();
}
