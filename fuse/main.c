/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcowfs: the order of start is options, images, mount, background, loop; everything that
 * can fail does so before the process leaves the terminal. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "images/dir-watch.h"
#include "images/images-close.h"
#include "images/images-dir.h"
#include "mount/background.h"
#include "mount/log.h"
#include "mount/mountpoint.h"
#include "mount/notify.h"
#include "sandbox/sandbox.h"
#include "session.h"

/* Prints one line, "qcowfs: FILE: the problem". @file may be NULL. */
static int
fail(const char *file, const GError *error)
{
    g_autofree char *text =
        g_strconcat(file ? file : "", file ? ": " : "", error->message, NULL);
    g_autofree char *line = log_line(text);

    fprintf(stderr, "qcowfs: %s\n", line);
    notify_send("STATUS=%s", line);
    return EXIT_FAILURE;
}

static void
print_warnings(const QimgImage *image)
{
    for (const char *const *w = qimg_image_get_warnings(image); *w; w++)
        g_warning("%s", *w);
}

#define FUSE_CONF "/etc/fuse.conf"

/* Whether ordinary users may give others access. */
static bool
is_user_allow_other_set(void)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents(FUSE_CONF, &text, NULL, NULL))
        return false;
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++)
        if (strcmp(g_strstrip(*line), "user_allow_other") == 0)
            return true;
    return false;
}

/* A hint on access by other users, for a person at a terminal. */
static void
print_hints(const Options *options)
{
    if (options->allow_other || options->quiet || !isatty(STDERR_FILENO) ||
        mountpoint_is_descriptor(options->mountpoint))
        return;
    if (geteuid() == 0)
        g_message("only root can read the files (others with -o allow_other)");
    else
        g_message("only you can read the files (loop devices: -o allow_root%s)",
                  is_user_allow_other_set() ? ""
                                            : ", and user_allow_other in " FUSE_CONF);
}

/* The output of -v: the layers of each file of the mount. */
static void
print_chain(const QimgImage *image)
{
    for (unsigned i = 0; i < qimg_image_get_n_layers(image); i++) {
        g_autofree char *line = log_line(qimg_image_get_layer_path(image, i));

        fprintf(stderr, "qcowfs: %s%s\n", i == 0 ? "" : "  based on ", line);
    }
}

/* Notes on options that need one, one line each. */
static void
print_option_notes(const Options *options)
{
    if (options->no_lock && options->is_writable && !options->is_cow)
        g_warning("nolock with rw is dangerous: another program that writes to the image "
                  "destroys it, and no lock prevents that");
    if (options->is_cow && options->verbose)
        g_message("writes go to %s; the images stay as they are",
                  options->cow_file ? options->cow_file
                                    : "an overlay that vanishes at the end");
}

/* As fail, also without a terminal. */
static void
fail_while_running(const Options *options, const char *file, const GError *error)
{
    if (options->foreground)
        fail(file, error);
    else
        g_critical("%s%s%s", file ? file : "", file ? ": " : "", error->message);
}

/* Ends @session; then all written data are on stable storage, or an error is reported. */
static bool
end_session(const Options *options, Session *session, const Tree *tree)
{
    g_autoptr(GError) error = NULL;
    bool is_good = images_flush(tree->images, &error);

    if (!is_good) /* while the system's log can still be reopened */
        fail_while_running(options, NULL, error);
    session_free(session);
    return is_good;
}

/* Opens one image; false after printing the problem. */
static bool
open_image(const Options *options, Images *images, const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgImage) image = qimg_image_open(path, options->image_options, &error);

    if (!image || !images_add_open(images, image, path, &error)) {
        fail(path, error);
        return false;
    }
    print_warnings(image);
    if (options->verbose)
        print_chain(image);
    g_steal_pointer(&image);
    return true;
}

/* Many images may be open at a time, with a file for each layer. The default limit
 * protects programs that use select(2); neither we nor our children do. */
static void
raise_file_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        g_debug("RLIMIT_NOFILE: %s", g_strerror(errno));
}

/* Opens all images and adds the directories; named images keep their names against those
 * of directories. NULL after printing the problem with one. */
