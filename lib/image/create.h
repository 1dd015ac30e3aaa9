/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a new image shall be, as far as the caller has said. */
#pragma once

#include "image/image.h"

struct QimgCreate {
    const QimgDriver *driver;
    QimgCreateOptions fields; /* its strings stay NULL until the image is made */
    bool has_size;
    char *backing_file; /* owned, as the rest; NULL: none */
    char *backing_fmt;  /* NULL: to be probed */
    char *data_file;    /* NULL: none */
    bool replaces;
    bool no_check;
    QimgOptions *backing_options;   /* for opening the backing file */
    const char *first_qcow2_option; /* static: one that raw images lack; NULL: none set */
    GPtrArray *notes;               /* char *, NULL-terminated */
};
