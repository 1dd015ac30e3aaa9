/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Keeps the kernel's pages of a disk and its partitions coherent: they are several files
 * with the same bytes, and the kernel caches pages of each. A change through one file
 * drops the pages of the others before the change is answered. A separate thread, the
 * notifier, drops them, because dropping a page waits for reads of it, and first writes
 * it if it is dirty; the serving threads answer both. So serving threads never wait for
 * the notifier.
 *
 * Nor may the notifier wait for itself. Until a write is answered, the kernel may hold a
 * lock on its page, and dropping that page waits for the lock. Therefore:
 *
 * I1  A change is *early* if another one, through another file and near the same bytes of
 *     the disk, is already registered: it is answered first, and the other files are told
 *     afterwards. So of two changes that could wait for each other's pages, the later one
 *     never waits.
 *
 * I2  A change stays registered until the others are told. (The page of a change that is
 *     not early is unlocked by its answer, which the notifier sends before it takes up
 *     another change.)
 *
 * I3  The notifier takes up an early change only if no change that is not early is
 *     registered near it through another file.
 *
 * Writes from the kernel's page cache (of mappings) are always early; a sync is answered
 * when the others have been told of all early changes before it. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct Coherence Coherence;

/* A file that shows a stretch of a disk and was opened at some time, so that the kernel
 * may have pages of it. Lives as long as its Coherence. */
typedef struct CoherentView CoherentView;

/* A registered change. */
typedef struct CoherentChange CoherentChange;

/* Drops the kernel's pages of [@start, @start + @length) of the file @inode. The notifier
 * calls it without locks. */
typedef void (*CoherentDrop)(void *user, uint64_t inode, int64_t start, int64_t length);

struct fuse_req;

/* How a request is answered at the end, in any thread. */
typedef struct {
    void (*send)(struct fuse_req *req, int err, uint64_t value);
    struct fuse_req *req;
    int err;
    uint64_t value;
} CoherentAnswer;

Coherence *coherence_new(void);

/* Starts the notifier, which calls @drop with @user. False if no thread can be
 * created. */
bool coherence_start(Coherence *coherence, CoherentDrop drop, void *user);

/* Ends the notifier while serving threads and the kernel still run: from then on all
 * changes are answered at once, and no file is told. Accepts NULL, may be repeated. */
void coherence_stop(Coherence *coherence);

/* Call when nothing is in flight; accepts NULL. */
void coherence_free(Coherence *coherence);

/* The view of file @inode on [@start, @start + @length) of the disk of image
 * @image_index. The first call makes it, and must precede any page of the file in the
 * kernel. A disk itself has the length UINT64_MAX. */
CoherentView *coherence_get_view(Coherence *coherence, unsigned image_index,
                                 uint64_t inode, uint64_t start, uint64_t length);

/* Registers a change of [@start, @start + @length) of the file, before the change is
 * made. NULL, at no cost, if no other file shows the disk, or @view is NULL. */
CoherentChange *coherence_begin(CoherentView *view, uint64_t start, uint64_t length);

/* Answers the change and tells the others. @change: from coherence_begin, or NULL if it
 * was not called or returned NULL. */
void coherence_finish(CoherentView *view, CoherentChange *change, uint64_t start,
                      uint64_t length, const CoherentAnswer *answer);

/* Answers when the others have been told of all earlier changes. @view may be NULL. */
void coherence_sync(CoherentView *view, const CoherentAnswer *answer);
