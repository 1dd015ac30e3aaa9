/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Parses the command line: getopt_long handles long options, the library splits -o lists;
 * both spellings use one table. */
#include "mount/options.h"

#include "mount/option-habits.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_IDLE_S 10u
#define MAX_IDLE_S     1000000u

typedef struct OptionRow OptionRow;

struct OptionRow {
    const char *name;
    const char *argument; /* its value in the help; NULL: none; in brackets: optional */
    const char *help;     /* NULL: hidden */
    bool (*set)(Options *options, const OptionRow *row, const char *value,
                GError **error);
    const char *text; /* for the setters below */
};

static bool usage_error(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static bool
usage_error(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_propagate_error(error,
                      g_error_new_valist(QIMG_ERROR, QIMG_ERROR_USAGE, format, args));
    va_end(args);
    return false;
}

/* An option for the library. */
static bool
set_image(Options *o, const OptionRow *row, const char *value, GError **error)
{
    return qimg_options_set(o->image_options, row->name, value, error);
}

/* An option for libfuse or the kernel. */
static bool
set_fuse(Options *o, const OptionRow *row, const char *value, GError **error)
{
    (void)error;
    g_ptr_array_add(o->fuse_options, value ? g_strdup_printf("%s=%s", row->name, value)
                                           : g_strdup(row->name));
    if (strcmp(row->name, "allow_other") == 0 || strcmp(row->name, "allow_root") == 0)
        o->allow_other = true;
    return true;
}

/* ro and rw: the last one counts, as in mount(8). */
static bool
set_access(Options *o, const OptionRow *row, const char *value, GError **error)
{
    (void)value, (void)error;
    o->access = row->text;
    return true;
}

static bool
mount_set_cow(Options *o, const OptionRow *row, const char *value, GError **error)
{
    if (value && *value == '\0')
        return usage_error(error, "%s=: needs the name of a file, or no \"=\"",
                           row->name);
    o->is_cow = true;
    g_free(o->cow_file);
    o->cow_file = g_strdup(value);
    return true;
}

static bool
mount_set_nolock(Options *o, const OptionRow *row, const char *value, GError **error)
{
    o->no_lock = true;
    return set_image(o, row, value, error);
}

static bool
set_nopartitions(Options *o, const OptionRow *row, const char *value, GError **error)
{
    (void)row, (void)value, (void)error;
    o->no_partitions = true;
    return true;
}

static bool
set_nosandbox(Options *o, const OptionRow *row, const char *value, GError **error)
{
    (void)row, (void)value, (void)error;
    o->no_sandbox = true;
    return true;
}

static bool
set_nothing(Options *o, const OptionRow *row, const char *value, GError **error)
{
    (void)o, (void)row, (void)value, (void)error;
    return true;
}

static bool
set_unsupported(Options *o, const OptionRow *row, const char *value, GError **error)
{
    (void)o, (void)value;
    return usage_error(error, "-o %s: %s", row->name, row->text);
}

static bool
parse_number(const OptionRow *row, const char *value, int base, guint64 min, guint64 max,
             guint64 *out, GError **error)
{
    if (g_ascii_string_to_unsigned(value, (guint)base, min, max, out, NULL))
        return true;
    if (base == 8)
        return usage_error(
            error, "%s=%s: not a number from 0 to %" G_GINT64_MODIFIER "o in octal",
            row->name, value, max);
    return usage_error(
        error, "%s=%s: not a number from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT,
        row->name, value, min, max);
}

static bool
mount_set_threads(Options *o, const OptionRow *row, const char *value, GError **error)
{
    guint64 n = 0;

    if (!qimg_options_set(o->image_options, row->name, value, error) ||
        !parse_number(row, value, 10, 1, 1024, &n, error))
        return false;
    o->n_threads = (unsigned)n;
    return true;
}

static bool
set_uid(Options *o, const OptionRow *row, const char *value, GError **error)
{
    guint64 n = 0;

    if (!parse_number(row, value, 10, 0, G_MAXUINT32 - 1, &n, error))
        return false;
    o->uid = (uid_t)n;
    return true;
}

static bool
set_gid(Options *o, const OptionRow *row, const char *value, GError **error)
{
    guint64 n = 0;

    if (!parse_number(row, value, 10, 0, G_MAXUINT32 - 1, &n, error))
        return false;
    o->gid = (gid_t)n;
    return true;
}

static bool
set_umask(Options *o, const OptionRow *row, const char *value, GError **error)
{
    guint64 n = 0;

    if (!parse_number(row, value, 8, 0, 0777, &n, error))
        return false;
    o->umask = (mode_t)n;
    return true;
}

static bool
set_max_read(Options *o, const OptionRow *row, const char *value, GError **error)
{
    guint64 n = 0;

    if (!parse_number(row, value, 10, 4096, 1 << 20, &n, error))
        return false;
    o->max_read_bytes = (unsigned)n;
    return set_fuse(o, row, value, error);
}

static bool
set_idle(Options *o, const OptionRow *row, const char *value, GError **error)
{
    guint64 n = 0;

    if (!parse_number(row, value, 10, 0, MAX_IDLE_S, &n, error))
        return false;
    o->idle_s = (unsigned)n;
    return true;
}

static const OptionRow rows[] = {
    {"ro", NULL, "never write to an image (the default)", set_access, "ro"},
    {"rw", NULL, "writes go to the image", set_access, "rw"},
    {"cow", "[FILE]",
     "writes go to an overlay that vanishes at the end, or to the qcow2 overlay FILE "
     "(made where there is none); the image stays as it is",
     mount_set_cow, NULL},
    {"growable", NULL, "writes past the disk's end make it larger (the default)",
     set_image, NULL},
    {"nogrowable", NULL, "writes past the disk's end fail, as on a disk", set_image,
     NULL},
    {"discard", "MODE",
     "what punching a hole does: unmap (the default) frees space, zero keeps it, "
     "ignore refuses",
     set_image, NULL},
    {"format", "F", "qcow2, qed, qcow, luks or raw, instead of probing", set_image, NULL},
    {"backing", "POLICY",
     "which files an image may name: same-dir (the default), any, "
     "none, or directories separated by colons",
     set_image, NULL},
    {"backing_map", "OLD=NEW", "open NEW where an image names OLD (may be repeated)",
     set_image, NULL},
    {"threads", "N", "threads that answer (one for each core, at least 2)",
     mount_set_threads, NULL},
    {"l2_cache", "SIZE", "memory for metadata, each image (32M)", set_image, NULL},
    {"data_cache", "SIZE", "memory for decompressed clusters, each image (16M)",
     set_image, NULL},
    {"bitmap_cache", "SIZE", "memory for bits of dirty bitmaps, each image (64M)",
     set_image, NULL},
    {"bitmaps", "MODE",
     "what writing does to dirty bitmaps: keep (the default) keeps them valid, drop "
     "makes "
     "them stale",
     set_image, NULL},
    {"direct", NULL, "data of images pass by the page cache (O_DIRECT)", set_image, NULL},
    {"idle", "SECONDS", "close images of directories that were not used for so long (10)",
     set_idle, NULL},
    {"nolock", NULL,
     "take no image locks: what is read from an image in use may be "
     "inconsistent",
     mount_set_nolock, NULL},
    {"nosandbox", NULL,
     "keep the privileges that a running mount has no use for (for debugging)",
     set_nosandbox, NULL},
    {"passphrase_file", "F",
     "file with a passphrase; L:F: of the layer L (0: the image); may be repeated",
     set_image, NULL},
    {"passphrase_fd", "N", "descriptor to read a passphrase from; or L:N", set_image,
     NULL},
    {"max_iterations", "N", "largest cost of a passphrase in iterations (100 million)",
     set_image, NULL},
    {"nopartitions", NULL, "do not show partitions as files", set_nopartitions, NULL},
    {"uid", "N", "owner of the files (the mounter)", set_uid, NULL},
    {"gid", "N", "group of the files (the mounter's)", set_gid, NULL},
    {"umask", "M", "permission bits to take away, in octal", set_umask, NULL},
    {"allow_other", NULL, "let all users and loop devices use the files", set_fuse, NULL},
    {"allow_root", NULL, "let root use the files, too", set_fuse, NULL},
    {"auto_unmount", NULL, "unmount when the process ends in any way", set_fuse, NULL},
    {"default_permissions", NULL, "let the kernel check the permission bits", set_fuse,
     NULL},
    {"max_read", "N", "largest request in bytes", set_max_read, NULL},
    {"fsname", "NAME", NULL, set_fuse, NULL},
    {"subtype", "NAME", NULL, set_nothing, NULL},
    {"dev", NULL, NULL, set_fuse, NULL},
    {"nodev", NULL, NULL, set_fuse, NULL},
    {"suid", NULL, NULL, set_fuse, NULL},
    {"nosuid", NULL, NULL, set_fuse, NULL},
    {"exec", NULL, NULL, set_fuse, NULL},
    {"noexec", NULL, NULL, set_fuse, NULL},
    {"atime", NULL, NULL, set_fuse, NULL},
    {"noatime", NULL, NULL, set_fuse, NULL},
    {"sync", NULL, NULL, set_fuse, NULL},
    {"async", NULL, NULL, set_fuse, NULL},
    {"dirsync", NULL, NULL, set_fuse, NULL},
    /* For mount(8) and other readers of /etc/fstab; mount(8) keeps most of them. */
    {"defaults", NULL, NULL, set_nothing, NULL},
    {"auto", NULL, NULL, set_nothing, NULL},
    {"noauto", NULL, NULL, set_nothing, NULL},
    {"user", "[NAME]", NULL, set_nothing, NULL},
    {"nouser", NULL, NULL, set_nothing, NULL},
    {"users", NULL, NULL, set_nothing, NULL},
    {"owner", NULL, NULL, set_nothing, NULL},
    {"group", NULL, NULL, set_nothing, NULL},
    {"nofail", NULL, NULL, set_nothing, NULL},
    {"_netdev", NULL, NULL, set_nothing, NULL},
    {"relatime", NULL, NULL, set_nothing, NULL},
    {"norelatime", NULL, NULL, set_nothing, NULL},
    {"strictatime", NULL, NULL, set_nothing, NULL},
    {"diratime", NULL, NULL, set_nothing, NULL},
    {"nodiratime", NULL, NULL, set_nothing, NULL},
    {"comment", "TEXT", NULL, set_nothing, NULL},
};

static bool
is_value_optional(const OptionRow *row)
{
    return row->argument && row->argument[0] == '[';
}

static const OptionRow *
find_row(const char *name, size_t n_name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
        if (strlen(rows[i].name) == n_name && memcmp(rows[i].name, name, n_name) == 0)
            return &rows[i];
    return NULL;
}

/* For an option of no row. */
static bool
take_unknown(const char *dashes, const char *option, GError **error)
{
    const char *names[G_N_ELEMENTS(rows)];

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
        names[i] = rows[i].name;
    return option_habits_take(dashes, option, names, G_N_ELEMENTS(names), error);
}

/* Takes one element of an -o list, "name" or "name=value". */
static bool
set_from_list(Options *o, const char *element, GError **error)
{
    const char *equals = strchr(element, '=');
    size_t n_name = equals ? (size_t)(equals - element) : strlen(element);
    const OptionRow *row = find_row(element, n_name);

    if (g_ascii_strncasecmp(element, "x-", 2) == 0) /* for programs around mount(8) */
        return true;
    if (!row)
        return take_unknown("-o ", element, error);
    if (!row->argument && equals)
        return usage_error(error, "-o %s: takes no value", row->name);
    if (row->argument && !equals && !is_value_optional(row) &&
        row->set != set_unsupported)
        return usage_error(error, "-o %s: needs a value (%s=%s)", row->name, row->name,
                           row->argument);
    return row->set(o, row, equals ? equals + 1 : NULL, error);
}

static bool
set_list(Options *o, const char *list, GError **error)
{
    g_auto(GStrv) elements = qimg_options_split(list);

    for (char **element = elements; *element; element++)
        if (!set_from_list(o, *element, error))
            return false;
    return true;
}

enum {
    LONG_ROW = 256, /* plus the index of the row */
    LONG_WAIT = 1024,
};

/* The long options: those of the table, and those that are no mount options. */
static struct option *
make_long_options(void)
{
    struct option *list = g_new0(struct option, G_N_ELEMENTS(rows) + 7);
    size_t n = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
        list[n++] = (struct option){rows[i].name,
                                    !rows[i].argument             ? no_argument
                                    : is_value_optional(&rows[i]) ? optional_argument
                                                                  : required_argument,
                                    NULL, LONG_ROW + (int)i};
    list[n++] = (struct option){"help", no_argument, NULL, 'h'};
    list[n++] = (struct option){"version", no_argument, NULL, 'V'};
    list[n++] = (struct option){"foreground", no_argument, NULL, 'f'};
    list[n++] = (struct option){"verbose", no_argument, NULL, 'v'};
    list[n++] = (struct option){"quiet", no_argument, NULL, 'q'};
    list[n++] = (struct option){"wait", required_argument, NULL, LONG_WAIT};
    return list;
}

static bool
take_option(Options *o, int key, char **argv, GError **error)
{
    switch (key) {
    case 'o':
        return set_list(o, optarg, error);
    case 'f':
        o->foreground = true;
        return true;
    case 'd':
        o->foreground = o->debug = true;
        return true;
    case 's':
        o->n_threads = 1;
        return true;
    case 'v':
        o->verbose = true;
        return true;
    case 'q':
        o->quiet = true;
        return true;
    case 'r':
    case 'w':
        o->access = key == 'r' ? "ro" : "rw";
        return true;
    case 'h':
        o->command = COMMAND_HELP;
        return true;
    case 'V':
        o->command = COMMAND_VERSION;
        return true;
    case LONG_WAIT:
        o->command = COMMAND_WAIT;
        o->mountpoint = g_strdup(optarg);
        return true;
    case '?':
    case ':':
        if (optopt > 0 && optopt < LONG_ROW)
            return usage_error(error, "-%c: %s (see qcowfs --help)", optopt,
                               key == ':' ? "needs a value" : "unknown option");
        if (key == '?' && !optopt)
            return take_unknown("--", argv[optind - 1] + 2, error);
        return usage_error(error, "%s: %s (see qcowfs --help)", argv[optind - 1],
                           key == ':' ? "needs a value" : "takes no value");
    default:
        return rows[key - LONG_ROW].set(o, &rows[key - LONG_ROW], optarg, error);
    }
}

/* Settles the access mode, once all options are known. */
static bool
settle_access(Options *o, GError **error)
{
    bool is_rw = g_strcmp0(o->access, "rw") == 0;

    /* mount(8) always adds rw, so cow takes precedence. */
    if (o->is_cow && o->access && !is_rw)
        return usage_error(error, "ro and cow exclude each other (ro: nothing can be "
                                  "written; cow: writes go to an overlay)");
    if (o->cow_file && o->images->len > 1)
        return usage_error(error,
                           "cow=%s: one overlay serves one image (mount the images one "
                           "by one, or give cow alone)",
                           o->cow_file);
    o->is_writable = is_rw || o->is_cow;
    if (o->is_cow)
        return qimg_options_set(o->image_options, "cow", o->cow_file, error);
    return !is_rw || qimg_options_set(o->image_options, "rw", NULL, error);
}

Options *
options_parse(int argc, char **argv, GError **error)
{
    g_autoptr(Options) o = g_new0(Options, 1);
    g_autofree struct option *long_options = make_long_options();
    int key;

    o->images = g_ptr_array_new_with_free_func(g_free);
    o->fuse_options = g_ptr_array_new_with_free_func(g_free);
    o->image_options = qimg_options_new();
    o->n_threads = qimg_default_threads();
    o->idle_s = DEFAULT_IDLE_S;
    o->uid = geteuid();
    o->gid = getegid();
    opterr = 0;
    while ((key = getopt_long(argc, argv, ":o:fdsvqrwhV", long_options, NULL)) != -1)
        if (!take_option(o, key, argv, error))
            return NULL;
    if (o->command != COMMAND_MOUNT)
        return g_steal_pointer(&o);
    if (argc - optind < 2) {
        usage_error(error,
                    "%s (usage: qcowfs [OPTIONS] IMAGE... MOUNTPOINT; see qcowfs "
                    "--help)",
                    argc == optind ? "no image given" : "no mountpoint given");
        return NULL;
    }
    for (int i = optind; i < argc - 1; i++)
        g_ptr_array_add(o->images, g_strdup(argv[i]));
    o->mountpoint = g_strdup(argv[argc - 1]);
    return settle_access(o, error) ? g_steal_pointer(&o) : NULL;
}

void
options_free(Options *o)
{
    if (!o)
        return;
    g_ptr_array_unref(o->images);
    g_ptr_array_unref(o->fuse_options);
    qimg_options_free(o->image_options);
    g_free(o->mountpoint);
    g_free(o->cow_file);
    g_free(o);
}

ImagesSettings
options_for_images(const Options *options)
{
    return (ImagesSettings){
        .image_options = options->image_options,
        .is_writable = options->is_writable,
        .is_cow = options->is_cow,
        .cow_file = options->cow_file,
        .is_confined = !options->no_sandbox,
        .idle_s = options->idle_s,
    };
}

#define HELP_COLUMNS 80
#define HELP_INDENT  26u

/* Prints @text from column HELP_INDENT on, in lines of at most HELP_COLUMNS. */
static void
print_wrapped(const char *text)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    size_t column = HELP_INDENT;

    for (char **word = words; *word; word++) {
        if (column > HELP_INDENT && column + 1 + strlen(*word) > HELP_COLUMNS) {
            printf("\n%*s", (int)HELP_INDENT, "");
            column = HELP_INDENT;
        }
        column += (size_t)printf("%s%s", column > HELP_INDENT ? " " : "", *word);
    }
    putchar('\n');
}

