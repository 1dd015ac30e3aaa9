/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Secrets on pages of their own. */
#include "crypt/secret.h"

#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "qimg.h"

/* At the start of the pages, before the bytes. */
typedef struct {
    QimgSecret secret;
    size_t mapped_bytes;
} SecretPages;

QimgSecret *
qimg_secret_new(size_t n_bytes)
{
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    size_t mapped_bytes =
        (sizeof(SecretPages) + n_bytes + page_bytes - 1) / page_bytes * page_bytes;
    SecretPages *pages = mmap(NULL, mapped_bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (pages == MAP_FAILED)
        g_error("no memory for a secret of %zu bytes", n_bytes);
    /* Best effort: the limit of locked memory may be 0. */
    (void)mlock(pages, mapped_bytes);
    (void)madvise(pages, mapped_bytes, MADV_DONTDUMP);
    pages->secret = (QimgSecret){.n_bytes = n_bytes, .bytes = (uint8_t *)(pages + 1)};
    pages->mapped_bytes = mapped_bytes;
    return &pages->secret;
}

QimgSecret *
qimg_secret_copy(const void *bytes, size_t n_bytes)
{
    QimgSecret *secret = qimg_secret_new(n_bytes);

    if (n_bytes > 0)
        memcpy(secret->bytes, bytes, n_bytes);
    return secret;
}

void
qimg_secret_free(QimgSecret *secret)
{
    SecretPages *pages = (SecretPages *)secret;

    if (!secret)
        return;
    explicit_bzero(secret->bytes, secret->n_bytes);
    munmap(pages, pages->mapped_bytes);
}

void
qimg_process_hide_memory(void)
{
    /* First: files of a process that is not dumpable belong to root. */
    int fd = open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        if (write(fd, "0", 1) != 1)
            g_debug("core dumps by debuggers stay complete");
        close(fd);
    }
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}
