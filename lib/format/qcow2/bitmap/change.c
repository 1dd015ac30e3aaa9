/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The actions work on a copy of the directory in memory, and on new tables and new
 * clusters of bits in the file, which nothing refers to yet. At the end a new directory
 * takes the place of the old one; then the replaced clusters are freed. A failure before
 * leaks clusters at most. */
#include "format/qcow2/bitmap/change.h"

#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "base/errors.h"
#include "format/driver.h"
#include "format/qcow2/bitmap/bitmap-edit.h"
#include "format/qcow2/bitmap/directory-change.h"
#include "format/qcow2/bitmap/directory.h"
#include "format/qcow2/bitmap/merge.h"
#include "format/qcow2/bitmap/session.h"
#include "format/qcow2/bitmap/store.h"
#include "format/qcow2/refcount/alloc.h"
#include "format/qcow2/refcount/pending.h"

static BitmapEdit *
find_edit(BitmapChange *c, const char *name)
{
    for (guint i = 0; i < c->edits->len; i++) {
        BitmapEdit *e = &g_array_index(c->edits, BitmapEdit, i);

        if (e->name_bytes == strlen(name) && memcmp(e->name, name, e->name_bytes) == 0)
            return e;
    }
    return NULL;
}

/* ---- the actions ---- */

static bool
set_bitmap_error(QimgErrno err, const char *name, GError **error)
{
    if (!err)
        return true;
    if (err == -ECANCELED)
        qimg_set_error(error, QIMG_ERROR_CANCELED,
                       "the change was canceled, and no bitmap has changed");
    else if (err == -EFBIG)
        qimg_set_error(error, QIMG_ERROR_TOO_LARGE,
                       "the header has no room for bitmaps (convert the image to one "
                       "with larger clusters)");
    else
        qimg_set_error(error, QIMG_ERROR_FAILED,
                       "the bitmap \"%s\" cannot be changed: %s", name, g_strerror(-err));
    return false;
}

static bool
check_new(const BitmapChange *c, const char *name, uint64_t granularity_bytes,
          GError **error)
{
    uint64_t size_bytes = c->q->header.size_bytes;
    size_t n = strlen(name);
    unsigned bits = (unsigned)__builtin_ctzll(granularity_bytes | UINT64_C(1) << 63);

    if (n == 0 || n > QCOW2_MAX_BITMAP_NAME)
        qimg_set_error(error, QIMG_ERROR_USAGE,
                       "the name of a bitmap has 1 to %u bytes, not %zu",
                       QCOW2_MAX_BITMAP_NAME, n);
    else if (granularity_bytes != UINT64_C(1) << bits ||
             bits < QCOW2_MIN_BITMAP_GRANULARITY_BITS ||
             bits > QCOW2_MAX_BITMAP_GRANULARITY_BITS)
        qimg_set_error(error, QIMG_ERROR_USAGE,
                       "the granularity of a bitmap is a power of two from 512 to 2G");
    else if (c->q->header.version < 3)
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                       "images of version 2 have no bitmaps (qemu-img amend -o "
                       "compat=1.1)");
    else if (size_bytes == 0 ||
             qcow2_bitmap_bytes_for(size_bytes, bits) > QCOW2_MAX_BITMAP_BYTES)
        qimg_set_error(error, QIMG_ERROR_TOO_LARGE,
                       "a bitmap of that granularity would be empty or larger than 512 "
                       "MiB (use a larger granularity)");
    else if (c->edits->len >= QCOW2_MAX_BITMAPS)
        qimg_set_error(error, QIMG_ERROR_TOO_LARGE, "the image has %u bitmaps already",
                       QCOW2_MAX_BITMAPS);
    else
        return true;
    return false;
}

static bool
add_bitmap(BitmapChange *c, const char *name, uint64_t granularity_bytes, GError **error)
{
    uint64_t cluster_bytes = c->q->geometry.cluster_bytes;
    BitmapEdit e = {.name_bytes = strlen(name), .flags = QCOW2_BITMAP_AUTO};

    if (granularity_bytes == 0)
        granularity_bytes = CLAMP(cluster_bytes, 4 * QIMG_KIB, 64 * QIMG_KIB);
    if (!check_new(c, name, granularity_bytes, error))
        return false;
    if (find_edit(c, name)) {
        qimg_set_error(error, QIMG_ERROR_EXISTS,
                       "there is a bitmap \"%s\" already (choose another name)", name);
        return false;
    }
    e.granularity_bits = (unsigned)__builtin_ctzll(granularity_bytes);
    if (!set_bitmap_error(bitmap_edit_reset_words(c, &e, 0), name, error))
        return false;
    e.name = g_strdup(name);
    g_array_append_val(c->edits, e);
    return true;
}

