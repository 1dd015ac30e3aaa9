/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qimg copy-out: copies a disk to a raw file, with digests, for evidence. Digests and
 * JSON go to standard output, everything else to standard error; if the copy itself goes
 * to standard output, all text goes to standard error. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "command-line.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"

/* The values of the options. */
typedef struct {
    gint n_threads;
    char *sparse;
    gboolean force;
    gboolean resume;
    gboolean rescue;
    char *log_path;
    char **hashes;
    gboolean no_hash_files;
    char *snapshot;
    gboolean verify;
    gboolean vmstate;
    gint layer;
    char *bitmap;
} Settings;

static Settings settings = {.layer = -1};

static const GOptionEntry entries[] = {
    {"bitmap", 0, 0, G_OPTION_ARG_FILENAME, &settings.bitmap,
     "copy only the parts that are dirty in the bitmap NAME to the earlier copy OUT",
     "NAME"},
    {"force", 0, 0, G_OPTION_ARG_NONE, &settings.force,
     "replace OUT where it is a file, at the end", NULL},
    {"hash", 0, 0, G_OPTION_ARG_STRING_ARRAY, &settings.hashes,
     "print digests of the disk and of the files: sha256, sha1, md5", "NAME,..."},
    {"layer", 0, 0, G_OPTION_ARG_INT, &settings.layer,
     "copy what the chain shows from file N down (1: without IMAGE)", "N"},
    {"log", 0, 0, G_OPTION_ARG_FILENAME, &settings.log_path,
     "list the ranges that cannot be read in FILE", "FILE"},
    {"no-hash-files", 0, 0, G_OPTION_ARG_NONE, &settings.no_hash_files,
     "no digests of the chain's files", NULL},
    {"rescue", 0, 0, G_OPTION_ARG_NONE, &settings.rescue,
     "write zeros for unreadable ranges, and continue", NULL},
    {"resume", 0, 0, G_OPTION_ARG_NONE, &settings.resume,
     "go on with a copy that was interrupted", NULL},
    {"snapshot", 0, 0, G_OPTION_ARG_FILENAME, &settings.snapshot,
     "copy the disk as the snapshot has it", "NAME|ID"},
    {"sparse", 0, 0, G_OPTION_ARG_STRING, &settings.sparse,
     "no: write zeros, too (yes: leave holes)", "yes|no"},
    {"threads", 0, 0, G_OPTION_ARG_INT, &settings.n_threads,
     "how many threads read and write (one for each core)", "N"},
    {"verify", 0, 0, G_OPTION_ARG_NONE, &settings.verify,
     "read OUT back from its medium at the end, and compare", NULL},
    {"vmstate", 0, 0, G_OPTION_ARG_NONE, &settings.vmstate,
     "copy the VM state of the snapshot instead of its disk", NULL},
    {0},
};

static const CommandSpec spec = {
    .operands = "IMAGE OUT",
    .summary = "Copies a disk to OUT: a file that is made, a block device, a FIFO, or - "
               "for standard output.\nWith --bitmap, OUT is an earlier copy, or is left "
               "out to list the dirty parts with --output=json.",
    .min_operands = 1,
    .max_operands = 2,
    .has_output = true,
    .opens_image = true,
    .entries = entries,
};

/* ---- options ---- */

/* Adds the digests of a list to *@kinds. */
static bool
parse_hashes(const char *list, unsigned *kinds)
{
    g_auto(GStrv) names = g_strsplit(list, ",", -1);

    bool is_good = *list != '\0';

    for (char **name = names; *name && is_good; name++) {
        QimgDigest digest = QIMG_DIGEST_MD5;

        is_good = qimg_digest_find(*name, &digest);
        *kinds |= is_good ? 1u << digest : 0;
    }
    if (!is_good)
        fprintf(stderr, "qimg: --hash=%s: give sha256, sha1 or md5\n", list);
    return is_good;
}

