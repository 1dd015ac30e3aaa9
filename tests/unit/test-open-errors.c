/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The texts for the user when an image cannot be opened: the whole text for each rule of
 * the header, and for each way in which a chain can be refused. */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codec/rules.h"
#include "image-builder.h"
#include "image/chain/handle.h"
#include "storage/file-lock.h"
#include "test-util.h"

#define ADVICE                                                                           \
    " (the image is damaged or no qcow2 image; try qimg check, or -o format=raw to "     \
    "see its bytes)"
#define QCOW1_ADVICE                                                                     \
    " (the image is damaged or no qcow version 1 image; try -o format=raw to see its "   \
    "bytes)"

typedef struct {
    const char *name;
    QimgRule rule; /* OK: no rule, but a refused feature or format */
    void (*spoil)(ImageBuilder *b);
    int code;
    const char *error; /* NULL: opens */
} Row;

#define SPOIL(name, statement)                                                           \
    static void name(ImageBuilder *b)                                                    \
    {                                                                                    \
        BuilderHeader *h = &b->header;                                                   \
                                                                                         \
        (void)h;                                                                         \
        statement;                                                                       \
    }

SPOIL(nothing, )
SPOIL(cut_40, {
    image_builder_finish(b);
    g_byte_array_set_size(b->bytes, 40);
})
SPOIL(version_9, h->version = 9)
SPOIL(version_0, h->version = 0)
SPOIL(bits_8, h->cluster_bits = 8)
SPOIL(length_100, h->header_length = 100)
SPOIL(name_offset, h->backing_file_offset = 600)
SPOIL(name_size, {
    image_builder_set_backing(b, "x", "raw");
    h->backing_file_size = 400;
})
SPOIL(name_size_max, {
    image_builder_set_backing(b, "x", "raw");
    h->backing_file_size = UINT32_MAX;
})
SPOIL(name_nul, {
    image_builder_set_backing(b, "x", "raw");
    h->backing_file_size = 2;
})
SPOIL(compression_type, {
    h->compression_type = 2;
    h->incompatible_features = 8;
})
SPOIL(compression_bit, h->compression_type = 1)
SPOIL(subcluster_size, h->incompatible_features = 16)
SPOIL(refcount_order, h->refcount_order = 7)
SPOIL(crypt_method, h->crypt_method = 3)
SPOIL(reftable_clusters, h->refcount_table_clusters = 0)
SPOIL(reftable_size, h->refcount_table_clusters = 16385)
SPOIL(reftable_offset, h->refcount_table_offset = 700)
SPOIL(snapshots_count, h->nb_snapshots = 65537)
SPOIL(snapshots_offset, h->snapshots_offset = 700)
SPOIL(l1_size, h->l1_size = 4194305)
SPOIL(l1_offset, h->l1_table_offset = 0)
SPOIL(l1_too_small, h->size = UINT64_C(1) << 30)
SPOIL(virtual_size, {
    h->size = UINT64_C(1) << 63;
    h->l1_size = 4194304;
})
SPOIL(extension_bounds, {
    image_builder_add_extension(b, 0x12345678, "abc", 3);
    b->extensions->data[7] = 0xff;
    b->extensions->data[6] = 0x03;
})
SPOIL(extension_twice, {
    image_builder_add_extension(b, 0xe2792aca, "raw", 3);
    image_builder_add_extension(b, 0xe2792aca, "raw", 3);
})
SPOIL(backing_format, image_builder_add_extension(b, 0xe2792aca, "0123456789abcdef", 16))
SPOIL(backing_format_empty, image_builder_add_extension(b, 0xe2792aca, "", 0))
SPOIL(backing_format_nul, image_builder_add_extension(b, 0xe2792aca, "r\0w", 3))
SPOIL(backing_format_padded, image_builder_add_extension(b, 0xe2792aca, "raw\0\0", 5))
SPOIL(data_file_name, {
    h->incompatible_features = 4;
    image_builder_add_extension(b, 0x44415441, "a\0b", 3);
})
SPOIL(raw_bit, h->autoclear_features = 2)
SPOIL(data_file_snapshots, {
    h->incompatible_features = 4;
    h->nb_snapshots = 1;
    h->snapshots_offset = image_builder_allocate(b, 1);
})
SPOIL(aes, h->crypt_method = 1)
SPOIL(luks, h->crypt_method = 2)
SPOIL(zoned, h->incompatible_features = 0x20)
SPOIL(unknown_bit, h->incompatible_features = UINT64_C(1) << 63)
/* A feature name table: bit 7 has a name, bit 9 only in another set. */
static const uint8_t feature_names[2][48] = {{0, 7, 's', 'e', 'v', 'e', 'n', '\033'},
                                             {1, 9, 'x'}};
