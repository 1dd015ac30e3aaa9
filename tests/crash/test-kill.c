/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Processes that write to an image file and are killed at a random moment: every
 * operation reported as done is there, the one in flight in any part, and qemu-img check
 * finds at most leaks. Also with entries written behind by a keeper that outlives the
 * process; with the keeper dying alone; and with both dying, the keeper first, which is
 * like the end of a machine: flushed data are there, and the image is sound.
 *
 * QIMG_TEST_SEED repeats the operations (not the moments); CRASH_ROUNDS=N does N times as
 * many, CRASH_KIND=NAME one kind only. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "behind/keeper.h"
#include "crash-fixture.h"
#include "test-util.h"

#define MAX_OPS 400u

typedef enum {
    MODE_ALONE,       /* no keeper */
    MODE_KEPT,        /* the process dies */
    MODE_KEEPER_DIES, /* and the process continues to the end */
    MODE_BOTH_DIE,
    N_MODES,
} Mode;

static const char *const mode_names[N_MODES] = {"alone", "kept", "keeper-dies",
                                                "both-die"};
/* Successive processes, each on the result of the previous one. */
static const unsigned n_kills[N_MODES] = {2, 3, 1, 2};

/* The seed and the disk's size determine the operations, so that both processes know
 * them. */
static CrashOp
choose(GRand *rand, uint64_t size_bytes)
{
    return crash_op_choose(rand, size_bytes, 4096);
}

static QimgImage *
open_file(const char *path, const char *format, QimgKeeper *keeper, bool is_writable)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    g_autoptr(GError) error = NULL;
    QimgImage *image;

    qimg_options_set(options, "threads", "1", NULL);
    qimg_options_set(options, "format", format, NULL);
    qimg_options_set_keeper(options, keeper);
    qimg_options_add_passphrase(options, CRASH_PASSPHRASE, strlen(CRASH_PASSPHRASE), 0,
                                NULL); /* of encrypted images */
    if (is_writable)
        qimg_options_set(options, "rw", NULL, NULL);
    image = qimg_image_open(path, options, &error);
    if (!image)
        g_error("%s", error->message);
    return image;
}

/* The process to be killed: sends its keeper's number, and the result of each operation
 * through @fd, whose end is the end of both. */
G_GNUC_NORETURN static void
write_until_killed(const char *path, const char *format, Mode mode, uint32_t seed, int fd)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    QimgKeeper *keeper = mode == MODE_ALONE ? NULL : qimg_keeper_new();
    QimgImage *image = open_file(path, format, keeper, true);
    int keeper_pid;

    if (keeper && !qimg_keeper_start(keeper, NULL))
        _exit(1);
    keeper_pid = keeper ? (int)keeper_get_pid(keeper) : 0;
    if (write(fd, &keeper_pid, sizeof keeper_pid) != sizeof keeper_pid)
        _exit(1);
    for (unsigned i = 0; i < MAX_OPS; i++) {
        CrashOp op = choose(rand, qimg_image_get_size_bytes(image));
        int result = crash_op_run(image, &op);

        if (write(fd, &result, sizeof result) != sizeof result)
            _exit(1);
    }
    qimg_image_close(image);
    qimg_keeper_free(keeper);
    _exit(0);
}

/* Reads the process's reports, kills according to @mode after @n_until operations and
 * @n_spins turns of a loop, and reads the rest. Returns the number of completed
 * operations. */
static size_t
kill_after(pid_t pid, int fd, Mode mode, unsigned n_until, unsigned n_spins, int *results)
{
    int keeper_pid = 0;
    size_t n = 0;

    g_assert_cmpint(read(fd, &keeper_pid, sizeof keeper_pid), ==, sizeof keeper_pid);
    while (n < n_until && read(fd, &results[n], sizeof *results) == sizeof *results)
        n++;
    for (volatile unsigned i = 0; i < n_spins; i++)
        continue;
    if (mode == MODE_KEEPER_DIES || mode == MODE_BOTH_DIE)
        kill(keeper_pid, SIGKILL);
    if (mode != MODE_KEEPER_DIES)
        kill(pid, SIGKILL);
    while (n < MAX_OPS && read(fd, &results[n], sizeof *results) == sizeof *results)
        n++;
    close(fd);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    return n;
}

static size_t
run_and_kill(const char *path, const char *format, Mode mode, uint32_t seed,
             GRand *moments, int *results)
{
    int fds[2];
    pid_t pid;

    g_assert_cmpint(pipe(fds), ==, 0);
    pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        close(fds[0]);
        write_until_killed(path, format, mode, seed, fds[1]);
    }
    close(fds[1]);
    return kill_after(pid, fds[0], mode, g_rand_int_range(moments, 0, MAX_OPS / 3),
                      g_rand_int_range(moments, 0, 400000), results);
}

static char *
qemu_check(const char *path, bool is_encrypted)
{
    g_autofree char *encrypted =
        g_strdup_printf("driver=qcow2,file.filename=%s,encrypt.key-secret=s", path);
    const char *plain_argv[] = {"qemu-img", "check", path, NULL};
    const char *encrypted_argv[] = {
        "qemu-img",     "check",   "--object", "secret,id=s,data=" CRASH_PASSPHRASE,
        "--image-opts", encrypted, NULL};
    const char **argv = is_encrypted ? encrypted_argv : plain_argv;
    g_autofree char *output = NULL;
    g_autofree char *errors = NULL;
    g_autofree char *dir = g_path_get_dirname(path); /* the place of its data file */
    int status = 0;

    g_assert_true(g_spawn_sync(dir, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL,
                               &output, &errors, &status, NULL));
    if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3))
        return NULL;
    return g_strdup_printf("qemu-img check: %s%s", output, errors);
}

