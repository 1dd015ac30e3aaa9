/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Appends beside other requests: none waits for the others if the bytes that it uncovers
 * are known to be zeros, and none is lost in a cluster whose rest is zeroed meanwhile.
 * The source under test is compiled into this program, so that a test can run a single
 * step. */
#include <pthread.h>
#include <string.h>

#include "image/write/resize.c"

#include "grow-cases.h"
#include "memory-image.h"
#include "memory-storage.h"
#include "test-util.h"

#define CLUSTER 65536u
#define BLOCK   4096u

static const GrowCase cases[] = {
    GROW_CASES(16, 16, BLOCK),
    {"version-2",
     &qimg_driver_qcow2,
     {.size_bytes = BLOCK, .version = 2, .cluster_bits = 16, .refcount_order = 4}},
};

static void
append(MemoryImage *o, uint8_t value)
{
    uint64_t end = qimg_image_get_size_bytes(o->disk);
    uint8_t block[BLOCK];

    memset(block, value, sizeof block);
    g_assert_cmpint(qimg_image_write(o->disk, end, block, sizeof block), ==, 0);
    g_assert_cmpuint(qimg_image_get_size_bytes(o->disk), ==, end + BLOCK);
}

static void
assert_block(MemoryImage *o, uint64_t guest_offset, uint8_t value)
{
    uint8_t block[BLOCK], wanted[BLOCK];

    memset(wanted, value, sizeof wanted);
    g_assert_cmpint(qimg_image_read(o->disk, guest_offset, block, sizeof block), ==, 0);
    g_assert_cmpmem(block, sizeof block, wanted, sizeof wanted);
}

static void *
read_first_block(void *user)
{
    uint8_t block[BLOCK];

    g_assert_cmpint(qimg_image_read(user, 0, block, sizeof block), ==, 0);
    return NULL;
}

static void *
write_first_block(void *user)
{
    static const uint8_t block[BLOCK] = {1};

    g_assert_cmpint(qimg_image_write(user, 0, block, sizeof block), ==, 0);
    return NULL;
}

/* Appends while a request of @work is blocked inside the gate, at a call of the kind
 * @call, and continues only afterwards: an append that waited for it would wait
 * forever. */
static void
append_beside(const GrowCase *c, void *(*work)(void *), MemoryCalls call)
{
    MemoryImage o = memory_image_new(c->driver, &c->create);
    uint64_t start;
    pthread_t thread;

    append(&o, 1);
    append(&o, 2); /* the first one may have to check the bytes behind */
    start = qimg_image_get_size_bytes(o.disk);
    memory_storage_block_calls(o.data, call, QIMG_IO_DATA);
    g_assert_cmpint(pthread_create(&thread, NULL, work, o.disk), ==, 0);
    memory_storage_wait_blocked(o.data, 1);
    for (unsigned i = 0; call == MEMORY_READ && i < 8; i++)
        append(&o, (uint8_t)(10 + i));
    if (call == MEMORY_WRITE) /* the data of an append would be blocked there, too */
        g_assert_cmpint(image_grow(o.disk, start + 8 * BLOCK), ==, 0);
    g_assert_cmpuint(qimg_image_get_size_bytes(o.disk), ==, start + 8 * BLOCK);
    memory_storage_release(o.data);
    pthread_join(thread, NULL);
    for (unsigned i = 0; call == MEMORY_READ && i < 8; i++)
        assert_block(&o, start + i * BLOCK, (uint8_t)(10 + i));
    qimg_image_close(o.disk);
}

static void
test_beside_reader(const void *data)
{
    append_beside(data, read_first_block, MEMORY_READ);
}

static void
test_beside_writer(const void *data)
{
    append_beside(data, write_first_block, MEMORY_WRITE);
}

static void *
discard_second_cluster(void *user)
{
    uint64_t n_bytes = qimg_image_get_size_bytes(user) - CLUSTER;

    g_assert_cmpint(qimg_image_discard(user, CLUSTER, n_bytes), ==, 0);
    return NULL;
}

/* Zeros the second cluster of a disk that ends @n_bytes behind its first one, and expects
 * @wanted from growing it while the entry (QED: the cluster) is changed. Appended bytes
 * are there in the end, with zeros before them. */
static void
append_beside_zeroes(const GrowCase *c, uint64_t n_bytes, QimgErrno wanted)
{
    MemoryImage o = memory_image_new(c->driver, &c->create);
    g_autofree uint8_t *bytes = g_malloc0(CLUSTER + n_bytes);
    uint64_t size_bytes;
    pthread_t thread;

    memset(bytes, 7, CLUSTER + n_bytes);
    g_assert_cmpint(qimg_image_write(o.disk, 0, bytes, CLUSTER + n_bytes), ==, 0);
    memory_storage_block_calls(o.file, MEMORY_WRITE | MEMORY_PUNCH,
                               c->driver == &qimg_driver_qed ? QIMG_IO_DATA : QIMG_IO_L2);
    g_assert_cmpint(pthread_create(&thread, NULL, discard_second_cluster, o.disk), ==, 0);
    memory_storage_wait_blocked(o.file, 1);
    g_assert_cmpint(grow_inside(o.disk, CLUSTER + n_bytes + BLOCK), ==, wanted);
    memory_storage_release(o.file);
    pthread_join(thread, NULL);
    size_bytes = qimg_image_get_size_bytes(o.disk);
    g_assert_cmpuint(size_bytes, ==, CLUSTER + n_bytes + (wanted ? 0 : BLOCK));
    append(&o, 9);
    assert_block(&o, size_bytes, 9);
    g_assert_cmpint(qimg_image_read(o.disk, 0, bytes, CLUSTER + n_bytes), ==, 0);
    for (uint64_t i = 0; i < CLUSTER + n_bytes; i++)
        g_assert_cmpuint(bytes[i], ==, i < CLUSTER ? 7 : 0);
    qimg_image_close(o.disk);
}

/* Zeroing the last unit also zeros the bytes behind the disk's end: the disk must not
 * grow into them meanwhile. */
static void
test_beside_zeroes(const void *data)
{
    append_beside_zeroes(data, BLOCK + QIMG_SECTOR_BYTES, -EAGAIN);
}

/* If the disk ends with a unit, nothing lies behind its end. */
static void
test_beside_whole_zeroes(const void *data)
{
    append_beside_zeroes(data, CLUSTER, 0);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        const struct {
            const char *name;
            GTestDataFunc run;
            bool needs_tables;
        } tests[] = {
            {"beside-reader", test_beside_reader, false},
            {"beside-writer", test_beside_writer, false},
            {"beside-zeroes", test_beside_zeroes, true},
            {"beside-whole-zeroes", test_beside_whole_zeroes, true},
        };

        for (size_t j = 0; j < G_N_ELEMENTS(tests); j++) {
            g_autofree char *path =
                g_strdup_printf("/append/%s/%s", tests[j].name, cases[i].name);

            if (!tests[j].needs_tables || cases[i].driver != &qimg_driver_raw)
                g_test_add_data_func(path, &cases[i], tests[j].run);
        }
    }
    return g_test_run();
}
