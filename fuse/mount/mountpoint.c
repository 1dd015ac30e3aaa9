/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Handles stale mountpoints, and the marks by which `--wait` finds the server.
 *
 * A mark is a file in one of the user's directories, named after the mountpoint and the
 * process, and locked while the server lives: a lock ends with its process, however that
 * ends. Its content is the mount's device, by which it is found in other mount
 * namespaces. */
#include "mount/mountpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "qimg.h"

#define MAX_MARK_TRIES 10
#define ROOT_MARK_DIR  "/run/qcowfs"

#define DESCRIPTOR_PREFIX "/dev/fd/"

bool
mountpoint_is_descriptor(const char *path)
{
    return g_str_has_prefix(path, DESCRIPTOR_PREFIX);
}

/* Finds the last mount at @absolute_path in the kernel's list. @source_out may be NULL.
 */
static bool
find_mount(const char *absolute_path, char **device_out, char **type_out,
           char **source_out)
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
        path = g_strcompress(fields[4]); /* undoes \040 for blanks */
        if (strcmp(path, absolute_path) != 0)
            continue;
        g_free(*device_out);
        g_free(*type_out);
        *device_out = g_strdup(fields[2]);
        *type_out = g_strndup(dash + 3, strcspn(dash + 3, " "));
        if (source_out) {
            const char *source = dash + 3 + strlen(*type_out);
            g_autofree char *escaped =
                *source ? g_strndup(source + 1, strcspn(source + 1, " ")) : g_strdup("");

            g_free(*source_out);
            *source_out = g_strcompress(escaped);
        }
        found = true;
    }
    return found;
}

char *
mountpoint_device(const char *absolute_path)
{
    g_autofree char *type = NULL;
    char *device = NULL;

    find_mount(absolute_path, &device, &type, NULL);
    return device;
}

char *
mountpoint_absolute(const char *path)
{
    char *real = mountpoint_is_descriptor(path) ? NULL : realpath(path, NULL);
    char *copy = g_strdup(real);

    free(real);
    return copy;
}

/* As mountpoint_absolute, also for a path that cannot be examined, as long as its
 * directory, or a symbolic link to it, can. */
static char *
absolute_of_any(const char *path)
{
    g_autofree char *plain = g_strdup(path);
    g_autofree char *dir = NULL;
    g_autofree char *base = NULL;
    g_autofree char *real_dir = NULL;
    g_autofree char *target = NULL;
    char *real = mountpoint_absolute(path);
    size_t n = strlen(plain);

    if (real)
        return real;
    while (n > 1 && (plain[n - 1] == '/' || g_str_has_suffix(plain, "/.")))
        plain[--n] = '\0';
    dir = g_path_get_dirname(plain);
    base = g_path_get_basename(plain);
    real_dir = mountpoint_absolute(dir);
    target = g_file_read_link(plain, NULL);
    if (!real_dir)
        return NULL;
    if (!target)
        return g_build_filename(real_dir, base, NULL);
    return g_canonicalize_filename(target, real_dir);
}

bool
mountpoint_unmount(const char *absolute_path)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *message = NULL; /* of no use beside our message */
    const char *argv[] = {"fusermount3", "-u", "-z", "--", absolute_path, NULL};
    int status = -1;

    if (umount2(absolute_path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
        return true;
    return g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                        &message, &status, &error) &&
           status == 0;
}

/* Whether the mount on @path has lost its process. Uses statfs, which always asks the
 * server; the kernel still answers stat from its cache. */
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
        g_autofree char *absolute_path = absolute_of_any(path);
        g_autofree char *device = NULL;
        g_autofree char *type = NULL;

        if (!absolute_path || !find_mount(absolute_path, &device, &type, NULL) ||
            strcmp(type, "fuse.qcowfs") != 0 || !mountpoint_unmount(absolute_path)) {
            g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED,
                        "a mount lies there whose process is gone (unmount it with "
                        "fusermount3 -u)");
            return false;
        }
        g_message("%s: unmounted an earlier qcowfs there, whose process is gone", path);
    }
    return true;
}

/* libfuse accepts any number as an open /dev/fuse. */
static bool
check_descriptor(const char *path, GError **error)
{
    struct pollfd poller = {.events = POLLIN};
    struct stat status, device;
    guint64 fd = 0;

    if (!g_ascii_string_to_unsigned(path + strlen(DESCRIPTOR_PREFIX), 10, 0, G_MAXINT,
                                    &fd, NULL) ||
        fstat((int)fd, &status) < 0 || !S_ISCHR(status.st_mode) ||
        (stat("/dev/fuse", &device) == 0 && device.st_rdev != status.st_rdev)) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "cannot be used as the mountpoint: is no open descriptor of "
                    "/dev/fuse (pass on the one that was mounted with)");
        return false;
    }
    /* Without a mount, /dev/fuse behaves as after the end of one. */
    poller.fd = (int)fd;
    if (poll(&poller, 1, 0) < 0 || !(poller.revents & POLLERR))
        return true;
    g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                "cannot be used as the mountpoint: nothing is mounted with that "
                "descriptor of /dev/fuse (mount first, with fd=N)");
    return false;
}

