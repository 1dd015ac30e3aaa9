/* SPDX-License-Identifier: GPL-2.0-or-later */
/* storage/open-policy.c: which names lead to which files, under each policy; only regular
 * files are opened. */
#include "storage/open-policy.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "qimg.h"
#include "storage/open-moved.h"
#include "test-util.h"

/* DIR/images/{top,base,sub/deep}, DIR/other/{base,sub/deep}, DIR/secret, and links. */
typedef struct {
    char *dir;
    char *top; /* the naming image */
    char *old_cwd;
} Tree;

static void
make_dirs(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);

    g_assert_cmpint(g_mkdir_with_parents(path, 0700), ==, 0);
}

static Tree
tree_new(void)
{
    static const char *const files[] = {
        "images/top", "images/base",    "images/sub/deep", "images/a b\xc3\xbc",
        "other/base", "other/sub/deep", "secret",          "images2/base"};
    Tree tree = {.dir = test_util_make_dir(), .old_cwd = g_get_current_dir()};

    g_assert_cmpint(chdir(tree.dir), ==, 0);
    make_dirs(tree.dir, "images/sub");
    make_dirs(tree.dir, "images2");
    make_dirs(tree.dir, "other/sub");
    for (size_t i = 0; i < G_N_ELEMENTS(files); i++)
        g_free(test_util_write(tree.dir, files[i], files[i], strlen(files[i])));
    g_assert_cmpint(symlink("../secret", "images/link-out"), ==, 0);
    g_assert_cmpint(symlink("sub/deep", "images/link-in"), ==, 0);
    g_assert_cmpint(symlink("../secret", "other/link-out"), ==, 0);
    g_assert_cmpint(symlink("nowhere", "images/link-broken"), ==, 0);
    g_assert_cmpint(symlink("images/top", "link-to-top"), ==, 0);
    g_assert_cmpint(mkfifo("images/fifo", 0600), ==, 0);
    g_assert_cmpint(symlink("/dev/null", "images/device"), ==, 0);
    tree.top = g_build_filename(tree.dir, "images/top", NULL);
    return tree;
}

static void
tree_free(Tree *tree)
{
    g_assert_cmpint(chdir(tree->old_cwd), ==, 0);
    g_free(tree->old_cwd);
    g_free(tree->top);
    test_util_remove_dir(tree->dir);
}

/* No file lies on it. */
#define NO_DEVICE makedev(4095, 1048575)

typedef struct {
    const char *policy;
    const char *map;     /* NULL: none */
    const char *naming;  /* how the image was opened; NULL: by its absolute path */
    const char *name;    /* @ stands for the directory */
    const char *content; /* of the opened file; NULL: an error */
    int code;
    const char *error; /* @ stands for the directory */
} Row;

#define OUTSIDE                                                                          \
    "lies outside the allowed directories (allow it with -o backing=DIR or -o "          \
    "backing=any)"

