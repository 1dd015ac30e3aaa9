/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening a chain: each image, its data file and its backing file in turn, with locks,
 * limits, and the policy on which named files may be opened. */
#include "image/open/chain-open.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/errors.h"
#include "format/drivers.h"
#include "image/chain/backing-name.h"
#include "image/map/holes.h"
#include "image/open/choose-driver.h"
#include "image/open/overlay.h"
#include "image/open/probed.h"
#include "image/read/read-ahead.h"
#include "storage/file.h"
#include "storage/open-moved.h"
#include "storage/same-file.h"

static bool
is_same_storage(const QimgStorage *a, const QimgStorage *b)
{
    return a && b && a != b && qimg_is_same_file(&a->status, &b->status);
}

/* Whether another storage of the chain is of the same file. */
static bool
is_in_chain(const QimgChain *chain, const QimgStorage *storage)
{
    for (unsigned i = chain->layers[0] ? 0 : 1; i < chain->n_layers; i++)
        if (is_same_storage(chain->layers[i]->file, storage) ||
            is_same_storage(chain->layers[i]->data_file, storage))
            return true;
    return false;
}

/* Opens the file @name, which the image at @naming names as its @what. If it is missing,
 * takes a moved file for it, with a warning; but never if lasting writes depend on it: a
 * wrong file would be mixed into them. */
static int
open_named(QimgChain *chain, const QimgOptions *options, const QimgPlace *naming,
           const char *name, const char *what, bool for_writing, QimgPlace **place_out,
           GError **error)
{
    bool may_be_moved =
        options->is_cow ? options->cow_path == NULL : !options->is_writable;
    g_autoptr(GError) reason = NULL;
    g_autoptr(GError) moved_reason = NULL;
    g_autofree char *shown = NULL;
    g_autofree char *shown_place = NULL;
    g_autofree char *text = NULL;
    int fd = qimg_open_named_by_image(options->policy, naming, name, for_writing,
                                      place_out, &reason);

    if (fd >= 0)
        return fd;
    if (g_error_matches(reason, QIMG_ERROR, QIMG_ERROR_NOT_FOUND))
        fd = qimg_open_moved(options->policy, naming, name, may_be_moved, place_out,
                             &moved_reason);
    if (fd < 0) {
        g_propagate_prefixed_error(error,
                                   moved_reason ? g_steal_pointer(&moved_reason)
                                                : g_steal_pointer(&reason),
                                   "%s: ", what);
        return -1;
    }
    shown = g_strescape(name, NULL);
    shown_place = g_strescape((*place_out)->path, NULL);
    text = g_strdup_printf("its %s \"%s\" is not there, and \"%s\" is taken for it (if "
                           "that is another one, all is wrong: say which with -o "
                           "backing_map='%s'=NEW)",
                           what, shown, shown_place, shown);
    chain_warn(chain, naming->path, text);
    return fd;
}

/* A raw data file is as long as the disk; a missing part reads as zeros. */
static void
warn_if_data_file_is_short(QimgChain *chain, const QimgFormat *format)
{
    uint64_t size_bytes = 0, disk_bytes = qimg_view_size_bytes(&format->active);
    g_autofree char *text = NULL;

    if (!format->has_raw_data_file ||
        qimg_storage_get_size(format->data_file, &size_bytes) != 0 ||
        size_bytes >= disk_bytes)
        return;
    text = g_strdup_printf("its data file is truncated: it has %" PRIu64
                           " bytes, the disk %" PRIu64
                           "; the missing part reads as zeros (copy the whole file)",
                           size_bytes, disk_bytes);
    chain_warn(chain, format->file->path, text);
}

