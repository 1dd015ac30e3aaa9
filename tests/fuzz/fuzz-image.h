/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Asking all that can be asked of a chain of images in memory, within bounds. */
#pragma once

#include "image/image.h"

/* Opens @n_storages (owned) as a chain, the top one as an image of the format
 * @format_name, and looks at all of it. */
void fuzz_chain(const char *format_name, QimgStorage *const *storages,
                unsigned n_storages);
