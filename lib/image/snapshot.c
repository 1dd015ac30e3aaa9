/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Internal snapshots: listing, handles on their disks and VM states, changes. */
#include <errno.h>
#include <string.h>

#include "base/errors.h"
#include "image/image.h"
#include "image/snapshot-diff.h"
#include "image/write/write.h"

/* The layer whose snapshots are meant: the image, below an own overlay. */
static QimgFormat *
snapshots_layer_of(const QimgImage *image)
{
    return image->chain->layers[MAX(image->first_layer, image->chain->image_layer)];
}

QimgSnapshots *
qimg_image_get_snapshots(const QimgImage *image)
{
    QIMG_GATE_SCOPE(image->chain->gate);

    return image->is_snapshot ? qimg_snapshots_new(NULL, 0)
                              : qimg_snapshots_ref(snapshots_layer_of(image)->snapshots);
}

static QimgFormatSnapshot *
find(const QimgImage *image, uint32_t serial, GError **error)
{
    QimgFormatSnapshot *snapshot =
        image->is_snapshot
            ? NULL
            : qimg_snapshots_find_serial(snapshots_layer_of(image)->snapshots, serial);

    if (!snapshot)
        qimg_set_error(error, QIMG_ERROR_NOT_FOUND, "there is no such snapshot any more");
    return snapshot;
}

/* ---- handles ---- */

static QimgImage *
image_open_snapshot(QimgImage *image, uint32_t serial, QimgGuestOffset *vm_state_out,
                    uint64_t *vm_state_bytes_out, GError **error)
{
    QIMG_GATE_SCOPE(image->chain->gate);
    QimgFormat *layer = snapshots_layer_of(image);
    QimgFormatSnapshot *found = find(image, serial, error);
    QimgImage *snapshot;

    if (!found || !layer->driver->check_snapshot(layer, found, vm_state_out, error))
        return NULL;
    snapshot = image_new(image->chain, layer->layer_index, &found->view);
    snapshot->is_snapshot = true;
    snapshot->n_snapshot_handles = g_atomic_rc_box_acquire(found->n_handles);
    atomic_fetch_add(snapshot->n_snapshot_handles, 1);
    *vm_state_bytes_out = found->facts.vm_state_bytes;
    return snapshot;
}

QimgImage *
qimg_image_open_snapshot(QimgImage *image, uint32_t serial, GError **error)
{
    QimgGuestOffset vm_state;
    uint64_t vm_state_bytes;

    return image_open_snapshot(image, serial, &vm_state, &vm_state_bytes, error);
}

QimgImage *
qimg_image_open_vmstate(QimgImage *image, uint32_t serial, GError **error)
{
    QimgGuestOffset vm_state;
    uint64_t length_bytes;
    QimgImage *state =
        image_open_snapshot(image, serial, &vm_state, &length_bytes, error);

    if (!state)
        return NULL;
    if (length_bytes == 0) {
        qimg_set_error(error, QIMG_ERROR_NOT_FOUND, "snapshot %u has no VM state",
                       serial);
        qimg_image_close(state);
        return NULL;
    }
    /* The VM state lies behind the disk; unallocated parts are zeros, since the backing
     * file holds no VM state. Spec: qcow2 section 8.2. */
    state->base_bytes = vm_state.v;
    state->size_bytes = length_bytes;
    state->own_view.size_bytes = vm_state.v + length_bytes;
    state->has_backing = false;
    return state;
}

/* ---- differences ---- */

/* A range that the next one may continue. */
typedef struct {
    QimgRangeFunc func;
    void *user;
    uint64_t start, end; /* empty: none */
} Joined;

static QimgErrno
give_joined(Joined *joined)
{
    uint64_t start = joined->start, end = joined->end;

    joined->start = joined->end = 0;
    return start == end || joined->func(start, end - start, joined->user) ? 0
                                                                          : -ECANCELED;
}

static QimgErrno
join(uint64_t guest_offset, uint64_t length_bytes, void *user)
{
    Joined *joined = user;
    QimgErrno err = 0;

    if (guest_offset != joined->end) {
        err = give_joined(joined);
        joined->start = guest_offset;
    }
    joined->end = guest_offset + length_bytes;
    return err;
}

gboolean
qimg_image_diff(QimgImage *a, QimgImage *b, QimgRangeFunc func, QimgProgress progress,
                void *user, GError **error)
{
    const QimgTask task = {progress, user};
    Joined joined = {.func = func, .user = user};
    QIMG_GATE_SCOPE(a->chain->gate);
    uint64_t a_bytes = image_size_bytes(a), b_bytes = image_size_bytes(b);
    QimgErrno err;

    if (a->chain != b->chain || a->first_layer != b->first_layer || a->base_bytes != 0 ||
        b->base_bytes != 0 || a->whole || b->whole)
        return qimg_misuse(error, "only disks of one image can be compared");
    err = image_diff_views(a->chain->layers[a->first_layer], a->view, b->view, join,
                           &joined, &task);
    if (!err && a_bytes != b_bytes)
        err = join(MIN(a_bytes, b_bytes), MAX(a_bytes, b_bytes) - MIN(a_bytes, b_bytes),
                   &joined);
    if (!err)
        err = give_joined(&joined);
    if (err == -ECANCELED)
        qimg_set_error(error, QIMG_ERROR_CANCELED, "the comparison was stopped");
    else if (err)
        qimg_set_error_errno(error, -err, NULL, "the tables cannot be read");
    return err == 0;
}

