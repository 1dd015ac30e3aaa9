/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process that briefly outlives ours: when ours dies for any reason, it writes the
 * pending entries in logs (behind/log.h) to the image files.
 *
 * The two share their table of open files, so nothing needs to be sent: the keeper uses a
 * file by our descriptor number. The files' locks, and the connection of a mount, are
 * held until the keeper has ended. */
#pragma once

#include "qimg.h"

#include "base/types.h"

/* The keeper's slot for one image. */
typedef int KeeperPlace;
#define KEEPER_NOWHERE (-1)

/* From now on, if this process dies, the keeper syncs both files and writes the log in
 * the memory file @log_fd to @file_fd. @data_fd: the external data file, -1: none. The
 * descriptors stay open until keeper_forget. KEEPER_NOWHERE if there is no keeper.
 * Threads: any. */
KeeperPlace keeper_keep(QimgKeeper *keeper, int log_fd, int file_fd, int data_fd);

/* Ends that; the log must have no pending entries. Accepts KEEPER_NOWHERE. */
void keeper_forget(QimgKeeper *keeper, KeeperPlace place);

/* Whether the keeper lives, as far as is known: a waiting thread notices its end. Any
 * thread. */
bool keeper_is_alive(const QimgKeeper *keeper);

/* The keeper's process; 0: none. */
pid_t keeper_get_pid(const QimgKeeper *keeper);

/* For tests: as if a process kept the arguments of keeper_keep, whose descriptors may be
 * invalid; or as if it had died. */
void keeper_pretend(QimgKeeper *keeper, bool is_alive);
