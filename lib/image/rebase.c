/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Another backing file for an image. The parts of the disk that come from the old backing
 * file and would differ with the new one are stored in the image first, which changes
 * nothing that it shows; when they are durable, one write of the header names the new
 * file. So the disk is the same at every moment. Parts that are holes in both, or are
 * stored at one place of one file, are not read. */
#include "image/rebase.h"

#include <errno.h>
#include <string.h>

#include "base/checked.h"
#include "base/errors.h"
#include "base/struct-size.h"
#include "format/drivers.h"
#include "image/chain/backing-name.h"
#include "image/open/chain-open.h"
#include "image/write/write.h"
#include "storage/same-file.h"

#define CHUNK_BYTES QIMG_MIB
/* Of one look at a map: progress is reported in between. */
#define MAP_BYTES (UINT64_C(1) << 30)

typedef struct {
    QimgImage *image; /* is written */
    QimgImage *shown; /* the disk, or a snapshot, with the old backing file */
    QimgImage *new;   /* NULL: zeros */
    bool is_snapshot; /* @shown is one, which cannot be written */
    uint64_t unit_bytes;
    uint8_t *shown_bytes, *new_bytes; /* CHUNK_BYTES each; owned */
    const QimgTask *task;
    const char *reason; /* of a failure: static; NULL: none */
} Rebase;

/* The extent of @image at @guest_offset; behind its end, and in no image, zeros. */
static QimgErrno
find_extent(QimgImage *image, uint64_t guest_offset, uint64_t length_bytes,
            QimgExtent *out)
{
    *out = (QimgExtent){
        .struct_bytes = sizeof *out,
        .kind = QIMG_EXTENT_UNALLOCATED,
        .length_bytes = length_bytes,
    };
    if (!image || guest_offset >= image_size_bytes(image))
        return 0;
    return qimg_image_map_range(image, guest_offset, length_bytes, out);
}

static bool
is_zero_extent(const QimgExtent *extent)
{
    return extent->kind == QIMG_EXTENT_UNALLOCATED || extent->kind == QIMG_EXTENT_ZERO;
}

static const QimgStorage *
storage_of(const QimgImage *image, const QimgExtent *extent)
{
    return qimg_format_data_storage(
        image->chain->layers[image->first_layer + extent->depth]);
}

/* Whether the bytes of both extents are the same without a look at them. */
static bool
is_same_content(const Rebase *r, const QimgExtent *shown, const QimgExtent *new)
{
    if (is_zero_extent(shown) && is_zero_extent(new))
        return true;
    return shown->kind == QIMG_EXTENT_DATA && new->kind == QIMG_EXTENT_DATA &&
           shown->host_path &&new->host_path &&
           shown->host_offset ==
               new->host_offset &&qimg_is_same_file(&storage_of(r->shown, shown)->status,
                                                    &storage_of(r->new, new)->status);
}

/* The bytes of @image at @guest_offset, with zeros behind its end. */
static QimgErrno
read_padded(QimgImage *image, uint64_t guest_offset, uint8_t *bytes, uint64_t n_bytes)
{
    uint64_t size_bytes = image ? image_size_bytes(image) : 0;
    uint64_t n_there =
        size_bytes > guest_offset ? qimg_min_u64(n_bytes, size_bytes - guest_offset) : 0;

    memset(bytes + n_there, 0, n_bytes - n_there);
    return n_there > 0
               ? qimg_image_read_with(image, guest_offset, bytes, n_there, QIMG_READ_ONCE)
               : 0;
}

static bool
is_all_zeros(const uint8_t *bytes, uint64_t n_bytes)
{
    return n_bytes == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, n_bytes - 1) == 0);
}

/* Stores zeros in the image itself. qimg_image_zero would leave the range to the old
 * backing file where that reads as zeros, too. -EOPNOTSUPP: they must be data. */
static QimgErrno
store_zeros(Rebase *r, uint64_t start, uint64_t end)
{
    QIMG_GATE_SCOPE(r->image->chain->gate);
    QimgFormat *top = r->image->chain->layers[0];
    QimgErrno err = 0;

    if (!qimg_is_aligned(start, top->zero_unit_bytes) ||
        (!qimg_is_aligned(end, top->zero_unit_bytes) &&
         end != image_size_bytes(r->image)))
        return -EOPNOTSUPP;
    for (uint64_t n = 0; !err && start < end; start += n)
        err = top->driver->zero(top, qimg_guest(start), end - start, QIMG_ZERO_KEEP,
                                false, &n);
    return err;
}

/* Stores [@at, @end) of the chunk at @guest_offset in the image. */
static QimgErrno
store(Rebase *r, uint64_t guest_offset, uint64_t at, uint64_t end)
{
    const uint8_t *bytes = r->shown_bytes + at;
    QimgErrno err = -EOPNOTSUPP;

    if (r->is_snapshot) {
        r->reason = "its internal snapshots would change with the new backing file, and "
                    "they cannot be written to (delete them first, or change the header "
                    "alone with -u)";
        return -EPERM;
    }
    if (is_all_zeros(bytes, end - at))
        err = store_zeros(r, guest_offset + at, guest_offset + end);
    if (err != -EOPNOTSUPP) {
        image_after_change(r->image->chain, err);
        return err;
    }
    return qimg_image_write(r->image, guest_offset + at, bytes, end - at);
}

