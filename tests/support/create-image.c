/* SPDX-License-Identifier: GPL-2.0-or-later */
/* create-image FILE FIELD=VALUE...: makes a qcow2 image by the driver's own create, with
 * the fields of QimgCreateOptions, for tests that compare it with what QEMU makes of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "format/driver.h"
#include "storage/file.h"

static bool
set_field(QimgCreateOptions *o, const char *name, const char *value)
{
    guint64 number = 0;

    if (strcmp(name, "backing_name") == 0) {
        o->backing_name = value;
    } else if (strcmp(name, "backing_format") == 0) {
        o->backing_format = value;
    } else if (strcmp(name, "data_file_name") == 0) {
        o->data_file_name = value;
    } else if (!g_ascii_string_to_unsigned(value, 10, 0, G_MAXUINT64, &number, NULL)) {
        return false;
    } else if (strcmp(name, "size") == 0) {
        o->size_bytes = number;
    } else if (strcmp(name, "version") == 0) {
        o->version = (unsigned)number;
    } else if (strcmp(name, "cluster_bits") == 0) {
        o->cluster_bits = (unsigned)number;
    } else if (strcmp(name, "refcount_order") == 0) {
        o->refcount_order = (unsigned)number;
    } else if (strcmp(name, "zstd") == 0) {
        o->compression = number ? QIMG_CODEC_ZSTD : QIMG_CODEC_DEFLATE;
    } else if (strcmp(name, "extended_l2") == 0) {
        o->extended_l2 = number != 0;
    } else if (strcmp(name, "lazy_refcounts") == 0) {
        o->lazy_refcounts = number != 0;
    } else if (strcmp(name, "data_file_raw") == 0) {
        o->data_file_raw = number != 0;
    } else {
        return false;
    }
    return true;
}

int
main(int argc, char **argv)
{
    QimgCreateOptions options = {.version = 3, .cluster_bits = 16, .refcount_order = 4};
    g_autoptr(GError) error = NULL;
    QimgStorage *file = NULL;
    bool ok = false;
    int fd;

    for (int i = 2; i < argc; i++) {
        g_auto(GStrv) pair = g_strsplit(argv[i], "=", 2);

        if (!pair[0] || !pair[1] ||
            !set_field(&options, pair[0], strchr(argv[i], '=') + 1)) {
            fprintf(stderr, "create-image: %s: no FIELD=VALUE\n", argv[i]);
            return 2;
        }
    }
    if (argc < 2) {
        fprintf(stderr, "usage: create-image FILE FIELD=VALUE...\n");
        return 2;
    }
    fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) {
        perror(argv[1]);
        return 2;
    }
    file = qimg_file_storage_new(fd, argv[1], true, &error);
    ok = file && qimg_driver_find("qcow2")->create(file, &options, &error);
    qimg_storage_close(file);
    if (!ok)
        fprintf(stderr, "create-image: %s\n", error->message);
    return ok ? 0 : 1;
}