/* ---- changes ---- */

/* Whether the snapshots of @image can be changed at all. */
static bool
check_changeable(const QimgImage *image, GError **error)
{
    const QimgFormat *layer = snapshots_layer_of(image);

    if (!qimg_image_is_writable(image) || layer->layer_index != 0) {
        qimg_set_error(error, QIMG_ERROR_READ_ONLY,
                       layer->layer_index != 0
                           ? "the image is not written to, an overlay is, so its "
                             "snapshots cannot be changed (open it with the option rw)"
                           : "the image is not open for writing (open it with the option "
                             "rw)");
        return false;
    }
    if (!layer->driver->create_snapshot) {
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                       "the format %s has no internal snapshots (convert the image to "
                       "qcow2)",
                       layer->driver->name);
        return false;
    }
    return true;
}

gboolean
qimg_image_can_change_snapshots(const QimgImage *image)
{
    return check_changeable(image, NULL);
}

/* Whether @name is valid and no other snapshot than @itself has it. */
static bool
check_name(const QimgImage *image, const char *name, const QimgFormatSnapshot *itself,
           GError **error)
{
    const QimgSnapshots *list = snapshots_layer_of(image)->snapshots;
    size_t n_bytes = strlen(name);

    if (n_bytes == 0 || n_bytes > QIMG_MAX_SNAPSHOT_NAME_BYTES) {
        qimg_set_error(error, QIMG_ERROR_USAGE,
                       "the name of a snapshot has 1 to %u bytes, not %zu",
                       QIMG_MAX_SNAPSHOT_NAME_BYTES, n_bytes);
        return false;
    }
    for (unsigned i = 0; i < list->n; i++) {
        const QimgSnapshot *s = &list->items[i].facts;

        if (&list->items[i] != itself && s->name_bytes == n_bytes &&
            memcmp(s->name, name, n_bytes) == 0) {
            qimg_set_error(error, QIMG_ERROR_EXISTS,
                           "a snapshot is called \"%s\" already (choose another name, or "
                           "delete that one first)",
                           name);
            return false;
        }
    }
    return true;
}

/* Sets the message of a failed change. */
static bool
set_error(const QimgImage *image, QimgErrno err, const char *what, GError **error)
{
    static const struct {
        QimgErrno err;
        QimgError code;
        const char *text;
    } reasons[] = {
        {-ERANGE, QIMG_ERROR_TOO_LARGE,
         "the image's refcounts are too narrow to count one more (delete a snapshot, or "
         "convert the image with larger refcount_bits)"},
        {-EFBIG, QIMG_ERROR_TOO_LARGE,
         "a limit of the format would be passed (delete snapshots, or use larger "
         "clusters)"},
        {-EBUSY, QIMG_ERROR_BUSY,
         "the disk cannot change its size while a bitmap of the image is in use or "
         "damaged (remove that bitmap, or open the image with the option bitmaps=drop)"},
        {-EOPNOTSUPP, QIMG_ERROR_UNSUPPORTED,
         "images with an external data file have no internal snapshots"},
        {-EROFS, QIMG_ERROR_READ_ONLY,
         "the image must not be changed any more (see the messages before; run qimg "
         "check)"},
        {-EIO, QIMG_ERROR_INVALID,
         "the image's tables are damaged or cannot be read (run qimg check)"},
        {-ENOSPC, QIMG_ERROR_NO_SPACE, "no space is left for its tables (make room)"},
        {-EDQUOT, QIMG_ERROR_NO_SPACE, "the quota is used up (make room)"},
        {-ECANCELED, QIMG_ERROR_CANCELED, "was canceled, and nothing has changed"},
        {-ENOMEM, QIMG_ERROR_NO_MEMORY,
         "not enough memory to count the image's clusters"},
    };

    image_after_change(image->chain, err == -ECANCELED ? 0 : err);
    if (!err)
        return true;
    for (size_t i = 0; i < G_N_ELEMENTS(reasons); i++) {
        if (reasons[i].err == err) {
            qimg_set_error(error, reasons[i].code, "%s: %s", what, reasons[i].text);
            return false;
        }
    }
    qimg_set_error_errno(error, -err, NULL, "%s", what);
    return false;
}

/* Begins a change of the snapshot @serial: closes the gate. NULL with @error set if it
 * cannot be changed; the gate is open then. */
