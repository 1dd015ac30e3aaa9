/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Finds the target: the files at its name and beside it. */
#pragma once

#include "copy/copy-binding.h"

/* Examines the target's name and those beside it, and decides how to treat the files.
 * Opens and locks; changes nothing. */
bool copy_binding_find(CopyBinding *binding, const char *path, const QimgImage *image,
                       const char *source_name, const CopyWish *wish, GError **error);
