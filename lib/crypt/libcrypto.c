/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Loading libcrypto. */
#include "crypt/libcrypto.h"

#include <dlfcn.h>

#include "base/errors.h"

#ifdef LIBCRYPTO_IS_LINKED

bool
libcrypto_load(GError **error)
{
    (void)error;
    return true;
}

const Libcrypto *
libcrypto(void)
{
    static const Libcrypto functions = {
#define LIBCRYPTO_VALUE(name) name,
        LIBCRYPTO_FUNCTIONS(LIBCRYPTO_VALUE)
#undef LIBCRYPTO_VALUE
    };

    return &functions;
}

#else

/* The release whose headers this was compiled with. */
#ifdef OPENSSL_SHLIB_VERSION
#define LIBCRYPTO_FILE "libcrypto.so." G_STRINGIFY(OPENSSL_SHLIB_VERSION)
#else
#define LIBCRYPTO_FILE "libcrypto.so." SHLIB_VERSION_NUMBER
#endif

static Libcrypto functions;

/* The reason why it cannot be used, static or of the loader; NULL: it is loaded. */
static const char *
load_functions(void)
{
    void *library = dlopen(LIBCRYPTO_FILE, RTLD_NOW | RTLD_LOCAL);

    if (!library)
        return dlerror();
        /* Expanded first: some names are macros for the functions' names. */
#define LIBCRYPTO_FIND(name)                                                             \
    *(void **)&functions.name = dlsym(library, G_STRINGIFY(name));                       \
    if (!functions.name)                                                                 \
        return "it has no function " G_STRINGIFY(name);
    LIBCRYPTO_FUNCTIONS(LIBCRYPTO_FIND)
#undef LIBCRYPTO_FIND
    return NULL;
}

bool
libcrypto_load(GError **error)
{
    static gsize once;
    static char *failure;

    if (g_once_init_enter(&once)) {
        failure = g_strdup(load_functions());
        g_once_init_leave(&once, 1);
    }
    if (!failure)
        return true;
    qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                   "needs " LIBCRYPTO_FILE
                   ", which cannot be loaded: %s (install OpenSSL)",
                   failure);
    return false;
}

const Libcrypto *
libcrypto(void)
{
    g_autoptr(GError) error = NULL;

    if (!libcrypto_load(&error))
        g_error("%s", error->message);
    return &functions;
}

#endif
