/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Searches for missing files that images name. */
#include "storage/open-moved.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/errors.h"
#include "storage/file.h"
#include "storage/open-policy-private.h"
#include "storage/real-path.h"
#include "storage/same-file.h"

/* The limits of a name's trailing parts that are tried, and of the places listed in a
 * message. */
#define MAX_SUFFIX_PARTS 8
#define MAX_SHOWN        6

typedef struct {
    const QimgOpenPolicy *policy;
    const QimgPlace *naming;
    const char *tried;   /* the path at which the file is missing */
    GPtrArray *suffixes; /* char *: trailing parts of the name to try elsewhere */
    GPtrArray *places;   /* char *: other paths at which it is missing; for people */
    GPtrArray *found;    /* QimgPlace * */
    int found_fd;        /* of the first, O_PATH */
} Search;

/* The trailing parts of @name: the last one, the last two, and so on, up to a "..", if
 * any. */
static GPtrArray *
suffixes_of(const char *name)
{
    GPtrArray *suffixes = g_ptr_array_new_with_free_func(g_free);
    g_auto(GStrv) parts = g_strsplit(name, "/", -1);
    g_autofree char *suffix = NULL;

    for (guint i = g_strv_length(parts); i-- > 0 && suffixes->len < MAX_SUFFIX_PARTS;) {
        char *longer;

        if (!*parts[i] || strcmp(parts[i], ".") == 0)
            continue;
        if (strcmp(parts[i], "..") == 0)
            break;
        longer = suffix ? g_build_filename(parts[i], suffix, NULL) : g_strdup(parts[i]);
        g_free(suffix);
        suffix = longer;
        g_ptr_array_add(suffixes, g_strdup(suffix));
    }
    return suffixes;
}

/* Whether the file in @path_fd at @place is a candidate, and a new one. */
static bool
is_candidate(const Search *search, int path_fd, const QimgPlace *place)
{
    g_autofree char *real = qimg_real_path_of(path_fd);

    if (!real || !open_policy_is_allowed(search->policy, search->naming, real) ||
        !S_ISREG(place->status.st_mode) ||
        qimg_is_same_file(&place->status, &search->naming->status))
        return false;
    for (guint i = 0; i < search->found->len; i++) {
        const QimgPlace *found = search->found->pdata[i];

        if (qimg_is_same_file(&place->status, &found->status))
            return false;
    }
    return true;
}

/* Tries each suffix below @dir, which is open as @dir_fd or AT_FDCWD. */
static void
search_dir(Search *search, int dir_fd, const char *dir)
{
    for (guint i = 0; i < search->suffixes->len; i++) {
        const char *suffix = search->suffixes->pdata[i];
        g_autofree char *path = g_build_filename(dir, suffix, NULL);
        g_autoptr(QimgPlace) place = NULL;
        qimg_autofd path_fd = open_policy_open_place(
            search->policy, dir_fd, dir_fd == AT_FDCWD ? path : suffix, path, &place);

        if (path_fd < 0 && strcmp(path, search->tried) != 0) {
            g_ptr_array_add(search->places, g_strdup(path));
        } else if (path_fd >= 0 && is_candidate(search, path_fd, place)) {
            g_ptr_array_add(search->found, g_steal_pointer(&place));
            if (search->found_fd < 0)
                search->found_fd = qimg_steal_fd(&path_fd);
        }
    }
}

/* Appends the paths as a list of quoted names, shortened to a readable length. */
static void
append_paths(GString *text, const char *before, char *const *paths, guint n_paths)
{
    for (guint i = 0; i < MIN(n_paths, MAX_SHOWN); i++) {
        g_autofree char *shown = open_policy_printable(paths[i]);

        g_string_append_printf(text, "%s\"%s\"", i == 0 ? before : ", ", shown);
    }
    if (n_paths > MAX_SHOWN)
        g_string_append_printf(text, " and %u more", n_paths - MAX_SHOWN);
}

static void
set_moved_error(const Search *search, const char *name, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(GPtrArray) paths = g_ptr_array_new();
    g_autofree char *shown = open_policy_printable(name);

    g_string_append_printf(text, "names \"%s\", ", shown);
    g_ptr_array_add(paths, (char *)search->tried);
    if (search->found->len == 0)
        g_ptr_array_extend(paths, search->places, NULL, NULL);
    append_paths(text, paths->len > 1 ? "and there is none of " : "and there is no ",
                 (char *const *)paths->pdata, paths->len);
    g_ptr_array_set_size(paths, 0);
    for (guint i = 0; i < search->found->len; i++)
        g_ptr_array_add(paths, ((QimgPlace *)search->found->pdata[i])->path);
    append_paths(text,
                 "; found instead, and not taken unasked: ", (char *const *)paths->pdata,
                 paths->len);
    qimg_set_error(error, QIMG_ERROR_NOT_FOUND,
                   "%s (say where it is now with -o backing_map='%s'=NEW)", text->str,
                   shown);
}

int
qimg_open_moved(const QimgOpenPolicy *policy, const QimgPlace *naming, const char *name,
                bool may_open, QimgPlace **place_out, GError **error)
{
    g_autofree char *dir = g_path_get_dirname(naming->path);
    g_autofree char *tried =
        g_path_is_absolute(name) ? g_strdup(name) : g_build_filename(dir, name, NULL);
    g_autoptr(GPtrArray) suffixes = suffixes_of(name);
    g_autoptr(GPtrArray) places = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) found =
        g_ptr_array_new_with_free_func((GDestroyNotify)qimg_place_free);
    qimg_autofd path_fd = -1;
    Search search = {
        .policy = policy,
        .naming = naming,
        .tried = tried,
        .suffixes = suffixes,
        .places = places,
        .found = found,
        .found_fd = -1,
    };
    const char *new_name;
    g_autofree char *mapped = open_policy_apply_maps(policy, name, &new_name);
    int fd = -1;

    if (!mapped)
        mapped = open_policy_apply_maps(policy, tried, &new_name);
    if (mapped || policy->kind == POLICY_NONE)
        return -1;
    if (naming->dir_fd >= 0)
        search_dir(&search, naming->dir_fd, dir);
    for (guint i = 0; i < policy->dirs->len; i++)
        search_dir(&search, AT_FDCWD, policy->dirs->pdata[i]);
    path_fd = search.found_fd;
    if (found->len != 1 || !may_open) {
        if (found->len + places->len > 0)
            set_moved_error(&search, name, error);
        return -1;
    }
    fd = qimg_file_reopen(path_fd, false, false, error);
    if (fd < 0)
        g_prefix_error(error, "\"%s\" ", ((QimgPlace *)found->pdata[0])->path);
    else
        *place_out = g_ptr_array_steal_index(found, 0);
    return fd;
}
