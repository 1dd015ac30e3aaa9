/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "format/create-options.h"
#include "format/qcow2/layer/qcow2.h"

/* QimgDriver.check_create and create. */
bool qcow2_check_create(const QimgCreateOptions *options, GError **error);
bool qcow2_create(QimgStorage *file, const QimgCreateOptions *options, GError **error);
