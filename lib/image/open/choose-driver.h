/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which format a file has. */
#pragma once

#include "format/drivers.h"
#include "storage/open-policy.h"

/* The driver called @name, or, where that is NULL, the one whose images begin as @file
 * does, else that of raw disks. @place: where the file was opened; NULL: no name is
 * known.
 * @above: the layer that names the file as its backing file; NULL: the user does.
 * Errors: UNSUPPORTED for a format that has no driver, and for a file that is known to be
 * no raw disk (format/foreign.h); NOT_AN_IMAGE where the file's name tells another format
 * than its content. The text names the kind of the file and a program that opens it. */
const QimgDriver *choose_driver(QimgStorage *file, const QimgPlace *place,
                                const char *name, const QimgFormat *above,
                                GError **error);

/* Why a file that is @foreign is refused, where @above (NULL: the user) names it. Free
 * with g_free. */
char *choose_driver_refusal(const QimgForeign *foreign, const QimgFormat *above);
