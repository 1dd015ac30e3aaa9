/* SPDX-License-Identifier: GPL-2.0-or-later */
/* image/ and format/qcow2/ on images made for one purpose each: damage that stays local,
 * snapshots and VM states, failing files, and which requests wait for which. */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "codec/rules.h"
#include "image-builder.h"
#include "image/image.h"
#include "image/open/chain-open.h"
#include "memory-storage.h"
#include "test-util.h"

#define COPIED UINT64_C(0x8000000000000000)

/* A chain of memory storages, the topmost first. */
typedef struct {
    QimgStorage *storages[4]; /* owned by the image */
    unsigned n_storages;
    QimgImage *image;
} Chain;

static void
chain_add(Chain *chain, ImageBuilder *b)
{
    g_autofree char *path = g_strdup_printf("layer%u", chain->n_storages);

    image_builder_finish(b);
    chain->storages[chain->n_storages++] =
        memory_storage_new(b->bytes->data, b->bytes->len, path);
}

static void
chain_open_all(Chain *chain)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    GError *error = NULL;
    QimgChain *opened =
        chain_open_storages(chain->storages, chain->n_storages, options, &error);

    g_assert_no_error(error);
    chain->image = image_new(opened, 0, &opened->layers[0]->active);
    chain_unref(opened);
}

static void
fill(uint8_t *content, uint64_t n_bytes, unsigned seed)
{
    for (uint64_t i = 0; i < n_bytes; i++)
        content[i] = (uint8_t)(i * 3 + seed);
}

/* Reads one byte: its value, or a negated errno. */
static int
byte_at(QimgImage *image, uint64_t guest_offset)
{
    uint8_t byte = 0;
    int err = qimg_image_read(image, guest_offset, &byte, 1);

    return err ? err : byte;
}

/* Each kind of damage: only its own clusters give errors, and the map says why. */
static void
test_damage(void)
{
    static const struct {
        uint64_t word;
        QimgRule rule;
    } kinds[] = {
        {COPIED | 0x700, QIMG_RULE_DATA_UNALIGNED},
        {COPIED | UINT64_C(1) << 40, QIMG_RULE_DATA_BEYOND_EOF},
        {UINT64_C(1) << 62 | UINT64_C(1) << 40, QIMG_RULE_DATA_BEYOND_EOF},
        {UINT64_C(1) << 62 | UINT64_C(1) << 57, QIMG_RULE_COMPRESSED_OFFSET},
        {UINT64_C(1) << 62 | 1024, QIMG_RULE_COMPRESSED_STREAM}, /* found by reading */
    };
    g_autoptr(ImageBuilder) b = image_builder_new(3, 10, 3 << 17, false);
    Chain chain = {0};
    uint8_t content[1024];
    uint64_t l1;

    fill(content, sizeof content, 1);
    l1 = b->header.l1_table_offset;
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        image_builder_add_data(b, 2 * i, content);
        image_builder_set_entry(b, l1, 2 * i + 1, kinds[i].word, 0);
    }
    image_builder_put_be64(b, l1 + 8, COPIED | 0x700);              /* unaligned */
    image_builder_put_be64(b, l1 + 16, COPIED | UINT64_C(1) << 40); /* far away */
    chain_add(&chain, b);
    chain_open_all(&chain);
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        uint64_t at = (2 * i + 1) * 1024;
        bool is_stream = kinds[i].rule == QIMG_RULE_COMPRESSED_STREAM;
        QimgExtent e = {.struct_bytes = sizeof e};

        g_assert_cmpint(byte_at(chain.image, at - 1024), ==, content[0]);
        g_assert_cmpint(byte_at(chain.image, at - 1), ==, content[1023]);
        g_assert_cmpint(byte_at(chain.image, at), ==, -EIO);
        g_assert_cmpint(byte_at(chain.image, at + 1023), ==, -EIO);
        g_assert_cmpint(qimg_image_map(chain.image, at, &e), ==, 0);
        g_assert_cmpuint(e.length_bytes, ==, 1024);
        g_assert_cmpint(e.kind, ==,
                        is_stream ? QIMG_EXTENT_COMPRESSED : QIMG_EXTENT_DAMAGED);
        g_assert_cmpstr(e.reason, ==, is_stream ? NULL : qimg_rule_text(kinds[i].rule));
    }
    g_assert_cmpint(byte_at(chain.image, 131071), ==, 0);
    for (unsigned table = 1; table <= 2; table++) {
        QimgExtent e = {.struct_bytes = sizeof e};

        g_assert_cmpint(byte_at(chain.image, table << 17), ==, -EIO);
        g_assert_cmpint(byte_at(chain.image, (table << 17) + 131071), ==, -EIO);
        g_assert_cmpint(qimg_image_map(chain.image, table << 17, &e), ==, 0);
        g_assert_cmpuint(e.length_bytes, ==, 131072);
        g_assert_cmpstr(e.reason, ==,
                        qimg_rule_text(table == 1 ? QIMG_RULE_L2_UNALIGNED
                                                  : QIMG_RULE_L2_BEYOND_EOF));
    }
    qimg_image_close(chain.image);
}

