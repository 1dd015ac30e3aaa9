/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Maps a target's name to a known, held file: decides the fate of an earlier copy's
 * leftovers, of the file to be replaced, and of new files.
 *
 * A new file is filled under its own name. A replacement is filled beside the old file
 * (".qimg-part") and renamed at the end. A filled file has its journal beside it. */
#include "copy/copy-bind.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/errors.h"
#include "copy/copy-binding.h"
#include "copy/copy-journal.h"
#include "copy/copy-place.h"
#include "copy/copy-source.h"
#include "copy/copy-target.h"
#include "storage/file-lock.h"
#include "storage/same-file.h"

/* ---- present files ---- */

/* The facts about the names, collected before any decision. */
typedef struct {
    const QimgImage *image;
    const CopyWish *wish;
    bool is_there; /* the target exists, with: */
    struct stat status;
    bool has_part; /* a file has the part's name */
    CopyJournal *journal;
    CopyJournalKind journal_kind;
    CopyJournal *part_journal;
    CopyJournalKind part_kind;
} Scene;

/* Reads the journal @name; the chain's files must not be taken for one (I3). */
static bool
look_at_journal(Scene *scene, const CopyPlace *place, const char *name,
                CopyJournal *journal, CopyJournalKind *kind_out, GError **error)
{
    struct stat status;

    if (copy_place_get_status(place, name, &status) &&
        qimg_image_has_file(scene->image, &status))
        return COPY_REFUSE(
            "the journal of a copy to it would have the name of a file of the "
            "chain (name another file)");
    *kind_out = copy_journal_open(journal, place, name);
    if (*kind_out == COPY_JOURNAL_FOREIGN)
        return COPY_REFUSE(
            "something else than a copy's journal has the name \"%s\" (move it "
            "away, or name another file)",
            name);
    return true;
}

static bool
refuse_broken(const char *name, GError **error)
{
    qimg_set_error(error, QIMG_ERROR_INVALID,
                   "the copy cannot go on: its journal \"%s\" makes no sense (start "
                   "again with --force)",
                   name);
    return false;
}

/* Opens the file to be filled; *@fd_out is -1 if it is missing. */
static bool
open_fill(const CopyBinding *binding, int *fd_out, GError **error)
{
    *fd_out =
        copy_place_open_file(&binding->place, copy_binding_fill_name(binding), O_RDWR);
    if (*fd_out < 0 && errno != ENOENT)
        return copy_refuse_errno(
            errno,
            binding->is_part ? "the file of a copy that replaces it cannot be opened"
                             : "cannot be opened",
            error);
    return true;
}

/* ---- resuming ---- */

/* Whether @status is of the journal's file. */
static bool
is_identity(const CopyIdentity *identity, const CopyState *state,
            const struct stat *status)
{
    return !identity->is_device && S_ISREG(status->st_mode) &&
           identity->inode == (uint64_t)status->st_ino &&
           (uint64_t)status->st_size <= identity->size_bytes &&
           (uint64_t)status->st_size >= state->done_bytes;
}

static bool
check_identity(CopyBinding *binding, const Scene *scene, GError **error)
{
    static const char *const other = "the copy cannot go on: it is not the file that was "
                                     "begun, or was cut (start again with --force)";
    CopyIdentity identity;
    struct stat status;
    bool is_untouched = false;
    g_autofree char *stamp = NULL;
    uint64_t own_bytes = 0;

    copy_journal_get(binding->journal, &binding->start, &identity);
    if (!copy_journal_check_source(binding->journal, &is_untouched, error))
        return false;
    if (binding->start.done_bytes > scene->wish->size_bytes)
        return refuse_broken(copy_binding_fill_journal_name(binding), error);
    if (binding->target.is_device) {
        if (!identity.is_device ||
            qimg_storage_get_size(binding->target.storage, &own_bytes) != 0 ||
            own_bytes != identity.size_bytes)
            return COPY_REFUSE(
                "the copy cannot go on: it is not the device that was begun "
                "(start again with --force)");
        return true;
    }
    qimg_storage_get_status(binding->target.storage, &status);
    if (!is_identity(&identity, &binding->start, &status))
        return COPY_REFUSE("%s", other);
    stamp = copy_stamp_of(&status);
    binding->is_trusted = is_untouched && g_strcmp0(stamp, binding->start.stamp) == 0;
    return true;
}

