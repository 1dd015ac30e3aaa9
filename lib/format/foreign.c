/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/foreign.h"

#include <string.h>

#include <glib.h>

#include "base/checked.h"
#include "base/endian.h"

#define CONVERT "convert it with qemu-img convert"

typedef QimgForeignBytes Bytes;

/* ---- fields ---------------------------------------------------------------------------
 */

static bool
has_at(const Bytes *b, size_t position, const char *text, size_t n_text)
{
    return b->n_head >= position + n_text &&
           memcmp(b->head + position, text, n_text) == 0;
}

#define HAS(b, position, text) has_at(b, position, text, sizeof(text) - 1)

/* The integer at @position; 0 if the file ends before it. */
static uint32_t
le32_at(const Bytes *b, size_t position)
{
    return b->n_head >= position + sizeof(qimg_le32) ? qimg_le32_at(b->head + position)
                                                     : 0;
}

static uint8_t
byte_at(const Bytes *b, size_t position)
{
    return position < b->n_head ? b->head[position] : 0;
}

/* ---- disk formats ---------------------------------------------------------------------
 */

/* A VMDK descriptor: comments and blank lines, then the version. */
static bool
is_vmdk_descriptor(const Bytes *b)
{
    static const char version[] = "version=";
    const char *at = (const char *)b->head, *end = at + b->n_head;

    while (at < end && (*at == '#' || g_ascii_isspace(*at))) {
        const char *line_end = *at == '#' ? memchr(at, '\n', (size_t)(end - at)) : at;

        if (!line_end)
            return false;
        at = line_end + 1;
    }
    return (size_t)(end - at) > sizeof version &&
           memcmp(at, version, sizeof version - 1) == 0 && at[8] >= '1' && at[8] <= '3' &&
           (at[9] == '\n' || at[9] == '\r');
}

#define VHD_FOOTER_BYTES 512u
#define VHD_CHECKSUM_AT  64u
#define VHD_TYPE_AT      60u
#define VHD_TYPE_FIXED   2u

/* The footer of a fixed VHD, which otherwise is a raw disk. Early programs wrote one of
 * 511 bytes. */
static bool
is_fixed_vhd(const Bytes *b)
{
    for (size_t n_footer = VHD_FOOTER_BYTES - 1; n_footer <= VHD_FOOTER_BYTES;
         n_footer++) {
        const uint8_t *footer;
        uint32_t sum = 0;

        if (b->n_tail < n_footer || b->size_bytes == n_footer)
            return false;
        footer = b->tail + b->n_tail - n_footer;
        if (memcmp(footer, "conectix", 8) != 0)
            continue;
        for (size_t i = 0; i < n_footer; i++)
            if (i < VHD_CHECKSUM_AT || i >= VHD_CHECKSUM_AT + 4)
                sum += footer[i];
        if (~sum == qimg_be32_at(footer + VHD_CHECKSUM_AT) &&
            qimg_be32_at(footer + VHD_TYPE_AT) == VHD_TYPE_FIXED)
            return true;
    }
    return false;
}

#define DMG_TRAILER_BYTES 512u

/* Disk Copy's trailer, the last sector of the file; where that is no multiple of a
 * sector, the trailer may lie up to 511 bytes before its end. */
static bool
is_dmg(const Bytes *b)
{
    for (size_t at = 0; at + DMG_TRAILER_BYTES <= b->n_tail; at++) {
        const uint8_t *trailer = b->tail + at;

        if (memcmp(trailer, "koly", 4) == 0 && qimg_be32_at(trailer + 4) == 4 &&
            qimg_be32_at(trailer + 8) == DMG_TRAILER_BYTES)
            return true;
    }
    return false;
}

static bool
is_encrypted_dmg_1(const Bytes *b)
{
    return b->n_tail >= 8 && memcmp(b->tail + b->n_tail - 8, "cdsaencr", 8) == 0;
}

static bool
is_sparse_image(const Bytes *b)
{
    return b->n_head >= 8 && qimg_be32_at(b->head + 4) == 3;
}

static bool
is_android_sparse(const Bytes *b)
{
    return le32_at(b, 4) == 1 && le32_at(b, 8) == (12u << 16 | 28u);
}

static bool
is_vma(const Bytes *b)
{
    return b->n_head >= 8 && qimg_be32_at(b->head + 4) == 1;
}

/* ---- archives -------------------------------------------------------------------------
 */

static bool
is_gzip(const Bytes *b)
{
    uint8_t extra = byte_at(b, 8), system = byte_at(b, 9);

    return b->n_head >= 10 && !(b->head[3] & 0xe0) &&
           (extra == 0 || extra == 2 || extra == 4) && (system <= 13 || system == 255);
}

