/* SPDX-License-Identifier: GPL-2.0-or-later */
/* support/memory-storage.c, the writable kind: content against a plain array, space,
 * fault rules, and readers beside writers. */
#include "memory-storage.h"

#include <errno.h>
#include <string.h>

#include "test-util.h"

#define MAX_BYTES (64u * 1024)

static QimgErrno
put(QimgStorage *storage, QimgIoPurpose purpose, uint64_t offset, uint8_t value,
    size_t n_bytes)
{
    g_autofree uint8_t *bytes = g_malloc(n_bytes);

    memset(bytes, value, n_bytes);
    return qimg_storage_write(storage, purpose, qimg_host(offset), bytes, n_bytes);
}

static void
check_equals(QimgStorage *storage, const uint8_t *model, size_t size_bytes)
{
    g_autofree uint8_t *bytes = g_malloc(MAX_BYTES + 100);
    g_autoptr(GByteArray) all = memory_storage_copy_all(storage);
    uint64_t got_size = 0;

    g_assert_cmpint(qimg_storage_get_size(storage, &got_size), ==, 0);
    g_assert_cmpuint(got_size, ==, size_bytes);
    g_assert_cmpmem(all->data, all->len, model, size_bytes);
    g_assert_cmpint(
        qimg_storage_read(storage, QIMG_IO_DATA, qimg_host(0), bytes, MAX_BYTES + 100),
        ==, 0);
    g_assert_cmpmem(bytes, size_bytes, model, size_bytes);
    for (size_t i = size_bytes; i < MAX_BYTES + 100; i++)
        g_assert_cmpuint(bytes[i], ==, 0);
    memory_storage_copy(storage, 7, bytes, 5000);
    for (size_t i = 0; i < 5000; i++)
        g_assert_cmpuint(bytes[i], ==, i + 7 < size_bytes ? model[i + 7] : 0);
}

/* Random changes, compared with a plain array. @data: the unit of punching, 0 for none.
 */
static void
test_content(const void *data)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(test_util_seed());
    g_autofree uint8_t *model = g_malloc0(MAX_BYTES);
    size_t size_bytes = 10000;
    QimgStorage *storage;

    memset(model, 0x11, size_bytes);
    storage = memory_storage_new_writable(model, size_bytes, "memory");
    storage->punch_unit_bytes = GPOINTER_TO_UINT(data);
    g_assert_true(qimg_storage_is_writable(storage));
    for (unsigned i = 1; i <= 300; i++) {
        size_t offset = g_rand_int_range(rand, 0, MAX_BYTES - 1);
        size_t n_bytes = g_rand_int_range(rand, 1, MIN(20000, MAX_BYTES - offset));

        memory_storage_limit_writes(storage, i % 3 == 0 ? 1000 : 0);
        switch (g_rand_int_range(rand, 0, 5)) {
        case 0:
        case 1:
            g_assert_cmpint(put(storage, QIMG_IO_DATA, offset, i % 255 + 1, n_bytes), ==,
                            0);
            memset(model + offset, i % 255 + 1, n_bytes);
            size_bytes = MAX(size_bytes, offset + n_bytes);
            break;
        case 2:
            g_assert_cmpint(
                qimg_storage_zero(storage, QIMG_IO_DATA, qimg_host(offset), n_bytes), ==,
                0);
            memset(model + offset, 0, n_bytes);
            break;
        case 3:
            g_assert_cmpint(qimg_storage_set_size(storage, offset), ==, 0);
            if (offset < size_bytes)
                memset(model + offset, 0, size_bytes - offset);
            size_bytes = offset;
            break;
        default:
            g_assert_cmpint(qimg_storage_allocate(storage, qimg_host(offset), n_bytes),
                            ==, 0);
        }
        check_equals(storage, model, size_bytes);
    }
    qimg_storage_close(storage);
}