SPOIL(unknown_named, {
    h->incompatible_features = 0x281; /* the dirty bit is known */
    image_builder_add_extension(b, 0x6803f857, feature_names, sizeof feature_names);
})
SPOIL(unknown_and_broken, {
    h->incompatible_features = 0x100;
    h->refcount_order = 77;
    h->l1_table_offset = 3;
})
SPOIL(data_file_missing, h->incompatible_features = 4)
SPOIL(dirty_corrupt, h->incompatible_features = 3)

#define INVALID QIMG_ERROR_INVALID

static const Row rows[] = {
    {"sound", QIMG_RULE_OK, nothing, 0, NULL},
    {"dirty and corrupt", QIMG_RULE_OK, dirty_corrupt, 0, NULL},
    {"padded backing format", QIMG_RULE_OK, backing_format_padded, 0, NULL},
    {"short-header", QIMG_RULE_SHORT_HEADER, cut_40, INVALID,
     "header: is 40 (0x28) and the file is shorter than its header" ADVICE},
    {"version", QIMG_RULE_VERSION, version_9, INVALID,
     "version: is 9 (0x9) and must be 2 or 3" ADVICE},
    {"version 0", QIMG_RULE_VERSION, version_0, INVALID,
     "version: is 0 (0x0) and must be 2 or 3" ADVICE},
    {"cluster-bits", QIMG_RULE_CLUSTER_BITS, bits_8, INVALID,
     "cluster_bits: is 8 (0x8) and must be 9 to 21" ADVICE},
    {"header-length", QIMG_RULE_HEADER_LENGTH, length_100, INVALID,
     "header_length: is 100 (0x64) and must be a multiple of 8 between 104 and the "
     "cluster size" ADVICE},
    {"backing-name-offset", QIMG_RULE_BACKING_NAME_OFFSET, name_offset, INVALID,
     "backing_file_offset: is 600 (0x258) and must lie within the first cluster" ADVICE},
    {"backing-name-size", QIMG_RULE_BACKING_NAME_SIZE, name_size, INVALID,
     "backing_file_size: is 400 (0x190) and must be at most 1023 and end in the first "
     "cluster" ADVICE},
    {"backing-name-size-max", QIMG_RULE_BACKING_NAME_SIZE, name_size_max, INVALID,
     "backing_file_size: is 4294967295 (0xffffffff) and must be at most 1023 and end in "
     "the first cluster" ADVICE},
    {"backing-name-nul", QIMG_RULE_BACKING_NAME_NUL, name_nul, INVALID,
     "backing file name: is 2 (0x2) and must not hold a NUL byte" ADVICE},
    {"compression-type", QIMG_RULE_COMPRESSION_TYPE, compression_type, INVALID,
     "compression_type: is 2 (0x2) and must be 0 (deflate) or 1 (zstd)" ADVICE},
    {"compression-bit", QIMG_RULE_COMPRESSION_BIT, compression_bit, INVALID,
     "compression_type: is 1 (0x1) and does not agree with the incompatible feature bit "
     "3" ADVICE},
    {"subcluster-size", QIMG_RULE_SUBCLUSTER_SIZE, subcluster_size, INVALID,
     "cluster_bits: is 9 (0x9) and must be at least 14 with extended L2 entries" ADVICE},
    {"refcount-order", QIMG_RULE_REFCOUNT_ORDER, refcount_order, INVALID,
     "refcount_order: is 7 (0x7) and must be at most 6" ADVICE},
    {"crypt-method", QIMG_RULE_CRYPT_METHOD, crypt_method, INVALID,
     "crypt_method: is 3 (0x3) and must be 0, 1 or 2" ADVICE},
    {"reftable-clusters", QIMG_RULE_REFTABLE_CLUSTERS, reftable_clusters, INVALID,
     "refcount_table_clusters: is 0 (0x0) and must be at least 1" ADVICE},
    {"reftable-size", QIMG_RULE_REFTABLE_SIZE, reftable_size, INVALID,
     "refcount_table_clusters: is 16385 (0x4001) and means a table of more than 8 "
     "MiB" ADVICE},
    {"reftable-offset", QIMG_RULE_REFTABLE_OFFSET, reftable_offset, INVALID,
     "refcount_table_offset: is 700 (0x2bc) and must be a multiple of the cluster size, "
     "not 0, within 2^63" ADVICE},
    {"snapshots-count", QIMG_RULE_SNAPSHOTS_COUNT, snapshots_count, INVALID,
     "nb_snapshots: is 65537 (0x10001) and must be at most 65536" ADVICE},
    {"snapshots-offset", QIMG_RULE_SNAPSHOTS_OFFSET, snapshots_offset, INVALID,
     "snapshots_offset: is 700 (0x2bc) and must be a multiple of the cluster size within "
     "2^63" ADVICE},
    {"l1-size", QIMG_RULE_L1_SIZE, l1_size, INVALID,
     "l1_size: is 4194305 (0x400001) and means a table of more than 32 MiB" ADVICE},
    {"l1-offset", QIMG_RULE_L1_OFFSET, l1_offset, INVALID,
     "l1_table_offset: is 0 (0x0) and must be a multiple of the cluster size, not 0, "
     "within 2^63" ADVICE},
    {"l1-too-small", QIMG_RULE_L1_TOO_SMALL, l1_too_small, INVALID,
     "l1_size: is 1 (0x1) and is too small for the virtual size" ADVICE},
    {"virtual-size", QIMG_RULE_VIRTUAL_SIZE, virtual_size, INVALID,
     "size: is 9223372036854775808 (0x8000000000000000) and is more than the format can "
     "map" ADVICE},
    {"extension-bounds", QIMG_RULE_EXTENSION_BOUNDS, extension_bounds, INVALID,
     "header extension: is 1023 (0x3ff) and is longer than the header area" ADVICE},
    {"extension-twice", QIMG_RULE_EXTENSION_TWICE, extension_twice, INVALID,
     "header extension: is 3799591626 (0xe2792aca) and occurs twice" ADVICE},
    {"backing-format", QIMG_RULE_BACKING_FORMAT, backing_format, INVALID,
     "backing format extension: is 16 (0x10) and must be 1 to 15 bytes without "
     "NUL" ADVICE},
    {"backing-format-empty", QIMG_RULE_BACKING_FORMAT, backing_format_empty, INVALID,
     "backing format extension: is 0 (0x0) and must be 1 to 15 bytes without NUL" ADVICE},
    {"backing-format-nul", QIMG_RULE_BACKING_FORMAT, backing_format_nul, INVALID,
     "backing format extension: is 3 (0x3) and must be 1 to 15 bytes without NUL" ADVICE},
    {"data-file-name", QIMG_RULE_DATA_FILE_NAME, data_file_name, INVALID,
     "data file extension: is 3 (0x3) and must be a name without NUL bytes" ADVICE},
    {"raw-without-data-file", QIMG_RULE_RAW_WITHOUT_DATA_FILE, raw_bit, INVALID,
     "autoclear_features: is 2 (0x2) and has the raw data file bit without a data "
     "file" ADVICE},
    {"data-file-snapshots", QIMG_RULE_DATA_FILE_SNAPSHOTS, data_file_snapshots, INVALID,
     "nb_snapshots: is 1 (0x1) and must be 0 with an external data file" ADVICE},
    {"aes", QIMG_RULE_OK, aes, QIMG_ERROR_ENCRYPTED,
     "is encrypted (aes), and no passphrase was given for it (give -o "
     "passphrase_file=FILE or passphrase_file=0:FILE)"},
    {"luks", QIMG_RULE_ENCRYPTION_EXTENSION, luks, INVALID,
     "crypt_method: is 2 (0x2) and does not agree with the encryption "
     "extension" ADVICE},
    {"zoned", QIMG_RULE_OK, zoned, QIMG_ERROR_UNSUPPORTED,
     "incompatible_features: bit 5 (zoned format) is set, and zoned images cannot be "
     "read "
     "by this version (use the program that made the image)"},
    {"unknown-bit", QIMG_RULE_OK, unknown_bit, QIMG_ERROR_UNSUPPORTED,
     "incompatible_features: unknown bit 63 (no name given); the data cannot be read "
     "correctly without support for it (use a newer version, or the program that "
     "made the image)"},
    {"unknown-named", QIMG_RULE_OK, unknown_named, QIMG_ERROR_UNSUPPORTED,
     "incompatible_features: unknown bit 7 (seven\\033), bit 9 (no name given); the data "
     "cannot be read correctly without support for it (use a newer version, or "
     "the "
     "program that made the image)"},
    {"unknown-and-broken", QIMG_RULE_OK, unknown_and_broken, QIMG_ERROR_UNSUPPORTED,
     "incompatible_features: unknown bit 8 (no name given); the data cannot be read "
     "correctly without support for it (use a newer version, or the program that "
     "made the image)"},
    {"data-file-missing", QIMG_RULE_OK, data_file_missing, INVALID,
     "data file extension: is missing, though the image says that its data lie in "
     "another "
     "file (store the name with qemu-img amend -o data_file=NAME)"},
};

