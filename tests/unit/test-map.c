/* SPDX-License-Identifier: GPL-2.0-or-later */
/* image/: chains of random images against a model that knows each byte's kind, layer and
 * location. All queries must agree with it: runs layer by layer and from the cache of
 * resolved runs, extents, SEEK_DATA and SEEK_HOLE, reads. */
#include <errno.h>

#include "image-builder.h"
#include "image/chain/handle.h"
#include "image/image.h"
#include "image/map/resolve.h"
#include "image/map/runs.h"
#include "image/open/chain-open.h"
#include "memory-storage.h"
#include "test-util.h"

#define MAX_LAYERS     6u
#define MAX_DISK_BYTES (300 * QIMG_KIB)
#define COPIED         (UINT64_C(1) << 63)

/* One byte of a layer, or of the chain. */
typedef struct {
    uint8_t kind; /* QimgRunKind */
    uint8_t layer;
    uint8_t value;
    uint64_t host_offset; /* DATA: of this byte; COMPRESSED: of the stream */
} ModelByte;

typedef struct {
    ModelByte *bytes;
    uint64_t n_bytes;
} Model;

static uint64_t
random_below(GRand *rand, uint64_t limit)
{
    return (uint64_t)(g_rand_double(rand) * (double)limit);
}

static void
fill_content(GRand *rand, uint8_t *content, size_t n_bytes)
{
    /* Half random, half constant, so that it can be compressed. */
    memset(content, (int)g_rand_int_range(rand, 1, 256), n_bytes);
    for (size_t i = 0; i < n_bytes / 2; i++)
        content[i] = (uint8_t)g_rand_int(rand);
}

static void
model_set(Model *model, uint64_t start, uint64_t n_bytes, QimgRunKind kind,
          uint64_t host_offset, const uint8_t *content)
{
    for (uint64_t i = 0; i < n_bytes && start + i < model->n_bytes; i++) {
        model->bytes[start + i] = (ModelByte){
            .kind = (uint8_t)kind,
            .value = content ? content[i] : 0,
            .host_offset = host_offset + (kind == QIMG_RUN_DATA ? i : 0),
        };
    }
}

/* An extended entry with a random bitmap; subclusters beyond it stay unallocated. */
static void
add_extended(GRand *rand, ImageBuilder *b, Model *model, uint64_t cluster,
             const uint8_t *content)
{
    uint64_t host_offset = image_builder_allocate(b, 1);
    uint64_t subcluster_bytes = b->cluster_bytes / 32;
    uint32_t allocated = g_rand_int(rand) & g_rand_int(rand);
    uint32_t zeros = g_rand_int(rand) & ~allocated;

    if (g_rand_boolean(rand)) { /* also long runs */
        allocated &= 0xff00ff00u;
        zeros = zeros | 0x000000ffu;
    }
    image_builder_write(b, host_offset, content, b->cluster_bytes);
    image_builder_set_entry(b, b->header.l1_table_offset, cluster, host_offset | COPIED,
                            (uint64_t)zeros << 32 | allocated);
    for (unsigned s = 0; s < 32; s++) {
        uint64_t in_cluster = s * subcluster_bytes;
        uint64_t start = cluster * b->cluster_bytes + in_cluster;

        if (allocated >> s & 1)
            model_set(model, start, subcluster_bytes, QIMG_RUN_DATA,
                      host_offset + in_cluster, content + in_cluster);
        else if (zeros >> s & 1)
            model_set(model, start, subcluster_bytes, QIMG_RUN_ZERO, 0, NULL);
    }
}

/* Gives the cluster a random kind of entry. @last_word and @last_content are of the
 * previous compressed cluster: two entries may name one stream. */
