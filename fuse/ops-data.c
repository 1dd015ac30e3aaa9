/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests on open files. A read is answered in the thread that received it, from a
 * buffer that the thread keeps. */
#include "ops.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control-text.h"

/* An open file: one of the two. */
typedef struct {
    QimgImage *image;
    ControlText *text;
} OpenFile;

static pthread_key_t buffer_key;
static pthread_once_t buffer_once = PTHREAD_ONCE_INIT;

static void
make_buffer_key(void)
{
    if (pthread_key_create(&buffer_key, free) != 0)
        g_error("no thread-specific data left");
}

/* The thread's reply buffer, MAX_REQUEST_BYTES long; NULL when memory is short. */
static char *
thread_buffer(void)
{
    static _Thread_local char *mine;

    if (!mine) {
        pthread_once(&buffer_once, make_buffer_key);
        mine = aligned_alloc(4096, MAX_REQUEST_BYTES);
        if (mine)
            pthread_setspecific(buffer_key, mine);
    }
    return mine;
}

static OpenFile *
file_of(const struct fuse_file_info *fi)
{
    return (OpenFile *)(uintptr_t)fi->fh;
}

static void
close_file(OpenFile *file)
{
    qimg_image_close(file->image);
    if (file->text)
        control_text_close(file->text);
    g_free(file);
}

static void
register_file(Mount *mount, OpenFile *file)
{
    pthread_mutex_lock(&mount->files_lock);
    g_hash_table_add(mount->files, file);
    pthread_mutex_unlock(&mount->files_lock);
}

static void
unregister_and_close(Mount *mount, OpenFile *file)
{
    pthread_mutex_lock(&mount->files_lock);
    g_hash_table_remove(mount->files, file);
    pthread_mutex_unlock(&mount->files_lock);
    close_file(file);
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

static void
op_open(fuse_req_t req, fuse_ino_t inode, struct fuse_file_info *fi)
{
    Mount *mount = fuse_req_userdata(req);
    g_autoptr(GError) error = NULL;
    OpenFile *file;
    Node node;

    if (!tree_node_of(mount->tree, inode, &node) || node_is_directory(node)) {
        fuse_reply_err(req, ENOENT);
        return;
    }
    if ((fi->flags & O_ACCMODE) != O_RDONLY) {
        fuse_reply_err(req, EROFS);
        return;
    }
    file = g_new0(OpenFile, 1);
    if (node_is_image(node)) {
        file->image = tree_open_image(mount->tree, node, &error);
        fi->keep_cache = 1; /* nothing changes: a second reader finds the pages */
    } else {
        file->text = control_text_open(mount->tree, node, &error);
        fi->direct_io = 1; /* made anew for each open */
    }
    if (error) {
        g_warning("%s", error->message);
        fuse_reply_err(req, qimg_error_to_errno(error) == ENOENT ? ENOENT : EIO);
        close_file(file);
        return;
    }
    fi->fh = (uintptr_t)file;
    register_file(mount, file);
    if (fuse_reply_open(req, fi) == -ENOENT) /* the opener is gone: no release comes */
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
    char *buffer = thread_buffer();
    uint64_t size_bytes;
    ssize_t n;
    int err;

    (void)inode;
    if (!buffer) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    size = MIN(size, MAX_REQUEST_BYTES);
    if (file->text) {
        n = control_text_read(file->text, (uint64_t)offset, buffer, size);
        if (n < 0)
            fuse_reply_err(req, (int)-n);
        else
            fuse_reply_buf(req, buffer, (size_t)n);
        return;
    }
    size_bytes = qimg_image_get_size_bytes(file->image);
    size = (uint64_t)offset >= size_bytes ? 0 : MIN(size, size_bytes - (uint64_t)offset);
    /* A short reply would tell the kernel that the file ends here: all or an error. */
    err = qimg_image_read(file->image, (uint64_t)offset, buffer, size);
    if (err)
        fuse_reply_err(req, err == -ENOMEM ? ENOMEM : EIO);
    else
        fuse_reply_buf(req, buffer, size);
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
        fuse_reply_err(req, -err);
    else
        fuse_reply_lseek(req, (off_t)found);
}

static void
op_write(fuse_req_t req, fuse_ino_t inode, const char *bytes, size_t size, off_t offset,
         struct fuse_file_info *fi)
{
    (void)inode, (void)bytes, (void)size, (void)offset, (void)fi;
    fuse_reply_err(req, EROFS);
}

void
ops_data_fill(struct fuse_lowlevel_ops *ops)
{
    ops->open = op_open;
    ops->release = op_release;
    ops->read = op_read;
    ops->lseek = op_lseek;
    ops->write = op_write;
}
