/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creation and opening of the overlay of the option "cow": a temporary one, which never
 * has a name, or a file that is kept and can be opened again.
 *
 * The overlay's backing file is not opened by its stored name: the image below is already
 * open. The name is stored for later users of the file, and serves to recognise an
 * existing file. */
#include "image/open/overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/errors.h"
#include "format/drivers.h"
#include "image/chain/backing-name.h"
#include "image/open/probed.h"
#include "storage/file.h"
#include "storage/new-file.h"
#include "storage/same-file.h"

#define OVERLAY_CLUSTER_BITS   16u
#define OVERLAY_REFCOUNT_ORDER 4u

/* Whether the temporary overlay has extended L2 entries: a small write then copies 2 KiB
 * from below, not 64. Random writes of 4 KiB are several times as fast (16000 and 140000
 * per second into a file of ext4), long ones as fast as without. A kept overlay has none,
 * for programs that do not support them (QEMU before 5.2). */
#define VANISHING_HAS_SUBCLUSTERS true

#define TEMPORARY_HINT                                                                   \
    "set TMPDIR to a directory with space for all that will be written, or give -o "     \
    "cow=FILE"
#define FILE_HINT "give a name in a directory of yours that has space"

/* Not /tmp, which is often in memory. */
#define DEFAULT_TEMPORARY_DIR "/var/tmp"

/* Makes a new overlay of the chain in @file. @backing_name is NULL for a temporary one;
 * @hint: the user's remedy if it fails. */
static bool
create_in(QimgChain *chain, QimgStorage *file, const char *backing_name, const char *hint,
          GError **error)
{
    const QimgFormat *image = chain->layers[1];
    QimgCreateOptions create = {
        .version = 3,
        .cluster_bits = OVERLAY_CLUSTER_BITS,
        .refcount_order = OVERLAY_REFCOUNT_ORDER,
        .extended_l2 = VANISHING_HAS_SUBCLUSTERS && !backing_name,
        .backing_name = backing_name,
        .backing_format = backing_name ? image->driver->name : NULL,
    };
    g_autoptr(GError) reason = NULL;

    if (!qimg_align_up(qimg_view_size_bytes(&image->active), QIMG_SECTOR_BYTES,
                       &create.size_bytes)) {
        qimg_set_error(error, QIMG_ERROR_INVALID, "size: is more than can be mapped (%s)",
                       hint);
        return false;
    }
    if (!qimg_driver_qcow2.create(file, &create, &reason)) {
        qimg_set_error(error, reason->code, "%s (%s)", reason->message, hint);
        return false;
    }
    if (create.size_bytes != qimg_view_size_bytes(&image->active)) {
        g_autofree char *text = g_strdup_printf(
            "its size of %" PRIu64 " bytes is no multiple of a sector: with -o cow the "
            "disk has %" PRIu64 " bytes, the last ones zeros",
            qimg_view_size_bytes(&image->active), create.size_bytes);

        chain_warn(chain, image->file->path, text);
    }
    if (backing_name && S_ISBLK(image->file->status.st_mode)) {
        g_autofree char *shown = g_strescape(backing_name, NULL);
        g_autofree char *text = g_strdup_printf(
            "is a block device: programs that open the overlay later need -o "
            "backing=%s",
            shown);

        chain_warn(chain, image->file->path, text);
    }
    return true;
}

/* Opens the layer in @file (owned, also on failure). */
static QimgFormat *
open_format(QimgChain *chain, const QimgOptions *options, QimgStorage *file,
            GError **error)
{
    QimgFormatEnv env = {
        .tables = chain->tables,
        .layer_index = 0,
        .gate = chain->gate,
        .keeper = chain->keeper,
        .is_writable = true,
        .drops_bitmaps = options->drops_bitmaps,
        .bitmap_cache_bytes = options->bitmap_cache_bytes,
        .has_snapshots = true, /* an existing file may have some, which are left alone */
    };
    QimgFormat *overlay = qimg_driver_qcow2.open(file, &env, error);

    if (!overlay)
        qimg_storage_close(file);
    return overlay;
}

/* ---- temporary overlay ---- */

