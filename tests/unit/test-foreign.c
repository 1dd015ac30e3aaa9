/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Kinds of files told by their beginning and end, and near misses, which stay raw disks:
 * a raw disk may begin with anything. Files made by the tools of these kinds are in
 * tests/mount/test_containers.py. */
#include "format/foreign.h"

#include <glib.h>
#include <string.h>

#include "base/checked.h"

#define DISK_BYTES (64 * 1024u)

#define B(text) text, sizeof(text) - 1

typedef struct {
    const char *name;
    const char *head; /* the file's first bytes; zeros follow up to size_bytes */
    size_t n_head;
    size_t size_bytes;  /* 0: as long as the head */
    const char *expect; /* "" : a raw disk; else within its kind's name */
} Case;

static const Case cases[] = {
    {"zeros", B(""), DISK_BYTES, ""},
    {"empty", B(""), 0, "empty"},
    {"one byte", B("x"), 0, ""},
    {"vmdk", B("KDMV\1\0\0\0"), DISK_BYTES, "VMDK"},
    {"vmdk se", B("\xbe\xba\xfe\xca\0\0\0\0\1\0\0\0\2\0\0\0"), DISK_BYTES, "VMDK"},
    {"vmdk text, other comment", B("# made by hand\r\n\n \t# x\nversion=3\n"), 0, "VMDK"},
    {"vmdk text, no comment", B("version=1\nCID=1\n"), 0, "VMDK"},
    {"text", B("# a list\nversions: 1\n"), 0, ""},
    {"text of another version", B("version=4\n"), 0, ""},
    {"comment without end", B("# version=1"), 0, ""},
    {"blanks alone", B("  \n\n"), 0, ""},
    {"cut before its version", B("#\nversion="), 0, ""},
    {"lvf", B("LVF\x09\x0d\x0a\xff\0"), DISK_BYTES, "L01"},
    {"lef2", B("LEF2\x0d\x0a\x81\0"), DISK_BYTES, "Lx01"},
    {"ex01", B("EVF2\x0d\x0a\x81\0"), DISK_BYTES, "Ex01"},
    {"evf, another byte", B("EVF\x09\x0d\x0a\xff\1"), DISK_BYTES, ""},
    {"ad1", B("ADSEGMENTEDFILE\0"), DISK_BYTES, "AD1"},
    {"encrypted dmg", B("encrcdsa\0\0\0\2"), DISK_BYTES, "encrypted Apple"},
    {"sparse image", B("sprs\0\0\0\3"), DISK_BYTES, "Apple sparse"},
    {"sprs of text", B("sprs and more"), DISK_BYTES, ""},
    {"android, version 1", B("\x3a\xff\x26\xed\1\0\0\0\x1c\0\x0c\0"), DISK_BYTES,
     "Android"},
    {"android, another header", B("\x3a\xff\x26\xed\1\0\0\0\x1c\0\x10\0"), DISK_BYTES,
     ""},
    {"vma", B("VMA\0\0\0\0\1"), DISK_BYTES, "VMA"},
    {"vma, version 2", B("VMA\0\0\0\0\2"), DISK_BYTES, ""},
    {"partclone", B("partclone-image\0000.3.23"), DISK_BYTES, "Partclone"},
    {"ntfsclone", B("\0ntfsclone-image\12\0"), DISK_BYTES, "ntfsclone"},
    {"pipable wim", B("WLPWM\0\0\0"), DISK_BYTES, "WIM"},
    {"gzip", B("\x1f\x8b\x08\0\1\2\3\4\2\3x"), DISK_BYTES, "gzip"},
    {"gzip, reserved flag", B("\x1f\x8b\x08\x20\1\2\3\4\2\3x"), DISK_BYTES, ""},
    {"gzip, no such level", B("\x1f\x8b\x08\0\1\2\3\4\7\3x"), DISK_BYTES, ""},
    {"gzip, cut", B("\x1f\x8b\x08\0\1\2\3\4\2"), 0, ""},
    {"zstd", B("\x28\xb5\x2f\xfd\x04\x00"), DISK_BYTES, "zstd"},
    {"zstd, reserved bit", B("\x28\xb5\x2f\xfd\x0c\x00"), DISK_BYTES, ""},
    {"zstd, skippable", B("\x53\x2a\x4d\x18\4\0\0\0abcd\x28\xb5\x2f\xfd"), 0, "zstd"},
    {"skippable and no more", B("\x53\x2a\x4d\x18\xff\xff\xff\xff"), DISK_BYTES, ""},
    {"bzip2, empty", B("BZh9\x17\x72\x45\x38\x50\x90\0\0\0\0"), 0, "bzip2"},
    {"bzip2, no block", B("BZh9 is text"), DISK_BYTES, ""},
    {"bzip2, no level", B("BZh01AY&SY"), DISK_BYTES, ""},
    {"lzip", B("LZIP\1\x14"), DISK_BYTES, "lzip"},
    {"lzip, version 7", B("LZIP\7\x14"), DISK_BYTES, ""},
    {"lz4", B("\x04\x22\x4d\x18\x64\x40\xa7"), DISK_BYTES, "lz4"},
    {"lz4, version 0", B("\x04\x22\x4d\x18\x24\x40\xa7"), DISK_BYTES, ""},
    {"zip, empty", B("PK\5\6\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), 0, "zip"},
    {"zip, spanned", B("PK\7\10PK\3\4"), DISK_BYTES, "zip"},
    {"PK of text", B("PK\3\4 is text, and goes on for a while"), DISK_BYTES, ""},
    {"aff4",
     B("PK\3\4\24\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\25\0\0\0"
       "container.descriptionaff4://x"),
     0, "AFF4"},
    {"aff4 by its comment",
     B("PK\3\4\24\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0x"
       "PK\5\6\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x9\0aff4://ab"),
     0, "AFF4"},
    {"rar", B("Rar!\x1a\x07\1\0"), DISK_BYTES, "RAR"},
    {"cab", B("MSCF\0\0\0\0"), DISK_BYTES, "cabinet"},
    {"tar without a checksum", B(""), DISK_BYTES, ""},
    {"html", B("\xef\xbb\xbf\r\n <!DocType HTML>\n"), 0, "HTML"},
    {"html, bare", B("<HTML><head>"), 0, "HTML"},
    {"xml", B("<?xml version=\"1.0\"?><Error>"), 0, "XML"},
    {"less than", B("<x>"), 0, ""},
    {"lfs", B("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"), 0,
     "Git LFS"},
    {"luks", B("LUKS\xba\xbe\0\2"), DISK_BYTES, "LUKS"},
};

static void
check(const uint8_t *bytes, size_t n, const char *expect)
{
    QimgForeignBytes file = {.size_bytes = n};
    const QimgForeign *found;
    g_autofree uint8_t *head = NULL; /* no byte more, for sanitizers */
    g_autofree uint8_t *tail = NULL;

    file.n_head = MIN(n, QIMG_FOREIGN_HEAD_BYTES);
    file.n_tail = MIN(n, QIMG_FOREIGN_TAIL_BYTES);
    file.head = head = g_memdup2(bytes, MAX(file.n_head, 1));
    file.tail = tail = g_memdup2(bytes + n - file.n_tail, MAX(file.n_tail, 1));
    found = qimg_foreign_find(&file);
    if (*expect) {
        g_assert_nonnull(found);
        g_assert_nonnull(strstr(found->what, expect));
        g_assert_cmpint(*found->advice, !=, '\0');
    } else {
        g_assert_null(found);
    }
}

static void
test_heads(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        size_t n = cases[i].size_bytes ? cases[i].size_bytes : cases[i].n_head;
        g_autofree uint8_t *bytes = g_malloc0(n + 1);

        g_test_message("%s", cases[i].name);
        if (cases[i].n_head > 0)
            memcpy(bytes, cases[i].head, cases[i].n_head);
        check(bytes, n, cases[i].expect);
    }
}

static void
put_be32(uint8_t *at, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (24 - 8 * i));
}

