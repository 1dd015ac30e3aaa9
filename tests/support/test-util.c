/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Helpers of the test programs. */
#include "test-util.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <unistd.h>

static void
ignore_log(const char *domain, GLogLevelFlags level, const char *text, void *user)
{
    (void)domain, (void)level, (void)text, (void)user;
}

void
test_util_init(int *argc, char ***argv)
{
    /* The programs check messages word for word. */
    g_setenv("LC_ALL", "C", TRUE);
    g_test_init(argc, argv, NULL);
    g_log_set_always_fatal(G_LOG_FATAL_MASK | G_LOG_LEVEL_CRITICAL);
    g_log_set_handler("qimg", G_LOG_LEVEL_WARNING, ignore_log, NULL);
    g_log_set_handler("qimg-format", G_LOG_LEVEL_WARNING | G_LOG_LEVEL_MESSAGE,
                      ignore_log, NULL);
}

uint32_t
test_util_seed(void)
{
    const char *text = g_getenv("QIMG_TEST_SEED");
    uint32_t seed = text ? (uint32_t)g_ascii_strtoull(text, NULL, 0) : g_random_int();

    g_test_message("QIMG_TEST_SEED=%u", seed);
    return seed;
}

char *
test_util_make_dir(void)
{
    GError *error = NULL;
    g_autofree char *dir = g_dir_make_tmp("qimg-test-XXXXXX", &error);
    char *real;

    g_assert_no_error(error);
    real = realpath(dir, NULL); /* so that messages can be compared */
    g_assert_nonnull(real);
    return real;
}

static void
remove_tree(const char *path)
{
    GDir *dir =
        g_file_test(path, G_FILE_TEST_IS_SYMLINK) ? NULL : g_dir_open(path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *inner = g_build_filename(path, name, NULL);

        remove_tree(inner);
    }
    if (dir)
        g_dir_close(dir);
    g_assert_cmpint(g_remove(path), ==, 0);
}

void
test_util_remove_dir(char *dir)
{
    remove_tree(dir);
    free(dir);
}

char *
test_util_write(const char *dir, const char *name, const void *bytes, size_t n_bytes)
{
    char *path = g_build_filename(dir, name, NULL);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(write(fd, bytes, n_bytes), ==, n_bytes);
    g_assert_cmpint(close(fd), ==, 0);
    return path;
}

void
test_util_check_error(GError **error, int code, const char *text)
{
    g_assert_nonnull(*error);
    g_assert_cmpstr((*error)->message, ==, text);
    g_assert_error(*error, QIMG_ERROR, code);
    g_clear_error(error);
}

void
test_util_set_property(QimgCreate *create, const char *name, const char *value)
{
    GError *error = NULL;

    qimg_create_set(create, name, value, &error);
    g_assert_no_error(error);
}
