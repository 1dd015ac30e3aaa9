/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of formats, and probing. */
#pragma once

#include "format/driver.h"
#include "format/foreign.h"

/* The driver called @name, or NULL. */
const QimgDriver *qimg_driver_find(const char *name);

/* The names of all formats, or of those of which images can be made, as a text: "A, B or
 * C". Free with g_free. */
char *qimg_driver_names(bool made_only);

/* The driver for a file that begins with @bytes: that of the format whose magic number
 * they have, whether or not it can read the rest. NULL: none, so the file is a raw disk
 * or foreign (format/foreign.h). */
const QimgDriver *qimg_driver_probe(const uint8_t *bytes, size_t n_bytes);

extern const QimgDriver qimg_driver_raw;
extern const QimgDriver qimg_driver_qcow2;
extern const QimgDriver qimg_driver_qed;
extern const QimgDriver qimg_driver_qcow1;
extern const QimgDriver qimg_driver_luks;
