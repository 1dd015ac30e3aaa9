/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuse/images, the registry of images, without a file system: numbers and names, opening
 * on demand and closing, changing directories, snapshots and partitions. */
#include "images/images.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "images/dir-watch.h"
#include "images/images-close.h"
#include "images/images-dir.h"
#include "images/images-open.h"
#include "test-util.h"

#define DISK_BYTES 1048576u

typedef struct {
    char *dir;
    QimgOptions *options;
    Images *images;
} Fixture;

static char *
path_of(const Fixture *f, const char *name)
{
    return g_build_filename(f->dir, name, NULL);
}

static void
make(const Fixture *f, const char *name)
{
    g_autoptr(QimgCreate) create = qimg_create_new();
    g_autofree char *path = path_of(f, name);
    GError *error = NULL;

    test_util_set_property(create, "size", "1M");
    test_util_set_property(create, "force", NULL);
    qimg_create_run(create, path, NULL, NULL, &error);
    g_assert_no_error(error);
}

static void
set_up(Fixture *f, bool is_writable, unsigned idle_s)
{
    f->dir = test_util_make_dir();
    f->options = qimg_options_new();
    if (is_writable)
        g_assert_true(qimg_options_set(f->options, "rw", NULL, NULL));
    f->images = images_new((ImagesSettings){
        .image_options = f->options, .is_writable = is_writable, .idle_s = idle_s});
}

static void
add_directory(Fixture *f)
{
    GError *error = NULL;

    images_add_directory(f->images, f->dir, &error);
    g_assert_no_error(error);
    g_assert_true(images_scan(f->images, images_get_directory(f->images, 0)));
}

static void
tear_down(Fixture *f)
{
    images_free(f->images);
    qimg_options_free(f->options);
    test_util_remove_dir(f->dir);
}

static unsigned
find(const Fixture *f, const char *name)
{
    unsigned number = MAX_IMAGES;

    if (!images_find(f->images, name, &number))
        g_error("%s is not there", name);
    return number;
}

static bool
has(const Fixture *f, const char *name)
{
    unsigned number;

    return images_find(f->images, name, &number);
}

static unsigned
count_open(const Fixture *f)
{
    unsigned n = 0;

    for (unsigned i = 0; images_next_open(f->images, &i); i++)
        n++;
    return n;
}

/* ---- named images ---- */

static void
test_named(void)
{
    g_autofree char *path = NULL;
    g_autofree char *name = NULL;
    GError *error = NULL;
    ImageFacts facts;
    Fixture f;
    QimgImage *image;
    unsigned number = 0;

    set_up(&f, false, 0);
    make(&f, "disk.qcow2");
    path = path_of(&f, "disk.qcow2");
    image = qimg_image_open(path, f.options, &error);
    g_assert_no_error(error);
    g_assert_true(images_add_open(f.images, image, path, &error));
    image = qimg_image_open(path, f.options, &error);
    g_assert_false(images_add_open(f.images, image, path, &error));
    g_assert_error(error, QIMG_ERROR, QIMG_ERROR_USAGE);
    g_clear_error(&error);
    qimg_image_close(image);
    g_assert_cmpuint(images_get_n(f.images), ==, 1);
    g_assert_true(images_next(f.images, &number));
    name = images_get_name(f.images, number);
    g_assert_cmpstr(name, ==, "disk");
    g_assert_false(images_can_go(f.images, number));
    g_assert_true(images_get_facts(f.images, number, &facts, NULL));
    g_assert_cmpuint(facts.size_bytes, ==, DISK_BYTES);
    images_close_idle(f.images); /* it stays open */
    g_assert_cmpuint(count_open(&f), ==, 1);
    tear_down(&f);
}

/* ---- opening on demand ---- */

static void
test_at_need(void)
{
    GError *error = NULL;
    ImageEntry *entry, *again;
    ImageFacts facts;
    unsigned number;
    uint8_t byte;
    Fixture f;

    set_up(&f, false, 0);
    make(&f, "a.qcow2");
    make(&f, "b.qcow2");
    add_directory(&f);
    g_assert_cmpuint(images_get_n(f.images), ==, 2);
    g_assert_cmpuint(count_open(&f), ==, 0);
    number = find(&f, "a");
    g_assert_null(images_pin_open(f.images, number));
    entry = images_pin(f.images, number, &error);
    g_assert_no_error(error);
    g_assert_cmpint(qimg_image_read(entry->image, 0, &byte, 1), ==, 0);
    again = images_pin_open(f.images, number);
    g_assert_true(again == entry);
    image_entry_unpin(again);
    g_assert_cmpuint(count_open(&f), ==, 1);
    images_close_idle(f.images); /* not while it is in use */
    g_assert_cmpuint(count_open(&f), ==, 1);
    image_entry_unpin(entry);
    g_assert_cmpint(images_close_idle(f.images), ==, -1);
    g_assert_cmpuint(count_open(&f), ==, 0);
    /* Remembered facts need no opening. */
    g_assert_true(images_get_facts(f.images, number, &facts, &error));
    g_assert_cmpuint(facts.size_bytes, ==, DISK_BYTES);
    g_assert_cmpuint(count_open(&f), ==, 0);
    tear_down(&f);
}

