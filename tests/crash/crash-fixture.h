/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the crash tests share: images of many kinds in memory, random operations, and a
 * model of what a disk may show. */
#pragma once

#include <glib.h>

#include "image/image.h"
#include "recording-storage.h"

#define CRASH_MAX_FILES 2u /* the image, its data file */
#define CRASH_MAX_BYTES (4u * 1024 * 1024)

/* How an image is made: by a shell script with qemu-img, in an empty directory. It makes
 * top.qcow2 and, where there is one, base.raw or base.qcow2, and data.raw. */
typedef struct {
    const char *name;
    const char *script;
    bool is_dirty; /* the dirty bit is set and refcounts are wrong */
} CrashKind;

extern const CrashKind crash_kinds[];
extern const unsigned crash_n_kinds;

/* Files of a disk; all owned. */
typedef struct {
    GByteArray *files[CRASH_MAX_FILES];
    unsigned n_files;
    GByteArray *base; /* NULL: none */
    const char *base_name;
} CrashFixture;

/* Skips the program (exit 77) where qemu-img is missing. */
void crash_need_qemu(void);

CrashFixture *crash_fixture_make(const CrashKind *kind);
void crash_fixture_free(CrashFixture *disk);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CrashFixture, crash_fixture_free)

/* A disk with the same base, whose files are still to be set. */
CrashFixture *crash_fixture_new_like(const CrashFixture *disk);

/* Opens the disk over copies of its files in memory. With @record it is writable, and
 * what changes is recorded; @storages_out (may be NULL) gets the memory storages. NULL
 * when it cannot be opened: *@problem_out says why. */
QimgImage *crash_fixture_open(const CrashFixture *disk, CrashRecord *record,
                              QimgStorage *storages_out[CRASH_MAX_FILES],
                              char **problem_out);

/* What the record leaves in the end of the disk's files. */
CrashFixture *crash_fixture_after(const CrashFixture *disk, CrashRecord *record);

/* NULL when qemu-img check finds at most leaks, else what it says. */
char *crash_fixture_qemu_check(const CrashFixture *disk);

/* Writes the disk's files into the directory @dir. */
void crash_fixture_save(const CrashFixture *disk, const char *dir);

typedef enum {
    CRASH_OP_WRITE,
    CRASH_OP_ZERO,
    CRASH_OP_DISCARD,
    CRASH_OP_ALLOCATE,
    CRASH_OP_FLUSH,
    CRASH_OP_RESIZE,
} CrashOpKind;

extern const char *const crash_op_names[];

typedef struct {
    CrashOpKind kind;
    uint64_t offset; /* RESIZE: the new size */
    uint64_t n_bytes;
    uint8_t value; /* WRITE: what is written depends on it and on the place */
    int result;
    size_t start_event; /* of the record, where there is one */
    size_t end_event;
} CrashOp;

/* An operation on a disk of @size_bytes. */
CrashOp crash_op_choose(GRand *rand, uint64_t size_bytes, uint64_t cluster_bytes);

/* Does it. */
int crash_op_run(QimgImage *image, const CrashOp *op);

/* What a disk holds. */
typedef struct {
    uint8_t *bytes; /* CRASH_MAX_BYTES; zeros past the size */
    uint64_t size_bytes;
} CrashModel;

/* The content of @image, which shows @disk. */
CrashModel *crash_model_new(QimgImage *image, char **problem_out);
CrashModel *crash_model_copy(const CrashModel *model);
void crash_model_free(CrashModel *model);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CrashModel, crash_model_free)

void crash_model_apply(CrashModel *model, const CrashOp *op);

/* NULL when each byte of @seen is that of @base or one that an operation of @ops has put
 * there since, and the size is one of theirs; else what is wrong. */
char *crash_model_compare(const CrashModel *base, const CrashOp *ops, size_t n_ops,
                          const CrashModel *seen);
