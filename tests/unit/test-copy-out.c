/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copying a disk out: the plan, zeros, the record of unreadable ranges, the journal, and
 * whole copies from a file with unreadable sectors. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "copy/copy-digest.h"
#include "copy/copy-plan.h"
#include "copy/copy-private.h"
#include "copy/copy-rescue.h"
#include "copy/copy-zeros.h"
#include "image-builder.h"
#include "image/chain/chain.h"
#include "image/chain/handle.h"
#include "image/image.h"
#include "image/open/chain-open.h"
#include "test-util.h"

#define MIB (UINT64_C(1) << 20)

/* ---- the plan ---- */

typedef struct {
    uint64_t start, end;
} Range;

/* Disks with data in a few ranges, and their expected pieces. */
typedef struct {
    const char *name;
    uint64_t size_bytes;
    uint64_t begin_offset;
    uint64_t max_hole_bytes;
    Range data[3];
    uint64_t fails_from; /* find_data fails from here on; 0: never */
    const char *pieces;  /* in KiB: h for a hole, d for data */
} PlanRow;

static QimgErrno
find_data_in_row(void *user, uint64_t guest_offset, uint64_t *offset_out)
{
    const PlanRow *row = user;

    if (row->fails_from && guest_offset >= row->fails_from)
        return -EIO;
    for (unsigned i = 0; i < G_N_ELEMENTS(row->data); i++) {
        if (row->data[i].end > guest_offset) {
            *offset_out = MAX(guest_offset, row->data[i].start);
            return 0;
        }
    }
    return -ENXIO;
}