static bool
attach_data_file(QimgChain *chain, const QimgOptions *options, QimgFormat *format,
                 GError **error)
{
    g_autoptr(QimgPlace) place = NULL;
    g_autofree char *shown = NULL;
    QimgStorage *file;
    int fd;

    if (!format->needs_data_file)
        return true;
    if (!format->data_file_name) {
        qimg_set_error(error, QIMG_ERROR_INVALID,
                       "data file extension: is missing, though the image says that its "
                       "data lie in another file (store the name with qemu-img amend -o "
                       "data_file=NAME)");
        return false;
    }
    /* Always a plain name: prefixes have no meaning here. Spec: qcow2 section 10. */
    fd = open_named(chain, options, chain->places[chain->n_layers - 1],
                    format->data_file_name, "data file", format->is_writable, &place,
                    error);
    if (fd < 0)
        return false;
    file =
        chain_open_storage(chain, options, fd, place->path, format->is_writable, error);
    if (file && !is_in_chain(chain, file)) {
        format->data_file = file;
        warn_if_data_file_is_short(chain, format);
        return true;
    }
    if (file)
        qimg_set_error(error, QIMG_ERROR_LOOP,
                       "is a file of the chain itself (name another one with qemu-img "
                       "amend -o data_file=NAME)");
    qimg_storage_close(file);
    shown = g_strescape(place->path, "\"'");
    g_prefix_error(error, "data file: \"%s\" ", shown);
    return false;
}

/* Refuses a file that is in the chain already. */
static bool
check_no_loop(const QimgChain *chain, const QimgStorage *storage, GError **error)
{
    if (!is_in_chain(chain, storage))
        return true;
    qimg_set_error(error, QIMG_ERROR_LOOP,
                   "is based on itself: the chain of backing files has a loop "
                   "(name another backing file with qemu-img rebase -u)");
    return false;
}

static void
take_warnings(QimgChain *chain, const QimgFormat *layer)
{
    for (guint i = 0; i < layer->warnings->len; i++)
        chain_warn(chain, layer->file->path, layer->warnings->pdata[i]);
}

/* Adds @format, opened from @file; NULL: it could not be, and @file is closed. */
static bool
add_opened(QimgChain *chain, QimgFormat *format, QimgStorage *file)
{
    if (!format) {
        qimg_storage_close(file);
        return false;
    }
    chain->layers[chain->n_layers++] = format;
    take_warnings(chain, format);
    return true;
}

/* Adds the image in @file (owned, may be NULL after an error) as the next layer, without
 * its data file. @format_name may be NULL. */
static bool
add_format(QimgChain *chain, const QimgOptions *options, QimgStorage *file,
           const char *format_name, GError **error)
{
    QimgFormatEnv env = {
        .tables = chain->tables,
        .layer_index = chain->n_layers,
        .depth = chain->n_layers - chain->image_layer,
        .inspect = options->inspect || options->without_key,
        .without_key = options->without_key,
        .keyring = options->keyring,
        .gate = chain->gate,
        .keeper = chain->keeper,
        .is_writable = chain->gate && chain->n_layers == 0,
        .drops_bitmaps = options->drops_bitmaps,
        .bitmap_cache_bytes = options->bitmap_cache_bytes,
        /* Those of backing files are not shown; 200 layers of them would fill the memory.
         */
        .has_snapshots = chain->n_layers == chain->image_layer,
    };
    const QimgFormat *above =
        chain->n_layers == chain->image_layer ? NULL : chain->layers[chain->n_layers - 1];
    const QimgDriver *driver = NULL;
    QimgFormat *format = NULL;

    if (!file)
        return false;
    if (check_no_loop(chain, file, error))
        driver = choose_driver(file, chain->places[chain->n_layers], format_name, above,
                               error);
    if (driver)
        format = driver->open(file, &env, error);
    return add_opened(chain, format, file);
}

/* Advice if @above does not record the format of its backing file. */
static char *
how_to_record(const QimgFormat *above)
{
    if (above->driver->records_backing_format)
        return g_strdup("record it with qemu-img rebase -u -F");
    return g_strdup_printf("%s images cannot record it", above->driver->name);
}

/* Checks that the files named by the last layer, a backing file whose format was probed,
 * may be opened: if @above could have recorded the format and has not, nothing. (QED
 * records that a backing file is raw, and means others to be probed.) */
static bool
check_probed_backing(const QimgFormat *format, const QimgFormat *above,
                     const QimgPlace *place, GError **error)
{
    g_autofree char *advice = NULL;

    if (!format->backing_name && !format->needs_data_file)
        return true;
    if (above->lets_probe)
        return probed_check(format, place, PROBED_BACKING, error);
    advice = how_to_record(above);
    qimg_set_error(error, QIMG_ERROR_REFUSED,
                   "has no recorded format, was probed as %s, and names a further file, "
                   "which a guest may have forged (%s%s allow it with -o backing=DIR or "
                   "-o backing=any)",
                   format->driver->name, advice,
                   above->driver->records_backing_format ? ", or" : ":");
    return false;
}