/* Stores the units of a chunk that differ, adjacent ones at once. */
static QimgErrno
store_differences(Rebase *r, uint64_t guest_offset, uint64_t n_bytes)
{
    uint64_t first = 0; /* [first, at) differs and is not stored */
    QimgErrno err = read_padded(r->shown, guest_offset, r->shown_bytes, n_bytes);

    if (!err)
        err = read_padded(r->new, guest_offset, r->new_bytes, n_bytes);
    for (uint64_t at = 0; !err && at < n_bytes;) {
        uint64_t n = qimg_min_u64(r->unit_bytes, n_bytes - at);
        bool is_same = memcmp(r->shown_bytes + at, r->new_bytes + at, n) == 0;

        if (is_same && at > first)
            err = store(r, guest_offset, first, at);
        at += n;
        if (is_same)
            first = at;
    }
    return !err && first < n_bytes ? store(r, guest_offset, first, n_bytes) : err;
}

/* Compares at most @length_bytes from @guest_offset on, which the image itself does not
 * hold, and stores the differences; *@done_out > 0. */
static QimgErrno
compare_some(Rebase *r, uint64_t guest_offset, uint64_t length_bytes, uint64_t *done_out)
{
    QimgExtent shown, new;
    QimgErrno err = find_extent(r->shown, guest_offset, length_bytes, &shown);
    uint64_t n = 0;

    if (!err)
        err = find_extent(r->new, guest_offset, length_bytes, &new);
    if (!err && (shown.kind == QIMG_EXTENT_DAMAGED || new.kind == QIMG_EXTENT_DAMAGED)) {
        r->reason =
            "a part of the old or the new backing file is damaged (look with qimg "
            "check)";
        err = -EIO;
    }
    if (err)
        return err;
    if (is_same_content(r, &shown, &new)) {
        n = qimg_min_u64(qimg_min_u64(shown.length_bytes, new.length_bytes),
                         length_bytes);
        if (n < length_bytes)
            n = qimg_align_down(n, r->unit_bytes);
    }
    *done_out = n;
    if (n > 0)
        return 0;
    *done_out = qimg_min_u64(length_bytes, CHUNK_BYTES);
    return store_differences(r, guest_offset, *done_out);
}

/* Goes over the whole shown disk. */
static QimgErrno
store_all(Rebase *r)
{
    uint64_t size_bytes = image_size_bytes(r->shown);
    QimgErrno err = 0;

    for (uint64_t at = 0, n; !err && at < size_bytes; at += n) {
        QimgExtent extent = {.struct_bytes = sizeof extent};
        uint64_t end;

        err = qimg_task_step(r->task, at, size_bytes);
        if (!err)
            err = qimg_image_map_range(r->shown, at,
                                       qimg_min_u64(size_bytes - at, MAP_BYTES), &extent);
        if (err)
            break;
        n = qimg_min_u64(extent.length_bytes, size_bytes - at);
        if (extent.present && extent.depth == 0)
            continue;
        /* Extents of the layers below end anywhere; those of the image itself at units.
         */
        end = qimg_min_u64(size_bytes, qimg_align_down(at + n, r->unit_bytes));
        n = end > at ? end - at : qimg_min_u64(size_bytes - at, r->unit_bytes);
        err = compare_some(r, at, n, &n);
    }
    return err;
}

/* Whether no snapshot would show something else. */
static QimgErrno
check_snapshots(Rebase *r)
{
    g_autoptr(QimgSnapshots) list = qimg_image_get_snapshots(r->image);
    QimgErrno err = 0;

    r->is_snapshot = true;
    for (unsigned i = 0; !err && i < qimg_snapshots_get_n(list); i++) {
        g_autoptr(QimgImage) snapshot =
            qimg_image_open_snapshot(r->image, qimg_snapshots_get(list, i)->serial, NULL);

        if (!snapshot) {
            r->reason = "one of its internal snapshots is damaged";
            return -EIO;
        }
        r->shown = snapshot;
        err = store_all(r);
    }
    r->is_snapshot = false;
    return err;
}

static void
set_rebase_error(const Rebase *r, QimgErrno err, GError **error)
{
    if (r->reason)
        qimg_set_error(error, err == -EPERM ? QIMG_ERROR_REFUSED : QIMG_ERROR_FAILED,
                       "%s", r->reason);
    else
        qimg_set_error_errno(error, -err,
                             err == -ECANCELED ? NULL : "the disk is as it was",
                             "the content for the new backing file was not stored");
}

