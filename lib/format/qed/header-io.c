/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fields of the header, and damage. Spec: qed section 4. */
#define G_LOG_DOMAIN "qimg-format"

#include "format/qed/header-io.h"

#include <errno.h>

#include "base/endian.h"

QimgErrno
qed_store_field(Qed *qed, uint64_t position, uint64_t value, uint64_t old)
{
    qimg_le64 field = qimg_le64_set(value), old_field = qimg_le64_set(old);
    QimgErrno err;

    if (value == old)
        return 0;
    err = qimg_format_write_or_undo(&qed->base, QIMG_IO_HEADER, position, &field,
                                    &old_field, sizeof field);
    if (err)
        return err;
    err = qimg_storage_sync(qed->base.file);
    return err ? qimg_format_break(&qed->base, err) : 0;
}

QimgErrno
qed_set_need_check(Qed *qed, bool need_check)
{
    uint64_t features = qed->header.features & ~(uint64_t)QED_FEATURE_NEED_CHECK;
    QimgErrno err;

    if (need_check)
        features |= QED_FEATURE_NEED_CHECK;
    err = qed_store_field(qed, QED_HEADER_AT_FEATURES, features, qed->header.features);
    if (err)
        return err;
    qed->header.features = features;
    qed->base.is_dirty = need_check;
    return 0;
}

QimgErrno
qed_refuse(Qed *qed, QimgRule rule, uint64_t host_offset)
{
    qimg_format_report(&qed->base, rule, host_offset);
    if (!atomic_exchange(&qed->base.broken, true))
        g_warning("%s: it is read-only from now on", qed->base.file->path);
    return -EIO;
}
