/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The first read of a region announces the tables of all layers that are not cached
 * before it waits for one of them, so that a slow disk reads them beside each other. */
#include "image-builder.h"
#include "image/chain/handle.h"
#include "image/image.h"
#include "image/open/chain-open.h"
#include "memory-storage.h"
#include "test-util.h"

#define N_LAYERS    6u
#define N_CLUSTERS  512u
#define N_OF_REGION 256u /* clusters of a region: its granules */
#define DISK_BYTES  (N_CLUSTERS * 512u)

static QimgStorage *storages[N_LAYERS];
static unsigned n_announced[N_LAYERS];
static QimgStorageOps announced_ops;
static ssize_t (*memory_pread)(QimgStorage *, QimgIoPurpose, uint64_t, void *, size_t);
static unsigned n_wanted; /* announcements; 0 while the images are opened */
static unsigned n_l2_reads;

static unsigned
index_of(const QimgStorage *storage)
{
    for (unsigned i = 0; i < N_LAYERS; i++)
        if (storages[i] == storage)
            return i;
    g_assert_not_reached();
}

static void
note_announcement(QimgStorage *storage, uint64_t file_offset, size_t n_bytes)
{
    g_assert_cmpuint(file_offset, <, atomic_load(&storage->end_bytes));
    g_assert_cmpuint(n_bytes, >, 0);
    n_announced[index_of(storage)]++;
}

static ssize_t
check_announced(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
                void *buffer, size_t n_bytes)
{
    if (n_wanted > 0 && purpose == QIMG_IO_L2 && index_of(storage) > 0) {
        n_l2_reads++;
        for (unsigned i = 1; i < N_LAYERS; i++)
            g_assert_cmpuint(n_announced[i], ==, n_wanted);
    }
    return memory_pread(storage, purpose, file_offset, buffer, n_bytes);
}

/* Reads the cluster of each layer in @region. */
static void
read_region(QimgImage *image, unsigned region)
{
    uint8_t cluster[512], seen[512];

    for (unsigned i = 0; i < N_LAYERS; i++) {
        memset(cluster, (int)i + 1, sizeof cluster);
        g_assert_cmpint(
            qimg_image_read(image, (region * N_OF_REGION + i) * 512, seen, sizeof seen),
            ==, 0);
        g_assert_cmpmem(seen, sizeof seen, cluster, sizeof cluster);
    }
}

static void
test_before_the_first(void)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    g_autoptr(GError) error = NULL;
    uint8_t cluster[512];
    QimgChain *chain;
    QimgImage *image;

    for (unsigned i = 0; i < N_LAYERS; i++) {
        g_autoptr(ImageBuilder) b = image_builder_new(3, 9, DISK_BYTES, false);

        memset(cluster, (int)i + 1, sizeof cluster);
        for (unsigned c = i; c < N_CLUSTERS; c += N_OF_REGION)
            image_builder_set_entry(b, b->header.l1_table_offset, c,
                                    image_builder_add_data(b, c, cluster), 0);
        image_builder_finish(b);
        storages[i] = memory_storage_new(b->bytes->data, b->bytes->len, "layer");
        announced_ops = *storages[i]->ops;
        memory_pread = announced_ops.pread;
        announced_ops.pread = check_announced;
        announced_ops.will_read = note_announcement;
        storages[i]->ops = &announced_ops;
    }
    chain = chain_open_storages(storages, N_LAYERS, options, &error);
    g_assert_no_error(error);
    image = image_new(chain, 0, &chain->layers[0]->active);
    chain_unref(chain);
    n_wanted = 2; /* one L1 slice, one L2 slice */
    read_region(image, 0);
    g_assert_cmpuint(n_l2_reads, ==, N_LAYERS - 1);
    n_wanted = 3; /* one more L2 slice: the L1 slice is cached */
    read_region(image, 1);
    g_assert_cmpuint(n_l2_reads, ==, 2 * (N_LAYERS - 1));
    n_wanted = 0;
    qimg_image_close(image);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/announce/before-the-first", test_before_the_first);
    return g_test_run();
}