static const Row rows[] = {
    {"same-dir", NULL, NULL, "base", "images/base", 0, NULL},
    {"same-dir", NULL, NULL, "./base", "images/base", 0, NULL},
    {"same-dir", NULL, NULL, "sub/deep", "images/sub/deep", 0, NULL},
    {"same-dir", NULL, NULL, "@/images/base", "images/base", 0, NULL},
    {"same-dir", NULL, NULL, "sub/../base", "images/base", 0, NULL},
    {"same-dir", NULL, NULL, "../images/base", "images/base", 0, NULL},
    {"same-dir", NULL, NULL, "link-in", "images/sub/deep", 0, NULL},
    {"same-dir", NULL, NULL, "a b\xc3\xbc", "images/a b\xc3\xbc", 0, NULL},
    {"same-dir", NULL, "images/top", "base", "images/base", 0, NULL},
    /* A link to the image: names are relative to the link, but its own directory counts.
     */
    {"same-dir", NULL, "link-to-top", "images/base", "images/base", 0, NULL},
    {"same-dir", NULL, "link-to-top", "@/images/sub/deep", "images/sub/deep", 0, NULL},
    {"same-dir", NULL, NULL, "../secret", NULL, QIMG_ERROR_REFUSED,
     "names \"../secret\", and \"@/images/../secret\" " OUTSIDE},
    {"same-dir", NULL, NULL, "link-out", NULL, QIMG_ERROR_REFUSED,
     "names \"link-out\", and \"@/images/link-out\" " OUTSIDE},
    {"same-dir", NULL, NULL, "@/secret", NULL, QIMG_ERROR_REFUSED,
     "names \"@/secret\", and \"@/secret\" " OUTSIDE},
    /* A directory whose name only begins in the same way. */
    {"same-dir", NULL, NULL, "../images2/base", NULL, QIMG_ERROR_REFUSED,
     "names \"../images2/base\", and \"@/images/../images2/base\" " OUTSIDE},
    {"same-dir", NULL, NULL, "absent\n", NULL, QIMG_ERROR_NOT_FOUND,
     "names \"absent\\n\", and \"@/images/absent\\n\" cannot be opened: No such file or "
     "directory (say where it is now with -o backing_map='absent\\n'=NEW)"},
    {"same-dir", NULL, NULL, "link-broken", NULL, QIMG_ERROR_NOT_FOUND,
     "names \"link-broken\", and \"@/images/link-broken\" cannot be opened: No such file "
     "or directory (say where it is now with -o backing_map='link-broken'=NEW)"},
    {"same-dir", NULL, NULL, "fifo", NULL, QIMG_ERROR_REFUSED,
     "names \"fifo\", and \"@/images/fifo\" is a FIFO, not a disk image (name a regular "
     "file)"},
    {"same-dir", NULL, NULL, "device", NULL, QIMG_ERROR_REFUSED,
     "names \"device\", and \"@/images/device\" " OUTSIDE},
    {"any", NULL, NULL, "device", NULL, QIMG_ERROR_REFUSED,
     "names \"device\", and \"@/images/device\" is a character device, not a disk image "
     "(name a regular file)"},
    {"same-dir", NULL, NULL, "sub", NULL, QIMG_ERROR_REFUSED,
     "names \"sub\", and \"@/images/sub\" is a directory, not a disk image (name a "
     "regular "
     "file)"},
    {"any", NULL, NULL, "../secret", "secret", 0, NULL},
    {"any", NULL, NULL, "link-out", "secret", 0, NULL},
    {"none", NULL, NULL, "base", NULL, QIMG_ERROR_REFUSED,
     "names \"base\", and backing=none allows no further file (allow it with -o "
     "backing=same-dir or -o backing=DIR)"},
    {"@/other", NULL, NULL, "../other/base", "other/base", 0, NULL},
    {"@/other", NULL, NULL, "base", NULL, QIMG_ERROR_REFUSED,
     "names \"base\", and \"@/images/base\" " OUTSIDE},
    {"@/other:@/images", NULL, NULL, "base", "images/base", 0, NULL},
    {"/", NULL, NULL, "../secret", "secret", 0, NULL},
    {"other", NULL, NULL, "../other/link-out", NULL, QIMG_ERROR_REFUSED,
     "names \"../other/link-out\", and \"@/images/../other/link-out\" " OUTSIDE},
    /* Maps: files named by the user are permitted under any policy. */
    {"same-dir", "/gone/x=@/other/base", NULL, "/gone/x", "other/base", 0, NULL},
    {"none", "/gone/x=@/other/base", NULL, "/gone/x", "other/base", 0, NULL},
    {"same-dir", "/gone=@/other", NULL, "/gone/base", "other/base", 0, NULL},
    {"same-dir", "/gone/=@/other", NULL, "/gone/sub/deep", "other/sub/deep", 0, NULL},
    {"same-dir", "base=@/other/base", NULL, "base", "other/base", 0, NULL},
    {"same-dir", "@/images=@/other", NULL, "base", "other/base", 0, NULL},
    {"same-dir", "/gone=@/other", NULL, "base", "images/base", 0, NULL},
    {"same-dir", "/gone=@/other", NULL, "/gonebase", NULL, QIMG_ERROR_NOT_FOUND,
     "names \"/gonebase\", and \"/gonebase\" cannot be opened: No such file or directory "
     "(say where it is now with -o backing_map='/gonebase'=NEW)"},
    /* A mapped directory cannot be escaped. */
    {"same-dir", "/gone=@/other", NULL, "/gone/../secret", NULL, QIMG_ERROR_REFUSED,
     "names \"/gone/../secret\", and \"@/other/../secret\" " OUTSIDE},
    {"none", "/gone=@/other", NULL, "/gone/../secret", NULL, QIMG_ERROR_REFUSED,
     "names \"/gone/../secret\", and \"@/other/../secret\" " OUTSIDE},
    {"same-dir", "/gone=@/other", NULL, "/gone/link-out", NULL, QIMG_ERROR_REFUSED,
     "names \"/gone/link-out\", and \"@/other/link-out\" " OUTSIDE},
    {"any", "/gone=@/other", NULL, "/gone/../secret", "secret", 0, NULL},
    {"same-dir", "/gone=@/images/fifo", NULL, "/gone", NULL, QIMG_ERROR_REFUSED,
     "names \"/gone\", and \"@/images/fifo\" is a FIFO, not a disk image (name a regular "
     "file)"},
};