#define ZSTD_MAGIC      0xfd2fb528u
#define ZSTD_SKIP_MAGIC 0x184d2a50u

/* A frame, whose reserved bit is clear, or one to be skipped and another frame. */
static bool
is_zstd(const Bytes *b)
{
    uint64_t next = 8 + (uint64_t)le32_at(b, 4);

    if (le32_at(b, 0) == ZSTD_MAGIC)
        return b->n_head > 4 && !(b->head[4] & 0x08);
    return (le32_at(b, 0) & ~0xfu) == ZSTD_SKIP_MAGIC && next < b->n_head &&
           le32_at(b, next) == ZSTD_MAGIC;
}

static bool
is_bzip2(const Bytes *b)
{
    return byte_at(b, 3) >= '1' && byte_at(b, 3) <= '9' &&
           (HAS(b, 4, "1AY&SY") || HAS(b, 4, "\x17\x72\x45\x38\x50\x90"));
}

static bool
is_lzip(const Bytes *b)
{
    return byte_at(b, 4) == 1 && (byte_at(b, 5) & 0x1f) >= 12;
}

static bool
is_lz4(const Bytes *b)
{
    return (byte_at(b, 4) & 0xc2) == 0x40 && !(byte_at(b, 5) & 0x8f);
}

#define TAR_BLOCK_BYTES 512u
#define TAR_CHECKSUM_AT 148u
#define TAR_MAGIC_AT    257u

/* The header of the first member: its checksum is right. */
static bool
is_tar(const Bytes *b)
{
    uint32_t sum = 0, told = 0;
    size_t digit = TAR_CHECKSUM_AT;

    if (b->n_head < TAR_BLOCK_BYTES || !HAS(b, TAR_MAGIC_AT, "ustar"))
        return false;
    for (size_t i = 0; i < TAR_BLOCK_BYTES; i++)
        sum += i - TAR_CHECKSUM_AT < 8 ? (uint8_t)' ' : b->head[i];
    while (digit < TAR_CHECKSUM_AT + 8 && b->head[digit] == ' ')
        digit++;
    while (digit < TAR_CHECKSUM_AT + 8 && b->head[digit] >= '0' && b->head[digit] <= '7')
        told = told * 8 + (b->head[digit++] - (uint8_t)'0');
    return told == sum;
}

/* Whether the tar's first member is the descriptor of an appliance. */
static bool
is_ova(const Bytes *b)
{
    size_t n_name =
        b->n_head >= TAR_BLOCK_BYTES ? strnlen((const char *)b->head, 100) : 0;

    return n_name > 4 &&
           g_ascii_strncasecmp((const char *)b->head + n_name - 4, ".ovf", 4) == 0 &&
           is_tar(b);
}

/* The header of a member: of a version and a method that there are. */
static bool
is_zip_member(const Bytes *b)
{
    return b->n_head >= 30 && byte_at(b, 4) <= 63 && byte_at(b, 9) == 0 &&
           byte_at(b, 8) <= 99;
}

static bool
is_zip(const Bytes *b)
{
    return HAS(b, 0, "PK\3\4")   ? is_zip_member(b)
           : HAS(b, 0, "PK\5\6") ? b->size_bytes >= 22 && le32_at(b, 4) == 0
                                 : HAS(b, 0, "PK\7\10PK\3\4");
}

/* A zip with the description of a volume: its first member, or its comment. */
static bool
is_aff4(const Bytes *b)
{
    static const char mark[] = "aff4://";

    if (!HAS(b, 0, "PK\3\4") || !is_zip_member(b))
        return false;
    if (HAS(b, 30, "container.description"))
        return true;
    for (size_t at = 0; at + 22 + sizeof mark - 1 <= b->n_tail; at++)
        if (memcmp(b->tail + at, "PK\5\6", 4) == 0 &&
            memcmp(b->tail + at + 22, mark, sizeof mark - 1) == 0)
            return true;
    return false;
}

/* ---- what downloads leave -------------------------------------------------------------
 */

/* Whether the file's text begins with @word, in any case. */
static bool
begins_with_word(const Bytes *b, const char *word)
{
    size_t at = HAS(b, 0, "\xef\xbb\xbf") ? 3 : 0, n = strlen(word);

    while (at < b->n_head && g_ascii_isspace(b->head[at]))
        at++;
    return b->n_head - at >= n &&
           g_ascii_strncasecmp((const char *)b->head + at, word, n) == 0;
}

