/* SPDX-License-Identifier: GPL-2.0-or-later */
/* storage/storage.c and storage/file.c: whole-length reads, zeros past the end, errors,
 * holes, counters. */
#include "storage/storage.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "memory-storage.h"
#include "storage/file.h"
#include "test-util.h"

#define N_FILE 1000u

static QimgStorage *
counting_storage(void)
{
    uint8_t bytes[N_FILE];

    for (unsigned i = 0; i < N_FILE; i++)
        bytes[i] = (uint8_t)(i % 251 + 1);
    return memory_storage_new(bytes, sizeof bytes, "memory");
}

static void
check_reads(QimgStorage *storage)
{
    static const struct {
        uint64_t offset;
        size_t n_bytes;
    } rows[] = {{0, 0},      {0, 1},
                {0, N_FILE}, {0, N_FILE + 500},
                {999, 1},    {999, 300},
                {1000, 5},   {1000000, 64},
                {250, 700},  {(UINT64_C(1) << 63) - 9, 8}};

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        uint8_t buffer[N_FILE + 600];

        memset(buffer, 0xee, sizeof buffer);
        g_assert_cmpint(qimg_storage_read(storage, QIMG_IO_DATA,
                                          qimg_host(rows[i].offset), buffer,
                                          rows[i].n_bytes),
                        ==, 0);
        for (size_t j = 0; j < sizeof buffer; j++) {
            uint64_t at = rows[i].offset + j;

            g_assert_cmpuint(buffer[j], ==,
                             j >= rows[i].n_bytes ? 0xee
                             : at < N_FILE        ? at % 251 + 1
                                                  : 0);
        }
    }
}

static void
test_read(void)
{
    QimgStorage *storage = counting_storage();
    uint8_t byte;

    check_reads(storage);
    memory_storage_limit(storage, 1); /* short reads are joined */
    check_reads(storage);
    memory_storage_limit(storage, 7);
    check_reads(storage);
    /* Nothing beyond the range of off_t. */
    g_assert_cmpint(
        qimg_storage_read(storage, QIMG_IO_L1, qimg_host(INT64_MAX), &byte, 1), ==,
        -EINVAL);
    g_assert_cmpint(
        qimg_storage_read(storage, QIMG_IO_L1, qimg_host(UINT64_MAX), &byte, 1), ==,
        -EINVAL);
    g_assert_cmpuint(storage->n_reads[QIMG_IO_L1], ==, 0);
    g_assert_cmpuint(storage->n_reads[QIMG_IO_DATA], ==, 30);
    qimg_storage_close(storage);
    qimg_storage_close(NULL);
}

static void
test_errors(void)
{
    QimgStorage *storage = counting_storage();
    uint8_t buffer[10];

#define READ(purpose) qimg_storage_read(storage, purpose, qimg_host(0), buffer, 10)
    memory_storage_fail(storage, QIMG_IO_L2, 2, 1, EIO);
    g_assert_cmpint(READ(QIMG_IO_L2), ==, 0);
    g_assert_cmpint(READ(QIMG_IO_L2), ==, 0);
    g_assert_cmpint(READ(QIMG_IO_DATA), ==, 0);
    g_assert_cmpint(READ(QIMG_IO_L2), ==, -EIO);
    g_assert_cmpint(READ(QIMG_IO_L2), ==, 0);
    g_assert_cmpuint(storage->n_reads[QIMG_IO_L2], ==, 3);
    g_assert_cmpuint(storage->bytes_read[QIMG_IO_L2], ==, 30);
    /* An interrupted read continues, also in the middle. */
    memory_storage_limit(storage, 3);
    memory_storage_fail(storage, QIMG_IO_L1, 1, 5, EINTR);
    g_assert_cmpint(READ(QIMG_IO_L1), ==, 0);
    g_assert_cmpuint(buffer[9], ==, 10);
    /* An error in the middle is the result of the whole read. */
    memory_storage_fail(storage, QIMG_IO_L1, 2, 1, ESTALE);
    g_assert_cmpint(READ(QIMG_IO_L1), ==, -ESTALE);
#undef READ
    qimg_storage_close(storage);
}

static QimgStorage *
open_file(const char *path)
{
    GError *error = NULL;
    QimgStorage *storage =
        qimg_file_storage_new(open(path, O_RDONLY | O_CLOEXEC), path, false, &error);

    g_assert_no_error(error);
    return storage;
}

/* Walks over [0, end) as a text of "data N" and "hole N". */
static char *
walk(QimgStorage *storage, uint64_t end)
{
    GString *text = g_string_new(NULL);

    for (uint64_t at = 0; at < end;) {
        bool is_data = false;
        uint64_t stop = 0;

        g_assert_cmpint(qimg_storage_find_extent(storage, qimg_host(at), &is_data, &stop),
                        ==, 0);
        g_assert_cmpuint(stop, >, at);
        stop = MIN(stop, end);
        g_string_append_printf(text, "%s %" G_GUINT64_FORMAT " ",
                               is_data ? "data" : "hole", (guint64)(stop - at));
        at = stop;
    }
    return g_string_free(text, FALSE);
}

static void
test_file(void)
{
    char *dir = test_util_make_dir();
    g_autofree uint8_t *block = g_malloc(65536);
    g_autofree char *path = test_util_write(dir, "file", "", 0);
    g_autofree char *text = NULL;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    QimgStorage *storage;
    uint64_t size_bytes = 0;
    uint8_t byte;

    memset(block, 'x', 65536);
    g_assert_cmpint(pwrite(fd, block, 65536, 65536), ==, 65536);
    g_assert_cmpint(ftruncate(fd, 5 * 65536 + 100), ==, 0);
    storage = open_file(path);
    g_assert_cmpstr(storage->path, ==, path);
    g_assert_cmpint(qimg_file_storage_get_fd(storage), >=, 0);
    g_assert_cmpint(qimg_storage_get_size(storage, &size_bytes), ==, 0);
    g_assert_cmpuint(size_bytes, ==, 5 * 65536 + 100);
    g_assert_cmpint(
        qimg_storage_read(storage, QIMG_IO_DATA, qimg_host(2 * 65536 - 1), &byte, 1), ==,
        0);
    g_assert_cmpuint(byte, ==, 'x');
    if (qimg_storage_is_sparse(storage)) {
        text = walk(storage, 6 * 65536);
        g_assert_cmpstr(text, ==, "hole 65536 data 65536 hole 262144 ");
    } else {
        g_test_message("this file system has no holes");
    }
    /* The size is read each time: a file may grow. */
    g_assert_cmpint(ftruncate(fd, 10 * 65536), ==, 0);
    g_assert_cmpint(qimg_storage_get_size(storage, &size_bytes), ==, 0);
    g_assert_cmpuint(size_bytes, ==, 10 * 65536);
    qimg_storage_close(storage);
    close(fd);
    test_util_remove_dir(dir);
}

static void
test_memory_extents(void)
{
    QimgStorage *storage = counting_storage();
    g_autofree char *text = walk(storage, 3000);

    g_assert_cmpstr(text, ==, "data 1000 hole 2000 ");
    g_assert_false(qimg_storage_is_sparse(storage));
    qimg_storage_close(storage);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/storage/read", test_read);
    g_test_add_func("/storage/errors", test_errors);
    g_test_add_func("/storage/file", test_file);
    g_test_add_func("/storage/memory-extents", test_memory_extents);
    return g_test_run();
}
