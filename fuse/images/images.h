/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The images of a mount, by number: which there are, their names, and which of them are
 * open. Those that were named on the command line are open as long as the mount lasts.
 * Those of directories come and go; each is opened when it is used, and closed when it
 * has not been for a while, or when too many are open.
 *
 * I1  A number stands for one file for ever: what comes later, also under the same name,
 *     has another one. (After MAX_IMAGES of them numbers come again, with another
 *     generation.)
 * I2  Whoever uses an image has it pinned; a pinned image stays open, also when its file
 *     has gone.
 * I3  The lock is not held over I/O: an entry that is being opened or closed is busy, and
 *     whoever wants it waits. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "images/image-dir.h"
#include "images/partition-dir.h"
#include "images/snapshot-dir.h"
#include "qimg.h"

/* Numbers are smaller than this. */
#define MAX_IMAGES (1u << 22)

typedef struct Images Images;

/* What is remembered of an image that has been closed. */
typedef struct {
    uint64_t size_bytes;
    uint64_t cluster_bytes;
    bool is_writable;
    bool can_change_snapshots;
    struct stat status; /* as qimg_image_get_stat */
} ImageFacts;

typedef enum {
    IMAGE_CLOSED,
    IMAGE_BUSY, /* a thread opens or closes it */
    IMAGE_OPEN,
} ImageState;

typedef struct ImageEntry {
    Images *images;   /* const */
    QimgImage *image; /* const while pinned */
    /* What is added to the serial number of a snapshot, which counts from the image's
     * opening, to make the index of a node. Const while pinned. */
    unsigned first_index;

    PartitionDirCache partitions;
    uint64_t opening; /* which of all openings of images; const while pinned */

    /* The rest is for images*.c. */
    unsigned number;     /* const */
    unsigned generation; /* const: how often numbers had come round */
    ImageDir *dir;       /* const: where it lies; NULL: of the command line */
    dev_t device;        /* const: of the file (in @dir, a link's own) */
    ino_t inode;
    bool is_link;              /* const */
    struct timespec link_time; /* const: when the link was made; else 0 */
    SnapshotDirCache snapshots;
    /* Guarded by images->lock: */
    char *name;      /* without ".raw" */
    char *file_name; /* in @dir */
    ImageState state;
    unsigned n_pins; /* also of those who wait for it */
    bool has_gone;   /* has no name any more */
    bool is_kept;    /* is never closed before the end */
    bool is_known;   /* its warnings have been shown */
    bool is_again;   /* of the command line: it was opened anew, as its file changed */
    gint64 used_usecs;
    GError *error; /* why it could not be opened at the last try, or NULL */
    unsigned n_tries;
    uint64_t host_bytes; /* what its file occupied when it was found */
    bool has_facts;
    ImageFacts facts;   /* of when it was closed */
    struct stat closed; /* of the file then */
    uint64_t stamp; /* of its chain at the last opening; 0: it may have been written to */
    uint64_t signature; /* of its snapshots, likewise */
    unsigned n_indices; /* serial numbers below this may be known to the kernel */
    GHashTable
        *fresh; /* inode numbers of which the kernel has no pages of before @stamp */
} ImageEntry;

/* How images are opened, and for how long. */
typedef struct {
    QimgOptions *image_options; /* borrowed */
    bool is_writable;           /* by rw or cow */
    bool is_cow;
    const char *cow_file; /* borrowed; NULL: an overlay that vanishes */
    bool is_confined;     /* so that links may lead to what cannot be opened */
    unsigned idle_s;      /* after which an image of a directory is closed */
} ImagesSettings;

/* Without images. What @settings borrows must outlive it. */
Images *images_new(ImagesSettings settings);

/* Closes all images; none may be pinned. Accepts NULL. */
void images_free(Images *images);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Images, images_free)

/* Adds an open image, which was named as @path, taking it over on success. Errors: USAGE
 * where the name that it would be shown by is taken. */
bool images_add_open(Images *images, QimgImage *image, const char *path, GError **error);

/* How many there are. */
unsigned images_get_n(Images *images);

/* Gives in *@number the first image with that number or a higher one. */
bool images_next(Images *images, unsigned *number);

/* The number of the image that is shown as @name. */
bool images_find(Images *images, const char *name, unsigned *number_out);

/* As images_next, of those that are open, and of those that could not be opened. */
bool images_next_open(Images *images, unsigned *number);
bool images_next_error(Images *images, unsigned *number);

/* Whether there is an image of that number; one that has gone is there while it is in
 * use. */
bool images_has(Images *images, unsigned number);

/* The name by which it is shown, without ".raw"; NULL: it has none. Free with g_free. */
char *images_get_name(Images *images, unsigned number);

/* Tells files apart that had the same number; for the kernel. */
uint64_t images_get_generation(Images *images, unsigned number);

