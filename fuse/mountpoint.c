/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Mountpoints: stale ones, read-ahead, and marks by which `--wait` finds the server.
 *
 * A mark is a file in the user's runtime directory, named after the mountpoint and locked
 * while the server lives: a lock ends with its process, however that ends. */
#include "mountpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "qimg.h"

/* Finds the last mount at @absolute_path in the kernel's list. */
static bool
find_mount(const char *absolute_path, char **device_out, char **type_out)
{
    g_autofree char *list = NULL;
    g_auto(GStrv) lines = NULL;
    bool found = false;

    if (!g_file_get_contents("/proc/self/mountinfo", &list, NULL, NULL))
        return false;
    lines = g_strsplit(list, "\n", -1);
    for (char **line = lines; *line; line++) {
        g_auto(GStrv) fields = g_strsplit(*line, " ", -1);
        const char *dash = strstr(*line, " - ");
        g_autofree char *path = NULL;

        if (g_strv_length(fields) < 7 || !dash)
            continue;
        path = g_strcompress(fields[4]); /* blanks stand there as \040 */
        if (strcmp(path, absolute_path) != 0)
            continue;
        g_free(*device_out);
        g_free(*type_out);
        *device_out = g_strdup(fields[2]);
        *type_out = g_strndup(dash + 3, strcspn(dash + 3, " "));
        found = true;
    }
    return found;
}

char *
mountpoint_absolute(const char *path)
{
    char *real = realpath(path, NULL);
    char *copy = g_strdup(real);

    free(real);
    return copy;
}

/* The absolute path of something that cannot be looked at: its directory can. */
static char *
absolute_of_stale(const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path);
    g_autofree char *base = g_path_get_basename(path);
    g_autofree char *real_dir = mountpoint_absolute(dir);

    return real_dir ? g_build_filename(real_dir, base, NULL) : NULL;
}

static bool
unmount(const char *absolute_path)
{
    g_autoptr(GError) error = NULL;
    const char *argv[] = {"fusermount3", "-u", "-z", absolute_path, NULL};
    int status = -1;

    if (umount2(absolute_path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
        return true;
    return g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                        NULL, &status, &error) &&
           status == 0;
}

/* Whether the mount on @path has lost its process: this question always goes there, while
 * the kernel still answers stat from what it keeps. */
static bool
is_dead(const char *path)
{
    struct statfs status;

    return statfs(path, &status) < 0 && errno == ENOTCONN;
}

bool
mountpoint_remove_stale(const char *path, GError **error)
{
    while (is_dead(path)) {
        g_autofree char *absolute_path = absolute_of_stale(path);
        g_autofree char *device = NULL;
        g_autofree char *type = NULL;

        if (!absolute_path || !find_mount(absolute_path, &device, &type) ||
            strcmp(type, "fuse.qcowfs") != 0 || !unmount(absolute_path)) {
            g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED,
                        "a mount lies there whose process is gone (unmount it with "
                        "fusermount3 -u)");
            return false;
        }
        fprintf(stderr,
                "qcowfs: %s: unmounted an earlier qcowfs there, whose process is gone\n",
                path);
    }
    return true;
}

bool
mountpoint_prepare(const char *path, bool *is_file_out, GError **error)
{
    struct stat status;

    *is_file_out = false;
    if (g_str_has_prefix(path, "/dev/fd/")) /* libfuse takes an open /dev/fuse */
        return true;
    if (access("/dev/fuse", F_OK) < 0) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_NOT_FOUND,
                    "cannot mount: there is no /dev/fuse (load the module with modprobe "
                    "fuse, or give the container the device; qimg info and qimg map work "
                    "without it)");
        return false;
    }
    if (stat(path, &status) < 0) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_NOT_FOUND,
                    "cannot be used as the mountpoint: %s (make the directory first)",
                    g_strerror(errno));
        return false;
    }
    *is_file_out = S_ISREG(status.st_mode);
    if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode))
        return true;
    g_set_error(
        error, QIMG_ERROR, QIMG_ERROR_USAGE,
        "cannot be used as the mountpoint: neither a directory nor a regular file "
        "(name an empty directory)");
    return false;
}

/* The path of the mark, in a directory that nobody else can write to. NULL if there is
 * none. */
static char *
mark_path(const char *absolute_path)
{
    g_autofree char *dir = NULL;
    g_autofree char *sum = NULL;
    struct stat status;

    if (geteuid() == 0)
        dir = g_strdup("/run/qcowfs");
    else if (g_getenv("XDG_RUNTIME_DIR"))
        dir = g_build_filename(g_getenv("XDG_RUNTIME_DIR"), "qcowfs", NULL);
    else
        dir = g_strdup_printf("/tmp/qcowfs-%u", geteuid());
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return NULL;
    if (lstat(dir, &status) < 0 || !S_ISDIR(status.st_mode) ||
        status.st_uid != geteuid() || (status.st_mode & 022))
        return NULL;
    sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, absolute_path, -1);
    return g_strdup_printf("%s/%.32s", dir, sum);
}

int
mountpoint_mark(const char *absolute_path)
{
    g_autofree char *path = absolute_path ? mark_path(absolute_path) : NULL;
    int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;

    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

void
mountpoint_unmark(const char *absolute_path, int mark_fd)
{
    g_autofree char *path = mark_fd >= 0 ? mark_path(absolute_path) : NULL;

    if (path)
        unlink(path);
    if (mark_fd >= 0)
        close(mark_fd);
}

bool
mountpoint_wait(const char *path, GError **error)
{
    g_autofree char *absolute_path = absolute_of_stale(path);
    g_autofree char *mark = NULL;
    int fd;

    if (!absolute_path) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_NOT_FOUND,
                    "no such mountpoint (give the path that was mounted on)");
        return false;
    }
    mark = mark_path(absolute_path);
    fd = mark ? open(mark, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
    if (fd < 0)
        return true; /* nobody serves it */
    while (flock(fd, LOCK_SH) < 0 && errno == EINTR)
        ;
    close(fd);
    return true;
}