static char *
write_image(const char *dir, const char *name, ImageBuilder *b)
{
    return test_util_write(dir, name, b->bytes->data, b->bytes->len);
}

static void
test_row(gconstpointer user)
{
    const Row *row = user;
    char *dir = test_util_make_dir();
    g_autoptr(ImageBuilder) b = image_builder_new(3, 9, 32768, false);
    g_autofree char *path = NULL;
    GError *error = NULL;
    QimgImage *image;

    row->spoil(b);
    if (b->bytes->len > 40)
        image_builder_finish(b);
    path = write_image(dir, "image", b);
    image = qimg_image_open(path, NULL, &error);
    if (row->error) {
        g_assert_null(image);
        test_util_check_error(&error, row->code, row->error);
    } else {
        g_assert_no_error(error);
        g_assert_nonnull(image);
    }
    qimg_image_close(image);
    test_util_remove_dir(dir);
}

/* Each rule that refuses an image must have a row; later rules concern single places. */
static void
test_all_rules(void)
{
    for (QimgRule rule = 1; rule < QIMG_RULE_SNAPSHOT_ENTRY; rule++) {
        bool is_covered = rule == QIMG_RULE_MAGIC; /* test_formats */

        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
            is_covered |= rows[i].rule == rule;
        if (!is_covered)
            g_error("no row for \"%s: %s\"", qimg_rule_field(rule), qimg_rule_text(rule));
    }
}

