/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/open/choose-driver.h"

#include <string.h>

#include "base/checked.h"
#include "base/errors.h"
#include "image/open/probed.h"

#define PROBE_BYTES 512u

/* How to have a file that @above (NULL: the user) names shown as it is. */
static const char *
how_to_show_bytes(const QimgFormat *above)
{
    return !above ? "show its bytes with -o format=raw"
           : above->driver->records_backing_format
               ? "record that it is raw with qemu-img rebase -u -F raw"
               : "convert the image above it to qcow2";
}

char *
choose_driver_refusal(const QimgForeign *foreign, const QimgFormat *above)
{
    return g_strdup_printf("is %s, not a raw disk (%s, or %s)", foreign->what,
                           foreign->advice, how_to_show_bytes(above));
}

static const QimgDriver *
find_by_name(const char *name, GError **error)
{
    const QimgDriver *driver = qimg_driver_find(name);
    g_autofree char *shown = g_strescape(name, NULL);

    if (!driver)
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                       "its recorded format \"%s\" cannot be read by this version "
                       "(convert it with qemu-img convert)",
                       shown);
    return driver;
}

/* The driver by the content of @file. */
static const QimgDriver *
probe(QimgStorage *file, const QimgFormat *above, GError **error)
{
    const QimgForeign *foreign = NULL;
    const QimgDriver *driver;
    g_autofree char *refusal = NULL;
    uint8_t bytes[PROBE_BYTES] = {0};
    uint64_t size_bytes = 0;
    QimgErrno err = qimg_storage_get_size(file, &size_bytes);

    if (!err)
        err = qimg_storage_read(file, QIMG_IO_HEADER, qimg_host(0), bytes, sizeof bytes);
    if (err) {
        qimg_set_error_errno(error, -err, NULL, "cannot read its first sector");
        return NULL;
    }
    driver = qimg_driver_probe(bytes, qimg_min_u64(size_bytes, sizeof bytes));
    if (driver)
        return driver;
    err = qimg_foreign_probe(file, &foreign);
    if (err) {
        qimg_set_error_errno(error, -err, NULL, "cannot read its beginning and its end");
        return NULL;
    }
    if (!foreign)
        return &qimg_driver_raw;
    refusal = choose_driver_refusal(foreign, above);
    qimg_set_error(error, QIMG_ERROR_UNSUPPORTED, "%s", refusal);
    return NULL;
}

/* Whether a file called @file_name (NULL: not known) may be of the format of @driver,
 * which was probed. */
static bool
check_name_fits(const char *file_name, const QimgDriver *driver, const QimgFormat *above,
                GError **error)
{
    g_autofree char *shown = NULL;

    if (!file_name || probed_fits_name(file_name, driver->name))
        return true;
    shown = g_strescape(strrchr(file_name, '.'), NULL);
    qimg_set_error(
        error, QIMG_ERROR_NOT_AN_IMAGE,
        "its name ends in %s, and its content is %s%s (it is damaged, cut or "
        "misnamed: rename it where it is a disk, or %s)",
        shown,
        driver == &qimg_driver_raw ? "that of no known format" : "an image of format ",
        driver == &qimg_driver_raw ? "" : driver->name, how_to_show_bytes(above));
    return false;
}

const QimgDriver *
choose_driver(QimgStorage *file, const QimgPlace *place, const char *name,
              const QimgFormat *above, GError **error)
{
    g_autofree char *given_name = place ? g_path_get_basename(place->path) : NULL;
    const QimgDriver *driver;

    if (name)
        return find_by_name(name, error);
    driver = probe(file, above, error);
    if (!driver || !check_name_fits(given_name, driver, above, error) ||
        !check_name_fits(place ? place->file_name_real : NULL, driver, above, error))
        return NULL;
    return driver;
}