/* The bitmap called @name for an action other than to remove it. */
static BitmapEdit *
find_usable(BitmapChange *c, const char *name, bool may_be_in_use, GError **error)
{
    BitmapEdit *e = find_edit(c, name);

    if (!e)
        qimg_set_error(error, QIMG_ERROR_NOT_FOUND, "there is no bitmap \"%s\"", name);
    else if (e->damage)
        qimg_set_error(error, QIMG_ERROR_INVALID,
                       "the bitmap \"%s\" is damaged: %s (--remove it)", name, e->damage);
    else if ((e->flags & QCOW2_BITMAP_IN_USE) && !may_be_in_use)
        qimg_set_error(error, QIMG_ERROR_BUSY,
                       "the bitmap \"%s\" was left in use, and its bits mean nothing "
                       "(--remove it, or --recover it with all bits set)",
                       name);
    else
        return e;
    return NULL;
}

static bool
remove_all(BitmapChange *c, GError **error)
{
    for (guint i = 0; i < c->edits->len; i++) {
        BitmapEdit *e = &g_array_index(c->edits, BitmapEdit, i);

        if (!set_bitmap_error(bitmap_edit_drop(c, e), e->name, error))
            return false;
    }
    g_array_set_size(c->edits, 0);
    return true;
}

static bool
remove_one(BitmapChange *c, const char *name, GError **error)
{
    BitmapEdit *e = find_edit(c, name);

    if (!e) {
        qimg_set_error(error, QIMG_ERROR_NOT_FOUND, "there is no bitmap \"%s\"", name);
        return false;
    }
    if (!set_bitmap_error(bitmap_edit_drop(c, e), name, error))
        return false;
    g_array_remove_index(c->edits, (guint)(e - (BitmapEdit *)(void *)c->edits->data));
    return true;
}

static bool
run_action(BitmapChange *c, const char *name, const QimgFormatBitmapAction *a,
           GError **error)
{
    BitmapEdit *e, *from;
    QimgErrno err = 0;

    switch (a->kind) {
    case QIMG_BITMAP_ADD:
        return add_bitmap(c, name, a->granularity_bytes, error);
    case QIMG_BITMAP_REMOVE:
        return remove_one(c, name, error);
    case QIMG_BITMAP_REMOVE_ALL:
        return remove_all(c, error);
    default:
        break;
    }
    e = find_usable(c, name, a->kind == QIMG_BITMAP_RECOVER, error);
    if (!e)
        return false;
    switch (a->kind) {
    case QIMG_BITMAP_ENABLE:
        e->flags |= QCOW2_BITMAP_AUTO;
        break;
    case QIMG_BITMAP_DISABLE:
        e->flags &= ~QCOW2_BITMAP_AUTO;
        break;
    case QIMG_BITMAP_CLEAR:
    case QIMG_BITMAP_RECOVER:
        if (a->kind == QIMG_BITMAP_RECOVER && !(e->flags & QCOW2_BITMAP_IN_USE))
            break;
        if (e->old_table_offset)
            err = bitmap_edit_load_words(c, e);
        if (!err)
            err = bitmap_edit_reset_words(c, e, a->kind == QIMG_BITMAP_RECOVER);
        e->flags &= ~QCOW2_BITMAP_IN_USE;
        break;
    case QIMG_BITMAP_MERGE:
        if (a->source_layer)
            return set_bitmap_error(bitmap_edit_merge_other(c, e, a), name, error);
        from = find_usable(c, a->source, false, error);
        if (!from)
            return false;
        err = from == e ? 0 : bitmap_edit_merge(c, e, from);
        break;
    default:
        qimg_set_error(error, QIMG_ERROR_USAGE, "unknown action on a bitmap");
        return false;
    }
    return set_bitmap_error(err, name, error);
}

/* ---- before and after ---- */

static void
take_edits(BitmapChange *c, const QimgBitmaps *list, const uint8_t *directory)
{
    for (unsigned i = 0; i < list->n; i++) {
        const QimgFormatBitmap *b = &list->items[i];
        BitmapEdit e = {
            .name = g_memdup2(b->facts.name, b->facts.name_bytes + 1),
            .name_bytes = b->facts.name_bytes,
            .entry = directory + b->directory_position,
            .entry_bytes = b->entry_bytes,
            .old_table_offset = b->table_offset,
            .n_old_entries = b->n_table_entries,
            .flags = b->flags,
            .granularity_bits = b->granularity_bits,
            .damage = b->facts.damage,
        };

        g_array_append_val(c->edits, e);
    }
}

/* Writes the new table of @e. Under alloc_lock. */
static QimgErrno
store_words(BitmapChange *c, BitmapEdit *e, uint64_t *host_offset_out)
{
    Qcow2 *q = c->q;
    uint64_t n_bytes = e->n_words * 8, first_cluster;
    QimgErrno err = qcow2_alloc_exactly(
        q, qimg_div_round_up(n_bytes, q->geometry.cluster_bytes), &first_cluster);

    if (err)
        return err;
    *host_offset_out = first_cluster << q->geometry.cluster_bits;
    qimg_host_to_be64_array(e->words, e->n_words);
    err = qimg_storage_write(q->base.file, QIMG_IO_BITMAP, qimg_host(*host_offset_out),
                             e->words, n_bytes);
    qimg_be64_array_to_host(e->words, e->n_words);
    if (!err && e->old_table_offset)
        bitmap_change_add_gone(c, e->old_table_offset, (uint64_t)e->n_old_entries * 8);
    return err ? err : qimg_format_metadata_add(&q->base, *host_offset_out, n_bytes);
}

