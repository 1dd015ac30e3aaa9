/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening and closing chains. */
#pragma once

#include "image/chain/chain.h"

/* Opens @name, below @dir_fd if it is relative, which messages call @path,
 * and all that it is based on; unref with chain_unref. */
QimgChain *chain_open(int dir_fd, const char *name, const char *path,
                      const QimgOptions *options, GError **error);

/* As chain_open, of the file that is open as @fd, which stays the caller's. */
QimgChain *chain_open_given(int fd, const char *path, const QimgOptions *options,
                            GError **error);

/* As chain_open, of @n_storages (1 to IMAGE_MAX_LAYERS) open storages from
 * the top down, which it owns from then on (also on failure). The names that they hold
 * are not followed, no data file is attached and no lock is taken: for images that are no
 * host files. A layer that needs a data file reads its data from its own storage. Only
 * the last layer may be raw. */
QimgChain *chain_open_storages(QimgStorage *const *storages, unsigned n_storages,
                               const QimgOptions *options, GError **error);

/* Opens the files of @old, of which none is writable, once more as they are now, by
 * descriptors of the same open files. Errors: as qimg_image_reopen. */
QimgChain *chain_reopen(const QimgChain *old, const QimgOptions *options, GError **error);

/* Opens @path alone, without what it is based on and with its damage, for
 * the check and repair functions of its driver; @for_repair for writing. Nothing but
 * layer 0 can be used. */
QimgChain *chain_open_for_check(const char *path, const QimgOptions *options,
                                bool for_repair, GError **error);

/* One more reference on @chain, and one less: the last one closes it. Any thread. */
QimgChain *chain_ref(QimgChain *chain);
void chain_unref(QimgChain *chain);
