/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Message digests, by libcrypto; and the digests of a chain's files. */
#include "copy/copy-digest.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/errors.h"
#include "base/workers.h"
#include "base/zeros.h"
#include "copy/copy-zeros.h"
#include "crypt/libcrypto.h"

#define READ_BYTES QIMG_MIB

static const char *const names[COPY_N_DIGESTS] = {
    [QIMG_DIGEST_MD5] = "md5",
    [QIMG_DIGEST_SHA1] = "sha1",
    [QIMG_DIGEST_SHA256] = "sha256",
};

const char *
qimg_digest_get_name(QimgDigest digest)
{
    return (unsigned)digest < COPY_N_DIGESTS ? names[digest] : NULL;
}

gboolean
qimg_digest_find(const char *name, QimgDigest *digest_out)
{
    for (unsigned i = 0; i < COPY_N_DIGESTS; i++) {
        if (strcmp(names[i], name) == 0) {
            *digest_out = (QimgDigest)i;
            return TRUE;
        }
    }
    return FALSE;
}

struct CopyDigest {
    EVP_MD_CTX *context;
};

/* libcrypto fails if memory is short, or if we misuse it. */
static void
digest_must(int result)
{
    if (result != 1)
        g_error("libcrypto failed to compute a digest");
}

CopyDigest *
copy_digest_new(QimgDigest kind, GError **error)
{
    EVP_MD_CTX *context;
    const EVP_MD *type;
    CopyDigest *digest;

    if (!libcrypto_load(error))
        return NULL;
    context = libcrypto()->EVP_MD_CTX_new();
    type = libcrypto()->EVP_get_digestbyname(names[kind]);
    if (!context || !type || libcrypto()->EVP_DigestInit_ex(context, type, NULL) != 1) {
        libcrypto()->EVP_MD_CTX_free(context);
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                       "libcrypto does not compute %s here (choose another digest)",
                       names[kind]);
        return NULL;
    }
    digest = g_new(CopyDigest, 1);
    digest->context = context;
    return digest;
}

void
copy_digest_add(CopyDigest *digest, const uint8_t *bytes, uint64_t n_bytes)
{
    while (n_bytes > 0) {
        size_t n = bytes ? n_bytes : qimg_min_u64(n_bytes, COPY_ZEROS_BYTES);

        digest_must(libcrypto()->EVP_DigestUpdate(digest->context,
                                                  bytes ? bytes : qimg_zeros, n));
        n_bytes -= n;
    }
}

char *
copy_digest_finish(CopyDigest *digest)
{
    uint8_t bytes[EVP_MAX_MD_SIZE];
    unsigned n_bytes = 0;
    GString *text = g_string_new(NULL);

    digest_must(libcrypto()->EVP_DigestFinal_ex(digest->context, bytes, &n_bytes));
    for (unsigned i = 0; i < n_bytes; i++)
        g_string_append_printf(text, "%02x", bytes[i]);
    copy_digest_free(digest);
    return g_string_free(text, FALSE);
}

void
copy_digest_free(CopyDigest *digest)
{
    if (!digest)
        return;
    libcrypto()->EVP_MD_CTX_free(digest->context);
    g_free(digest);
}

/* ---- the files of a chain ---- */

struct FileDigests {
    unsigned kinds;
    const _Atomic bool *stop;
    const QimgImage *image; /* const */
    FileDigest *results;    /* each is written by the thread that took its index */
    unsigned n_files;       /* const */
    atomic_uint next_index; /* atomic, relaxed: hands out indices */
    pthread_t *threads;
    unsigned n_threads; /* running ones */
};

static void
free_all(CopyDigest **digests)
{
    for (unsigned i = 0; i < COPY_N_DIGESTS; i++)
        copy_digest_free(digests[i]);
}

/* Adds the whole of @file to @digests. */
static QimgErrno
digest_add_file(FileDigests *all, const QimgFile *file, uint8_t *buffer,
                CopyDigest **digests)
{
    for (uint64_t done = 0;;) {
        ssize_t n = pread(file->fd, buffer, READ_BYTES, (off_t)done);

        if (atomic_load_explicit(all->stop, memory_order_relaxed))
            return -ECANCELED;
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : 0;
        for (unsigned i = 0; i < COPY_N_DIGESTS; i++)
            if (digests[i])
                copy_digest_add(digests[i], buffer, (size_t)n);
        done += (uint64_t)n;
    }
}

static void
digest_file(FileDigests *all, unsigned index, uint8_t *buffer)
{
    FileDigest *result = &all->results[index];
    CopyDigest *digests[COPY_N_DIGESTS] = {NULL};
    GError *error = NULL;

    for (unsigned i = 0; i < COPY_N_DIGESTS && !error; i++)
        if (all->kinds & 1u << i)
            digests[i] = copy_digest_new((QimgDigest)i, &error);
    if (error) {
        result->error = g_strdup(error->message);
        g_error_free(error);
    } else {
        QimgFile file = {.struct_bytes = sizeof file};
        QimgErrno err = qimg_image_get_file(all->image, index, &file)
                            ? digest_add_file(all, &file, buffer, digests)
                            : -EBADF;

        if (err)
            result->error = g_strdup(g_strerror(-err));
    }
    for (unsigned i = 0; i < COPY_N_DIGESTS && !result->error; i++)
        if (digests[i])
            result->digests[i] = copy_digest_finish(g_steal_pointer(&digests[i]));
    free_all(digests);
}

static void *
file_thread_main(void *user)
{
    FileDigests *all = user;
    g_autofree uint8_t *buffer = g_malloc(READ_BYTES);
    unsigned index;

    while ((index = atomic_fetch_add_explicit(&all->next_index, 1,
                                              memory_order_relaxed)) < all->n_files)
        digest_file(all, index, buffer);
    return NULL;
}

FileDigests *
file_digests_start(const QimgImage *image, unsigned kinds, unsigned n_threads,
                   const _Atomic bool *stop)
{
    FileDigests *all = g_new0(FileDigests, 1);
    QimgFile file = {.struct_bytes = sizeof file};

    all->image = image;
    all->kinds = kinds;
    all->stop = stop;
    while (qimg_image_get_file(image, all->n_files, &file))
        all->n_files++;
    all->results = g_new0(FileDigest, all->n_files);
    for (unsigned i = 0; qimg_image_get_file(image, i, &file); i++)
        all->results[i].path = file.path;
    n_threads = MIN(n_threads, all->n_files);
    all->threads = g_new0(pthread_t, n_threads);
    for (; all->n_threads < n_threads; all->n_threads++)
        if (!qimg_thread_start(&all->threads[all->n_threads], file_thread_main, all))
            break;
    return all;
}

void
file_digests_join(FileDigests *digests)
{
    for (; digests->n_threads > 0; digests->n_threads--)
        pthread_join(digests->threads[digests->n_threads - 1], NULL);
    /* The remaining files, if no thread could be created. */
    file_thread_main(digests);
}

unsigned
file_digests_get_n(const FileDigests *digests)
{
    return digests->n_files;
}

const FileDigest *
file_digests_get(const FileDigests *digests, unsigned file)
{
    return &digests->results[file];
}

void
file_digests_free(FileDigests *digests)
{
    if (!digests)
        return;
    file_digests_join(digests);
    for (unsigned i = 0; i < digests->n_files; i++) {
        g_free(digests->results[i].error);
        for (unsigned j = 0; j < COPY_N_DIGESTS; j++)
            g_free(digests->results[i].digests[j]);
    }
    g_free(digests->results);
    g_free(digests->threads);
    g_free(digests);
}
