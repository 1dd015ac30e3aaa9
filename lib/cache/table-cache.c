/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Loads table slices into the slot cache. */
#include "cache/table-cache.h"

#include <sched.h>

#include "base/endian.h"

_Static_assert(sizeof(_Atomic uint64_t) == sizeof(uint64_t),
               "words may be swapped in place");

typedef struct {
    TableFile file;
    QimgHostOffset host_offset;
    unsigned n_words;
    QimgIoPurpose purpose;
} SliceSource;

static QimgErrno
load_slice(void *user, uint64_t key, void *bytes)
{
    const SliceSource *source = user;
    QimgErrno err;

    (void)key;
    err = behind_read(source->file.behind, source->file.storage, source->purpose,
                      source->host_offset, bytes,
                      (size_t)source->n_words * sizeof(uint64_t));
    if (!err && source->file.is_little_endian)
        qimg_le64_array_to_host(bytes, source->n_words);
    else if (!err)
        qimg_be64_array_to_host(bytes, source->n_words);
    return err;
}

QimgErrno
table_cache_pin(TableCache *cache, TableKind kind, TableFile file,
                QimgHostOffset host_offset, unsigned n_words, TableSlice *slice_out)
{
    SliceSource source = {
        .file = file,
        .host_offset = host_offset,
        .n_words = n_words,
        .purpose = kind == TABLE_L1 ? QIMG_IO_L1 : QIMG_IO_L2,
    };
    uint64_t key = table_key(kind, file.layer, host_offset.v / QIMG_SECTOR_BYTES);
    Slot *slot;
    QimgErrno err = slot_cache_pin(cache, key, load_slice, &source, &slot);

    if (err)
        return err;
    *slice_out = (TableSlice){.cache = cache,
                              .slot = slot,
                              .words = slot_bytes(slot),
                              .n_steps = slot_steps(slot)};
    return 0;
}

QimgErrno
table_cache_pin_to_change(TableCache *cache, TableKind kind, TableFile file,
                          QimgHostOffset host_offset, unsigned n_words,
                          TableSlice *slice_out)
{
    for (;;) {
        QimgErrno err =
            table_cache_pin(cache, kind, file, host_offset, n_words, slice_out);

        if (err || !slot_is_own(slice_out->slot))
            return err;
        /* All slots available to it are pinned, briefly. */
        table_slice_unpin(slice_out);
        sched_yield();
    }
}

bool
table_cache_has(TableCache *cache, TableKind kind, unsigned layer,
                QimgHostOffset host_offset)
{
    return slot_cache_has(cache,
                          table_key(kind, layer, host_offset.v / QIMG_SECTOR_BYTES));
}

void
table_cache_forget(TableCache *cache, TableKind kind, unsigned layer,
                   QimgHostOffset host_offset)
{
    slot_cache_forget(cache, table_key(kind, layer, host_offset.v / QIMG_SECTOR_BYTES));
}

void
table_slice_unpin(TableSlice *slice)
{
    if (slice->slot)
        slot_cache_unpin(slice->cache, slice->slot);
    slice->slot = NULL;
}
