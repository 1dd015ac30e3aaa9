/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creation of an image with its data file. The backing file is opened first, so that the
 * new image can be opened; the formats' drivers write the content, storage/new-file.c
 * handles the names. */
#include "image/create-options.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/errors.h"
#include "format/drivers.h"
#include "image/chain/backing-name.h"
#include "image/chain/handle.h"
#include "image/open/probed.h"
#include "storage/file-lock.h"
#include "storage/file.h"
#include "storage/new-file.h"
#include "storage/same-file.h"

#define NEW_MODE 0644

/* How much of each end of a device is looked at for content. */
#define DEVICE_LOOK_BYTES QIMG_MIB

/* A file being created. */
typedef struct {
    QimgNewFile *file;
    QimgStorage *storage;
    /* The file to be replaced, held locked so that no other program begins to use it.
     * NULL: none. */
    QimgStorage *old;
} Target;

static void
target_clear(Target *target)
{
    qimg_storage_close(target->storage);
    qimg_new_file_free(target->file);
    qimg_storage_close(target->old);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Target, target_clear)

static void G_GNUC_PRINTF(2, 3) add_note(QimgCreate *create, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_ptr_array_insert(create->notes, (int)create->notes->len - 1,
                       g_strdup_vprintf(format, args));
    va_end(args);
}

/* ---- the backing file -----------------------------------------------------------------
 */

static bool
choose_backing_format(QimgCreate *create, const char *named_format, GError **error)
{
    const char *format = create->backing_fmt ? create->backing_fmt : named_format;

    if (named_format && strcmp(format, named_format) != 0)
        return qimg_misuse(error,
                           "its name says that its format is %s, and backing_fmt is %s",
                           named_format, format);
    if (format && !qimg_driver_find(format)) {
        g_autofree char *names = qimg_driver_names(false);

        return qimg_misuse(error,
                           "backing_fmt=%s: cannot be read by this version (give %s, or "
                           "--no-check to store the name all the same)",
                           format, names);
    }
    g_free(create->backing_options->format);
    create->backing_options->format = g_strdup(format);
    return true;
}

/* Takes unset properties from the backing file. */
static bool
take_backing_facts(QimgCreate *create, const QimgImage *backing, GError **error)
{
    const QimgFormat *layer = backing->chain->layers[0];

    if (S_ISBLK(layer->file->status.st_mode)) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "is a block device, which an image may not name here (give "
                       "--no-check to store the name all the same)");
        return false;
    }
    for (const char *const *w = qimg_image_get_warnings(backing); *w; w++)
        add_note(create, "backing file: %s", *w);
    if (!create->backing_options->format && !probed_check_stored(layer, "-F ", error))
        return false;
    if (!create->backing_fmt) {
        create->backing_fmt = g_strdup(layer->driver->name);
        add_note(create,
                 "the format of the backing file was not given: stored as it was found, "
                 "%s",
                 create->backing_fmt);
    }
    if (!create->has_size &&
        !qimg_align_up(qimg_view_size_bytes(&layer->active), QIMG_SECTOR_BYTES,
                       &create->fields.size_bytes)) {
        qimg_set_error(error, QIMG_ERROR_INVALID, "its size is more than can be mapped");
        return false;
    }
    return true;
}

/* Opens the backing file of the new image @path, and with it the chain below. NULL with
 * @error set, or without it if there is none to open. */
static QimgImage *
create_open_backing(QimgCreate *create, const char *path, GError **error)
{
    g_autoptr(QimgImage) image = NULL;
    g_autofree char *name = NULL;
    g_autofree char *format = NULL;
    g_autofree char *backing_path = NULL;
    g_autofree char *shown = NULL;

    if (!create->backing_file || create->no_check)
        return NULL;
    shown = g_strescape(create->backing_file, NULL);
    if (!backing_name_parse(create->backing_file, &name, &format, error))
        return NULL;
    backing_path = backing_name_resolve(path, name);
    if (choose_backing_format(create, format, error))
        image = qimg_image_open(backing_path, create->backing_options, error);
    if (image && !take_backing_facts(create, image, error))
        g_clear_pointer(&image, qimg_image_close);
    if (!image)
        g_prefix_error(error, "backing file \"%s\": ", shown);
    return g_steal_pointer(&image);
}

/* ---- rules ----------------------------------------------------------------------------
 */

/* Checks that need neither a driver nor an open file. */
static bool
check_properties(const QimgCreate *create, GError **error)
{
    const char *foreign = create_find_foreign_property(create);

    if (foreign)
        return qimg_misuse(
            error, "%s: a %s image has none (leave it out, or make a qcow2 image)",
            foreign, create->driver->name);
    if (create->driver == &qimg_driver_raw &&
        create->fields.preallocation == QIMG_PREALLOCATION_METADATA)
        return qimg_misuse(error,
                           "preallocation=metadata: a raw image has none (give falloc "
                           "or full)");
    if (create->backing_file && create->no_check && !create->backing_fmt)
        return qimg_misuse(error,
                           "backing_fmt: is missing (with --no-check the format of the "
                           "backing file must be given)");
    if (!create_encryption_check(&create->encryption, error))
        return false;
    if (create->has_size || (create->backing_file && !create->no_check))
        return true;
    return qimg_misuse(error, "%s",
                       create->backing_file
                           ? "size: is missing (with --no-check it must be given)"
                           : "size: is missing (give it, or a backing file to take it "
                             "from)");
}

