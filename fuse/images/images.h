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

#include "images/bitmap-dir.h"
#include "images/image-dir.h"
#include "images/partition-dir.h"
#include "images/snapshot-dir.h"
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
    BitmapDirCache bitmaps;
    uint64_t opening; /* serial number of this opening among all; const while pinned */

    /* The rest is for images*.c. */
    unsigned number;     /* const */
    unsigned generation; /* const: how often the numbers had wrapped */
    ImageDir *dir;       /* const: its directory; NULL: from the command line */
    dev_t device;        /* const: of the file (in @dir, of the link itself) */
    ino_t inode;
    bool is_link;              /* const */
    struct timespec link_time; /* const: creation time of the link; else 0 */
    SnapshotDirCache snapshots;
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

/* Opens the image if it is closed, and keeps it open until image_entry_unpin. NULL with
 * @error set; images_errno gives the errno. */
ImageEntry *images_pin(Images *images, unsigned number, GError **error);

/* As images_pin, for opening a file: checks whether a file of the image was changed below
 * the mount. If so, the first user reopens the image, and others get an error. */
ImageEntry *images_pin_for_open(Images *images, unsigned number, GError **error);

/* As images_pin, but NULL if the image is not open. */
ImageEntry *images_pin_open(Images *images, unsigned number);

/* Accepts NULL. */
void image_entry_unpin(ImageEntry *entry);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageEntry, image_entry_unpin)

/* The facts about the image; opens it only if they may have changed. @error may be
 * NULL. */
bool images_get_facts(Images *images, unsigned number, ImageFacts *out, GError **error);

/* Whether the image may go while the mount lasts. */
bool images_can_go(Images *images, unsigned number);

/* Whether the image is, or may be, written to through the mount. Opens nothing. */
bool images_is_writable(Images *images, unsigned number);

/* For a closed image: roughly its allocated bytes. */
uint64_t images_get_closed_bytes(Images *images, unsigned number);

/* For a pinned entry: its present snapshots as a directory; free with
 * snapshot_dir_unref. */
SnapshotDir *image_entry_get_snapshots(ImageEntry *entry);

/* Whether the image is known to have partitions. Opens nothing. */
bool images_knows_partitions(Images *images, unsigned number);

/* For a pinned entry: call before writing to it. */
void image_entry_expect_writes(ImageEntry *entry);

/* For a pinned entry: whether the kernel's pages of file @inode are valid. They may be
 * older than the last reopening of the image. */
bool image_entry_keeps_pages(ImageEntry *entry, uint64_t inode);

/* For a pinned entry: call at the close of a file at whose opening the kernel dropped its
 * pages: from now on they are valid. */
void image_entry_has_fresh_pages(ImageEntry *entry, uint64_t inode);

/* For a pinned entry: flushes its writes to stable storage. False with @error (may be
 * NULL) set, which names the image. */
bool image_entry_flush(ImageEntry *entry, GError **error);

/* Flushes all open images. False with @error set, which names the first image that
 * failed, even one closed earlier. */
bool images_flush(Images *images, GError **error);

/* Closes images that have been idle for a while. Returns the time in ms until the next
 * one is due, -1 for none: images_get_wake_fd then signals one. */
int images_close_idle(Images *images);

/* A descriptor (an eventfd) that becomes readable when images_close_idle or
 * images_take_gone has work. */
int images_get_wake_fd(const Images *images);

/* Makes it readable. */
void images_wake(const Images *images);

/* The times (and nothing else) for the directories above all images. */
void images_get_times(Images *images, struct stat *out);

/* The errno (positive) for the user of a file whose image could not be opened because of
 * @error: EIO for errors that the user would misunderstand, ESTALE if the image has gone,
 * so that the kernel repeats the lookup. */
int images_errno(const GError *error);

/* ---- images-dir.c: directories of images ---- */

/* Adds a directory, whose images images_scan finds; ignores one that was added already.
 * Errors: as image_dir_new; USAGE with options that serve one image. */
bool images_add_directory(Images *images, const char *path, GError **error);

/* The directories: while the mount lasts, their images can still be opened, and so can
 * the files that these name, as far as the option "backing" permits. NULL past the
 * last. */
ImageDir *images_get_directory(const Images *images, unsigned place);

/* Finds the images that have come to or gone from @dir. False with errno. Concurrent
 * scans and updates take turns. */
bool images_scan(Images *images, ImageDir *dir);

typedef enum {
    FILE_CREATED,  /* a writer may be active */
    FILE_COMPLETE, /* moved there, or closed by a writer */
    FILE_LEFT,     /* removed */
} FileEvent;

/* Updates the registry after a change of file @name in @dir. */
void images_update(Images *images, ImageDir *dir, const char *name, FileEvent event);

/* Scans the unwatched directories that have changed. */
void images_refresh(Images *images);

/* The names (char *, without ".raw") of images that have gone since the last call; free
 * with g_ptr_array_unref. */
GPtrArray *images_take_gone(Images *images);

/* Avoids @device, the device of the mount itself. Call before anything is served. */
void images_avoid_device(Images *images, dev_t device);

/* A file of the directories that holds a disk, but none that can be shown, and why; both
 * to be freed with g_free. False past the last @place. */
bool images_get_other(Images *images, unsigned place, char **file_out, char **reason_out);

/* Why the last opening of the image failed, or which of its files has changed since: the
 * file and the reason, both to be freed with g_free. False: no error, or not tried. */
bool images_get_error(Images *images, unsigned number, char **file_out,
                      char **reason_out);

/* The free bytes on the file systems of all directories; UINT64_MAX without
 * directories. */
uint64_t images_get_free_bytes(const Images *images);
