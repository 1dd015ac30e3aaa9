/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ops/reply.h"

#include <errno.h>
#include <linux/fuse.h>

#include "images/images-open.h"

int
reply_errno(int err)
{
    switch (-err) {
    case 0:
    case EROFS:
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EINVAL:
    case EOPNOTSUPP:
    case ENOMEM:
    case ENXIO: /* from lseek */
    case EBUSY: /* from a change of the size: a bitmap is in use */
    case EINTR: /* from a text that takes long to generate */
        return -err;
    default:
        return EIO;
    }
}

void
reply_result(fuse_req_t req, int err)
{
    fuse_reply_err(req, reply_errno(err));
}

void
reply_open_error(fuse_req_t req, const GError *error)
{
    int err = qimg_error_to_errno(error);

    if (err != ENOENT)
        err = images_errno(error);
    if (err != ESTALE)
        g_warning("%s", error->message);
    fuse_reply_err(req, err);
}

void
reply_change_error(fuse_req_t req, const GError *error)
{
    int err = qimg_error_to_errno(error);

    if (images_errno(error) == ESTALE) {
        fuse_reply_err(req, ESTALE);
        return;
    }
    g_warning("%s", error->message);
    if (err == EINVAL && !g_error_matches(error, QIMG_ERROR, QIMG_ERROR_USAGE))
        err = EIO; /* the image itself is invalid */
    fuse_reply_err(req, err == EEXIST || err == EBUSY || err == ENOENT || err == EINVAL
                            ? err
                            : reply_errno(-err));
}

/* libfuse before 3.15 has no field for the flag: the reply uses the kernel's
 * structure. */
int
reply_open(fuse_req_t req, const struct fuse_file_info *fi, bool is_parallel)
{
    struct fuse_open_out out = {.fh = fi->fh};

    if (!is_parallel)
        return fuse_reply_open(req, fi);
    out.open_flags = FOPEN_PARALLEL_DIRECT_WRITES;
    if (fi->keep_cache)
        out.open_flags |= FOPEN_KEEP_CACHE;
    if (fi->direct_io)
        out.open_flags |= FOPEN_DIRECT_IO;
    return fuse_reply_buf(req, (const char *)&out, sizeof out);
}