/* ---- the files ------------------------------------------------------------------------
 */

static bool
refuse_itself(GError **error, const char *what)
{
    qimg_set_error(error, QIMG_ERROR_REFUSED, "is %s itself (give another name)", what);
    return false;
}

/* Refuses to replace the file with @status if the new image is based on it. */
static bool
check_not_below(const QimgImage *backing, const struct stat *status, GError **error)
{
    unsigned n_layers = backing ? backing->chain->n_layers : 0;

    for (unsigned i = 0; i < n_layers; i++) {
        const QimgFormat *layer = backing->chain->layers[i];

        if (qimg_is_same_file(&layer->file->status, status) ||
            (layer->data_file && qimg_is_same_file(&layer->data_file->status, status)))
            return refuse_itself(error, "a file that the backing file is made of");
    }
    return true;
}

/* Whether @path leads to @target or to the file that it replaces. */
static bool
is_target(const Target *target, const char *path)
{
    const struct stat *own =
        target->file ? &target->file->status : &target->storage->status;
    struct stat status;

    return stat(path, &status) == 0 &&
           (qimg_is_same_file(own, &status) ||
            (target->old && qimg_is_same_file(&target->old->status, &status)));
}

static bool
lock_target(const QimgCreate *create, QimgStorage *storage, GError **error)
{
    return create->backing_options->no_lock ||
           qimg_file_lock(qimg_file_storage_get_fd(storage), QIMG_LOCK_RW_PERM,
                          QIMG_LOCK_RW_UNSHARED, error) != QIMG_LOCK_CONFLICT;
}

/* Locks the file that @path shall replace, if it exists and may be replaced. */
static bool
open_old(const QimgCreate *create, const QimgImage *backing, const char *path,
         Target *target, GError **error)
{
    g_autoptr(QimgPlace) place = NULL;
    struct stat status;
    int fd;

    if (!create->replaces || stat(path, &status) < 0)
        return true; /* the creation of the new file reports the error */
    if (!S_ISREG(status.st_mode)) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "is no regular file, and is not replaced (give another name)");
        return false;
    }
    if (!check_not_below(backing, &status, error))
        return false;
    fd = qimg_open_named_by_user(path, false, &place, error);
    if (fd >= 0)
        target->old = qimg_file_storage_new(fd, path, false, error);
    return target->old && lock_target(create, target->old, error);
}

/* Whether the beginning or the end of @storage has any content. */
static bool
has_content(QimgStorage *storage)
{
    g_autofree uint8_t *bytes = g_malloc(DEVICE_LOOK_BYTES);
    uint64_t size_bytes = 0, n_bytes;
    QimgErrno err = qimg_storage_get_size(storage, &size_bytes);

    n_bytes = qimg_min_u64(size_bytes, DEVICE_LOOK_BYTES);
    for (int at_end = 0; !err && n_bytes > 0 && at_end < 2; at_end++) {
        err = qimg_storage_read(storage, QIMG_IO_DATA,
                                qimg_host(at_end ? size_bytes - n_bytes : 0), bytes,
                                n_bytes);
        if (bytes[0] != 0 || memcmp(bytes, bytes + 1, n_bytes - 1) != 0)
            return true;
    }
    return err != 0;
}

/* Opens the block device @path, which is to become the image. Its driver must overwrite
 * old content. */
static bool
open_device(const QimgCreate *create, const QimgImage *backing, const char *path,
            const struct stat *status, Target *target, GError **error)
{
    g_autoptr(QimgPlace) place = NULL;
    int fd;

    if (create->driver != &qimg_driver_qcow2) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "is a block device, on which only qcow2 images are made (give a "
                       "file, or the format qcow2)");
        return false;
    }
    if (!check_not_below(backing, status, error))
        return false;
    fd = qimg_open_named_by_user(path, true, &place, error);
    if (fd >= 0)
        target->storage = qimg_file_storage_new(fd, path, true, error);
    if (!target->storage || !lock_target(create, target->storage, error))
        return false;
    if (create->replaces || !has_content(target->storage))
        return true;
    qimg_set_error(error, QIMG_ERROR_REFUSED,
                   "is a block device with content, and is left as it is (give another "
                   "one, or --force to overwrite it)");
    return false;
}