/* Checks that the files named by the last layer, whose format was probed, may be opened.
 */
static bool
check_probed(const QimgChain *chain, const QimgOptions *options, ProbedOrigin origin,
             GError **error)
{
    unsigned last = chain->n_layers - 1;

    if (qimg_open_policy_is_explicit(options->policy))
        return true;
    return origin == PROBED_BACKING
               ? check_probed_backing(chain->layers[last], chain->layers[last - 1],
                                      chain->places[last], error)
               : probed_check(chain->layers[last], chain->places[last], origin, error);
}

/* A file that the last layer needs is not open because of @reason (owned). False with
 * @error, or, where only facts are wanted, true with a warning: then reading fails. */
static bool
do_without(QimgChain *chain, const QimgOptions *options, GError *reason, GError **error)
{
    QimgFormat *last = chain->layers[chain->n_layers - 1];

    if (!options->inspect) {
        g_propagate_error(error, reason);
        return false;
    }
    if (!last->data_error)
        last->data_error =
            last->needs_data_file && !last->data_file ? CHAIN_NO_DATA_FILE : -EIO;
    chain_warn(chain, last->file->path, reason->message);
    g_error_free(reason);
    return true;
}

/* Adds the image in @fd (owned), opened at @place (owned), as the next layer.
 * @format_name may be NULL: then it is probed, and @origin decides what its header may
 * name. */
static bool
add_layer(QimgChain *chain, const QimgOptions *options, int fd, QimgPlace *place,
          const char *format_name, ProbedOrigin origin, GError **error)
{
    bool is_writable = chain->n_layers == 0 && options->is_writable; /* no overlay */
    QimgStorage *file =
        chain_open_storage(chain, options, fd, place->path, is_writable, error);
    GError *reason = NULL;

    chain->places[chain->n_layers] = place;
    if (!add_format(chain, options, file, format_name, error))
        return false;
    if (!format_name && !check_probed(chain, options, origin, &reason)) {
        chain->is_cut = chain->layers[chain->n_layers - 1]->backing_name != NULL;
        return do_without(chain, options, g_steal_pointer(&reason), error);
    }
    return attach_data_file(chain, options, chain->layers[chain->n_layers - 1],
                            &reason) ||
           do_without(chain, options, g_steal_pointer(&reason), error);
}

/* Opens the backing file of the last layer as the next one. */
static bool
add_backing(QimgChain *chain, const QimgOptions *options, GError **error)
{
    QimgFormat *above = chain->layers[chain->n_layers - 1];
    g_autofree char *name = NULL;
    g_autofree char *format_name = NULL;
    g_autofree char *shown = NULL;
    QimgPlace *place = NULL;
    int fd;

    if (chain->n_layers == IMAGE_MAX_LAYERS) {
        qimg_set_error(error, QIMG_ERROR_LOOP,
                       "the chain has more than %u images (shorten it with qemu-img "
                       "rebase or commit)",
                       IMAGE_MAX_LAYERS);
        return false;
    }
    if (qimg_open_policy_has_map(options->policy, above->backing_name))
        name = g_strdup(above->backing_name); /* whatever it means to others */
    else if (!backing_name_parse(above->backing_name, &name, &format_name, error))
        return false;
    fd = open_named(chain, options, chain->places[chain->n_layers - 1], name,
                    "backing file", false, &place, error);
    if (fd < 0)
        return false;
    if (!format_name) {
        format_name = g_strdup(above->backing_format);
    } else if (above->backing_format && strcmp(format_name, above->backing_format) != 0) {
        qimg_set_error(
            error, QIMG_ERROR_REFUSED,
            "backing file name json:…: says another format than the one that is "
            "recorded for it (store both again with qemu-img rebase -u -F)");
        return false;
    }
    shown = g_strescape(place->path, "\"'");
    if (!add_layer(chain, options, fd, place, format_name, PROBED_BACKING, error)) {
        g_prefix_error(error, "backing file \"%s\": ", shown);
        return false;
    }
    if (!format_name && !above->lets_probe) {
        g_autofree char *advice = how_to_record(above);
        g_autofree char *text = g_strdup_printf(
            "the format of the backing file \"%s\" is not recorded, probed as %s (%s)",
            above->backing_name, chain->layers[chain->n_layers - 1]->driver->name,
            advice);

        chain_warn(chain, above->file->path, text);
    }
    return true;
}

