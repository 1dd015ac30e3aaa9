/* SPDX-License-Identifier: GPL-2.0-or-later */
/* behind/behind.c and log.c: when pending entries reach the file, and the view of readers
 * until then. tests/crash/test-kill.c checks that they outlive the process. */
#include "behind/behind.h"

#include <errno.h>
#include <string.h>

#include "behind/log.h"
#include "memory-storage.h"
#include "recording-storage.h"
#include "test-util.h"

#define TABLE_BYTES 4096u

typedef struct {
    QimgKeeper *keeper;
    CrashRecord *record;
    QimgStorage *memory; /* of the storage */
    QimgStorage *storage;
    QimgBehind *behind;
} Fixture;

static Fixture
begin(size_t n_bytes)
{
    Fixture f = {.keeper = qimg_keeper_new(), .record = crash_record_new()};

    f.memory = memory_storage_new_writable(NULL, 0, "memory");
    f.storage = recording_storage_new(f.memory, f.record, 0);
    g_assert_cmpint(qimg_storage_set_size(f.storage, n_bytes), ==, 0); /* a hole */
    keeper_pretend(f.keeper, true);
    f.behind = behind_new(f.keeper, f.storage);
    behind_start(f.behind, NULL);
    g_assert_true(behind_is_started(f.behind));
    return f;
}

static void
end(Fixture *f)
{
    behind_free(f->behind);
    qimg_storage_close(f->storage);
    crash_record_free(f->record);
    qimg_keeper_free(f->keeper);
}

static QimgErrno
add(Fixture *f, uint64_t offset, uint64_t word)
{
    uint64_t old = 0;

    return behind_add(f->behind, offset, &word, &old, 1, 1);
}

static uint64_t
in_file(Fixture *f, uint64_t offset)
{
    uint64_t word;

    memory_storage_copy(f->memory, offset, &word, sizeof word);
    return word;
}

static uint64_t
seen(Fixture *f, uint64_t offset)
{
    uint64_t words[TABLE_BYTES / 8];
    uint64_t in_table = offset % TABLE_BYTES;

    g_assert_cmpint(behind_read(f->behind, f->storage, QIMG_IO_L2,
                                qimg_host(offset - in_table), words, sizeof words),
                    ==, 0);
    return words[in_table / 8];
}

/* An entry is visible at once, but in the file only after a sync that began after its
 * data were written. */
static void
test_order(void)
{
    Fixture f = begin(2 * TABLE_BYTES);
    bool has_synced = false, is_data_durable = false, is_data_written = false;

    memory_storage_block_calls(f.memory, MEMORY_SYNC, MEMORY_ANY_PURPOSE);
    g_assert_cmpint(
        qimg_storage_write(f.storage, QIMG_IO_DATA, qimg_host(TABLE_BYTES), "data", 4),
        ==, 0);
    g_assert_cmpint(add(&f, 64, 7), ==, 0);
    g_assert_cmpuint(seen(&f, 64), ==, 7);
    g_assert_cmpuint(in_file(&f, 64), ==, 0);
    g_assert_true(behind_covers(f.behind, 0, TABLE_BYTES / 8, 1));
    g_assert_true(behind_covers(f.behind, 64, 1, 1));
    g_assert_false(behind_covers(f.behind, 72, 2, 1));
    g_assert_cmpint(add(&f, 64, 8), ==, 0); /* the later one counts */
    memory_storage_release(f.memory);
    g_assert_cmpint(behind_settle(f.behind, &has_synced), ==, 0);
    g_assert_cmpuint(in_file(&f, 64), ==, 8);
    g_assert_cmpuint(seen(&f, 64), ==, 8);
    g_assert_false(behind_covers(f.behind, 0, TABLE_BYTES / 8, 1));
    for (size_t i = 0; i < crash_record_length(f.record); i++) {
        const CrashEvent *e = crash_record_get(f.record, i);

        is_data_written |= e->kind == CRASH_WRITE && e->purpose == QIMG_IO_DATA;
        is_data_durable |= e->kind == CRASH_SYNC && is_data_written;
        if (e->kind == CRASH_WRITE && e->purpose == QIMG_IO_L2 && *e->bytes != 0)
            g_assert_true(is_data_durable);
    }
    end(&f);
}

/* No entry ever refers to data that could not be made durable. */
static void
test_sync_fails(void)
{
    Fixture f = begin(TABLE_BYTES);

    memory_storage_add_fault(f.memory, &(MemoryFault){.calls = MEMORY_SYNC,
                                                      .purpose = MEMORY_ANY_PURPOSE,
                                                      .n_fails = 1,
                                                      .errnum = EIO});
    g_assert_cmpint(add(&f, 8, 1), ==, 0);
    g_assert_cmpint(behind_settle(f.behind, NULL), ==, -EIO);
    g_assert_cmpint(behind_settle(f.behind, NULL), ==, -EIO); /* forever */
    g_assert_cmpuint(in_file(&f, 8), ==, 0);
    g_assert_cmpuint(seen(&f, 8), ==, 1);
    end(&f);
}