static bool
parse_settings(QimgCopyOptions *options, bool has_target, bool wants_json)
{
    const char *wrong = NULL;

    options->overwrite = settings.force;
    options->resume = settings.resume;
    options->rescue = settings.rescue;
    options->verify = settings.verify;
    options->hash_files = !settings.no_hash_files;
    options->n_threads = (unsigned)settings.n_threads;
    for (char **list = settings.hashes; list && *list; list++)
        if (!parse_hashes(*list, &options->digests))
            return false;
    if (settings.sparse && strcmp(settings.sparse, "no") == 0)
        options->keep_zeros = TRUE;
    else if (settings.sparse && strcmp(settings.sparse, "yes") != 0)
        wrong = "--sparse: give yes or no";
    if (settings.n_threads < 0)
        wrong = "--threads: give a number of threads";
    if (settings.force && settings.resume)
        wrong = "give one of --force and --resume";
    if (settings.vmstate && !settings.snapshot)
        wrong = "--vmstate: give --snapshot=NAME, too";
    if (settings.layer >= 0 && settings.snapshot)
        wrong = "give one of --layer and --snapshot";
    if (settings.log_path && !settings.rescue)
        wrong = "--log: give --rescue, too";
    if (settings.layer < -1)
        wrong = "--layer: give the number of a file of the chain, 0 is IMAGE";
    if (options->target_path == NULL && settings.resume)
        wrong = "--resume: a copy to standard output cannot go on";
    if (options->target_path == NULL && settings.verify)
        wrong = "--verify: standard output cannot be read back";
    if (settings.bitmap && (settings.snapshot || settings.force || settings.resume ||
                            settings.rescue || settings.verify || settings.hashes))
        wrong = "--bitmap: does not go with --snapshot, --force, --resume, --rescue, "
                "--verify or --hash";
    if (settings.bitmap && has_target && !options->target_path)
        wrong = "--bitmap: an earlier copy is not on standard output";
    if (!has_target && (!settings.bitmap || !wants_json))
        wrong = "give IMAGE and OUT, or --bitmap, --output=json and IMAGE";
    if (wrong)
        fprintf(stderr, "qimg: %s\n", wrong);
    return !wrong;
}

/* ---- the source ---- */

/* Opens the snapshot @wanted, or its VM state, and sets *@id_out (free with g_free). */
static QimgImage *
copy_open_snapshot(QimgImage *image, const char *wanted, bool vmstate, char **id_out,
                   GError **error)
{
    g_autoptr(QimgSnapshots) list = qimg_image_get_snapshots(image);
    const QimgSnapshot *found = qimg_snapshots_find(list, wanted, error);

    if (!found)
        return NULL;
    *id_out = g_strdup(found->id);
    return vmstate ? qimg_image_open_vmstate(image, found->serial, error)
                   : qimg_image_open_snapshot(image, found->serial, error);
}

/* Opens the part of @image to be copied; sets *@name_out, its name for the journal. */
static QimgImage *
open_source(QimgImage *image, char **name_out, GError **error)
{
    g_autofree char *id = NULL;
    QimgImage *source;

    if (settings.snapshot) {
        source =
            copy_open_snapshot(image, settings.snapshot, settings.vmstate, &id, error);
        if (source)
            *name_out =
                g_strdup_printf("%s %s", settings.vmstate ? "vmstate" : "snapshot", id);
        return source;
    }
    /* A second handle even for the disk itself: the caller closes both. */
    source = qimg_image_open_layer(image, (unsigned)MAX(settings.layer, 0), error);
    *name_out = g_strdup("disk");
    return source;
}

/* ---- messages ---- */

/* The digest @kind of a file of the chain, or with OF_COPY of the copy. */
#define OF_COPY UINT_MAX

static const char *
digest_of(const QimgCopy *copy, unsigned file, unsigned kind)
{
    return file == OF_COPY ? qimg_copy_get_digest(copy, (QimgDigest)kind)
                           : qimg_copy_get_file_digest(copy, file, (QimgDigest)kind);
}

/* @path in the way of sha256sum(1), so that its -c finds the file: a line whose name has
 * a line feed, a carriage return or a backslash begins with a backslash. */
static char *
checksum_name(const char *path, const char **start_out)
{
    GString *name = g_string_new(NULL);

    *start_out = strpbrk(path, "\n\r\\") ? "\\" : "";
    for (const char *c = path; *c; c++) {
        if (*c == '\n' || *c == '\r' || *c == '\\')
            g_string_append_printf(name, "\\%c",
                                   *c == '\n'   ? 'n'
                                   : *c == '\r' ? 'r'
                                                : '\\');
        else
            g_string_append_c(name, *c);
    }
    return g_string_free(name, FALSE);
}

