/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How far a copy has come, in a file beside it. */
#pragma once

#include "copy/copy-place.h"
#include "qimg.h"
#include "storage/storage.h"

/* The progress of a copy. */
typedef struct {
    uint64_t done_bytes; /* from the disk's start */
    uint64_t data_bytes; /* of these, in granules that are not zeros */
    GArray *unreadable;  /* QimgUnreadable: of these; NULL: too many to list */
    /* The target's stamp when this was stored, if nothing was written later; NULL: more
     * was to be written. */
    char *stamp;
} CopyState;

void copy_state_clear(CopyState *state);

/* The kind of file at a journal's name. */
typedef enum {
    COPY_JOURNAL_NONE,
    COPY_JOURNAL_BLANK,   /* its run ended before it stored anything */
    COPY_JOURNAL_STATES,  /* the journal of a copy */
    COPY_JOURNAL_BROKEN,  /* once a journal, of this version or an earlier one */
    COPY_JOURNAL_FOREIGN, /* something else */
} CopyJournalKind;

/* The target file of a copy. */
typedef struct {
    bool is_device;
    uint64_t inode; /* 0 for a device, which only its content can identify */
    uint64_t size_bytes;
} CopyIdentity;

typedef struct CopyJournal CopyJournal;

/* A journal for a copy of @source_name in @image. Reads and writes nothing. */
CopyJournal *copy_journal_new(const QimgImage *image, const char *source_name);
/* Opens and reads the file @name in @place; borrows both. */
CopyJournalKind copy_journal_open(CopyJournal *journal, const CopyPlace *place,
                                  const char *name);
/* For a journal of STATES: its last state, whose content the caller owns, and its
 * file. */
void copy_journal_get(const CopyJournal *journal, CopyState *state_out,
                      CopyIdentity *identity_out);
/* Whether a copy of STATES can be resumed from the present source. Errors: REFUSED if it
 * is of another source, or the source has changed. *@is_untouched_out: not even the
 * status of a file has changed. */
bool copy_journal_check_source(const CopyJournal *journal, bool *is_untouched_out,
                               GError **error);
/* Begins a journal: creates it, or restarts the opened one. Its content is durable then,
 * its name is not. */
QimgErrno copy_journal_make(CopyJournal *journal, const CopyIdentity *identity);
/* Appends @state, all of which must be durable. A failure leaves the earlier ones. */
QimgErrno copy_journal_store(CopyJournal *journal, const CopyState *state);
/* Removes its name if it belongs to the opened or created file. */
void copy_journal_remove(CopyJournal *journal);

/* Begins to write states in the background, each after a sync of @target, which must
 * outlive copy_journal_end. */
bool copy_journal_begin(CopyJournal *journal, QimgStorage *target, GError **error);
/* Whether the next state should be posted, by progress or time since the last, and no
 * sync is running. */
bool copy_journal_is_due(CopyJournal *journal, uint64_t done_bytes);
/* Posts @state (takes its content). */
void copy_journal_post(CopyJournal *journal, CopyState *state);
/* The error of a failed sync, else 0. */
QimgErrno copy_journal_get_error(CopyJournal *journal);
/* Ends the thread of copy_journal_begin. */
void copy_journal_end(CopyJournal *journal);
/* Frees; accepts NULL. */
void copy_journal_free(CopyJournal *journal);