/* Opens @path with one option; NULL if @error_text is met (in it, @ is @dir). */
static QimgImage *
open_with(const char *path, const char *dir, const char *option, const char *value,
          int code, const char *error_text)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    GError *error = NULL;
    QimgImage *image;

    if (option)
        g_assert_true(qimg_options_set(options, option, value, NULL));
    image = qimg_image_open(path, options, &error);
    if (error_text) {
        g_auto(GStrv) parts = g_strsplit(error_text, "@", -1);
        g_autofree char *text = g_strjoinv(dir, parts);

        g_assert_null(image);
        test_util_check_error(&error, code, text);
    } else {
        g_assert_no_error(error);
        g_assert_nonnull(image);
    }
    return image;
}

#define FOREIGN(name)                                                                    \
    "is a " name                                                                         \
    " image, not a raw disk (convert it with qemu-img convert, or show its "             \
    "bytes with -o format=raw)"

/* A signature behind 64 bytes of text. */
#define VDI_START                                                                        \
    "<<< Oracle VM VirtualBox Disk Image "                                               \
    ">>>\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"                              \
    "\x7f\x10\xda\xbe"

static void
test_formats(void)
{
    static const struct {
        const char *bytes;
        size_t n_bytes;
        const char *format;
        int code;
        const char *error;
    } cases[] = {
        {"QED\0", 4, NULL, INVALID,
         "header: is 4 (0x4) and the file is shorter than its header (the image is "
         "damaged or no QED image; see its bytes with -o format=raw)"},
        {"QFI\xfb\0\0\0\1", 8, NULL, INVALID,
         "header: is 8 (0x8) and the file is shorter than its header" QCOW1_ADVICE},
        {"some text", 9, "qcow", QIMG_ERROR_NOT_AN_IMAGE,
         "magic: is 1936682341 (0x736f6d65) and is not that of a qcow version 1 "
         "image" QCOW1_ADVICE},
        {"KDMV", 4, NULL, QIMG_ERROR_UNSUPPORTED, FOREIGN("VMDK")},
        {"COWD", 4, NULL, QIMG_ERROR_UNSUPPORTED, FOREIGN("VMDK")},
        {"# Disk DescriptorFile\n", 22, NULL, QIMG_ERROR_UNSUPPORTED, FOREIGN("VMDK")},
        {"Bochs Virtual HD Image\0", 23, NULL, QIMG_ERROR_UNSUPPORTED, FOREIGN("Bochs")},
        {"#!/bin/sh\n#V2.0 Format\nx", 24, NULL, QIMG_ERROR_UNSUPPORTED,
         FOREIGN("cloop")},
        {VDI_START, 68, NULL, QIMG_ERROR_UNSUPPORTED, FOREIGN("VDI")},
        {VDI_START, 67, NULL, 0, NULL},
        {"WithouFreSpacExt", 16, NULL, QIMG_ERROR_UNSUPPORTED, FOREIGN("Parallels")},
        {"KDM", 3, NULL, 0, NULL},
        {"COWD", 4, "raw", 0, NULL},
        {"#!/bin/sh\n", 10, NULL, 0, NULL},
        {"vhdxfile", 8, NULL, QIMG_ERROR_UNSUPPORTED, FOREIGN("VHDX")},
        {"conectix", 8, NULL, QIMG_ERROR_UNSUPPORTED, FOREIGN("VHD")},
        {"LUKS\xba\xbe\0\1", 8, NULL, QIMG_ERROR_UNSUPPORTED,
         "is a LUKS volume (version 1), not a raw disk (open it with -o format=luks and "
         "its passphrase, or show its bytes with -o format=raw)"},
        {"LUKS\xba\xbe\0\2", 8, NULL, QIMG_ERROR_UNSUPPORTED,
         "is a LUKS volume (version 2), not a raw disk (open it with cryptsetup, or show "
         "its bytes with -o format=raw)"},
        {"WithoutFreeSpace", 16, NULL, QIMG_ERROR_UNSUPPORTED, FOREIGN("Parallels")},
        {"QED\0", 4, "raw", 0, NULL},
        {"QED", 3, NULL, 0, NULL},
        {"", 0, NULL, QIMG_ERROR_UNSUPPORTED,
         "is an empty file, not a raw disk (get the image anew: a copy or download has "
         "failed, or show its bytes with -o format=raw)"},
        {"", 0, "raw", 0, NULL},
        {"", 0, "qcow2", INVALID,
         "header: is 0 (0x0) and the file is shorter than its header" ADVICE},
        {"some text", 9, "qcow2", QIMG_ERROR_NOT_AN_IMAGE,
         "magic: is 1936682341 (0x736f6d65) and is not that of a qcow2 image" ADVICE},
        {"QFI\xfb", 4, NULL, INVALID,
         "header: is 4 (0x4) and the file is shorter than its header" ADVICE},
        {"QFI\xfb\0\0\0", 7, NULL, INVALID,
         "header: is 7 (0x7) and the file is shorter than its header" ADVICE},
        {"QFI\xfb\0\0\0", 7, "raw", 0, NULL},
        {"QFI\xfb\0\0\0\2", 8, NULL, INVALID,
         "header: is 8 (0x8) and the file is shorter than its header" ADVICE},
    };
    char *dir = test_util_make_dir();

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path =
            test_util_write(dir, "image", cases[i].bytes, cases[i].n_bytes);

        qimg_image_close(open_with(path, dir, cases[i].format ? "format" : NULL,
                                   cases[i].format, cases[i].code, cases[i].error));
    }
    test_util_remove_dir(dir);
}