static void
test_plan(void)
{
    static const PlanRow rows[] = {
        {"no bytes", 0, 0, UINT64_MAX - MIB + 1, {{0}}, 0, ""},
        {"all hole", 5 * MIB + 512, 0, UINT64_MAX - MIB + 1, {{0}}, 0, "h5120.5"},
        {"huge",
         UINT64_C(1) << 62,
         0,
         UINT64_C(1) << 61,
         {{0}},
         0,
         "h2251799813685248 h2251799813685248"},
        {"all data", 2 * MIB + 512, 0, MIB, {{0, 3 * MIB}}, 0, "d1024 d1024 d0.5"},
        {"inside a chunk",
         4 * MIB,
         0,
         8 * MIB,
         {{MIB + 5, MIB + 6}},
         0,
         "h1024 d1024 h2048"},
        {"over two chunks",
         4 * MIB,
         0,
         8 * MIB,
         {{2 * MIB - 1, 2 * MIB + 1}},
         0,
         "h1024 d1024 d1024 h1024"},
        {"two in one chunk", 2 * MIB, 0, 8 * MIB, {{0, 1}, {9, 10}}, 0, "d1024 h1024"},
        {"holes in pieces",
         6 * MIB,
         0,
         2 * MIB,
         {{5 * MIB, 6 * MIB}},
         0,
         "h2048 h2048 h1024 d1024"},
        {"from a border",
         4 * MIB,
         2 * MIB,
         8 * MIB,
         {{0, MIB}, {3 * MIB, 4 * MIB}},
         0,
         "h1024 d1024"},
        {"from inside a chunk",
         2 * MIB,
         512 * 1024,
         8 * MIB,
         {{0, 2 * MIB}},
         0,
         "d512 d1024"},
        {"from the end", MIB, MIB, MIB, {{0, MIB}}, 0, ""},
        {"tables fail", 3 * MIB, 0, 8 * MIB, {{0, 1}}, MIB, "d1024 d1024 d1024"},
        {"tables fail all along", 2 * MIB, MIB, 8 * MIB, {{0}}, 1, "d1024"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        CopyPlan plan = {
            .size_bytes = rows[i].size_bytes,
            .chunk_bytes = MIB,
            .max_hole_bytes = rows[i].max_hole_bytes,
            .next_offset = rows[i].begin_offset,
            .find_data = find_data_in_row,
            .user = (void *)&rows[i],
        };
        g_autoptr(GString) text = g_string_new(NULL);
        uint64_t end = rows[i].begin_offset;
        CopyPiece piece;

        while (copy_plan_next(&plan, &piece)) {
            g_assert_cmpuint(piece.guest_offset, ==, end);
            g_assert_cmpuint(piece.length_bytes, >, 0);
            end += piece.length_bytes;
            g_string_append_printf(text, "%s%c%.16g", text->len ? " " : "",
                                   piece.is_hole ? 'h' : 'd',
                                   (double)piece.length_bytes / 1024);
        }
        g_test_message("%s", rows[i].name);
        g_assert_cmpuint(end, ==, rows[i].size_bytes);
        g_assert_cmpstr(text->str, ==, rows[i].pieces);
    }
}

/* ---- zeros ---- */

static void
test_zeros(void)
{
    static const struct {
        size_t n_bytes;
        size_t set[3];    /* bytes that are not zero, in order; SIZE_MAX: none */
        const char *runs; /* of bytes */
    } rows[] = {
        {0, {SIZE_MAX}, ""},
        {1, {SIZE_MAX}, ""},
        {1, {0, SIZE_MAX}, "0-1"},
        {4096, {4095, SIZE_MAX}, "0-4096"},
        {4096, {15, SIZE_MAX}, "0-4096"},
        {4096, {16, SIZE_MAX}, "0-4096"},
        {4097, {0, SIZE_MAX}, "0-4096"},
        {4097, {4096, SIZE_MAX}, "4096-4097"},
        {16384, {4096, 12287, SIZE_MAX}, "4096-12288"},
        {16384, {0, 8192, SIZE_MAX}, "0-4096 8192-12288"},
        {13000, {1, 5000, 12999}, "0-8192 12288-13000"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree uint8_t *buffer = g_malloc0(rows[i].n_bytes + 1);
        g_autoptr(GString) text = g_string_new(NULL);
        size_t start = 0, end;

        buffer[rows[i].n_bytes] = 1; /* must not be read */
        for (unsigned j = 0; j < 3 && rows[i].set[j] != SIZE_MAX; j++)
            buffer[rows[i].set[j]] = 1;
        while (copy_find_data(buffer, rows[i].n_bytes, &start, &end)) {
            g_string_append_printf(text, "%s%zu-%zu", text->len ? " " : "", start, end);
            start = end;
        }
        g_assert_cmpstr(text->str, ==, rows[i].runs);
    }
}

/* ---- the record ---- */

static void
append_range(const QimgUnreadable *range, void *user)
{
    GString *text = user;

    g_string_append_printf(text, "%s%u+%u %s", text->len ? ", " : "",
                           (unsigned)range->guest_offset, (unsigned)range->length_bytes,
                           range->reason);
}

static void
test_range_log(void)
{
    const QimgUnreadable ranges[] = {
        copy_unreadable(0, 512, "a"),    copy_unreadable(512, 512, "a"),
        copy_unreadable(1024, 512, "b"), copy_unreadable(2048, 4096, "b"),
        copy_unreadable(6144, 512, "b"),
    };
    char reason[] = "b"; /* equal, not the same */
    g_autoptr(GString) text = g_string_new(NULL);
    g_autoptr(GArray) snapshot = NULL;
    const QimgUnreadable more = copy_unreadable(6656, 44, reason);
    RangeLog log;

    range_log_init(&log, append_range, text);
    range_log_finish(&log);
    g_assert_cmpstr(text->str, ==, "");
    for (size_t i = 0; i < G_N_ELEMENTS(ranges); i++)
        range_log_add(&log, &ranges[i]);
    range_log_add(&log, &more);
    g_assert_cmpstr(text->str, ==, "0+1024 a, 1024+512 b");
    snapshot = range_log_snapshot(&log);
    g_assert_cmpuint(snapshot->len, ==, 3);
    g_assert_cmpuint(g_array_index(snapshot, QimgUnreadable, 2).length_bytes, ==, 4652);
    range_log_finish(&log);
    range_log_finish(&log);
    g_assert_cmpstr(text->str, ==, "0+1024 a, 1024+512 b, 2048+4652 b");
    g_assert_cmpuint(log.n_ranges, ==, 3);
    g_assert_cmpuint(log.n_bytes, ==, 1024 + 512 + 4652);
    g_assert_cmpuint(log.listed->len, ==, 3);
    range_log_clear(&log);
}

/* More than are listed: all are counted and reported, and the list does not claim to be
 * complete. */
static void
test_range_log_full(void)
{
    RangeLog log;

    range_log_init(&log, NULL, NULL);
    for (uint64_t i = 0; i <= COPY_MAX_LISTED; i++) {
        const QimgUnreadable range = copy_unreadable(i * 1024, 512, "a");
        GArray *snapshot = range_log_snapshot(&log);

        g_assert_nonnull(snapshot);
        g_array_unref(snapshot);
        range_log_add(&log, &range);
        if (i == 10) /* the rest without copies of the list */
            for (; i < COPY_MAX_LISTED - 2; i++) {
                const QimgUnreadable next = copy_unreadable((i + 1) * 1024, 512, "a");

                range_log_add(&log, &next);
            }
    }
    g_assert_null(range_log_snapshot(&log));
    range_log_finish(&log);
    g_assert_cmpuint(log.listed->len, ==, COPY_MAX_LISTED);
    g_assert_cmpuint(log.n_ranges, ==, COPY_MAX_LISTED + 1);
    range_log_clear(&log);
}

/* ---- digests ---- */

static void
test_digests(void)
{
    static const struct {
        QimgDigest kind;
        const char *text;
        const char *abc;   /* the standards' own example */
        const char *zeros; /* of 100000 of them, as computed by coreutils */
    } rows[] = {
        {QIMG_DIGEST_MD5, "md5", "900150983cd24fb0d6963f7d28e17f72", NULL},
        {QIMG_DIGEST_SHA1, "sha1", "a9993e364706816aba3e25717850c26c9cd0d89d", NULL},
        {QIMG_DIGEST_SHA256, "sha256",
         "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", NULL},
    };
    g_autofree uint8_t *zeros = g_malloc0(100000);

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        CopyDigest *digest = copy_digest_new(rows[i].kind, NULL);
        g_autofree char *text = NULL;
        g_autofree char *implied = NULL;
        g_autofree char *written = NULL;
        QimgDigest found;

        copy_digest_add(digest, (const uint8_t *)"a", 1);
        copy_digest_add(digest, NULL, 0);
        copy_digest_add(digest, (const uint8_t *)"bc", 2);
        text = copy_digest_finish(digest);
        g_assert_cmpstr(text, ==, rows[i].abc);
        digest = copy_digest_new(rows[i].kind, NULL);
        copy_digest_add(digest, NULL, 100000);
        implied = copy_digest_finish(digest);
        digest = copy_digest_new(rows[i].kind, NULL);
        copy_digest_add(digest, zeros, 100000);
        written = copy_digest_finish(digest);
        g_assert_cmpstr(implied, ==, written);
        g_assert_cmpstr(qimg_digest_get_name(rows[i].kind), ==, rows[i].text);
        g_assert_true(qimg_digest_find(rows[i].text, &found));
        g_assert_cmpint(found, ==, rows[i].kind);
    }
    g_assert_false(qimg_digest_find("SHA256", &(QimgDigest){0}));
    g_assert_null(qimg_digest_get_name((QimgDigest)COPY_N_DIGESTS));
}

/* ---- whole copies ---- */

/* A file with some unreadable sectors; the content is computed from the offset. */
typedef struct {
    QimgStorage storage;
    uint64_t size_bytes;
    Range bad[4];
    int errnum;
    _Atomic unsigned n_reads;
    QimgCopy *stopped_copy; /* is stopped at read number @stop_at */
    unsigned stop_at;
    uint64_t second_offset; /* a byte here differs when it is read again; 0: none */
    _Atomic unsigned n_second_reads;
} BadFile;

static uint8_t
byte_of(uint64_t file_offset)
{
    return file_offset / 4096 % 5 == 4 ? 0 : (uint8_t)(file_offset / 512 * 7 + 1);
}

static ssize_t
bad_pread(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset, void *buffer,
          size_t n_bytes)
{
    BadFile *file = (BadFile *)storage;
    unsigned number = atomic_fetch_add_explicit(&file->n_reads, 1, memory_order_relaxed);

    if (file->stopped_copy && number == file->stop_at)
        qimg_copy_stop(file->stopped_copy);
    if (file_offset >= file->size_bytes)
        return 0;
    n_bytes = MIN(n_bytes, file->size_bytes - file_offset);
    for (unsigned i = 0; i < G_N_ELEMENTS(file->bad) && purpose == QIMG_IO_DATA; i++)
        if (file_offset < file->bad[i].end && file_offset + n_bytes > file->bad[i].start)
            return -file->errnum;
    for (size_t i = 0; i < n_bytes; i++)
        ((uint8_t *)buffer)[i] = byte_of(file_offset + i);
    if (file->second_offset >= file_offset && file->second_offset > 0 &&
        file->second_offset < file_offset + n_bytes && purpose == QIMG_IO_DATA &&
        atomic_fetch_add_explicit(&file->n_second_reads, 1, memory_order_relaxed) > 0)
        ((uint8_t *)buffer)[file->second_offset - file_offset] ^= 1;
    return (ssize_t)n_bytes;
}

static QimgErrno
bad_get_size(QimgStorage *storage, uint64_t *size_bytes_out)
{
    *size_bytes_out = ((BadFile *)storage)->size_bytes;
    return 0;
}

static void
bad_close(QimgStorage *storage)
{
    g_free(storage);
}

static const QimgStorageOps bad_ops = {
    .pread = bad_pread,
    .get_size = bad_get_size,
    .close = bad_close,
};

/* An image on a BadFile, a directory, and the copy's reports. */
typedef struct {
    BadFile *file;
    QimgImage *image;
    char *dir;
    char *target_path;
    GString *log;
    QimgCopyOptions options;
} Fixture;

static void
fixture_open(Fixture *fixture, uint64_t size_bytes)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    BadFile *file = g_new0(BadFile, 1);
    GError *error = NULL;
    QimgChain *chain;

    qimg_storage_init(&file->storage, &bad_ops, "bad", size_bytes);
    file->size_bytes = size_bytes;
    file->errnum = EIO;
    qimg_options_set(options, "format", "raw", NULL);
    chain = chain_open_storages((QimgStorage *[]){&file->storage}, 1, options, &error);
    g_assert_no_error(error);
    *fixture = (Fixture){
        .file = file,
        .image = image_new(chain, 0, &chain->layers[0]->active),
        .dir = test_util_make_dir(),
        .log = g_string_new(NULL),
    };
    chain_unref(chain);
    fixture->target_path = g_build_filename(fixture->dir, "out", NULL);
    fixture->options = (QimgCopyOptions){
        .struct_bytes = sizeof fixture->options,
        .target_path = fixture->target_path,
        .n_threads = 3,
        .on_unreadable = append_range,
        .user = fixture->log,
    };
}

