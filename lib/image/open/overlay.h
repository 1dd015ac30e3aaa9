/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The overlay of the option "cow", which receives the writes instead of the image. */
#pragma once

#include "image/chain/chain.h"

/* Opens the overlay for the chain whose layers from 1 down are open, layer 0 missing:
 * according to @options a temporary one, or the file cow_path. That file is created if it
 * does not exist; an existing one must be a qcow2 image whose backing file is layer 1,
 * and any other is left untouched. Removes a created file on failure. Returns the open,
 * writable layer with its locks; the caller adds it to the chain. */
QimgFormat *overlay_open(QimgChain *chain, const QimgOptions *options, GError **error);