static void
test_space(void)
{
    QimgStorage *storage = memory_storage_new_writable("x", 1, "memory");
    uint64_t size_bytes = 0;
    uint8_t byte = 0;

    g_assert_cmpuint(memory_storage_used(storage), ==, 4096);
    memory_storage_set_capacity(storage, 3 * 4096);
    /* Many GiB cost nothing except the written pages. */
    g_assert_cmpint(qimg_storage_set_size(storage, UINT64_C(1) << 40), ==, 0);
    g_assert_cmpint(put(storage, QIMG_IO_DATA, UINT64_C(1) << 39, 7, 1), ==, 0);
    g_assert_cmpuint(memory_storage_used(storage), ==, 2 * 4096);
    /* One page is left: the write of two is cut short, and then fails. */
    g_assert_cmpint(put(storage, QIMG_IO_DATA, 4096, 8, 8192), ==, -ENOSPC);
    g_assert_cmpint(qimg_storage_read(storage, QIMG_IO_DATA, qimg_host(8191), &byte, 1),
                    ==, 0);
    g_assert_cmpuint(byte, ==, 8);
    g_assert_cmpint(put(storage, QIMG_IO_DATA, 0, 9, 4096), ==, 0); /* needs no room */
    g_assert_cmpint(qimg_storage_allocate(storage, qimg_host(0), 8192), ==, 0);
    g_assert_cmpint(qimg_storage_allocate(storage, qimg_host(0), 8193), ==, -ENOSPC);
    qimg_storage_discard(storage, QIMG_IO_DATA, qimg_host(0), 4096);
    g_assert_cmpint(qimg_storage_allocate(storage, qimg_host(4096), 8192), ==, 0);
    g_assert_cmpint(put(storage, QIMG_IO_DATA, 0, 9, 1), ==, -ENOSPC);
    g_assert_cmpint(qimg_storage_set_size(storage, 5), ==, 0);
    g_assert_cmpuint(memory_storage_used(storage), ==, 0);
    g_assert_cmpint(put(storage, QIMG_IO_DATA, 0, 9, 1), ==, 0);
    g_assert_cmpint(qimg_storage_get_size(storage, &size_bytes), ==, 0);
    g_assert_cmpuint(size_bytes, ==, 5);
    qimg_storage_close(storage);
}

static void
test_faults(void)
{
    QimgStorage *storage = memory_storage_new_writable("", 0, "memory");
    uint8_t bytes[10];

    /* The second and third write for L2, and no other. */
    memory_storage_add_fault(storage, &(MemoryFault){.calls = MEMORY_WRITE,
                                                     .purpose = QIMG_IO_L2,
                                                     .n_until = 1,
                                                     .n_fails = 2,
                                                     .errnum = EDQUOT});
    g_assert_cmpint(put(storage, QIMG_IO_L2, 0, 1, 10), ==, 0);
    g_assert_cmpint(put(storage, QIMG_IO_L1, 0, 1, 10), ==, 0);
    g_assert_cmpint(put(storage, QIMG_IO_L2, 0, 2, 10), ==, -EDQUOT);
    g_assert_cmpint(put(storage, QIMG_IO_DATA, 0, 3, 10), ==, 0);
    g_assert_cmpint(put(storage, QIMG_IO_L2, 0, 4, 10), ==, -EDQUOT);
    g_assert_cmpint(put(storage, QIMG_IO_L2, 0, 5, 10), ==, 0);
    memory_storage_clear_faults(storage);
    /* A write of which 3 bytes are done before it fails. */
    memory_storage_add_fault(storage, &(MemoryFault){.calls = MEMORY_WRITE,
                                                     .purpose = MEMORY_ANY_PURPOSE,
                                                     .n_fails = 1,
                                                     .n_bytes_before = 3});
    memory_storage_add_fault(storage, &(MemoryFault){.calls = MEMORY_WRITE,
                                                     .purpose = MEMORY_ANY_PURPOSE,
                                                     .n_until = 1,
                                                     .n_fails = 1,
                                                     .errnum = EIO});
    g_assert_cmpint(put(storage, QIMG_IO_DATA, 0, 6, 10), ==, -EIO);
    memory_storage_copy(storage, 0, bytes, sizeof bytes);
    g_assert_cmpmem(bytes, 10, "\6\6\6\5\5\5\5\5\5\5", 10);
    memory_storage_clear_faults(storage);
    /* Any call: the third one. */
    memory_storage_add_fault(storage, &(MemoryFault){.calls = MEMORY_ANY_CALL,
                                                     .purpose = MEMORY_ANY_PURPOSE,
                                                     .n_until = 2,
                                                     .n_fails = 1,
                                                     .errnum = EIO});
    g_assert_cmpint(put(storage, QIMG_IO_DATA, 0, 6, 10), ==, 0);
    g_assert_cmpint(qimg_storage_set_size(storage, 4), ==, 0);
    g_assert_cmpint(qimg_storage_zero(storage, QIMG_IO_DATA, qimg_host(0), 1), ==, -EIO);
    g_assert_cmpint(qimg_storage_zero(storage, QIMG_IO_DATA, qimg_host(0), 1), ==, 0);
    memory_storage_clear_faults(storage);
    /* After a failed sync all syncs fail, even when the rule is gone. */
    memory_storage_add_fault(storage, &(MemoryFault){.calls = MEMORY_SYNC,
                                                     .purpose = MEMORY_ANY_PURPOSE,
                                                     .n_until = 1,
                                                     .n_fails = 1,
                                                     .errnum = EIO});
    g_assert_cmpint(qimg_storage_sync(storage), ==, 0);
    g_assert_cmpint(qimg_storage_sync(storage), ==, -EIO);
    g_assert_cmpint(qimg_storage_sync(storage), ==, -EIO);
    g_assert_cmpuint(memory_storage_n_calls(storage, MEMORY_SYNC), ==, 3);
    g_assert_cmpuint(memory_storage_n_calls(storage, MEMORY_PUNCH | MEMORY_SET_SIZE), ==,
                     3);
    qimg_storage_close(storage);
}

