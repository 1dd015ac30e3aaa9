/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a check of an image finds: counts, and the first findings as text. One thread. */
#pragma once

#include "base/task.h"
#include "base/types.h"
#include "qimg.h"

#define QIMG_MAX_LISTED_FINDINGS 1000u
#define QIMG_NO_GUEST_OFFSET     UINT64_MAX

typedef struct {
    QimgCheckResult result; /* but for the list of findings */
    GArray *findings;       /* QimgFinding, their texts owned; the first ones */
    const QimgTask *task;   /* borrowed; NULL: nobody waits */
} QimgCheckReport;

/* Begins an empty report; @task may be NULL. Clear it after use. */
void qimg_check_report_init(QimgCheckReport *report, const QimgTask *task);
void qimg_check_report_clear(QimgCheckReport *report);

/* Adds what was found, @n_times (corrupt or leaked things, errors). @finding->text is
 * not looked at: it is made of @text. */
void qimg_check_report_add(QimgCheckReport *report, const QimgFinding *finding,
                           uint64_t n_times, const char *text, ...) G_GNUC_PRINTF(4, 5);
