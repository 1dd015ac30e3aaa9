/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The directory of bitmaps. A damaged bitmap prevents use neither of the disk nor of
 * another bitmap: each gets the reason why its bits are invalid. */
#include "format/qcow2/bitmap/directory.h"

#include <errno.h>
#include <string.h>

#include "base/endian.h"

/* Table entries checked at once, in bytes. */

bool
qcow2_bitmaps_are_valid(const Qcow2 *q)
{
    return q->header.version >= 3 && q->bitmaps.n_bitmaps > 0 &&
           (q->header.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS) != 0;
}

/* The problem of the entry's own fields; NULL: none. */
static const char *
judge_entry(Qcow2 *q, const Qcow2BitmapEntry *e, const uint8_t *name)
{
    uint64_t cluster_bytes = q->geometry.cluster_bytes;
    QimgRule rule = qcow2_bitmap_entry_check_fields(e, name).rule;

    if (!rule)
        rule = qcow2_bitmap_entry_check_table(e, cluster_bytes).rule;
    if (!rule && qimg_format_is_beyond_end(
                     &q->base, e->table_offset + (uint64_t)e->n_table_entries * 8 - 1))
        return "its table lies beyond the end of the file";
    if (!rule)
        rule = qcow2_bitmap_entry_check_size(e, q->header.size_bytes, cluster_bytes).rule;
    return rule ? qimg_rule_text(rule) : NULL;
}

typedef struct {
    Qcow2 *q;
    const char *damage; /* static; NULL: none so far */
} Judgement;

/* -EBADMSG for an entry with a problem. */
static QimgErrno
judge_word(void *user, uint64_t index, uint64_t word)
{
    Judgement *judgement = user;
    Qcow2 *q = judgement->q;
    uint64_t cluster_bytes = q->geometry.cluster_bytes, host_offset = 0;

    (void)index;
    if (qcow2_bitmap_table_entry_decode(word, cluster_bytes, &host_offset).rule)
        judgement->damage = "an entry of its table is no place for its bits";
    else if (host_offset &&
             qimg_format_is_beyond_end(&q->base, host_offset + cluster_bytes - 1))
        judgement->damage = "some of its bits lie beyond the end of the file";
    return judgement->damage ? -EBADMSG : 0;
}

/* The problem of the entries in a valid bitmap's table; NULL: none. */
static QimgErrno
judge_table(Qcow2 *q, const QimgFormatBitmap *b, const char **damage_out)
{
    Judgement judgement = {.q = q};
    QimgErrno err = qimg_format_each_word(&q->base, QIMG_IO_BITMAP, b->table_offset,
                                          b->n_table_entries, judge_word, &judgement);

    if (judgement.damage)
        *damage_out = judgement.damage;
    return judgement.damage ? 0 : err;
}

static guint
hash_name(gconstpointer item)
{
    const QimgBitmap *b = &((const QimgFormatBitmap *)item)->facts;
    guint hash = 5381;

    for (size_t i = 0; i < b->name_bytes; i++)
        hash = hash * 33 + (unsigned char)b->name[i];
    return hash;
}

static gboolean
is_same_name(gconstpointer a, gconstpointer b)
{
    const QimgBitmap *x = &((const QimgFormatBitmap *)a)->facts;
    const QimgBitmap *y = &((const QimgFormatBitmap *)b)->facts;

    return x->name_bytes == y->name_bytes && memcmp(x->name, y->name, x->name_bytes) == 0;
}

/* With several bitmaps of one name, it is unknown which one is meant. */
static void
judge_names(QimgBitmaps *list)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(hash_name, is_same_name);

    for (unsigned i = 0; i < list->n; i++) {
        QimgFormatBitmap *first = g_hash_table_lookup(seen, &list->items[i]);

        if (!first)
            g_hash_table_add(seen, &list->items[i]);
        else
            first->facts.damage = list->items[i].facts.damage =
                qimg_rule_text(QIMG_RULE_BITMAP_NAME_TWICE);
    }
}

/* All of its bytes, NULs too, and a NUL behind them. */
static char *
copy_name(const uint8_t *name, size_t n_bytes)
{
    char *copy = g_malloc0(n_bytes + 1);

    memcpy(copy, name, n_bytes);
    return copy;
}

