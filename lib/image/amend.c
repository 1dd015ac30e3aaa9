/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A slot is added before others are erased, and erased only if another passphrase is
 * known to open the image, or with force. Spec: encryption section 5. */
#include "image/amend.h"

#include <string.h>

#include "base/errors.h"
#include "crypt/luks-slots.h"
#include "format/encryption.h"
#include "image/amend-header.h"
#include "image/chain/chain.h"
#include "image/chain/option-value.h"
#include "image/chain/options.h"
#include "image/chain/passphrase-option.h"
#include "image/open/chain-open.h"

#define NO_SLOT (-1)

struct QimgAmend {
    QimgOptions *options;     /* owned: of opening, with the passphrases that open now */
    QimgKeyring *new_keyring; /* owned: the one for a new slot */
    QimgKeyring *old_keyring; /* owned: the one whose slots are erased */
    bool has_state, activates;
    AmendHeader header;
    bool has_encryption; /* a property of key slots was set */
    int slot;            /* NO_SLOT: not named */
    unsigned iter_time_ms;
    bool is_forced;
    GPtrArray *notes; /* char *, NULL-terminated */
};

/* A run of it on an image. */
typedef struct {
    QimgAmend *amend;
    const char *path;
    const QimgTask *task;
    LuksDevice device;
    LuksHeader *header;
} Run;

QimgAmend *
qimg_amend_new(void)
{
    QimgAmend *amend = g_new0(QimgAmend, 1);

    amend->options = qimg_options_new();
    amend->new_keyring = qimg_keyring_new();
    amend->old_keyring = qimg_keyring_new();
    amend_header_init(&amend->header);
    amend->slot = NO_SLOT;
    amend->iter_time_ms = LUKS_DEFAULT_ITER_TIME_MS;
    amend->notes = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(amend->notes, NULL);
    return amend;
}

void
qimg_amend_free(QimgAmend *amend)
{
    if (!amend)
        return;
    qimg_options_free(amend->options);
    qimg_keyring_free(amend->new_keyring);
    qimg_keyring_free(amend->old_keyring);
    amend_header_clear(&amend->header);
    g_ptr_array_unref(amend->notes);
    g_free(amend);
}

const char *const *
qimg_amend_get_notes(const QimgAmend *amend)
{
    return (const char *const *)amend->notes->pdata;
}

void
qimg_amend_set_ask_passphrase(QimgAmend *amend, QimgAskPassphrase ask,
                              QimgAskPassphrase ask_new, void *user)
{
    qimg_keyring_set_ask(amend->options->keyring, ask, user);
    qimg_keyring_set_ask(amend->new_keyring, ask_new, user);
}

static void G_GNUC_PRINTF(2, 3) add_amend_note(QimgAmend *amend, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_ptr_array_insert(amend->notes, (int)amend->notes->len - 1,
                       g_strdup_vprintf(format, args));
    va_end(args);
}

/* ---- properties ---- */

static bool
set_state(QimgAmend *amend, const char *name, const char *value, GError **error)
{
    static const char *const words[] = {"inactive", "active", NULL};
    int i = option_find_word(name, value, words, error);

    amend->has_state = i >= 0;
    amend->activates = i == 1;
    return i >= 0;
}

static bool
set_slot(QimgAmend *amend, const char *name, const char *value, GError **error)
{
    guint64 n = 0;

    if (!g_ascii_string_to_unsigned(value, 10, 0, LUKS_N_SLOTS - 1, &n, NULL))
        return qimg_misuse(error, "%s=%s: is no number of a key slot, from 0 to %u", name,
                           value, LUKS_N_SLOTS - 1);
    amend->slot = (int)n;
    return true;
}

static bool
amend_set_iter_time(QimgAmend *amend, const char *name, const char *value, GError **error)
{
    return option_parse_iter_time(name, value, &amend->iter_time_ms, error);
}

static bool
amend_set_force(QimgAmend *amend, const char *name, const char *value, GError **error)
{
    (void)name, (void)value, (void)error;
    amend->is_forced = true;
    return true;
}

static bool
set_new_file(QimgAmend *amend, const char *name, const char *value, GError **error)
{
    (void)name;
    return option_add_passphrase_file(amend->new_keyring, value, error);
}

