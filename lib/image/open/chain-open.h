/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening and closing chains. */
#pragma once

#include "image/chain/chain.h"

/* Opens @name, below @dir_fd if it is relative, and all its backing files; messages call
 * it @path. Release with chain_unref. */
QimgChain *chain_open(int dir_fd, const char *name, const char *path,
                      const QimgOptions *options, GError **error);

/* Like chain_open, for the file open as @fd, which stays the caller's. */
QimgChain *chain_open_given(int fd, const char *path, const QimgOptions *options,
                            GError **error);

/* Like chain_open, for @n_storages (1 to IMAGE_MAX_LAYERS) open storages from the top
 * down; owns them from the call on (also on failure). Follows no names in them, attaches
 * no data file and takes no lock: for images that are not host files. A layer that needs
 * a data file reads its data from its own storage. Only the last layer may be raw. */
QimgChain *chain_open_storages(QimgStorage *const *storages, unsigned n_storages,
                               const QimgOptions *options, GError **error);

/* Opens the files of @old, none of them writable, again in their present state, by
 * descriptors of the same open files. Errors: as qimg_image_reopen. */
QimgChain *chain_reopen(const QimgChain *old, const QimgOptions *options, GError **error);

/* Opens @path alone, without its backing files and despite damage, for the check and
 * repair functions of its driver; @for_repair for writing. Only layer 0 can be used. */
QimgChain *chain_open_for_check(const char *path, const QimgOptions *options,
                                bool for_repair, GError **error);

/* As chain_open_for_check, to change the key slots of @path; nothing else is changed. */
QimgChain *chain_open_for_amend(const char *path, const QimgOptions *options,
                                GError **error);

/* Adds or drops a reference on @chain; dropping the last one closes it. Any thread. */
QimgChain *chain_ref(QimgChain *chain);
void chain_unref(QimgChain *chain);