/* Pending entries are written when the disk accepts them again. */
static void
test_write_fails(void)
{
    Fixture f = begin(TABLE_BYTES);

    memory_storage_block_calls(f.memory, MEMORY_SYNC, MEMORY_ANY_PURPOSE);
    g_assert_cmpint(add(&f, 8, 1), ==, 0);
    memory_storage_add_fault(f.memory, &(MemoryFault){.calls = MEMORY_WRITE,
                                                      .purpose = QIMG_IO_L2,
                                                      .n_fails = 1000000,
                                                      .errnum = ENOSPC});
    memory_storage_release(f.memory);
    g_assert_cmpint(behind_settle(f.behind, NULL), ==, -ENOSPC);
    g_assert_cmpuint(seen(&f, 8), ==, 1);
    memory_storage_clear_faults(f.memory);
    g_assert_cmpint(behind_settle(f.behind, NULL), ==, 0);
    g_assert_cmpuint(in_file(&f, 8), ==, 1);
    end(&f);
}

/* An entry without room does not become pending. */
static void
test_no_room(void)
{
    Fixture f = begin(2 * TABLE_BYTES);

    g_assert_cmpint(add(&f, 8, 1), ==, 0);
    g_assert_cmpint(behind_settle(f.behind, NULL), ==, 0);
    memory_storage_set_capacity(f.memory, TABLE_BYTES);
    g_assert_cmpint(add(&f, 16, 2), ==, 0); /* there is room */
    g_assert_cmpint(add(&f, TABLE_BYTES + 16, 3), ==, -ENOSPC);
    g_assert_cmpuint(seen(&f, TABLE_BYTES + 16), ==, 0);
    g_assert_cmpint(behind_settle(f.behind, NULL), ==, 0);
    g_assert_cmpuint(in_file(&f, 16), ==, 2);
    end(&f);
}

/* More entries than may be pending, each place twice: writers wait for the disk, and the
 * ring wraps. */
static void
test_many(void)
{
    const uint64_t n_words = 150000;
    Fixture f = begin(n_words * 8);

    for (uint64_t round = 1; round <= 2; round++)
        for (uint64_t i = 0; i < n_words; i++)
            g_assert_cmpint(add(&f, i * 8, round << 32 | i), ==, 0);
    g_assert_cmpuint(seen(&f, 4096), ==, UINT64_C(2) << 32 | 512);
    g_assert_cmpint(behind_settle(f.behind, NULL), ==, 0);
    for (uint64_t i = 0; i < n_words; i++)
        g_assert_cmpuint(in_file(&f, i * 8), ==, UINT64_C(2) << 32 | i);
    end(&f);
}

/* Without a keeper, nothing is started. */
static void
test_without_keeper(void)
{
    QimgStorage *memory = memory_storage_new_writable("", 1, "memory");
    g_autoptr(QimgKeeper) keeper = qimg_keeper_new(); /* not started */
    QimgKeeper *const keepers[] = {NULL, keeper};

    for (unsigned i = 0; i < G_N_ELEMENTS(keepers); i++) {
        QimgBehind *behind = behind_new(keepers[i], memory);

        behind_start(behind, NULL);
        g_assert_false(behind_is_started(behind));
        g_assert_cmpint(behind_settle(behind, NULL), ==, 0);
        behind_free(behind);
    }
    qimg_storage_close(memory);
}

/* BehindWrite: counts, and checks that no pair is divided. */
static QimgErrno
check_pairs(void *user, uint64_t host_offset, const void *bytes, size_t n_bytes)
{
    uint64_t *n_words = user;

    (void)bytes;
    g_assert_cmpuint(host_offset % 16, ==, 0);
    g_assert_cmpuint(n_bytes % 16, ==, 0);
    *n_words += n_bytes / 8;
    return 0;
}

static void
test_pairs(void)
{
    const uint64_t n_records = 1000;
    BehindLog *log = g_malloc0(behind_log_bytes(n_records));
    uint64_t n_words = 0;

    log->n_records = n_records;
    for (uint64_t n = 700; n < 1700; n++)
        *behind_log_at(log, n) = (BehindRecord){.host_offset = n * 16, .n_words = 2};
    g_assert_cmpint(behind_log_write(log, 700, 1700, check_pairs, &n_words), ==, 0);
    g_assert_cmpuint(n_words, ==, 2000);
    g_free(log);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/behind/order", test_order);
    g_test_add_func("/behind/sync-fails", test_sync_fails);
    g_test_add_func("/behind/write-fails", test_write_fails);
    g_test_add_func("/behind/no-room", test_no_room);
    g_test_add_func("/behind/many", test_many);
    g_test_add_func("/behind/without-keeper", test_without_keeper);
    g_test_add_func("/behind/pairs", test_pairs);
    return g_test_run();
}
