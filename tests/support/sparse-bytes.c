/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pages in a hash table by their index plus one. Bytes of a page past the array's end are
 * always zeros. */
#include "sparse-bytes.h"

#include <string.h>

struct SparseBytes {
    GHashTable *pages;
    uint64_t size_bytes;
    uint64_t capacity_bytes;
};

SparseBytes *
sparse_bytes_new(uint64_t size_bytes)
{
    SparseBytes *s = g_new0(SparseBytes, 1);

    s->pages = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, g_free);
    s->size_bytes = size_bytes;
    s->capacity_bytes = UINT64_MAX;
    return s;
}

void
sparse_bytes_free(SparseBytes *s)
{
    if (!s)
        return;
    g_hash_table_destroy(s->pages);
    g_free(s);
}

uint64_t
sparse_bytes_size(const SparseBytes *s)
{
    return s->size_bytes;
}

uint64_t
sparse_bytes_used(const SparseBytes *s)
{
    return (uint64_t)g_hash_table_size(s->pages) * SPARSE_PAGE_BYTES;
}

void
sparse_bytes_set_capacity(SparseBytes *s, uint64_t n_bytes)
{
    s->capacity_bytes = n_bytes;
}

static uint8_t *
find_page(const SparseBytes *s, uint64_t page_index)
{
    return g_hash_table_lookup(s->pages, GSIZE_TO_POINTER(page_index + 1));
}

/* The page, added if missing; NULL if there is no room. */
static uint8_t *
ensure_page(SparseBytes *s, uint64_t page_index)
{
    uint8_t *page = find_page(s, page_index);

    if (page || s->capacity_bytes < sparse_bytes_used(s) + SPARSE_PAGE_BYTES)
        return page;
    page = g_malloc0(SPARSE_PAGE_BYTES);
    g_hash_table_insert(s->pages, GSIZE_TO_POINTER(page_index + 1), page);
    return page;
}

static void
drop_page(SparseBytes *s, uint64_t page_index)
{
    g_hash_table_remove(s->pages, GSIZE_TO_POINTER(page_index + 1));
}

static gboolean
is_page_behind(gpointer key, gpointer value, gpointer first_page)
{
    (void)value;
    return GPOINTER_TO_SIZE(key) - 1 >= *(const uint64_t *)first_page;
}

void
sparse_bytes_set_size(SparseBytes *s, uint64_t size_bytes)
{
    uint64_t n_pages =
        size_bytes / SPARSE_PAGE_BYTES + (size_bytes % SPARSE_PAGE_BYTES > 0);
    uint8_t *last = size_bytes % SPARSE_PAGE_BYTES
                        ? find_page(s, size_bytes / SPARSE_PAGE_BYTES)
                        : NULL;

    if (size_bytes < s->size_bytes) {
        g_hash_table_foreach_remove(s->pages, is_page_behind, &n_pages);
        if (last)
            memset(last + size_bytes % SPARSE_PAGE_BYTES, 0,
                   SPARSE_PAGE_BYTES - size_bytes % SPARSE_PAGE_BYTES);
    }
    s->size_bytes = size_bytes;
}

/* The bytes from @offset to the end of its page, at most @n_bytes. */
static size_t
in_page(uint64_t offset, uint64_t n_bytes)
{
    return MIN(n_bytes, SPARSE_PAGE_BYTES - offset % SPARSE_PAGE_BYTES);
}

void
sparse_bytes_read(const SparseBytes *s, uint64_t offset, void *buffer, size_t n_bytes)
{
    uint8_t *to = buffer;

    while (n_bytes > 0) {
        size_t n = in_page(offset, n_bytes);
        const uint8_t *page = find_page(s, offset / SPARSE_PAGE_BYTES);

        if (page)
            memcpy(to, page + offset % SPARSE_PAGE_BYTES, n);
        else
            memset(to, 0, n);
        offset += n;
        to += n;
        n_bytes -= n;
    }
}

size_t
sparse_bytes_write(SparseBytes *s, uint64_t offset, const void *buffer, size_t n_bytes)
{
    const uint8_t *from = buffer;
    size_t done = 0;

    while (done < n_bytes) {
        size_t n = in_page(offset + done, n_bytes - done);
        uint8_t *page = ensure_page(s, (offset + done) / SPARSE_PAGE_BYTES);

        if (!page)
            break;
        memcpy(page + (offset + done) % SPARSE_PAGE_BYTES, from + done, n);
        done += n;
    }
    if (done > 0)
        s->size_bytes = MAX(s->size_bytes, offset + done);
    return done;
}

void
sparse_bytes_punch(SparseBytes *s, uint64_t offset, uint64_t n_bytes)
{
    uint64_t end =
        offset < s->size_bytes ? offset + MIN(n_bytes, s->size_bytes - offset) : offset;

    while (offset < end) {
        size_t n = in_page(offset, end - offset);
        uint8_t *page = find_page(s, offset / SPARSE_PAGE_BYTES);

        if (page && n < SPARSE_PAGE_BYTES)
            memset(page + offset % SPARSE_PAGE_BYTES, 0, n);
        else if (page)
            drop_page(s, offset / SPARSE_PAGE_BYTES);
        offset += n;
    }
}

bool
sparse_bytes_allocate(SparseBytes *s, uint64_t offset, uint64_t n_bytes)
{
    uint64_t first = offset / SPARSE_PAGE_BYTES;
    uint64_t end = (offset + n_bytes + SPARSE_PAGE_BYTES - 1) / SPARSE_PAGE_BYTES;
    uint64_t n_missing = 0;

    for (uint64_t i = first; i < end; i++)
        n_missing += !find_page(s, i);
    if (n_missing > (s->capacity_bytes - MIN(s->capacity_bytes, sparse_bytes_used(s))) /
                        SPARSE_PAGE_BYTES)
        return false;
    for (uint64_t i = first; i < end; i++)
        ensure_page(s, i);
    return true;
}
