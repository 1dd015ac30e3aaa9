/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/foreign.h"

#include <string.h>

#include <glib.h>

#define CONVERT "convert it with qemu-img convert"

#define MAGIC(position, text) position, sizeof(text) - 1, text

static const struct {
    QimgForeign format;
    size_t position;
    size_t n_bytes;
    const char *magic;
} formats[] = {
    {{"a VMDK image", CONVERT}, MAGIC(0, "KDMV")},
    {{"a VMDK image", CONVERT}, MAGIC(0, "COWD")},
    {{"a VMDK image", CONVERT}, MAGIC(0, "# Disk DescriptorFile")},
    {{"a VHDX image", CONVERT}, MAGIC(0, "vhdxfile")},
    {{"a VHD image", CONVERT}, MAGIC(0, "conectix")},
    {{"a VDI image", CONVERT}, MAGIC(64, "\x7f\x10\xda\xbe")},
    {{"a Parallels image", CONVERT}, MAGIC(0, "WithoutFreeSpace")},
    {{"a Parallels image", CONVERT}, MAGIC(0, "WithouFreSpacExt")},
    {{"a Bochs image", CONVERT}, MAGIC(0, "Bochs Virtual HD Image")},
    {{"a cloop image", CONVERT}, MAGIC(0, "#!/bin/sh\n#V2.0 Format\n")},
    /* A guest may have made one of its whole disk: only the user can tell. */
    {{"a LUKS container", "open it with cryptsetup"}, MAGIC(0, "LUKS\xba\xbe")},
};

const QimgForeign *
qimg_foreign_find(const uint8_t *bytes, size_t n_bytes)
{
    for (size_t i = 0; i < G_N_ELEMENTS(formats); i++)
        if (n_bytes >= formats[i].position + formats[i].n_bytes &&
            memcmp(bytes + formats[i].position, formats[i].magic, formats[i].n_bytes) ==
                0)
            return &formats[i].format;
    return NULL;
}
