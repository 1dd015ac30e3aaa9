/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The file to be filled: making it, naming it, undoing it. */
#pragma once

#include "base/errors.h"
#include "copy/copy-journal.h"
#include "copy/copy-place.h"
#include "copy/copy-target.h"

/* The found target, and the plan for it. */
typedef struct {
    CopyPlace place;
    CopyTarget target;
    CopyJournal *journal;     /* of the filled file; NULL: a stream */
    CopyJournal *old_journal; /* of the replaced file; NULL: none */
    const char *path;         /* const, borrowed: as given */
    bool is_stream;           /* path names a FIFO */
    bool is_part;             /* the filled file replaces the target at the end */
    bool is_named;            /* renamed: only the journals are left */
    bool made_file;           /* by this run */
    bool made_journal;        /* by this run, or restarted */
    bool has_journal;         /* on the disk */
    int old_fd;               /* the replaced file, locked; -1: none */
    CopyState start;          /* the state of an earlier copy */
    bool is_resumed;          /* continues its journal */
    bool is_trusted;          /* neither it nor the source was touched since */
} CopyBinding;

typedef struct {
    uint64_t size_bytes;
    bool overwrites;
    bool resumes;
    bool keeps_zeros;
} CopyWish;

/* Sets @error to QIMG_ERROR_REFUSED with a text; false. */
#define COPY_REFUSE(...) (qimg_set_error(error, QIMG_ERROR_REFUSED, __VA_ARGS__), false)

/* Sets @error to @what and the text of @errnum (positive); false. */
bool copy_refuse_errno(int errnum, const char *what, GError **error);

/* The names of the filled file and of its journal, in the place. */
const char *copy_binding_fill_name(const CopyBinding *binding);
const char *copy_binding_fill_journal_name(const CopyBinding *binding);

/* Takes @fd (also on failure) as the filled file. Under its lock no other run renames or
 * removes it, so earlier checks are repeated. */
bool copy_binding_take_fill(CopyBinding *binding, int fd, const QimgImage *image,
                            GError **error);

/* Creates the file and the journal if missing, durably. After a failure the caller must
 * call copy_binding_undo. */
bool copy_binding_make(CopyBinding *binding, const QimgImage *image, const CopyWish *wish,
                       GError **error);
/* Whether the name still belongs to the file. */
bool copy_binding_check_name(const CopyBinding *binding, GError **error);
/* Gives a file that its journal records as complete its name; removes the journals. */
QimgErrno copy_binding_name(CopyBinding *binding) QIMG_MUST_CHECK;
/* Removes the files that this run created. */
void copy_binding_undo(CopyBinding *binding);
/* Whether @path names a file that the copy writes or removes. */
bool copy_binding_uses(const CopyBinding *binding, const char *path);
void copy_binding_clear(CopyBinding *binding);
