/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Shared by the crash tests: images of many kinds in memory, random operations, and a
 * model of the possible states of a disk. */
#pragma once

#include <errno.h>
#include <glib.h>

#include "image/chain/handle.h"
#include "qcow2-check.h"
#include "recording-storage.h"

#define CRASH_MAX_FILES  2u /* the image, its data file */
#define CRASH_PASSPHRASE "words"
#define CRASH_MAX_BYTES  (4u * 1024 * 1024)

/* The recipe for an image: a shell script with qemu-img, run in an empty directory. It
 * creates top and, if needed, base.raw or base.qcow2, and data.raw. */
typedef struct {
    const char *name;
    const char *script;
    bool is_dirty; /* the dirty bit is set and refcounts are wrong */
    bool has_no_snapshots;
    bool is_data_file_raw; /* data.raw is the disk, byte for byte */
    bool is_encrypted;     /* its passphrase is CRASH_PASSPHRASE */
    bool has_bitmaps;      /* its names: "e…" enabled, "d…" disabled */
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
    bool is_encrypted;
    QimgKeeper *keeper; /* not owned; NULL: writes nothing behind */
} CrashFixture;

/* Whether to test kind number @kind in way number @way: each run takes one pair in
 * CRASH_ONE_IN (4), chosen by @seed; with ALL=1 or CRASH_KIND set, all of them. */
bool crash_is_chosen(unsigned kind, unsigned way, uint32_t seed);

/* Skips the program (exit 77) if qemu-img is missing. */
void crash_need_qemu(void);

CrashFixture *crash_fixture_make(const CrashKind *kind);
void crash_fixture_free(CrashFixture *disk);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CrashFixture, crash_fixture_free)

/* A disk with the same base, without files yet. */
CrashFixture *crash_fixture_new_like(const CrashFixture *disk);

/* Opens the disk over copies of its files in memory. With @record it is writable, and
 * changes are recorded; @storages_out (may be NULL) gets the memory storages. NULL if it
 * cannot be opened, with the reason in *@problem_out. */
QimgImage *crash_fixture_open(const CrashFixture *disk, CrashRecord *record,
                              QimgStorage *storages_out[CRASH_MAX_FILES],
                              char **problem_out);

/* The disk's files at the end of the record. */
CrashFixture *crash_fixture_after(const CrashFixture *disk, CrashRecord *record);

/* NULL if qemu-img check finds at most leaks, else its output. */
char *crash_fixture_qemu_check(const CrashFixture *disk);

/* NULL if the image file is sound by our own check (qcow2-check.h, qed-check.h), else the
 * fault. @may_leak: permits space to be lost for good. @out may be NULL. */
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
    CRASH_OP_TAKE, /* from here on: changes of snapshots */
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
    uint8_t value; /* WRITE: determines the written bytes, together with the place */
    int result;
    size_t start_event; /* of the record, if there is one */
    size_t end_event;
    uint32_t serial;                 /* of the snapshot, except for TAKE */
    const char *old_name, *new_name; /* interned */
    const CrashModel *content;       /* of the snapshot; owned by CrashSnapshots */
} CrashOp;

/* An operation on a disk of @size_bytes. */
CrashOp crash_op_choose(GRand *rand, uint64_t size_bytes, uint64_t cluster_bytes);

/* Runs it. */
int crash_op_run(QimgImage *image, const CrashOp *op);

/* Whether the failure op->result is this kind of image's refusal. */
bool crash_op_is_refused(const CrashOp *op);

/* The content of a disk. */
struct CrashModel {
    uint8_t *bytes; /* CRASH_MAX_BYTES; zeros past the size */
    uint64_t size_bytes;
    uint64_t size_unit_bytes; /* a write past the end grows the disk to a multiple */
};

/* The content of @image, opened from @disk. */
CrashModel *crash_model_new(QimgImage *image, char **problem_out);
CrashModel *crash_model_copy(const CrashModel *model);
void crash_model_free(CrashModel *model);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CrashModel, crash_model_free)

void crash_model_apply(CrashModel *model, const CrashOp *op);

/* NULL if each byte of @seen is that of @base or one that an operation of @ops may have
 * put there since, and the size is one of theirs; else the fault. */
char *crash_model_compare(const CrashModel *base, const CrashOp *ops, size_t n_ops,
                          const CrashModel *seen);

/* NULL if the raw data file of @disk, opened as @seen, complies with the rule of
 * crash_model_compare, or there is none; else the fault. */
char *crash_model_compare_data_file(const CrashModel *base, const CrashOp *ops,
                                    size_t n_ops, const CrashModel *seen,
                                    const CrashFixture *disk);

/* ---- crash-snapshots.c ---- */

/* The content of each snapshot that ever existed, by its name. */
typedef struct {
    GHashTable *contents; /* interned names to CrashModel, owned */
    unsigned n_names;     /* used so far */
} CrashSnapshots;

/* The snapshots of @image. */
CrashSnapshots *crash_snapshots_new(QimgImage *image);
void crash_snapshots_free(CrashSnapshots *known);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CrashSnapshots, crash_snapshots_free)

/* A change of the snapshots of @image. */
CrashOp crash_op_choose_snapshot(GRand *rand, QimgImage *image, CrashSnapshots *known);

/* Runs it: 0 or a negated errno. @now is the disk's content (NULL: it is read). */
int crash_op_run_snapshot(QimgImage *image, const CrashOp *op, const CrashModel *now,
                          CrashSnapshots *known);

/* The names of the snapshots of @disk. */
GHashTable *crash_snapshots_names(const CrashFixture *disk);

/* NULL if @image has the snapshots resulting from @before and @n_done operations, or some
 * of the next ones up to @n_begun; else the fault. */
char *crash_snapshots_compare_names(const QimgImage *image, GHashTable *before,
                                    const CrashOp *ops, size_t n_done, size_t n_begun);

/* NULL if each snapshot of @image has its content. */
char *crash_snapshots_compare(QimgImage *image, const CrashSnapshots *known);