/* Makes the caches of inflated clusters: one for each cluster size, of equal shares. */
static bool
make_cluster_caches(QimgChain *chain, GError **error)
{
    unsigned n_sizes = 0;
    unsigned first_of_size[IMAGE_MAX_LAYERS];

    for (unsigned i = 0; i < chain->n_layers; i++) {
        unsigned j = 0;

        first_of_size[i] = i;
        if (!chain->layers[i]->may_compress)
            continue;
        while (j < i &&
               !(chain->layers[j]->may_compress &&
                 chain->layers[j]->cluster_bytes == chain->layers[i]->cluster_bytes))
            j++;
        first_of_size[i] = j;
        n_sizes += j == i;
    }
    for (unsigned i = 0; i < chain->n_layers; i++) {
        if (!chain->layers[i]->may_compress)
            continue;
        chain->clusters[i] = first_of_size[i] < i
                                 ? chain->clusters[first_of_size[i]]
                                 : slot_cache_new(chain->layers[i]->cluster_bytes,
                                                  chain->data_cache_bytes / n_sizes);
        if (!chain->clusters[i]) {
            qimg_set_error(error, QIMG_ERROR_NO_MEMORY,
                           "no memory for the cache of inflated clusters (give a smaller "
                           "-o data_cache=SIZE)");
            return false;
        }
    }
    return true;
}

static void
free_cluster_caches(QimgChain *chain)
{
    for (unsigned i = 0; i < chain->n_layers; i++) {
        for (unsigned j = i + 1; j < chain->n_layers; j++)
            if (chain->clusters[j] == chain->clusters[i])
                chain->clusters[j] = NULL;
        slot_cache_free(chain->clusters[i]);
    }
}

/* Resolved runs pay from the second lower layer on. */
static void
choose_granule(QimgChain *chain)
{
    if (chain->n_layers < 3)
        return;
    chain->granule_bytes = UINT64_MAX;
    for (unsigned i = 1; i < chain->n_layers; i++)
        chain->granule_bytes =
            qimg_min_u64(chain->granule_bytes, chain->layers[i]->alloc_unit_bytes);
}

/* The status for stat: the image's own, with the space of all files. */
static void
sum_status(QimgChain *chain)
{
    chain->status = chain->layers[chain->image_layer]->file->status;
    chain->status.st_blocks = 0;
    for (unsigned i = 0; i < chain->n_layers; i++) {
        chain->status.st_blocks += chain->layers[i]->file->status.st_blocks;
        if (chain->layers[i]->data_file)
            chain->status.st_blocks += chain->layers[i]->data_file->status.st_blocks;
    }
}

/* Adds the image in @fd, opened at @place (both owned), and all that it is based on. */
static bool
open_layers(QimgChain *chain, int fd, QimgPlace *place, ProbedOrigin origin,
            const QimgOptions *options, GError **error)
{
    chain->n_layers = chain->image_layer = options->is_cow ? 1 : 0;
    if (!add_layer(chain, options, fd, place, options->format, origin, error))
        return false;
    while (chain->layers[chain->n_layers - 1]->backing_name && !chain->is_cut &&
           chain->n_layers != options->max_layers) {
        GError *reason = NULL;

        if (add_backing(chain, options, &reason))
            continue;
        chain->is_cut = true;
        if (!do_without(chain, options, reason, error))
            return false;
    }
    if (!options->is_cow)
        return true;
    chain->layers[0] = overlay_open(chain, options, error);
    if (chain->layers[0])
        take_warnings(chain, chain->layers[0]);
    return chain->layers[0] != NULL;
}

