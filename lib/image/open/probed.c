/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/open/probed.h"

#include <string.h>
#include <sys/stat.h>

#include "base/errors.h"
#include "format/drivers.h"
#include "storage/file.h"
#include "storage/real-path.h"

/* The part of the name behind its last dot, or NULL. */
static const char *
suffix_of(const char *file_name)
{
    const char *dot = strrchr(file_name, '.');

    return dot && dot > file_name ? dot + 1 : NULL;
}

bool
probed_is_raw_name(const char *file_name)
{
    static const char *const raw[] = {"raw", "img",  "ima", "image", "dd",  "bin", "dsk",
                                      "iso", "disk", "hdd", "vfd",   "flp", "udf", NULL};
    const char *suffix = suffix_of(file_name);

    if (!suffix)
        return false;
    /* Of a disk that was split: three digits. More are the times of snapshots. */
    if (strlen(suffix) == 3 && strspn(suffix, "0123456789") == 3)
        return true;
    for (const char *const *known = raw; *known; known++)
        if (g_ascii_strcasecmp(suffix, *known) == 0)
            return true;
    return false;
}

/* Suffixes that belong to images with a header: of the format, or of one of two. */
static const struct {
    const char *suffix;
    const char *format, *other;
} image_suffixes[] = {
    {"qcow2", "qcow2", NULL}, {"qcow3", "qcow2", NULL},  {"qc2", "qcow2", NULL},
    {"qed", "qed", NULL},     {"qcow", "qcow2", "qcow"},
};

/* The row of @file_name; -1: it says nothing. */
static int
find_suffix(const char *file_name)
{
    const char *suffix = suffix_of(file_name);

    for (size_t i = 0; suffix && i < G_N_ELEMENTS(image_suffixes); i++)
        if (g_ascii_strcasecmp(suffix, image_suffixes[i].suffix) == 0)
            return (int)i;
    return -1;
}

/* Whether @file_name says that its file is an image with a header. */
static bool
is_image_name(const char *file_name)
{
    return find_suffix(file_name) >= 0;
}

bool
probed_fits_name(const char *file_name, const char *format)
{
    int i = find_suffix(file_name);

    return i < 0 || strcmp(format, image_suffixes[i].format) == 0 ||
           g_strcmp0(format, image_suffixes[i].other) == 0;
}

static bool
probed_refuse(const QimgFormat *format, ProbedOrigin origin, const char *what,
              const char *why, GError **error)
{
    const char *name = format->driver->name;
    g_autofree char *file = g_strescape(format->needs_data_file && format->data_file_name
                                            ? format->data_file_name
                                        : format->backing_name ? format->backing_name
                                                               : "",
                                        NULL);
    g_autofree char *by_format =
        origin == PROBED_BACKING
            ? g_strdup("")
            : g_strdup_printf("-o format=%s if it is one, -o format=raw if not, or ",
                              name);

    qimg_set_error(
        error, QIMG_ERROR_REFUSED,
        "was probed as %s and names the %s \"%s\", which is not %s: the guest of "
        "a raw disk can write such a header (give %s-o backing=same-dir or "
        "another policy to follow it)",
        name, what, file, why, by_format);
    return false;
}

bool
probed_check(const QimgFormat *format, const QimgPlace *place, ProbedOrigin origin,
             GError **error)
{
    const char *name = place->file_name_real;
    const char *what = format->needs_data_file ? "data file" : "backing file";

    if (!format->backing_name && !format->needs_data_file)
        return true;
    if (!name || S_ISBLK(place->status.st_mode) || probed_is_raw_name(name))
        return probed_refuse(format, origin, what, "followed", error);
    if (format->needs_data_file && format->is_writable &&
        (origin == PROBED_IN_DIRECTORY || !is_image_name(name)))
        return probed_refuse(format, origin, what, "opened for writing", error);
    return true;
}

bool
probed_check_stored(const QimgFormat *format, const char *option, GError **error)
{
    const char *name = format->driver->name;
    g_autofree char *path = qimg_real_path_of(qimg_file_storage_get_fd(format->file));
    g_autofree char *file_name = path ? g_path_get_basename(path) : NULL;

    if (format->driver == &qimg_driver_raw || (file_name && is_image_name(file_name)))
        return true;
    qimg_set_error(error, QIMG_ERROR_REFUSED,
                   "was probed as %s, which its name does not tell: the guest of a raw "
                   "disk can write such a header, and a format that is stored is trusted "
                   "from then on (give %s%s if it is one, %sraw if not)",
                   name, option, name, option);
    return false;
}
