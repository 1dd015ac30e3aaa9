/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The only place that chooses the errno for the kernel. */
#pragma once

#include "ops/ops.h"

/* The errno (positive) to send to the kernel for @err, 0 or a negated errno of the
 * library: EIO for every error that a user of a file would misunderstand. Above all,
 * ENOSYS never passes, since the kernel would never send that request again. */
int reply_errno(int err);

/* Replies with reply_errno(@err), if success needs no more than that. */
void reply_result(fuse_req_t req, int err);

/* Replies that a change of snapshots failed, and logs the reason. */
void reply_change_error(fuse_req_t req, const GError *error);

/* Replies to an open, as fuse_reply_open. @is_parallel: the kernel may send direct writes
 * to the file from several threads at once. */
int reply_open(fuse_req_t req, const struct fuse_file_info *fi, bool is_parallel);

/* Replies with the errno for @error, from opening a file; logs its text. */
void reply_open_error(fuse_req_t req, const GError *error);
