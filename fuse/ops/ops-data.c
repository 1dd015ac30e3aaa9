/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests on open files. A read is answered in the receiving thread, from a per-thread
 * buffer; a write goes to the image from the request itself. There is no flush handler:
 * close(2) has nothing to wait for. */
#include "ops/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "ops/coherence.h"
#include "ops/image-reads.h"
#include "ops/reply.h"
#include "tree/control-text.h"
#include "tree/tree-inode.h"
#include "tree/tree-lookup.h"
#include "tree/tree-open.h"
#include "tree/tree-partitions.h"
#include "tree/tree-write.h"

/* An open file: an image or a text. */
typedef struct {
    QimgImage *image;
    ImageEntry *entry; /* pinned for @image */
    uint64_t inode;
    ControlText *text;
    bool is_writable;    /* of the node; the kernel knows the open mode */
    bool is_for_writing; /* the open mode, for reporting at the end */
    bool is_part;        /* a partition */
    CoherentView *view;  /* NULL if no other file shows the same bytes */
} OpenFile;

static OpenFile *
file_of(const struct fuse_file_info *fi)
{
    return (OpenFile *)(uintptr_t)fi->fh;
}

static void
close_file(OpenFile *file)
{
    qimg_image_close(file->image);
    if (file->is_for_writing)
        partition_dir_remove_writer(&file->entry->partitions);
    if (file->entry)
        image_entry_has_fresh_pages(file->entry, file->inode);
    image_entry_unpin(file->entry);
    if (file->text)
        control_text_close(file->text);
    g_free(file);
}

static void
register_file(Mount *mount, OpenFile *file)
{
    qimg_mutex_lock(&mount->files_lock);
    g_hash_table_add(mount->files, file);
    qimg_mutex_unlock(&mount->files_lock);
}

static void
unregister_and_close(Mount *mount, OpenFile *file)
{
    qimg_mutex_lock(&mount->files_lock);
    g_hash_table_remove(mount->files, file);
    qimg_mutex_unlock(&mount->files_lock);
    close_file(file);
    qimg_mutex_lock(&mount->files_lock);
    mount->n_released++;
    qimg_cond_broadcast(&mount->released);
    qimg_mutex_unlock(&mount->files_lock);
}

void
ops_data_close_files(Mount *mount)
{
    GHashTableIter iter;
    gpointer file;

    g_hash_table_iter_init(&iter, mount->files);
    while (g_hash_table_iter_next(&iter, &file, NULL)) {
        g_hash_table_iter_remove(&iter);
        close_file(file);
    }
}

unsigned
ops_data_count_files(Mount *mount, unsigned *n_writers_out)
{
    GHashTableIter iter;
    gpointer file;
    unsigned n_files;

    *n_writers_out = 0;
    qimg_mutex_lock(&mount->files_lock);
    n_files = g_hash_table_size(mount->files);
    g_hash_table_iter_init(&iter, mount->files);
    while (g_hash_table_iter_next(&iter, &file, NULL))
        *n_writers_out += ((OpenFile *)file)->is_for_writing;
    qimg_mutex_unlock(&mount->files_lock);
    return n_files;
}

/* Sets how long the kernel may cache an image file's pages. */
static void
set_caching(const Tree *tree, Node node, const OpenFile *file, struct fuse_file_info *fi)
{
    /* Writes to the disk change it behind the kernel's back. */
    fi->direct_io =
        node.kind != NODE_DISK && node.kind != NODE_PARTITION && tree_is_live(tree, node);
    /* All changes go through this file, or are told (coherence.h): a second reader finds
     * pages. */
    fi->keep_cache = !fi->direct_io && image_entry_keeps_pages(file->entry, file->inode);
}

/* Opens @node; NULL with @error set. */
static OpenFile *
node_open_file(const Tree *tree, Node node, struct fuse_file_info *fi, GError **error)
{
    OpenFile *file = g_new0(OpenFile, 1);

    file->inode = tree_inode_of(tree, node);
    if (node_is_image(node)) {
        file->image = tree_open_image(tree, node, &file->entry, error);
        file->is_writable = file->image && tree_is_writable(tree, node);
        file->is_part = node_is_partition(node);
    } else {
        file->text = control_text_open(tree, node, error);
        fi->direct_io = 1; /* generated at each open */
    }
    if (file->image)
        set_caching(tree, node, file, fi);
    else if (!file->text)
        g_clear_pointer(&file, close_file);
    return file;
}