/* A cut file: the lost part is damage, the rest stays readable. */
static void
test_cut(void)
{
    g_autoptr(ImageBuilder) b = image_builder_new(3, 9, 32768, false);
    Chain chain = {0};
    uint8_t content[512];
    uint64_t last;

    fill(content, sizeof content, 5);
    image_builder_add_data(b, 0, content);
    image_builder_add_data(b, 1, content);
    last = image_builder_add_data(b, 2, content);
    image_builder_finish(b);
    g_byte_array_set_size(b->bytes, (guint)last);
    chain.storages[chain.n_storages++] =
        memory_storage_new(b->bytes->data, b->bytes->len, "cut");
    chain_open_all(&chain);
    g_assert_cmpint(byte_at(chain.image, 512), ==, content[0]);
    g_assert_cmpint(byte_at(chain.image, 1024), ==, -EIO);
    g_assert_cmpint(byte_at(chain.image, 1536), ==, 0);
    qimg_image_close(chain.image);
}

/* Adjacent clusters may name one stream, also in a lower layer of three, whose runs come
 * from the cache of resolved ones. */
static void
test_shared_stream(void)
{
    g_autoptr(ImageBuilder) top = image_builder_new(3, 9, 4096, false);
    g_autoptr(ImageBuilder) middle = image_builder_new(3, 9, 4096, false);
    g_autoptr(ImageBuilder) base = image_builder_new(3, 9, 4096, false);
    Chain chain = {0};
    uint8_t content[512], buffer[4096];
    uint64_t word;

    memset(content, 'x', sizeof content);
    content[0] = 'y';
    word = image_builder_add_compressed(middle, 0, content);
    for (unsigned i = 1; i < 8; i++)
        image_builder_set_entry(middle, middle->header.l1_table_offset, i, word, 0);
    chain_add(&chain, top);
    chain_add(&chain, middle);
    chain_add(&chain, base);
    chain_open_all(&chain);
    g_assert_cmpint(qimg_image_read(chain.image, 0, buffer, sizeof buffer), ==, 0);
    for (unsigned i = 0; i < 8; i++)
        g_assert_cmpmem(buffer + i * 512, 512, content, 512);
    g_assert_cmpint(byte_at(chain.image, 512), ==, 'y');
    qimg_image_close(chain.image);
}

/* A layer that ends inside a granule must not hide the layers below the rest of it. */
static void
test_layer_ends_in_granule(void)
{
    g_autoptr(ImageBuilder) top = image_builder_new(3, 12, 16384, false);
    g_autoptr(ImageBuilder) middle = image_builder_new(3, 12, 8192 + 512, false);
    g_autoptr(ImageBuilder) base = image_builder_new(3, 12, 16384, false);
    Chain chain = {0};
    uint8_t content[4096];

    fill(content, sizeof content, 9);
    for (unsigned i = 0; i < 4; i++)
        image_builder_add_data(base, i, content);
    chain_add(&chain, top);
    chain_add(&chain, middle);
    chain_add(&chain, base);
    chain_open_all(&chain);
    g_assert_cmpint(byte_at(chain.image, 1), ==, content[1]);
    g_assert_cmpint(byte_at(chain.image, 4096 + 1), ==, content[1]);
    g_assert_cmpint(byte_at(chain.image, 8192 + 1), ==, content[1]);
    g_assert_cmpint(byte_at(chain.image, 8192 + 511), ==, content[511]);
    g_assert_cmpint(byte_at(chain.image, 8192 + 512), ==, 0); /* past the middle's end */
    g_assert_cmpint(byte_at(chain.image, 12288 + 1), ==, 0);
    qimg_image_close(chain.image);
}

