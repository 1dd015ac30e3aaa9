/* SPDX-License-Identifier: GPL-2.0-or-later */
/* storage/direct-file.c, through storage/file.c: data that bypass the page cache, of any
 * alignment, mixed with cached bytes. */
#include "storage/direct-file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "storage/file.h"
#include "test-util.h"

#define N_FILE     300000u
#define N_BEHIND   10000u
#define N_STEPS    1000u
#define N_WRITERS  4u
#define N_REWRITES 20u
#define N_SHARED   50000u /* bytes written by them */

typedef struct {
    char *dir;
    char *path;
    QimgStorage *storage;
} Fixture;

static bool
is_in_memory(const char *dir)
{
    struct statfs status;

    g_assert_cmpint(statfs(dir, &status), ==, 0);
    return status.f_type == TMPFS_MAGIC || status.f_type == RAMFS_MAGIC;
}

/* A directory on a disk, if there is one: on a memory file system, everything is in the
 * page cache. */
static char *
make_dir(void)
{
    char *dir = test_util_make_dir();

    if (!is_in_memory(dir) || is_in_memory("/var/tmp"))
        return dir;
    test_util_remove_dir(dir);
    dir = g_strdup("/var/tmp/qimg-test-XXXXXX");
    g_assert_nonnull(g_mkdtemp(dir));
    return dir;
}

/* False if the file system has no direct I/O: the test is skipped then. */
static bool
set_up(Fixture *fixture, const uint8_t *bytes, size_t n_bytes)
{
    GError *error = NULL;
    QimgErrno err;

    fixture->dir = make_dir();
    fixture->path = test_util_write(fixture->dir, "file", bytes, n_bytes);
    fixture->storage = qimg_file_storage_new(open(fixture->path, O_RDWR | O_CLOEXEC),
                                             fixture->path, true, &error);
    g_assert_no_error(error);
    err = qimg_file_storage_go_direct(fixture->storage);
    if (err == -EINVAL)
        g_test_skip("no direct I/O where temporary files lie");
    else
        g_assert_cmpint(err, ==, 0);
    return !err;
}

static void
tear_down(Fixture *fixture)
{
    qimg_storage_close(fixture->storage);
    g_free(fixture->path);
    test_util_remove_dir(fixture->dir);
}

/* ---- one thread ---- */

typedef struct {
    QimgStorage *storage;
    GRand *rand;
    uint8_t model[N_FILE + N_BEHIND]; /* zeros behind the file's end */
    uint8_t *memory;                  /* aligned */
} Walk;

/* Data, which are direct, or a table, which is not. */
static QimgIoPurpose
choose_purpose(Walk *walk)
{
    static const QimgIoPurpose purposes[] = {QIMG_IO_DATA, QIMG_IO_DATA,
                                             QIMG_IO_COMPRESSED, QIMG_IO_L2};

    return purposes[g_rand_int_range(walk->rand, 0, G_N_ELEMENTS(purposes))];
}

/* Half of the time at a boundary of blocks or pages. */
static uint64_t
choose_place(Walk *walk, uint64_t end)
{
    static const unsigned units[] = {1, 1, 512, 4096};
    unsigned unit = units[g_rand_int_range(walk->rand, 0, G_N_ELEMENTS(units))];

    return (uint64_t)g_rand_int_range(walk->rand, 0, (int)(end + 1)) / unit * unit;
}

static void
choose_range(Walk *walk, uint64_t end, uint64_t *start_out, size_t *n_bytes_out)
{
    uint64_t a = choose_place(walk, end), b = choose_place(walk, end);

    *start_out = MIN(a, b);
    *n_bytes_out = (size_t)(MAX(a, b) - *start_out);
}

/* Memory of a random alignment. */
static uint8_t *
choose_memory(Walk *walk)
{
    return walk->memory +
           (g_rand_boolean(walk->rand) ? 0 : g_rand_int_range(walk->rand, 1, 4096));
}

static void
write_somewhere(Walk *walk)
{
    uint8_t *bytes = choose_memory(walk);
    uint8_t seed = (uint8_t)g_rand_int(walk->rand);
    struct iovec parts[3];
    uint64_t start;
    size_t n_bytes, cut;

    choose_range(walk, N_FILE, &start, &n_bytes);
    for (size_t i = 0; i < n_bytes; i++)
        bytes[i] = (uint8_t)(seed + i * 7);
    cut = g_rand_boolean(walk->rand) ? n_bytes / 3 : n_bytes;
    parts[0] = (struct iovec){bytes, cut};
    parts[1] = (struct iovec){bytes + cut, 0};
    parts[2] = (struct iovec){bytes + cut, n_bytes - cut};
    g_assert_cmpint(qimg_storage_writev(walk->storage, choose_purpose(walk),
                                        qimg_host(start), parts, 3),
                    ==, 0);
    memcpy(walk->model + start, bytes, n_bytes);
}