bool
mountpoint_check_first(const char *path, const GPtrArray *images, GError **error)
{
    g_autofree char *absolute_path = mountpoint_absolute(path);
    g_autofree char *device = NULL;
    g_autofree char *type = NULL;
    g_autofree char *source = NULL;
    const char *image = images->pdata[0];

    if (images->len == 1 && g_file_test(path, G_FILE_TEST_IS_REGULAR) &&
        g_file_test(image, G_FILE_TEST_IS_DIR)) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "is a file, and %s is a directory (the mountpoint comes last: qcowfs "
                    "IMAGE MOUNTPOINT)",
                    image);
        return false;
    }
    if (absolute_path && find_mount(absolute_path, &device, &type, &source) &&
        strcmp(type, "fuse.qcowfs") == 0 && images->len == 1 &&
        strcmp(source, image) == 0) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_USAGE,
                    "%s is mounted there already (unmount it with fusermount3 -u)",
                    image);
        return false;
    }
    return true;
}

/* The user's remedy if @path cannot be examined. */
static const char *
cure_of_path(int errnum)
{
    return errnum == EACCES    ? "name a directory of your own"
           : errnum == ENOTDIR ? "a part of the path is a file"
                               : "make the directory first";
}

bool
mountpoint_prepare(const char *path, bool *is_file_out, GError **error)
{
    struct stat status;

    *is_file_out = false;
    if (mountpoint_is_descriptor(path))
        return check_descriptor(path, error);
    if (access("/dev/fuse", F_OK) < 0) {
        g_set_error(
            error, QIMG_ERROR, QIMG_ERROR_NOT_FOUND,
            "cannot mount: there is no /dev/fuse (load the module with modprobe "
            "fuse, or give the container the device; qimg info, map, snapshot list "
            "and copy-out work without it)");
        return false;
    }
    if (stat(path, &status) < 0) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_NOT_FOUND,
                    "cannot be used as the mountpoint: %s (%s)", g_strerror(errno),
                    cure_of_path(errno));
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

/* Several, since the waiting process may have another environment than the server, and
 * since the first may be missing, or belong to another user after su(1). */
GStrv
mountpoint_mark_dirs(void)
{
    const char *runtime_dir = g_getenv("XDG_RUNTIME_DIR");
    GPtrArray *dirs = g_ptr_array_new();

    if (geteuid() == 0) {
        g_ptr_array_add(dirs, g_strdup(ROOT_MARK_DIR));
    } else {
        if (runtime_dir && g_path_is_absolute(runtime_dir))
            g_ptr_array_add(dirs, g_build_filename(runtime_dir, "qcowfs", NULL));
        g_ptr_array_add(dirs, g_strdup_printf("/run/user/%u/qcowfs", geteuid()));
    }
    g_ptr_array_add(dirs, g_strdup_printf("/tmp/qcowfs-%u", geteuid()));
    g_ptr_array_add(dirs, NULL);
    return (GStrv)g_ptr_array_free(dirs, FALSE);
}

/* The start of the names of @absolute_path's marks. */
static char *
mark_prefix(const char *absolute_path)
{
    g_autofree char *sum =
        g_compute_checksum_for_string(G_CHECKSUM_SHA256, absolute_path, -1);

    return g_strdup_printf("%.32s.", sum);
}

/* Whether only @uid can write to @dir. */
static bool
is_owned(const char *dir, uid_t uid)
{
    struct stat status;

    return lstat(dir, &status) == 0 && S_ISDIR(status.st_mode) && status.st_uid == uid &&
           !(status.st_mode & 022);
}

/* The path of this process's mark in @dir, or NULL if it may not be there. A server that
 * is already unmounted and still closing its images has a mark beside those of the next
 * ones. */
static char *
mark_path(const char *dir, const char *absolute_path)
{
    g_autofree char *prefix = mark_prefix(absolute_path);

    return is_owned(dir, geteuid())
               ? g_strdup_printf("%s/%s%d", dir, prefix, (int)getpid())
               : NULL;
}