/* Finds the bytes that the file shares with others; false if it has gone. */
static bool
share(Mount *mount, Node node, OpenFile *file)
{
    g_autoptr(QimgPartitions) list = NULL;
    const QimgPartition *item;
    uint64_t start = 0, length = UINT64_MAX;

    if (!mount->coherence || !file->is_writable)
        return true;
    if (node.kind == NODE_PARTITION) {
        if (tree_get_partitions(mount->tree, file->entry, node, &list, &item))
            return false;
        start = item->start_bytes;
        length = item->length_bytes;
    }
    file->view = coherence_get_view(mount->coherence, node.image_index,
                                    tree_inode_of(mount->tree, node), start, length);
    return true;
}

static void
op_open(fuse_req_t req, fuse_ino_t inode, struct fuse_file_info *fi)
{
    Mount *mount = fuse_req_userdata(req);
    g_autoptr(GError) error = NULL;
    OpenFile *file;
    Node node;
    int err = tree_node_of(mount->tree, inode, &node);

    if (!err && node_is_directory(node))
        err = -EISDIR;
    if (err) {
        fuse_reply_err(req, -err);
        return;
    }
    file = node_open_file(mount->tree, node, fi, &error);
    if (!file) {
        reply_open_error(req, error);
        return;
    }
    /* Its length may stem from an earlier opening of the image, as may its pages. */
    if (file->image && !fi->keep_cache && !fi->direct_io)
        fuse_lowlevel_notify_inval_inode(mount->session, inode, -1, 0);
    if ((fi->flags & O_ACCMODE) != O_RDONLY && !file->is_writable) {
        close_file(file);
        fuse_reply_err(req, EROFS);
        return;
    }
    if (!share(mount, node, file)) {
        close_file(file);
        fuse_reply_err(req, ENOENT);
        return;
    }
    file->is_for_writing = (fi->flags & O_ACCMODE) != O_RDONLY;
    if (file->is_for_writing) {
        image_entry_expect_writes(file->entry);
        partition_dir_add_writer(&file->entry->partitions);
    }
    fi->fh = (uintptr_t)file;
    register_file(mount, file);
    if (reply_open(req, fi, file->is_writable) ==
        -ENOENT) /* the opener is gone: no release comes */
        unregister_and_close(mount, file);
}

static void
op_release(fuse_req_t req, fuse_ino_t inode, struct fuse_file_info *fi)
{
    (void)inode;
    unregister_and_close(fuse_req_userdata(req), file_of(fi));
    fuse_reply_err(req, 0);
}

static void
op_read(fuse_req_t req, fuse_ino_t inode, size_t size, off_t offset,
        struct fuse_file_info *fi)
{
    OpenFile *file = file_of(fi);
    char *buffer = image_reads_buffer();
    ssize_t n;

    (void)inode;
    if (!buffer) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    size = MIN(size, MAX_REQUEST_BYTES);
    if (file->text) {
        n = control_text_read(file->text, (uint64_t)offset, buffer, size);
        if (n < 0)
            reply_result(req, (int)n);
        else
            fuse_reply_buf(req, buffer, (size_t)n);
        return;
    }
    image_reads_answer(req, file->image, buffer, size, (uint64_t)offset);
}

static void
op_lseek(fuse_req_t req, fuse_ino_t inode, off_t offset, int whence,
         struct fuse_file_info *fi)
{
    OpenFile *file = file_of(fi);
    uint64_t found;
    int err;

    (void)inode;
    if (!file->image || (whence != SEEK_DATA && whence != SEEK_HOLE)) {
        fuse_reply_err(req, EINVAL);
        return;
    }
    if (offset < 0) {
        fuse_reply_err(req, ENXIO);
        return;
    }
    err = qimg_image_seek(file->image, (uint64_t)offset, whence == SEEK_HOLE, &found);
    if (err)
        reply_result(req, err);
    else
        fuse_reply_lseek(req, (off_t)found);
}

static void
send_result(fuse_req_t req, int err, uint64_t value)
{
    (void)value;
    reply_result(req, err);
}

static void
send_written(fuse_req_t req, int err, uint64_t n_bytes)
{
    if (err)
        reply_result(req, err);
    else
        fuse_reply_write(req, n_bytes);
}