/* Writes an image that names @backing; NULL: none. */
static char *
write_overlay(const char *dir, const char *name, const char *backing, const char *format)
{
    g_autoptr(ImageBuilder) b = image_builder_new(3, 9, 4096, false);

    if (backing)
        image_builder_set_backing(b, backing, format);
    image_builder_finish(b);
    return write_image(dir, name, b);
}

typedef struct {
    const char *backing, *format; /* named by the image */
    const char *option, *value;
    int code;
    const char *error; /* @ is the directory */
} ChainRow;

/* In DIR: sound (qcow2), raw, self (names itself), a and b (name each other), overlay
 * (names sound, without a format), bad (no qcow2 inside), luks. */
static const ChainRow chain_rows[] = {
    {"sound", "qcow2", NULL, NULL, 0, NULL},
    {"sound", NULL, NULL, NULL, 0, NULL},
    {"raw", "raw", NULL, NULL, 0, NULL},
    {"raw", NULL, NULL, NULL, 0, NULL},
    {"file:sound", "qcow2", NULL, NULL, 0, NULL},
    {"json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"sound\"}}",
     NULL, NULL, NULL, 0, NULL},
    {"absent", "raw", NULL, NULL, QIMG_ERROR_NOT_FOUND,
     "backing file: names \"absent\", and \"@/absent\" cannot be opened: No such file or "
     "directory (say where it is now with -o backing_map='absent'=NEW)"},
    {"/dev/null", "raw", NULL, NULL, QIMG_ERROR_REFUSED,
     "backing file: names \"/dev/null\", and \"/dev/null\" lies outside the allowed "
     "directories (allow it with -o backing=DIR or -o backing=any)"},
    {"sound", "qcow2", "backing", "none", QIMG_ERROR_REFUSED,
     "backing file: names \"sound\", and backing=none allows no further file (allow it "
     "with -o backing=same-dir or -o backing=DIR)"},
    {"nbd:x", "raw", NULL, NULL, QIMG_ERROR_REFUSED,
     "backing file name \"nbd:x\": begins with a protocol, and only local files can be "
     "opened (say which file it is with -o backing_map='nbd:x'=FILE; a local name with a "
     "colon needs ./ before it: qemu-img rebase -u)"},
    {"sound", "vmdk\033", NULL, NULL, QIMG_ERROR_UNSUPPORTED,
     "backing file \"@/sound\": its recorded format \"vmdk\\033\" cannot be read by this "
     "version (convert it with qemu-img convert)"},
    {"raw", "qcow2", NULL, NULL, QIMG_ERROR_NOT_AN_IMAGE,
     "backing file \"@/raw\": magic: is 1918990112 (0x72617720) and is not that of a "
     "qcow2 image" ADVICE},
    {"bad", "qcow2", NULL, NULL, INVALID,
     "backing file \"@/bad\": refcount_order: is 9 (0x9) and must be at most 6" ADVICE},
    {"luks", "qcow2", NULL, NULL, INVALID,
     "backing file \"@/luks\": crypt_method: is 2 (0x2) and does not agree with the "
     "encryption extension" ADVICE},
    {"top", "qcow2", NULL, NULL, QIMG_ERROR_LOOP,
     "backing file \"@/top\": is based on itself: the chain of backing files has a loop "
     "(name another backing file with qemu-img rebase -u)"},
    {"a", "qcow2", NULL, NULL, QIMG_ERROR_LOOP,
     "backing file \"@/a\": is based on itself: the chain of backing files has a loop "
     "(name another backing file with qemu-img rebase -u)"},
    {"link-to-a", "qcow2", NULL, NULL, QIMG_ERROR_LOOP,
     "backing file \"@/a\": is based on itself: the chain of backing files has a loop "
     "(name another backing file with qemu-img rebase -u)"},
    {"overlay", "qcow2", NULL, NULL, 0, NULL},
    {"overlay", NULL, NULL, NULL, QIMG_ERROR_REFUSED,
     "backing file \"@/overlay\": has no recorded format, was probed as qcow2, and names "
     "a further file, which a guest may have forged (record it with qemu-img "
     "rebase -u -F, or allow it with -o backing=DIR or -o backing=any)"},
    {"overlay", NULL, "backing", "any", 0, NULL},
    {"datafile", "qcow2", NULL, NULL, QIMG_ERROR_NOT_FOUND,
     "backing file \"@/datafile\": data file: names \"no\\033where\", and "
     "\"@/no\\033where\" cannot be opened: No such file or directory (say where it is "
     "now "
     "with -o backing_map='no\\033where'=NEW)"},
};