static QimgFormatSnapshot *
begin_change(QimgImage *image, uint32_t serial, GError **error)
{
    QimgFormatSnapshot *found;

    if (!check_changeable(image, error))
        return NULL;
    qimg_gate_close(image->chain->gate);
    found = find(image, serial, error);
    if (!found)
        qimg_gate_open(image->chain->gate);
    return found;
}

/* Ends it; @is_allowed false: it was refused, with @error set. */
static bool
end_change(QimgImage *image, bool is_allowed, QimgErrno err, const char *what,
           GError **error)
{
    qimg_gate_open(image->chain->gate);
    return is_allowed && set_error(image, err, what, error);
}

static unsigned
place_of(const QimgChain *chain, const QimgFormatSnapshot *snapshot)
{
    return (unsigned)(snapshot - chain->layers[0]->snapshots->items);
}

gboolean
qimg_image_create_snapshot(QimgImage *image, const char *name, QimgProgress progress,
                           void *user, GError **error)
{
    const QimgTask task = {progress, user};
    QimgChain *chain = image->chain;
    gint64 now_us = g_get_real_time();
    QimgNewSnapshot new = {.name = name,
                           .date_s = now_us / G_USEC_PER_SEC,
                           .date_ns = (uint32_t)(now_us % G_USEC_PER_SEC) * 1000};
    QimgErrno err = 0;
    bool is_good;

    if (!check_changeable(image, error))
        return FALSE;
    qimg_gate_close(chain->gate);
    is_good = check_name(image, name, NULL, error);
    if (is_good)
        err = chain->layers[0]->driver->create_snapshot(chain->layers[0], &new, &task);
    return end_change(image, is_good, err, "cannot take the snapshot", error);
}

gboolean
qimg_image_delete_snapshot(QimgImage *image, uint32_t serial, QimgProgress progress,
                           void *user, GError **error)
{
    const QimgTask task = {progress, user};
    QimgChain *chain = image->chain;
    QimgFormatSnapshot *found = begin_change(image, serial, error);
    QimgErrno err = 0;
    bool is_free;

    if (!found)
        return FALSE;
    is_free = atomic_load(found->n_handles) == 0;
    if (is_free)
        err = chain->layers[0]->driver->delete_snapshot(chain->layers[0],
                                                        place_of(chain, found), &task);
    else
        qimg_set_error(error, QIMG_ERROR_BUSY,
                       "the snapshot is in use (close the files that show it first)");
    return end_change(image, is_free, err, "cannot delete the snapshot", error);
}

gboolean
qimg_image_rename_snapshot(QimgImage *image, uint32_t serial, const char *name,
                           GError **error)
{
    QimgChain *chain = image->chain;
    QimgFormatSnapshot *found = begin_change(image, serial, error);
    QimgErrno err = 0;
    bool is_good;

    if (!found)
        return FALSE;
    is_good = check_name(image, name, found, error);
    if (is_good)
        err = chain->layers[0]->driver->rename_snapshot(chain->layers[0],
                                                        place_of(chain, found), name);
    return end_change(image, is_good, err, "cannot rename the snapshot", error);
}

static QimgErrno
record_difference(uint64_t guest_offset, uint64_t length_bytes, void *user)
{
    return image_before_change(user, guest_offset, length_bytes, true);
}

/* Records the changes that going back to @view makes, up to the end of the smaller disk.
 */
static QimgErrno
record_revert(QimgChain *chain, const QimgView *view, const QimgTask *task)
{
    QimgFormat *top = chain->layers[0];

    return top->driver->before_change
               ? image_diff_views(top, &top->active, view, record_difference, chain, task)
               : 0;
}

gboolean
qimg_image_revert_to_snapshot(QimgImage *image, uint32_t serial, QimgProgress progress,
                              void *user, GError **error)
{
    const QimgTask task = {progress, user};
    QimgChain *chain = image->chain;
    QimgFormat *top = chain->layers[0];
    QimgFormatSnapshot *found = begin_change(image, serial, error);
    QimgGuestOffset vm_state;
    uint64_t old_size_bytes;
    QimgErrno err = 0;
    bool is_good;

    if (!found)
        return FALSE;
    old_size_bytes = qimg_view_size_bytes(&top->active);
    is_good = top->driver->check_snapshot(top, found, &vm_state, error);
    if (is_good)
        err = record_revert(chain, &found->view, &task);
    if (is_good && !err)
        err = top->driver->revert_to_snapshot(top, place_of(chain, found), &task);
    /* The bitmaps are as long as the disk only now, and still in use. */
    if (is_good && !err && qimg_view_size_bytes(&top->active) > old_size_bytes)
        err = image_before_change(chain, old_size_bytes,
                                  qimg_view_size_bytes(&top->active) - old_size_bytes,
                                  true);
    chain->zeros_end_bytes = 0;
    return end_change(image, is_good, err, "cannot go back to the snapshot", error);
}
