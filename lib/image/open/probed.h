/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The files that a header found by probing may lead to. The guest of a raw disk can write
 * any bytes to its first sector, and so a header of another format, whose names would be
 * those of other guests' disks. */
#pragma once

#include "format/driver.h"
#include "storage/open-policy.h"

/* How the file of a layer came to be opened. */
typedef enum {
    PROBED_NAMED,        /* the user has named it */
    PROBED_IN_DIRECTORY, /* it was found in a directory that the user has named */
    PROBED_BACKING,      /* an image names it, and says no more than that it is not raw */
} ProbedOrigin;

/* Whether @file_name (without directories) is one that raw disks have. Any thread. */
bool probed_is_raw_name(const char *file_name);

/* Whether a file called @file_name (without directories) may be of @format, as far as its
 * suffix tells: one of images with a header belongs to no other content. Any thread. */
bool probed_fits_name(const char *file_name, const char *format);

/* Checks that the files that @format names may be opened, where neither its format nor
 * the policy was given by the user. @place: where its file was opened. Errors: REFUSED,
 * with the option that allows it. */
bool probed_check(const QimgFormat *format, const QimgPlace *place, ProbedOrigin origin,
                  GError **error);

/* Checks that the format of @format, the layer of a file, may be stored in an image that
 * is based on it, where it was probed: it is raw, which holds whatever is written to the
 * file later, or the one that the file's name tells. Errors: REFUSED; the text names
 * @option ("-F "), which decides. */
bool probed_check_stored(const QimgFormat *format, const char *option, GError **error);