static char *
expand(const Tree *tree, const char *text)
{
    g_auto(GStrv) parts = g_strsplit(text ? text : "", "@", -1);

    return g_strjoinv(tree->dir, parts);
}

/* @avoids: names are walked component by component, with the same result. */
static void
check_row(const Row *row, bool avoids)
{
    Tree tree = tree_new();
    g_autoptr(QimgOpenPolicy) policy = qimg_open_policy_new();
    g_autofree char *policy_text = expand(&tree, row->policy);
    g_autofree char *map_text = expand(&tree, row->map);
    g_autofree char *name = expand(&tree, row->name);
    g_autofree char *error_text = expand(&tree, row->error);
    const char *naming = row->naming ? row->naming : tree.top;
    g_autoptr(QimgPlace) naming_place = NULL;
    g_autoptr(QimgPlace) place = NULL;
    qimg_autofd naming_fd = qimg_open_named_by_user(naming, false, &naming_place, NULL);
    qimg_autofd fd = -1;
    GError *error = NULL;

    g_assert_cmpint(naming_fd, >=, 0);
    g_assert_true(qimg_open_policy_set(policy, policy_text, &error));
    if (row->map)
        g_assert_true(qimg_open_policy_add_map(policy, map_text, &error));
    g_assert_no_error(error);
    if (avoids)
        qimg_open_policy_avoid_device(policy, NO_DEVICE);
    fd = qimg_open_named_by_image(policy, naming_place, name, false, &place, &error);
    if (row->content) {
        char content[100] = "";

        g_assert_no_error(error);
        g_assert_cmpint(read(fd, content, sizeof content - 1), >, 0);
        g_assert_cmpstr(content, ==, row->content);
        g_assert_nonnull(place->path);
    } else {
        g_assert_cmpint(fd, ==, -1);
        g_assert_null(place);
        test_util_check_error(&error, row->code, error_text);
    }
    tree_free(&tree);
}

/* ---- moved files ---- */

typedef struct {
    const char *policy;
    const char *map; /* NULL: none */
    const char *name;
    bool may_open;
    const char *content; /* of the opened file; NULL: an error */
    const char *error;   /* @ stands for the directory; NULL: none either */
} MovedRow;