/* Creates the empty file @path. */
static bool
open_target(const QimgCreate *create, const QimgImage *backing, const char *path,
            Target *target, GError **error)
{
    QimgErrno err;
    int fd = -1;

    if (!open_old(create, backing, path, target, error))
        return false;
    err = qimg_new_file_make(path, NEW_MODE, create->replaces, &target->file, &fd);
    if (err == -EEXIST) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "exists already, and is left as it is (give another name, or "
                       "--force to replace it)");
        return false;
    }
    if (err) {
        qimg_set_error_errno(error, -err,
                             err == -EROFS ? QIMG_HINT_READ_ONLY
                                           : "give a name in a directory of yours",
                             "cannot be made");
        return false;
    }
    if (target->old) {
        const struct stat *old = &target->old->status;

        /* Keeps owner and mode; without root, chown may fail. */
        if (fchown(fd, old->st_uid, old->st_gid) < 0)
            g_debug("the owner of %s stays the process's", path);
        if (fchmod(fd, old->st_mode & 0777) < 0)
            g_debug("the mode of %s is not that of the old file", path);
    }
    target->storage = qimg_file_storage_new(fd, path, true, error);
    return target->storage && lock_target(create, target->storage, error);
}

static bool
keep_target(Target *target, GError **error)
{
    QimgErrno err = target->file ? qimg_new_file_keep(target->file) : 0;

    if (err)
        qimg_set_error_errno(error, -err, NULL, "cannot store its name");
    return !err;
}

/* Creates the data file of the image @image_path, @image. */
static bool
make_data_file(const QimgCreate *create, const QimgImage *backing, const char *image_path,
               const Target *image, Target *target, GError **error)
{
    g_autofree char *path = backing_name_resolve(image_path, create->data_file);
    QimgCreateOptions fields = {.size_bytes = create->fields.size_bytes,
                                .task = create->fields.task};

    if (create->fields.preallocation >= QIMG_PREALLOCATION_FALLOC)
        fields.preallocation = create->fields.preallocation;
    return (!is_target(image, path) || refuse_itself(error, "the image")) &&
           open_target(create, backing, path, target, error) &&
           qimg_driver_raw.create(target->storage, &fields, error);
}

static bool
make_image(QimgCreate *create, const QimgImage *backing, const char *path, GError **error)
{
    struct stat status;
    bool is_device = stat(path, &status) == 0 && S_ISBLK(status.st_mode);
    g_auto(Target) image = {0};
    g_auto(Target) data = {0};
    g_autofree char *backing_path =
        create->backing_file ? backing_name_resolve(path, create->backing_file) : NULL;
    g_autofree char *shown =
        create->data_file ? g_strescape(create->data_file, NULL) : NULL;
    g_auto(CreateKey) key = {0};
    QimgCreateOptions fields = create->fields;
    QimgErrno err;

    fields.backing_name = create->backing_file;
    fields.backing_format = create->backing_fmt;
    fields.data_file_name = create->data_file;
    if (fields.data_file_raw && fields.preallocation == QIMG_PREALLOCATION_OFF)
        fields.preallocation = QIMG_PREALLOCATION_METADATA; /* spec: qcow2 section 10 */
    if (create_encryption_is_on(&create->encryption)) {
        create_encryption_lay_out(&create->encryption, &key);
        fields.luks = &key.header;
    }
    if (create->driver->check_create && !create->driver->check_create(&fields, error))
        return false;
    if (fields.luks) {
        if (!create_encryption_make_key(&create->encryption, path, &key, error))
            return false;
        fields.luks_material = key.slot.material;
        if (key.ends_in_newline)
            add_note(create, "the passphrase ends in a newline, which counts");
    }
    err = qimg_task_step(fields.task, 0, 1);
    if (err) {
        qimg_set_error_errno(error, -err, NULL, "nothing was made");
        return false;
    }
    if (!(is_device ? open_device(create, backing, path, &status, &image, error)
                    : open_target(create, backing, path, &image, error)))
        return false;
    if (backing_path && is_target(&image, backing_path))
        return refuse_itself(error, "the backing file");
    if (create->data_file &&
        !make_data_file(create, backing, path, &image, &data, error)) {
        g_prefix_error(error, "data file \"%s\": ", shown);
        return false;
    }
    /* The image refers to the data file, so create that first. */
    return create->driver->create(image.storage, &fields, error) &&
           (!create->data_file || keep_target(&data, error)) &&
           keep_target(&image, error);
}

gboolean
qimg_create_run(QimgCreate *create, const char *path, QimgProgress progress, void *user,
                GError **error)
{
    const QimgTask task = {progress, user};
    g_autoptr(QimgImage) backing = NULL;
    g_autoptr(GError) reason = NULL;
    bool is_made;

    g_ptr_array_set_size(create->notes, 0);
    g_ptr_array_add(create->notes, NULL);
    if (!check_properties(create, error))
        return FALSE;
    backing = create_open_backing(create, path, &reason);
    if (reason) {
        g_propagate_error(error, g_steal_pointer(&reason));
        return FALSE;
    }
    create->fields.task = &task;
    is_made = make_image(create, backing, path, error);
    create->fields.task = NULL;
    return is_made;
}
