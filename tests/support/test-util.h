/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Shared by the test programs: seeds, directories, quiet logs, errors. */
#pragma once

#include <glib.h>

#include "base/types.h"
#include "qimg.h"

/* Prepares GLib's test framework. Log messages about damaged images and their repair do
 * not end the test, and are not shown. */
void test_util_init(int *argc, char ***argv);

/* A seed: that of the environment variable QIMG_TEST_SEED, else a new one; printed. */
uint32_t test_util_seed(void);

/* Makes a temporary directory; test_util_remove_dir removes it with its files. */
char *test_util_make_dir(void);
void test_util_remove_dir(char *dir);

/* Writes a file @name in @dir; returns its path. */
char *test_util_write(const char *dir, const char *name, const void *bytes,
                      size_t n_bytes);

/* Checks that @error is of QIMG_ERROR with @code and exactly @text, and clears it. */
void test_util_check_error(GError **error, int code, const char *text);

/* Sets a property of a new image, which must be accepted. */
void test_util_set_property(QimgCreate *create, const char *name, const char *value);
