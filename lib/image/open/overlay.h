/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The overlay of the option "cow", which takes the writes in the image's place. */
#pragma once

#include "image/chain/chain.h"

/* Opens the overlay for the chain whose layers from 1 down are open, layer 0 missing: as
 * @options says one that vanishes when it is closed, or the file cow_path. That one is
 * made where nothing has its name; what has it must be a qcow2 image whose backing file
 * is layer 1, and is not touched else. What was made is removed again on failure. Returns
 * the open, writable layer with its locks; the caller adds it to the chain. */
QimgFormat *overlay_open(QimgChain *chain, const QimgOptions *options, GError **error);