static void
fixture_close(Fixture *fixture)
{
    qimg_image_close(fixture->image);
    test_util_remove_dir(fixture->dir);
    g_free(fixture->target_path);
    g_string_free(fixture->log, TRUE);
}

static bool
has_journal(const Fixture *fixture)
{
    g_autofree char *path = g_strconcat(fixture->target_path, ".qimg-resume", NULL);

    return g_file_test(path, G_FILE_TEST_EXISTS);
}

/* The copy must be there, with zeros for the bad ranges of the file. */
static void
check_copy(const Fixture *fixture)
{
    g_autofree char *content = NULL;
    gsize length = 0;
    GError *error = NULL;

    g_file_get_contents(fixture->target_path, &content, &length, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(length, ==, fixture->file->size_bytes);
    for (gsize at = 0; at < length; at++) {
        uint8_t wanted = byte_of(at);

        for (unsigned i = 0; i < G_N_ELEMENTS(fixture->file->bad); i++)
            if (at >= fixture->file->bad[i].start && at < fixture->file->bad[i].end)
                wanted = 0;
        if ((uint8_t)content[at] != wanted)
            g_error("byte %zu is %u, not %u", at, (uint8_t)content[at], wanted);
    }
    g_assert_false(has_journal(fixture));
}

/* Bad sectors are located exactly, also across borders of chunks, and the rest is
 * there. */
static void
test_rescue(void)
{
    static const int errnums[] = {EIO, ENODATA, EILSEQ};

    for (size_t i = 0; i < G_N_ELEMENTS(errnums); i++) {
        const char *reason = g_strerror(errnums[i]);
        g_autofree char *wanted =
            g_strdup_printf("0+512 %s, 1048064+1024 %s, 1050112+3072 %s, 2621952+48 %s",
                            reason, reason, reason, reason);
        const QimgCopyReport *report;
        g_autoptr(QimgCopy) copy = NULL;
        GError *error = NULL;
        Fixture fixture;

        fixture_open(&fixture, 5 * MIB / 2 + 560);
        fixture.file->errnum = errnums[i];
        fixture.file->bad[0] = (Range){0, 512};
        fixture.file->bad[1] = (Range){MIB - 512, MIB + 512};
        fixture.file->bad[2] = (Range){MIB + 1536, MIB + 1536 + 3072};
        fixture.file->bad[3] = (Range){5 * MIB / 2 + 512, 5 * MIB / 2 + 560};
        fixture.options.rescue = TRUE;
        fixture.options.digests = 1u << QIMG_DIGEST_SHA256;
        copy = qimg_copy_new(fixture.image, &fixture.options);
        qimg_copy_run(copy, &error);
        g_assert_no_error(error);
        check_copy(&fixture);
        g_assert_cmpstr(fixture.log->str, ==, wanted);
        report = qimg_copy_get_report(copy);
        g_assert_cmpuint(report->n_unreadable, ==, 4);
        g_assert_cmpuint(report->n_listed, ==, 4);
        g_assert_cmpuint(report->unreadable_bytes, ==, 512 + 1024 + 3072 + 48);
        g_assert_cmpuint(strlen(qimg_copy_get_digest(copy, QIMG_DIGEST_SHA256)), ==, 64);
        g_assert_null(qimg_copy_get_digest(copy, QIMG_DIGEST_MD5));
        fixture_close(&fixture);
    }
}

/* Without it the first bad place ends the copy; with it the copy is resumed, and the
 * report also includes the places found before. */
static void
test_rescue_later(void)
{
    static const char *const wanted = "1049600+512 Input/output error";
    QimgCopy *copy;
    GError *error = NULL;
    Fixture fixture;

    fixture_open(&fixture, 40 * MIB);
    fixture.file->bad[0] = (Range){MIB + 1024, MIB + 1536};
    fixture.file->bad[1] = (Range){30 * MIB, 30 * MIB + 512};
    copy = qimg_copy_new(fixture.image, &fixture.options);
    g_assert_false(qimg_copy_run(copy, &error));
    test_util_check_error(&error, QIMG_ERROR_FAILED,
                          "cannot read offset 1049600 of the disk: Input/output error "
                          "(with --rescue the copy has zeros there, and goes on)");
    g_assert_true(qimg_copy_get_report(copy)->is_resumable);
    g_assert_false(qimg_copy_get_report(copy)->is_target_at_fault);
    g_assert_cmpuint(qimg_copy_get_report(copy)->done_bytes, ==, MIB);
    qimg_copy_free(copy);

    /* It is stopped behind the first place. */
    fixture.options.resume = TRUE;
    fixture.options.rescue = TRUE;
    fixture.options.n_threads = 1;
    copy = qimg_copy_new(fixture.image, &fixture.options);
    fixture.file->stopped_copy = copy;
    fixture.file->stop_at = fixture.file->n_reads + 40;
    g_assert_false(qimg_copy_run(copy, &error));
    test_util_check_error(&error, QIMG_ERROR_CANCELED, "the copy was stopped");
    g_assert_cmpstr(fixture.log->str, ==, wanted);
    g_assert_true(qimg_copy_get_report(copy)->is_resumable);
    g_assert_cmpuint(qimg_copy_get_report(copy)->done_bytes, >, 2 * MIB);
    qimg_copy_free(copy);
    fixture.file->stopped_copy = NULL;

    g_string_truncate(fixture.log, 0);
    fixture.options.rescue = FALSE;
    copy = qimg_copy_new(fixture.image, &fixture.options);
    g_assert_false(qimg_copy_run(copy, &error));
    test_util_check_error(&error, QIMG_ERROR_REFUSED,
                          "the copy has gone over ranges that cannot be read (go on with "
                          "--rescue --resume)");
    qimg_copy_free(copy);

    fixture.options.rescue = TRUE;
    copy = qimg_copy_new(fixture.image, &fixture.options);
    qimg_copy_run(copy, &error);
    g_assert_no_error(error);
    check_copy(&fixture);
    g_assert_cmpstr(fixture.log->str, ==,
                    "1049600+512 Input/output error, 31457280+512 Input/output error");
    g_assert_cmpuint(qimg_copy_get_report(copy)->resumed_bytes, >, 2 * MIB);
    qimg_copy_free(copy);
    fixture_close(&fixture);
}

/* Stopped at any read, a copy is resumed to the right end, with the right digest. */
static void
test_stop(void)
{
    g_autofree char *digest = NULL;
    unsigned n_reads = 0;
    Fixture fixture;

    fixture_open(&fixture, 12 * MIB + 7);
    fixture.options.digests = 1u << QIMG_DIGEST_MD5;
    for (unsigned stop_at = 0; stop_at <= n_reads; stop_at++) {
        GError *error = NULL;
        QimgCopy *copy = qimg_copy_new(fixture.image, &fixture.options);
        bool is_complete;

        fixture.file->n_reads = 0;
        fixture.file->stopped_copy = stop_at > 0 ? copy : NULL;
        fixture.file->stop_at = stop_at - 1;
        fixture.options.resume = stop_at > 0;
        is_complete = qimg_copy_run(copy, &error);
        if (is_complete) {
            const char *got = qimg_copy_get_digest(copy, QIMG_DIGEST_MD5);

            if (!digest)
                digest = g_strdup(got);
            g_assert_cmpstr(got, ==, digest);
            check_copy(&fixture);
            unlink(fixture.target_path);
        } else {
            test_util_check_error(&error, QIMG_ERROR_CANCELED, "the copy was stopped");
            g_assert_cmpint(qimg_copy_get_report(copy)->is_resumable, ==,
                            has_journal(&fixture));
        }
        n_reads = MAX(n_reads, fixture.file->n_reads);
        qimg_copy_free(copy);
        if (stop_at == n_reads && !is_complete) { /* the last one must be */
            fixture.file->stopped_copy = NULL;
            fixture.options.resume = TRUE;
            copy = qimg_copy_new(fixture.image, &fixture.options);
            qimg_copy_run(copy, &error);
            g_assert_no_error(error);
            g_assert_cmpstr(qimg_copy_get_digest(copy, QIMG_DIGEST_MD5), ==, digest);
            check_copy(&fixture);
            qimg_copy_free(copy);
        }
    }
    g_assert_cmpuint(n_reads, >, 12);
    fixture_close(&fixture);
}

/* A difference in the read-back ends the copy, which reports no digest and leaves
 * nothing. */
static void
test_verify(void)
{
    for (unsigned is_different = 0; is_different < 2; is_different++) {
        QimgCopy *copy;
        GError *error = NULL;
        Fixture fixture;

        fixture_open(&fixture, 5 * MIB + 100);
        fixture.file->second_offset = is_different ? 3 * MIB + 5 : 0;
        fixture.options.verify = TRUE;
        fixture.options.digests = 1u << QIMG_DIGEST_MD5;
        copy = qimg_copy_new(fixture.image, &fixture.options);
        if (is_different) {
            g_assert_false(qimg_copy_run(copy, &error));
            test_util_check_error(&error, QIMG_ERROR_FAILED,
                                  "the data read back at offset 3145733 differ from the "
                                  "disk (the medium may be failing)");
            g_assert_null(qimg_copy_get_digest(copy, QIMG_DIGEST_MD5));
            g_assert_true(qimg_copy_get_report(copy)->is_target_at_fault);
            g_assert_false(g_file_test(fixture.target_path, G_FILE_TEST_EXISTS));
            g_assert_false(has_journal(&fixture));
        } else {
            qimg_copy_run(copy, &error);
            g_assert_no_error(error);
            check_copy(&fixture);
        }
        qimg_copy_free(copy);
        fixture_close(&fixture);
    }
}

/* ---- the journal ---- */

/* The lines of @text, each with its checksum; "!" before one: a wrong one. */
static char *
with_sums(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    GString *out = g_string_new(NULL);

    for (char **line = lines; *line && **line; line++) {
        const char *json = **line == '!' ? *line + 1 : *line;
        g_autofree char *sum =
            g_compute_checksum_for_string(G_CHECKSUM_SHA256, *line, -1);

        g_string_append_printf(out, "%s %.16s\n", json, sum);
    }
    return g_string_free(out, FALSE);
}

#define HEADER                                                                           \
    "{\"qimg-copy\": 2, \"source\": {\"size\": 8}, \"target\": {\"is-device\": false, "  \
    "\"inode\": 1, \"size\": 8}}\n"

/* A file that is not our journal is refused, and nothing is written. */
static void
test_bad_journals(void)
{
    static const struct {
        const char *text; /* lines without sums, if it begins with { and has \n */
        const char *what; /* NULL: invalid */
    } rows[] = {
        {"", NULL},
        {"{", NULL},
        {"{\n \"version\": 1,\n \"offset\": 0\n}", NULL},
        {"[]", "foreign"},
        {"{\"version\": 1}", "foreign"},
        {"!" HEADER, NULL},
        {"{\"qimg-copy\": 3, \"source\": {\"size\": 8}, \"target\": {\"is-device\": "
         "false, \"inode\": 1, \"size\": 8}}\n",
         NULL},
        {"{\"qimg-copy\": 2, \"source\": {\"size\": 9}, \"target\": {\"is-device\": "
         "false, \"inode\": 1, \"size\": 8}}\n",
         NULL},
        {"{\"qimg-copy\": 2, \"source\": [], \"target\": {\"is-device\": false, "
         "\"inode\": 1, \"size\": 8}}\n",
         NULL},
        {HEADER "{\"offset\": -1, \"data-bytes\": 0, \"unreadable\": []}\n", NULL},
        {HEADER "{\"offset\": 9, \"data-bytes\": 0, \"unreadable\": []}\n", NULL},
        {HEADER "{\"offset\": 8, \"data-bytes\": 9, \"unreadable\": []}\n", NULL},
        {HEADER "{\"offset\": 8, \"data-bytes\": 0, \"unreadable\": {}}\n", NULL},
        {HEADER "{\"offset\": 8, \"data-bytes\": 0, \"unreadable\": [{\"start\": 1, "
                "\"length\": 0, \"reason\": \"\"}]}\n",
         NULL},
        {HEADER "{\"offset\": 8, \"data-bytes\": 0, \"unreadable\": [{\"start\": 1, "
                "\"length\": 9223372036854775807, \"reason\": \"\"}]}\n",
         NULL},
        {HEADER "{\"offset\": 8, \"data-bytes\": 0, \"unreadable\": [{\"start\": 1, "
                "\"length\": 1, \"reason\": \"\\u001b[31m\"}]}\n",
         NULL},
        {HEADER "{\"offset\": 8, \"data-bytes\": 0, \"unreadable\": []}\n"
                "{\"offset\": 7, \"data-bytes\": 0, \"unreadable\": []}\n",
         NULL},
        {HEADER, "source"},
        /* A line that was being written when the machine ended does not count. */
        {HEADER "!{\"offset\": -1, \"data-bytes\": 0, \"unreadable\": []}\n", "source"},
    };
    Fixture fixture;

    fixture_open(&fixture, MIB);
    fixture.options.resume = TRUE;
    g_free(test_util_write(fixture.dir, "out", "mine", 4));
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *content = NULL;
        g_autoptr(QimgCopy) copy = qimg_copy_new(fixture.image, &fixture.options);
        g_autofree char *text = g_str_has_suffix(rows[i].text, "}}\n") ||
                                        g_str_has_suffix(rows[i].text, "]}\n") ||
                                        g_str_has_suffix(rows[i].text, "{}}\n")
                                    ? with_sums(rows[i].text)
                                    : g_strdup(rows[i].text);
        GError *error = NULL;

        g_test_message("%s", rows[i].text);
        g_free(test_util_write(fixture.dir, "out.qimg-resume", text, strlen(text)));
        g_assert_false(qimg_copy_run(copy, &error));
        if (!rows[i].what)
            test_util_check_error(
                &error, QIMG_ERROR_INVALID,
                "the copy cannot go on: its journal \"out.qimg-resume\" makes no sense "
                "(start again with --force)");
        else if (strcmp(rows[i].what, "foreign") == 0)
            test_util_check_error(
                &error, QIMG_ERROR_REFUSED,
                "something else than a copy's journal has the name \"out.qimg-resume\" "
                "(move it away, or name another file)");
        else
            test_util_check_error(&error, QIMG_ERROR_REFUSED,
                                  "the copy cannot go on: it was begun with \"\" (start "
                                  "again with --force)");
        g_assert_true(g_file_get_contents(fixture.target_path, &content, NULL, NULL));
        g_assert_cmpstr(content, ==, "mine");
    }
    fixture_close(&fixture);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/copy-out/plan", test_plan);
    g_test_add_func("/copy-out/zeros", test_zeros);
    g_test_add_func("/copy-out/range-log", test_range_log);
    g_test_add_func("/copy-out/range-log-full", test_range_log_full);
    g_test_add_func("/copy-out/digests", test_digests);
    g_test_add_func("/copy-out/rescue", test_rescue);
    g_test_add_func("/copy-out/rescue-later", test_rescue_later);
    g_test_add_func("/copy-out/stop", test_stop);
    g_test_add_func("/copy-out/verify", test_verify);
    g_test_add_func("/copy-out/bad-journals", test_bad_journals);
    return g_test_run();
}