static void
write_tree(const char *dir)
{
    g_autoptr(ImageBuilder) bad = image_builder_new(3, 9, 512, false);
    g_autoptr(ImageBuilder) luks = image_builder_new(3, 9, 512, false);
    g_autoptr(ImageBuilder) data = image_builder_new(3, 9, 512, false);
    g_autofree char *link = g_build_filename(dir, "link-to-a", NULL);

    bad->header.refcount_order = 9;
    image_builder_finish(bad);
    g_free(write_image(dir, "bad", bad));
    luks->header.crypt_method = 2;
    image_builder_finish(luks);
    g_free(write_image(dir, "luks", luks));
    data->header.incompatible_features = 4;
    image_builder_add_extension(data, 0x44415441, "no\033where", 8);
    image_builder_finish(data);
    g_free(write_image(dir, "datafile", data));
    g_free(test_util_write(dir, "raw", "raw bytes", 9));
    g_free(write_overlay(dir, "sound", NULL, NULL));
    g_free(write_overlay(dir, "overlay", "sound", "qcow2"));
    g_free(write_overlay(dir, "a", "b", "qcow2"));
    g_free(write_overlay(dir, "b", "a", "qcow2"));
    g_assert_cmpint(symlink("a", link), ==, 0);
}

/* Each further layer prefixes the error with its name. */
static void
test_chain(void)
{
    char *dir = test_util_make_dir();

    write_tree(dir);
    for (size_t i = 0; i < G_N_ELEMENTS(chain_rows); i++) {
        const ChainRow *row = &chain_rows[i];
        g_autofree char *top = write_overlay(dir, "top", row->backing, row->format);

        g_test_message("%s", row->backing);
        qimg_image_close(
            open_with(top, dir, row->option, row->value, row->code, row->error));
    }
    test_util_remove_dir(dir);
}