static const MovedRow moved_rows[] = {
    {"same-dir", NULL, "/gone/base", true, "images/base", NULL},
    {"same-dir", NULL, "../gone/base", true, "images/base", NULL},
    {"same-dir", NULL, "/gone//./sub/deep", true, "images/sub/deep", NULL},
    {"any", NULL, "/gone/base", true, "images/base", NULL},
    {"@/other", NULL, "/gone/base", true, "other/base", NULL},
    {"@/other:@/other", NULL, "/gone/base", true, "other/base", NULL},
    {"@/images2:@/images", NULL, "/gone/sub/deep", true, "images/sub/deep", NULL},
    /* Through a link to a permitted file; by two names of one file. */
    {"same-dir", NULL, "/gone/link-in", true, "images/sub/deep", NULL},
    {"@/images:@/images/sub", NULL, "/gone/sub/deep", true, "images/sub/deep", NULL},
    {"same-dir", NULL, "/gone/base", false, NULL,
     "names \"/gone/base\", and there is no \"/gone/base\"; found instead, and not taken "
     "unasked: \"@/images/base\" (say where it is now with -o "
     "backing_map='/gone/base'=NEW)"},
    {"@/other:@/images2", NULL, "/gone/base", true, NULL,
     "names \"/gone/base\", and there is no \"/gone/base\"; found instead, and not taken "
     "unasked: \"@/other/base\", \"@/images2/base\" (say where it is now with -o "
     "backing_map='/gone/base'=NEW)"},
    {"same-dir", NULL, "/gone/a\n", true, NULL,
     "names \"/gone/a\\n\", and there is none of \"/gone/a\\n\", \"@/images/a\\n\", "
     "\"@/images/gone/a\\n\" (say where it is now with -o "
     "backing_map='/gone/a\\n'=NEW)"},
    {"@/other", NULL, "/a/b/c/d", true, NULL,
     "names \"/a/b/c/d\", and there is none of \"/a/b/c/d\", \"@/images/d\", "
     "\"@/images/c/d\", \"@/images/b/c/d\", \"@/images/a/b/c/d\", \"@/other/d\" and 3 "
     "more (say where it is now with -o backing_map='/a/b/c/d'=NEW)"},
    /* Never the image itself, a file that is not permitted, or an object that is no
     * file. */
    {"same-dir", NULL, "/gone/top", true, NULL, NULL},
    {"same-dir", NULL, "/gone/link-out", true, NULL, NULL},
    {"@/other", NULL, "/gone/link-in", true, NULL, NULL},
    {"same-dir", NULL, "/gone/fifo", true, NULL, NULL},
    {"same-dir", NULL, "/gone/device", true, NULL, NULL},
    {"same-dir", NULL, "/gone/sub", true, NULL, NULL},
    /* Nothing is searched. */
    {"none", NULL, "/gone/base", true, NULL, NULL},
    {"same-dir", "/gone=/nowhere", "/gone/base", true, NULL, NULL},
    {"same-dir", "@/images/gone=/nowhere", "gone/base", true, NULL, NULL},
    {"same-dir", NULL, "gone", true, NULL, NULL},
    {"same-dir", NULL, "..", true, NULL, NULL},
    {"same-dir", NULL, "/", true, NULL, NULL},
};

static void
test_moved(gconstpointer user)
{
    const MovedRow *row = user;
    Tree tree = tree_new();
    g_autoptr(QimgOpenPolicy) policy = qimg_open_policy_new();
    g_autofree char *policy_text = expand(&tree, row->policy);
    g_autofree char *map_text = expand(&tree, row->map);
    g_autofree char *error_text = expand(&tree, row->error);
    g_autoptr(QimgPlace) naming_place = NULL;
    g_autoptr(QimgPlace) place = NULL;
    qimg_autofd naming_fd = qimg_open_named_by_user(tree.top, false, &naming_place, NULL);
    qimg_autofd fd = -1;
    GError *error = NULL;

    g_assert_cmpint(naming_fd, >=, 0);
    g_assert_true(qimg_open_policy_set(policy, policy_text, NULL));
    g_assert_true(!row->map || qimg_open_policy_add_map(policy, map_text, NULL));
    fd = qimg_open_moved(policy, naming_place, row->name, row->may_open, &place, &error);
    if (row->content) {
        char content[100] = "";

        g_assert_no_error(error);
        g_assert_cmpint(read(fd, content, sizeof content - 1), >, 0);
        g_assert_cmpstr(content, ==, row->content);
        g_assert_true(g_str_has_suffix(place->path, row->name + strlen(row->name) - 4));
    } else {
        g_assert_cmpint(fd, ==, -1);
        g_assert_null(place);
        if (row->error)
            test_util_check_error(&error, QIMG_ERROR_NOT_FOUND, error_text);
        g_clear_error(&error);
    }
    tree_free(&tree);
}

static void
test_row(gconstpointer user)
{
    check_row(user, false);
    check_row(user, true);
}

