/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A found target (copy/copy-bind.c): creates its files, gives it its name, and undoes a
 * failed run. */
#include "copy/copy-binding.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/errors.h"
#include "copy/copy-journal.h"
#include "copy/copy-place.h"
#include "copy/copy-target.h"
#include "storage/same-file.h"

const char *
copy_binding_fill_name(const CopyBinding *binding)
{
    return binding->is_part ? binding->place.part_name : binding->place.name;
}

const char *
copy_binding_fill_journal_name(const CopyBinding *binding)
{
    return binding->is_part ? binding->place.part_journal_name
                            : binding->place.journal_name;
}

bool
copy_refuse_errno(int errnum, const char *what, GError **error)
{
    qimg_set_error_errno(error, errnum,
                         errnum == EBUSY ? "unmount it, or stop the programs that use it"
                         : errnum == EROFS ? QIMG_HINT_READ_ONLY
                                           : "check the path and its permissions",
                         "%s", what);
    return false;
}

bool
copy_binding_take_fill(CopyBinding *binding, int fd, const QimgImage *image,
                       GError **error)
{
    if (!copy_target_take(&binding->target, fd, binding->path, image, error))
        return false;
    if (!copy_place_has(&binding->place, copy_binding_fill_name(binding), fd))
        return COPY_REFUSE("another program has replaced it just now (try again)");
    return true;
}

/* ---- creation ---- */

/* Gives the new file the owner and mode of the old one. */
static void
take_over_mode(int fd, int old_fd)
{
    struct stat old;

    if (old_fd < 0 || fstat(old_fd, &old) < 0)
        return;
    if (fchown(fd, old.st_uid, old.st_gid) < 0)
        g_debug("the owner of the copy stays the process's");
    if (fchmod(fd, old.st_mode & 0777) < 0)
        g_debug("the mode of the copy is not that of the old file");
}

static bool
make_fill(CopyBinding *binding, const QimgImage *image, GError **error)
{
    bool is_private = binding->old_fd >= 0;
    int fd = copy_place_make_file(&binding->place, copy_binding_fill_name(binding),
                                  is_private ? 0600 : 0666);

    if (fd < 0)
        return copy_refuse_errno(errno, "cannot be made", error);
    if (is_private)
        take_over_mode(fd, binding->old_fd);
    if (!copy_binding_take_fill(binding, fd, image, error))
        return false;
    binding->made_file = true;
    return true;
}

static bool
make_journal(CopyBinding *binding, const CopyWish *wish, GError **error)
{
    CopyIdentity identity = {.is_device = binding->target.is_device,
                             .size_bytes = wish->size_bytes};
    struct stat status;
    QimgErrno err;

    if (identity.is_device) {
        if (qimg_storage_get_size(binding->target.storage, &identity.size_bytes) != 0)
            identity.size_bytes = 0;
    } else {
        qimg_storage_get_status(binding->target.storage, &status);
        identity.inode = (uint64_t)status.st_ino;
    }
    err = copy_journal_make(binding->journal, &identity);
    binding->made_journal = true;
    binding->has_journal = err == 0;
    /* A user may have permission to write to a device, but not to make files beside its
     * node: such a copy works, but cannot be resumed. */
    if (!err || identity.is_device)
        return true;
    qimg_set_error_errno(error, -err, "check the permissions of the directory",
                         "the journal of the copy, \"%s\", cannot be made",
                         copy_binding_fill_journal_name(binding));
    return false;
}

bool
copy_binding_make(CopyBinding *binding, const QimgImage *image, const CopyWish *wish,
                  GError **error)
{
    QimgErrno err = 0;

    if (binding->is_resumed)
        return true;
    if (!binding->target.storage) {
        if (!make_fill(binding, image, error))
            return false;
    } else if (!binding->target.is_device) {
        /* First of all: a file without a state in its journal must be empty. */
        err = qimg_storage_set_size(binding->target.storage, 0);
        binding->made_file = binding->is_part; /* by an earlier, failed run */
    }
    if (!err && !make_journal(binding, wish, error))
        return false;
    if (!err && binding->has_journal && !binding->target.is_device)
        err = copy_place_sync(&binding->place, binding->target.fd);
    if (err)
        qimg_set_error_errno(error, -err, NULL, "its name cannot be made durable");
    return !err;
}

/* ---- the end ---- */

bool
copy_binding_check_name(const CopyBinding *binding, GError **error)
{
    const CopyPlace *place = &binding->place;
    struct stat status;

    if (binding->target.is_device)
        return true;
    if (!copy_place_has(place,
                        binding->is_named ? place->name : copy_binding_fill_name(binding),
                        binding->target.fd))
        return COPY_REFUSE(
            "was renamed, removed or replaced while it was written (copy again)");
    if (!binding->is_part || binding->is_named)
        return true;
    if (binding->old_fd >= 0 ? copy_place_has(place, place->name, binding->old_fd)
                             : !copy_place_get_status(place, place->name, &status))
        return true;
    return COPY_REFUSE(
        "was replaced while the copy was made, which is in \"%s\" (replace it "
        "with --resume)",
        place->part_name);
}

QimgErrno
copy_binding_name(CopyBinding *binding)
{
    const CopyPlace *place = &binding->place;
    int fd = binding->target.fd;
    QimgErrno err = 0;

    if (binding->is_part && !binding->is_named)
        err = copy_place_rename_part(place);
    binding->is_named |= binding->is_part && !err;
    /* Also after a run that was killed after the rename. */
    if (!err && binding->is_part)
        err = copy_place_sync(place, fd);
    if (err)
        return err;
    if (binding->old_journal)
        copy_journal_remove(binding->old_journal);
    if (!binding->has_journal)
        return 0;
    copy_journal_remove(binding->journal);
    if (!binding->target.is_device)
        return copy_place_sync(place, fd);
    return 0;
}

void
copy_binding_undo(CopyBinding *binding)
{
    if (binding->made_journal)
        copy_journal_remove(binding->journal);
    if (binding->made_file && !binding->is_named)
        copy_place_remove(&binding->place, copy_binding_fill_name(binding),
                          binding->target.fd);
}

bool
copy_binding_uses(const CopyBinding *binding, const char *path)
{
    const char *const names[] = {binding->place.name, binding->place.part_name,
                                 binding->place.journal_name,
                                 binding->place.part_journal_name};
    g_autofree char *dir = g_path_get_dirname(path);
    g_autofree char *name = g_path_get_basename(path);
    struct stat status, own;
    bool is_there = stat(path, &status) == 0;

    if (binding->is_stream)
        return is_there && stat(binding->path, &own) == 0 &&
               qimg_is_same_file(&status, &own);
    if (binding->place.dir_fd < 0)
        return false;
    for (size_t i = 0; is_there && i < G_N_ELEMENTS(names); i++)
        if (fstatat(binding->place.dir_fd, names[i], &own, 0) == 0 &&
            qimg_is_same_file(&status, &own))
            return true;
    if (stat(dir, &status) < 0 || fstat(binding->place.dir_fd, &own) < 0 ||
        !qimg_is_same_file(&status, &own))
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

void
copy_binding_clear(CopyBinding *binding)
{
    copy_journal_free(binding->journal);
    copy_journal_free(binding->old_journal);
    copy_state_clear(&binding->start);
    copy_target_close(&binding->target);
    if (binding->old_fd >= 0)
        close(binding->old_fd);
    binding->old_fd = -1;
    copy_place_close(&binding->place);
}
