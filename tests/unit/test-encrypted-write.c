/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writing to encrypted images: requests that meet in one sector, which a cipher changes
 * as a whole. The storage stops a request in the middle of its bytes until the other one
 * has ended or waits, so that each test takes the same course every time. Spec:
 * encryption section 6. */
#include <pthread.h>
#include <string.h>

#include "base/endian.h"
#include "base/lock.h"
#include "base/wait-hook.h"
#include "format/drivers.h"
#include "memory-image.h"
#include "memory-storage.h"
#include "test-util.h"

#define SECTOR    512u
#define SIZE      (UINT64_C(4) << 20)
#define CRYPT_AES 1u
#define PASS      "words"
#define PLAIN     0xa5 /* the old content */

/* An encrypted image whose clusters are allocated and hold PLAIN. Its key is the
 * passphrase, and the IV counts guest sectors. */
static MemoryImage
open_filled(void)
{
    g_autoptr(GByteArray) bytes = memory_image_create(
        &qimg_driver_qcow2,
        &(QimgCreateOptions){
            .size_bytes = SIZE, .version = 3, .cluster_bits = 16, .refcount_order = 4});
    qimg_be32 method = qimg_be32_set(CRYPT_AES);
    g_autofree uint8_t *content = g_malloc(SIZE);
    MemoryImage image;

    memcpy(bytes->data + 32, &method, sizeof method);
    image = memory_image_open_encrypted(bytes, PASS);
    memset(content, PLAIN, SIZE);
    g_assert_cmpint(qimg_image_write(image.disk, 0, content, SIZE), ==, 0);
    return image;
}

/* The two requests. While @stops is set, the storage does the first half of a call for
 * data by the first one, waits for the second one, and does the rest. */
typedef struct {
    MemoryImage image;
    const QimgStorageOps *plain_ops;
    QimgStorageOps ops;
    bool stops_writes, stops_reads; /* const while threads run */
    bool second_writes;             /* const while threads run */
    uint64_t second_at;             /* const while threads run */
    uint8_t second_value;           /* const while threads run */
    pthread_t first;                /* const while threads run */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_stopped;       /* guarded by lock: the first one is in the middle */
    bool has_second_moved; /* guarded by lock: the second one waits, or has ended */
    uint8_t second_bytes[SECTOR];
} Meeting;

static Meeting *meeting; /* of the storage, whose functions have no user data */