static void
read_somewhere(Walk *walk)
{
    uint8_t *bytes = choose_memory(walk);
    uint64_t start;
    size_t n_bytes;

    choose_range(walk, N_FILE + N_BEHIND, &start, &n_bytes);
    memset(bytes, 0xee, n_bytes + 1);
    g_assert_cmpint(qimg_storage_read(walk->storage, choose_purpose(walk),
                                      qimg_host(start), bytes, n_bytes),
                    ==, 0);
    g_assert_cmpmem(bytes, n_bytes, walk->model + start, n_bytes);
    g_assert_cmpuint(bytes[n_bytes], ==, 0xee);
}

static void
zero_somewhere(Walk *walk)
{
    uint64_t start;
    size_t n_bytes;

    choose_range(walk, N_FILE, &start, &n_bytes);
    g_assert_cmpint(
        qimg_storage_zero(walk->storage, choose_purpose(walk), qimg_host(start), n_bytes),
        ==, 0);
    memset(walk->model + start, 0, n_bytes);
}

/* Tables become data, and the other way round: every read sees the last write, for all
 * combinations of ways. */
static void
test_roles(void)
{
    g_autofree Walk *walk = g_new0(Walk, 1);
    g_autofree char *content = NULL;
    size_t n_content = 0;
    Fixture fixture;

    for (size_t i = 0; i < N_FILE; i++)
        walk->model[i] = (uint8_t)(i % 253);
    walk->rand = g_rand_new_with_seed(test_util_seed());
    walk->memory = aligned_alloc(4096, 4096 * ((N_FILE + N_BEHIND) / 4096 + 3));
    if (set_up(&fixture, walk->model, N_FILE)) {
        walk->storage = fixture.storage;
        for (unsigned i = 0; i < N_STEPS; i++) {
            unsigned step = (unsigned)g_rand_int_range(walk->rand, 0, 8);

            if (step == 0)
                zero_somewhere(walk);
            else if (step < 4)
                write_somewhere(walk);
            else
                read_somewhere(walk);
        }
        g_assert_true(g_file_get_contents(fixture.path, &content, &n_content, NULL));
        g_assert_cmpmem(content, n_content, walk->model, N_FILE);
    }
    free(walk->memory);
    g_rand_free(walk->rand);
    tear_down(&fixture);
}

/* ---- neighbours ---- */

typedef struct {
    QimgStorage *storage;
    unsigned index; /* of N_WRITERS */
    unsigned stripe_bytes;
} Writer;

static uint8_t
byte_of(const Writer *writer, unsigned round)
{
    return (uint8_t)(writer->index * N_REWRITES + round + 1);
}

/* Writes each of its stripes, which share pages with those of the others, and checks that
 * they stay. */
static void *
write_stripes(void *user)
{
    Writer *writer = user;
    g_autofree uint8_t *bytes = g_malloc(writer->stripe_bytes);
    g_autofree uint8_t *seen = g_malloc(writer->stripe_bytes);
    unsigned step_bytes = N_WRITERS * writer->stripe_bytes;
    QimgIoPurpose purpose = writer->index == 0 ? QIMG_IO_L2 : QIMG_IO_DATA;

    for (unsigned round = 0; round < N_REWRITES; round++) {
        memset(bytes, byte_of(writer, round), writer->stripe_bytes);
        for (uint64_t start = writer->index * writer->stripe_bytes;
             start + writer->stripe_bytes <= N_SHARED; start += step_bytes) {
            g_assert_cmpint(qimg_storage_write(writer->storage, purpose, qimg_host(start),
                                               bytes, writer->stripe_bytes),
                            ==, 0);
            g_assert_cmpint(qimg_storage_read(writer->storage, purpose, qimg_host(start),
                                              seen, writer->stripe_bytes),
                            ==, 0);
            g_assert_cmpmem(seen, writer->stripe_bytes, bytes, writer->stripe_bytes);
        }
    }
    return NULL;
}