static bool
is_html(const Bytes *b)
{
    return begins_with_word(b, "<!doctype html") || begins_with_word(b, "<html") ||
           begins_with_word(b, "<head>");
}

static bool
is_xml(const Bytes *b)
{
    return begins_with_word(b, "<?xml");
}

static bool
is_empty_file(const Bytes *b)
{
    return b->size_bytes == 0;
}

/* ---- the table ------------------------------------------------------------------------
 */

#define MAGIC(position, text) position, sizeof(text) - 1, text
#define ANY                   0, 0, NULL
#define DISK(what, advice)                                                               \
    {                                                                                    \
        what, advice, true                                                               \
    }
#define OTHER(what, advice)                                                              \
    {                                                                                    \
        what, advice, false                                                              \
    }
#define PAGE_ADVICE                                                                      \
    "the download was answered with it: get the image itself, and compare its checksum"

/* The first row that fits counts. */
static const struct {
    QimgForeign kind;
    size_t position;
    size_t n_bytes;
    const char *magic; /* at position of the head; NULL: fits alone decides */
    bool (*fits)(const Bytes *b);
} rows[] = {
    {DISK("a VMDK image", CONVERT), MAGIC(0, "KDMV"), NULL},
    {DISK("a VMDK image", CONVERT), MAGIC(0, "COWD"), NULL},
    {DISK("a VMDK image", CONVERT), MAGIC(0, "\xbe\xba\xfe\xca\0\0\0\0"), NULL},
    {DISK("a VMDK image", CONVERT), MAGIC(0, "# Disk DescriptorFile"), NULL},
    {DISK("a VMDK image", CONVERT), ANY, is_vmdk_descriptor},
    {DISK("a VHDX image", CONVERT), MAGIC(0, "vhdxfile"), NULL},
    {DISK("a VHD image", CONVERT), MAGIC(0, "conectix"), NULL},
    {DISK("a VHD image of fixed size, a disk with a footer behind it", CONVERT " -f vpc"),
     ANY, is_fixed_vhd},
    {DISK("a VDI image", CONVERT), MAGIC(64, "\x7f\x10\xda\xbe"), NULL},
    {DISK("a Parallels image", CONVERT), MAGIC(0, "WithoutFreeSpace"), NULL},
    {DISK("a Parallels image", CONVERT), MAGIC(0, "WithouFreSpacExt"), NULL},
    {DISK("a Bochs image", CONVERT), MAGIC(0, "Bochs Virtual HD Image"), NULL},
    {DISK("a cloop image", CONVERT), MAGIC(0, "#!/bin/sh\n#V2.0 Format\n"), NULL},
    {DISK("an Apple disk image (dmg)", CONVERT " -f dmg, or dmg2img"), ANY, is_dmg},
    {DISK("an encrypted Apple disk image (dmg)", "open it with vfdecrypt, or on a Mac"),
     MAGIC(0, "encrcdsa"), NULL},
    {DISK("an encrypted Apple disk image (dmg)", "open it with vfdecrypt, or on a Mac"),
     ANY, is_encrypted_dmg_1},
    {DISK("an Apple sparse image", "convert it with hdiutil convert -format UDRW"),
     MAGIC(0, "sprs"), is_sparse_image},
    /* A guest may have made one of its whole disk: only the user can tell. */
    {DISK("a LUKS volume (version 1)", "open it with -o format=luks and its passphrase"),
     MAGIC(0, "LUKS\xba\xbe\0\1"), NULL},
    {DISK("a LUKS volume (version 2)", "open it with cryptsetup"),
     MAGIC(0, "LUKS\xba\xbe\0\2"), NULL},
    {DISK("a LUKS volume", "open it with cryptsetup"), MAGIC(0, "LUKS\xba\xbe"), NULL},
    {DISK("an EnCase image (E01)", "mount it with ewfmount or xmount"),
     MAGIC(0, "EVF\x09\x0d\x0a\xff\0"), NULL},
    {DISK("an EnCase image (Ex01)", "mount it with ewfmount or xmount"),
     MAGIC(0, "EVF2\x0d\x0a\x81\0"), NULL},
    {DISK("EnCase logical evidence (L01), files and no disk",
          "mount it with ewfmount -f files"),
     MAGIC(0, "LVF\x09\x0d\x0a\xff\0"), NULL},
    {DISK("EnCase logical evidence (Lx01), files and no disk",
          "mount it with ewfmount -f files"),
     MAGIC(0, "LEF2\x0d\x0a\x81\0"), NULL},
    {DISK("an AFF image", "mount it with affuse or xmount"), MAGIC(0, "AFF10\r\n\0"),
     NULL},
    {DISK("an AFF4 volume", "mount it with xmount or aff4imager"), ANY, is_aff4},
    {DISK("an FTK image (AD1), files and no disk", "open it with FTK Imager"),
     MAGIC(0, "ADSEGMENTEDFILE\0"), NULL},
    {DISK("an Android sparse image", "unpack it with simg2img"),
     MAGIC(0, "\x3a\xff\x26\xed"), is_android_sparse},
    {DISK("a Proxmox VMA archive", "unpack it with vma extract"), MAGIC(0, "VMA\0"),
     is_vma},
    {DISK("a Partclone image", "unpack it with partclone.restore"),
     MAGIC(0, "partclone-image"), NULL},
    {DISK("an ntfsclone image", "unpack it with ntfsclone --restore-image"),
     MAGIC(0, "\0ntfsclone-image"), NULL},
    {DISK("a virtual appliance (OVA), a tar of VMDK images",
          "unpack it with tar -xf, and convert these with qemu-img convert"),
     ANY, is_ova},
    {OTHER("a Windows image (WIM), files and no disk",
           "mount it with wimmount, or unpack it with wimapply"),
     MAGIC(0, "MSWIM\0\0\0"), NULL},
    {OTHER("a Windows image (WIM), files and no disk", "unpack it with wimapply"),
     MAGIC(0, "WLPWM\0\0\0"), NULL},
    {OTHER("compressed by gzip", "unpack it with gunzip"), MAGIC(0, "\x1f\x8b\x08"),
     is_gzip},
    {OTHER("compressed by xz", "unpack it with unxz"),
     MAGIC(0, "\xfd"
              "7zXZ\0\0"),
     NULL},
    {OTHER("compressed by zstd", "unpack it with unzstd"), ANY, is_zstd},
    {OTHER("compressed by bzip2", "unpack it with bunzip2"), MAGIC(0, "BZh"), is_bzip2},
    {OTHER("compressed by lzip", "unpack it with lzip -d"), MAGIC(0, "LZIP"), is_lzip},
    {OTHER("compressed by lz4", "unpack it with unlz4"), MAGIC(0, "\x04\x22\x4d\x18"),
     is_lz4},
    {OTHER("a zip archive", "unpack it with unzip"), MAGIC(0, "PK"), is_zip},
    {OTHER("a 7z archive", "unpack it with 7z x"), MAGIC(0, "7z\xbc\xaf\x27\x1c\0"),
     NULL},
    {OTHER("a RAR archive", "unpack it with unrar x"), MAGIC(0, "Rar!\x1a\x07"), NULL},
    {OTHER("a cabinet archive", "unpack it with cabextract"), MAGIC(0, "MSCF\0\0\0\0"),
     NULL},
    {OTHER("a tar archive", "unpack it with tar -xf"), ANY, is_tar},
    {OTHER("a web page (HTML)", PAGE_ADVICE), ANY, is_html},
    {OTHER("an XML text", PAGE_ADVICE), ANY, is_xml},
    {OTHER("a pointer of Git LFS", "get the image itself with git lfs pull"),
     MAGIC(0, "version https://git-lfs.github.com/spec/"), NULL},
    {OTHER("an empty file", "get the image anew: a copy or download has failed"), ANY,
     is_empty_file},
};