static bool
set_new_fd(QimgAmend *amend, const char *name, const char *value, GError **error)
{
    (void)name;
    return option_add_passphrase_fd(amend->new_keyring, value, error);
}

static bool
set_old_file(QimgAmend *amend, const char *name, const char *value, GError **error)
{
    (void)name;
    return option_add_passphrase_file(amend->old_keyring, value, error);
}

static bool
set_old_fd(QimgAmend *amend, const char *name, const char *value, GError **error)
{
    (void)name;
    return option_add_passphrase_fd(amend->old_keyring, value, error);
}

static bool
refuse_secret(QimgAmend *amend, const char *name, const char *value, GError **error)
{
    const char *kind = strstr(name, "new-") ? "new_" : strstr(name, "old-") ? "old_" : "";

    (void)amend;
    return qimg_misuse(error,
                       "%s=%s: is qemu-img's; there are no secret objects here (give "
                       "%spassphrase_file=FILE or %spassphrase_fd=N)",
                       name, value, kind, kind);
}

static bool
amend_set_opening(QimgAmend *amend, const char *name, const char *value, GError **error)
{
    return qimg_options_set(amend->options, name, value, error);
}

static const struct {
    const char *name;
    TakesValue takes_value;
    bool (*set)(QimgAmend *amend, const char *name, const char *value, GError **error);
} table[] = {
    {"encrypt.state", VALUE, set_state},
    {"encrypt.keyslot", VALUE, set_slot},
    {"encrypt.iter-time", VALUE, amend_set_iter_time},
    {"encrypt.new-secret", VALUE, refuse_secret},
    {"encrypt.old-secret", VALUE, refuse_secret},
    {"encrypt.key-secret", VALUE, refuse_secret},
    {"new_passphrase_file", VALUE, set_new_file},
    {"new_passphrase_fd", VALUE, set_new_fd},
    {"old_passphrase_file", VALUE, set_old_file},
    {"old_passphrase_fd", VALUE, set_old_fd},
    {"force", NO_VALUE, amend_set_force},
    {"passphrase_file", VALUE, amend_set_opening},
    {"passphrase_fd", VALUE, amend_set_opening},
    {"max_iterations", VALUE, amend_set_opening},
    {"format", VALUE, amend_set_opening},
    {"nolock", NO_VALUE, amend_set_opening},
};

gboolean
qimg_amend_set(QimgAmend *amend, const char *name, const char *value, GError **error)
{
    size_t i = 0;

    if (amend_header_has(name))
        return amend_header_set(&amend->header, name, value, error);
    while (i < G_N_ELEMENTS(table) && strcmp(table[i].name, name) != 0)
        i++;
    if (i == G_N_ELEMENTS(table))
        return qimg_misuse(error,
                           "%s: is no property that can be changed (give compat, "
                           "refcount_bits, lazy_refcounts, data_file, data_file_raw, or "
                           "encrypt.state=active or inactive for key slots; qimg resize "
                           "changes the size, qimg rebase the backing file)",
                           name);
    amend->has_encryption |=
        table[i].set != amend_set_opening && table[i].set != amend_set_force;
    return option_check_value(name, table[i].takes_value, value, error) &&
           table[i].set(amend, name, value, error);
}

/* Checks combinations of properties. */
static bool
check_amend(const QimgAmend *amend, GError **error)
{
    bool has_old = qimg_keyring_count(amend->old_keyring) > 0;

    if (!amend->has_state)
        return qimg_misuse(error, "encrypt.state: is missing (give active, to add a key "
                                  "slot, or inactive, to erase one; or a property of the "
                                  "header)");
    if (qimg_keyring_count(amend->old_keyring) > 1 ||
        qimg_keyring_count(amend->new_keyring) > 1)
        return qimg_misuse(error, "new_passphrase_file, old_passphrase_file: each can be "
                                  "given once");
    if (amend->activates)
        return true;
    if (qimg_keyring_count(amend->new_keyring) > 0)
        return qimg_misuse(error, "new_passphrase_file: means nothing with "
                                  "encrypt.state=inactive");
    if (has_old == (amend->slot != NO_SLOT))
        return qimg_misuse(error,
                           "encrypt.state=inactive: give the slot to be erased, "
                           "encrypt.keyslot=N, or its passphrase, "
                           "old_passphrase_file=FILE%s",
                           has_old ? ", not both" : "");
    return true;
}