static void
add_cluster(GRand *rand, ImageBuilder *b, Model *model, uint64_t cluster,
            uint64_t *last_word, uint8_t *last_content)
{
    uint64_t start = cluster * b->cluster_bytes;
    uint64_t l1 = b->header.l1_table_offset;
    g_autofree uint8_t *content = g_malloc(b->cluster_bytes);
    uint64_t word = 0;

    fill_content(rand, content, b->cluster_bytes);
    switch (g_rand_int_range(rand, 0, 12)) {
    case 0:
    case 1:
        if (b->header.version == 2)
            break;
        image_builder_set_entry(b, l1, cluster, b->l2_entry_words == 2 ? 0 : 1,
                                UINT64_C(0xffffffff00000000));
        model_set(model, start, b->cluster_bytes, QIMG_RUN_ZERO, 0, NULL);
        break;
    case 2:
    case 3:
    case 4:
        if (b->l2_entry_words == 2)
            add_extended(rand, b, model, cluster, content);
        else
            model_set(model, start, b->cluster_bytes, QIMG_RUN_DATA,
                      image_builder_add_data(b, cluster, content), content);
        break;
    case 5:
        if (g_rand_boolean(rand)) /* the next data cluster will not be contiguous */
            image_builder_allocate(b, 1);
        model_set(model, start, b->cluster_bytes, QIMG_RUN_DATA,
                  image_builder_add_data(b, cluster, content), content);
        break;
    case 6:
    case 7:
        word = image_builder_add_compressed(b, cluster, content);
        if (word == 0)
            break;
        *last_word = word;
        memcpy(last_content, content, b->cluster_bytes);
        model_set(model, start, b->cluster_bytes, QIMG_RUN_COMPRESSED,
                  word & ((UINT64_C(1) << (70 - b->header.cluster_bits)) - 1), content);
        break;
    case 8:
        if (*last_word == 0)
            break;
        image_builder_set_entry(b, l1, cluster, *last_word, 0);
        model_set(model, start, b->cluster_bytes, QIMG_RUN_COMPRESSED,
                  *last_word & ((UINT64_C(1) << (70 - b->header.cluster_bits)) - 1),
                  last_content);
        break;
    default: /* unallocated */
        break;
    }
}

static QimgStorage *
random_qcow2(GRand *rand, const char *path, uint64_t size_bytes, Model *model)
{
    static const uint32_t bits[] = {9, 9, 10, 12, 14, 16, 16};
    uint32_t cluster_bits = bits[g_rand_int_range(rand, 0, G_N_ELEMENTS(bits))];
    bool is_extended = cluster_bits >= 14 && g_rand_boolean(rand);
    uint32_t version = is_extended ? 3 : (uint32_t)g_rand_int_range(rand, 2, 4);
    g_autoptr(ImageBuilder) b =
        image_builder_new(version, cluster_bits, size_bytes, is_extended);
    uint64_t n_clusters = (size_bytes + b->cluster_bytes - 1) / b->cluster_bytes;
    g_autofree uint8_t *last_content = g_malloc(b->cluster_bytes);
    uint64_t last_word = 0;
    /* Some layers are sparse, in stretches. */
    int sparseness = g_rand_int_range(rand, 0, 3);

    if (version == 3 && g_rand_boolean(rand)) {
        b->header.compression_type = 1;
        b->header.incompatible_features |= 8;
    }
    for (uint64_t cluster = 0; cluster < n_clusters; cluster++) {
        if (sparseness > 0 && g_rand_int_range(rand, 0, 3) == 0)
            cluster += (uint64_t)g_rand_int_range(rand, 0, 5 * sparseness * sparseness);
        if (cluster < n_clusters)
            add_cluster(rand, b, model, cluster, &last_word, last_content);
    }
    image_builder_finish(b);
    return memory_storage_new(b->bytes->data, b->bytes->len, path);
}

static QimgStorage *
random_raw(GRand *rand, const char *path, uint64_t size_bytes, Model *model)
{
    g_autofree uint8_t *content = g_malloc(MAX(size_bytes, 1));

    fill_content(rand, content, size_bytes);
    if (size_bytes > 0)
        content[0] = 1; /* no format's magic */
    model_set(model, 0, size_bytes, QIMG_RUN_DATA, 0, content);
    return memory_storage_new(content, size_bytes, path);
}

static Model
model_new(uint64_t n_bytes)
{
    return (Model){.bytes = g_new0(ModelByte, MAX(n_bytes, 1)), .n_bytes = n_bytes};
}

/* The chain's answer for each byte of the layer @first. */
static Model
merge(const Model *layers, unsigned n_layers, unsigned first)
{
    Model all = model_new(layers[first].n_bytes);

    for (uint64_t at = 0; at < all.n_bytes; at++) {
        unsigned i = first;

        while (layers[i].bytes[at].kind == QIMG_RUN_UNALLOCATED && i + 1 < n_layers &&
               at < layers[i + 1].n_bytes)
            i++;
        all.bytes[at] = layers[i].bytes[at];
        all.bytes[at].layer = (uint8_t)i;
    }
    return all;
}