/* The fault of the disk at @path after @ops, the last of which may have been in flight,
 * on a disk with the content @model. */
static char *
compare_disk(const char *path, const char *format, Mode mode, CrashModel *model,
             const CrashOp *ops, size_t n_done, bool one_more)
{
    g_autoptr(CrashModel) seen = NULL;
    size_t n_sure = 0; /* operations that cannot be undone */
    char *problem = NULL;
    QimgImage *image = open_file(path, format, NULL, false);

    seen = crash_model_new(image, &problem);
    qimg_image_close(image);
    if (!seen)
        return problem;
    for (size_t i = 0; i < n_done; i++)
        if (mode != MODE_BOTH_DIE || ops[i].kind == CRASH_OP_FLUSH)
            n_sure = i + 1;
    for (size_t i = 0; i < n_sure; i++)
        if (ops[i].result == 0)
            crash_model_apply(model, &ops[i]);
    return crash_model_compare(model, ops + n_sure, n_done - n_sure + one_more, seen);
}

/* One process, killed, on the image left by the previous one. */
static char *
kill_once(const char *path, const char *format, Mode mode, uint32_t seed, GRand *moments)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    g_autofree int *results = g_new0(int, MAX_OPS);
    g_autofree CrashOp *ops = g_new0(CrashOp, MAX_OPS + 1);
    g_autoptr(CrashModel) model = NULL;
    g_autoptr(CrashModel) now = NULL;
    char *problem = NULL;
    QimgImage *image = open_file(path, format, NULL, false);
    bool is_encrypted =
        (qimg_image_get_layer_flags(image, 0) & QIMG_LAYER_ENCRYPTED) != 0;
    size_t n_done;

    model = crash_model_new(image, &problem);
    qimg_image_close(image);
    if (problem)
        return problem;
    n_done = run_and_kill(path, format, mode, seed, moments, results);
    if (mode == MODE_KEEPER_DIES && n_done < MAX_OPS)
        return g_strdup_printf("ends after %zu operations", n_done);
    now = crash_model_copy(model);
    for (size_t i = 0; i <= n_done && i < MAX_OPS; i++) {
        ops[i] = choose(rand, now->size_bytes); /* the last one may be in flight */
        if (i == n_done)
            break;
        ops[i].result = results[i];
        if (ops[i].result == 0)
            crash_model_apply(now, &ops[i]);
        else if (!crash_op_is_refused(&ops[i]))
            return g_strdup_printf("a %s fails: %s", crash_op_names[ops[i].kind],
                                   g_strerror(-ops[i].result));
    }
    problem = compare_disk(path, format, mode, model, ops, n_done, n_done < MAX_OPS);
    if (problem) {
        for (size_t i = 0; i <= n_done && i < MAX_OPS; i++)
            g_printerr("# operation %zu: %s %" G_GUINT64_FORMAT " + %" G_GUINT64_FORMAT
                       "\n",
                       i, crash_op_names[ops[i].kind], ops[i].offset, ops[i].n_bytes);
        return problem;
    }
    return g_str_equal(format, "raw") ? NULL : qemu_check(path, is_encrypted);
}

static uint32_t first_seed;

typedef struct {
    const CrashKind *kind;
    Mode mode;
} Case;

static void
test_kind(const void *data)
{
    const Case *c = data;
    const CrashKind *kind = c->kind;
    const char *rounds = g_getenv("CRASH_ROUNDS");
    unsigned n = n_kills[c->mode] * (rounds ? (unsigned)atoi(rounds) : 1);
    g_autoptr(GRand) moments = g_rand_new();
    g_autoptr(CrashFixture) fixture = crash_fixture_make(kind);
    char *dir = test_util_make_dir();
    g_autofree char *path = g_build_filename(dir, "top", NULL);

    for (unsigned i = 0; i < n; i++) {
        char *problem;

        if (i % n_kills[c->mode] == 0)
            crash_fixture_save(fixture, dir);
        problem = kill_once(path, kind->format ? kind->format : "qcow2", c->mode,
                            first_seed + i, moments);
        if (problem)
            g_error("%s, %s, seed %u, kill %u: %s (%s)", kind->name, mode_names[c->mode],
                    first_seed, i, problem, path);
    }
    test_util_remove_dir(dir);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    crash_need_qemu();
    first_seed = test_util_seed();
    for (unsigned i = 0; i < crash_n_kinds; i++) {
        if (crash_kinds[i].is_dirty) /* qemu-img check repairs such an image */
            continue;
        for (Mode mode = 0; mode < N_MODES; mode++) {
            g_autofree char *path =
                g_strdup_printf("/%s/%s", mode_names[mode], crash_kinds[i].name);
            Case *c;

            if (!crash_is_chosen(i, mode, first_seed))
                continue;
            c = g_new(Case, 1);
            *c = (Case){&crash_kinds[i], mode};
            g_test_add_data_func_full(path, c, test_kind, g_free);
        }
    }
    return g_test_run();
}
