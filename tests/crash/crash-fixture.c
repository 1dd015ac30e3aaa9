/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Images in memory: created, opened, saved, checked. */
#include "crash-fixture.h"

#include <stdlib.h>
#include <string.h>

#include "image/chain/chain.h"
#include "image/chain/handle.h"
#include "image/image.h"
#include "image/open/chain-open.h"
#include "memory-storage.h"
#include "qed-check.h"
#include "test-util.h"

static const char *const file_names[CRASH_MAX_FILES] = {"top", "data.raw"};

/* Runs @script in @dir; returns its exit status, its output in *@output_out. */
static int
run_script(const char *dir, const char *script, char **output_out)
{
    g_autofree char *whole = g_strdup_printf("exec 2>&1\n%s", script);
    const char *argv[] = {"/bin/sh", "-ec", whole, NULL};
    g_autoptr(GError) error = NULL;
    int status = 0;

    if (!g_spawn_sync(dir, (char **)argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, output_out,
                      NULL, &status, &error))
        g_error("%s", error->message);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool
crash_is_chosen(unsigned kind, unsigned way, uint32_t seed)
{
    const char *only = g_getenv("CRASH_KIND"), *one_in = g_getenv("CRASH_ONE_IN");
    unsigned n = one_in ? MAX((unsigned)atoi(one_in), 1) : 4;

    if (only)
        return g_str_equal(only, crash_kinds[kind].name);
    return g_strcmp0(g_getenv("ALL"), "1") == 0 || (kind + n / 2 * way + seed) % n == 0;
}

void
crash_need_qemu(void)
{
    g_autofree char *img = g_find_program_in_path("qemu-img");
    g_autofree char *io = g_find_program_in_path("qemu-io");

    if (img && io)
        return;
    g_print("1..0 # SKIP qemu-img and qemu-io are not installed\n");
    exit(0);
}

static GByteArray *
load_file(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    char *bytes = NULL;
    gsize n_bytes = 0;

    if (!g_file_get_contents(path, &bytes, &n_bytes, NULL))
        return NULL;
    return g_byte_array_new_take((guint8 *)bytes, n_bytes);
}

/* Sets the dirty bit, and the refcounts of some data clusters to 0, as a dying writer
 * with lazy refcounts leaves them. The image has clusters of 4 KiB and 16-bit
 * refcounts. */
static void
make_dirty(GByteArray *file)
{
    uint64_t block = 0;
    uint64_t table = 0;

    for (unsigned i = 0; i < 8; i++)
        table = table << 8 | file->data[48 + i];
    for (unsigned i = 0; i < 8; i++)
        block = block << 8 | file->data[table + i];
    file->data[79] |= 1;
    memset(file->data + block + 2 * 40, 0, 2 * 20);
}

CrashFixture *
crash_fixture_make(const CrashKind *kind)
{
    CrashFixture *disk = g_new0(CrashFixture, 1);
    char *dir = test_util_make_dir();
    g_autofree char *output = NULL;

    if (run_script(dir, kind->script, &output) != 0)
        g_error("%s: %s", kind->name, output);
    while (disk->n_files < CRASH_MAX_FILES &&
           (disk->files[disk->n_files] = load_file(dir, file_names[disk->n_files])))
        disk->n_files++;
    disk->format = kind->format ? kind->format : "qcow2";
    disk->is_data_file_raw = kind->is_data_file_raw;
    disk->is_encrypted = kind->is_encrypted;
    disk->base_name = "base.raw";
    disk->base = load_file(dir, disk->base_name);
    g_assert_cmpuint(disk->n_files, >, 0);
    if (kind->is_dirty)
        make_dirty(disk->files[0]);
    test_util_remove_dir(dir);
    return disk;
}

CrashFixture *
crash_fixture_new_like(const CrashFixture *disk)
{
    CrashFixture *other = g_new0(CrashFixture, 1);

    other->format = disk->format;
    other->is_data_file_raw = disk->is_data_file_raw;
    other->is_encrypted = disk->is_encrypted;
    other->n_files = disk->n_files;
    other->base = disk->base ? g_byte_array_ref(disk->base) : NULL;
    other->base_name = disk->base_name;
    return other;
}

void
crash_fixture_free(CrashFixture *disk)
{
    if (!disk)
        return;
    for (unsigned i = 0; i < disk->n_files; i++)
        g_clear_pointer(&disk->files[i], g_byte_array_unref);
    g_clear_pointer(&disk->base, g_byte_array_unref);
    g_free(disk);
}

/* A memory storage of file @index; with @record writable inside a recording one. */
static QimgStorage *
open_file(const CrashFixture *disk, unsigned index, CrashRecord *record,
          QimgStorage **memory_out)
{
    const GByteArray *file = disk->files[index];

    if (!record)
        return memory_storage_new(file->data, file->len, file_names[index]);
    *memory_out = memory_storage_new_writable(file->data, file->len, file_names[index]);
    return recording_storage_new(*memory_out, record, index);
}

QimgImage *
crash_fixture_open(const CrashFixture *disk, CrashRecord *record,
                   QimgStorage *storages_out[CRASH_MAX_FILES], char **problem_out)
{
    g_autoptr(QimgOptions) options = qimg_options_new();
    QimgStorage *memory[CRASH_MAX_FILES] = {NULL};
    QimgStorage *storages[2];
    g_autoptr(GError) error = NULL;
    QimgChain *chain;
    QimgImage *image;
    unsigned n = 0;

    qimg_options_set(options, "threads", "1", NULL);
    qimg_options_set(options, "l2_cache", "1M", NULL);
    qimg_options_set(options, "format", disk->format, NULL);
    options->is_writable = record != NULL;
    qimg_options_set_keeper(options, disk->keeper);
    if (disk->is_encrypted)
        qimg_options_add_passphrase(options, CRASH_PASSPHRASE, strlen(CRASH_PASSPHRASE),
                                    0, NULL);
    storages[n++] = open_file(disk, 0, record, &memory[0]);
    if (disk->base)
        storages[n++] =
            memory_storage_new(disk->base->data, disk->base->len, disk->base_name);
    chain = chain_open_storages(storages, n, options, &error);
    if (!chain) {
        *problem_out = g_strdup_printf("cannot be opened: %s", error->message);
        return NULL;
    }
    if (disk->n_files > 1)
        chain->layers[0]->data_file = open_file(disk, 1, record, &memory[1]);
    if (storages_out)
        memcpy(storages_out, memory, sizeof memory);
    image = image_new(chain, 0, &chain->layers[0]->active);
    chain_unref(chain);
    return image;
}

CrashFixture *
crash_fixture_after(const CrashFixture *disk, CrashRecord *record)
{
    CrashFixture *after = crash_fixture_new_like(disk);

    for (unsigned i = 0; i < disk->n_files; i++) {
        g_autoptr(CrashReplay) replay =
            crash_replay_new(record, i, disk->files[i]->data, disk->files[i]->len);

        crash_replay_advance(replay, crash_record_length(record));
        after->files[i] = crash_replay_process(replay, 0);
    }
    return after;
}

void
crash_fixture_save(const CrashFixture *disk, const char *dir)
{
    for (unsigned i = 0; i < disk->n_files; i++)
        g_free(test_util_write(dir, file_names[i], disk->files[i]->data,
                               disk->files[i]->len));
    if (disk->base)
        g_free(test_util_write(dir, disk->base_name, disk->base->data, disk->base->len));
}

char *
crash_fixture_qemu_check(const CrashFixture *disk)
{
    g_autofree char *output = NULL;
    g_autofree char *command = NULL;
    char *dir;
    int status;

    if (g_str_equal(disk->format, "raw"))
        return NULL;
    dir = test_util_make_dir();
    crash_fixture_save(disk, dir);
    command = disk->is_encrypted
                  ? g_strdup("qemu-img check --object secret,id=s,data=" CRASH_PASSPHRASE
                             " --image-opts "
                             "driver=qcow2,file.filename=top,encrypt.key-secret=s")
                  : g_strdup_printf("qemu-img check -f %s top", disk->format);
    status = run_script(dir, command, &output);
    test_util_remove_dir(dir);
    if (status == 0 || status == 3)
        return NULL;
    return g_strdup_printf("qemu-img check exits %d: %s", status, output);
}

char *
crash_fixture_check(const CrashFixture *disk, bool may_leak, Qcow2CheckResult *out)
{
    const GByteArray *file = disk->files[0];
    Qcow2CheckResult none;
    QedCheckResult qed;
    char *problem;

    if (!out)
        out = &none;
    *out = (Qcow2CheckResult){0};
    if (g_str_equal(disk->format, "raw"))
        return NULL;
    if (g_str_equal(disk->format, "qcow2"))
        return qcow2_check_bytes(file->data, file->len, out == &none ? NULL : out);
    problem = qed_check_bytes(file->data, file->len, may_leak, &qed);
    out->n_leaks = qed.n_leaks;
    out->is_dirty = qed.is_dirty;
    return problem;
}
