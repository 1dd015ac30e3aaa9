/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changes of the header, and the refusal of all changes after damage is found. */
#pragma once

#include "format/qed/qed.h"

/* Stores a 64-bit field of the header at @position, durably; @old is its old value. Under
 * alloc_lock or while the gate is closed. */
QimgErrno qed_store_field(Qed *qed, uint64_t position, uint64_t value, uint64_t old)
    QIMG_MUST_CHECK;

/* Sets or clears NEED_CHECK, durably. As qed_store_field. */
QimgErrno qed_set_need_check(Qed *qed, bool need_check) QIMG_MUST_CHECK;

/* Called when a writer finds damage: refuses every further change and logs @rule with
 * @host_offset. Returns -EIO. Any thread. */
QimgErrno qed_refuse(Qed *qed, QimgRule rule, uint64_t host_offset);
