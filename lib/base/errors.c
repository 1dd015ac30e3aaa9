/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The error domain of the library; see errors.def for its codes. */
#include "base/errors.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>

/* As G_DEFINE_QUARK, which stores the quark without an atomic access. */
GQuark
qimg_error_quark(void)
{
    static _Atomic GQuark quark; /* atomic, relaxed: each thread stores the same */
    GQuark known = atomic_load_explicit(&quark, memory_order_relaxed);

    if (known == 0) {
        known = g_quark_from_static_string("qimg-error-quark");
        atomic_store_explicit(&quark, known, memory_order_relaxed);
    }
    return known;
}

enum {
#define X(name, errnum, meaning) TABLE_##name,
#include "base/errors.def"
#undef X
};

#define X(name, errnum, meaning)                                                         \
    _Static_assert((int)QIMG_ERROR_##name == (int)TABLE_##name,                          \
                   "qimg.h and errors.def list the codes in one order");
#include "base/errors.def"
#undef X

int
qimg_error_to_errno(const GError *error)
{
    static const int errnums[] = {
#define X(name, errnum, meaning) errnum,
#include "base/errors.def"
#undef X
    };

    if (!error || error->domain != QIMG_ERROR || error->code < 0 ||
        error->code >= (int)G_N_ELEMENTS(errnums))
        return EIO;
    return errnums[error->code];
}

void
qimg_set_error(GError **error, QimgError code, const char *format, ...)
{
    va_list args;

    if (!error)
        return;
    va_start(args, format);
    *error = g_error_new_valist(QIMG_ERROR, (int)code, format, args);
    va_end(args);
}

bool
qimg_misuse(GError **error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    if (error)
        *error = g_error_new_valist(QIMG_ERROR, QIMG_ERROR_USAGE, format, args);
    va_end(args);
    return false;
}

void
qimg_set_error_errno(GError **error, int errnum, const char *hint, const char *format,
                     ...)
{
    va_list args;
    g_autofree char *text = NULL;
    QimgError code = QIMG_ERROR_FAILED;

    if (!error)
        return;
    if (errnum == ENOENT)
        code = QIMG_ERROR_NOT_FOUND;
    else if (errnum == ENOMEM)
        code = QIMG_ERROR_NO_MEMORY;
    else if (errnum == ECANCELED)
        code = QIMG_ERROR_CANCELED;
    else if (errnum == EMFILE) /* whatever was to be opened */
        hint = "raise the limit of open files, ulimit -n";
    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    *error = g_error_new(QIMG_ERROR, (int)code, "%s: %s%s%s%s", text, g_strerror(errnum),
                         hint ? " (" : "", hint ? hint : "", hint ? ")" : "");
}