static void
print_digests(FILE *out, const char *path, const QimgCopy *copy, unsigned file)
{
    const char *name, *start = "";
    /* Other control characters could drive a terminal. */
    g_autofree char *shown =
        isatty(fileno(out)) ? output_printable(path) : checksum_name(path, &start);

    for (unsigned i = 0; (name = qimg_digest_get_name((QimgDigest)i)); i++) {
        g_autofree char *upper = g_ascii_strup(name, -1);

        if (digest_of(copy, file, i))
            fprintf(out, "%s%s (%s) = %s\n", start, upper, shown,
                    digest_of(copy, file, i));
    }
}

static json_t *
digests_json(const QimgCopy *copy, unsigned file)
{
    json_t *object = json_object();
    const char *name;

    for (unsigned i = 0; (name = qimg_digest_get_name((QimgDigest)i)); i++)
        if (digest_of(copy, file, i))
            json_object_set_new(object, name, json_string(digest_of(copy, file, i)));
    return object;
}

static json_t *
printable_json(const char *text)
{
    g_autofree char *shown = output_printable(text);

    return json_string(shown);
}

/* Whether some of the data were encrypted, and are plain in the copy. */
static bool
is_decrypted(const QimgImage *image)
{
    for (unsigned i = 0; i < qimg_image_get_n_layers(image); i++)
        if (qimg_image_get_layer_flags(image, i) & QIMG_LAYER_ENCRYPTED)
            return true;
    return false;
}

static void
print_decrypted(const char *image_path, const QimgImage *image)
{
    if (is_decrypted(image))
        fprintf(stderr, "qimg: %s: is encrypted; the copy has its data as plain bytes\n",
                image_path);
}

static void
copy_print_json(FILE *out, const QimgImage *source, const QimgCopy *copy, double seconds)
{
    const QimgCopyReport *report = qimg_copy_get_report(copy);
    unsigned n_files = qimg_copy_get_n_files(copy);
    json_t *root = json_object();
    json_t *files = json_array(), *unreadable = json_array();
    char *text;

    json_object_set_new(root, "bytes", json_integer((json_int_t)report->size_bytes));
    json_object_set_new(root, "data-bytes", json_integer((json_int_t)report->data_bytes));
    json_object_set_new(root, "resumed-bytes",
                        json_integer((json_int_t)report->resumed_bytes));
    json_object_set_new(root, "seconds", json_real(seconds));
    json_object_set_new(root, "decrypted", json_boolean(is_decrypted(source)));
    json_object_set_new(root, "digests", digests_json(copy, OF_COPY));
    for (unsigned i = 0; i < n_files; i++) {
        const char *error = qimg_copy_get_file_error(copy, i);
        json_t *file = json_object();

        json_object_set_new(file, "filename",
                            printable_json(qimg_copy_get_file_path(copy, i)));
        json_object_set_new(file, "digests", digests_json(copy, i));
        if (error)
            json_object_set_new(file, "error", printable_json(error));
        json_array_append_new(files, file);
    }
    json_object_set_new(root, "files", files);
    for (unsigned i = 0; i < report->n_listed; i++) {
        const QimgUnreadable *listed = qimg_copy_get_unreadable(copy, i);
        json_t *range = json_object();

        json_object_set_new(range, "start",
                            json_integer((json_int_t)listed->guest_offset));
        json_object_set_new(range, "length",
                            json_integer((json_int_t)listed->length_bytes));
        json_object_set_new(range, "reason", printable_json(listed->reason));
        json_array_append_new(unreadable, range);
    }
    json_object_set_new(root, "unreadable", unreadable);
    json_object_set_new(root, "unreadable-ranges",
                        json_integer((json_int_t)report->n_unreadable));
    json_object_set_new(root, "unreadable-bytes",
                        json_integer((json_int_t)report->unreadable_bytes));
    text = json_dumps(root, JSON_INDENT(2));
    fprintf(out, "%s\n", text ? text : "{}");
    free(text);
    json_decref(root);
}

