/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing the data of an overlay into the image below it, the base. Only ranges that
 * layers above the base decide are written there, so the overlay's disk is the same at
 * every moment, and so it is when the overlay is emptied, after the base is durable.
 *
 * The files above the base and the base are opened apart: one chain would hold the base
 * locked for reading, and find it changed. */
#include "image/commit.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/errors.h"
#include "base/struct-size.h"
#include "image/chain/options.h"
#include "storage/same-file.h"

#define COPY_BYTES QIMG_MIB
/* Of one look at a map: progress is reported in between. */
#define LOOK_BYTES (UINT64_C(1) << 30)

typedef struct {
    QimgImage *overlay, *base;
    uint64_t size_bytes;    /* of the overlay's disk */
    uint64_t visible_bytes; /* behind it, the overlay shows nothing of the base */
    uint8_t *bytes;         /* COPY_BYTES, owned */
    const QimgTask *task;
    const char *reason; /* of a failure: static; NULL: none */
} Commit;

/* Makes the base read as zeros where it does not. */
static QimgErrno
zero_base(Commit *c, uint64_t guest_offset, uint64_t length_bytes)
{
    uint64_t end = guest_offset + length_bytes;
    QimgErrno err = 0;

    while (!err && guest_offset < end) {
        QimgExtent extent = {.struct_bytes = sizeof extent};
        uint64_t n = 0;

        err = qimg_image_map_range(c->base, guest_offset, end - guest_offset, &extent);
        if (err)
            break;
        n = qimg_min_u64(extent.length_bytes, end - guest_offset);
        if (extent.kind != QIMG_EXTENT_ZERO && extent.kind != QIMG_EXTENT_UNALLOCATED)
            err = qimg_image_zero(c->base, guest_offset, n);
        guest_offset += n;
    }
    return err;
}

static QimgErrno
copy_to_base(Commit *c, uint64_t guest_offset, uint64_t length_bytes)
{
    QimgErrno err = 0;

    for (uint64_t done = 0, n; !err && done < length_bytes; done += n) {
        n = qimg_min_u64(length_bytes - done, COPY_BYTES);
        err = qimg_task_step(c->task, guest_offset + done, c->size_bytes);
        if (!err)
            err = qimg_image_read_with(c->overlay, guest_offset + done, c->bytes, n,
                                       QIMG_READ_ONCE);
        if (!err)
            err = qimg_image_write(c->base, guest_offset + done, c->bytes, n);
    }
    return err;
}

/* Commits one extent of the overlay, cut at visible_bytes. */
static QimgErrno
commit_extent(Commit *c, const QimgExtent *extent, uint64_t length_bytes)
{
    switch (extent->kind) {
    case QIMG_EXTENT_DAMAGED:
        c->reason = "a part of the overlay is damaged (look with qimg check)";
        return -EIO;
    case QIMG_EXTENT_DATA:
    case QIMG_EXTENT_COMPRESSED:
        return copy_to_base(c, extent->guest_offset, length_bytes);
    case QIMG_EXTENT_UNALLOCATED:
        if (extent->guest_offset < c->visible_bytes)
            return 0;
        break;
    case QIMG_EXTENT_ZERO:
        break;
    }
    return zero_base(c, extent->guest_offset, length_bytes);
}

static QimgErrno
commit_all(Commit *c)
{
    QimgErrno err = 0;

    for (uint64_t at = 0, n; !err && at < c->size_bytes; at += n) {
        QimgExtent extent = {.struct_bytes = sizeof extent};

        n = qimg_min_u64(c->size_bytes - at, LOOK_BYTES);
        err = qimg_task_step(c->task, at, c->size_bytes);
        if (!err)
            err = qimg_image_map_range(c->overlay, at, n, &extent);
        if (err)
            break;
        n = qimg_min_u64(extent.length_bytes, n);
        if (at < c->visible_bytes)
            n = qimg_min_u64(n, c->visible_bytes - at);
        err = commit_extent(c, &extent, n);
    }
    return err;
}

/* Refuses a commit under internal snapshots: they, too, show the base. */
static bool
check_no_snapshots(QimgImage *overlay, GError **error)
{
    g_autoptr(QimgSnapshots) list = qimg_image_get_snapshots(overlay);

    if (qimg_snapshots_get_n(list) == 0)
        return true;
    qimg_set_error(
        error, QIMG_ERROR_REFUSED,
        "has internal snapshots, which would change with the base (delete them "
        "first)");
    return false;
}

bool
commit_to_base(QimgImage *overlay, QimgImage *base, const QimgTask *task, GError **error)
{
    Commit c = {
        .overlay = overlay,
        .base = base,
        .size_bytes = image_size_bytes(overlay),
        .visible_bytes = image_size_bytes(overlay),
        .bytes = g_try_malloc(COPY_BYTES),
        .task = task,
    };
    QimgErrno err = c.bytes ? 0 : -ENOMEM;

    for (unsigned i = 1; i < overlay->chain->n_layers; i++)
        c.visible_bytes = qimg_min_u64(
            c.visible_bytes, qimg_view_size_bytes(&overlay->chain->layers[i]->active));
    if (!err && image_size_bytes(base) < c.size_bytes)
        err = qimg_image_resize(base, c.size_bytes, NULL, NULL);
    if (err)
        c.reason = "the base cannot be made as large as the overlay";
    else
        err = commit_all(&c);
    if (!err)
        err = qimg_image_flush(base);
    g_free(c.bytes);
    if (err && c.reason)
        qimg_set_error_errno(error, -err, NULL, "%s", c.reason);
    else if (err)
        qimg_set_error_errno(error, -err,
                             err == -ECANCELED ? NULL : "the overlay is as it was",
                             "not all was written to the base");
    return !err;
}

