/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The zeroed range of an external data file. */
#include "format/qcow2/write/data-zeros.h"

#include <stdatomic.h>

struct Qcow2DataZeros {
    _Atomic uint64_t start_bytes; /* atomic; UINT64_MAX: none */
    uint64_t end_bytes;           /* changes while the gate is closed */
};

Qcow2DataZeros *
qcow2_data_zeros_new(void)
{
    Qcow2DataZeros *zeros = g_new0(Qcow2DataZeros, 1);

    atomic_init(&zeros->start_bytes, UINT64_MAX);
    return zeros;
}

void
qcow2_data_zeros_free(Qcow2DataZeros *zeros)
{
    g_free(zeros);
}

bool
qcow2_data_zeros_has(const Qcow2 *q, uint64_t guest_offset)
{
    return guest_offset >= atomic_load(&q->data_zeros->start_bytes) &&
           guest_offset < q->data_zeros->end_bytes;
}

uint64_t
qcow2_data_zeros_end(const Qcow2 *q)
{
    return q->data_zeros->end_bytes;
}

void
qcow2_data_zeros_add(Qcow2 *q, uint64_t start_bytes, uint64_t end_bytes)
{
    Qcow2DataZeros *zeros = q->data_zeros;

    if (start_bytes > zeros->end_bytes || atomic_load(&zeros->start_bytes) == UINT64_MAX)
        atomic_store(&zeros->start_bytes, start_bytes);
    zeros->end_bytes = end_bytes;
}

void
qcow2_data_zeros_forget(Qcow2 *q)
{
    atomic_store(&q->data_zeros->start_bytes, UINT64_MAX);
}

void
qcow2_data_zeros_clear(Qcow2 *q)
{
    qcow2_data_zeros_forget(q);
    q->data_zeros->end_bytes = 0;
}
