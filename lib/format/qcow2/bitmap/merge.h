/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Merging bitmaps. */
#pragma once

#include "format/bitmaps.h"
#include "format/qcow2/bitmap/bitmap-edit.h"

/* Adds the bits of @from, of the same image. Errors: of the storage, -ENOMEM, -ECANCELED;
 * then @to must not be stored. */
QimgErrno bitmap_edit_merge(BitmapChange *c, BitmapEdit *to, BitmapEdit *from)
    QIMG_MUST_CHECK;

/* The same, for the bitmap of another image that @a names. */
QimgErrno bitmap_edit_merge_other(BitmapChange *c, BitmapEdit *to,
                                  const QimgFormatBitmapAction *a) QIMG_MUST_CHECK;