static void
test_idle(void)
{
    ImageEntry *entry;
    Fixture f;

    set_up(&f, false, 3600);
    make(&f, "a.qcow2");
    add_directory(&f);
    entry = images_pin(f.images, find(&f, "a"), NULL);
    g_assert_nonnull(entry);
    image_entry_unpin(entry);
    g_assert_cmpint(images_close_idle(f.images), >, 0); /* ms until it is due */
    g_assert_cmpuint(count_open(&f), ==, 1);
    tear_down(&f);
}

static void
test_damaged(void)
{
    g_autofree char *file = NULL;
    g_autofree char *reason = NULL;
    GError *error = NULL;
    ImageEntry *entry;
    unsigned number, first = 0;
    Fixture f;

    set_up(&f, false, 0);
    g_free(test_util_write(f.dir, "bad.qcow2", "QFI\373 and no more", 16));
    add_directory(&f);
    number = find(&f, "bad");
    g_assert_false(images_next_error(f.images, &first));
    g_assert_null(images_pin(f.images, number, &error));
    g_assert_cmpint(images_errno(error), ==, EIO);
    g_clear_error(&error);
    g_assert_true(images_next_error(f.images, &first));
    g_assert_cmpuint(first, ==, number);
    g_assert_true(images_get_error(f.images, number, &file, &reason));
    g_assert_true(g_str_has_suffix(file, "bad.qcow2"));
    /* It is checked again, since it was repaired. */
    make(&f, "bad.qcow2");
    g_assert_true(images_scan(f.images, images_get_directory(f.images, 0)));
    entry = images_pin(f.images, find(&f, "bad"), &error);
    g_assert_no_error(error);
    image_entry_unpin(entry);
    tear_down(&f);
}

/* ---- a changing directory ---- */

static void
check_gone(const Fixture *f, const char *name)
{
    g_autoptr(GPtrArray) gone = images_take_gone(f->images);

    g_assert_cmpuint(gone->len, ==, 1);
    g_assert_cmpstr(gone->pdata[0], ==, name);
}

/* A number belongs to one file forever; an image in use outlives its name. */
static void
test_comes_and_goes(void)
{
    g_autofree char *path = NULL;
    GError *error = NULL;
    ImageEntry *entry;
    ImageDir *dir;
    unsigned number;
    uint8_t byte;
    Fixture f;

    set_up(&f, false, 0);
    make(&f, "a.qcow2");
    path = path_of(&f, "a.qcow2");
    add_directory(&f);
    dir = images_get_directory(f.images, 0);
    number = find(&f, "a");
    entry = images_pin(f.images, number, &error);
    g_assert_no_error(error);
    g_unlink(path);
    images_update(f.images, dir, "a.qcow2", FILE_LEFT);
    g_assert_false(has(&f, "a"));
    check_gone(&f, "a");
    g_assert_true(images_has(f.images, number));
    g_assert_null(images_get_name(f.images, number));
    g_assert_cmpint(qimg_image_read(entry->image, 0, &byte, 1), ==, 0);

    make(&f, "a.qcow2");
    images_update(f.images, dir, "a.qcow2", FILE_COMPLETE);
    g_assert_cmpuint(find(&f, "a"), !=, number);
    image_entry_unpin(entry);
    images_close_idle(f.images);
    g_assert_false(images_has(f.images, number));
    g_assert_null(images_pin(f.images, number, &error));
    g_assert_cmpint(images_errno(error), ==, ESTALE);
    g_clear_error(&error);
    tear_down(&f);
}

/* Of two files that would have one name, both are shown; files that are no images are
 * not. */
static void
test_names(void)
{
    unsigned n = 0;
    Fixture f;

    set_up(&f, false, 0);
    make(&f, "a.qcow2");
    make(&f, "a.img");
    make(&f, ".hidden.qcow2");
    g_free(test_util_write(f.dir, "README", "words", 5));
    add_directory(&f);
    for (unsigned i = 0; images_next(f.images, &i); i++) {
        g_autofree char *name = images_get_name(f.images, i);

        g_test_message("%s", name);
        g_assert_cmpuint(find(&f, name), ==, i);
        n++;
    }
    g_assert_cmpuint(n, ==, 2);
    tear_down(&f);
}

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char *gone; /* guarded by lock */
} Told;

static void
on_gone(const char *name, void *user)
{
    Told *told = user;

    pthread_mutex_lock(&told->lock);
    told->gone = g_strdup(name);
    pthread_cond_signal(&told->changed);
    pthread_mutex_unlock(&told->lock);
}

