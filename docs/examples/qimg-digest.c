/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Prints the size of a disk image and the SHA-256 digest of the disk that it holds.
 *
 *     cc qimg-digest.c -o qimg-digest $(pkg-config --cflags --libs qimg)
 *     ./qimg-digest disk.qcow2
 */
#include <qimg.h>
#include <stdio.h>
#include <string.h>

#define CHUNK_BYTES ((size_t)1 << 20)

/* Digest of the whole disk in hexadecimal digits, or NULL after printing why not. */
static char *
digest_of(QimgImage *image, const char *path)
{
    g_autoptr(GChecksum) checksum = g_checksum_new(G_CHECKSUM_SHA256);
    g_autofree guchar *buffer = g_malloc(CHUNK_BYTES);
    uint64_t size_bytes = qimg_image_get_size_bytes(image);

    for (uint64_t offset = 0; offset < size_bytes; offset += CHUNK_BYTES) {
        size_t n_bytes = (size_t)MIN(CHUNK_BYTES, size_bytes - offset);
        int err = qimg_image_read(image, offset, buffer, n_bytes);

        if (err) {
            fprintf(stderr, "%s: cannot read at %" G_GUINT64_FORMAT ": %s\n", path,
                    (guint64)offset, strerror(-err));
            return NULL;
        }
        g_checksum_update(checksum, buffer, (gssize)n_bytes);
    }
    return g_strdup(g_checksum_get_string(checksum));
}

int
main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QimgImage) image = NULL;
    g_autofree char *digest = NULL;

    if (argc != 2) {
        fprintf(stderr, "usage: qimg-digest IMAGE\n");
        return 2;
    }
    /* NULL: the default options. The format is probed, the backing files come with it. */
    image = qimg_image_open(argv[1], NULL, &error);
    if (!image) {
        fprintf(stderr, "%s: %s\n", argv[1], error->message);
        return 1;
    }
    for (const char *const *w = qimg_image_get_warnings(image); *w; w++)
        fprintf(stderr, "warning: %s\n", *w);
    digest = digest_of(image, argv[1]);
    if (!digest)
        return 1;
    printf("%" G_GUINT64_FORMAT " %s\n", (guint64)qimg_image_get_size_bytes(image),
           digest);
    return 0;
}