static Images *
open_images(const Options *options)
{
    g_autoptr(Images) images = images_new(options_for_images(options));
    g_autoptr(GPtrArray) directories = g_ptr_array_new();
    g_autoptr(GError) error = NULL;

    for (guint i = 0; i < options->images->len; i++) {
        const char *path = options->images->pdata[i];

        if (g_file_test(path, G_FILE_TEST_IS_DIR))
            g_ptr_array_add(directories, options->images->pdata[i]);
        else if (!open_image(options, images, path))
            return NULL;
    }
    for (guint i = 0; i < directories->len; i++) {
        if (!images_add_directory(images, directories->pdata[i], &error)) {
            fail(directories->pdata[i], error);
            return NULL;
        }
    }
    return g_steal_pointer(&images);
}

/* Allows opening the images below given directories later. */
static void
allow_directories(Sandbox *sandbox, const Options *options)
{
    g_auto(GStrv) named = qimg_options_get_named_places(options->image_options);
    unsigned access = options->is_writable && !options->is_cow
                          ? SANDBOX_READ | SANDBOX_WRITE
                          : SANDBOX_READ;
    bool has_directory = false;

    for (guint i = 0; i < options->images->len; i++) {
        const char *path = options->images->pdata[i];

        if (!g_file_test(path, G_FILE_TEST_IS_DIR))
            continue;
        sandbox_allow(sandbox, path, access);
        has_directory = true;
    }
    if (!has_directory)
        return;
    for (char **place = named; *place; place++)
        sandbox_allow(sandbox, *place, access);
    if (options->is_cow)
        sandbox_allow(sandbox, g_getenv("TMPDIR"), SANDBOX_READ | SANDBOX_WRITE);
}

/* Makes TMPDIR absolute: libqimg makes temporary overlays there, also later, after the
 * daemon has left the directory that a relative name starts from. Call before threads are
 * made. */
static void
keep_temporary_directory(void)
{
    const char *dir = g_getenv("TMPDIR");
    g_autofree char *absolute_dir =
        dir && *dir ? g_canonicalize_filename(dir, NULL) : g_strdup("/var/tmp");

    g_setenv("TMPDIR", absolute_dir, TRUE);
}

/* The files that the running process may still reach by name: the mark that it removes at
 * the end, and directories. NULL if it may reach everything. */
static Sandbox *
make_sandbox(const Options *options)
{
    g_auto(GStrv) mark_dirs = mountpoint_mark_dirs();
    Sandbox *sandbox = options->no_sandbox ? NULL : sandbox_new();

    if (!sandbox)
        return NULL;
    for (char **dir = mark_dirs; *dir; dir++)
        sandbox_allow(sandbox, *dir, SANDBOX_REMOVE);
    allow_directories(sandbox, options);
    return sandbox;
}

/* From the mount to the last moment at which a failure can be reported on the
 * terminal. */
static bool
begin_serving(const Options *options, Session *session, Sandbox *sandbox,
              QimgKeeper *keeper, GError **error)
{
    g_autofree char *report = NULL;
    g_autoptr(GError) keeper_error = NULL;
    int ready_fd = -1;

    if (!options->foreground) {
        ready_fd = background_fork(error);
        if (ready_fd < 0)
            return false;
        log_to_syslog();
    }
    if (keeper && !qimg_keeper_start(keeper, &keeper_error))
        g_warning("%s (writes are slower)", keeper_error->message);
    json_object_seed(0); /* reads /dev/urandom, once */
    if (!session_confine(session, sandbox, &report, error))
        return false;
    if (options->verbose && report)
        fprintf(stderr, "qcowfs: %s\n", report);
    if (ready_fd >= 0)
        background_enter(ready_fd);
    return true;
}

