/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Storage over a byte buffer that remembers the order of writes and syncs, so that a test
 * can construct the state after a power cut; and a qcow2 layer opened from it without a
 * chain. */
#pragma once

#include <glib.h>

#include "format/qcow2/layer/qcow2.h"
#include "format/run.h"

typedef struct {
    uint64_t file_offset;
    GBytes *bytes; /* NULL: a sync */
    QimgIoPurpose purpose;
} StorageEvent;

typedef struct {
    QimgStorage storage;
    GByteArray *bytes; /* the present bytes */
    GArray *events;    /* StorageEvent */
    /* With @errnum set, that many writes succeed and all following ones fail with it. */
    unsigned n_until_failure;
    int errnum;
    uint64_t claimed_size; /* 0: the true size */
} EventStorage;

/* Makes a storage of a copy of @bytes. Closed as any other. For one thread. */
EventStorage *event_storage_new(const GByteArray *bytes);

/* The possible disk of a machine that died before event @end, with @start before the
 * first: everything synced, and of the rest the writes number i whose bit i % 64 is set
 * in @kept. */
GByteArray *event_storage_after_power_cut(const GByteArray *start, const GArray *events,
                                          guint end, uint64_t kept);

/* A layer without a chain. */
typedef struct {
    EventStorage *storage; /* the layer's */
    TableCache *tables;
    QimgGate *gate;
    Qcow2 *q;
} TestLayer;

/* Opens the image in a copy of @bytes; without @is_writable for a check, so also an
 * encrypted or damaged one. The alloc_lock can be used in both cases. */
TestLayer test_layer_open(const GByteArray *bytes, bool is_writable);
void test_layer_close(TestLayer *layer);

/* The mapping of each of the first @n_clusters clusters of @view. */
void test_layer_get_mapping(const TestLayer *layer, const QimgView *view, QimgRun *runs,
                            uint64_t n_clusters);

/* Checks that the clusters are mapped to the same kinds and places. */
void test_assert_same_mapping(const QimgRun *runs, const QimgRun *wanted,
                              uint64_t n_clusters);
