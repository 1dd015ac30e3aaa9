/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What tells the files of a copy's source apart from others, and from themselves at
 * another time. */
#include <stdlib.h>
#include <string.h>

#include "copy/copy-out.h"

char *
copy_stamp_of(const struct stat *status)
{
    return g_strdup_printf("%llu:%llu:%lld:%lld.%09ld:%lld.%09ld",
                           (unsigned long long)status->st_dev,
                           (unsigned long long)status->st_ino, (long long)status->st_size,
                           (long long)status->st_mtim.tv_sec, status->st_mtim.tv_nsec,
                           (long long)status->st_ctim.tv_sec, status->st_ctim.tv_nsec);
}

static bool
is_same_time(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

/* Whether @storage is as it was when it was opened. */
static CopyChange
find_change(QimgStorage *storage)
{
    const struct stat *then = &storage->status;
    struct stat now;

    if (!S_ISREG(then->st_mode)) /* the times of a device's node say nothing */
        return COPY_UNCHANGED;
    qimg_storage_get_status(storage, &now);
    if (now.st_size != then->st_size || now.st_ino != then->st_ino ||
        now.st_dev != then->st_dev || !is_same_time(&now.st_mtim, &then->st_mtim))
        return COPY_CHANGED;
    return is_same_time(&now.st_ctim, &then->st_ctim) ? COPY_UNCHANGED : COPY_TOUCHED;
}

CopyChange
copy_find_change(const QimgImage *image, const char **path_out)
{
    CopyChange worst = COPY_UNCHANGED;

    for (unsigned i = image->first_layer; i < image->chain->n_layers; i++) {
        QimgStorage *storages[] = {image->chain->layers[i]->file,
                                   image->chain->layers[i]->data_file};

        for (size_t j = 0; j < G_N_ELEMENTS(storages); j++) {
            CopyChange change = storages[j] ? find_change(storages[j]) : COPY_UNCHANGED;

            if (change > worst) {
                worst = change;
                *path_out = storages[j]->path;
            }
        }
    }
    return worst;
}