void
options_print_help(void)
{
    printf(
        "usage: qcowfs [OPTIONS] IMAGE... MOUNTPOINT\n"
        "       qcowfs --wait MOUNTPOINT\n\n"
        "Presents each IMAGE (qcow2 or QED with its backing files, raw) as\n"
        "MOUNTPOINT/NAME.raw, and of a directory each image in it, read-only but for\n"
        "rw and cow. With one image, MOUNTPOINT may be a regular file instead.\n"
        "Unmount with: fusermount3 -u MOUNTPOINT\n\n"
        "  -f, --foreground        stay in the foreground\n"
        "  -d                      print debugging messages; implies -f\n"
        "  -s                      answer with a single thread\n"
        "  -r                      the same as -o ro\n"
        "  -w                      the same as -o rw\n"
        "  -q, --quiet             give no hints\n"
        "  -v, --verbose           say more\n"
        "  -h, --help              print this\n"
        "  -V, --version           print the version\n"
        "  --wait MOUNTPOINT       return when that mount has ended and its images are\n"
        "                          closed and unlocked\n\n"
        "Mount options, as -o NAME[=VALUE],... or --NAME[=VALUE]:\n");
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *name = NULL;

        if (!rows[i].help)
            continue;
        if (is_value_optional(&rows[i]))
            name = g_strconcat(rows[i].name, "[=", rows[i].argument + 1, NULL);
        else
            name = g_strconcat(rows[i].name, rows[i].argument ? "=" : "",
                               rows[i].argument, NULL);
        printf("  %-22s  ", name);
        print_wrapped(rows[i].help);
    }
}
