/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Processes that write to an image file and are killed at a random moment: every
 * operation that was reported as done is there, the one under way in any part, and
 * qemu-img check finds at most leaks.
 *
 * QIMG_TEST_SEED repeats the operations (not the moments); CRASH_ROUNDS=N does N times as
 * much, CRASH_KIND=NAME one kind only. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "crash-fixture.h"
#include "test-util.h"

#define N_KILLS 4u
#define MAX_OPS 400u

/* The operations are chosen by the seed and the disk's size, so that both processes know
 * them. */
static CrashOp
choose(GRand *rand, uint64_t size_bytes)
{
    return crash_op_choose(rand, size_bytes, 4096);
}

static QimgImage *
open_file(const char *path, const char *format, bool is_writable)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    g_autoptr(GError) error = NULL;
    QimgImage *image;

    qimg_options_set(options, "threads", "1", NULL);
    qimg_options_set(options, "format", format, NULL);
    if (is_writable)
        qimg_options_set(options, "rw", NULL, NULL);
    image = qimg_image_open(path, options, &error);
    if (!image)
        g_error("%s", error->message);
    return image;
}

/* The process that is killed: tells the result of each operation through @fd. */
G_GNUC_NORETURN static void
write_until_killed(const char *path, const char *format, uint32_t seed, int fd)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    QimgImage *image = open_file(path, format, true);

    for (unsigned i = 0; i < MAX_OPS; i++) {
        CrashOp op = choose(rand, qimg_image_get_size_bytes(image));
        int result = crash_op_run(image, &op);

        if (write(fd, &result, sizeof result) != sizeof result)
            _exit(1);
    }
    qimg_image_close(image);
    _exit(0);
}

/* Reads what the process says, kills it after @n_until operations and @n_spins turns of a
 * loop, and reads the rest. Returns how many operations are done. */
static size_t
kill_after(pid_t pid, int fd, unsigned n_until, unsigned n_spins, int *results)
{
    size_t n = 0;

    while (n < n_until && read(fd, &results[n], sizeof *results) == sizeof *results)
        n++;
    for (volatile unsigned i = 0; i < n_spins; i++)
        continue;
    kill(pid, SIGKILL);
    while (n < MAX_OPS && read(fd, &results[n], sizeof *results) == sizeof *results)
        n++;
    close(fd);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    return n;
}

static size_t
run_and_kill(const char *path, const char *format, uint32_t seed, GRand *moments,
             int *results)
{
    int fds[2];
    pid_t pid;

    g_assert_cmpint(pipe(fds), ==, 0);
    pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        close(fds[0]);
        write_until_killed(path, format, seed, fds[1]);
    }
    close(fds[1]);
    return kill_after(pid, fds[0], g_rand_int_range(moments, 0, MAX_OPS / 3),
                      g_rand_int_range(moments, 0, 400000), results);
}

static char *
qemu_check(const char *path)
{
    const char *argv[] = {"qemu-img", "check", path, NULL};
    g_autofree char *output = NULL;
    g_autofree char *errors = NULL;
    g_autofree char *dir =
        g_path_get_dirname(path); /* where its data file is looked for */
    int status = 0;

    g_assert_true(g_spawn_sync(dir, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL,
                               &output, &errors, &status, NULL));
    if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3))
        return NULL;
    return g_strdup_printf("qemu-img check: %s%s", output, errors);
}

/* One process, killed, on the image that the last one has left. */
static char *
kill_once(const char *path, const char *format, uint32_t seed, GRand *moments)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    g_autofree int *results = g_new0(int, MAX_OPS);
    g_autoptr(CrashModel) model = NULL;
    g_autoptr(CrashModel) seen = NULL;
    char *problem = NULL;
    QimgImage *image = open_file(path, format, false);
    size_t n_done;
    CrashOp op;

    model = crash_model_new(image, &problem);
    qimg_image_close(image);
    if (problem)
        return problem;
    n_done = run_and_kill(path, format, seed, moments, results);
    for (size_t i = 0; i < n_done; i++) {
        op = choose(rand, model->size_bytes);
        op.result = results[i];
        if (op.result == 0)
            crash_model_apply(model, &op);
        else if (!crash_op_is_refused(&op))
            return g_strdup_printf("a %s fails: %s", crash_op_names[op.kind],
                                   g_strerror(-op.result));
    }
    op = choose(rand, model->size_bytes); /* that may have been under way */
    image = open_file(path, format, false);
    seen = crash_model_new(image, &problem);
    qimg_image_close(image);
    if (seen)
        problem = crash_model_compare(model, &op, n_done < MAX_OPS, seen);
    if (problem) {
        g_printerr("# after %zu operations, then %s %" G_GUINT64_FORMAT
                   " + %" G_GUINT64_FORMAT "\n",
                   n_done, crash_op_names[op.kind], op.offset, op.n_bytes);
        return problem;
    }
    return g_str_equal(format, "raw") ? NULL : qemu_check(path);
}

static uint32_t first_seed;

static void
test_kind(const void *data)
{
    const CrashKind *kind = data;
    const char *rounds = g_getenv("CRASH_ROUNDS");
    unsigned n = N_KILLS * (rounds ? (unsigned)atoi(rounds) : 1);
    g_autoptr(GRand) moments = g_rand_new();
    g_autoptr(CrashFixture) fixture = crash_fixture_make(kind);
    char *dir = test_util_make_dir();
    g_autofree char *path = g_build_filename(dir, "top", NULL);

    for (unsigned i = 0; i < n; i++) {
        char *problem;

        if (i % N_KILLS == 0)
            crash_fixture_save(fixture, dir);
        problem = kill_once(path, kind->format ? kind->format : "qcow2", first_seed + i,
                            moments);
        if (problem)
            g_error("%s, seed %u, kill %u: %s (%s)", kind->name, first_seed, i, problem,
                    path);
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
        g_autofree char *path = g_strdup_printf("/kill/%s", crash_kinds[i].name);

        if (crash_kinds[i].is_dirty) /* qemu-img check repairs such an image */
            continue;
        if (!g_getenv("CRASH_KIND") ||
            g_str_equal(g_getenv("CRASH_KIND"), crash_kinds[i].name))
            g_test_add_data_func(path, &crash_kinds[i], test_kind);
    }
    return g_test_run();
}