const QimgForeign *
qimg_foreign_find(const QimgForeignBytes *b)
{
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
        if ((!rows[i].magic ||
             has_at(b, rows[i].position, rows[i].magic, rows[i].n_bytes)) &&
            (!rows[i].fits || rows[i].fits(b)))
            return &rows[i].kind;
    return NULL;
}

QimgErrno
qimg_foreign_probe(QimgStorage *file, const QimgForeign **out)
{
    uint8_t head[QIMG_FOREIGN_HEAD_BYTES], tail[QIMG_FOREIGN_TAIL_BYTES];
    QimgForeignBytes bytes = {.head = head, .tail = tail};
    QimgErrno err = qimg_storage_get_size(file, &bytes.size_bytes);

    bytes.n_head = qimg_min_u64(bytes.size_bytes, sizeof head);
    bytes.n_tail = qimg_min_u64(bytes.size_bytes, sizeof tail);
    if (!err)
        err = qimg_storage_read(file, QIMG_IO_HEADER, qimg_host(0), head, bytes.n_head);
    if (!err)
        err = qimg_storage_read(file, QIMG_IO_HEADER,
                                qimg_host(bytes.size_bytes - bytes.n_tail), tail,
                                bytes.n_tail);
    if (!err)
        *out = qimg_foreign_find(&bytes);
    return err;
}