static void
print_summary(const QimgCopyReport *report, double seconds)
{
    g_autofree char *size = output_short_size(report->size_bytes);
    g_autofree char *data = output_short_size(report->data_bytes);
    g_autofree char *rate =
        output_short_size((guint64)((double)(report->size_bytes - report->resumed_bytes) /
                                    MAX(seconds, 1e-3)));

    fprintf(stderr, "copied %s, %s of data, in %.1f s, %s/s\n", size, data, seconds,
            rate);
}

/* A summary of the unreadable ranges. */
static void
print_losses(const char *image_path, const QimgCopy *copy)
{
    const QimgCopyReport *report = qimg_copy_get_report(copy);

    if (report->n_unreadable > 0)
        fprintf(stderr,
                "qimg: %s: %" PRIu64 " bytes in %" PRIu64
                " range%s cannot be read and are "
                "zeros in the copy%s\n",
                image_path, report->unreadable_bytes, report->n_unreadable,
                report->n_unreadable == 1 ? "" : "s",
                settings.log_path ? "" : " (--log=FILE lists them)");
    for (unsigned i = 0; i < qimg_copy_get_n_files(copy); i++)
        if (qimg_copy_get_file_error(copy, i))
            fprintf(stderr, "qimg: %s: has no digest: %s\n",
                    qimg_copy_get_file_path(copy, i), qimg_copy_get_file_error(copy, i));
}

/* As output_failure, with advice on the next step. */
static int
print_failure(const char *image_path, const char *target_path,
              const QimgCopyReport *report, const GError *error)
{
    fprintf(stderr, "qimg: %s: %s", report->is_target_at_fault ? target_path : image_path,
            error->message);
    if (report->is_resumable)
        fprintf(stderr, "; %" PRIu64 " of %" PRIu64 " bytes are copied, --resume goes on",
                report->done_bytes, report->size_bytes);
    fputc('\n', stderr);
    return EXIT_FAILED;
}

/* ---- the log ---- */

/* The log is opened after all other checks; its old content is deleted when the first
 * line is written, or the copy is complete. */
typedef struct {
    FILE *file; /* NULL: no log */
    bool is_new;
    bool is_cut;
} Log;

/* Replaces an existing log only if OUT may be replaced, too, and never if it is evidence,
 * or a file that the copy itself writes. */
static bool
open_log(Log *log, const QimgCopy *copy)
{
    bool may_replace = settings.force || settings.resume;
    const char *path = settings.log_path;
    int fd;

    if (qimg_copy_uses_path(copy, path)) {
        fprintf(stderr,
                "qimg: %s: is a file of the image's chain, or one that the copy writes "
                "(name another file for --log)\n",
                path);
        return false;
    }
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0666);
    log->is_new = fd >= 0;
    if (fd < 0 && errno == EEXIST && may_replace)
        fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    else if (fd < 0 && errno == EEXIST) {
        fprintf(stderr,
                "qimg: %s: exists (name another file for --log, or replace it with "
                "--force)\n",
                path);
        return false;
    }
    log->is_cut = log->is_new;
    log->file = fd < 0 ? NULL : fdopen(fd, "w");
    if (!log->file)
        fprintf(stderr, "qimg: %s: cannot be made: %s\n", path, g_strerror(errno));
    return log->file != NULL;
}

/* Deletes the old content. */
static void
cut_log(Log *log)
{
    struct stat status;
    int fd = fileno(log->file);

    if (!log->is_cut && fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
        ftruncate(fd, 0) < 0)
        fprintf(stderr, "qimg: %s: keeps old lines: %s\n", settings.log_path,
                g_strerror(errno));
    log->is_cut = true;
}

/* Removes the log if this run created it. */
static void
undo_log(const Log *log)
{
    struct stat own, named;

    if (log->is_new && fstat(fileno(log->file), &own) == 0 &&
        lstat(settings.log_path, &named) == 0 && own.st_dev == named.st_dev &&
        own.st_ino == named.st_ino)
        unlink(settings.log_path);
}

/* @is_kept: the log belongs to a copy that is complete or can be resumed. */
static bool
close_log(Log *log, bool is_kept)
{
    bool is_good = true;

    if (!log->file)
        return true;
    if (!is_kept)
        undo_log(log);
    else
        cut_log(log);
    is_good = !ferror(log->file) && fflush(log->file) == 0;
    /* A pipe cannot be synced. */
    is_good = is_good && (fsync(fileno(log->file)) == 0 || errno == EINVAL);
    is_good = fclose(log->file) == 0 && is_good;
    if (!is_good)
        fprintf(stderr, "qimg: %s: cannot be written: %s\n", settings.log_path,
                g_strerror(errno));
    return is_good;
}

