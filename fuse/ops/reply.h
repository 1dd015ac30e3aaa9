/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The one place that chooses the errno given to the kernel. */
#pragma once

#include "ops/ops.h"

/* The errno (positive) that the kernel may be told for @err, 0 or a negated errno value
 * of the library: EIO for all that a user of a file would take for something else. Above
 * all, ENOSYS never passes, after which the kernel would not ask again. */
int reply_errno(int err);

/* Replies with reply_errno(@err), where success needs no more than that. */
void reply_result(fuse_req_t req, int err);

/* Replies that snapshots could not be changed, and logs why. */
void reply_change_error(fuse_req_t req, const GError *error);

/* Replies to an open, as fuse_reply_open. @is_parallel: the kernel may send direct writes
 * of several threads to the file at once. */
int reply_open(fuse_req_t req, const struct fuse_file_info *fi, bool is_parallel);

/* Replies with the errno that fits @error, of opening a file; logs its text. */
void reply_open_error(fuse_req_t req, const GError *error);
