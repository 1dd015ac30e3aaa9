/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files that are no raw disk and cannot be read here: disk formats of other programs,
 * archives, and remains of failed downloads. Taken for raw disks, they would show bytes
 * that are not the disk's, and lose their headers to the first write.
 *
 * A raw disk may begin with anything. So a short magic number counts together with fields
 * that must fit, and a trailer together with its checksum or its sizes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "storage/storage.h"

typedef struct {
    const char *what;   /* "a VMDK image": after "is" */
    const char *advice; /* what opens it: an imperative */
    bool is_disk;       /* holds a disk, in another form */
} QimgForeign;

#define QIMG_FOREIGN_HEAD_BYTES 4096u
#define QIMG_FOREIGN_TAIL_BYTES 1024u

/* The beginning and the end of a file; of a short one they overlap. */
typedef struct {
    const uint8_t *head; /* the first n_head bytes, as many as there are of the above */
    size_t n_head;
    const uint8_t *tail; /* the last n_tail bytes */
    size_t n_tail;
    uint64_t size_bytes; /* of the file */
} QimgForeignBytes;

/* The kind of the file with these @bytes; static, NULL: none of the known kinds. Any
 * thread. */
const QimgForeign *qimg_foreign_find(const QimgForeignBytes *bytes);

/* As qimg_foreign_find, of @file, in *@out. Reads its beginning and its end. */
QimgErrno qimg_foreign_probe(QimgStorage *file, const QimgForeign **out);
