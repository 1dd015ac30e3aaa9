/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "memory-image.h"

#include <string.h>

#include "image/chain/options.h"
#include "image/image.h"
#include "image/open/chain-open.h"
#include "memory-storage.h"

GByteArray *
memory_image_create(const QimgDriver *driver, const QimgCreateOptions *options)
{
    QimgStorage *file = memory_storage_new_writable("", 0, "new");
    g_autoptr(GError) error = NULL;
    GByteArray *bytes;

    g_assert_true(driver->create(file, options, &error));
    g_assert_no_error(error);
    bytes = memory_storage_copy_all(file);
    qimg_storage_close(file);
    return bytes;
}

/* @format_name: NULL to probe; @passphrase: NULL for none. */
static MemoryImage
open_as(const GByteArray *bytes, const char *format_name, const char *passphrase)
{
    MemoryImage image = {
        .file = memory_storage_new_writable(bytes->data, bytes->len, "image")};
    g_autoptr(QimgOptions) options = qimg_options_new();
    g_autoptr(GError) error = NULL;
    QimgChain *chain;

    options->is_writable = options->is_growable = true;
    if (format_name)
        qimg_options_set(options, "format", format_name, NULL);
    if (passphrase)
        qimg_options_add_passphrase(options, passphrase, strlen(passphrase), 0, &error);
    g_assert_no_error(error);
    chain = chain_open_storages(&image.file, 1, options, &error);
    g_assert_no_error(error);
    image.data = image.file;
    image.disk = image_new(chain, 0, &chain->layers[0]->active);
    chain_unref(chain);
    return image;
}

MemoryImage
memory_image_open(const GByteArray *bytes)
{
    return open_as(bytes, NULL, NULL);
}

MemoryImage
memory_image_open_encrypted(const GByteArray *bytes, const char *passphrase)
{
    return open_as(bytes, NULL, passphrase);
}

MemoryImage
memory_image_new(const QimgDriver *driver, const QimgCreateOptions *options)
{
    g_autoptr(GByteArray) bytes = memory_image_create(driver, options);
    MemoryImage image = open_as(bytes, driver->name, NULL);

    if (options->data_file_name)
        image.disk->chain->layers[0]->data_file = image.data =
            memory_storage_new_writable("", 0, "data");
    return image;
}
