/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stored names of backing files, mainly json: ones. Input: the name. */
#include <string.h>

#include "codec/qcow2-header.h"
#include "fuzz.h"
#include "image/chain/backing-name.h"
#include "qimg.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    g_autofree char *name = NULL;
    g_autofree char *path = NULL;
    g_autofree char *format = NULL;
    g_autoptr(GError) error = NULL;

    /* The header decoder refuses longer names, and NULs. */
    if (n_bytes > QCOW2_MAX_BACKING_NAME || memchr(bytes, 0, n_bytes))
        return 0;
    name = g_strndup((const char *)bytes, n_bytes);
    if (backing_name_parse(name, &path, &format, &error)) {
        FUZZ_CHECK(path != NULL && error == NULL);
    } else {
        FUZZ_CHECK(path == NULL && format == NULL);
        FUZZ_CHECK(error != NULL && error->domain == QIMG_ERROR);
        FUZZ_CHECK(strpbrk(error->message, "\n\r\033") == NULL);
    }
    return 0;
}