/* QimgCopyOptions.on_unreadable. */
static void
on_unreadable(const QimgUnreadable *range, void *user)
{
    Log *log = user;

    if (!log->file)
        return;
    if (!log->is_cut)
        cut_log(log);
    fprintf(log->file, "%" PRIu64 " %" PRIu64 " %s\n", range->guest_offset,
            range->length_bytes, range->reason);
}

/* ---- the copy ---- */

static void
stop_copy(void *copy)
{
    qimg_copy_stop(copy);
}

/* Damage is reported as ranges; the library's own warnings would repeat it. */
static void
drop_message(const gchar *domain, GLogLevelFlags level, const gchar *message,
             gpointer user)
{
    (void)domain;
    (void)level;
    (void)message;
    (void)user;
}

static int
report_success(const CommandLine *line, FILE *out, const QimgImage *source,
               const QimgCopy *copy, double seconds)
{
    const QimgCopyReport *report = qimg_copy_get_report(copy);
    unsigned n_files = qimg_copy_get_n_files(copy);
    const char *image_path = line->operands[0];

    if (line->json) {
        copy_print_json(out, source, copy, seconds);
    } else {
        print_digests(out, line->operands[1], copy, OF_COPY);
        for (unsigned i = 0; i < n_files; i++)
            print_digests(out, qimg_copy_get_file_path(copy, i), copy, i);
        print_summary(report, seconds);
        print_decrypted(image_path, source);
    }
    if (fflush(out) != 0) {
        fprintf(stderr, "qimg: standard output: %s\n", g_strerror(errno));
        return EXIT_FAILED;
    }
    print_losses(image_path, copy);
    for (unsigned i = 0; i < n_files; i++)
        if (qimg_copy_get_file_error(copy, i))
            return EXIT_UNREADABLE;
    return report->n_unreadable > 0 ? EXIT_UNREADABLE : EXIT_GOOD;
}

static int
run_copy(QimgImage *source, const CommandLine *line, QimgCopyOptions *options)
{
    Log log = {0};
    g_autoptr(QimgCopy) copy = NULL;
    const QimgCopyReport *report;
    gint64 begin_us = g_get_monotonic_time();
    g_autoptr(GError) error = NULL;
    double seconds;
    bool is_good;

    options->user = &log;
    copy = qimg_copy_new(source, options);
    report = qimg_copy_get_report(copy);
    g_log_set_handler("qimg", G_LOG_LEVEL_WARNING, drop_message, NULL);
    interrupt_begin(stop_copy, copy);
    is_good = qimg_copy_prepare(copy, &error);
    if (is_good && settings.log_path && !open_log(&log, copy)) {
        interrupt_end();
        return EXIT_FAILED;
    }
    if (is_good) {
        progress_begin("copied", true, false);
        is_good = qimg_copy_run(copy, &error);
        progress_end();
    }
    interrupt_end();
    seconds = (double)(g_get_monotonic_time() - begin_us) / G_USEC_PER_SEC;
    if (!close_log(&log, is_good || report->is_resumable) && is_good)
        return EXIT_FAILED;
    if (!is_good)
        return print_failure(line->operands[0], line->operands[1], report, error);
    return report_success(line, options->target_path ? stdout : stderr, source, copy,
                          seconds);
}

/* ---- incremental copies ---- */

/* Prints the dirty extents as a list. */
static bool
print_dirty(QimgImage *source, GError **error)
{
    g_autoptr(QimgBitmaps) list = qimg_image_read_bitmaps(source, error);
    g_autoptr(QimgBitmapReader) reader = NULL;
    QimgBitmapExtent extent = {.struct_bytes = sizeof extent};
    bool is_first = true;
    unsigned place;

    if (!list || !qimg_bitmaps_find(list, settings.bitmap, &place, error))
        return false;
    reader = qimg_bitmap_reader_new(source, list, place);
    for (uint64_t at = 0; at < qimg_bitmaps_get(list, place)->size_bytes;
         at += extent.length_bytes) {
        int err = qimg_bitmap_reader_map(reader, at, &extent);

        if (err) {
            const char *reason = qimg_bitmap_get_reason(qimg_bitmaps_get(list, place));

            g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED,
                        "the bits of the bitmap \"%s\" cannot be told: %s",
                        settings.bitmap, reason ? reason : g_strerror(-err));
            return false;
        }
        if (!extent.is_dirty)
            continue;
        printf("%s\n    {\"start\": %" PRIu64 ", \"length\": %" PRIu64 "}",
               is_first ? "[" : ",", extent.guest_offset, extent.length_bytes);
        is_first = false;
    }
    printf(is_first ? "[]\n" : "\n]\n");
    return true;
}

