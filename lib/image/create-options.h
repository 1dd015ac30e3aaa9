/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The properties of a new image that the caller has set. */
#pragma once

#include "format/driver.h"
#include "image/chain/options.h"
#include "image/create-encryption.h"

struct QimgCreate {
    const QimgDriver *driver;
    QimgCreateOptions fields; /* its strings stay NULL until the image is made */
    bool has_size;
    char *backing_file; /* owned, like the strings below; NULL: none */
    char *backing_fmt;  /* NULL: probe */
    char *data_file;    /* NULL: none */
    CreateEncryption encryption;
    bool replaces;
    bool no_check;
    QimgOptions *backing_options; /* for opening the backing file */
    uint32_t given;               /* one bit for each property that was set */
    GPtrArray *notes;             /* char *, NULL-terminated */
};

/* A property that was set and that images of the format do not have; NULL: none.
 * Static. */
const char *create_find_foreign_property(const QimgCreate *create);
