/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "images/partition-dir.h"

/* The limit of cached lists per image: there may be thousands of snapshots, and reading a
 * list again costs little. */
#define MAX_LISTS 64u

static void
free_list(gpointer list)
{
    qimg_partitions_unref(list);
}

void
partition_dir_cache_init(PartitionDirCache *cache)
{
    *cache = (PartitionDirCache){.n_writers = 0};
    qimg_mutex_init(&cache->lock, QIMG_RANK_PARTITIONS);
}

void
partition_dir_cache_clear(PartitionDirCache *cache)
{
    g_clear_pointer(&cache->lists, g_hash_table_unref);
    g_free(cache->places);
    qimg_mutex_clear(&cache->lock);
}

static gint64
list_key_of(PartitionsOf of, unsigned index)
{
    return (gint64)((uint64_t)of << 32 | index);
}

QimgImage *
partition_dir_open_whole(QimgImage *image, PartitionsOf of, unsigned number,
                         GError **error)
{
    return of == PARTITIONS_OF_SNAPSHOT
               ? qimg_image_open_snapshot(image, number, error)
               : qimg_image_open_layer(image, of == PARTITIONS_OF_LAYER ? number : 0,
                                       error);
}

/* Counts changes of the disk's partitions by number. The lock is held. */
static void
update_places(PartitionDirCache *cache, const QimgPartitions *list)
{
    if (!cache->places && !list)
        return;
    if (!cache->places)
        cache->places = g_new0(PartitionPlace, QIMG_MAX_PARTITION_NUMBER + 1);
    for (unsigned number = 1; number <= QIMG_MAX_PARTITION_NUMBER; number++) {
        const QimgPartition *item = list ? partition_dir_find(list, number) : NULL;
        uint64_t start = item ? item->start_bytes : 0;
        uint64_t length = item ? item->length_bytes : 0;

        if (cache->places[number].start_bytes == start &&
            cache->places[number].length_bytes == length)
            continue;
        cache->places[number].start_bytes = start;
        cache->places[number].length_bytes = length;
        cache->places[number].generation++;
    }
}

/* True for all lists but the disk's, which is read again only after its last writer. */
static gboolean
is_constant(gpointer key, gpointer list, gpointer user)
{
    (void)list, (void)user;
    return *(const gint64 *)key != list_key_of(PARTITIONS_OF_DISK, 0);
}

/* Caches @list, which was read at @version of the disk's table. The lock is held. */
static void
keep_place(PartitionDirCache *cache, gint64 key, unsigned version, QimgPartitions *list)
{
    if (!cache->lists)
        cache->lists =
            g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, free_list);
    if (version != cache->version || g_hash_table_contains(cache->lists, &key))
        return; /* changed meanwhile, or cached by another thread */
    if (g_hash_table_size(cache->lists) >= MAX_LISTS)
        g_hash_table_foreach_remove(cache->lists, is_constant, NULL);
    g_hash_table_insert(cache->lists, g_memdup2(&key, sizeof key),
                        list ? qimg_partitions_ref(list) : NULL);
    if (key == list_key_of(PARTITIONS_OF_DISK, 0))
        update_places(cache, list);
}

QimgPartitions *
partition_dir_get(PartitionDirCache *cache, QimgImage *image, PartitionsOf of,
                  unsigned index, uint32_t serial)
{
    g_autoptr(QimgImage) whole = NULL;
    gpointer kept = NULL;
    QimgPartitions *list = NULL;
    unsigned version;
    bool is_kept;
    gint64 key;

    if (of == PARTITIONS_OF_LAYER && index == 0)
        of = PARTITIONS_OF_DISK;
    key = list_key_of(of, index);
    qimg_mutex_lock(&cache->lock);
    is_kept =
        cache->lists && g_hash_table_lookup_extended(cache->lists, &key, NULL, &kept);
    if (kept)
        list = qimg_partitions_ref(kept);
    version = cache->version;
    qimg_mutex_unlock(&cache->lock);
    if (is_kept)
        return list;
    whole = partition_dir_open_whole(image, of,
                                     of == PARTITIONS_OF_SNAPSHOT ? serial : index, NULL);
    if (!whole)
        return NULL;
    list = qimg_partitions_read(whole);
    qimg_mutex_lock(&cache->lock);
    keep_place(cache, key, version, list);
    qimg_mutex_unlock(&cache->lock);
    return list;
}

const QimgPartition *
partition_dir_next(const QimgPartitions *list, unsigned number)
{
    for (unsigned i = 0; i < qimg_partitions_get_n(list); i++) {
        const QimgPartition *item = qimg_partitions_get(list, i);

        if (item->number >= number && !item->is_extended)
            return item;
    }
    return NULL;
}

const QimgPartition *
partition_dir_find(const QimgPartitions *list, unsigned number)
{
    const QimgPartition *item = partition_dir_next(list, number);

    return item && item->number == number ? item : NULL;
}

unsigned
partition_dir_get_generation(PartitionDirCache *cache, unsigned number)
{
    unsigned generation;

    qimg_mutex_lock(&cache->lock);
    generation = cache->places ? cache->places[number].generation : 0;
    qimg_mutex_unlock(&cache->lock);
    return generation;
}

unsigned
partition_dir_get_version(PartitionDirCache *cache)
{
    QIMG_LOCK_SCOPE(&cache->lock);

    return cache->version;
}

/* The lock is held. */
static void
forget_disk(PartitionDirCache *cache)
{
    gint64 key = list_key_of(PARTITIONS_OF_DISK, 0);

    cache->version++;
    if (cache->lists)
        g_hash_table_remove(cache->lists, &key);
}

void
partition_dir_forget(PartitionDirCache *cache)
{
    qimg_mutex_lock(&cache->lock);
    cache->version++;
    g_clear_pointer(&cache->lists, g_hash_table_unref);
    qimg_mutex_unlock(&cache->lock);
}

bool
partition_dir_is_known(PartitionDirCache *cache)
{
    gint64 key = list_key_of(PARTITIONS_OF_DISK, 0);
    bool is_known;

    qimg_mutex_lock(&cache->lock);
    is_known = cache->lists && g_hash_table_lookup(cache->lists, &key) != NULL;
    qimg_mutex_unlock(&cache->lock);
    return is_known;
}

void
partition_dir_add_writer(PartitionDirCache *cache)
{
    qimg_mutex_lock(&cache->lock);
    cache->n_writers++;
    qimg_mutex_unlock(&cache->lock);
}

void
partition_dir_remove_writer(PartitionDirCache *cache)
{
    qimg_mutex_lock(&cache->lock);
    if (--cache->n_writers == 0)
        forget_disk(cache);
    qimg_mutex_unlock(&cache->lock);
}

void
partition_dir_note_change(PartitionDirCache *cache)
{
    qimg_mutex_lock(&cache->lock);
    if (cache->n_writers == 0)
        forget_disk(cache);
    qimg_mutex_unlock(&cache->lock);
}
