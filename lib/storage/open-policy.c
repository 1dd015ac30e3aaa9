/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A stored name is first opened as O_PATH, which has no effect on the file; the kernel
 * then tells its real path, and only an allowed regular file is opened for reading,
 * through the same descriptor. So symbolic links may be followed safely. */
#include "storage/open-policy-private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/errors.h"
#include "storage/file.h"
#include "storage/real-path.h"

#define MAX_LINKS 40u /* the kernel's limit for one name */

QimgOpenPolicy *
qimg_open_policy_new(void)
{
    QimgOpenPolicy *policy = g_new0(QimgOpenPolicy, 1);

    policy->dirs = g_ptr_array_new_with_free_func(g_free);
    policy->maps = g_ptr_array_new_with_free_func(g_free);
    return policy;
}

void
qimg_open_policy_free(QimgOpenPolicy *policy)
{
    if (!policy)
        return;
    g_ptr_array_unref(policy->dirs);
    g_ptr_array_unref(policy->maps);
    g_free(policy);
}

static bool
is_directory_or_device(const char *path)
{
    struct stat status;

    return stat(path, &status) == 0 &&
           (S_ISDIR(status.st_mode) || S_ISBLK(status.st_mode));
}

bool
qimg_open_policy_set(QimgOpenPolicy *policy, const char *text, GError **error)
{
    static const struct {
        const char *word;
        PolicyKind kind;
    } words[] = {
        {"same-dir", POLICY_SAME_DIR}, {"any", POLICY_ANY}, {"none", POLICY_NONE}};
    g_auto(GStrv) dirs = NULL;

    g_ptr_array_set_size(policy->dirs, 0);
    policy->is_explicit = true;
    for (size_t i = 0; i < G_N_ELEMENTS(words); i++) {
        if (strcmp(text, words[i].word) == 0) {
            policy->kind = words[i].kind;
            return true;
        }
    }
    policy->kind = POLICY_DIRS;
    dirs = g_strsplit(text, ":", -1);
    for (char **dir = dirs; *dir; dir++) {
        char *real = **dir ? realpath(*dir, NULL) : NULL;

        if (!real || !is_directory_or_device(real)) {
            free(real);
            qimg_set_error(
                error, QIMG_ERROR_USAGE,
                "backing=%s: \"%s\" is no directory (give same-dir, any, none, "
                "or directories separated by colons)",
                text, *dir);
            return false;
        }
        g_ptr_array_add(policy->dirs, g_strdup(real));
        free(real);
    }
    if (policy->dirs->len > 0)
        return true;
    qimg_set_error(error, QIMG_ERROR_USAGE,
                   "backing= is empty (give same-dir, any, none, or directories)");
    return false;
}

/* @path made absolute: the current directory may be another one when it is used. */
static char *
absolute_path(const char *path)
{
    g_autofree char *here = g_path_is_absolute(path) ? NULL : g_get_current_dir();

    return here ? g_build_filename(here, path, NULL) : g_strdup(path);
}

bool
qimg_open_policy_add_map(QimgOpenPolicy *policy, const char *text, GError **error)
{
    const char *equals = strchr(text, '=');

    if (!equals || equals == text || !equals[1]) {
        qimg_set_error(error, QIMG_ERROR_USAGE,
                       "backing_map=%s: no OLD=NEW (give the stored name or directory, "
                       "'=', and the file or directory to open in its place)",
                       text);
        return false;
    }
    g_ptr_array_add(policy->maps, g_strndup(text, (gsize)(equals - text)));
    g_ptr_array_add(policy->maps, absolute_path(equals + 1));
    return true;
}

void
qimg_open_policy_avoid_device(QimgOpenPolicy *policy, dev_t device)
{
    policy->avoids = true;
    policy->avoided_device = device;
}

bool
qimg_open_policy_is_explicit(const QimgOpenPolicy *policy)
{
    return policy->is_explicit;
}