/* A copy that replaces the target may have been renamed to it already. */
static bool
find_renamed(CopyBinding *binding, const Scene *scene)
{
    CopyIdentity identity;
    CopyState state;
    bool is_renamed;

    copy_journal_get(binding->journal, &state, &identity);
    is_renamed = scene->is_there && state.done_bytes == scene->wish->size_bytes &&
                 is_identity(&identity, &state, &scene->status);
    copy_state_clear(&state);
    return is_renamed;
}

static bool
find_resumed(CopyBinding *binding, Scene *scene, GError **error)
{
    CopyJournalKind kind = scene->journal_kind;
    int fd = -1;
    struct stat status;

    binding->is_part = scene->part_kind != COPY_JOURNAL_NONE;
    if (binding->is_part) {
        kind = scene->part_kind;
        binding->journal = g_steal_pointer(&scene->part_journal);
        binding->old_journal = g_steal_pointer(&scene->journal);
    } else {
        binding->journal = g_steal_pointer(&scene->journal);
    }
    if (kind == COPY_JOURNAL_BROKEN)
        return refuse_broken(copy_binding_fill_journal_name(binding), error);
    if (binding->target.storage) { /* a device */
        binding->is_resumed = kind == COPY_JOURNAL_STATES;
        return !binding->is_resumed || check_identity(binding, scene, error);
    }
    if (!open_fill(binding, &fd, error))
        return false;
    if (fd < 0 && kind == COPY_JOURNAL_STATES) {
        if (!binding->is_part || !find_renamed(binding, scene))
            return COPY_REFUSE(
                "the copy cannot go on: the file \"%s\" is not there any more "
                "(start again with --force)",
                copy_binding_fill_name(binding));
        binding->is_named = true;
        fd = copy_place_open_file(&binding->place, binding->place.name, O_RDWR);
        if (fd < 0)
            return copy_refuse_errno(errno, "cannot be opened", error);
        if (!copy_target_take(&binding->target, fd, binding->path, scene->image, error))
            return false;
    } else if (fd >= 0 && !copy_binding_take_fill(binding, fd, scene->image, error)) {
        return false;
    }
    if (kind == COPY_JOURNAL_STATES) {
        /* Another run may have continued or completed it before we got the lock. */
        if (copy_journal_open(binding->journal, &binding->place,
                              copy_binding_fill_journal_name(binding)) !=
            COPY_JOURNAL_STATES)
            return COPY_REFUSE(
                "another program has used its journal just now (try again)");
        binding->is_resumed = true;
        return check_identity(binding, scene, error);
    }
    /* The journal has no state. An earlier run that ended at once leaves an empty
     * file. */
    if (fd < 0)
        return true;
    qimg_storage_get_status(binding->target.storage, &status);
    if (status.st_size == 0)
        return true;
    if (kind == COPY_JOURNAL_BLANK)
        return refuse_broken(copy_binding_fill_journal_name(binding), error);
    return COPY_REFUSE(
        "exists, and has no journal of a copy that could go on: it is complete, "
        "or something else (start again with --force)");
}

/* ---- beginning ---- */

