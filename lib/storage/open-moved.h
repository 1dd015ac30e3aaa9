/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files that are not where an image says. */
#pragma once

#include "storage/open-policy.h"

/* Searches for a file that qimg_open_named_by_image has not found: in the directory of
 * @naming and in the permitted ones, under as many trailing parts of @name as exist
 * there. If exactly one file matches and @may_open, returns a descriptor for reading and
 * the place, as above; otherwise -1 with @error set (NOT_FOUND): the text names the
 * places tried, or the files found there, and the option that helps. Searches nothing if
 * the user has mapped the name: then, and without other places, @error stays unset. */
int qimg_open_moved(const QimgOpenPolicy *policy, const QimgPlace *naming,
                    const char *name, bool may_open, QimgPlace **place_out,
                    GError **error);
