/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A stat generates a control file once for each state of its image, not each time. The
 * sources are compiled into this program, with stubs for the mount's functions. */
#include "images/images.h"

static unsigned n_made;

static void count_and_make(QimgInfo *info, QimgInfoPlace *place, GString *out);

#define qimg_info_next count_and_make
#include "tree/control-text.c"
#undef qimg_info_next
#include "tree/text-sizes.c"

#include "format/drivers.h"
#include "memory-image.h"
#include "test-util.h"

static unsigned table_version;

static void
count_and_make(QimgInfo *info, QimgInfoPlace *place, GString *out)
{
    n_made++;
    qimg_info_next(info, place, out);
}

/* ---- stubs for the mount ---- */

uint64_t
tree_inode_of(const Tree *tree, Node node)
{
    (void)tree;
    return 100 + node.kind;
}

char *
tree_text(const Tree *tree, ImageEntry *entry, Node node, GError **error)
{
    (void)tree, (void)entry, (void)node, (void)error;
    n_made++;
    return g_strdup("text\n");
}

unsigned
partition_dir_get_version(PartitionDirCache *cache)
{
    (void)cache;
    return table_version;
}

bool
node_is_of_partitions(Node node)
{
    (void)node;
    return false;
}

bool
node_is_of_image(Node node)
{
    return node.kind != NODE_STATS;
}

int
tree_get_partitions(const Tree *tree, ImageEntry *entry, Node node,
                    QimgPartitions **list_out, const QimgPartition **item_out)
{
    (void)tree, (void)entry, (void)node, (void)list_out, (void)item_out;
    return -ENOENT;
}

QimgBitmapReader *
tree_read_bitmap(ImageEntry *entry, Node node, QimgImage *layer, unsigned *layer_out,
                 GError **error)
{
    (void)entry, (void)node, (void)layer, (void)layer_out, (void)error;
    return NULL;
}

QimgImage *
tree_open_image(const Tree *tree, Node node, ImageEntry **entry_out, GError **error)
{
    (void)tree, (void)node, (void)entry_out, (void)error;
    return NULL;
}

ImageEntry *
images_pin(Images *images, unsigned number, GError **error)
{
    (void)images, (void)number, (void)error;
    return NULL;
}

ImageEntry *
images_pin_open(Images *images, unsigned number)
{
    (void)images, (void)number;
    return NULL;
}

void
image_entry_unpin(ImageEntry *entry)
{
    (void)entry;
}

bool
images_next_open(Images *images, unsigned *number)
{
    (void)images, (void)number;
    return false;
}

bool
images_next_error(Images *images, unsigned *number)
{
    (void)images, (void)number;
    return false;
}

char *
images_get_name(Images *images, unsigned number)
{
    (void)images, (void)number;
    return NULL;
}

bool
images_get_error(Images *images, unsigned number, char **file_out, char **reason_out)
{
    (void)images, (void)number, (void)file_out, (void)reason_out;
    return false;
}

bool
images_get_other(Images *images, unsigned place, char **file_out, char **reason_out)
{
    (void)images, (void)place, (void)file_out, (void)reason_out;
    return false;
}

/* ---- tests ---- */

typedef struct {
    MemoryImage image;
    ImageEntry entry;
    Tree tree;
} Fixture;

static void
set_up(Fixture *f, gconstpointer data)
{
    (void)data;
    f->image =
        memory_image_new(&qimg_driver_qcow2, &(QimgCreateOptions){.size_bytes = QIMG_MIB,
                                                                  .version = 3,
                                                                  .cluster_bits = 16,
                                                                  .refcount_order = 4});
    f->entry = (ImageEntry){.image = f->image.disk, .opening = 1};
    f->tree = (Tree){.sizes = text_sizes_new()};
    n_made = 0;
}

static void
tear_down(Fixture *f, gconstpointer data)
{
    (void)data;
    text_sizes_free(f->tree.sizes);
    qimg_image_close(f->image.disk);
}