static void
test_depth(void)
{
    char *dir = test_util_make_dir();

    for (unsigned i = 0; i < 201; i++) {
        g_autofree char *name = g_strdup_printf("layer%u", i);
        g_autofree char *backing = g_strdup_printf("layer%u", i + 1);
        g_autofree char *path =
            write_overlay(dir, name, i < 200 ? backing : NULL, "qcow2");
        (void)path;
    }
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *name = g_strdup_printf("layer%u", i);
        g_autofree char *path = g_build_filename(dir, name, NULL);
        QimgImage *image = open_with(
            path, dir, NULL, NULL, QIMG_ERROR_LOOP,
            i == 0
                ? "the chain has more than 200 images (shorten it with qemu-img rebase "
                  "or commit)"
                : NULL);
        uint8_t byte = 1;

        if (i == 1) {
            g_assert_cmpuint(qimg_image_get_n_layers(image), ==, 200);
            g_assert_cmpint(qimg_image_read(image, 4000, &byte, 1), ==, 0);
            g_assert_cmpuint(byte, ==, 0);
        }
        qimg_image_close(image);
    }
    test_util_remove_dir(dir);
}

/* Warnings stay one line each, for any name. */
static void
test_warnings(void)
{
    char *dir = test_util_make_dir();
    g_autofree char *base = test_util_write(dir, "ba\nse\033", "raw", 3);
    g_autofree char *top = write_overlay(dir, "top", "ba\nse\033", NULL);
    QimgImage *image = open_with(top, dir, NULL, NULL, 0, NULL);
    const char *const *warnings = qimg_image_get_warnings(image);
    g_autofree char *expected = g_strdup_printf(
        "%s: the format of the backing file \"ba?se?\" is not recorded, probed as "
        "raw (record it with qemu-img rebase -u -F)",
        top);

    g_assert_cmpstr(warnings[0], ==, expected);
    g_assert_null(warnings[1]);
    qimg_image_close(image);
    g_assert_nonnull(base);
    test_util_remove_dir(dir);
}

