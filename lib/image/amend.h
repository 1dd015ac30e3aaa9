/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changes of the key slots of an encrypted image. */
#pragma once

#include "base/task.h"
#include "format/format.h"
#include "qimg.h"

/* As qimg_amend_run, of an open layer, whose file is open for writing. */
bool amend_layer(QimgAmend *amend, QimgFormat *layer, const char *path,
                 const QimgTask *task, GError **error);