static void
set_flag(Meeting *m, bool *flag)
{
    pthread_mutex_lock(&m->lock);
    *flag = true;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

static void
wait_for_flag(Meeting *m, const bool *flag)
{
    pthread_mutex_lock(&m->lock);
    while (!*flag)
        pthread_cond_wait(&m->changed, &m->lock);
    pthread_mutex_unlock(&m->lock);
}

static bool
is_the_stop(bool stops, QimgIoPurpose purpose)
{
    return stops && purpose == QIMG_IO_DATA &&
           pthread_equal(pthread_self(), meeting->first);
}

static void
let_second_go(Meeting *m)
{
    set_flag(m, &m->is_stopped);
    wait_for_flag(m, &m->has_second_moved);
}

static ssize_t
stopping_pwritev(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
                 const struct iovec *parts, int n_parts)
{
    size_t half = parts[0].iov_len / 2;
    struct iovec halves[] = {
        {parts[0].iov_base, half},
        {(uint8_t *)parts[0].iov_base + half, parts[0].iov_len - half}};

    if (!is_the_stop(meeting->stops_writes, purpose))
        return meeting->plain_ops->pwritev(storage, purpose, file_offset, parts, n_parts);
    g_assert_cmpint(n_parts, ==, 1);
    meeting->plain_ops->pwritev(storage, purpose, file_offset, &halves[0], 1);
    let_second_go(meeting);
    meeting->plain_ops->pwritev(storage, purpose, file_offset + half, &halves[1], 1);
    return (ssize_t)parts[0].iov_len;
}

static ssize_t
stopping_pread(QimgStorage *storage, QimgIoPurpose purpose, uint64_t file_offset,
               void *buffer, size_t n_bytes)
{
    size_t half = n_bytes / 2;

    if (!is_the_stop(meeting->stops_reads, purpose))
        return meeting->plain_ops->pread(storage, purpose, file_offset, buffer, n_bytes);
    meeting->plain_ops->pread(storage, purpose, file_offset, buffer, half);
    let_second_go(meeting);
    meeting->plain_ops->pread(storage, purpose, file_offset + half,
                              (uint8_t *)buffer + half, n_bytes - half);
    return (ssize_t)n_bytes;
}

static void
note_wait(void *user)
{
    Meeting *m = user;

    set_flag(m, &m->has_second_moved);
}

static void
ignore(void *user)
{
    (void)user;
}

/* Writes its byte, or reads the sector, while the first one is in the middle. */
static void *
run_second(void *user)
{
    Meeting *m = user;
    const QimgWaitHook hook = {.begin = note_wait, .end = ignore, .user = m};

    wait_for_flag(m, &m->is_stopped);
    qimg_wait_hook_set(&hook);
    if (m->second_writes)
        g_assert_cmpint(
            qimg_image_write(m->image.disk, m->second_at, &m->second_value, 1), ==, 0);
    else
        g_assert_cmpint(qimg_image_read(m->image.disk, 0, m->second_bytes, SECTOR), ==,
                        0);
    qimg_wait_hook_set(NULL);
    set_flag(m, &m->has_second_moved);
    return NULL;
}

static Meeting *
meeting_new(void)
{
    Meeting *m = g_new0(Meeting, 1);

    m->image = open_filled();
    m->plain_ops = m->image.file->ops;
    m->ops = *m->plain_ops;
    m->ops.pwritev = stopping_pwritev;
    m->ops.pread = stopping_pread;
    m->first = pthread_self();
    m->second_at = m->second_value = 2;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->changed, NULL);
    meeting = m;
    m->image.file->ops = &m->ops;
    return m;
}

static void
meeting_free(Meeting *m)
{
    m->image.file->ops = m->plain_ops;
    qimg_image_close(m->image.disk);
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->lock);
    g_free(m);
}

/* Checks a sector: PLAIN except for those two bytes; each of them has one of two values.
 */
static void
check_sector(const uint8_t *found, uint8_t first, uint8_t first_or, uint8_t second,
             uint8_t second_or)
{
    for (unsigned i = 0; i < SECTOR; i++) {
        if (i == 1)
            g_assert_true(found[i] == first || found[i] == first_or);
        else if (i == 2)
            g_assert_true(found[i] == second || found[i] == second_or);
        else
            g_assert_cmpuint(found[i], ==, PLAIN);
    }
}

static void
read_sector(const Meeting *m, uint8_t *out)
{
    g_assert_cmpint(qimg_image_read(m->image.disk, 0, out, SECTOR), ==, 0);
}

/* A write of one byte meets a write or a read of the same sector. */
static void
test_writer_meets(gconstpointer data)
{
    const bool second_writes = GPOINTER_TO_INT(data);
    Meeting *m = meeting_new();
    uint8_t found[SECTOR];
    const uint8_t value = 1;
    pthread_t second;

    m->second_writes = second_writes;
    m->stops_writes = true;
    g_assert_cmpint(pthread_create(&second, NULL, run_second, m), ==, 0);
    g_assert_cmpint(qimg_image_write(m->image.disk, 1, &value, 1), ==, 0);
    pthread_join(second, NULL);
    m->stops_writes = false;
    read_sector(m, found);
    check_sector(found, 1, 1, second_writes ? 2 : PLAIN, second_writes ? 2 : PLAIN);
    if (!second_writes)
        check_sector(m->second_bytes, 1, PLAIN, PLAIN, PLAIN);
    meeting_free(m);
}

