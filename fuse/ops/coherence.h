/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A disk and its partitions are several files with the same bytes, and the kernel keeps
 * pages of each. What is changed through one is dropped from the others' pages before the
 * change is answered, by a thread of its own, the notifier: dropping a page waits for
 * reads of it, and lets the kernel write it first if it is dirty, and both are answered
 * by the threads that serve. These therefore never wait for the notifier.
 *
 * Nor may the notifier wait for itself. While a write is not answered, the kernel may
 * hold a lock on its page, for which dropping that page waits. So:
 *
 * I1  A change is *early* if another one, by another file and near the same bytes of the
 *     disk, is registered when it is: it is answered first, and told to the others
 *     afterwards. Of two changes that could wait for each other's pages, the later one
 *     thereby never does.
 * I2  A change stays registered until the others know of it. (The page of one that waited
 *     is let go when it is answered: by the notifier, before it takes up another one.)
 * I3  The notifier takes an early change up only when none is registered near it, by
 *     another file, that is not early.
 *
 * What the kernel writes from its pages (of mappings) is always early; a sync is answered
 * when all early changes before it have been told. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct Coherence Coherence;

/* A file that shows a stretch of a disk, and was open at some time: the kernel may have
 * pages of it. Lives as long as its Coherence. */
typedef struct CoherentView CoherentView;

/* A change that is registered. */
typedef struct CoherentChange CoherentChange;

/* Drops the kernel's pages of [@start, @start + @length) of the file @inode. Called by
 * the notifier, without locks. */
typedef void (*CoherentDrop)(void *user, uint64_t inode, int64_t start, int64_t length);

struct fuse_req;

/* How a request is answered in the end, in any thread. */
typedef struct {
    void (*send)(struct fuse_req *req, int err, uint64_t value);
    struct fuse_req *req;
    int err;
    uint64_t value;
} CoherentAnswer;

Coherence *coherence_new(void);

/* Starts the notifier, which calls @drop with @user. False where no thread can be had. */
bool coherence_start(Coherence *coherence, CoherentDrop drop, void *user);

/* Ends it, while the threads that serve still do, and the kernel with them: from then on
 * all is answered at once, and nobody is told. Accepts NULL, may be repeated. */
void coherence_stop(Coherence *coherence);

/* When nothing runs any more; accepts NULL. */
void coherence_free(Coherence *coherence);

/* The view of file @inode on [@start, @start + @length) of the disk of image
 * @image_index; made when it is first asked for, which must be before the kernel can have
 * pages of it. A disk itself has the length UINT64_MAX. */
CoherentView *coherence_get_view(Coherence *coherence, unsigned image_index,
                                 uint64_t inode, uint64_t start, uint64_t length);

/* Registers a change of [@start, @start + @length) of the file, before it is made. NULL,
 * at no cost, where no other file shows the disk, or @view is NULL. */
CoherentChange *coherence_begin(CoherentView *view, uint64_t start, uint64_t length);

/* Answers the change, and lets the others know of it. @change: of coherence_begin, or
 * NULL where that was not called, or gave NULL. */
void coherence_finish(CoherentView *view, CoherentChange *change, uint64_t start,
                      uint64_t length, const CoherentAnswer *answer);

/* Answers when all others know of what was changed before. @view may be NULL. */
void coherence_sync(CoherentView *view, const CoherentAnswer *answer);