/* Appends the entry of @e to a directory. Under alloc_lock. */
static QimgErrno
append_entry(BitmapChange *c, BitmapEdit *e, GByteArray *directory)
{
    static const uint8_t padding[8];
    guint at = directory->len;
    uint64_t table_offset = e->old_table_offset;
    uint64_t n_entries = e->n_old_entries;
    struct {
        qimg_be64 table_offset;
        qimg_be32 n_entries;
        qimg_be32 flags;
        uint8_t type;
        uint8_t granularity_bits;
        qimg_be16 name_bytes;
        qimg_be32 extra_bytes;
    } fixed;
    QimgErrno err = 0;

    _Static_assert(sizeof fixed == QCOW2_BITMAP_FIXED_BYTES, "on-disk size");
    if (e->damage) { /* kept byte for byte */
        g_byte_array_append(directory, e->entry, (guint)e->entry_bytes);
        return 0;
    }
    if (e->is_changed) {
        err = store_words(c, e, &table_offset);
        n_entries = e->n_words;
    }
    fixed.table_offset = qimg_be64_set(table_offset);
    fixed.n_entries = qimg_be32_set((uint32_t)n_entries);
    fixed.flags = qimg_be32_set(e->flags);
    fixed.type = QCOW2_BITMAP_TYPE_DIRTY;
    fixed.granularity_bits = (uint8_t)e->granularity_bits;
    fixed.name_bytes = qimg_be16_set((uint16_t)e->name_bytes);
    fixed.extra_bytes = qimg_be32_set(0);
    g_byte_array_append(directory, (const guint8 *)&fixed, sizeof fixed);
    g_byte_array_append(directory, (const guint8 *)e->name, (guint)e->name_bytes);
    g_byte_array_append(directory, padding, (8 - (directory->len - at) % 8) % 8);
    return err;
}

static void
free_clusters(Qcow2 *q, const GArray *list)
{
    for (guint i = 0; i < list->len; i++)
        qcow2_free_later(q, g_array_index(list, QimgClusters, i));
}

static QimgErrno
commit(BitmapChange *c)
{
    g_autoptr(GByteArray) directory = g_byte_array_new();
    Qcow2BitmapsExtension to = {.n_bitmaps = c->edits->len};
    QIMG_LOCK_SCOPE(qcow2_alloc_lock(c->q));
    QimgErrno err = 0;

    for (guint i = 0; !err && i < c->edits->len; i++)
        err = append_entry(c, &g_array_index(c->edits, BitmapEdit, i), directory);
    to.directory_bytes = directory->len;
    if (!err && to.n_bitmaps > 0)
        err = qcow2_write_bitmap_directory(c->q, directory->data, directory->len,
                                           &to.directory_offset);
    if (!err)
        err = qcow2_switch_bitmap_directory(c->q, &to);
    if (!err)
        free_clusters(c->q, c->gone);
    return err;
}

bool
qcow2_change_bitmaps(QimgFormat *format, const char *name,
                     const QimgFormatBitmapAction *actions, unsigned n_actions,
                     const QimgTask *task, GError **error)
{
    Qcow2 *q = (Qcow2 *)format;
    g_autoptr(QimgBitmaps) list = NULL;
    g_autofree uint8_t *directory = NULL;
    BitmapChange c = {.q = q, .task = task};
    QimgErrno err = qcow2_begin_change(q);
    bool is_good;

    if (!err && q->tracker) {
        qcow2_store_bitmaps(q->tracker);
        if (atomic_load(&q->tracker->is_session))
            err = -EIO; /* the log tells why */
    }
    if (!err && q->tracker)
        err = qcow2_read_bitmap_directory(q, &list, &directory);
    if (err)
        return set_bitmap_error(err, name ? name : "", error);
    c.edits = g_array_new(FALSE, FALSE, sizeof(BitmapEdit));
    c.gone = g_array_new(FALSE, FALSE, sizeof(QimgClusters));
    c.made = g_array_new(FALSE, FALSE, sizeof(QimgClusters));
    g_array_set_clear_func(c.edits, bitmap_edit_clear);
    if (list)
        take_edits(&c, list, directory);
    is_good = true;
    for (unsigned i = 0; is_good && i < n_actions; i++)
        is_good = run_action(&c, name, &actions[i], error);
    if (!is_good) /* nothing refers to them */
        free_clusters(q, c.made);
    if (is_good)
        is_good = set_bitmap_error(commit(&c), name ? name : "", error);
    if (is_good)
        is_good = set_bitmap_error(qcow2_tracker_reload(q), name ? name : "", error);
    g_array_unref(c.edits);
    g_array_unref(c.gone);
    g_array_unref(c.made);
    return is_good;
}