static void
op_write(fuse_req_t req, fuse_ino_t inode, const char *bytes, size_t size, off_t offset,
         struct fuse_file_info *fi)
{
    OpenFile *file = file_of(fi);
    CoherentAnswer answer = {.send = send_written, .req = req};
    CoherentChange *change = NULL;
    uint64_t start = (uint64_t)offset, size_bytes;

    (void)inode;
    if (!file->is_writable) {
        fuse_reply_err(req, EROFS);
        return;
    }
    /* A disk takes all or nothing; a partition, which cannot grow, takes the fitting
     * part. */
    size_bytes = qimg_image_get_size_bytes(file->image);
    if (file->is_part && start < size_bytes)
        size = MIN(size, size_bytes - start);
    if (!fi->writepage)
        change = coherence_begin(file->view, start, size);
    answer.err = qimg_image_write(file->image, start, bytes, size);
    answer.value = size;
    coherence_finish(file->view, change, start, size, &answer);
}

static void
op_fsync(fuse_req_t req, fuse_ino_t inode, int is_data_only, struct fuse_file_info *fi)
{
    OpenFile *file = file_of(fi);
    CoherentAnswer answer = {.send = send_result, .req = req};

    (void)inode, (void)is_data_only;
    answer.err = file->is_writable ? qimg_image_flush(file->image) : 0;
    coherence_sync(file->view, &answer);
}

/* Allocates [@start, @end), which may lie past the disk's end. */
static int
allocate(QimgImage *image, uint64_t start, uint64_t end, bool keeps_size)
{
    uint64_t size_bytes = qimg_image_get_size_bytes(image);
    bool grows = !keeps_size && end > size_bytes;
    int err = 0;

    if (grows && !qimg_image_is_growable(image))
        return -ENOSPC;
    if (grows)
        err = qimg_image_resize(image, end, NULL, NULL);
    else
        end = MIN(end, size_bytes);
    if (err || start >= end)
        return err;
    err = qimg_image_allocate(image, start, end - start);
    /* The kernel blocks other writes to the file meanwhile. */
    if (err && grows && qimg_image_resize(image, size_bytes, NULL, NULL))
        g_warning("a disk stays larger after an allocation that failed");
    return err;
}

/* Makes [@start, @end) read as zeros, up to the disk's end. */
static int
node_zero_range(QimgImage *image, uint64_t start, uint64_t end, bool keeps_size)
{
    uint64_t size_bytes = qimg_image_get_size_bytes(image);
    int err;

    if (!keeps_size && end > size_bytes) {
        err = qimg_image_is_growable(image) ? qimg_image_resize(image, end, NULL, NULL)
                                            : -ENOSPC;
        if (err)
            return err;
    }
    end = MIN(end, size_bytes); /* the added space is zeros */
    return start < end ? qimg_image_zero(image, start, end - start) : 0;
}

static int
punch_hole(QimgImage *image, uint64_t start, uint64_t end)
{
    end = MIN(end, qimg_image_get_size_bytes(image));
    return start < end ? qimg_image_discard(image, start, end - start) : 0;
}

static void
op_fallocate(fuse_req_t req, fuse_ino_t inode, int mode, off_t offset, off_t length,
             struct fuse_file_info *fi)
{
    OpenFile *file = file_of(fi);
    uint64_t start = (uint64_t)offset, end = start + (uint64_t)length;
    bool keeps_size = mode & FALLOC_FL_KEEP_SIZE;
    CoherentAnswer answer = {.send = send_result, .req = req};
    CoherentChange *change = NULL;
    int err;

    (void)inode;
    if (offset >= 0 && length > 0)
        change = coherence_begin(file->view, start, end - start);
    if (!file->is_writable)
        err = -EROFS;
    else if (offset < 0 || length <= 0 || end > INT64_MAX)
        err = -EINVAL;
    else if (mode == 0 || mode == FALLOC_FL_KEEP_SIZE)
        err = allocate(file->image, start, end, keeps_size);
    else if (mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
        err = punch_hole(file->image, start, end);
    else if ((mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE)
        err = node_zero_range(file->image, start, end, keeps_size);
    else
        err = -EOPNOTSUPP;
    answer.err = err;
    coherence_finish(file->view, change, start, end - start, &answer);
}

void
ops_data_fill(struct fuse_lowlevel_ops *ops)
{
    ops->open = op_open;
    ops->release = op_release;
    ops->read = op_read;
    ops->lseek = op_lseek;
    ops->write = op_write;
    ops->fsync = op_fsync;
    ops->fallocate = op_fallocate;
}