static void
test_watch(void)
{
    Told told = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    g_autofree char *path = NULL;
    GError *error = NULL;
    DirWatch *watch;
    Fixture f;

    set_up(&f, false, 0);
    make(&f, "a.qcow2");
    path = path_of(&f, "a.qcow2");
    g_assert_true(images_add_directory(f.images, f.dir, &error));
    watch = dir_watch_new(f.images, &error);
    g_assert_no_error(error);
    g_assert_true(has(&f, "a")); /* found before any request */
    g_assert_true(dir_watch_start(watch, on_gone, &told));
    g_unlink(path);
    pthread_mutex_lock(&told.lock);
    while (!told.gone)
        pthread_cond_wait(&told.changed, &told.lock);
    pthread_mutex_unlock(&told.lock);
    g_assert_cmpstr(told.gone, ==, "a");
    g_assert_false(has(&f, "a"));
    dir_watch_stop(watch);
    dir_watch_free(watch);
    g_free(told.gone);
    tear_down(&f);
}

/* ---- parts of an image ---- */

static void
test_snapshots(void)
{
    GError *error = NULL;
    ImageEntry *entry;
    SnapshotDir *before, *after;
    const char *name = NULL;
    unsigned first_index;
    Fixture f;

    set_up(&f, true, 0);
    make(&f, "a.qcow2");
    add_directory(&f);
    entry = images_pin(f.images, find(&f, "a"), &error);
    g_assert_no_error(error);
    before = image_entry_get_snapshots(entry);
    g_assert_true(qimg_image_create_snapshot(entry->image, "a/b", NULL, NULL, &error));
    after = image_entry_get_snapshots(entry);
    g_assert_null(snapshot_dir_find_name(before, "a%2Fb")); /* as of that moment */
    g_assert_nonnull(snapshot_dir_find_name(after, "a%2Fb"));
    g_assert_nonnull(snapshot_dir_find(after, 0, &name));
    g_assert_cmpstr(name, ==, "a%2Fb");
    first_index = entry->first_index;
    snapshot_dir_unref(before);
    snapshot_dir_unref(after);
    g_assert_true(image_entry_flush(entry, &error));
    image_entry_unpin(entry);
    images_close_idle(f.images);
    g_assert_cmpuint(count_open(&f), ==, 0);
    entry = images_pin(f.images, find(&f, "a"), &error);
    g_assert_no_error(error);
    g_assert_cmpuint(entry->first_index, >=, first_index);
    after = image_entry_get_snapshots(entry);
    g_assert_nonnull(snapshot_dir_find_name(after, "a%2Fb"));
    snapshot_dir_unref(after);
    image_entry_unpin(entry);
    tear_down(&f);
}

/* An MBR with one partition, [512 KiB, 768 KiB), that changes. */
static void
write_mbr(QimgImage *image, uint32_t first_sector)
{
    uint8_t mbr[512] = {[446 + 4] = 0x83, [510] = 0x55, [511] = 0xaa};

    mbr[446 + 8] = (uint8_t)first_sector;
    mbr[446 + 9] = (uint8_t)(first_sector >> 8);
    mbr[446 + 13] = 2; /* 512 sectors */
    g_assert_cmpint(qimg_image_write(image, 0, mbr, sizeof mbr), ==, 0);
}

static uint64_t
start_of_first(ImageEntry *entry)
{
    g_autoptr(QimgPartitions) list =
        partition_dir_get(&entry->partitions, entry->image, PARTITIONS_OF_DISK, 0, 0);
    const QimgPartition *found = list ? partition_dir_find(list, 1) : NULL;

    return found ? found->start_bytes : 0;
}

static void
test_partitions(void)
{
    GError *error = NULL;
    ImageEntry *entry;
    unsigned number, generation;
    Fixture f;

    set_up(&f, true, 0);
    make(&f, "a.qcow2");
    add_directory(&f);
    number = find(&f, "a");
    entry = images_pin(f.images, number, &error);
    g_assert_no_error(error);
    g_assert_false(images_knows_partitions(f.images, number));
    write_mbr(entry->image, 1024);
    partition_dir_forget(&entry->partitions);
    g_assert_cmpuint(start_of_first(entry), ==, 1024 * 512);
    g_assert_true(images_knows_partitions(f.images, number));
    generation = partition_dir_get_generation(&entry->partitions, 1);
    partition_dir_add_writer(&entry->partitions);
    write_mbr(entry->image, 512);
    partition_dir_remove_writer(&entry->partitions); /* its last writer: read again */
    g_assert_cmpuint(start_of_first(entry), ==, 512 * 512);
    g_assert_cmpuint(partition_dir_get_generation(&entry->partitions, 1), >, generation);
    image_entry_unpin(entry);
    tear_down(&f);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/images/named", test_named);
    g_test_add_func("/images/at-need", test_at_need);
    g_test_add_func("/images/idle", test_idle);
    g_test_add_func("/images/damaged", test_damaged);
    g_test_add_func("/images/comes-and-goes", test_comes_and_goes);
    g_test_add_func("/images/names", test_names);
    g_test_add_func("/images/watch", test_watch);
    g_test_add_func("/images/snapshots", test_snapshots);
    g_test_add_func("/images/partitions", test_partitions);
    return g_test_run();
}
