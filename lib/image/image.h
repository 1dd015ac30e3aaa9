/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "image/chain/handle.h"

/* Creates a handle on @view of layer @first_layer; takes a reference of @chain. Copies
 * the view unless it is the layer's active one. */
QimgImage *image_new(QimgChain *chain, unsigned first_layer, const QimgView *view);