/* A read that has begun meets a write, which does not wait for it. */
static void
test_reader_meets(void)
{
    Meeting *m = meeting_new();
    uint8_t found[SECTOR];
    pthread_t second;

    m->second_writes = true;
    m->stops_reads = true;
    g_assert_cmpint(pthread_create(&second, NULL, run_second, m), ==, 0);
    read_sector(m, found);
    pthread_join(second, NULL);
    m->stops_reads = false;
    check_sector(found, PLAIN, PLAIN, 2, PLAIN);
    read_sector(m, found);
    check_sector(found, PLAIN, PLAIN, 2, 2);
    meeting_free(m);
}

/* Alternate bytes around the border of two sectors, each of which is written while the
 * write of the one before it has read half of their sector. */
static void
test_alternate_bytes(void)
{
    Meeting *m = meeting_new();
    uint8_t found[2 * SECTOR];

    m->second_writes = true;
    m->stops_reads = true;
    for (unsigned i = 0; i < 16; i += 2) {
        const uint8_t value = (uint8_t)(100 + i);
        pthread_t second;

        m->is_stopped = m->has_second_moved = false;
        m->second_at = SECTOR - 8 + i + 1;
        m->second_value = value + 1;
        g_assert_cmpint(pthread_create(&second, NULL, run_second, m), ==, 0);
        g_assert_cmpint(qimg_image_write(m->image.disk, SECTOR - 8 + i, &value, 1), ==,
                        0);
        pthread_join(second, NULL);
    }
    m->stops_reads = false;
    g_assert_cmpint(qimg_image_read(m->image.disk, 0, found, sizeof found), ==, 0);
    for (unsigned i = 0; i < sizeof found; i++) {
        bool is_written = i >= SECTOR - 8 && i < SECTOR + 8;

        g_assert_cmpuint(found[i], ==, is_written ? 100 + i - (SECTOR - 8) : PLAIN);
    }
    meeting_free(m);
}

/* Writes of any alignment, over several stripes, read back; nothing of them is in the
 * file as it is. */
static void
test_no_plain_bytes(void)
{
    static const struct {
        uint64_t offset, length;
    } rows[] = {{0, 1},
                {511, 2},
                {1000, 5000},
                {65536 - 7, 700},
                {(1 << 20) - 100000, 200001},
                {(2 << 20) + 13, (1 << 20) + 1},
                {SIZE - 33, 33}};
    MemoryImage image = open_filled();
    g_autofree uint8_t *model = g_malloc(SIZE), *found = g_malloc(SIZE);
    g_autoptr(GByteArray) file = NULL;

    memset(model, PLAIN, SIZE);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        for (uint64_t k = 0; k < rows[i].length; k++)
            model[rows[i].offset + k] = (uint8_t) "plain text "[k % 11];
        g_assert_cmpint(qimg_image_write(image.disk, rows[i].offset,
                                         model + rows[i].offset, rows[i].length),
                        ==, 0);
    }
    g_assert_cmpint(qimg_image_zero(image.disk, 300, 100), ==, 0);
    memset(model + 300, 0, 100);
    g_assert_cmpint(qimg_image_read(image.disk, 0, found, SIZE), ==, 0);
    g_assert_cmpmem(found, SIZE, model, SIZE);
    g_assert_cmpint(qimg_image_flush(image.disk), ==, 0);
    file = memory_storage_copy_all(image.file);
    g_assert_null(memmem(file->data, file->len, "plain text", 10));
    g_assert_null(memmem(file->data, file->len, "\xa5\xa5\xa5\xa5\xa5\xa5\xa5\xa5", 8));
    qimg_image_close(image.disk);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_data_func("/encrypted-write/writer-meets-writer", GINT_TO_POINTER(true),
                         test_writer_meets);
    g_test_add_data_func("/encrypted-write/writer-meets-reader", GINT_TO_POINTER(false),
                         test_writer_meets);
    g_test_add_func("/encrypted-write/reader-meets-writer", test_reader_meets);
    g_test_add_func("/encrypted-write/alternate-bytes", test_alternate_bytes);
    g_test_add_func("/encrypted-write/no-plain-bytes", test_no_plain_bytes);
    return g_test_run();
}