/* Writes a snapshot table entry; returns the position of the next one. */
static uint64_t
add_snapshot(ImageBuilder *b, uint64_t at, uint64_t l1_offset, uint32_t l1_size,
             const char *id, const char *name, uint32_t extra_bytes,
             uint64_t vm_state_bytes, uint64_t disk_bytes)
{
    size_t n_id = strlen(id), n_name = strlen(name);

    image_builder_put_be64(b, at, l1_offset);
    image_builder_put_be32(b, at + 8, l1_size);
    image_builder_put_be32(b, at + 12, (uint32_t)(n_id << 16 | n_name));
    image_builder_put_be32(b, at + 16, 1000000000);
    image_builder_put_be32(b, at + 36, extra_bytes);
    if (extra_bytes >= 8)
        image_builder_put_be64(b, at + 40, vm_state_bytes);
    if (extra_bytes >= 16)
        image_builder_put_be64(b, at + 48, disk_bytes);
    image_builder_write(b, at + 40 + extra_bytes, id, n_id);
    image_builder_write(b, at + 40 + extra_bytes + n_id, name, n_name);
    b->header.nb_snapshots++;
    return (at + 40 + extra_bytes + n_id + n_name + 7) / 8 * 8;
}

static void
test_snapshots(void)
{
    /* One L2 table of 512-byte clusters maps 32 KiB. */
    g_autoptr(ImageBuilder) b = image_builder_new(3, 9, 32768, false);
    uint64_t active = b->header.l1_table_offset;
    Chain chain = {0};
    uint8_t old[512], new[512], state[512], buffer[700];
    uint64_t l1, at;
    g_autoptr(QimgSnapshots) list = NULL;
    g_autoptr(QimgSnapshots) none = NULL;
    GError *error = NULL;
    QimgImage *image;

    fill(old, 512, 1);
    fill(new, 512, 100);
    fill(state, 512, 200);
    image_builder_add_data(b, 3, new);
    l1 = image_builder_allocate(b, 1);
    b->header.l1_table_offset = l1;
    image_builder_add_data(b, 3, old);
    image_builder_add_data(b, 64, state); /* the VM state begins behind the disk */
    b->header.l1_table_offset = active;
    at = b->header.snapshots_offset = image_builder_allocate(b, 2);
    at = add_snapshot(b, at, l1, 2, "1", "one", 16, 600, 16384);
    at = add_snapshot(b, at, l1, 1, "22", "", 0, 0, 0); /* an old entry */
    at = add_snapshot(b, at, l1 + 8, 2, "3", "unaligned L1", 16, 0, 512);
    at = add_snapshot(b, at, l1, 4194305, "4", "large L1", 16, 0, 512);
    at = add_snapshot(b, at, l1, 1, "5", "far state", 16, UINT64_C(1) << 63, 512);
    at = add_snapshot(b, at, l1, 2, "6", "L1 too short", 16, 0, 1 << 20);
    chain_add(&chain, b);
    chain_open_all(&chain);

    list = qimg_image_get_snapshots(chain.image);
    g_assert_cmpuint(qimg_snapshots_get_n(list), ==, 6);
    g_assert_cmpstr(qimg_snapshots_get(list, 0)->name, ==, "one");
    g_assert_cmpuint(qimg_snapshots_get(list, 0)->vm_state_bytes, ==, 600);
    g_assert_cmpstr(qimg_snapshots_get(list, 1)->id, ==, "22");
    g_assert_cmpuint(qimg_snapshots_get(list, 1)->disk_bytes, ==, 32768);
    g_assert_null(qimg_snapshots_get(list, 6));

    image = qimg_image_open_snapshot(chain.image, 0, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(qimg_image_get_size_bytes(image), ==, 16384);
    none = qimg_image_get_snapshots(image);
    g_assert_cmpuint(qimg_snapshots_get_n(none), ==, 0);
    g_assert_cmpint(byte_at(image, 3 * 512 + 7), ==, old[7]);
    g_assert_cmpint(byte_at(chain.image, 3 * 512 + 7), ==, new[7]);
    g_assert_cmpint(byte_at(image, 16384), ==, -EINVAL);
    qimg_image_close(image);

    image = qimg_image_open_vmstate(chain.image, 0, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(qimg_image_get_size_bytes(image), ==, 600);
    g_assert_cmpint(qimg_image_read(image, 0, buffer, 600), ==, 0);
    g_assert_cmpmem(buffer, 512, state, 512);
    g_assert_cmpint(buffer[599], ==, 0);
    g_assert_cmpint(qimg_image_read(image, 0, buffer, 601), ==, -EINVAL);
    qimg_image_close(image);

    g_assert_null(qimg_image_open_vmstate(chain.image, 1, &error));
    test_util_check_error(&error, QIMG_ERROR_NOT_FOUND, "snapshot 1 has no VM state");
    g_assert_null(qimg_image_open_snapshot(chain.image, 2, &error));
    test_util_check_error(&error, QIMG_ERROR_INVALID,
                          "snapshot 2: snapshot L1 offset: must be a multiple of the "
                          "cluster size, not 0, within 2^63 (run qimg check)");
    g_assert_null(qimg_image_open_snapshot(chain.image, 3, &error));
    test_util_check_error(&error, QIMG_ERROR_INVALID,
                          "snapshot 3: snapshot L1 size: means a table of more than 32 "
                          "MiB (run qimg check)");
    g_assert_null(qimg_image_open_snapshot(chain.image, 4, &error));
    test_util_check_error(&error, QIMG_ERROR_INVALID,
                          "snapshot 4: size: is more than the format can map (run "
                          "qimg check)");
    g_assert_null(qimg_image_open_snapshot(chain.image, 6, &error));
    test_util_check_error(&error, QIMG_ERROR_NOT_FOUND,
                          "there is no such snapshot any more");
    image = qimg_image_open_snapshot(chain.image, 5, &error);
    g_assert_no_error(error);
    g_assert_cmpint(byte_at(image, (1 << 20) - 1), ==, 0); /* past the table: zeros */
    qimg_image_close(image);
    g_assert_null(qimg_image_open_layer(chain.image, 1, &error));
    test_util_check_error(&error, QIMG_ERROR_USAGE, "there is no layer 1");
    qimg_image_close(chain.image);
}

/* A failing host file: the error is returned, not remembered, and affects no other
 * request. */
static void
test_faults(void)
{
    g_autoptr(ImageBuilder) top = image_builder_new(3, 9, 32768, false);
    g_autoptr(ImageBuilder) base = image_builder_new(3, 9, 32768, false);
    Chain chain = {0};
    uint8_t content[512];
    QimgExtent e = {.struct_bytes = sizeof e};
    uint64_t offset;

    memset(content, 'a', sizeof content);
    image_builder_add_data(top, 0, content);
    image_builder_add_compressed(base, 1, content);
    image_builder_add_data(base, 2, content);
    chain_add(&chain, top);
    chain_add(&chain, base);
    chain_open_all(&chain);
    memory_storage_fail(chain.storages[0], QIMG_IO_L1, 0, 3, EIO);
    g_assert_cmpint(byte_at(chain.image, 0), ==, -EIO);
    g_assert_cmpint(qimg_image_map(chain.image, 0, &e), ==, -EIO);
    g_assert_cmpint(qimg_image_seek(chain.image, 0, FALSE, &offset), ==, -EIO);
    memory_storage_fail(chain.storages[0], QIMG_IO_L2, 0, 1, ESTALE);
    g_assert_cmpint(byte_at(chain.image, 0), ==, -ESTALE);
    g_assert_cmpint(byte_at(chain.image, 0), ==, 'a');
    memory_storage_fail(chain.storages[0], QIMG_IO_DATA, 0, 1, EIO);
    g_assert_cmpint(byte_at(chain.image, 0), ==, -EIO);
    memory_storage_fail(chain.storages[1], QIMG_IO_COMPRESSED, 0, 1, EIO);
    g_assert_cmpint(byte_at(chain.image, 512), ==, -EIO);
    g_assert_cmpint(byte_at(chain.image, 512), ==, 'a');
    memory_storage_fail(chain.storages[1], QIMG_IO_DATA, 0, 1, ENODATA);
    g_assert_cmpint(byte_at(chain.image, 1024), ==, -ENODATA);
    g_assert_cmpint(byte_at(chain.image, 1024), ==, 'a');
    g_assert_cmpint(byte_at(chain.image, 0), ==, 'a');
    qimg_image_close(chain.image);
}

typedef struct {
    QimgImage *image;
    uint64_t guest_offset;
    int result;
} Reader;

static void *
read_one(void *user)
{
    Reader *reader = user;

    reader->result = byte_at(reader->image, reader->guest_offset);
    return NULL;
}

/* While some readers are blocked in the host file, others continue; and readers of one
 * compressed cluster share one read of it. */
static void
test_waiting(void)
{
    g_autoptr(ImageBuilder) b = image_builder_new(3, 9, 32768, false);
    Chain chain = {0};
    Reader readers[4];
    pthread_t threads[4];
    uint8_t content[512];

    memset(content, 'a', sizeof content);
    image_builder_add_compressed(b, 0, content);
    image_builder_add_data(b, 1, content);
    image_builder_set_entry(b, b->header.l1_table_offset, 2, 1, 0);
    chain_add(&chain, b);
    chain_open_all(&chain);
    g_assert_cmpint(byte_at(chain.image, 1024), ==, 0);
    memory_storage_block(chain.storages[0], QIMG_IO_COMPRESSED);
    for (unsigned i = 0; i < 4; i++) {
        readers[i] = (Reader){.image = chain.image, .guest_offset = i};
        g_assert_cmpint(pthread_create(&threads[i], NULL, read_one, &readers[i]), ==, 0);
    }
    memory_storage_wait_blocked(chain.storages[0], 1);
    g_assert_cmpint(byte_at(chain.image, 512), ==, 'a');
    g_assert_cmpint(byte_at(chain.image, 1024), ==, 0);
    memory_storage_release(chain.storages[0]);
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        g_assert_cmpint(readers[i].result, ==, 'a');
    }
    g_assert_cmpuint(chain.storages[0]->n_reads[QIMG_IO_COMPRESSED], ==, 1);
    qimg_image_close(chain.image);
}

/* An encrypted image opened for its facts gives no data. */
static void
test_inspect(void)
{
    g_autoptr(ImageBuilder) b = image_builder_new(3, 9, 512, false);
    g_autoptr(QimgOptions) options = qimg_options_new();
    QimgStorage *storage;
    QimgChain *chain;
    QimgImage *image;
    GError *error = NULL;

    b->header.crypt_method = 2;
    image_builder_finish(b);
    storage = memory_storage_new(b->bytes->data, b->bytes->len, "luks");
    g_assert_true(qimg_options_set(options, "inspect", NULL, NULL));
    chain = chain_open_storages(&storage, 1, options, &error);
    g_assert_no_error(error);
    image = image_new(chain, 0, &chain->layers[0]->active);
    chain_unref(chain);
    g_assert_cmpint(byte_at(image, 0), ==, -ENOKEY);
    g_assert_cmpstr(qimg_image_get_warnings(image)[0], ==,
                    "luks: is encrypted (luks): its data need its passphrase");
    qimg_image_close(image);
}

/* A disk of 128 clusters of 2 MiB: the first @n_first and then each @step-th have data
 * (all in one host cluster). */
static ImageBuilder *
new_disk_with_data(unsigned n_first, unsigned step)
{
    ImageBuilder *b = image_builder_new(3, 21, UINT64_C(256) << 20, false);
    uint64_t data = image_builder_allocate(b, 1);

    for (unsigned i = 0; i < 128; i++)
        if (i < n_first || (step > 0 && i % step == 0))
            image_builder_set_entry(b, b->header.l1_table_offset, i, COPIED | data, 0);
    return b;
}

static void
test_long_extents(void)
{
    static const struct {
        unsigned n_first;
        unsigned step;
        bool has_backing; /* the same below an empty overlay */
        bool expected;
    } rows[] = {
        {128, 0, false, true}, {64, 0, false, true}, {0, 0, false, false},
        {0, 4, false, false},  {8, 4, false, false}, {128, 0, true, true},
        {0, 4, true, false},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(ImageBuilder) b = new_disk_with_data(rows[i].n_first, rows[i].step);
        g_autoptr(ImageBuilder) overlay = new_disk_with_data(0, 0);
        Chain chain = {0};

        g_test_message("first %u, each %u", rows[i].n_first, rows[i].step);
        if (rows[i].has_backing) {
            image_builder_set_backing(overlay, "layer1", "qcow2");
            chain_add(&chain, overlay);
        }
        chain_add(&chain, b);
        chain_open_all(&chain);
        g_assert_cmpint(qimg_image_has_long_extents(chain.image), ==, rows[i].expected);
        qimg_image_close(chain.image);
    }
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/image/damage", test_damage);
    g_test_add_func("/image/cut", test_cut);
    g_test_add_func("/image/shared-stream", test_shared_stream);
    g_test_add_func("/image/layer-ends-in-granule", test_layer_ends_in_granule);
    g_test_add_func("/image/snapshots", test_snapshots);
    g_test_add_func("/image/faults", test_faults);
    g_test_add_func("/image/waiting", test_waiting);
    g_test_add_func("/image/inspect", test_inspect);
    g_test_add_func("/image/long-extents", test_long_extents);
    return g_test_run();
}
