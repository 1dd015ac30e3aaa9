/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checking and repairing an image file, and the result as an object of its own. */
#include "image/check.h"
#include "image/chain/changes.h"
#include "image/open/chain-open.h"

#include "base/errors.h"

/* State of qimg_check_result_free that callers do not see. */
typedef struct {
    QimgCheckResult result;
    char *filename;
    GArray *findings;
} OwnedResult;

/* Makes the result of the last @report, and takes over its findings. */
static QimgCheckResult *
make_result(const char *path, const char *format_name, QimgCheckReport *report)
{
    OwnedResult *owned = g_new0(OwnedResult, 1);
    QimgCheckResult *result = &owned->result;

    *result = report->result;
    owned->filename = g_strdup(path);
    owned->findings = g_steal_pointer(&report->findings);
    result->filename = owned->filename;
    result->format = format_name;
    result->struct_bytes = sizeof *result;
    result->n_findings = owned->findings->len;
    return result;
}

const QimgFinding *
qimg_check_result_get_finding(const QimgCheckResult *result, unsigned place)
{
    const OwnedResult *owned = (const OwnedResult *)result;

    return place < owned->findings->len
               ? &g_array_index(owned->findings, QimgFinding, place)
               : NULL;
}

void
qimg_check_result_free(QimgCheckResult *result)
{
    OwnedResult *owned = (OwnedResult *)result;

    if (!result)
        return;
    g_free(owned->filename);
    g_array_unref(owned->findings);
    g_free(owned);
}

static uint64_t
less(uint64_t before, uint64_t after)
{
    return before - MIN(before, after);
}

/* Repairs the findings of @first, which a check has filled, and fills @second. */
static bool
repair_image(QimgFormat *format, QimgRepair mode, const QimgCheckReport *first,
             QimgCheckReport *second, GError **error)
{
    if (!format->driver->repair(format, mode, second, error))
        return false;
    second->result.n_corruptions_fixed =
        less(first->result.n_corruptions, second->result.n_corruptions);
    second->result.n_leaks_fixed = less(first->result.n_leaks, second->result.n_leaks);
    return true;
}

static bool
is_sound(const QimgCheckResult *r)
{
    return r->n_corruptions == 0 && r->n_leaks == 0 && r->n_check_errors == 0 &&
           !r->is_dirty && !r->is_marked_corrupt;
}

QimgCheckResult *
image_check(QimgFormat *format, const char *path, QimgRepair mode, const QimgTask *task,
            GError **error)
{
    QimgCheckResult *result = NULL;
    QimgCheckReport reports[2];
    unsigned last = 0;

    for (unsigned i = 0; i < 2; i++)
        qimg_check_report_init(&reports[i], task);
    if (format->driver->check(format, &reports[0], error)) {
        if (mode != QIMG_REPAIR_NONE && !is_sound(&reports[0].result))
            last = 1;
        if (last == 0 || repair_image(format, mode, &reports[0], &reports[1], error))
            result = make_result(path, format->driver->name, &reports[last]);
    }
    for (unsigned i = 0; i < 2; i++)
        qimg_check_report_clear(&reports[i]);
    return result;
}

QimgCheckResult *
qimg_check(const char *path, const QimgOptions *options, QimgRepair mode,
           QimgProgress progress, void *user, GError **error)
{
    const QimgTask task = {progress, user};
    g_autoptr(QimgOptions) defaults = NULL;
    QimgCheckResult *result;
    QimgChain *chain;

    if (!options)
        options = defaults = qimg_options_new();
    chain = chain_open_for_check(path, options, mode != QIMG_REPAIR_NONE, error);
    if (!chain)
        return NULL;
    result = image_check(chain->layers[0], path, mode, &task, error);
    if (result && !options->no_lock && chain_find_changed(chain)) {
        qimg_set_error(error, QIMG_ERROR_FAILED,
                       "was changed by another program while it was checked (stop that "
                       "program, and check it again)");
        g_clear_pointer(&result, qimg_check_result_free);
    }
    chain_unref(chain);
    return result;
}