/* A VHD's footer of @n_footer bytes at @at, of @type. */
static void
put_vhd_footer(uint8_t *at, size_t n_footer, uint32_t type)
{
    uint32_t sum = 0;

    memset(at, 0, n_footer);
    memcpy(at, "conectix", 8);
    put_be32(at + 60, type);
    for (size_t i = 0; i < n_footer; i++)
        sum += at[i];
    put_be32(at + 64, ~sum);
}

static void
test_vhd_footer(void)
{
    g_autofree uint8_t *bytes = g_malloc0(DISK_BYTES + 512);

    put_vhd_footer(bytes + DISK_BYTES, 512, 2);
    check(bytes, DISK_BYTES + 512, "VHD");
    check(bytes, DISK_BYTES + 511, "VHD"); /* of early programs */
    check(bytes, DISK_BYTES, "");
    bytes[DISK_BYTES + 100] ^= 1; /* the checksum does not fit */
    check(bytes, DISK_BYTES + 512, "");
    put_vhd_footer(bytes + DISK_BYTES, 512, 3); /* the copy of a dynamic one's header */
    check(bytes, DISK_BYTES + 512, "");
    put_vhd_footer(bytes + DISK_BYTES - 512, 512, 2); /* at another place */
    memset(bytes + DISK_BYTES, 0, 512);
    check(bytes, DISK_BYTES + 512, "");
}