/* Measures @kind a few times; whether it was generated, at most once. */
static bool
is_made(Fixture *f, NodeKind kind, uint64_t *n_bytes_out)
{
    Node node = {.kind = kind};
    unsigned before = n_made, once;

    *n_bytes_out = control_text_measure(&f->tree, &f->entry, node);
    once = n_made;
    for (unsigned i = 0; i < 100; i++)
        g_assert_cmpuint(control_text_measure(&f->tree, &f->entry, node), ==,
                         *n_bytes_out);
    g_assert_cmpuint(n_made, ==, once);
    return once > before;
}

static void
test_made_once(Fixture *f, gconstpointer data)
{
    NodeKind kind = (NodeKind)GPOINTER_TO_INT(data);
    uint64_t n_bytes, again;

    g_assert_true(is_made(f, kind, &n_bytes));
    g_assert_cmpuint(n_bytes, >, 0);
    g_assert_false(is_made(f, kind, &again));
    g_assert_cmpuint(again, ==, n_bytes);
}

/* Changes that may affect the text cause a new one: each kind of change of the image, its
 * opening, its table of partitions. */
static void
test_made_again(Fixture *f, gconstpointer data)
{
    static const uint8_t bytes[512] = {1};
    g_autoptr(GError) error = NULL;
    uint64_t before, n_bytes;
    QimgSnapshots *list;

    (void)data;
    g_assert_true(is_made(f, NODE_INFO, &before));
    g_assert_cmpint(qimg_image_write(f->image.disk, 0, bytes, sizeof bytes), ==, 0);
    g_assert_true(is_made(f, NODE_INFO, &n_bytes));
    g_assert_cmpint(qimg_image_discard(f->image.disk, 0, QIMG_MIB), ==, 0);
    g_assert_true(is_made(f, NODE_INFO, &n_bytes));
    g_assert_cmpint(qimg_image_resize(f->image.disk, 100 * QIMG_MIB, NULL, NULL), ==, 0);
    g_assert_true(is_made(f, NODE_INFO, &n_bytes));
    g_assert_cmpint(qimg_image_flush(f->image.disk), ==, 0);
    g_assert_true(is_made(f, NODE_INFO, &before));
    g_assert_true(qimg_image_create_snapshot(f->image.disk, "one", NULL, NULL, &error));
    g_assert_no_error(error);
    g_assert_true(is_made(f, NODE_INFO, &n_bytes));
    g_assert_cmpuint(n_bytes, >, before);
    list = qimg_image_get_snapshots(f->image.disk);
    g_assert_true(qimg_image_delete_snapshot(
        f->image.disk, qimg_snapshots_get(list, 0)->serial, NULL, NULL, &error));
    g_assert_no_error(error);
    qimg_snapshots_unref(list);
    g_assert_true(is_made(f, NODE_INFO, &n_bytes));
    g_assert_cmpuint(n_bytes, ==, before);
    f->entry.opening++;
    g_assert_true(is_made(f, NODE_INFO, &n_bytes));
    table_version++;
    g_assert_true(is_made(f, NODE_INFO, &n_bytes));
}

/* Each of several files of one image has its own size. */
static void
test_told_apart(Fixture *f, gconstpointer data)
{
    uint64_t info, text, again;

    (void)data;
    g_assert_true(is_made(f, NODE_INFO, &info));
    g_assert_true(is_made(f, NODE_SNAPSHOT_INFO, &text));
    g_assert_false(is_made(f, NODE_INFO, &again));
    g_assert_cmpuint(again, ==, info);
    g_assert_false(is_made(f, NODE_SNAPSHOT_INFO, &again));
    g_assert_cmpuint(again, ==, text);
    g_assert_cmpuint(text, ==, strlen("text\n"));
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add("/text-sizes/made-once/info", Fixture, GINT_TO_POINTER(NODE_INFO), set_up,
               test_made_once, tear_down);
    g_test_add("/text-sizes/made-once/snapshot", Fixture,
               GINT_TO_POINTER(NODE_SNAPSHOT_INFO), set_up, test_made_once, tear_down);
    g_test_add("/text-sizes/made-again", Fixture, NULL, set_up, test_made_again,
               tear_down);
    g_test_add("/text-sizes/told-apart", Fixture, NULL, set_up, test_told_apart,
               tear_down);
    return g_test_run();
}
