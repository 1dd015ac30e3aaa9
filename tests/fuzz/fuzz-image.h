/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Asking all that can be asked of a chain of images in memory, within bounds. */
#pragma once

#include "image/image.h"

/* Opens @n_storages (owned) as a chain and looks at all of it. */
void fuzz_chain(QimgStorage *const *storages, unsigned n_storages);