/* Opens the image, where it is not open, and keeps it so until image_entry_unpin. NULL
 * with @error set: images_errno knows the errno. */
ImageEntry *images_pin(Images *images, unsigned number, GError **error);

/* As images_pin, for a file that is opened: looks whether a file of the image was changed
 * below the mount. Then the first user has it opened anew, and for others it is an error.
 */
ImageEntry *images_pin_for_open(Images *images, unsigned number, GError **error);

/* As images_pin, of an image that is open: NULL where it is not. */
ImageEntry *images_pin_open(Images *images, unsigned number);

/* Accepts NULL. */
void image_entry_unpin(ImageEntry *entry);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageEntry, image_entry_unpin)

/* What is known of the image, which is opened only where that may have changed. NULL
 * @error will do. */
bool images_get_facts(Images *images, unsigned number, ImageFacts *out, GError **error);

/* Whether the image may go while the mount lasts. */
bool images_can_go(Images *images, unsigned number);

/* Whether the image is, or may be, written to through the mount. Opens nothing. */
bool images_is_writable(Images *images, unsigned number);

/* Of an image that is not open: roughly what it occupies. */
uint64_t images_get_closed_bytes(Images *images, unsigned number);

/* Of a pinned entry: its snapshots as a directory at this moment; free with
 * snapshot_dir_unref. */
SnapshotDir *image_entry_get_snapshots(ImageEntry *entry);

/* Whether the image is known to have partitions. Opens nothing. */
bool images_knows_partitions(Images *images, unsigned number);

/* Of a pinned entry: somebody is going to write to it. */
void image_entry_expect_writes(ImageEntry *entry);

/* Of a pinned entry: whether the pages that the kernel has of file @inode are right. They
 * may be of before the image was closed and opened again. */
bool image_entry_keeps_pages(ImageEntry *entry, uint64_t inode);

/* Of a pinned entry: a file, at the opening of which the kernel has dropped its pages, is
 * closed: from now on they are right. */
void image_entry_has_fresh_pages(ImageEntry *entry, uint64_t inode);

/* Of a pinned entry: brings what was written to it to stable storage. False with @error
 * (may be NULL) set, which names the image. */
bool image_entry_flush(ImageEntry *entry, GError **error);

/* Flushes all that is open. False with @error set, which names the first image with which
 * that failed, also when it was closed earlier. */
bool images_flush(Images *images, GError **error);

/* Closes images that were not used for a while. Returns in how many ms the next one is
 * due, -1 for none: then images_get_wake_fd tells of one. */
int images_close_idle(Images *images);

/* A descriptor that becomes readable (an eventfd) when there is something to do:
 * images_close_idle or images_take_gone. */
int images_get_wake_fd(const Images *images);

/* Makes it readable. */
void images_wake(const Images *images);

/* The times (alone) that the directories above all images show. */
void images_get_times(Images *images, struct stat *out);

/* The errno (positive) for somebody who uses a file of an image that could not be opened
 * because of @error: EIO for what they would take for something else, ESTALE where the
 * image has gone, so that the kernel looks the name up again. */
int images_errno(const GError *error);

/* ---- images-dir.c: directories of images ---- */

/* Adds a directory, whose images images_scan finds; one that was added already is left
 * out. Errors: of image_dir_new; USAGE with options that serve one image. */
bool images_add_directory(Images *images, const char *path, GError **error);

/* The directories: their images can still be opened while the mount lasts, and so can
 * what these name as far as the option "backing" allows. NULL past the last. */
ImageDir *images_get_directory(const Images *images, unsigned place);

/* Finds out what has come and gone in @dir. False with errno. Several scans and updates
 * take turns. */
bool images_scan(Images *images, ImageDir *dir);

typedef enum {
    FILE_CREATED,  /* its writer may be at work */
    FILE_COMPLETE, /* somebody has moved it there, or ended writing */
    FILE_LEFT,     /* it was taken away */
} FileEvent;

/* Finds out what has become of the file @name in @dir. */
void images_update(Images *images, ImageDir *dir, const char *name, FileEvent event);

/* Scans those directories that are not watched and have changed. */
void images_refresh(Images *images);

/* The names (char *, without ".raw") of images that have gone since the last call; free
 * with g_ptr_array_unref. */
GPtrArray *images_take_gone(Images *images);

/* Keeps off @device, which is that of the mount itself. Before anything is served. */
void images_avoid_device(Images *images, dev_t device);

/* Why the image could not be opened at the last try, or which of its files has changed
 * since; the file and the reason, both to be freed with g_free. False: all is well, or it
 * was not tried. */
bool images_get_error(Images *images, unsigned number, char **file_out,
                      char **reason_out);

/* What the file systems of all directories have free; UINT64_MAX: there are none. */
uint64_t images_get_free_bytes(const Images *images);