/* Damage that is no reason to refuse. */
static void
test_warnings_of_damage(void)
{
    char *dir = test_util_make_dir();
    g_autoptr(ImageBuilder) b = image_builder_new(3, 9, 4096, false);
    g_autofree char *path = NULL;
    g_autofree char *shown = NULL;
    g_autofree char *expected = NULL;
    g_autoptr(QimgSnapshots) snapshots = NULL;
    QimgImage *image;

    b->header.incompatible_features = 3;
    b->header.nb_snapshots = 2;
    b->header.snapshots_offset = image_builder_allocate(b, 1);
    b->header.l1_table_offset = 1 << 20;
    /* The second entry has more extra data than the format allows. */
    image_builder_put_be32(b, b->header.snapshots_offset + 40 + 36, 1025);
    image_builder_finish(b);
    path = write_image(dir, "image", b);
    image = open_with(path, dir, NULL, NULL, 0, NULL);
    shown = g_strjoinv("\n", (char **)qimg_image_get_warnings(image));
    expected = g_strdup_printf(
        "%s: was not closed properly (the dirty bit is set); reading is not affected "
        "(qimg check -r all repairs it)\n"
        "%s: is marked corrupt: parts may be damaged (qimg check tells which)\n"
        "%s: l1_table_offset: the L1 table is cut by the end of the file; reads of the "
        "range that it should map fail\n"
        "%s: snapshot table: entry 1 of 2 does not fit in the file or its limits; the "
        "snapshots from there on are not shown (run qimg check)",
        path, path, path, path);
    g_assert_cmpstr(shown, ==, expected);
    snapshots = qimg_image_get_snapshots(image);
    g_assert_cmpuint(qimg_snapshots_get_n(snapshots), ==, 1);
    qimg_image_close(image);
    test_util_remove_dir(dir);
}

static void
test_locked(void)
{
    char *dir = test_util_make_dir();
    g_autofree char *path = write_overlay(dir, "image", NULL, NULL);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    QimgImage *image = open_with(path, dir, NULL, NULL, 0, NULL);

    /* Two readers. */
    qimg_image_close(open_with(path, dir, NULL, NULL, 0, NULL));
    qimg_image_close(image);
    if (qimg_file_lock(fd, QIMG_PERM_WRITE, 0, NULL) == QIMG_LOCK_TAKEN) {
        open_with(path, dir, NULL, NULL, QIMG_ERROR_LOCKED,
                  "is in use: another process has the permission \"write\" (lock byte "
                  "101); find the process with 'fuser -v FILE' (stop that program or "
                  "virtual machine; -o nolock reads all the same, and may read "
                  "inconsistent data)");
        qimg_image_close(open_with(path, dir, "nolock", NULL, 0, NULL));
    }
    close(fd);
    test_util_remove_dir(dir);
}

/* The errno values of the codes, as passed on by a caller. */
static void
test_errno(void)
{
    static const int errnums[] = {EIO,    ENOENT, EINVAL, EINVAL, ENOTSUP, ENOKEY,
                                  EACCES, ELOOP,  EBUSY,  ENOMEM, EINVAL};

    for (int code = 0; code < (int)G_N_ELEMENTS(errnums); code++) {
        g_autoptr(GError) error = g_error_new_literal(QIMG_ERROR, code, "x");

        g_assert_cmpint(qimg_error_to_errno(error), ==, errnums[code]);
        error->domain = G_FILE_ERROR;
        g_assert_cmpint(qimg_error_to_errno(error), ==, EIO);
    }
    g_assert_cmpint(qimg_error_to_errno(NULL), ==, EIO);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/open/rule/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    g_test_add_func("/open/all-rules", test_all_rules);
    g_test_add_func("/open/formats", test_formats);
    g_test_add_func("/open/chain", test_chain);
    g_test_add_func("/open/depth", test_depth);
    g_test_add_func("/open/warnings", test_warnings);
    g_test_add_func("/open/warnings-of-damage", test_warnings_of_damage);
    g_test_add_func("/open/locked", test_locked);
    g_test_add_func("/open/errno", test_errno);
    return g_test_run();
}
