/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests that change names. The images determine the names of disks; below a disk's
 * snapshots, mkdir takes a snapshot, rmdir deletes one and rename renames one. */
#include "ops/ops.h"

#include <errno.h>
#include <limits.h>
#include <linux/fs.h>
#include <string.h>
#include <time.h>

#include "ops/reply.h"
#include "tree/tree-lookup.h"
#include "tree/tree-write.h"

/* How long a deletion waits for the releases of just closed files: the kernel sends them
 * after close(2) has returned. */
#define RELEASE_TIMEOUT_S 1

static Mount *
snapshot_mount_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

/* Whether @inode is a directory of snapshots. */
static bool
is_snapshots(const Tree *tree, fuse_ino_t inode, Node *node_out)
{
    return tree_node_of(tree, inode, node_out) == 0 && node_out->kind == NODE_SNAPSHOTS;
}

static void
refuse_name(fuse_req_t req)
{
    fuse_reply_err(req, EPERM);
}

static void
op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t device)
{
    (void)parent, (void)name, (void)mode, (void)device;
    refuse_name(req);
}

static void
op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
          struct fuse_file_info *fi)
{
    (void)parent, (void)name, (void)mode, (void)fi;
    refuse_name(req);
}

static void
op_mkdir(fuse_req_t req, fuse_ino_t parent_inode, const char *name, mode_t mode)
{
    const Tree *tree = snapshot_mount_of(req)->tree;
    g_autoptr(GError) error = NULL;
    Node parent, child;

    (void)mode;
    if (!is_snapshots(tree, parent_inode, &parent))
        refuse_name(req);
    else if (strlen(name) > NAME_MAX)
        fuse_reply_err(req, ENAMETOOLONG);
    else if (!tree_create_snapshot(tree, parent, name, &error))
        reply_change_error(req, error);
    else if (tree_lookup(tree, parent, name, &child) == 0)
        reply_entry(req, tree, child);
    else /* deleted by another request meanwhile */
        fuse_reply_err(req, ENOENT);
}

static void
op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    (void)parent, (void)name;
    refuse_name(req);
}

/* Deletes the snapshot; if needed, waits for the release of files on it. */
static bool
delete_snapshot(Mount *mount, Node child, GError **error)
{
    struct timespec deadline;
    bool is_late = false;

    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += RELEASE_TIMEOUT_S;
    for (;;) {
        g_autoptr(GError) reason = NULL;
        unsigned n_released;

        qimg_mutex_lock(&mount->files_lock);
        n_released = mount->n_released;
        qimg_mutex_unlock(&mount->files_lock);
        if (tree_delete_snapshot(mount->tree, child, &reason))
            return true;
        if (is_late || !g_error_matches(reason, QIMG_ERROR, QIMG_ERROR_BUSY)) {
            g_propagate_error(error, g_steal_pointer(&reason));
            return false;
        }
        qimg_mutex_lock(&mount->files_lock);
        while (!is_late && mount->n_released == n_released)
            is_late =
                !qimg_cond_wait_until(&mount->released, &mount->files_lock, &deadline);
        qimg_mutex_unlock(&mount->files_lock);
    }
}

static void
op_rmdir(fuse_req_t req, fuse_ino_t parent_inode, const char *name)
{
    Mount *mount = snapshot_mount_of(req);
    g_autoptr(GError) error = NULL;
    Node parent, child;

    if (!is_snapshots(mount->tree, parent_inode, &parent))
        refuse_name(req);
    else if (tree_lookup(mount->tree, parent, name, &child) != 0)
        fuse_reply_err(req, ENOENT);
    else if (!delete_snapshot(mount, child, &error))
        reply_change_error(req, error);
    else
        fuse_reply_err(req, 0);
}

static void
op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    (void)target, (void)parent, (void)name;
    refuse_name(req);
}

static void
op_rename(fuse_req_t req, fuse_ino_t parent_inode, const char *name,
          fuse_ino_t new_parent_inode, const char *new_name, unsigned flags)
{
    const Tree *tree = snapshot_mount_of(req)->tree;
    g_autoptr(GError) error = NULL;
    Node parent, child, other;

    if (!is_snapshots(tree, parent_inode, &parent))
        refuse_name(req);
    else if (parent_inode != new_parent_inode)
        fuse_reply_err(req, EXDEV);
    else if (flags & ~(unsigned)RENAME_NOREPLACE)
        fuse_reply_err(req, EINVAL);
    else if (strlen(new_name) > NAME_MAX)
        fuse_reply_err(req, ENAMETOOLONG);
    else if (tree_lookup(tree, parent, name, &child) != 0)
        fuse_reply_err(req, ENOENT);
    else if (tree_lookup(tree, parent, new_name, &other) == 0 &&
             other.index != child.index)
        fuse_reply_err(req, EEXIST);
    else if (!tree_rename_snapshot(tree, child, new_name, &error))
        reply_change_error(req, error);
    else
        fuse_reply_err(req, 0);
}

static void
op_link(fuse_req_t req, fuse_ino_t inode, fuse_ino_t parent, const char *name)
{
    (void)inode, (void)parent, (void)name;
    refuse_name(req);
}

void
ops_snapshot_fill(struct fuse_lowlevel_ops *ops)
{
    ops->mknod = op_mknod;
    ops->create = op_create;
    ops->mkdir = op_mkdir;
    ops->unlink = op_unlink;
    ops->rmdir = op_rmdir;
    ops->symlink = op_symlink;
    ops->rename = op_rename;
    ops->link = op_link;
}
