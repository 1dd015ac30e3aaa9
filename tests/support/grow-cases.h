/* SPDX-License-Identifier: GPL-2.0-or-later */
/* New images of all formats that can grow, for tests of appending. */
#pragma once

#include "format/drivers.h"

typedef struct {
    const char *name;
    const QimgDriver *driver;
    QimgCreateOptions create;
} GrowCase;

/* clang-format off */
#define GROW_QCOW2(...) {.version = 3, .refcount_order = 4, __VA_ARGS__}

/* The rows of a table of cases: clusters of 2^@bits bytes, 2^@extended_bits with
 * subclusters; a disk of @n_bytes, or empty if its data are in another file. */
#define GROW_CASES(bits, extended_bits, n_bytes)                                         \
    {"qcow2", &qimg_driver_qcow2,                                                        \
     GROW_QCOW2(.size_bytes = n_bytes, .cluster_bits = bits)},                           \
    {"extended", &qimg_driver_qcow2,                                                     \
     GROW_QCOW2(.size_bytes = n_bytes, .cluster_bits = extended_bits,                    \
                .extended_l2 = true)},                                                   \
    {"data-file", &qimg_driver_qcow2,                                                    \
     GROW_QCOW2(.cluster_bits = bits, .data_file_name = "data")},                        \
    {"raw-data-file", &qimg_driver_qcow2,                                                \
     GROW_QCOW2(.cluster_bits = bits, .data_file_name = "data", .data_file_raw = true)}, \
    {"qed", &qimg_driver_qed,                                                            \
     {.size_bytes = n_bytes, .cluster_bits = bits, .table_clusters = 4}},                \
    {"raw", &qimg_driver_raw, {.size_bytes = n_bytes}}
/* clang-format on */
