/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Collecting the findings of a check. */
#include "format/check-report.h"

#include <stdarg.h>

static void
clear_finding(void *finding)
{
    g_free((char *)((QimgFinding *)finding)->text);
}

void
qimg_check_report_init(QimgCheckReport *report, const QimgTask *task)
{
    *report = (QimgCheckReport){
        .findings = g_array_new(FALSE, FALSE, sizeof(QimgFinding)),
        .task = task,
    };
    g_array_set_clear_func(report->findings, clear_finding);
}

void
qimg_check_report_clear(QimgCheckReport *report)
{
    g_clear_pointer(&report->findings, g_array_unref);
}

void
qimg_check_report_add(QimgCheckReport *report, const QimgFinding *finding,
                      uint64_t n_times, const char *text, ...)
{
    QimgFinding listed = *finding;
    va_list args;

    switch (finding->kind) {
    case QIMG_FINDING_CORRUPTION:
        report->result.n_corruptions += n_times;
        break;
    case QIMG_FINDING_LEAK:
        report->result.n_leaks += n_times;
        break;
    case QIMG_FINDING_ERROR:
        report->result.n_check_errors += n_times;
        break;
    }
    report->result.n_all_findings++;
    if (report->findings->len >= QIMG_MAX_LISTED_FINDINGS)
        return;
    listed.struct_bytes = sizeof listed;
    va_start(args, text);
    listed.text = g_strdup_vprintf(text, args);
    va_end(args);
    g_array_append_val(report->findings, listed);
}