/* Fills @list from the directory's @bytes. */
static QimgErrno
parse(Qcow2 *q, const uint8_t *bytes, QimgBitmaps *list)
{
    const Qcow2BitmapsExtension *ext = &q->bitmaps;
    uint64_t at = 0;

    while (list->n < ext->n_bitmaps) {
        QimgFormatBitmap *b = &list->items[list->n];
        Qcow2BitmapEntry e;
        const uint8_t *name;
        QimgErrno err = 0;

        if (qcow2_bitmap_entry_decode(bytes + at, ext->directory_bytes - at, &e).rule) {
            list->damage = "the directory of its bitmaps is damaged";
            return 0;
        }
        name = bytes + at + e.name_position;
        *b = (QimgFormatBitmap){
            .facts = {.struct_bytes = sizeof b->facts,
                      .name = copy_name(name, e.name_bytes),
                      .name_bytes = e.name_bytes,
                      .granularity_bytes = UINT64_C(1) << MIN(e.granularity_bits, 63u),
                      .size_bytes = q->header.size_bytes,
                      .is_enabled = (e.flags & QCOW2_BITMAP_AUTO) != 0,
                      .is_in_use = (e.flags & QCOW2_BITMAP_IN_USE) != 0,
                      .is_stale = list->is_stale,
                      .damage = judge_entry(q, &e, name)},
            .directory_position = at,
            .entry_bytes = e.entry_bytes,
            .table_offset = e.table_offset,
            .n_table_entries = e.n_table_entries,
            .flags = e.flags,
            .granularity_bits = e.granularity_bits,
        };
        list->n++;
        at += e.entry_bytes;
        if (!b->facts.damage && !list->is_stale && !b->facts.is_in_use)
            err = judge_table(q, b, &b->facts.damage);
        if (err)
            return err;
    }
    if (at != ext->directory_bytes)
        list->damage = "the directory of its bitmaps is longer than they are";
    return 0;
}

QimgErrno
qcow2_read_bitmap_directory(Qcow2 *q, QimgBitmaps **list_out, uint8_t **bytes_out)
{
    const Qcow2BitmapsExtension *ext = &q->bitmaps;
    g_autoptr(QimgBitmaps) list = qimg_bitmaps_new(ext->n_bitmaps);
    g_autofree uint8_t *bytes = NULL;
    QimgErrno err = 0;

    *bytes_out = NULL;
    if (!list)
        return -ENOMEM;
    list->is_stale = !qcow2_bitmaps_are_valid(q);
    if (q->has_damaged_bitmaps &&
        (q->header.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS))
        list->damage = "the header extension of its bitmaps is damaged";
    if (ext->n_bitmaps > 0 &&
        qimg_format_is_beyond_end(&q->base,
                                  ext->directory_offset + ext->directory_bytes - 1)) {
        list->damage = "the directory of its bitmaps lies beyond the end of the file";
    } else if (ext->n_bitmaps > 0) {
        bytes = g_try_malloc(ext->directory_bytes);
        if (!bytes)
            return -ENOMEM;
        err = qimg_storage_read(q->base.file, QIMG_IO_BITMAP,
                                qimg_host(ext->directory_offset), bytes,
                                ext->directory_bytes);
        if (!err)
            err = parse(q, bytes, list);
    }
    if (err)
        return err;
    /* Its clusters may have another use. */
    if (list->damage && !(q->header.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS)) {
        qimg_bitmaps_unref(list);
        list = qimg_bitmaps_new(0);
        if (!list)
            return -ENOMEM;
        list->is_stale = true;
    }
    judge_names(list);
    *list_out = g_steal_pointer(&list);
    *bytes_out = g_steal_pointer(&bytes);
    return 0;
}

QimgErrno
qcow2_write_bitmap_flags(Qcow2 *q, const QimgFormatBitmap *b, uint32_t flags)
{
    qimg_be32 field = qimg_be32_set(flags);

    return qimg_storage_write(q->base.file, QIMG_IO_BITMAP,
                              qimg_host(q->bitmaps.directory_offset +
                                        b->directory_position + QCOW2_BITMAP_AT_FLAGS),
                              &field, sizeof field);
}
