/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Identifies the files of a copy's source and their state. */
#include "copy/copy-source.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "storage/same-file.h"

char *
copy_stamp_of(const struct stat *status)
{
    return g_strdup_printf("%llu:%llu:%lld:%lld.%09ld:%lld.%09ld",
                           (unsigned long long)status->st_dev,
                           (unsigned long long)status->st_ino, (long long)status->st_size,
                           (long long)status->st_mtim.tv_sec, status->st_mtim.tv_nsec,
                           (long long)status->st_ctim.tv_sec, status->st_ctim.tv_nsec);
}

/* Whether @file has changed since the open. */
static CopyChange
find_change(const QimgFile *file)
{
    const struct stat *then = file->status;
    struct stat now;

    if (!S_ISREG(then->st_mode)) /* the times of a device's node say nothing */
        return COPY_UNCHANGED;
    if (fstat(file->fd, &now) < 0 || now.st_size != then->st_size ||
        now.st_ino != then->st_ino || now.st_dev != then->st_dev ||
        !qimg_is_same_time(&now.st_mtim, &then->st_mtim))
        return COPY_CHANGED;
    return qimg_is_same_time(&now.st_ctim, &then->st_ctim) ? COPY_UNCHANGED
                                                           : COPY_TOUCHED;
}

CopyChange
copy_find_change(const QimgImage *image, const char **path_out)
{
    CopyChange worst = COPY_UNCHANGED;
    QimgFile file = {.struct_bytes = sizeof file};

    for (unsigned i = 0; qimg_image_get_file(image, i, &file); i++) {
        CopyChange change = find_change(&file);

        if (change > worst) {
            worst = change;
            *path_out = file.path;
        }
    }
    return worst;
}

/* ---- as text ---- */

static void
add_file(json_t *files, const QimgFile *file)
{
    g_autofree char *real = NULL;
    g_autofree char *name = NULL;
    g_autofree char *mtime = NULL;
    g_autofree char *stamp = NULL;
    bool is_file;
    char *resolved;

    resolved = realpath(file->path, NULL);
    real = g_strdup(resolved ? resolved : file->path);
    free(resolved);
    name = g_strescape(real, NULL); /* names need not be UTF-8 */
    /* The mtime of a device's node says nothing about its content. */
    is_file = S_ISREG(file->status->st_mode);
    mtime = is_file
                ? g_strdup_printf("%lld.%09ld", (long long)file->status->st_mtim.tv_sec,
                                  file->status->st_mtim.tv_nsec)
                : g_strdup("");
    stamp = is_file ? copy_stamp_of(file->status) : g_strdup("");
    json_array_append_new(files, json_pack("{s:s, s:I, s:s, s:s}", "filename", name,
                                           "size", (json_int_t)file->size_bytes, "mtime",
                                           mtime, "stamp", stamp));
}

json_t *
copy_source_describe(const QimgImage *image, const char *source_name)
{
    g_autofree char *name = g_strescape(source_name, NULL);
    json_t *files = json_array();
    QimgFile file = {.struct_bytes = sizeof file};

    for (unsigned i = 0; qimg_image_get_file(image, i, &file); i++)
        add_file(files, &file);
    return json_pack("{s:s, s:I, s:o}", "name", name, "size",
                     (json_int_t)qimg_image_get_size_bytes(image), "files", files);
}

char *
copy_source_find_difference(const json_t *then, const json_t *now, bool *is_touched_out)
{
    static const char *const keys[] = {"size", "mtime"};
    json_t *old_files = json_object_get(then, "files");
    json_t *files = json_object_get(now, "files");
    const char *old_disk = json_string_value(json_object_get(then, "name"));
    size_t i;
    json_t *file;

    if (!json_equal(json_object_get(then, "name"), json_object_get(now, "name")))
        return g_strdup_printf("it was begun with \"%s\"", old_disk ? old_disk : "");
    if (json_array_size(old_files) != json_array_size(files))
        return g_strdup("the chain has other files");
    json_array_foreach(files, i, file)
    {
        json_t *old = json_array_get(old_files, i);
        const char *old_name = json_string_value(json_object_get(old, "filename"));
        const char *name = json_string_value(json_object_get(file, "filename"));

        if (g_strcmp0(old_name, name) != 0)
            return g_strdup_printf("it was begun with \"%s\", not with \"%s\"",
                                   old_name ? old_name : "", name);
        for (size_t j = 0; j < G_N_ELEMENTS(keys); j++)
            if (!json_equal(json_object_get(old, keys[j]),
                            json_object_get(file, keys[j])))
                return g_strdup_printf("\"%s\" has changed since", name);
        *is_touched_out |= !json_equal(old, file);
    }
    return json_equal(json_object_get(then, "size"), json_object_get(now, "size"))
               ? NULL
               : g_strdup("the disk has another size");
}
