/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process that outlives ours by a moment: what waits in logs (behind/log.h) when ours
 * dies, whatever it dies of, it writes to the image files.
 *
 * The two share their table of open files, so nothing needs to be sent: the keeper uses a
 * file by the number that it has here. Locks of the files are held until it has ended,
 * and so is the connection of a mount. */
#pragma once

#include "qimg.h"

#include "base/types.h"

/* Where the keeper has what it must know of one image. */
typedef int KeeperPlace;
#define KEEPER_NOWHERE (-1)

/* Lets the keeper write the log in the memory file @log_fd to @file_fd when this process
 * dies, once both files are synced; @data_fd: the external data file, -1: none. The
 * descriptors stay open until keeper_forget. KEEPER_NOWHERE where there is no keeper.
 * Threads: any. */
KeeperPlace keeper_keep(QimgKeeper *keeper, int log_fd, int file_fd, int data_fd);

/* Ends that; nothing may wait in the log. Accepts KEEPER_NOWHERE. */
void keeper_forget(QimgKeeper *keeper, KeeperPlace place);

/* Whether the keeper lives, as far as is known: its end is noticed by a thread that waits
 * for it. Any thread. */
bool keeper_is_alive(const QimgKeeper *keeper);

/* The keeper's process; 0: there is none. */
pid_t keeper_get_pid(const QimgKeeper *keeper);

/* For tests: as if a process kept what keeper_keep is told, which may be descriptors of
 * nothing; or as if it had died. */
void keeper_pretend(QimgKeeper *keeper, bool is_alive);
