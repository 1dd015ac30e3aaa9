/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Another backing file for an image. */
#pragma once

#include "format/header-change.h"
#include "image/chain/handle.h"

/* Makes @new (NULL: none) the backing file of @image, open for writing, as @change names
 * it, without a change of the disk: what differs is stored in the image first. The image
 * must be closed afterwards. Errors: as qimg_rebase. */
bool rebase_image(QimgImage *image, QimgImage *new, const QimgHeaderChange *change,
                  const QimgTask *task, GError **error);