char **
qimg_open_policy_get_places(const QimgOpenPolicy *policy)
{
    g_autoptr(GPtrArray) places = g_ptr_array_new();

    if (policy->kind == POLICY_ANY)
        g_ptr_array_add(places, g_strdup("/"));
    for (guint i = 0; i < policy->dirs->len; i++)
        g_ptr_array_add(places, g_strdup(policy->dirs->pdata[i]));
    for (guint i = 1; i < policy->maps->len; i += 2)
        g_ptr_array_add(places, g_strdup(policy->maps->pdata[i]));
    g_ptr_array_add(places, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&places), FALSE);
}

void
qimg_place_free(QimgPlace *place)
{
    if (!place)
        return;
    if (place->dir_fd >= 0)
        close(place->dir_fd);
    g_free(place->path);
    g_free(place->dir_real);
    g_free(place->file_dir_real);
    g_free(place->file_name_real);
    g_free(place);
}

/* Whether the O_PATH descriptor @fd lies on the avoided device, and whether it is a
 * symbolic link; sends no request to the file system. */
static int
look_at(const QimgOpenPolicy *policy, int fd, bool *is_link_out)
{
    struct statx status;

    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE,
              &status) < 0)
        return -1;
    *is_link_out = S_ISLNK(status.stx_mode);
    if (makedev(status.stx_dev_major, status.stx_dev_minor) != policy->avoided_device)
        return 0;
    errno = EDEADLK;
    return -1;
}

