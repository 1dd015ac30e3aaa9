/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The conditions before a copy begins: all checks that are possible before any change
 * (EMPTY in copy/copy-out.c). */
#include "copy/copy-prepare.h"

#include <errno.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/errors.h"
#include "copy/copy-bind.h"
#include "copy/copy-binding.h"
#include "copy/copy-digest.h"
#include "copy/copy-private.h"
#include "copy/copy-rescue.h"
#include "copy/copy-target.h"
#include "copy/copy-zeros.h"

bool
copy_check_image(const QimgImage *image, GError **error)
{
    if (!qimg_image_is_constant(image)) {
        qimg_set_error(error, QIMG_ERROR_USAGE,
                       "an image that is open for writing cannot be copied (leave out rw "
                       "and cow)");
        return false;
    }
    for (unsigned i = 0; i < qimg_image_get_n_layers(image); i++) {
        QimgErrno err = qimg_image_get_layer_error(image, i);

        if (err) {
            qimg_set_error_errno(error, -err, NULL, "its data cannot be read");
            return false;
        }
    }
    return true;
}

static bool
make_digests(QimgCopy *copy, GError **error)
{
    for (unsigned i = 0; i < COPY_N_DIGESTS; i++) {
        if (!(copy->options.digests & 1u << i))
            continue;
        copy->digests[i] = copy_digest_new((QimgDigest)i, error);
        if (!copy->digests[i])
            return false;
    }
    return true;
}

static bool
find_target(QimgCopy *copy, GError **error)
{
    CopyBinding *binding = &copy->binding;
    const GArray *unreadable;

    if (!copy_binding_find(binding, copy->options.target_path, copy->image,
                           copy->options.source_name, &copy->wish, error))
        return false;
    if (copy->options.verify && binding->is_stream) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "is a pipe, which cannot be read back (leave out "
                       "--verify)");
        return false;
    }
    unreadable = binding->start.unreadable;
    if (unreadable && unreadable->len > 0 && !copy->options.rescue) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "the copy has gone over ranges that cannot be read (go on with "
                       "--rescue --resume)");
        return false;
    }
    return true;
}

bool
copy_check_read(const QimgCopy *copy, uint64_t guest_offset, QimgErrno read_error,
                const GArray *bad, GError **error)
{
    if (read_error) {
        qimg_set_error_errno(error, -read_error, NULL,
                             "cannot read offset %" G_GUINT64_FORMAT " of the disk",
                             (guint64)guest_offset);
        return false;
    }
    if (bad && bad->len > 0 && !copy->options.rescue) {
        const QimgUnreadable *first = &g_array_index(bad, QimgUnreadable, 0);

        qimg_set_error(error, QIMG_ERROR_FAILED,
                       "cannot read offset %" G_GUINT64_FORMAT " of the disk: %s (with "
                       "--rescue the copy has zeros there, and goes on)",
                       (guint64)first->guest_offset, first->reason);
        return false;
    }
    return true;
}

/* Whether the first piece to be copied can be read. */
static bool
check_first_piece(QimgCopy *copy, GError **error)
{
    uint64_t at = copy->binding.start.done_bytes, found = at;
    g_autoptr(GArray) bad = g_array_new(FALSE, FALSE, sizeof(QimgUnreadable));
    g_autofree uint8_t *buffer = NULL;
    size_t n;
    QimgErrno err;

    if (at >= copy->report.size_bytes)
        return true;
    if (qimg_image_seek(copy->image, at, FALSE, &found) == -ENXIO)
        return true;
    if (found > at)
        at = found;
    n = qimg_min_u64(COPY_GRANULE_BYTES, copy->report.size_bytes - at);
    buffer = g_malloc(n);
    err = qimg_image_read_with(copy->image, at, buffer, n, QIMG_READ_ONCE);
    if (copy_is_unreadable(err)) {
        if (copy->options.rescue)
            return true;
        err = copy_rescue(copy->image, at, n, buffer, &copy->stop, bad);
    }
    return err == -ECANCELED || copy_check_read(copy, at, err, bad, error);
}

gboolean
qimg_copy_prepare(QimgCopy *copy, GError **error)
{
    bool is_good = true;

    if (copy->is_prepared)
        return TRUE;
    if (!copy_check_image(copy->image, error) || !make_digests(copy, error))
        return FALSE;
    if (copy->options.target_path) {
        is_good = find_target(copy, error);
        copy->report.is_target_at_fault = !is_good;
    }
    copy->is_prepared = is_good && check_first_piece(copy, error);
    return copy->is_prepared;
}

gboolean
qimg_copy_uses_path(const QimgCopy *copy, const char *path)
{
    struct stat status;

    return (stat(path, &status) == 0 && qimg_image_has_file(copy->image, &status)) ||
           (copy->options.target_path && copy_binding_uses(&copy->binding, path));
}