/* ---- slots ---- */

static bool
step_slots(const Run *run, unsigned done, GError **error)
{
    QimgErrno err = qimg_task_step(run->task, done, LUKS_N_SLOTS);

    if (err)
        qimg_set_error_errno(error, -err, NULL, "key slots");
    return !err;
}

/* The slot to be filled; NO_SLOT with @error. */
static int
choose_slot(const Run *run, GError **error)
{
    int named = run->amend->slot;

    if (named != NO_SLOT && run->header->slots[named].is_active) {
        qimg_set_error(error, QIMG_ERROR_EXISTS,
                       "key slot %d: is active (erase it first, or leave out "
                       "encrypt.keyslot to take a free one)",
                       named);
        return NO_SLOT;
    }
    if (named != NO_SLOT)
        return named;
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        if (!run->header->slots[i].is_active)
            return (int)i;
    qimg_set_error(error, QIMG_ERROR_TOO_LARGE,
                   "key slots: all %u are active (erase one first)", LUKS_N_SLOTS);
    return NO_SLOT;
}

/* One bit for each slot that the old passphrase opens, in *@slots_out. */
static bool
find_old_slots(const Run *run, unsigned *slots_out, GError **error)
{
    const QimgSecret *old = qimg_keyring_find(run->amend->old_keyring, 0);

    *slots_out = 0;
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        QimgSecret *key = NULL;

        if (!run->header->slots[i].is_active)
            continue;
        if (!step_slots(run, i, error) ||
            !luks_try_slot(run->header, i, old, run->device.read, run->device.user, &key,
                           error))
            return false;
        if (key)
            *slots_out |= 1u << i;
        qimg_secret_free(key);
    }
    if (*slots_out)
        return true;
    qimg_set_error(error, QIMG_ERROR_ENCRYPTED,
                   "no key slot opens with the old passphrase (all bytes of its file "
                   "count, also a final newline)");
    return false;
}

static bool
has_other_slot(const LuksHeader *header, unsigned slots)
{
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++)
        if (header->slots[i].is_active && !(slots >> i & 1))
            return true;
    return false;
}

static bool
erase_slots(Run *run, unsigned slots, GError **error)
{
    if (!has_other_slot(run->header, slots) && !run->amend->is_forced) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "no key slot would be left, and all data would be lost forever "
                       "(add another passphrase first; to lose the data, give force)");
        return false;
    }
    for (unsigned i = 0; i < LUKS_N_SLOTS; i++) {
        QimgErrno err;

        if (!(slots >> i & 1))
            continue;
        if (!step_slots(run, i, error))
            return false;
        err = luks_erase_slot(run->header, i, &run->device);
        if (err) {
            qimg_set_error_errno(error, -err, NULL,
                                 "key slot %u: cannot be erased; its key material may "
                                 "still be there",
                                 i);
            return false;
        }
        add_amend_note(run->amend, "key slot %u: erased", i);
    }
    return true;
}

/* The volume key, owned, by the passphrases given or asked for. */
static QimgSecret *
unlock(const Run *run, const LuksHeader *header, GError **error)
{
    return qimg_keyring_unlock_luks(run->amend->options->keyring, header, 0, run->path,
                                    run->device.read, run->device.user, error);
}

/* Fills the slot @index by the new passphrase. */
static bool
fill_slot(Run *run, unsigned index, const QimgSecret *key, const QimgSecret *passphrase,
          GError **error)
{
    uint64_t max = qimg_keyring_get_max_iterations(run->amend->options->keyring);
    LuksHeader changed = *run->header;
    LuksNewSlot new = {0};
    QimgErrno err;
    bool is_done = luks_make_slot(run->header, index, key, passphrase,
                                  run->amend->iter_time_ms, &new, error);

    if (is_done) {
        changed.slots[index] = new.slot;
        is_done = luks_check(&changed, max, error) && step_slots(run, index, error);
    }
    if (is_done) {
        err = luks_store_slot(run->header, index, &new, &run->device);
        is_done = !err;
        if (err)
            qimg_set_error_errno(error, -err, NULL, "key slot %u: cannot be written",
                                 index);
        else
            add_amend_note(run->amend, "key slot %u: active%s", index,
                           option_ends_in_newline(passphrase)
                               ? "; its passphrase ends in a newline, which counts"
                               : "");
    }
    luks_new_slot_clear(&new);
    return is_done;
}

