/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "image/write/disk-end.h"

bool
image_hold_end(QimgImage *image, uint64_t end)
{
    QIMG_LOCK_SCOPE(&image->chain->size_lock);

    if (end != image_size_bytes(image))
        return false;
    image->chain->zeros_end_bytes = 0;
    return true;
}
