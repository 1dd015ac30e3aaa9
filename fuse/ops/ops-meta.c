/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests about names and attributes. */
#include "ops/ops.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "images/images-dir.h"
#include "ops/coherence.h"
#include "ops/reply.h"
#include "tree/tree-facts.h"
#include "tree/tree-inode.h"
#include "tree/tree-lookup.h"
#include "tree/tree-write.h"

/* A file replaced more often than this during a lookup is not found. */
#define MAX_LOOKUPS 5

static const Mount *
meta_mount_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

static void
op_init(void *userdata, struct fuse_conn_info *conn)
{
    const Mount *mount = userdata;

    /* Splicing a reply through a pipe costs more than it saves. */
    conn->want &=
        ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
    /* All changes go through the kernel: our times give it no reason to drop pages. */
    conn->want &= ~(unsigned)FUSE_CAP_AUTO_INVAL_DATA;
    /* An acknowledged write has reached us; O_TRUNC arrives as a setattr. */
    conn->want &= ~(unsigned)(FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_ATOMIC_O_TRUNC);
    conn->want |= conn->capable & (FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_ASYNC_DIO |
                                   FUSE_CAP_ASYNC_READ | FUSE_CAP_NO_OPENDIR_SUPPORT);
    conn->max_write = MAX_REQUEST_BYTES; /* limits reads, too */
    conn->max_read = mount->max_read_bytes;
    /* The default of 12 would throttle deep queues. */
    conn->max_background = 128;
    conn->congestion_threshold = 96;
}

/* How long the kernel may cache a node's name, and its attributes. */
static double
name_timeout_s(const Tree *tree, Node node)
{
    if (tree_may_vanish(tree, node))
        return 0;
    return tree_is_lasting(tree, node) ? CACHE_TIMEOUT_S : NAMES_TIMEOUT_S;
}

static double
attributes_timeout_s(const Tree *tree, Node node)
{
    /* An image whose file was changed is reopened, and may then have another length. */
    return tree_is_live(tree, node) ? 0
                                    : MIN(name_timeout_s(tree, node), NAMES_TIMEOUT_S);
}

static void
reply_attributes(fuse_req_t req, Node node)
{
    const Tree *tree = meta_mount_of(req)->tree;
    struct stat status;
    int err = tree_stat(tree, node, &status);

    if (err)
        fuse_reply_err(req, -err);
    else
        fuse_reply_attr(req, &status, attributes_timeout_s(tree, node));
}

static int
make_entry(const Tree *tree, Node node, struct fuse_entry_param *out)
{
    int err;

    *out = (struct fuse_entry_param){
        .generation = tree_get_generation(tree, node),
        .entry_timeout = name_timeout_s(tree, node),
    };
    err = tree_stat(tree, node, &out->attr);
    out->attr_timeout = attributes_timeout_s(tree, node);
    out->ino = out->attr.st_ino;
    return err;
}

void
reply_entry(fuse_req_t req, const Tree *tree, Node node)
{
    struct fuse_entry_param entry;
    int err = make_entry(tree, node, &entry);

    if (err)
        fuse_reply_err(req, -err);
    else
        fuse_reply_entry(req, &entry);
}

static void
op_lookup(fuse_req_t req, fuse_ino_t parent_inode, const char *name)
{
    const Tree *tree = meta_mount_of(req)->tree;
    struct fuse_entry_param entry;
    Node parent, child;
    int err = tree_node_of(tree, parent_inode, &parent);
    bool is_of_mount = !err && !node_is_of_image(parent);

    if (is_of_mount)
        images_refresh(tree->images);
    for (unsigned n_tries = 0; !err; n_tries++) {
        err = tree_lookup(tree, parent, name, &child);
        if (!err)
            err = make_entry(tree, child, &entry);
        /* The file was replaced meanwhile: the name now stands for another one. */
        if (err != -ESTALE || !is_of_mount || n_tries == MAX_LOOKUPS)
            break;
        err = 0;
    }
    if (err)
        fuse_reply_err(req, -err);
    else
        fuse_reply_entry(req, &entry);
}

static void
op_getattr(fuse_req_t req, fuse_ino_t inode, struct fuse_file_info *fi)
{
    const Tree *tree = meta_mount_of(req)->tree;
    Node node;
    int err = tree_node_of(tree, inode, &node);

    (void)fi;
    if (err)
        fuse_reply_err(req, -err);
    else
        reply_attributes(req, node);
}

static void
send_attributes(fuse_req_t req, int err, uint64_t inode)
{
    Node node;

    if (!err)
        err = tree_node_of(meta_mount_of(req)->tree, inode, &node);
    if (err)
        fuse_reply_err(req, -err);
    else
        reply_attributes(req, node);
}

/* Sets the size of @node, and answers. */
static void
node_set_size(fuse_req_t req, Node node, uint64_t size_bytes)
{
    const Mount *mount = meta_mount_of(req);
    CoherentAnswer answer = {
        .send = send_attributes, .req = req, .value = tree_inode_of(mount->tree, node)};
    CoherentView *view = NULL;
    CoherentChange *change = NULL;

    if (mount->coherence && node.kind == NODE_DISK) {
        view = coherence_get_view(mount->coherence, node.image_index, answer.value, 0,
                                  UINT64_MAX);
        change = coherence_begin(view, size_bytes, UINT64_MAX);
    }
    answer.err = -reply_errno(tree_resize(mount->tree, node, size_bytes));
    coherence_finish(view, change, size_bytes, UINT64_MAX, &answer);
}