static int
copy_dirty(QimgImage *source, const CommandLine *line, QimgCopyOptions *options)
{
    QimgCopyReport report = {.struct_bytes = sizeof report};
    gint64 begin_us = g_get_monotonic_time();
    g_autoptr(GError) error = NULL;
    bool is_good = true;

    if (line->n_operands > 1) {
        interrupt_begin(NULL, NULL); /* progress_update ends the copy */
        progress_begin("copied", true, false);
        is_good = qimg_copy_dirty(source, settings.bitmap, options, &report, &error);
        progress_end();
        interrupt_end();
    }
    if (is_good && line->json)
        is_good = print_dirty(source, &error);
    if (!is_good)
        return output_failure(line->operands[report.is_target_at_fault ? 1 : 0], error);
    if (!line->json) {
        report.size_bytes = report.done_bytes;
        print_summary(&report,
                      (double)(g_get_monotonic_time() - begin_us) / G_USEC_PER_SEC);
        print_decrypted(line->operands[0], source);
    }
    if (fflush(stdout) != 0) {
        fprintf(stderr, "qimg: standard output: %s\n", g_strerror(errno));
        return EXIT_FAILED;
    }
    return EXIT_GOOD;
}

/* Whether @path is another name of the pipe on standard output. */
static bool
is_standard_output(const char *path)
{
    struct stat named, own;

    return stat(path, &named) == 0 && fstat(STDOUT_FILENO, &own) == 0 &&
           S_ISFIFO(named.st_mode) && named.st_dev == own.st_dev &&
           named.st_ino == own.st_ino;
}

static int
open_and_copy(const CommandLine *line)
{
    const char *target_path = line->n_operands > 1 ? line->operands[1] : NULL;
    QimgCopyOptions options = {
        .struct_bytes = sizeof options,
        .target_path = !target_path || strcmp(target_path, "-") == 0 ||
                               is_standard_output(target_path)
                           ? NULL
                           : target_path,
        .stream_fd = STDOUT_FILENO,
        .on_unreadable = on_unreadable,
        .on_progress = progress_update,
    };
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgImage) image = NULL;
    g_autoptr(QimgImage) source = NULL;
    g_autofree char *source_name = NULL;

    if (!parse_settings(&options, target_path != NULL, line->json))
        return EXIT_FAILED;
    if (target_path && !options.target_path && isatty(STDOUT_FILENO) == 1) {
        fprintf(stderr, "qimg: standard output is a terminal (redirect it, or name a "
                        "file)\n");
        return EXIT_FAILED;
    }
    /* Exceeding the file size limit becomes an error like others. */
    signal(SIGXFSZ, SIG_IGN);
    image = qimg_image_open(line->operands[0], line->image_options, &error);
    if (!image)
        return output_failure(line->operands[0], error);
    output_warnings(image);
    source = open_source(image, &source_name, &error);
    if (!source)
        return output_failure(line->operands[0], error);
    options.source_name = source_name;
    if (settings.bitmap)
        return copy_dirty(source, line, &options);
    return run_copy(source, line, &options);
}

int
cmd_copy_out(int argc, char **argv)
{
    CommandLine line;
    int exit_code;

    if (!command_line_parse(&spec, argc, argv, &line, &exit_code))
        return exit_code;
    exit_code = open_and_copy(&line);
    command_line_clear(&line);
    g_clear_pointer(&settings.sparse, g_free);
    g_clear_pointer(&settings.log_path, g_free);
    g_clear_pointer(&settings.hashes, g_strfreev);
    g_clear_pointer(&settings.snapshot, g_free);
    g_clear_pointer(&settings.bitmap, g_free);
    return exit_code;
}