/* A chain without layers; NULL with @error set. */
static QimgChain *
chain_new(const QimgOptions *options, GError **error)
{
    QimgChain *chain = g_new0(QimgChain, 1);

    atomic_init(&chain->refs, 1);
    qimg_mutex_init(&chain->size_lock, QIMG_RANK_SIZE);
    chain->warnings = g_ptr_array_new_with_free_func(g_free);
    chain->data_cache_bytes = options->data_cache_bytes;
    chain->is_growable = options->is_growable;
    chain->keeper = options->keeper;
    chain->discard = options->discard;
    if (options->is_writable || options->is_cow)
        chain->gate = qimg_gate_new();
    chain->workers = qimg_workers_new(options->n_threads);
    chain->tables = slot_cache_new(TABLE_SLICE_BYTES, options->l2_cache_bytes);
    if (chain->tables)
        return chain;
    qimg_set_error(error, QIMG_ERROR_NO_MEMORY,
                   "no memory for the cache of tables (give a smaller -o "
                   "l2_cache=SIZE)");
    chain_unref(chain);
    return NULL;
}

static void
chain_free_places(QimgChain *chain)
{
    for (unsigned i = 0; i < IMAGE_MAX_LAYERS; i++)
        g_clear_pointer(&chain->places[i], qimg_place_free);
}

/* Makes what depends on all the layers. */
static bool
finish_chain(QimgChain *chain, const QimgOptions *options, GError **error)
{
    if (!make_cluster_caches(chain, error))
        return false;
    choose_granule(chain);
    sum_status(chain);
    chain->read_ahead = read_ahead_new(chain);
    if (!chain->gate)
        chain->holes = hole_map_new(qimg_view_size_bytes(&chain->layers[0]->active));
    chain->is_watched = !options->no_lock;
    g_ptr_array_add(chain->warnings, NULL);
    chain_free_places(chain);
    return true;
}

/* Whether the image itself is written to, no overlay of it. */
static bool
writes_to_image(const QimgOptions *options)
{
    return options->is_writable && !options->is_cow;
}

/* As open_layers, with the steps before and after it. */
static QimgChain *
open_chain(int fd, QimgPlace *place, ProbedOrigin origin, const QimgOptions *options,
           GError **error)
{
    QimgChain *chain = chain_new(options, error);

    if (!chain) {
        close(fd);
        qimg_place_free(place);
    } else if (!open_layers(chain, fd, place, origin, options, error) ||
               !finish_chain(chain, options, error)) {
        g_clear_pointer(&chain, chain_unref);
    }
    return chain;
}

QimgChain *
chain_open(int dir_fd, const char *name, const char *path, const QimgOptions *options,
           GError **error)
{
    QimgPlace *place = NULL;
    int fd = qimg_open_named_by_user_at(options->policy, dir_fd, name, path,
                                        writes_to_image(options), &place, error);

    return fd < 0 ? NULL
                  : open_chain(fd, place,
                               dir_fd == AT_FDCWD ? PROBED_NAMED : PROBED_IN_DIRECTORY,
                               options, error);
}

QimgChain *
chain_open_given(int fd, const char *path, const QimgOptions *options, GError **error)
{
    QimgPlace *place = NULL;
    int own_fd;

    if (options->cow_path) {
        qimg_set_error(
            error, QIMG_ERROR_USAGE,
            "cow=%s: an overlay that stays stores the name of its image, and a "
            "descriptor has none (leave out the overlay's name)",
            options->cow_path);
        return NULL;
    }
    own_fd = qimg_open_given(fd, path, writes_to_image(options), &place, error);
    return own_fd < 0 ? NULL
                      : open_chain(own_fd, place, PROBED_IN_DIRECTORY, options, error);
}

/* As add_format, for a check, or for a change of the encryption. */
static bool
add_format_alone(QimgChain *chain, const QimgOptions *options, QimgStorage *file,
                 const QimgPlace *place, bool for_check, GError **error)
{
    const QimgFormatEnv env = {
        .tables = chain->tables,
        .inspect = true,
        .has_snapshots = for_check,
        .for_check = for_check,
    };
    const QimgDriver *driver = choose_driver(file, place, options->format, NULL, error);
    QimgFormat *format = NULL;

    if (driver && for_check && !driver->check)
        qimg_set_error(error, QIMG_ERROR_NO_CHECK,
                       "is a %s image, for which there is no check", driver->name);
    else if (driver)
        format = driver->open(file, &env, error);
    return add_opened(chain, format, file);
}

