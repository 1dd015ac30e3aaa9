/* SPDX-License-Identifier: GPL-2.0-or-later */
/* support/recording-storage.c: the recorded events, and their replays. */
#include "recording-storage.h"

#include <errno.h>
#include <string.h>

#include "memory-storage.h"
#include "test-util.h"

#define N_BYTES 4096u
#define N_TRIES 400u

static uint8_t before[N_BYTES];

static QimgErrno
put(QimgStorage *storage, uint64_t offset, uint8_t value, size_t n_bytes)
{
    g_autofree uint8_t *bytes = g_malloc(n_bytes);

    memset(bytes, value, n_bytes);
    return qimg_storage_write(storage, QIMG_IO_DATA, qimg_host(offset), bytes, n_bytes);
}

/* A record: a write, a sync, a write of three sectors, a punch, a longer file. */
static CrashRecord *
make_record(void)
{
    CrashRecord *record = crash_record_new();
    QimgStorage *memory = memory_storage_new_writable(before, N_BYTES, "memory");
    QimgStorage *storage = recording_storage_new(memory, record, 0);

    g_assert_cmpint(put(storage, 0, 1, 512), ==, 0);
    g_assert_cmpint(qimg_storage_sync(storage), ==, 0);
    memory_storage_add_fault(memory, &(MemoryFault){.calls = MEMORY_WRITE,
                                                    .purpose = MEMORY_ANY_PURPOSE,
                                                    .n_fails = 1,
                                                    .errnum = ENOSPC});
    g_assert_cmpint(put(storage, 0, 9, 512), ==, -ENOSPC); /* not recorded */
    g_assert_cmpint(put(storage, 1024, 2, 1536), ==, 0);
    g_assert_cmpint(qimg_storage_zero(storage, QIMG_IO_DATA, qimg_host(0), 512), ==, 0);
    g_assert_cmpint(qimg_storage_set_size(storage, 8192), ==, 0);
    qimg_storage_close(storage);
    g_assert_cmpuint(crash_record_length(record), ==, 5);
    g_assert_cmpint(crash_record_get(record, 1)->kind, ==, CRASH_SYNC);
    g_assert_cmpuint(crash_record_get(record, 2)->file_offset, ==, 1024);
    g_assert_cmpuint(crash_record_get(record, 2)->n_bytes, ==, 1536);
    return record;
}

static void
test_process(void)
{
    g_autoptr(CrashRecord) record = make_record();
    g_autoptr(CrashReplay) replay = crash_replay_new(record, 0, before, N_BYTES);
    g_autoptr(GByteArray) cut = NULL;
    g_autoptr(GByteArray) all = NULL;

    crash_replay_advance(replay, 2);
    cut = crash_replay_process(replay, 512);
    g_assert_cmpuint(cut->len, ==, N_BYTES);
    g_assert_cmpuint(cut->data[511], ==, 1);
    g_assert_cmpuint(cut->data[1535], ==, 2);
    g_assert_cmpuint(cut->data[1536], ==, 0xaa);
    crash_replay_advance(replay, 5);
    all = crash_replay_process(replay, 0);
    g_assert_cmpuint(all->len, ==, 8192);
    g_assert_cmpuint(all->data[0], ==, 0);
    g_assert_cmpuint(all->data[1024 + 1535], ==, 2);
    g_assert_cmpuint(all->data[1024 + 1536], ==, 0xaa);
    g_assert_cmpuint(all->data[5000], ==, 0);
}

/* Synced writes are always there; each other sector sometimes is, sometimes not. */
static void
test_machine(void)
{
    g_autoptr(CrashRecord) record = make_record();
    g_autoptr(CrashReplay) replay = crash_replay_new(record, 0, before, N_BYTES);
    g_autoptr(GRand) rand = g_rand_new_with_seed(test_util_seed());
    bool was_seen[2][4] = {{false}}; /* without and with: three sectors, the length */
    bool was_torn = false, was_punched = false, was_kept = false;

    crash_replay_advance(replay, 5);
    for (unsigned i = 0; i < N_TRIES; i++) {
        g_autoptr(GByteArray) file = crash_replay_machine(replay, rand);
        unsigned n_there = 0;

        for (unsigned s = 0; s < 3; s++) {
            uint8_t value = file->data[1024 + 512 * s];

            g_assert_true(value == 2 || value == 0xaa);
            for (unsigned j = 0; j < 512; j++) /* no sector is torn */
                g_assert_cmpuint(file->data[1024 + 512 * s + j], ==, value);
            was_seen[value == 2][s] = true;
            n_there += value == 2;
        }
        was_torn |= n_there == 1 || n_there == 2;
        g_assert_true(file->len == N_BYTES || file->len == 8192);
        was_seen[file->len == 8192][3] = true;
        g_assert_true(file->data[0] == 1 || file->data[0] == 0);
        was_punched |= file->data[0] == 0;
        was_kept |= file->data[0] == 1;
        g_assert_cmpuint(file->data[512], ==, 0xaa);
    }
    for (unsigned i = 0; i < 8; i++)
        g_assert_true(was_seen[i / 4][i % 4]);
    g_assert_true(was_torn && was_punched && was_kept);
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    memset(before, 0xaa, sizeof before);
    g_test_add_func("/recording-storage/process", test_process);
    g_test_add_func("/recording-storage/machine", test_machine);
    return g_test_run();
}
