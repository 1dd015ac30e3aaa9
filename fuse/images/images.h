/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The images of a mount, by number, with their names and states. Images named on the
 * command line stay open as long as the mount lasts. Images of directories come and go;
 * each is opened on use, and closed when idle for a while, or when too many are open.
 *
 * I1  A number stands for one file forever: a later file, even of the same name, gets
 *     another number. (After MAX_IMAGES files numbers recur with another generation.)
 *
 * I2  A user of an image pins it; a pinned image stays open, even when its file has gone.
 *
 * I3  The lock is not held over I/O: an entry is busy while it is opened or closed, and
 *     other threads that need it wait. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "images/image-dir.h"
#include "images/name-dir.h"
#include "images/partition-dir.h"
#include "qimg.h"

/* The limit of numbers. */
#define MAX_IMAGES (1u << 22)

typedef struct Images Images;

/* The remembered facts of a closed image. */
typedef struct {
    uint64_t size_bytes;
    uint64_t cluster_bytes;
    bool is_writable;
    bool can_change_snapshots;
    struct stat status; /* as qimg_image_get_stat */
} ImageFacts;

typedef enum {
    IMAGE_CLOSED,
    IMAGE_BUSY, /* a thread is opening or closing it */
    IMAGE_OPEN,
} ImageState;

typedef struct ImageEntry {
    Images *images;   /* const */
    QimgImage *image; /* const while pinned */
    /* Added to a snapshot's serial number, which restarts with each opening of the image,
     * to make a node's index. Const while pinned. */
    unsigned first_index;

    PartitionDirCache partitions;
    NameDirCache bitmaps; /* BitmapDir */
    uint64_t opening; /* serial number of this opening among all; const while pinned */

    /* The rest is for images*.c. */
    unsigned number;     /* const */
    unsigned generation; /* const: how often the numbers had wrapped */
    ImageDir *dir;       /* const: its directory; NULL: from the command line */
    dev_t device;        /* const: of the file (in @dir, of the link itself) */
    ino_t inode;
    bool is_link;              /* const */
    struct timespec link_time; /* const: creation time of the link; else 0 */
    NameDirCache snapshots;    /* SnapshotDir */
    /* Guarded by images->lock: */
    char *name;      /* without ".raw" */
    char *file_name; /* in @dir */
    ImageState state;
    unsigned n_pins; /* also by threads that wait for it */
    bool has_gone;   /* has lost its name */
    bool is_kept;    /* is not closed before the end */
    bool is_known;   /* its warnings were shown */
    bool is_again;   /* from the command line: was reopened after a change of its file */
    gint64 used_usecs;
    GError *error; /* why the last opening failed, or NULL */
    unsigned n_tries;
    uint64_t host_bytes; /* allocated by its file when found */
    bool has_facts;
    ImageFacts facts;   /* as of closing */
    struct stat closed; /* the file's status as of closing */
    uint64_t stamp; /* of its chain at the last opening; 0: may have been written to */
    uint64_t signature; /* of its snapshots, likewise */
    unsigned n_indices; /* the kernel may know serial numbers below this */
    GHashTable *fresh;  /* inode numbers without pages older than @stamp in the kernel */
} ImageEntry;

/* How images are opened, and for how long. */
typedef struct {
    QimgOptions *image_options; /* borrowed */
    bool is_writable;           /* by rw or cow */
    bool is_cow;
    const char *cow_file; /* borrowed; NULL: a temporary overlay */
    bool is_confined;     /* so links may lead to files that cannot be opened */
    unsigned idle_s;      /* before an idle image of a directory is closed */
} ImagesSettings;

/* A registry without images. The objects borrowed by @settings must outlive it. */
Images *images_new(ImagesSettings settings);

/* Closes all images; none may be pinned. Accepts NULL. */
void images_free(Images *images);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Images, images_free)

/* Adds an open image, named as @path, and takes it over on success. Errors: USAGE if its
 * shown name is taken. */
bool images_add_open(Images *images, QimgImage *image, const char *path, GError **error);

/* The number of images. */
unsigned images_get_n(Images *images);

/* Stores in *@number the first image with that number or a higher one. */
bool images_next(Images *images, unsigned *number);

/* Finds the number of the image shown as @name. */
bool images_find(Images *images, const char *name, unsigned *number_out);

/* As images_next, for open images, and for images that could not be opened. */
bool images_next_open(Images *images, unsigned *number);
bool images_next_error(Images *images, unsigned *number);

/* Whether an image has that number; one that has gone counts while in use. */
bool images_has(Images *images, unsigned number);

/* Its shown name, without ".raw"; NULL if it has none. Free with g_free. */
char *images_get_name(Images *images, unsigned number);

/* Distinguishes successive files of the same number; for the kernel. */
uint64_t images_get_generation(Images *images, unsigned number);

/* Whether the image may go while the mount lasts. */
bool images_can_go(Images *images, unsigned number);

/* For a closed image: roughly its allocated bytes. */
uint64_t images_get_closed_bytes(Images *images, unsigned number);

/* Whether the image is known to have partitions. Opens nothing. */
bool images_knows_partitions(Images *images, unsigned number);

/* A descriptor (an eventfd) that becomes readable when images_close_idle or
 * images_take_gone has work. */
int images_get_wake_fd(const Images *images);

/* Makes it readable. */
void images_wake(const Images *images);
