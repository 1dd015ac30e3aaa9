/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See QimgDriver. */
#pragma once

#include "format/create-options.h"
#include "format/qed/qed.h"

bool qed_check_create(const QimgCreateOptions *options, GError **error);
bool qed_create(QimgStorage *file, const QimgCreateOptions *options, GError **error);
