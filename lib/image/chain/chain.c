/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* State shared by the opening of a chain and of its overlay: locked storages,
 * warnings. */
#include "image/chain/chain.h"

#include <errno.h>

#include "storage/file-lock.h"
#include "storage/file.h"

void
chain_warn(QimgChain *chain, const char *path, const char *text)
{
    char *line = g_strdup_printf("%s: %s", path, text);

    for (char *c = line; *c; c++)
        if (g_ascii_iscntrl(*c))
            *c = '?';
    g_ptr_array_add(chain->warnings, line);
}

/* Takes the locks of a reader or writer on @storage. */
static bool
chain_lock_storage(QimgChain *chain, const QimgOptions *options, QimgStorage *storage,
                   GError **error)
{
    bool is_writable = qimg_storage_is_writable(storage);

    if (options->no_lock)
        return true;
    switch (qimg_file_lock(qimg_file_storage_get_fd(storage),
                           is_writable ? QIMG_LOCK_RW_PERM : QIMG_LOCK_RO_PERM,
                           is_writable ? QIMG_LOCK_RW_UNSHARED : QIMG_LOCK_RO_UNSHARED,
                           error)) {
    case QIMG_LOCK_TAKEN:
        qimg_file_storage_unlock_at_close(storage);
        return true;
    case QIMG_LOCK_NOT_SUPPORTED:
        chain_warn(chain, storage->path,
                   is_writable ? "its file system has no byte locks: make sure that no "
                                 "other program uses it"
                               : "its file system has no byte locks: make sure that no "
                                 "other program writes to it");
        return true;
    case QIMG_LOCK_CONFLICT:
        break;
    }
    return false;
}

void
chain_go_direct(QimgChain *chain, const QimgOptions *options, QimgStorage *storage)
{
    g_autofree char *text = NULL;
    QimgErrno err = options->is_direct ? qimg_file_storage_go_direct(storage) : 0;

    if (!err)
        return;
    text = g_strdup_printf("its data go through the page cache in spite of the option "
                           "direct: %s",
                           err == -EINVAL ? "its file system cannot do without"
                                          : g_strerror(-err));
    chain_warn(chain, storage->path, text);
}

QimgStorage *
chain_open_storage(QimgChain *chain, const QimgOptions *options, int fd, const char *path,
                   bool is_writable, GError **error)
{
    QimgStorage *storage = qimg_file_storage_new(fd, path, is_writable, error);

    if (!storage)
        return NULL;
    if (!chain_lock_storage(chain, options, storage, error)) {
        qimg_storage_close(storage);
        return NULL;
    }
    chain_go_direct(chain, options, storage);
    return storage;
}