/* Checks that [@at, @at + length) is as described by @r. */
static void
check_run(const Model *model, uint64_t at, uint64_t asked_bytes, const ImageRun *r)
{
    g_assert_cmpuint(r->run.length_bytes, >, 0);
    g_assert_cmpuint(r->run.length_bytes, <=, asked_bytes);
    g_assert_cmpuint(at + r->run.length_bytes, <=, model->n_bytes);
    for (uint64_t i = 0; i < r->run.length_bytes; i++) {
        const ModelByte *m = &model->bytes[at + i];

        if (m->kind != r->run.kind || m->layer != r->layer_index ||
            (m->kind == QIMG_RUN_DATA && m->host_offset != r->run.host_offset.v + i) ||
            (m->kind == QIMG_RUN_COMPRESSED && m->host_offset != r->run.host_offset.v))
            g_error("offset %" G_GUINT64_FORMAT " (%" G_GUINT64_FORMAT
                    " in its run): kind %d layer %u host %" G_GUINT64_FORMAT
                    ", not kind %d layer %d host %" G_GUINT64_FORMAT,
                    (guint64)at, (guint64)i, r->run.kind, r->layer_index,
                    (guint64)r->run.host_offset.v, m->kind, m->layer,
                    (guint64)m->host_offset);
    }
}

static void
check_runs(GRand *rand, QimgImage *image, const Model *model)
{
    QimgChain *chain = image->chain;

    for (unsigned n = 0; n < 200 && model->n_bytes > 0; n++) {
        uint64_t at = random_below(rand, model->n_bytes);
        uint64_t length_bytes = 1 + random_below(rand, model->n_bytes - at);
        ImageRun r;

        g_assert_cmpint(image_map_run(image, at, length_bytes, &r), ==, 0);
        check_run(model, at, length_bytes, &r);
        /* A compressed run must not leave its cluster. */
        if (r.run.kind == QIMG_RUN_COMPRESSED) {
            uint64_t cluster_bytes = chain->layers[r.layer_index]->cluster_bytes;

            g_assert_cmpuint(at % cluster_bytes + r.run.length_bytes, <=, cluster_bytes);
        }
        g_assert_cmpint(layers_map_run(chain, image->first_layer, at, length_bytes, &r),
                        ==, 0);
        check_run(model, at, length_bytes, &r);
        if (chain->granule_bytes == 0 || image->first_layer == 0)
            continue;
        g_assert_cmpint(resolve_run(chain, image->first_layer, at, length_bytes, &r), ==,
                        0);
        check_run(model, at, length_bytes, &r);
    }
}

/* Whether the byte at @at belongs to the extent of the byte before it. */
static bool
is_same_extent(const Model *model, uint64_t at)
{
    const ModelByte *a = &model->bytes[at - 1], *b = &model->bytes[at];

    return a->kind == b->kind && a->layer == b->layer &&
           (a->kind != QIMG_RUN_DATA || a->host_offset + 1 == b->host_offset);
}

static void
check_extents(QimgImage *image, const Model *model)
{
    static const QimgExtentKind kinds[] = {
        [QIMG_RUN_UNALLOCATED] = QIMG_EXTENT_UNALLOCATED,
        [QIMG_RUN_ZERO] = QIMG_EXTENT_ZERO,
        [QIMG_RUN_DATA] = QIMG_EXTENT_DATA,
        [QIMG_RUN_COMPRESSED] = QIMG_EXTENT_COMPRESSED};
    QimgExtent e = {.struct_bytes = sizeof e};

    for (uint64_t at = 0; at < model->n_bytes; at += e.length_bytes) {
        const ModelByte *m = &model->bytes[at];
        uint64_t end = at + 1;

        while (end < model->n_bytes && is_same_extent(model, end))
            end++;
        g_assert_cmpint(qimg_image_map(image, at, &e), ==, 0);
        g_assert_cmpuint(e.guest_offset, ==, at);
        g_assert_cmpuint(e.length_bytes, ==, end - at);
        g_assert_cmpint(e.kind, ==, kinds[m->kind]);
        g_assert_cmpuint(e.depth, ==, m->layer - image->first_layer);
        g_assert_cmpint(e.present, ==, m->kind != QIMG_RUN_UNALLOCATED);
        if (m->kind == QIMG_RUN_DATA)
            g_assert_cmpuint(e.host_offset, ==, m->host_offset);
        g_assert_cmpstr(
            e.host_path, ==,
            m->kind == QIMG_RUN_DATA ? qimg_image_get_layer_path(image, e.depth) : NULL);
        g_assert_null(e.reason);
    }
    g_assert_cmpint(qimg_image_map(image, model->n_bytes, &e), ==, -EINVAL);
}

static bool
is_hole(const ModelByte *m)
{
    return m->kind == QIMG_RUN_UNALLOCATED || m->kind == QIMG_RUN_ZERO;
}

