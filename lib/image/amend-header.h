/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The properties of an existing image's header, by name. */
#pragma once

#include "base/task.h"
#include "format/header-change.h"
#include "image/chain/options.h"

/* A change of the header. */
typedef struct {
    QimgHeaderChange fields; /* its text is that below */
    char *data_file;         /* owned */
    unsigned given;          /* a bit for each property */
} AmendHeader;

void amend_header_init(AmendHeader *amend);
void amend_header_clear(AmendHeader *amend);

/* Whether @name is one of its properties. */
bool amend_header_has(const char *name);

/* Sets one property, which it has. Errors: USAGE. */
bool amend_header_set(AmendHeader *amend, const char *name, const char *value,
                      GError **error);

/* Makes the change on the image @path. Errors: as qimg_amend_run. */
bool amend_header_run(AmendHeader *amend, const char *path, const QimgOptions *options,
                      const QimgTask *task, GError **error);