static int
serve_tree(const Options *options, const Tree *tree, DirWatch *watch, QimgKeeper *keeper,
           const char *absolute_path, int mark_fd)
{
    g_autoptr(GError) error = NULL;
    /* Before the mount: the mount may cover an image, and no thread serves it yet. */
    g_autoptr(Sandbox) sandbox = make_sandbox(options);
    Session *session = session_mount(options, tree, watch, &error);
    bool is_started, is_good;

    if (!session)
        return fail(options->mountpoint, error);
    mountpoint_mark_mounted(absolute_path, mark_fd);
    print_hints(options);
    is_started = begin_serving(options, session, sandbox, keeper, &error);
    is_good = is_started && session_run(session, &error);
    if (!is_started)
        fail(options->mountpoint, error);
    else if (!is_good)
        fail_while_running(options, options->mountpoint, error);
    return end_session(options, session, tree) && is_good ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* A temporary overlay needs no keeper, since its content may be lost. */
static QimgKeeper *
make_keeper(const Options *options)
{
    QimgKeeper *keeper = NULL;

    if (options->is_writable && (!options->is_cow || options->cow_file))
        keeper = qimg_keeper_new();
    qimg_options_set_keeper(options->image_options, keeper);
    return keeper;
}

static int
mount_images(const Options *options)
{
    g_autoptr(QimgKeeper) keeper = NULL; /* outlives the images */
    g_autoptr(Images) images = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *absolute_path = NULL;
    g_autoptr(DirWatch) watch = NULL;
    bool is_file, has_directory;
    Tree *tree;
    int mark_fd, result;

    /* A dead mount may cover an image. */
    if (!mountpoint_remove_stale(options->mountpoint, &error) ||
        !mountpoint_check_first(options->mountpoint, options->images, &error))
        return fail(options->mountpoint, error);
    /* Open the images first: errors in them are more likely, and an image used as
     * mountpoint must be opened before it is covered. */
    print_option_notes(options);
    raise_file_limit();
    if (options->is_cow)
        keep_temporary_directory();
    keeper = make_keeper(options);
    qimg_options_set_ask_passphrase(options->image_options, qimg_ask_on_terminal,
                                    options->image_options);
    if (qimg_options_has_passphrase(options->image_options))
        qimg_process_hide_memory();
    images = open_images(options);
    if (!images)
        return EXIT_FAILURE;
    /* Images that are opened later are opened by a process without a terminal. */
    qimg_options_set_ask_passphrase(options->image_options, NULL, NULL);
    if (qimg_options_has_passphrase(options->image_options)) /* also one typed now */
        qimg_process_hide_memory();
    if (!mountpoint_prepare(options->mountpoint, &is_file, &error))
        return fail(options->mountpoint, error);
    has_directory = images_get_directory(images, 0) != NULL;
    if (is_file && (images_get_n(images) > 1 || has_directory)) {
        g_set_error(&error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "a regular file can show one image only (give a directory)");
        return fail(options->mountpoint, error);
    }
    if (has_directory) {
        /* Their images are opened in the sandbox. */
        if (!qimg_load_libraries(&error))
            g_warning("encrypted images cannot be opened: %s", error->message);
        g_clear_error(&error);
        watch = dir_watch_new(images, &error);
        if (!watch)
            return fail(NULL, error);
    }
    tree = tree_new(images, options, is_file);
    absolute_path = mountpoint_absolute(options->mountpoint);
    mark_fd = mountpoint_mark(absolute_path);
    result = serve_tree(options, tree, watch, keeper, absolute_path, mark_fd);
    tree_free(tree);
    g_clear_pointer(&images, images_free); /* before waiting processes are told */
    mountpoint_unmark(absolute_path, mark_fd);
    return result;
}

/* If standard descriptors are closed, files must not get their numbers: messages would be
 * written to those files, and going to the background replaces them. */
static bool
hold_standard_descriptors(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd < 0)
        return false;
    close(fd);
    return true;
}

int
main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Options) options = NULL;

    if (!hold_standard_descriptors()) {
        g_set_error(&error, QIMG_ERROR, QIMG_ERROR_FAILED, "cannot open: %s",
                    g_strerror(errno));
        return fail("/dev/null", error);
    }
    log_to_terminal();
    notify_open();
    options = options_parse(argc, argv, &error);
    if (!options)
        return fail(NULL, error);
    switch (options->command) {
    case COMMAND_HELP:
        options_print_help();
        return EXIT_SUCCESS;
    case COMMAND_VERSION:
        printf("qcowfs %s\n", qimg_version());
        return EXIT_SUCCESS;
    case COMMAND_WAIT:
        if (mountpoint_wait(options->mountpoint, &error))
            return EXIT_SUCCESS;
        return fail(options->mountpoint, error);
    case COMMAND_MOUNT:
        break;
    }
    return mount_images(options);
}