/* 0 if mode and owner already have the wanted values, which copying programs ask for;
 * else the errno. */
static int
refuse_other_owner(const Tree *tree, Node node, const struct stat *wanted, int to_set)
{
    struct stat now;
    int err;

    if (!(to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)))
        return 0;
    err = tree_stat(tree, node, &now);
    if (err)
        return -err;
    if ((to_set & FUSE_SET_ATTR_MODE && (wanted->st_mode ^ now.st_mode) & ALLPERMS) ||
        (to_set & FUSE_SET_ATTR_UID && wanted->st_uid != now.st_uid) ||
        (to_set & FUSE_SET_ATTR_GID && wanted->st_gid != now.st_gid))
        return EPERM;
    return 0;
}

/* Sets the size of a writable disk. Owner and mode are options of the mount. Times are
 * the image's; setting them is no error, since copying programs do. */
static void
op_setattr(fuse_req_t req, fuse_ino_t inode, struct stat *attr, int to_set,
           struct fuse_file_info *fi)
{
    const Tree *tree = meta_mount_of(req)->tree;
    g_autoptr(ImageEntry) entry = NULL;
    Node node;
    int err = tree_node_of(tree, inode, &node);

    (void)fi;
    /* A file that is not open is not writable. */
    if (!err && (node.kind == NODE_DISK || node.kind == NODE_PARTITION))
        err = tree_pin(tree, node, &entry);
    if (err)
        err = -err;
    else if (!tree_is_writable(tree, node))
        err = EROFS;
    else
        err = refuse_other_owner(tree, node, attr, to_set);
    if (err)
        fuse_reply_err(req, err);
    else if (to_set & FUSE_SET_ATTR_SIZE)
        node_set_size(req, node, (uint64_t)attr->st_size);
    else
        reply_attributes(req, node);
}

/* Only for mounts with directories of images: without this handler the kernel caches
 * directories. */
static void
op_opendir(fuse_req_t req, fuse_ino_t inode, struct fuse_file_info *fi)
{
    (void)inode;
    images_refresh(meta_mount_of(req)->tree->images);
    fuse_reply_open(req, fi);
}

/* Adds the entry at @position to the reply; false if it does not fit. */
static bool
add_entry(fuse_req_t req, char *buffer, size_t size, size_t *used, Node node,
          const char *name, off_t next_position)
{
    const Tree *tree = meta_mount_of(req)->tree;
    struct stat status = {
        .st_ino = tree_inode_of(tree, node),
        .st_mode = node_is_directory(node) ? S_IFDIR : S_IFREG,
    };
    size_t n = fuse_add_direntry(req, buffer + *used, size - *used, name, &status,
                                 next_position);

    if (n > size - *used)
        return false;
    *used += n;
    return true;
}

static void
op_readdir(fuse_req_t req, fuse_ino_t inode, size_t size, off_t position,
           struct fuse_file_info *fi)
{
    const Tree *tree = meta_mount_of(req)->tree;
    g_autofree char *buffer = g_try_malloc(size);
    size_t used = 0;
    Node directory;
    int err = buffer ? tree_node_of(tree, inode, &directory) : -ENOMEM;

    (void)fi;
    while (!err) {
        g_autofree char *name = NULL;
        Node node = position == 0 ? directory : node_parent(directory);
        uint64_t next = position < 2 ? 0 : (uint64_t)position - 2;

        if (position < 2)
            name = g_strdup(position == 0 ? "." : "..");
        else
            err = tree_child(tree, directory, &next, &node, &name);
        position = position < 2 ? position + 1 : (off_t)next + 2;
        if (!err && !add_entry(req, buffer, size, &used, node, name, position))
            break;
    }
    if (err && err != -ENOENT && used == 0)
        fuse_reply_err(req, -err);
    else
        fuse_reply_buf(req, buffer, used);
}

/* Read-only: a full file system as large as its disks. Otherwise: the images' allocated
 * space, plus the free space of the file system below, into which they can grow. Units
 * are clusters: loop devices round discards to them, and smaller discards free
 * nothing. */
static void
op_statfs(fuse_req_t req, fuse_ino_t inode)
{
    const Tree *tree = meta_mount_of(req)->tree;
    struct statvfs status = {.f_namemax = 255};
    TreeSpace space;

    (void)inode;
    tree_get_space(tree, &space);
    status.f_files = space.n_images;
    status.f_bsize = status.f_frsize = space.unit_bytes;
    status.f_bfree = status.f_bavail = space.free_bytes / space.unit_bytes;
    status.f_blocks =
        status.f_bfree + (space.used_bytes + space.unit_bytes - 1) / space.unit_bytes;
    fuse_reply_statfs(req, &status);
}

static void
op_forget(fuse_req_t req, fuse_ino_t inode, uint64_t n_lookups)
{
    (void)inode, (void)n_lookups; /* nodes are computed: nothing is counted */
    fuse_reply_none(req);
}

static void
op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    (void)count, (void)forgets;
    fuse_reply_none(req);
}

void
ops_meta_fill(struct fuse_lowlevel_ops *ops, bool names_change)
{
    ops->init = op_init;
    ops->lookup = op_lookup;
    ops->getattr = op_getattr;
    ops->setattr = op_setattr;
    ops->readdir = op_readdir;
    if (names_change)
        ops->opendir = op_opendir;
    ops->statfs = op_statfs;
    ops->forget = op_forget;
    ops->forget_multi = op_forget_multi;
}
