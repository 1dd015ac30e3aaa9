/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The findings of a check of an image: counts, and the first findings as text. One
 * thread. */
#pragma once

#include "base/task.h"
#include "base/types.h"
#include "qimg.h"

#define QIMG_MAX_LISTED_FINDINGS 1000u
#define QIMG_NO_GUEST_OFFSET     UINT64_MAX

typedef struct {
    QimgCheckResult result; /* without the list of findings */
    GArray *findings;       /* QimgFinding, their texts owned; the first ones */
    const QimgTask *task;   /* borrowed; may be NULL */
} QimgCheckReport;

/* Initialises an empty report; @task may be NULL. Clear it after use. */
void qimg_check_report_init(QimgCheckReport *report, const QimgTask *task);
void qimg_check_report_clear(QimgCheckReport *report);

/* Adds a finding, counted @n_times (corrupt or leaked objects, errors). @finding->text is
 * ignored: the text is formatted from @text. */
void qimg_check_report_add(QimgCheckReport *report, const QimgFinding *finding,
                           uint64_t n_times, const char *text, ...) G_GNUC_PRINTF(4, 5);