/* The paths of all marks of @absolute_path in @dir. */
static GPtrArray *
list_marks(const char *dir, const char *absolute_path)
{
    g_autofree char *prefix = mark_prefix(absolute_path);
    g_autoptr(GDir) entries = g_dir_open(dir, 0, NULL);
    GPtrArray *paths = g_ptr_array_new_with_free_func(g_free);
    const char *name;

    while (entries && (name = g_dir_read_name(entries)))
        if (g_str_has_prefix(name, prefix))
            g_ptr_array_add(paths, g_build_filename(dir, name, NULL));
    return paths;
}

/* Whether @path is still the file that is open as @fd. */
static bool
is_same_inode(const char *path, int fd)
{
    struct stat named, opened;

    return lstat(path, &named) == 0 && fstat(fd, &opened) == 0 &&
           named.st_dev == opened.st_dev && named.st_ino == opened.st_ino;
}

/* Removes the marks of servers that were killed. */
static void
remove_stale_marks(const char *dir, const char *absolute_path)
{
    g_autoptr(GPtrArray) paths = list_marks(dir, absolute_path);

    for (guint i = 0; i < paths->len; i++) {
        int fd = open(paths->pdata[i], O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
            unlink(paths->pdata[i]);
        if (fd >= 0)
            close(fd);
    }
}

/* As mountpoint_mark, in @dir. */
static int
mark_in(const char *dir, const char *absolute_path)
{
    g_autofree char *path = NULL;

    if (mkdir(dir, 0755) == 0 || errno == EEXIST)
        path = mark_path(dir, absolute_path);
    if (path) {
        (void)chmod(dir, 0755); /* whatever the umask: others wait for marks, too */
        remove_stale_marks(dir, absolute_path);
    }
    for (int i = 0; path && i < MAX_MARK_TRIES; i++) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);

        if (fd < 0)
            break;
        if (flock(fd, LOCK_EX | LOCK_NB) == 0 && is_same_inode(path, fd)) {
            (void)fchmod(fd, 0644);
            return fd;
        }
        unlink(path); /* another process looks at the mark of an earlier one */
        close(fd);
    }
    return -1;
}

int
mountpoint_mark(const char *absolute_path)
{
    g_auto(GStrv) dirs = mountpoint_mark_dirs();
    int fd = -1;

    for (char **dir = dirs; absolute_path && *dir && fd < 0; dir++)
        fd = mark_in(*dir, absolute_path);
    return fd;
}

void
mountpoint_unmark(const char *absolute_path, int mark_fd)
{
    g_auto(GStrv) dirs = mountpoint_mark_dirs();

    if (mark_fd < 0)
        return;
    for (char **dir = dirs; *dir; dir++) {
        g_autofree char *path = mark_path(*dir, absolute_path);

        if (path && is_same_inode(path, mark_fd))
            unlink(path);
    }
    close(mark_fd);
}

void
mountpoint_mark_mounted(const char *absolute_path, int mark_fd)
{
    g_autofree char *device =
        absolute_path && mark_fd >= 0 ? mountpoint_device(absolute_path) : NULL;

    if (device && pwrite(mark_fd, device, strlen(device), 0) < 0)
        g_debug("mark: %s", g_strerror(errno));
}

/* A path at which process @pid sees the mount of @device, or NULL. */
static char *
find_path_of_device(const char *pid, const char *device)
{
    g_autofree char *list_path = g_build_filename("/proc", pid, "mountinfo", NULL);
    g_autofree char *list = NULL;
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents(list_path, &list, NULL, NULL))
        return NULL;
    lines = g_strsplit(list, "\n", -1);
    for (char **line = lines; *line; line++) {
        g_auto(GStrv) fields = g_strsplit(*line, " ", 6);

        if (g_strv_length(fields) == 6 && strcmp(fields[2], device) == 0)
            return g_strcompress(fields[4]);
    }
    return NULL;
}

/* If the mount of @device has left @absolute_path and is still elsewhere, so that its
 * server goes on, says where. Returns whether it did. */
static bool
tell_holder(const char *absolute_path, const char *device)
{
    g_autofree char *device_here = mountpoint_device(absolute_path);
    g_autofree char *own_path = NULL;
    g_autoptr(GDir) processes = NULL;
    const char *pid;

    if (g_strcmp0(device_here, device) == 0)
        return false;
    own_path = find_path_of_device("self", device);
    if (own_path) {
        g_message("%s: is still mounted as %s (unmount that, too)", absolute_path,
                  own_path);
        return true;
    }
    processes = g_dir_open("/proc", 0, NULL);
    while (processes && (pid = g_dir_read_name(processes))) {
        g_autofree char *path =
            g_ascii_isdigit(pid[0]) ? find_path_of_device(pid, device) : NULL;
        g_autofree char *name_path = g_build_filename("/proc", pid, "comm", NULL);
        g_autofree char *name = NULL;

        if (!path)
            continue;
        if (g_file_get_contents(name_path, &name, NULL, NULL))
            g_strchomp(name);
        g_message("%s: is still mounted as %s in the mount namespace of process %s (%s) "
                  "(end the processes there, or nsenter -t %s -m umount %s)",
                  absolute_path, path, pid, name ? name : "?", pid, path);
        return true;
    }
    return false;
}