static void
test_dmg_trailer(void)
{
    g_autofree uint8_t *bytes = g_malloc0(DISK_BYTES);
    uint8_t *trailer = bytes + DISK_BYTES - 512 - 100;

    memcpy(trailer, "koly", 4);
    put_be32(trailer + 4, 4);
    put_be32(trailer + 8, 512);
    check(bytes, DISK_BYTES - 100, "dmg");
    check(bytes, DISK_BYTES, "dmg");
    check(bytes, DISK_BYTES - 101, "");
    put_be32(trailer + 8, 511);
    check(bytes, DISK_BYTES, "");
    memset(trailer, 0, 512);
    memcpy(bytes + DISK_BYTES - 8, "cdsaencr", 8);
    check(bytes, DISK_BYTES, "encrypted");
    check(bytes, DISK_BYTES - 1, "");
}

static void
put_tar_header(uint8_t *bytes, const char *name)
{
    uint32_t sum = 0;

    memset(bytes, 0, 512);
    strcpy((char *)bytes, name);
    memcpy(bytes + 257, "ustar", 6);
    memset(bytes + 148, ' ', 8);
    for (size_t i = 0; i < 512; i++)
        sum += bytes[i];
    g_snprintf((char *)bytes + 148, 7, "%06o", sum);
}

static void
test_tar(void)
{
    g_autofree uint8_t *bytes = g_malloc0(DISK_BYTES);

    put_tar_header(bytes, "disk.img");
    check(bytes, DISK_BYTES, "tar archive");
    check(bytes, 512, "tar archive");
    check(bytes, 511, "");
    bytes[0] ^= 1; /* the checksum does not fit */
    check(bytes, DISK_BYTES, "");
    put_tar_header(bytes, "machine.OVF");
    check(bytes, DISK_BYTES, "OVA");
    bytes[20] ^= 1;
    check(bytes, DISK_BYTES, "");
    memset(bytes + 148, ' ', 512); /* no digit at all */
    memcpy(bytes + 257, "ustar", 6);
    check(bytes, 512, "");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/foreign/heads", test_heads);
    g_test_add_func("/foreign/vhd-footer", test_vhd_footer);
    g_test_add_func("/foreign/dmg-trailer", test_dmg_trailer);
    g_test_add_func("/foreign/tar", test_tar);
    return g_test_run();
}