/* Another file system stands for one that must get no requests. */
static void
test_avoided_device(void)
{
    static const char *const names[] = {
        "/proc/version",         "/proc",
        "to-proc/version",       "to-version",
        "../../../proc/version", "//proc/../proc/./version",
    };
    Tree tree = tree_new();
    g_autoptr(QimgOpenPolicy) policy = qimg_open_policy_new();
    g_autoptr(QimgPlace) naming = NULL;
    g_autoptr(QimgPlace) place = NULL;
    qimg_autofd image = qimg_open_named_by_user("images/top", false, &naming, NULL);
    qimg_autofd fd = -1;
    g_autofree char *absolute = expand(&tree, "@/images/base");
    struct stat status;
    GError *error = NULL;

    g_assert_cmpint(image, >=, 0);
    g_assert_cmpint(stat("/proc", &status), ==, 0);
    g_assert_cmpint(symlink("/proc", "images/to-proc"), ==, 0);
    g_assert_cmpint(symlink("to-proc/version", "images/to-version"), ==, 0);
    g_assert_true(qimg_open_policy_set(policy, "any", NULL));
    qimg_open_policy_avoid_device(policy, status.st_dev);
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_build_filename("images", names[i], NULL);
        QimgPlace *none = NULL;

        if (names[i][0] == '.' && !g_file_test(path, G_FILE_TEST_EXISTS))
            continue; /* the tree is deeper */
        g_assert_cmpint(
            qimg_open_named_by_image(policy, naming, names[i], false, &none, &error), ==,
            -1);
        g_assert_error(error, QIMG_ERROR, QIMG_ERROR_LOOP);
        g_assert_nonnull(strstr(error->message, "lies in this very mount"));
        g_clear_error(&error);
        g_assert_null(none);
    }
    fd = qimg_open_named_by_image(policy, naming, absolute, false, &place, &error);
    g_assert_no_error(error);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(unlink("images/to-proc"), ==, 0);
    g_assert_cmpint(unlink("images/to-version"), ==, 0);
    tree_free(&tree);
}

