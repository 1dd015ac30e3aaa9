/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Changes of snapshots among the operations: names are never reused, so that a name
 * determines a snapshot's content. */
#include <string.h>

#include "crash-fixture.h"

CrashSnapshots *
crash_snapshots_new(QimgImage *image)
{
    CrashSnapshots *known = g_new0(CrashSnapshots, 1);
    QimgSnapshots *list = qimg_image_get_snapshots(image);

    known->contents = g_hash_table_new_full(g_str_hash, g_str_equal, NULL,
                                            (GDestroyNotify)crash_model_free);
    for (unsigned i = 0; i < qimg_snapshots_get_n(list); i++) {
        const QimgSnapshot *s = qimg_snapshots_get(list, i);
        QimgImage *snapshot = qimg_image_open_snapshot(image, s->serial, NULL);
        char *problem = NULL;

        g_assert_nonnull(snapshot);
        g_hash_table_insert(known->contents, (char *)g_intern_string(s->name),
                            crash_model_new(snapshot, &problem));
        g_assert_null(problem);
        qimg_image_close(snapshot);
    }
    qimg_snapshots_unref(list);
    return known;
}

void
crash_snapshots_free(CrashSnapshots *known)
{
    if (!known)
        return;
    g_hash_table_unref(known->contents);
    g_free(known);
}

CrashOp
crash_op_choose_snapshot(GRand *rand, QimgImage *image, CrashSnapshots *known)
{
    static const CrashOpKind kinds[] = {CRASH_OP_TAKE,   CRASH_OP_TAKE,   CRASH_OP_TAKE,
                                        CRASH_OP_DELETE, CRASH_OP_DELETE, CRASH_OP_RENAME,
                                        CRASH_OP_REVERT, CRASH_OP_REVERT};
    CrashOp op = {.kind = kinds[g_rand_int_range(rand, 0, G_N_ELEMENTS(kinds))]};
    QimgSnapshots *list = qimg_image_get_snapshots(image);
    unsigned n = qimg_snapshots_get_n(list);
    g_autofree char *name = g_strdup_printf("new %u", known->n_names++);

    if (n == 0)
        op.kind = CRASH_OP_TAKE;
    if (op.kind != CRASH_OP_TAKE) {
        const QimgSnapshot *s =
            qimg_snapshots_get(list, (unsigned)g_rand_int_range(rand, 0, (gint32)n));

        op.serial = s->serial;
        op.old_name = g_intern_string(s->name);
        op.content = g_hash_table_lookup(known->contents, op.old_name);
    }
    if (op.kind == CRASH_OP_TAKE || op.kind == CRASH_OP_RENAME)
        op.new_name = g_intern_string(name);
    qimg_snapshots_unref(list);
    return op;
}

int
crash_op_run_snapshot(QimgImage *image, const CrashOp *op, const CrashModel *now,
                      CrashSnapshots *known)
{
    g_autoptr(GError) error = NULL;
    CrashModel *content = NULL;
    char *problem = NULL;
    gboolean is_good;

    /* Noted before the change: even a partial change may be found. */
    if (op->kind == CRASH_OP_TAKE)
        content = now ? crash_model_copy(now) : crash_model_new(image, &problem);
    else if (op->kind == CRASH_OP_RENAME)
        content = crash_model_copy(op->content);
    g_assert_null(problem);
    if (content)
        g_hash_table_insert(known->contents, (char *)op->new_name, content);
    if (op->kind == CRASH_OP_TAKE)
        is_good = qimg_image_create_snapshot(image, op->new_name, NULL, NULL, &error);
    else if (op->kind == CRASH_OP_DELETE)
        is_good = qimg_image_delete_snapshot(image, op->serial, NULL, NULL, &error);
    else if (op->kind == CRASH_OP_RENAME)
        is_good = qimg_image_rename_snapshot(image, op->serial, op->new_name, &error);
    else
        is_good = qimg_image_revert_to_snapshot(image, op->serial, NULL, NULL, &error);
    return is_good ? 0 : -qimg_error_to_errno(error);
}