/* Opens and locks the file to be replaced, which must not be in use. */
static bool
hold_old(CopyBinding *binding, const QimgImage *image, GError **error)
{
    struct stat status;

    binding->old_fd =
        copy_place_open_file(&binding->place, binding->place.name, O_RDONLY);
    if (binding->old_fd < 0)
        return errno == ENOENT || copy_refuse_errno(errno, "cannot be opened", error);
    if (fstat(binding->old_fd, &status) < 0)
        return copy_refuse_errno(errno, "cannot read its status", error);
    if (qimg_image_has_file(image, &status)) /* it may have been replaced meanwhile */
        return COPY_REFUSE("is the image itself or one of its chain (name another file)");
    return qimg_file_lock(binding->old_fd, QIMG_LOCK_RO_PERM,
                          QIMG_LOCK_RW_UNSHARED | QIMG_PERM_READ,
                          error) != QIMG_LOCK_CONFLICT;
}

/* Takes over the partial file of a replacing copy that restarts from the beginning. */
static bool
take_old_part(CopyBinding *binding, const Scene *scene, GError **error)
{
    CopyState state = {0};
    CopyIdentity identity = {0};
    struct stat status;
    bool is_ours;
    int fd = -1;

    if (!open_fill(binding, &fd, error))
        return false;
    if (fd < 0)
        return true;
    if (!copy_binding_take_fill(binding, fd, scene->image, error))
        return false;
    qimg_storage_get_status(binding->target.storage, &status);
    if (scene->part_kind == COPY_JOURNAL_STATES)
        copy_journal_get(binding->journal, &state, &identity);
    copy_state_clear(&state);
    is_ours = status.st_nlink == 1 &&
              (status.st_size == 0 || (identity.inode == (uint64_t)status.st_ino &&
                                       !identity.is_device && identity.inode != 0));
    return is_ours ||
           COPY_REFUSE("\"%s\", which is in the way, is not the file of a copy that "
                       "was interrupted (move it away)",
                       binding->place.part_name);
}

static bool
find_new(CopyBinding *binding, Scene *scene, GError **error)
{
    bool is_interrupted =
        scene->journal_kind != COPY_JOURNAL_NONE || scene->part_kind != COPY_JOURNAL_NONE;
    bool is_device = binding->target.storage != NULL;

    if (!scene->wish->overwrites && is_interrupted)
        return COPY_REFUSE("holds a copy that was interrupted (go on with --resume, or "
                           "start again with --force)");
    if (!scene->wish->overwrites && scene->is_there && !is_device)
        return COPY_REFUSE("exists (name another file, or replace it with --force)");
    binding->is_part =
        scene->wish->overwrites && !is_device &&
        (scene->is_there || scene->has_part || scene->part_kind != COPY_JOURNAL_NONE);
    if (!binding->is_part) {
        binding->journal = g_steal_pointer(&scene->journal);
        return true;
    }
    binding->journal = g_steal_pointer(&scene->part_journal);
    binding->old_journal = g_steal_pointer(&scene->journal);
    return hold_old(binding, scene->image, error) && take_old_part(binding, scene, error);
}

/* ---- the whole ---- */

static bool
take_device(CopyBinding *binding, const Scene *scene, GError **error)
{
    uint64_t size_bytes = scene->wish->size_bytes, own_bytes = 0;
    /* O_EXCL fails if it is mounted or part of a volume. */
    int fd = open(binding->path, O_RDWR | O_EXCL | O_CLOEXEC | O_NOCTTY);

    if (fd < 0)
        return copy_refuse_errno(errno, "cannot be opened", error);
    if (!copy_target_take(&binding->target, fd, binding->path, scene->image, error))
        return false;
    if (!binding->target.is_device)
        return COPY_REFUSE("another program has replaced it just now (try again)");
    if (qimg_storage_get_size(binding->target.storage, &own_bytes) == 0 &&
        own_bytes >= size_bytes)
        return true;
    return COPY_REFUSE("is too small: %" G_GUINT64_FORMAT " bytes, the disk has "
                       "%" G_GUINT64_FORMAT " (name a larger device)",
                       (guint64)own_bytes, (guint64)size_bytes);
}