static bool
activate(Run *run, GError **error)
{
    bool has_old = qimg_keyring_count(run->amend->old_keyring) > 0;
    int index = choose_slot(run, error);
    QimgSecret *key = NULL, *passphrase = NULL;
    unsigned old_slots = 0;
    bool is_done = false;

    if (index == NO_SLOT || (has_old && !find_old_slots(run, &old_slots, error)))
        return false;
    key = unlock(run, run->header, error);
    if (key)
        passphrase = option_take_new_passphrase(run->amend->new_keyring, run->path,
                                                "new_passphrase_file", error);
    if (passphrase)
        is_done = fill_slot(run, (unsigned)index, key, passphrase, error) &&
                  (!old_slots || erase_slots(run, old_slots, error));
    qimg_secret_free(key);
    qimg_secret_free(passphrase);
    return is_done;
}

/* Whether a passphrase opens another slot than the named one; asks for it. */
static bool
check_stays_open(const Run *run, GError **error)
{
    LuksHeader rest = *run->header;
    QimgSecret *key;

    rest.slots[run->amend->slot].is_active = false;
    key = unlock(run, &rest, error);
    if (!key)
        g_prefix_error(error, "no other key slot is known to open it (force erases the "
                              "slot all the same): ");
    qimg_secret_free(key);
    return key != NULL;
}

static bool
deactivate(Run *run, GError **error)
{
    int named = run->amend->slot;
    unsigned slots = named == NO_SLOT ? 0 : 1u << named;

    if (named == NO_SLOT)
        return find_old_slots(run, &slots, error) && erase_slots(run, slots, error);
    if (!run->header->slots[named].is_active) {
        qimg_set_error(error, QIMG_ERROR_NOT_FOUND, "key slot %d: is not active", named);
        return false;
    }
    if (has_other_slot(run->header, slots) && !run->amend->is_forced &&
        !check_stays_open(run, error))
        return false;
    return erase_slots(run, slots, error);
}

bool
amend_layer(QimgAmend *amend, QimgFormat *layer, const char *path, const QimgTask *task,
            GError **error)
{
    uint64_t max = qimg_keyring_get_max_iterations(amend->options->keyring);
    Run run = {.amend = amend, .path = path, .task = task, .header = layer->luks};

    if (!layer->encryption) {
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED, "is not encrypted");
        return false;
    }
    if (strcmp(layer->encryption, "luks") != 0) {
        qimg_set_error(error, QIMG_ERROR_UNSUPPORTED,
                       "is encrypted by the method aes, which has no key slots: its "
                       "passphrase is its key (convert it with qemu-img convert)");
        return false;
    }
    if (!layer->luks) {
        qimg_set_error(error, QIMG_ERROR_INVALID,
                       "its LUKS header is damaged (qimg info says how), and is left as "
                       "it is");
        return false;
    }
    run.device = qimg_format_luks_device(layer);
    if (!luks_check(layer->luks, max, error))
        return false;
    return amend->activates ? activate(&run, error) : deactivate(&run, error);
}

gboolean
qimg_amend_run(QimgAmend *amend, const char *path, QimgProgress progress, void *user,
               GError **error)
{
    const QimgTask task = {progress, user};
    QimgChain *chain;
    bool is_done;

    g_ptr_array_set_size(amend->notes, 0);
    g_ptr_array_add(amend->notes, NULL);
    if (amend->header.given && amend->has_encryption)
        return qimg_misuse(error,
                           "properties of the header and key slots are changed one "
                           "after the other (give them in two calls)");
    if (amend->header.given)
        return amend_header_run(&amend->header, path, amend->options, &task, error);
    if (!check_amend(amend, error))
        return FALSE;
    chain = chain_open_for_amend(path, amend->options, error);
    if (!chain)
        return FALSE;
    is_done = amend_layer(amend, chain->layers[0], path, &task, error);
    chain_unref(chain);
    return is_done;
}