bool
crash_op_is_refused(const CrashOp *op)
{
    /* A disk of version 2 keeps its size while it has snapshots. */
    /* A disk keeps its size while a bitmap is in use, and some bytes while it has one. */
    if (op->kind == CRASH_OP_RESIZE || op->kind == CRASH_OP_WRITE)
        return op->result == -EOPNOTSUPP || op->result == -EBUSY;
    /* A data file; refcounts that are too narrow. */
    return op->kind >= CRASH_OP_TAKE &&
           (op->result == -EOPNOTSUPP || op->result == -EFBIG || op->result == -EBUSY);
}

/* Adds and removes the names changed by @op. */
static void
apply(GHashTable *names, const CrashOp *op)
{
    if (op->kind == CRASH_OP_DELETE || op->kind == CRASH_OP_RENAME)
        g_hash_table_remove(names, op->old_name);
    if (op->kind == CRASH_OP_TAKE || op->kind == CRASH_OP_RENAME)
        g_hash_table_add(names, (char *)op->new_name);
}

GHashTable *
crash_snapshots_names(const CrashFixture *disk)
{
    GHashTable *names = g_hash_table_new(g_str_hash, g_str_equal);
    char *problem = NULL;
    QimgImage *image = crash_fixture_open(disk, NULL, NULL, &problem);
    QimgSnapshots *list;

    if (!image)
        g_error("%s", problem);
    list = qimg_image_get_snapshots(image);
    for (unsigned i = 0; i < qimg_snapshots_get_n(list); i++)
        g_hash_table_add(names,
                         (char *)g_intern_string(qimg_snapshots_get(list, i)->name));
    qimg_snapshots_unref(list);
    qimg_image_close(image);
    return names;
}

static bool
is_same_set(GHashTable *names, const QimgSnapshots *list)
{
    for (unsigned i = 0; i < qimg_snapshots_get_n(list); i++)
        if (!g_hash_table_contains(names, qimg_snapshots_get(list, i)->name))
            return false;
    return g_hash_table_size(names) == qimg_snapshots_get_n(list);
}

char *
crash_snapshots_compare_names(const QimgImage *image, GHashTable *before,
                              const CrashOp *ops, size_t n_done, size_t n_begun)
{
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);
    QimgSnapshots *list = qimg_image_get_snapshots(image);
    GHashTableIter iter;
    gpointer name;
    bool is_same;

    g_hash_table_iter_init(&iter, before);
    while (g_hash_table_iter_next(&iter, &name, NULL))
        g_hash_table_add(names, name);
    for (size_t i = 0; i < n_done; i++)
        apply(names, &ops[i]);
    is_same = is_same_set(names, list);
    for (size_t i = n_done; !is_same && i < n_begun; i++) {
        apply(names, &ops[i]);
        is_same = is_same_set(names, list);
    }
    qimg_snapshots_unref(list);
    return is_same ? NULL : g_strdup("the list of snapshots is not what it must be");
}

char *
crash_snapshots_compare(QimgImage *image, const CrashSnapshots *known)
{
    QimgSnapshots *list = qimg_image_get_snapshots(image);
    char *problem = NULL;

    for (unsigned i = 0; !problem && i < qimg_snapshots_get_n(list); i++) {
        const QimgSnapshot *s = qimg_snapshots_get(list, i);
        const CrashModel *wanted = g_hash_table_lookup(known->contents, s->name);
        QimgImage *snapshot = qimg_image_open_snapshot(image, s->serial, NULL);
        g_autoptr(CrashModel) seen = NULL;

        if (snapshot && wanted)
            seen = crash_model_new(snapshot, &problem);
        else
            problem = g_strdup(snapshot ? "nobody has taken it" : "cannot be opened");
        if (seen)
            problem = crash_model_compare(wanted, NULL, 0, seen);
        if (problem) {
            char *what = g_strdup_printf("snapshot %s: %s", s->name, problem);

            g_free(problem);
            problem = what;
        }
        qimg_image_close(snapshot);
    }
    qimg_snapshots_unref(list);
    return problem;
}
