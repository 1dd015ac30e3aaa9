/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "images/image-dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "images/names.h"

#define PROBE_BYTES 512

static void
other_file_free(gpointer pointer)
{
    OtherFile *other = pointer;

    g_free(other->name);
    g_free(other->reason);
    g_free(other);
}

ImageDir *
image_dir_new(const char *path, GError **error)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ImageDir *dir;
    size_t n = strlen(path);

    if (fd < 0) {
        int errnum = errno;

        g_set_error(error, QIMG_ERROR,
                    errnum == ENOENT ? QIMG_ERROR_NOT_FOUND : QIMG_ERROR_FAILED,
                    "cannot read the directory: %s (give one that holds disk images)",
                    g_strerror(errnum));
        return NULL;
    }
    dir = g_new0(ImageDir, 1);
    while (n > 1 && path[n - 1] == '/')
        n--;
    dir->path = g_strndup(path, n);
    dir->fd = fd;
    dir->files = g_hash_table_new(g_str_hash, g_str_equal);
    dir->others = g_ptr_array_new_with_free_func(other_file_free);
    return dir;
}

void
image_dir_free(ImageDir *dir)
{
    if (!dir)
        return;
    close(dir->fd);
    g_hash_table_unref(dir->files);
    g_ptr_array_unref(dir->others);
    g_free(dir->path);
    g_free(dir);
}

static int
open_to_look(const ImageDir *dir, const char *name)
{
    int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    int fd = openat(dir->fd, name, flags | O_NOATIME);

    if (fd < 0 && errno == EPERM) /* O_NOATIME is refused for other users' files */
        fd = openat(dir->fd, name, flags);
    return fd;
}

/* Whether the file begins with the magic of an image. */
static bool
has_magic(const ImageDir *dir, const char *name)
{
    int fd = open_to_look(dir, name);
    char bytes[PROBE_BYTES];
    ssize_t n;

    if (fd < 0)
        return false;
    n = pread(fd, bytes, sizeof bytes, 0);
    close(fd);
    return n > 0 && qimg_probe(bytes, (size_t)n) != NULL;
}

bool
image_dir_has(const ImageDir *dir, const char *name, struct stat *status_out)
{
    if (name[0] == '.' || fstatat(dir->fd, name, status_out, AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    if (S_ISREG(status_out->st_mode))
        return names_has_suffix(name) || has_magic(dir, name);
    return S_ISLNK(status_out->st_mode) && names_has_suffix(name);
}

char *
image_dir_find_other(const ImageDir *dir, const char *name)
{
    const char *dot = strrchr(name, '.');
    g_autofree char *inner = dot ? g_strndup(name, (gsize)(dot - name)) : NULL;
    struct stat status;
    char *reason;
    int fd;

    if (name[0] == '.' || fstatat(dir->fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0 ||
        !S_ISREG(status.st_mode))
        return NULL;
    fd = open_to_look(dir, name);
    if (fd < 0)
        return NULL;
    reason = qimg_probe_foreign(fd, inner && names_has_suffix(inner));
    close(fd);
    return reason;
}

void
image_dir_set_other(ImageDir *dir, const char *name, char *reason)
{
    OtherFile *other = NULL;

    for (guint i = 0; i < dir->others->len && !other; i++) {
        OtherFile *at = dir->others->pdata[i];

        if (strcmp(at->name, name) != 0)
            continue;
        if (!reason) {
            g_ptr_array_remove_index(dir->others, i);
            return;
        }
        other = at;
    }
    if (!reason)
        return;
    if (!other) {
        other = g_new0(OtherFile, 1);
        other->name = g_strdup(name);
        g_ptr_array_add(dir->others, other);
    }
    g_free(other->reason);
    other->reason = reason;
}

/* Whether @entry may be a file or a link, without touching a mount on it. */
static bool
may_be_file(const ImageDir *dir, const struct dirent *entry)
{
    struct statx status;

    if (entry->d_type != DT_UNKNOWN)
        return entry->d_type == DT_REG || entry->d_type == DT_LNK;
    return statx(dir->fd, entry->d_name,
                 AT_SYMLINK_NOFOLLOW | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE,
                 &status) == 0 &&
           (S_ISREG(status.stx_mode) || S_ISLNK(status.stx_mode));
}

static int
compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

GPtrArray *
image_dir_list(const ImageDir *dir)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    /* A separate file position. */
    int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    int errnum;

    if (!stream) {
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    for (errno = 0; (entry = readdir(stream)) != NULL; errno = 0)
        if (entry->d_name[0] != '.' && may_be_file(dir, entry))
            g_ptr_array_add(names, g_strdup(entry->d_name));
    errnum = errno;
    closedir(stream);
    errno = errnum;
    if (errnum)
        return NULL;
    g_ptr_array_sort(names, compare_names);
    return g_steal_pointer(&names);
}

char *
image_dir_path_of(const ImageDir *dir, const char *name)
{
    return g_build_filename(dir->path, name, NULL);
}

QimgImage *
image_dir_open(const ImageDir *dir, const char *name, const QimgOptions *options,
               GError **error)
{
    g_autofree char *path = image_dir_path_of(dir, name);

    return qimg_image_open_at(dir->fd, name, path, options, error);
}
