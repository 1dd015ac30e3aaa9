/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the crash tests share: images of many kinds in memory, random operations, and a
 * model of what a disk may show. */
#pragma once

#include <errno.h>
#include <glib.h>

#include "image/chain/handle.h"
#include "qcow2-check.h"
#include "recording-storage.h"

#define CRASH_MAX_FILES 2u /* the image, its data file */
#define CRASH_MAX_BYTES (4u * 1024 * 1024)

/* How an image is made: by a shell script with qemu-img, in an empty directory. It makes
 * top and, where there is one, base.raw or base.qcow2, and data.raw. */
typedef struct {
    const char *name;
    const char *script;
    bool is_dirty; /* the dirty bit is set and refcounts are wrong */
    bool has_no_snapshots;
    bool is_data_file_raw; /* data.raw is the disk, byte for byte */
    const char *format;    /* NULL: qcow2 */
} CrashKind;

extern const CrashKind crash_kinds[];
extern const unsigned crash_n_kinds;

/* Files of a disk; all owned. */
typedef struct {
    GByteArray *files[CRASH_MAX_FILES];
    unsigned n_files;
    GByteArray *base; /* NULL: none */
    const char *base_name;
    const char *format;    /* static */
    bool is_data_file_raw; /* the second file is the disk */
    QimgKeeper *keeper;    /* not owned; NULL: nothing is written behind */
} CrashFixture;

/* Whether the kind number @kind is to be tried in the way number @way: each run takes
 * every other pair, which @seed chooses; all of them where ALL=1 or CRASH_KIND is set. */
bool crash_is_chosen(unsigned kind, unsigned way, uint32_t seed);

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

/* NULL when the image file is sound by our own check (qcow2-check.h, qed-check.h), else
 * what is wrong. @may_leak: space may be lost for good. @out may be NULL. */
char *crash_fixture_check(const CrashFixture *disk, bool may_leak, Qcow2CheckResult *out);

/* Writes the disk's files into the directory @dir. */
void crash_fixture_save(const CrashFixture *disk, const char *dir);

typedef enum {
    CRASH_OP_WRITE,
    CRASH_OP_ZERO,
    CRASH_OP_DISCARD,
    CRASH_OP_ALLOCATE,
    CRASH_OP_FLUSH,
    CRASH_OP_RESIZE,
    CRASH_OP_TAKE, /* from here on: of snapshots */
    CRASH_OP_DELETE,
    CRASH_OP_RENAME,
    CRASH_OP_REVERT,
} CrashOpKind;

extern const char *const crash_op_names[];

typedef struct CrashModel CrashModel;

typedef struct {
    CrashOpKind kind;
    uint64_t offset; /* RESIZE: the new size */
    uint64_t n_bytes;
    uint8_t value; /* WRITE: what is written depends on it and on the place */
    int result;
    size_t start_event; /* of the record, where there is one */
    size_t end_event;
    uint32_t serial;                 /* of the snapshot, but for TAKE */
    const char *old_name, *new_name; /* interned */
    const CrashModel *content;       /* of the snapshot; owned by CrashSnapshots */
} CrashOp;

/* An operation on a disk of @size_bytes. */
CrashOp crash_op_choose(GRand *rand, uint64_t size_bytes, uint64_t cluster_bytes);

/* Does it. */
int crash_op_run(QimgImage *image, const CrashOp *op);

/* Whether what failed with op->result is refused by images of this kind. */
bool crash_op_is_refused(const CrashOp *op);

/* What a disk holds. */
struct CrashModel {
    uint8_t *bytes; /* CRASH_MAX_BYTES; zeros past the size */
    uint64_t size_bytes;
    uint64_t size_unit_bytes; /* a write past the end grows the disk to a multiple */
};

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

/* NULL when the raw data file of @disk, which shows @seen, is a disk that the rule of
 * crash_model_compare allows, or there is none; else what is wrong. */
char *crash_model_compare_data_file(const CrashModel *base, const CrashOp *ops,
                                    size_t n_ops, const CrashModel *seen,
                                    const CrashFixture *disk);

/* ---- crash-snapshots.c ---- */

/* What each snapshot that there ever was holds, by its name. */
typedef struct {
    GHashTable *contents; /* interned names to CrashModel, owned */
    unsigned n_names;     /* given so far */
} CrashSnapshots;

/* Those that @image has. */
CrashSnapshots *crash_snapshots_new(QimgImage *image);
void crash_snapshots_free(CrashSnapshots *known);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CrashSnapshots, crash_snapshots_free)

/* A change of the snapshots that @image has. */
CrashOp crash_op_choose_snapshot(GRand *rand, QimgImage *image, CrashSnapshots *known);

/* Does it: 0 or a negated errno. @now is what the disk holds (NULL: it is read). */
int crash_op_run_snapshot(QimgImage *image, const CrashOp *op, const CrashModel *now,
                          CrashSnapshots *known);

/* The names of the snapshots of @disk. */
GHashTable *crash_snapshots_names(const CrashFixture *disk);

/* NULL when @image has the snapshots that @before and @n_done operations make, or some of
 * the next ones up to @n_begun; else what is wrong. */
char *crash_snapshots_compare_names(const QimgImage *image, GHashTable *before,
                                    const CrashOp *ops, size_t n_done, size_t n_begun);

/* NULL when each snapshot of @image holds what it must. */
char *crash_snapshots_compare(QimgImage *image, const CrashSnapshots *known);