/* Opens one component of a name, without following it. */
static int
open_component(int dir_fd, const char *component)
{
    int fd = openat(dir_fd, component, O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 && errno == ENOTDIR) /* O_DIRECTORY triggers automounts */
        fd = openat(dir_fd, component, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    return fd;
}

/* Opens the start of a name. */
static int
open_start(int dir_fd, const char *name)
{
    return openat(dir_fd, *name == '/' ? "/" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* As openat with O_PATH, component by component, so that the avoided device is recognized
 * before any request to it. errno is EDEADLK if the name leads there. */
static int
walk(const QimgOpenPolicy *policy, int dir_fd, const char *name)
{
    g_autofree char *rest = g_strdup(name);
    qimg_autofd at_fd = open_start(dir_fd, name);
    unsigned n_links = 0;

    while (at_fd >= 0) {
        const char *start = rest + strspn(rest, "/");
        size_t n = strcspn(start, "/");
        g_autofree char *component = g_strndup(start, n);
        g_autofree char *target = NULL;
        g_autofree char *next_rest = g_strdup(start + n);
        qimg_autofd fd = -1;
        bool is_link = false;

        if (n == 0)
            return qimg_steal_fd(&at_fd);
        fd = open_component(at_fd, component);
        if (fd < 0 || look_at(policy, fd, &is_link) < 0)
            return -1;
        if (is_link) {
            char bytes[PATH_MAX];
            ssize_t n_target = readlinkat(fd, "", bytes, sizeof bytes - 1);

            if (n_target < 0 || ++n_links > MAX_LINKS) {
                errno = n_target < 0 ? errno : ELOOP;
                return -1;
            }
            bytes[n_target] = '\0';
            target = g_steal_pointer(&next_rest);
            next_rest = g_strconcat(bytes, target, NULL);
            close(qimg_steal_fd(&fd));
            fd = open_start(at_fd, bytes);
        }
        close(qimg_steal_fd(&at_fd));
        at_fd = qimg_steal_fd(&fd);
        g_free(rest);
        rest = g_steal_pointer(&next_rest);
    }
    return -1;
}

/* Opens @name, below @dir_fd if it is relative, without an effect on the file. A NULL
 * @policy avoids nothing. */
static int
open_path(const QimgOpenPolicy *policy, int dir_fd, const char *name)
{
    if (policy && policy->avoids)
        return walk(policy, dir_fd, name);
    return openat(dir_fd, name, O_PATH | O_CLOEXEC);
}

int
open_policy_open_place(const QimgOpenPolicy *policy, int dir_fd, const char *name,
                       const char *path, QimgPlace **place_out)
{
    g_autofree char *dir = g_path_get_dirname(name);
    g_autofree char *base = g_path_get_basename(name);
    g_autofree char *real = NULL;
    g_autoptr(QimgPlace) place = g_new0(QimgPlace, 1);
    int fd, errnum;

    place->path = g_strdup(path);
    place->dir_fd = open_path(policy, dir_fd, dir);
    fd = place->dir_fd < 0 ? -1 : open_path(policy, place->dir_fd, base);
    if (fd >= 0 && fstat(fd, &place->status) < 0) {
        close(fd);
        fd = -1;
    }
    errnum = errno;
    if (fd >= 0) {
        place->dir_real = qimg_real_path_of(place->dir_fd);
        real = qimg_real_path_of(fd);
        place->file_dir_real = real ? g_path_get_dirname(real) : NULL;
        if (real && place->status.st_nlink > 0)
            place->file_name_real = g_path_get_basename(real);
        *place_out = g_steal_pointer(&place);
    }
    errno = errnum;
    return fd;
}

int
qimg_open_named_by_user(const char *path, bool for_writing, QimgPlace **place_out,
                        GError **error)
{
    return qimg_open_named_by_user_at(NULL, AT_FDCWD, path, path, for_writing, place_out,
                                      error);
}

int
qimg_open_named_by_user_at(const QimgOpenPolicy *policy, int dir_fd, const char *name,
                           const char *path, bool for_writing, QimgPlace **place_out,
                           GError **error)
{
    g_autoptr(QimgPlace) place = NULL;
    qimg_autofd path_fd = open_policy_open_place(policy, dir_fd, name, path, &place);
    int fd;

    if (path_fd < 0) {
        qimg_set_error_errno(error, errno,
                             errno == EACCES ? "check the permissions of the directories "
                                               "above it, or run this as another user"
                                             : "give the path of a disk image",
                             "cannot open");
        return -1;
    }
    fd = qimg_file_reopen(path_fd, true, for_writing, error);
    if (fd >= 0)
        *place_out = g_steal_pointer(&place);
    return fd;
}

int
qimg_open_given(int fd, const char *path, bool for_writing, QimgPlace **place_out,
                GError **error)
{
    g_autoptr(QimgPlace) place = g_new0(QimgPlace, 1);
    int flags = fcntl(fd, F_GETFL);
    int own_fd;

    place->path = g_strdup(path);
    place->dir_fd = -1;
    if (flags < 0 || fstat(fd, &place->status) < 0) {
        qimg_set_error_errno(error, errno, NULL, "the descriptor cannot be used");
        return -1;
    }
    if (!S_ISREG(place->status.st_mode) && !S_ISBLK(place->status.st_mode)) {
        qimg_set_error(error, QIMG_ERROR_NOT_AN_IMAGE,
                       "the descriptor is of no regular file or block device");
        return -1;
    }
    /* With O_APPEND the kernel would append positional writes; O_DIRECT requires aligned
     * buffers. */
    if ((flags & (O_PATH | O_DIRECT)) || (for_writing && (flags & O_APPEND)) ||
        (flags & O_ACCMODE) == O_WRONLY ||
        (for_writing && (flags & O_ACCMODE) != O_RDWR)) {
        qimg_set_error(error, QIMG_ERROR_USAGE,
                       "the descriptor does not fit (open the file with %s, and without "
                       "O_PATH, O_APPEND and O_DIRECT)",
                       for_writing ? "O_RDWR" : "O_RDONLY or O_RDWR");
        return -1;
    }
    own_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own_fd < 0)
        qimg_set_error_errno(error, errno, NULL, "the descriptor cannot be used");
    else
        *place_out = g_steal_pointer(&place);
    return own_fd;
}

/* Whether @path is @dir itself or lies below it. Both are real paths. */
static bool
is_below(const char *path, const char *dir)
{
    size_t n = strlen(dir);

    while (n > 0 && dir[n - 1] == '/') /* "/" holds everything */
        n--;
    return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* Whether @name is @old or lies below it, both as Windows writes them: "C:\\disks". */
static bool
is_below_on_windows(const char *name, const char *old)
{
    size_t n = strlen(old);

    return n > 2 && g_ascii_isalpha(old[0]) && old[1] == ':' && old[2] == '\\' &&
           g_ascii_strncasecmp(name, old, n) == 0 && name[n] == '\\';
}

char *
open_policy_apply_maps(const QimgOpenPolicy *policy, const char *name,
                       const char **new_out)
{
    for (guint i = 0; i + 1 < policy->maps->len; i += 2) {
        const char *old_name = policy->maps->pdata[i];
        const char *new_name = policy->maps->pdata[i + 1];
        bool is_windows = is_below_on_windows(name, old_name);
        size_t n = strlen(old_name);
        char *path;

        if (!is_windows && !is_below(name, old_name))
            continue;
        while (!is_windows && n > 0 && old_name[n - 1] == '/')
            n--;
        *new_out = new_name;
        path = g_strconcat(new_name, name + n, NULL);
        return is_windows ? g_strdelimit(path, "\\", '/') : path;
    }
    return NULL;
}

bool
qimg_open_policy_has_map(const QimgOpenPolicy *policy, const char *name)
{
    const char *new_name = NULL;
    g_autofree char *mapped = open_policy_apply_maps(policy, name, &new_name);

    return mapped != NULL;
}

bool
open_policy_is_allowed(const QimgOpenPolicy *policy, const QimgPlace *naming,
                       const char *real)
{
    switch (policy->kind) {
    case POLICY_ANY:
        return true;
    case POLICY_NONE:
        return false;
    case POLICY_DIRS:
        for (guint i = 0; i < policy->dirs->len; i++)
            if (is_below(real, policy->dirs->pdata[i]))
                return true;
        return false;
    case POLICY_SAME_DIR:
        break;
    }
    /* Both the directory in which the image was opened and the one in which it really
     * lies count: a link to an image must not separate it from its backing file. */
    return (naming->dir_real && is_below(real, naming->dir_real)) ||
           (naming->file_dir_real && is_below(real, naming->file_dir_real));
}

/* @name made relative to the directory of @naming, if it is an absolute path below that
 * directory; works even if something is mounted over the directory. Else NULL. */
static const char *
name_below(const QimgPlace *naming, const char *name)
{
    const char *relative;

    if (!g_path_is_absolute(name) || !naming->dir_real ||
        !is_below(name, naming->dir_real))
        return NULL;
    relative = name + strlen(naming->dir_real);
    return relative + strspn(relative, "/");
}

/* Whether @real is the file, or lies below the directory, that the user named in a
 * mapping: "OLD/../../x" must not escape from it. */
static bool
is_mapped_by_user(const QimgOpenPolicy *policy, const char *new_name, const char *real)
{
    qimg_autofd fd = open_path(policy, AT_FDCWD, new_name);
    g_autofree char *new_real = fd >= 0 ? qimg_real_path_of(fd) : NULL;

    return new_real && is_below(real, new_real);
}

char *
open_policy_printable(const char *name)
{
    return g_strescape(name, NULL);
}

/* Whether only root can make links in the directory of @place: it lies in the file system
 * of /dev (/dev/shm does not), and others cannot write to it. */
static bool
is_in_dev(const QimgPlace *place)
{
    struct stat dev, dir;

    return place->dir_fd >= 0 && stat("/dev", &dev) == 0 &&
           fstat(place->dir_fd, &dir) == 0 && dir.st_dev == dev.st_dev &&
           dir.st_uid == 0 && !(dir.st_mode & 022);
}

/* Whether the block device at @real, opened at @place, may be opened for an image: the
 * policy lists it, its directory, or the directory in /dev of the link that leads to it,
 * as those of LVM, or permits everything. */
static bool
is_device_allowed(const QimgOpenPolicy *policy, const QimgPlace *place, const char *real)
{
    if (policy->kind == POLICY_ANY)
        return true;
    for (guint i = 0; policy->kind == POLICY_DIRS && i < policy->dirs->len; i++) {
        const char *dir = policy->dirs->pdata[i];

        if (is_below(real, dir) ||
            (place->dir_real && is_below(place->dir_real, dir) && is_in_dev(place)))
            return true;
    }
    return false;
}

int
qimg_open_named_by_image(const QimgOpenPolicy *policy, const QimgPlace *naming,
                         const char *name, bool for_writing, QimgPlace **place_out,
                         GError **error)
{
    g_autofree char *dir = g_path_get_dirname(naming->path);
    g_autofree char *path =
        g_path_is_absolute(name) ? g_strdup(name) : g_build_filename(dir, name, NULL);
    const char *new_name = NULL, *local;
    g_autofree char *mapped = open_policy_apply_maps(policy, name, &new_name);
    g_autofree char *shown = open_policy_printable(name);
    g_autofree char *shown_path = NULL;
    g_autofree char *real = NULL;
    g_autoptr(QimgPlace) place = NULL;
    qimg_autofd path_fd = -1;
    bool is_mapped, is_device;
    int fd;

    if (!mapped)
        mapped = open_policy_apply_maps(policy, path, &new_name);
    if (mapped) {
        g_free(path);
        path = g_strdup(mapped);
    }
    shown_path = open_policy_printable(path);
    if (policy->kind == POLICY_NONE && !mapped) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "names \"%s\", and backing=none allows no further file (allow it "
                       "with -o backing=same-dir or -o backing=DIR)",
                       shown);
        return -1;
    }
    if (!mapped && naming->dir_fd < 0 && !g_path_is_absolute(name)) {
        qimg_set_error(
            error, QIMG_ERROR_REFUSED,
            "names \"%s\", which is relative to the directory of the image, and "
            "that is not known where it is opened by a descriptor (say where "
            "it is with -o backing_map='%s'=NEW)",
            shown, shown);
        return -1;
    }
    local = policy->avoids ? name_below(naming, name) : NULL;
    path_fd = mapped ? open_policy_open_place(policy, AT_FDCWD, path, path, &place)
                     : open_policy_open_place(policy, naming->dir_fd,
                                              local ? local : name, path, &place);
    if (path_fd < 0 && errno == EDEADLK) {
        qimg_set_error(error, QIMG_ERROR_LOOP,
                       "names \"%s\", and \"%s\" lies in this very mount (say where "
                       "else it is with -o backing_map='%s'=NEW)",
                       shown, shown_path, shown);
        return -1;
    }
    if (path_fd < 0) {
        int errnum = errno;
        g_autofree char *hint =
            g_strdup_printf("say where it is now with -o backing_map='%s'=NEW", shown);

        qimg_set_error_errno(error, errnum, hint,
                             "names \"%s\", and \"%s\" cannot be opened", shown,
                             shown_path);
        return -1;
    }
    real = qimg_real_path_of(path_fd);
    is_mapped = real && mapped && is_mapped_by_user(policy, new_name, real);
    is_device = S_ISBLK(place->status.st_mode);
    if (is_device && !is_mapped && (!real || !is_device_allowed(policy, place, real))) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "names \"%s\", and \"%s\" is a block device, which an image gets "
                       "only if it is permitted (give -o backing=%s)",
                       shown, shown_path, shown_path);
        return -1;
    }
    if (!real ||
        (!is_device && !is_mapped && !open_policy_is_allowed(policy, naming, real))) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "names \"%s\", and \"%s\" lies outside the allowed directories "
                       "(allow it with -o backing=DIR or -o backing=any)",
                       shown, shown_path);
        return -1;
    }
    fd = qimg_file_reopen(path_fd, is_device, for_writing, error);
    if (fd < 0) {
        g_prefix_error(error, "names \"%s\", and \"%s\" ", shown, shown_path);
        return -1;
    }
    *place_out = g_steal_pointer(&place);
    return fd;
}