/* A file without a name in @dir; -1 with errno. */
static int
open_nameless(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
    g_autofree char *name = NULL;

    /* File systems without nameless files; old kernels return EISDIR. */
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
        return fd;
    name = g_build_filename(dir, "qimg-overlay-XXXXXX", NULL);
    fd = g_mkstemp_full(name, O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        unlink(name);
    return fd;
}

static QimgFormat *
open_vanishing(QimgChain *chain, const QimgOptions *options, GError **error)
{
    const char *named_dir = g_getenv("TMPDIR");
    const char *dir = named_dir && *named_dir ? named_dir : DEFAULT_TEMPORARY_DIR;
    g_autofree char *shown = g_strdup_printf("(overlay in %s)", dir);
    int fd = open_nameless(dir);
    QimgFormat *overlay = NULL;
    QimgStorage *file = NULL;

    if (fd < 0)
        qimg_set_error_errno(error, errno, TEMPORARY_HINT, "cannot make a file");
    else
        file = qimg_file_storage_new(fd, shown, true, error);
    if (file) {
        /* No program can open it after a crash, so no data need to survive one. */
        qimg_file_storage_skip_syncs(file);
        chain_go_direct(chain, options, file);
        if (create_in(chain, file, NULL, TEMPORARY_HINT, error))
            overlay = open_format(chain, options, file, error);
        else
            qimg_storage_close(file);
    }
    if (!overlay) {
        g_prefix_error(error, "overlay in \"%s\": ", dir);
        return NULL;
    }
    /* Shown in the information about the disk; here, the file's length limit does not
     * apply. */
    overlay->backing_name = g_strdup(chain->layers[1]->file->path);
    overlay->backing_format = g_strdup(chain->layers[1]->driver->name);
    return overlay;
}

/* ---- kept overlay ---- */

/* Refuses unsuitable files, before one is opened for writing. */
static bool
check_file(const QimgChain *chain, const struct stat *status, GError **error)
{
    for (unsigned i = 1; i < chain->n_layers; i++) {
        const QimgFormat *layer = chain->layers[i];

        if (qimg_is_same_file(&layer->file->status, status) ||
            (layer->data_file && qimg_is_same_file(&layer->data_file->status, status))) {
            qimg_set_error(error, QIMG_ERROR_REFUSED,
                           "is a file of the image itself (give the name of a new file)");
            return false;
        }
    }
    if (S_ISREG(status->st_mode))
        return true;
    qimg_set_error(error, QIMG_ERROR_REFUSED,
                   "is no regular file (give the name of a new file)");
    return false;
}

static bool
refuse_stranger(GError **error, const char *what)
{
    qimg_set_error(error, QIMG_ERROR_REFUSED,
                   "%s, so that it is no overlay of this image, and it is left as it is "
                   "(give the name of a new file, or of an overlay of this image)",
                   what);
    return false;
}

/* Whether @overlay, opened at @place, stores the image below as its backing file. */
static bool
check_backing(const QimgChain *chain, const QimgFormat *overlay, const QimgPlace *place,
              GError **error)
{
    const QimgFormat *image = chain->layers[1];
    g_autofree char *name = NULL;
    g_autofree char *named_format = NULL;
    g_autofree char *shown = NULL;
    const char *format;
    struct stat status;

    if (overlay->needs_data_file)
        return refuse_stranger(error, "has an external data file");
    if (!overlay->backing_name)
        return refuse_stranger(error, "has no backing file");
    if (!backing_name_parse(overlay->backing_name, &name, &named_format, error))
        return false;
    if (fstatat(place->dir_fd, name, &status, 0) < 0 ||
        !qimg_is_same_file(&image->file->status, &status)) {
        g_autofree char *shown_name = g_strescape(name, NULL);
        g_autofree char *what = g_strdup_printf("its backing file is \"%s\"", shown_name);

        return refuse_stranger(error, what);
    }
    format = named_format ? named_format : overlay->backing_format;
    if (!format || strcmp(format, image->driver->name) == 0)
        return true;
    shown = g_strescape(format, NULL);
    qimg_set_error(error, QIMG_ERROR_REFUSED,
                   "says that the image is of format \"%s\", and it was opened as %s "
                   "(give -o format=)",
                   shown, image->driver->name);
    return false;
}

static bool
check_is_qcow2(QimgStorage *file, GError **error)
{
    uint8_t bytes[QIMG_SECTOR_BYTES];
    QimgErrno err =
        qimg_storage_read(file, QIMG_IO_HEADER, qimg_host(0), bytes, sizeof bytes);

    if (err) {
        qimg_set_error_errno(error, -err, NULL, "cannot read its first sector");
        return false;
    }
    return qimg_driver_qcow2.probe(bytes, sizeof bytes) ||
           refuse_stranger(error, "is no qcow2 image");
}

static QimgFormat *
open_existing(QimgChain *chain, const QimgOptions *options, GError **error)
{
    g_autoptr(QimgPlace) place = NULL;
    int fd = qimg_open_named_by_user(options->cow_path, true, &place, error);
    QimgFormat *overlay = NULL;
    QimgStorage *file;

    if (fd < 0)
        return NULL;
    file = chain_open_storage(chain, options, fd, options->cow_path, true, error);
    /* The file may be a different one than a moment ago. */
    if (file && check_file(chain, &file->status, error) && check_is_qcow2(file, error)) {
        overlay = open_format(chain, options, file, error);
        file = NULL;
    }
    qimg_storage_close(file);
    if (overlay && !check_backing(chain, overlay, place, error))
        g_clear_pointer(&overlay, qimg_format_close);
    return overlay;
}

/* The name of the image in an overlay in the directory @dir_fd: the file name alone if
 * that directory is the image's, else the path from the root. NULL with @error set if the
 * image has no lasting name. */
static char *
name_of_image(const QimgChain *chain, int dir_fd, GError **error)
{
    const QimgPlace *place = chain->places[1];
    const QimgStorage *file = chain->layers[1]->file;
    g_autofree char *base = g_path_get_basename(place->path);
    g_autofree char *name = NULL;
    struct stat overlay_dir, image_dir, status;

    if (fstat(dir_fd, &overlay_dir) == 0 && fstat(place->dir_fd, &image_dir) == 0 &&
        qimg_is_same_file(&overlay_dir, &image_dir)) {
        /* A prefix before a colon would be taken for a protocol. */
        name = g_strconcat(strchr(base, ':') ? "./" : "", base, NULL);
    } else if (place->dir_real && !g_str_has_prefix(place->dir_real, "/proc/")) {
        name = g_build_filename(place->dir_real, base, NULL);
    } else { /* such as /dev/fd/N: a descriptor's number is no name */
        g_autofree char *link =
            g_strdup_printf("/proc/self/fd/%d", qimg_file_storage_get_fd(file));

        name = g_file_read_link(link, NULL);
    }
    if (name && fstatat(dir_fd, name, &status, 0) == 0 &&
        qimg_is_same_file(&file->status, &status))
        return g_steal_pointer(&name);
    qimg_set_error(error, QIMG_ERROR_REFUSED,
                   "cannot store the name of the image, which was opened as \"%s\" (give "
                   "a path that leads to the image from everywhere)",
                   place->path);
    return NULL;
}

static QimgFormat *
create_file(QimgChain *chain, const QimgOptions *options, GError **error)
{
    g_autoptr(QimgNewFile) new_file = NULL;
    g_autofree char *backing_name = NULL;
    QimgFormat *overlay = NULL;
    QimgStorage *file;
    int fd = -1;
    QimgErrno err = qimg_new_file_make(options->cow_path, 0666, false, &new_file, &fd);

    if (err) {
        qimg_set_error_errno(error, -err, err == -EROFS ? QIMG_HINT_READ_ONLY : FILE_HINT,
                             "cannot be made");
        return NULL;
    }
    file = chain_open_storage(chain, options, fd, options->cow_path, true, error);
    if (file)
        backing_name = name_of_image(chain, new_file->dir_fd, error);
    if (backing_name && create_in(chain, file, backing_name, FILE_HINT, error)) {
        overlay = open_format(chain, options, file, error);
        file = NULL;
    }
    qimg_storage_close(file);
    err = overlay ? qimg_new_file_keep(new_file) : 0;
    if (err) {
        qimg_set_error_errno(error, -err, FILE_HINT, "cannot store its name");
        g_clear_pointer(&overlay, qimg_format_close);
    }
    return overlay;
}

static QimgFormat *
open_kept(QimgChain *chain, const QimgOptions *options, GError **error)
{
    g_autofree char *shown = g_strescape(options->cow_path, NULL);
    QimgFormat *overlay = NULL;
    struct stat status;

    if (stat(options->cow_path, &status) == 0) {
        if (check_file(chain, &status, error))
            overlay = open_existing(chain, options, error);
    } else if (errno == ENOENT) {
        if (options->format || probed_check_stored(chain->layers[1], "-o format=", error))
            overlay = create_file(chain, options, error);
        else
            g_prefix_error(error, "the image \"%s\" ", chain->layers[1]->file->path);
    } else {
        qimg_set_error_errno(error, errno, FILE_HINT, "cannot be looked at");
    }
    if (!overlay)
        g_prefix_error(error, "overlay \"%s\": ", shown);
    return overlay;
}

QimgFormat *
overlay_open(QimgChain *chain, const QimgOptions *options, GError **error)
{
    return options->cow_path ? open_kept(chain, options, error)
                             : open_vanishing(chain, options, error);
}