bool
rebase_image(QimgImage *image, QimgImage *new, const QimgHeaderChange *change,
             const QimgTask *task, GError **error)
{
    QimgFormat *top = image->chain->layers[0];
    Rebase r = {
        .image = image,
        .new = new,
        .unit_bytes = top->alloc_unit_bytes,
        .shown_bytes = g_try_malloc(CHUNK_BYTES),
        .new_bytes = g_try_malloc(CHUNK_BYTES),
        .task = task,
    };
    QimgErrno err = r.shown_bytes && r.new_bytes ? 0 : -ENOMEM;
    bool is_done;

    if (!err)
        err = check_snapshots(&r);
    r.shown = image;
    if (!err)
        err = store_all(&r);
    if (!err)
        err = qimg_image_flush(image);
    g_free(r.shown_bytes);
    g_free(r.new_bytes);
    if (err) {
        set_rebase_error(&r, err, error);
        return false;
    }
    qimg_gate_close(image->chain->gate);
    is_done = top->driver->change_header(top, change, NULL, error);
    qimg_gate_open(image->chain->gate);
    return is_done;
}

/* ---- the files ---- */

static bool
check_rebase(const QimgRebaseOptions *o, GError **error)
{
    if (!o->backing_file || !*o->backing_file)
        return !o->backing_format ||
               qimg_misuse(error, "backing_format: there is no backing file");
    if (!o->backing_format || !*o->backing_format)
        return qimg_misuse(
            error, "the format of the new backing file must be given (-F FORMAT), "
                   "since it is stored with the name, and a guest could forge "
                   "another one in a raw file");
    if (qimg_driver_find(o->backing_format) || o->header_only)
        return true;
    return qimg_misuse(error, "%s: is no known format of a backing file",
                       o->backing_format);
}

/* Refuses @layer if it cannot name a backing file. */
static bool
check_has_backing(const QimgFormat *layer, GError **error)
{
    if (!layer->driver->change_header)
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                       "is a %s image, whose backing file cannot be changed here",
                       layer->driver->name);
    return layer->driver->change_header != NULL;
}

/* Opens the new backing file of the image at @path; NULL with @error. */
static QimgImage *
open_new_backing(const char *path, const QimgOptions *options, const QimgRebaseOptions *o,
                 const QimgImage *image, GError **error)
{
    QimgOptions reading = *options;
    g_autofree char *name = NULL;
    g_autofree char *format = NULL;
    g_autofree char *new_path = NULL;
    g_autofree char *shown = g_strescape(o->backing_file, NULL);
    QimgImage *new = NULL;

    reading.is_writable = false;
    reading.format = (char *)o->backing_format;
    if (backing_name_parse(o->backing_file, &name, &format, error)) {
        new_path = backing_name_resolve(path, name);
        new = qimg_image_open(new_path, &reading, error);
    }
    if (new &&qimg_image_has_file(new, &image->chain->layers[0]->file->status)) {
        qimg_set_error(error, QIMG_ERROR_LOOP, "is based on the image itself");
        g_clear_pointer(&new, qimg_image_close);
    }
    if (!new)
        g_prefix_error(error, "new backing file \"%s\": ", shown);
    return new;
}

static bool
rebase_header(const char *path, const QimgOptions *options,
              const QimgHeaderChange *change, const QimgTask *task, GError **error)
{
    QimgChain *chain = chain_open_for_check(path, options, true, error);
    bool is_done;

    if (!chain)
        return false;
    is_done =
        check_has_backing(chain->layers[0], error) &&
        chain->layers[0]->driver->change_header(chain->layers[0], change, task, error);
    chain_unref(chain);
    return is_done;
}

static bool
rebase_with_content(const char *path, const QimgOptions *options,
                    const QimgRebaseOptions *o, const QimgHeaderChange *change,
                    const QimgTask *task, GError **error)
{
    QimgOptions writing = *options;
    g_autoptr(QimgImage) image = NULL;
    g_autoptr(QimgImage) new = NULL;

    writing.is_writable = true;
    image = qimg_image_open(path, &writing, error);
    if (!image || !check_has_backing(image->chain->layers[0], error))
        return false;
    if (change->backing_name && !(new = open_new_backing(path, options, o, image, error)))
        return false;
    return rebase_image(image, new, change, task, error);
}

gboolean
qimg_rebase(const char *path, const QimgOptions *options, const QimgRebaseOptions *rebase,
            GError **error)
{
    QimgHeaderChange change = QIMG_HEADER_CHANGE_NONE;
    g_autoptr(QimgOptions) defaults = NULL;
    QimgRebaseOptions o;
    QimgTask task;

    if (!qimg_struct_take(&o, sizeof o, rebase))
        return qimg_misuse(error, "struct_bytes: is not set");
    if (!check_rebase(&o, error))
        return FALSE;
    if (!options)
        options = defaults = qimg_options_new();
    task = (QimgTask){o.on_progress, o.user};
    change.sets_backing = true;
    if (o.backing_file && *o.backing_file) {
        change.backing_name = o.backing_file;
        change.backing_format = o.backing_format;
    }
    return o.header_only ? rebase_header(path, options, &change, &task, error)
                         : rebase_with_content(path, options, &o, &change, &task, error);
}