/* A file without holes needs as much room as its length; the room for a sparse one is not
 * known in advance. */
static bool
check_room(const CopyBinding *binding, const CopyWish *wish, GError **error)
{
    struct statvfs host;
    struct stat status = {0};
    uint64_t free_bytes, own_bytes;

    if (!wish->keeps_zeros || binding->target.is_device ||
        fstatvfs(binding->place.dir_fd, &host) < 0)
        return true;
    if (binding->target.storage)
        qimg_storage_get_status(binding->target.storage, &status);
    free_bytes = (uint64_t)host.f_bavail * host.f_frsize;
    own_bytes = (uint64_t)status.st_blocks * 512;
    if (own_bytes >= wish->size_bytes || wish->size_bytes - own_bytes <= free_bytes)
        return true;
    qimg_set_error(error, QIMG_ERROR_NO_SPACE,
                   "a file of %" G_GUINT64_FORMAT
                   " bytes without holes finds no room: %" G_GUINT64_FORMAT
                   " bytes are free (make room, or leave out --sparse=no)",
                   (guint64)wish->size_bytes, (guint64)free_bytes);
    return false;
}

static bool
look_at_target(CopyBinding *binding, Scene *scene, GError **error)
{
    struct stat link, part;

    scene->is_there = stat(binding->path, &scene->status) == 0;
    if (!scene->is_there && lstat(binding->path, &link) == 0 && S_ISLNK(link.st_mode))
        return COPY_REFUSE("is a symbolic link to nothing (name the file itself)");
    if (scene->is_there && qimg_image_has_file(scene->image, &scene->status)) /* I3 */
        return COPY_REFUSE("is the image itself or one of its chain (name another file)");
    if (scene->is_there && S_ISFIFO(scene->status.st_mode)) {
        binding->is_stream = true;
        return !scene->wish->resumes ||
               COPY_REFUSE("is a pipe: a copy to it cannot go on (leave out --resume)");
    }
    if (scene->is_there && S_ISDIR(scene->status.st_mode))
        return copy_refuse_errno(EISDIR, "cannot be opened", error);
    if (scene->is_there && !S_ISREG(scene->status.st_mode) &&
        !S_ISBLK(scene->status.st_mode))
        return COPY_REFUSE(
            "is neither a regular file nor a block device (name one of these, "
            "or - for standard output)");
    if (!copy_place_open(&binding->place, binding->path,
                         scene->is_there && S_ISREG(scene->status.st_mode), error))
        return false;
    if (scene->is_there && S_ISBLK(scene->status.st_mode) &&
        !take_device(binding, scene, error))
        return false;
    scene->has_part =
        copy_place_get_status(&binding->place, binding->place.part_name, &part);
    return look_at_journal(scene, &binding->place, binding->place.journal_name,
                           scene->journal, &scene->journal_kind, error) &&
           (binding->target.storage ||
            look_at_journal(scene, &binding->place, binding->place.part_journal_name,
                            scene->part_journal, &scene->part_kind, error));
}

bool
copy_binding_find(CopyBinding *binding, const char *path, const QimgImage *image,
                  const char *source_name, const CopyWish *wish, GError **error)
{
    Scene scene = {
        .image = image,
        .wish = wish,
        .journal = copy_journal_new(image, source_name),
        .part_journal = copy_journal_new(image, source_name),
    };
    bool is_good;

    binding->path = path;
    is_good = look_at_target(binding, &scene, error);
    if (is_good && !binding->is_stream)
        is_good = (wish->resumes ? find_resumed(binding, &scene, error)
                                 : find_new(binding, &scene, error)) &&
                  check_room(binding, wish, error);
    binding->has_journal = binding->is_resumed;
    if (is_good && binding->is_part && !binding->is_named && wish->resumes)
        is_good = hold_old(binding, image, error);
    copy_journal_free(scene.journal);
    copy_journal_free(scene.part_journal);
    return is_good;
}