static void
check_seek(GRand *rand, QimgImage *image, const Model *model)
{
    for (unsigned n = 0; n < 100 && model->n_bytes > 0; n++) {
        uint64_t at = random_below(rand, model->n_bytes);
        bool hole = g_rand_boolean(rand);
        uint64_t found = at, answer = UINT64_MAX;
        int err = qimg_image_seek(image, at, hole, &answer);

        while (found < model->n_bytes && is_hole(&model->bytes[found]) != hole)
            found++;
        if (found == model->n_bytes && !hole) {
            g_assert_cmpint(err, ==, -ENXIO);
        } else {
            g_assert_cmpint(err, ==, 0);
            g_assert_cmpuint(answer, ==, found);
        }
    }
    for (int hole = 0; hole <= 1; hole++) {
        uint64_t answer;

        g_assert_cmpint(qimg_image_seek(image, model->n_bytes, hole, &answer), ==,
                        -ENXIO);
    }
}

static void
check_read(QimgImage *image, const Model *model, uint64_t at, uint64_t length_bytes)
{
    g_autofree uint8_t *buffer = g_malloc(MAX(length_bytes, 1));

    memset(buffer, 0xee, MAX(length_bytes, 1));
    g_assert_cmpint(qimg_image_read(image, at, buffer, length_bytes), ==, 0);
    for (uint64_t i = 0; i < length_bytes; i++) {
        if (buffer[i] != model->bytes[at + i].value)
            g_error("read of %" G_GUINT64_FORMAT " at %" G_GUINT64_FORMAT
                    ": byte %" G_GUINT64_FORMAT " is %02x, not %02x",
                    (guint64)length_bytes, (guint64)at, (guint64)i, buffer[i],
                    model->bytes[at + i].value);
    }
}

static void
check_reads(GRand *rand, QimgImage *image, const Model *model)
{
    for (unsigned n = 0; n < 100 && model->n_bytes > 0; n++) {
        uint64_t at = random_below(rand, model->n_bytes);
        uint64_t most = n % 3 == 0 ? model->n_bytes - at : 2000;

        check_read(image, model, at,
                   random_below(rand, MIN(model->n_bytes - at, most) + 1));
    }
    check_read(image, model, 0, model->n_bytes);
}

static void
check_handle(GRand *rand, QimgImage *image, const Model *layers, unsigned n_layers)
{
    Model model = merge(layers, n_layers, image->first_layer);

    g_assert_cmpuint(qimg_image_get_size_bytes(image), ==, model.n_bytes);
    g_assert_cmpuint(qimg_image_get_n_layers(image), ==, n_layers - image->first_layer);
    check_runs(rand, image, &model);
    check_extents(image, &model);
    check_seek(rand, image, &model);
    check_reads(rand, image, &model);
    g_free(model.bytes);
}

static void
check_chain(uint32_t seed)
{
    static const char *const data_caches[] = {"0", "1K", "300K", "16M"};
    GRand *rand = g_rand_new_with_seed(seed);
    unsigned n_layers = 1 + (unsigned)random_below(rand, MAX_LAYERS);
    QimgStorage *storages[MAX_LAYERS];
    Model layers[MAX_LAYERS];
    g_autoptr(QimgOptions) options = qimg_options_new();
    QimgChain *chain;
    GError *error = NULL;

    g_test_message("chain seed %u, %u layers", seed, n_layers);
    for (unsigned i = 0; i < n_layers; i++) {
        bool is_raw = i + 1 == n_layers && g_rand_boolean(rand);
        uint64_t size_bytes = random_below(rand, MAX_DISK_BYTES);
        g_autofree char *path = g_strdup_printf("layer%u", i);

        if (!is_raw)
            size_bytes -= size_bytes % 512;
        layers[i] = model_new(size_bytes);
        storages[i] = is_raw ? random_raw(rand, path, size_bytes, &layers[i])
                             : random_qcow2(rand, path, size_bytes, &layers[i]);
    }
    g_assert_true(qimg_options_set(
        options, "data_cache",
        data_caches[g_rand_int_range(rand, 0, G_N_ELEMENTS(data_caches))], NULL));
    g_assert_true(qimg_options_set(options, "l2_cache", "64K", NULL));
    chain = chain_open_storages(storages, n_layers, options, &error);
    g_assert_no_error(error);
    for (unsigned i = 0; i < n_layers; i++) {
        QimgImage *image = image_new(chain, i, &chain->layers[i]->active);

        check_handle(rand, image, layers, n_layers);
        qimg_image_close(image);
    }
    chain_unref(chain);
    for (unsigned i = 0; i < n_layers; i++)
        g_free(layers[i].bytes);
    g_rand_free(rand);
}

static void
test_random_chains(void)
{
    uint32_t seed = test_util_seed();
    unsigned n_chains =
        g_getenv("QIMG_TEST_CHAINS") ? (unsigned)atoi(g_getenv("QIMG_TEST_CHAINS")) : 10;

    for (unsigned i = 0; i < n_chains; i++)
        check_chain(seed + i);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/map/random-chains", test_random_chains);
    return g_test_run();
}