bool
commit_empty_overlay(QimgImage *overlay, const QimgTask *task, GError **error)
{
    QimgFormat *top = overlay->chain->layers[0];
    QimgErrno err;

    qimg_gate_close(overlay->chain->gate);
    err = top->driver->make_empty(top, task);
    qimg_gate_open(overlay->chain->gate);
    if (!err)
        err = qimg_image_flush(overlay);
    if (err)
        qimg_set_error_errno(error, -err, "all is in the base, and it can be given again",
                             "the overlay was not emptied");
    return !err;
}

/* ---- the files ---- */

/* The files of a commit, as found in the whole chain. */
typedef struct {
    unsigned depth; /* of the base */
    char *path;     /* owned */
    const char *format;
    struct stat status;
} Base;

/* Whether the user means layer @depth by @wanted: by its path, the name that the layer
 * above stores, or the file. */
static bool
is_wanted_base(const QimgImage *image, unsigned depth, const char *wanted)
{
    const char *stored = qimg_image_get_layer_backing_name(image, depth - 1);
    struct stat status;

    return g_strcmp0(wanted, stored) == 0 ||
           strcmp(wanted, qimg_image_get_layer_path(image, depth)) == 0 ||
           (stat(wanted, &status) == 0 &&
            qimg_is_same_file(&image->chain->layers[depth]->file->status, &status));
}

/* Finds the base in the whole chain of the image @path, which is open for reading
 * meanwhile. */
static bool
find_base(const char *path, const QimgOptions *options, const char *wanted, Base *out,
          GError **error)
{
    g_autoptr(QimgImage) image = qimg_image_open(path, options, error);
    unsigned n_layers = image ? qimg_image_get_n_layers(image) : 0;
    unsigned depth = 1;

    if (!image || !check_no_snapshots(image, error))
        return false;
    if (n_layers < 2) {
        qimg_set_error(error, QIMG_ERROR_USAGE, "has no backing file to commit to");
        return false;
    }
    while (wanted && depth < n_layers && !is_wanted_base(image, depth, wanted))
        depth++;
    if (depth == n_layers) {
        qimg_set_error(error, QIMG_ERROR_NOT_FOUND,
                       "\"%s\" is none of its backing files (qimg info shows them)",
                       wanted);
        return false;
    }
    *out = (Base){
        .depth = depth,
        .path = g_strdup(qimg_image_get_layer_path(image, depth)),
        .format = qimg_image_get_layer_format(image, depth),
        .status = image->chain->layers[depth]->file->status,
    };
    return true;
}

static QimgImage *
open_base(const Base *base, const QimgOptions *options, GError **error)
{
    QimgOptions writing = *options;
    QimgImage *image;

    writing.is_writable = true;
    writing.format = (char *)base->format;
    image = qimg_image_open(base->path, &writing, error);
    if (image &&
        !qimg_is_same_file(&image->chain->layers[0]->file->status, &base->status)) {
        qimg_set_error(error, QIMG_ERROR_FAILED, "is another file than a moment ago");
        g_clear_pointer(&image, qimg_image_close);
    }
    if (!image)
        g_prefix_error(error, "base \"%s\": ", base->path);
    return image;
}

/* Opens the layers above the base. */
static QimgImage *
open_overlay(const char *path, const QimgOptions *options, const Base *base,
             bool is_emptied, GError **error)
{
    QimgOptions above = *options;
    QimgImage *image;

    above.max_layers = base->depth;
    above.is_writable = is_emptied;
    image = qimg_image_open(path, &above, error);
    if (image && is_emptied && !image->chain->layers[0]->driver->make_empty) {
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                       "is a %s image, which cannot be emptied here (give -d to keep it "
                       "as it is)",
                       image->chain->layers[0]->driver->name);
        g_clear_pointer(&image, qimg_image_close);
    }
    return image;
}

gboolean
qimg_commit(const char *path, const QimgOptions *options, const QimgCommitOptions *commit,
            GError **error)
{
    g_autoptr(QimgOptions) defaults = NULL;
    g_autoptr(QimgImage) overlay = NULL;
    g_autoptr(QimgImage) base_image = NULL;
    g_autofree char *base_path = NULL;
    QimgCommitOptions o;
    bool is_emptied;
    QimgTask task;
    Base base;

    if (!qimg_struct_take(&o, sizeof o, commit))
        return qimg_misuse(error, "struct_bytes: is not set");
    if (!options)
        options = defaults = qimg_options_new();
    task = (QimgTask){o.on_progress, o.user};
    is_emptied = !o.keep_overlay && !o.base;
    if (!find_base(path, options, o.base, &base, error))
        return FALSE;
    base_path = base.path;
    overlay = open_overlay(path, options, &base, is_emptied, error);
    if (!overlay || !check_no_snapshots(overlay, error))
        return FALSE;
    base_image = open_base(&base, options, error);
    return base_image && commit_to_base(overlay, base_image, &task, error) &&
           (!is_emptied || commit_empty_overlay(overlay, &task, error));
}