#define N_ROUNDS 2000

static void *
write_rounds(void *data)
{
    for (unsigned i = 0; i < N_ROUNDS; i++)
        g_assert_cmpint(put(data, QIMG_IO_DATA, i % 16 * 1024, i % 251, 3000), ==, 0);
    return NULL;
}

static void *
read_rounds(void *data)
{
    uint8_t bytes[3000];

    for (unsigned i = 0; i < N_ROUNDS; i++)
        g_assert_cmpint(qimg_storage_read(data, QIMG_IO_DATA, qimg_host(i % 16 * 1024),
                                          bytes, sizeof bytes),
                        ==, 0);
    return NULL;
}

static void
test_threads(void)
{
    QimgStorage *storage = memory_storage_new_writable("", 0, "memory");
    pthread_t threads[4];

    for (unsigned i = 0; i < 4; i++)
        g_assert_cmpint(pthread_create(&threads[i], NULL,
                                       i % 2 ? read_rounds : write_rounds, storage),
                        ==, 0);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    g_assert_cmpuint(memory_storage_n_calls(storage, MEMORY_WRITE), ==, 2 * N_ROUNDS);
    qimg_storage_close(storage);
}

static void *
write_once(void *data)
{
    g_assert_cmpint(put(data, QIMG_IO_L2, 0, 9, 4), ==, 0);
    return NULL;
}

static void
test_block(void)
{
    QimgStorage *storage = memory_storage_new_writable("abcd", 4, "memory");
    pthread_t thread;
    uint8_t bytes[4];

    memory_storage_block_calls(storage, MEMORY_WRITE, QIMG_IO_L2);
    g_assert_cmpint(pthread_create(&thread, NULL, write_once, storage), ==, 0);
    memory_storage_wait_blocked(storage, 1);
    g_assert_cmpint(qimg_storage_read(storage, QIMG_IO_L2, qimg_host(0), bytes, 4), ==,
                    0);
    g_assert_cmpmem(bytes, 4, "abcd", 4);
    memory_storage_release(storage);
    pthread_join(thread, NULL);
    memory_storage_copy(storage, 0, bytes, 4);
    g_assert_cmpmem(bytes, 4, "\t\t\t\t", 4);
    qimg_storage_close(storage);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_data_func("/memory-storage/content", NULL, test_content);
    g_test_add_data_func("/memory-storage/content-sectors", GUINT_TO_POINTER(512),
                         test_content);
    g_test_add_data_func("/memory-storage/content-pages", GUINT_TO_POINTER(4096),
                         test_content);
    g_test_add_func("/memory-storage/space", test_space);
    g_test_add_func("/memory-storage/faults", test_faults);
    g_test_add_func("/memory-storage/threads", test_threads);
    g_test_add_func("/memory-storage/block", test_block);
    return g_test_run();
}
