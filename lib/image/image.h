/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "image/chain/handle.h"

/* A handle on @view of layer @first_layer; takes a reference of @chain.
 * The view is copied unless it is the layer's active one. */
QimgImage *image_new(QimgChain *chain, unsigned first_layer, const QimgView *view);