static QimgChain *
open_alone(const char *path, const QimgOptions *options, bool for_writing, bool for_check,
           GError **error)
{
    QimgChain *chain = chain_new(options, error);
    g_autoptr(QimgPlace) place = NULL;
    QimgStorage *file = NULL;
    int fd = -1;

    if (chain)
        fd = qimg_open_named_by_user(path, for_writing, &place, error);
    if (fd >= 0)
        file = chain_open_storage(chain, options, fd, place->path, for_writing, error);
    if (!file || !add_format_alone(chain, options, file, place, for_check, error))
        g_clear_pointer(&chain, chain_unref);
    return chain;
}

QimgChain *
chain_open_for_check(const char *path, const QimgOptions *options, bool for_repair,
                     GError **error)
{
    return open_alone(path, options, for_repair, true, error);
}

QimgChain *
chain_open_for_amend(const char *path, const QimgOptions *options, GError **error)
{
    return open_alone(path, options, true, false, error);
}

QimgChain *
chain_open_storages(QimgStorage *const *storages, unsigned n_storages,
                    const QimgOptions *options, GError **error)
{
    QimgChain *chain = chain_new(options, error);
    unsigned n_taken = 0;
    bool is_open = chain != NULL;

    g_assert(n_storages > 0 && n_storages <= IMAGE_MAX_LAYERS);
    while (is_open && n_taken < n_storages) {
        const char *format_name = n_taken == 0 ? options->format : NULL;

        is_open = add_format(chain, options, storages[n_taken++], format_name, error);
    }
    while (n_taken < n_storages)
        qimg_storage_close(storages[n_taken++]);
    if (chain && (!is_open || !finish_chain(chain, options, error)))
        g_clear_pointer(&chain, chain_unref);
    return chain;
}

/* Adds the layer that was @old. It must name the same files as before, since those are
 * open. */
static bool
add_again(QimgChain *chain, const QimgOptions *options, const QimgFormat *old,
          const char *format_name, GError **error)
{
    QimgFormat *layer;

    if (!add_format(chain, options, qimg_file_storage_share(old->file, error),
                    format_name, error))
        return false;
    layer = chain->layers[chain->n_layers - 1];
    if (g_strcmp0(layer->backing_name, old->backing_name) != 0 ||
        g_strcmp0(layer->data_file_name, old->data_file_name) != 0 ||
        layer->needs_data_file != old->needs_data_file) {
        qimg_set_error(error, QIMG_ERROR_REFUSED,
                       "names other files than when it was opened (open it by its name)");
        return false;
    }
    if (old->data_file)
        layer->data_file = qimg_file_storage_share(old->data_file, error);
    return !old->data_file || layer->data_file;
}

QimgChain *
chain_reopen(const QimgChain *old, const QimgOptions *options, GError **error)
{
    QimgChain *chain = chain_new(options, error);

    for (unsigned i = 0; chain && i < old->n_layers; i++) {
        const char *format_name = i == 0 ? options->format : old->layers[i]->driver->name;

        if (!add_again(chain, options, old->layers[i], format_name, error)) {
            g_prefix_error(error, "%s: ", old->layers[i]->file->path);
            g_clear_pointer(&chain, chain_unref);
        }
    }
    if (chain && !finish_chain(chain, options, error))
        g_clear_pointer(&chain, chain_unref);
    return chain;
}

QimgChain *
chain_ref(QimgChain *chain)
{
    atomic_fetch_add_explicit(&chain->refs, 1, memory_order_relaxed);
    return chain;
}

void
chain_unref(QimgChain *chain)
{
    /* Release by all, acquire by the last: it sees what the others did. */
    if (atomic_fetch_sub_explicit(&chain->refs, 1, memory_order_acq_rel) != 1)
        return;
    read_ahead_free(chain->read_ahead);
    qimg_workers_free(chain->workers);
    g_clear_pointer(&chain->holes, hole_map_free);
    free_cluster_caches(chain);
    for (unsigned i = 0; i < chain->n_layers; i++)
        qimg_format_close(chain->layers[i]);
    qimg_gate_free(chain->gate);
    qimg_mutex_clear(&chain->size_lock);
    slot_cache_free(chain->tables);
    g_ptr_array_unref(chain->warnings);
    chain_free_places(chain);
    g_free(chain);
}