/* No write undoes another thread's write to other bytes of the same block or page. */
static void
test_neighbours(void)
{
    static const unsigned stripes[] = {100, 512, 1000, 4096, 5000, 12288};
    g_autofree uint8_t *zeros = g_malloc0(N_SHARED);
    Fixture fixture;
    bool can = set_up(&fixture, zeros, N_SHARED);

    for (size_t s = 0; can && s < G_N_ELEMENTS(stripes); s++) {
        g_autofree char *content = NULL;
        size_t n_content = 0;
        pthread_t threads[N_WRITERS];
        Writer writers[N_WRITERS];

        for (unsigned i = 0; i < N_WRITERS; i++) {
            writers[i] = (Writer){fixture.storage, i, stripes[s]};
            g_assert_cmpint(pthread_create(&threads[i], NULL, write_stripes, &writers[i]),
                            ==, 0);
        }
        for (unsigned i = 0; i < N_WRITERS; i++)
            pthread_join(threads[i], NULL);
        g_assert_cmpint(qimg_storage_sync(fixture.storage), ==, 0);
        g_assert_true(g_file_get_contents(fixture.path, &content, &n_content, NULL));
        for (size_t i = 0; i < N_SHARED / stripes[s] * stripes[s]; i++)
            g_assert_cmpuint(
                (uint8_t)content[i], ==,
                byte_of(&writers[i / stripes[s] % N_WRITERS], N_REWRITES - 1));
    }
    tear_down(&fixture);
}

/* ---- the page cache ---- */

static unsigned
count_cached_pages(const char *path, size_t n_bytes)
{
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    g_autofree unsigned char *is_cached = g_malloc0(n_bytes / page_bytes);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *pages = mmap(NULL, n_bytes, PROT_READ, MAP_SHARED, fd, 0);
    unsigned n = 0;

    g_assert_true(pages != MAP_FAILED);
    g_assert_cmpint(mincore(pages, n_bytes, is_cached), ==, 0);
    for (size_t i = 0; i < n_bytes / page_bytes; i++)
        n += is_cached[i] & 1;
    munmap(pages, n_bytes);
    close(fd);
    return n;
}

/* Data are not in the page cache after a write or a read, for aligned and unaligned
 * memory; tables are. */
static void
test_not_cached(void)
{
    size_t n_bytes = 2 * QIMG_MIB;
    g_autofree uint8_t *bytes = g_malloc(n_bytes + 1);
    Fixture fixture;
    bool can = set_up(&fixture, NULL, 0);

    if (can && is_in_memory(fixture.dir)) {
        g_test_skip("no directory on a disk");
        can = false;
    }
    memset(bytes, 'x', n_bytes + 1);
    for (size_t shift = 0; can && shift < 2; shift++) {
        g_assert_cmpint(qimg_storage_write(fixture.storage, QIMG_IO_DATA, qimg_host(0),
                                           bytes + shift, n_bytes),
                        ==, 0);
        g_assert_cmpint(qimg_storage_read(fixture.storage, QIMG_IO_DATA, qimg_host(0),
                                          bytes + shift, n_bytes),
                        ==, 0);
        g_assert_cmpuint(count_cached_pages(fixture.path, n_bytes), ==, 0);
        g_assert_cmpint(qimg_storage_read(fixture.storage, QIMG_IO_COMPRESSED,
                                          qimg_host(1000), bytes + shift, 70000),
                        ==, 0);
        g_assert_cmpuint(count_cached_pages(fixture.path, n_bytes), ==, 0);
    }
    if (can) {
        g_assert_cmpint(qimg_storage_read(fixture.storage, QIMG_IO_L2, qimg_host(65536),
                                          bytes, 65536),
                        ==, 0);
        g_assert_cmpuint(count_cached_pages(fixture.path, n_bytes), >=,
                         65536 / (unsigned)sysconf(_SC_PAGESIZE));
    }
    tear_down(&fixture);
}

/* ---- without ---- */

static void
test_not_there(void)
{
    GError *error = NULL;
    QimgStorage *storage = qimg_file_storage_new(
        open("/proc/version", O_RDONLY | O_CLOEXEC), "/proc/version", false, &error);
    char text[5];

    g_assert_no_error(error);
    g_assert_cmpint(qimg_file_storage_go_direct(storage), ==, -EINVAL);
    /* As before: through the page cache. */
    g_assert_cmpint(
        qimg_storage_read(storage, QIMG_IO_DATA, qimg_host(0), text, sizeof text), ==, 0);
    g_assert_cmpmem(text, sizeof text, "Linux", 5);
    qimg_storage_close(storage);
}

/* The mount works, with a warning. */
static void
test_warning(void)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    GError *error = NULL;
    QimgImage *image;

    g_assert_true(qimg_options_set(options, "format", "raw", NULL));
    g_assert_true(qimg_options_set(options, "direct", NULL, NULL));
    image = qimg_image_open("/proc/version", options, &error);
    g_assert_no_error(error);
    g_assert_true(g_strv_contains(
        qimg_image_get_warnings(image),
        "/proc/version: its data go through the page cache in spite of the option "
        "direct: its file system cannot do without"));
    qimg_image_close(image);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/direct-file/roles", test_roles);
    g_test_add_func("/direct-file/neighbours", test_neighbours);
    g_test_add_func("/direct-file/not-cached", test_not_cached);
    g_test_add_func("/direct-file/not-there", test_not_there);
    g_test_add_func("/direct-file/warning", test_warning);
    return g_test_run();
}