static void
on_alarm(int number)
{
    (void)number;
}

/* Waits for the server whose mark is open as @fd. */
static void
wait_for_mark(int fd, const char *absolute_path)
{
    const struct itimerval looks = {{1, 0}, {1, 0}}, never = {{0, 0}, {0, 0}};
    struct sigaction interrupts = {.sa_handler = on_alarm}; /* flock: no SA_RESTART */
    char device[32] = "";
    int err;

    if (flock(fd, LOCK_SH | LOCK_NB) == 0)
        return;
    sigaction(SIGALRM, &interrupts, NULL);
    setitimer(ITIMER_REAL, &looks, NULL);
    do {
        if (pread(fd, device, sizeof device - 1, 0) > 0 &&
            tell_holder(absolute_path, device))
            setitimer(ITIMER_REAL, &never, NULL);
        err = flock(fd, LOCK_SH) < 0 ? errno : 0;
    } while (err == EINTR);
    setitimer(ITIMER_REAL, &never, NULL);
}

/* As mountpoint_wait, for servers whose mark is in @dir. Whether there was a mark. */
static bool
wait_in(const char *dir, const char *absolute_path)
{
    g_autoptr(GPtrArray) marks = list_marks(dir, absolute_path);

    for (guint i = 0; i < marks->len; i++) {
        int fd = open(marks->pdata[i], O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

        if (fd < 0)
            continue;
        wait_for_mark(fd, absolute_path);
        close(fd);
    }
    return marks->len > 0;
}

/* Whether nothing has the name @absolute_path; a mount there is not asked. */
static bool
is_missing(const char *absolute_path)
{
    struct statx status;

    return statx(AT_FDCWD, absolute_path,
                 AT_SYMLINK_NOFOLLOW | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE,
                 &status) < 0 &&
           errno == ENOENT;
}

/* Adds the directory "qcowfs", or "qcowfs-UID", of each user in @top. */
static void
add_dirs_of_users(GPtrArray *dirs, const char *top, const char *prefix)
{
    g_autoptr(GDir) entries = g_dir_open(top, 0, NULL);
    const char *name;

    while (entries && (name = g_dir_read_name(entries))) {
        char *dir = NULL;
        guint64 uid = 0;

        if (!g_str_has_prefix(name, prefix) ||
            !g_ascii_string_to_unsigned(name + strlen(prefix), 10, 1, G_MAXUINT32, &uid,
                                        NULL))
            continue;
        dir = g_build_filename(top, name, *prefix ? NULL : "qcowfs", NULL);
        if (is_owned(dir, (uid_t)uid))
            g_ptr_array_add(dirs, dir);
        else
            g_free(dir);
    }
}

/* The directories in which marks of servers may be that a process of this user waits for:
 * its own, and root's; root's waits for those of all users. */
static GStrv
list_wait_dirs(void)
{
    g_auto(GStrv) own = mountpoint_mark_dirs();
    GPtrArray *dirs = g_ptr_array_new();

    for (char **dir = own; *dir; dir++)
        if (is_owned(*dir, geteuid()))
            g_ptr_array_add(dirs, g_strdup(*dir));
    if (geteuid() == 0) {
        add_dirs_of_users(dirs, "/run/user", "");
        add_dirs_of_users(dirs, "/tmp", "qcowfs-");
    } else if (is_owned(ROOT_MARK_DIR, 0)) {
        g_ptr_array_add(dirs, g_strdup(ROOT_MARK_DIR));
    }
    g_ptr_array_add(dirs, NULL);
    return (GStrv)g_ptr_array_free(dirs, FALSE);
}

bool
mountpoint_wait(const char *path, GError **error)
{
    g_autofree char *absolute_path = absolute_of_any(path);
    g_auto(GStrv) dirs = list_wait_dirs();
    bool is_found = false;

    for (char **dir = dirs; absolute_path && *dir; dir++)
        is_found |= wait_in(*dir, absolute_path);
    if (!absolute_path || (!is_found && is_missing(absolute_path))) {
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_NOT_FOUND,
                    "no such mountpoint (give the path that was mounted on)");
        return false;
    }
    return true;
}
