/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libcrypto knows more names than the headers may have. */
#include "crypt/hash.h"

#include <glib.h>

#include "crypt/libcrypto.h"

const EVP_MD *
qimg_hash_find(const char *name)
{
    /* Spec: encryption section 3.3. */
    static const char *const names[] = {
        "md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "sm3", NULL};

    return g_strv_contains(names, name) ? libcrypto()->EVP_get_digestbyname(name) : NULL;
}