static void
test_settings(void)
{
    static const struct {
        const char *text;
        bool is_explicit;
        const char *error;
    } cases[] = {
        {"same-dir", true, NULL},
        {"any", true, NULL},
        {"none", true, NULL},
        {"/", true, NULL},
        {"/:/proc", true, NULL},
        {"", false, "backing= is empty (give same-dir, any, none, or directories)"},
        {":", false,
         "backing=:: \"\" is no directory (give same-dir, any, none, or directories "
         "separated by colons)"},
        {"/:/nonexistent", false,
         "backing=/:/nonexistent: \"/nonexistent\" is no directory (give same-dir, any, "
         "none, or directories separated by colons)"},
        {"/dev/null", false,
         "backing=/dev/null: \"/dev/null\" is no directory (give same-dir, any, none, or "
         "directories separated by colons)"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(QimgOpenPolicy) policy = qimg_open_policy_new();
        GError *error = NULL;

        g_assert_false(qimg_open_policy_is_explicit(policy));
        if (cases[i].error) {
            g_assert_false(qimg_open_policy_set(policy, cases[i].text, &error));
            test_util_check_error(&error, QIMG_ERROR_USAGE, cases[i].error);
        } else {
            g_assert_true(qimg_open_policy_set(policy, cases[i].text, &error));
            g_assert_no_error(error);
            g_assert_cmpint(qimg_open_policy_is_explicit(policy), ==,
                            cases[i].is_explicit);
        }
    }
    qimg_open_policy_free(NULL);
}

/* The places that a confined process must leave open. */
static void
test_places(void)
{
    static const struct {
        const char *policy, *map, *places;
    } cases[] = {
        {"same-dir", NULL, ""},  {"none", NULL, ""},
        {"any", NULL, "/"},      {"/:/proc", NULL, "/ /proc"},
        {"none", "/a=/b", "/b"}, {"/proc", "/a=/b/c", "/proc /b/c"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(QimgOpenPolicy) policy = qimg_open_policy_new();
        g_auto(GStrv) places = NULL;
        g_autofree char *text = NULL;

        g_assert_true(qimg_open_policy_set(policy, cases[i].policy, NULL));
        g_assert_true(!cases[i].map ||
                      qimg_open_policy_add_map(policy, cases[i].map, NULL));
        places = qimg_open_policy_get_places(policy);
        text = g_strjoinv(" ", places);
        g_assert_cmpstr(text, ==, cases[i].places);
    }
}

static void
test_map_syntax(void)
{
    static const char *const wrong[] = {"", "=", "a", "a=", "=b"};

    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(QimgOpenPolicy) policy = qimg_open_policy_new();
        g_autofree char *text = g_strdup_printf(
            "backing_map=%s: no OLD=NEW (give the stored name or directory, '=', and the "
            "file or directory to open in its place)",
            wrong[i]);
        GError *error = NULL;

        g_assert_false(qimg_open_policy_add_map(policy, wrong[i], &error));
        test_util_check_error(&error, QIMG_ERROR_USAGE, text);
    }
}

/* The user may name any file that can contain a disk. */
static void
test_by_user(void)
{
    Tree tree = tree_new();
    g_autoptr(QimgPlace) place = NULL;
    QimgPlace *none = NULL;
    qimg_autofd fd = qimg_open_named_by_user("images/link-out", false, &place, NULL);
    GError *error = NULL;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpstr(place->path, ==, "images/link-out");
    g_assert_cmpint(qimg_open_named_by_user("images/fifo", false, &none, &error), ==, -1);
    test_util_check_error(&error, QIMG_ERROR_REFUSED,
                          "is a FIFO, not a disk image (name a regular file or block "
                          "device)");
    g_assert_cmpint(qimg_open_named_by_user("images", false, &none, &error), ==, -1);
    test_util_check_error(
        &error, QIMG_ERROR_REFUSED,
        "is a directory, not a disk image (name a regular file or block "
        "device)");
    g_assert_cmpint(qimg_open_named_by_user("/dev/null", false, &none, &error), ==, -1);
    test_util_check_error(&error, QIMG_ERROR_REFUSED,
                          "is a character device, not a disk image (name a regular file "
                          "or block device)");
    g_assert_cmpint(qimg_open_named_by_user("absent", false, &none, &error), ==, -1);
    test_util_check_error(&error, QIMG_ERROR_NOT_FOUND,
                          "cannot open: No such file or directory (give the path of a "
                          "disk image)");
    g_assert_null(none);
    tree_free(&tree);
}

/* Renaming the directory after the image was opened has no effect. */
static void
test_renamed_directory(void)
{
    Tree tree = tree_new();
    g_autoptr(QimgOpenPolicy) policy = qimg_open_policy_new();
    g_autoptr(QimgPlace) naming = NULL;
    g_autoptr(QimgPlace) place = NULL;
    qimg_autofd image = qimg_open_named_by_user("images/top", false, &naming, NULL);
    qimg_autofd fd = -1;
    QimgPlace *none = NULL;
    GError *error = NULL;
    char content[100] = "";

    g_assert_cmpint(image, >=, 0);
    g_assert_cmpint(rename("images", "moved"), ==, 0);
    g_assert_cmpint(symlink("other", "images"), ==, 0);
    /* other/base is the file at the path now. */
    g_assert_cmpint(
        qimg_open_named_by_image(policy, naming, "base", false, &none, &error), ==, -1);
    g_assert_error(error, QIMG_ERROR, QIMG_ERROR_REFUSED);
    g_clear_error(&error);
    g_assert_null(none);
    g_assert_cmpint(unlink("images"), ==, 0);
    g_assert_cmpint(rename("moved", "images"), ==, 0);
    fd = qimg_open_named_by_image(policy, naming, "base", false, &place, &error);
    g_assert_no_error(error);
    g_assert_cmpint(read(fd, content, sizeof content - 1), >, 0);
    g_assert_cmpstr(content, ==, "images/base");
    tree_free(&tree);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/open-policy/%zu", i);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    g_test_add_func("/open-policy/avoided-device", test_avoided_device);
    for (size_t i = 0; i < G_N_ELEMENTS(moved_rows); i++) {
        g_autofree char *path = g_strdup_printf("/open-policy/moved/%zu", i);

        g_test_add_data_func(path, &moved_rows[i], test_moved);
    }
    g_test_add_func("/open-policy/settings", test_settings);
    g_test_add_func("/open-policy/places", test_places);
    g_test_add_func("/open-policy/map-syntax", test_map_syntax);
    g_test_add_func("/open-policy/by-user", test_by_user);
    g_test_add_func("/open-policy/renamed-directory", test_renamed_directory);
    return g_test_run();
}
