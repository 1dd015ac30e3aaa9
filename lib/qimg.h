/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libqimg: disk images (qcow2 and QED with their backing chains, raw) as
 * arrays of bytes.
 *
 * An image is opened with its whole chain; the handle can be used from any number of
 * threads at once. Functions that a person waits for report a GError of the domain
 * QIMG_ERROR, whose text says what is wrong and what to do, without the name of the
 * image. Functions on the I/O path return 0 or a negated errno value and allocate
 * nothing.
 *
 * Images are opened for reading unless the option "rw" or "cow" is set; an image opened
 * for reading is never changed in any way. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

G_BEGIN_DECLS

#if defined(QIMG_BUILDING) && defined(__GNUC__)
#define QIMG_API __attribute__((visibility("default")))
#else
#define QIMG_API
#endif

#define QIMG_ERROR qimg_error_quark()
QIMG_API GQuark qimg_error_quark(void);

typedef enum {
    QIMG_ERROR_FAILED,
    QIMG_ERROR_NOT_FOUND,
    QIMG_ERROR_NOT_AN_IMAGE,
    QIMG_ERROR_INVALID,
    QIMG_ERROR_UNSUPPORTED,
    QIMG_ERROR_ENCRYPTED,
    QIMG_ERROR_REFUSED,
    QIMG_ERROR_LOOP,
    QIMG_ERROR_LOCKED,
    QIMG_ERROR_NO_MEMORY,
    QIMG_ERROR_USAGE,
    QIMG_ERROR_EXISTS,
    QIMG_ERROR_BUSY,
    QIMG_ERROR_READ_ONLY,
    QIMG_ERROR_NO_SPACE,
    QIMG_ERROR_TOO_LARGE,
    QIMG_ERROR_NO_CHECK,
    QIMG_ERROR_CANCELED,
} QimgError;

/* The errno value (positive) that fits @error; EIO for errors of other domains and NULL.
 */
QIMG_API int qimg_error_to_errno(const GError *error);

/* The version of this header. */
#define QIMG_VERSION_MAJOR 0
#define QIMG_VERSION_MINOR 1
#define QIMG_VERSION_MICRO 0

/* Whether this header is of that version or a later one; for the preprocessor, too. */
#define QIMG_CHECK_VERSION(major, minor, micro)                                          \
    (QIMG_VERSION_MAJOR > (major) ||                                                     \
     (QIMG_VERSION_MAJOR == (major) && QIMG_VERSION_MINOR > (minor)) ||                  \
     (QIMG_VERSION_MAJOR == (major) && QIMG_VERSION_MINOR == (minor) &&                  \
      QIMG_VERSION_MICRO >= (micro)))

/* Called from time to time during a long call, in the thread that makes it: @done of
 * @total units of work are done (both begin anew for each of several passes). FALSE
 * cancels the call, which then fails with CANCELED, or -ECANCELED, and leaves what its
 * description promises; once it has begun what cannot be taken back it is not asked any
 * more, and succeeds. It must not use the image. Each function that takes one accepts
 * NULL, and hands @user through. */
typedef gboolean (*QimgProgress)(uint64_t done, uint64_t total, void *user);

/* The version of the library that runs, "MAJOR.MINOR.MICRO". Static storage. */
QIMG_API const char *qimg_version(void);

/* ---- structures ----
 *
 * Every structure below begins with struct_bytes, the size that the side which made it
 * knows, and grows at its end alone. One that the caller makes is
 *
 *     QimgExtent extent = {.struct_bytes = sizeof extent};
 *
 * and the library takes, or fills, no more of it; what it does not have is zero for the
 * library, and what the library does not know becomes zero. Those that the library makes
 * are handed out one at a time, are never copied, and have the fields of this version;
 * QIMG_HAS asks for those of later ones. */

/* Whether the structure at @pointer has @field; false, too, where an older library has
 * made it. */
#define QIMG_HAS(pointer, field)                                                         \
    ((pointer)->struct_bytes >=                                                          \
     (size_t)((const char *)(&(pointer)->field + 1) - (const char *)(pointer)))

/* ---- options --------------------------------------------------------------------------
 */

/* How to open an image. Not thread-safe; may be freed after qimg_image_open. */
typedef struct QimgOptions QimgOptions;

/* The defaults: format probed, backing files below the directory of the image that names
 * them, locks taken, 32 MiB for metadata, 16 MiB for decompressed clusters, one worker
 * thread for each core. Never NULL. */
QIMG_API QimgOptions *qimg_options_new(void);

/* Frees @options; accepts NULL. */
QIMG_API void qimg_options_free(QimgOptions *options);

/* Sets one option by its name, as on the command lines:
 *   format=qcow2|qed|qcow|raw     the format of the image (not of its backing files).
 *                                 Else it is probed: then the files that the header names
 *                                 are opened, as the default of "backing" allows, unless
 *                                 the image is a block device or has a raw disk's name
 *   backing=same-dir|any|none|DIR[:DIR...]   which named files may be opened; where it is
 *                                 set, also by an image whose format was probed
 *   backing_map=OLD=NEW           open NEW where an image names OLD; may be repeated
 *   l2_cache=SIZE, data_cache=SIZE   bytes, with an optional suffix K, M, G, T
 *   threads=N                     threads that decompress
 *   nolock                        (value NULL) do not take locks
 *   direct                        (value NULL) data pass by the page cache of the host,
 *                                 where its file system can do that; a warning says where
 *                                 not
 *   rw                            (value NULL) writes go to the image; nothing is changed
 *                                 in it until the first of them
 *   cow[=FILE]                    writes go to an overlay, the image stays as it is: to
 *                                 one that vanishes at the end (value NULL), or to the
 *                                 qcow2 image FILE, made where it does not exist
 *   growable, nogrowable          (value NULL) whether a write past the disk's end grows
 *                                 the disk (the default) or fails with -ENOSPC
 *   discard=unmap|zero|ignore     what qimg_image_discard does: give the space back, keep
 *                                 it allocated as zeros, or fail with -EOPNOTSUPP
 *   inspect                       (value NULL) open encrypted images, too, to show facts;
 *                                 reading their data fails with ENOKEY
 * Errors: USAGE, with the option's name and what it takes; a NULL @value where one is
 * needed is an error. */
QIMG_API gboolean qimg_options_set(QimgOptions *options, const char *name,
                                   const char *value, GError **error);

/* Lets nothing on @device be opened or looked up on the way to an image or to what it
 * names: for programs that serve that file system themselves, and would wait for
 * themselves. Errors of opening are then LOOP or FAILED. */
QIMG_API void qimg_options_avoid_device(QimgOptions *options, dev_t device);

/* A process that stores what waits when this one dies, so that writes need not wait for
 * the disk: entries of tables are written behind then, many of them after one sync.
 * Without it, a write that replaces data returns when these are on stable storage.
 *
 *     qimg_keeper_new ─▶ images are opened with it ─▶ qimg_keeper_start ─▶ images are
 *     written to ─▶ images are closed ─▶ qimg_keeper_free
 *
 * Linux 5.3 or later. */
typedef struct QimgKeeper QimgKeeper;
QIMG_API QimgKeeper *qimg_keeper_new(void);

/* Starts the process, which shares the table of open files of this one: before this one
 * makes threads and after it has gone to the background, at most once. It ends by itself
 * when this process has ended. FALSE with @error set where that is not possible; images
 * are written to without it then. */
QIMG_API gboolean qimg_keeper_start(QimgKeeper *keeper, GError **error);

/* Ends the process and frees @keeper, when no image is open any more that was opened with
 * it. Accepts NULL. */
QIMG_API void qimg_keeper_free(QimgKeeper *keeper);

/* Images that are opened with @options and written to use @keeper, which stays the
 * caller's. */
QIMG_API void qimg_options_set_keeper(QimgOptions *options, QimgKeeper *keeper);

/* Whether qimg_options_set knows @name. */
QIMG_API gboolean qimg_options_has(const char *name);

/* The places outside of the images' own directories from which files that images name may
 * be opened, by "backing" and "backing_map": directories and files, "/" for "any". NULL
 * terminated; free with g_strfreev. For a process that confines itself and opens images
 * later. */
QIMG_API char **qimg_options_get_named_places(const QimgOptions *options);

/* Reads a size as the command lines take it: bytes, or a number, which may have a
 * fraction, with K, M, G, T, P or E (powers of 1024; either case, and KiB and the like),
 * rounded to whole bytes. *@bytes_out is written on success only. Errors: USAGE for what
 * is none, negative or does not fit. */
QIMG_API gboolean qimg_parse_size(const char *text, uint64_t *bytes_out, GError **error);

/* How many threads serve well here: one for each core that this process may use, and at
 * least 2. Any thread. */
QIMG_API unsigned qimg_default_threads(void);

/* ---- images ---------------------------------------------------------------------------
 */

typedef struct QimgImage QimgImage;

/* Opens @path (a regular file or block device) and its backing chain, for reading or, by
 * the options "rw" and "cow", for writing, too.
 * @options may be NULL. Ownership: free with qimg_image_close.
 * Errors: the domain's codes; nothing stays open on failure. */
QIMG_API QimgImage *qimg_image_open(const char *path, const QimgOptions *options,
                                    GError **error);

/* As qimg_image_open, of @name, which is relative to the open directory @dir_fd as in
 * openat(2) (O_PATH will do); messages and qimg_image_get_layer_path call it @path. It
 * counts as found in that directory, not as named by the user: what its header names as a
 * data file is opened for writing only where "format" or "backing" was set. */
QIMG_API QimgImage *qimg_image_open_at(int dir_fd, const char *name, const char *path,
                                       const QimgOptions *options, GError **error);

/* As qimg_image_open, of the regular file or block device that is open as @fd, for
 * reading or, with the option "rw", for reading and writing, without O_APPEND and
 * O_DIRECT; messages and qimg_image_get_layer_path call it @path, which leads to nothing.
 * @fd stays the caller's, who may close it at once; the locks are those of the open file,
 * which they outlive no more than the last descriptor of it. What the image names
 * relative to its directory is refused, since a descriptor has none: "backing_map" says
 * where that is. Absolute names are opened where "backing" names directories or is "any",
 * and nothing is where it was not set. "cow" with a file's name is refused. Errors: also
 * USAGE for a descriptor that does not fit. */
QIMG_API QimgImage *qimg_image_open_fd(int fd, const char *path,
                                       const QimgOptions *options, GError **error);

/* The name of the format whose images begin with @bytes, the first 512 of a file (or
 * all): static. NULL where they are no known one's: then it may be raw. Any thread. */
QIMG_API const char *qimg_probe(const void *bytes, size_t n_bytes);

/* Opens one more handle on the chain of @image as seen from layer @depth down: 0 is the
 * image itself, 1 its backing file. Costs no I/O. Errors: USAGE beyond the last layer. */
QIMG_API QimgImage *qimg_image_open_layer(QimgImage *image, unsigned depth,
                                          GError **error);

/* Opens the internal snapshot of that number (QimgSnapshot.serial) as a disk. As long as
 * the handle is open, the snapshot cannot be deleted.
 * Errors: NOT_FOUND for an unknown number, INVALID when its table is damaged. */
QIMG_API QimgImage *qimg_image_open_snapshot(QimgImage *image, uint32_t serial,
                                             GError **error);

/* Opens the VM state that a snapshot holds: an image of exactly its length.
 * Errors: as qimg_image_open_snapshot; NOT_FOUND when it has none. */
QIMG_API QimgImage *qimg_image_open_vmstate(QimgImage *image, uint32_t serial,
                                            GError **error);

/* Opens [@start_bytes, @start_bytes + @length_bytes) of what @image shows (the disk, a
 * layer, a snapshot) as an image of its own, which can be written to where @image can,
 * and neither grows nor shrinks: writes past its end fail with -ENOSPC, resizing with
 * -EINVAL. Where the disk becomes shorter, so does what the handle shows. Costs no I/O.
 * Errors: USAGE where the range leaves what @image shows now. */
QIMG_API QimgImage *qimg_image_open_part(QimgImage *image, uint64_t start_bytes,
                                         uint64_t length_bytes, GError **error);

/* Closes a handle; the files are closed and unlocked with the last handle of a chain.
 * What was written is flushed then, as far as possible: call qimg_image_flush before to
 * be told of errors. No request may be under way on this handle. Accepts NULL. */
QIMG_API void qimg_image_close(QimgImage *image);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgOptions, qimg_options_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgKeeper, qimg_keeper_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgImage, qimg_image_close)

/* The virtual size in bytes. Cannot fail; any thread. That of a writable disk changes
 * when it is resized. */
QIMG_API uint64_t qimg_image_get_size_bytes(const QimgImage *image);

/* The cluster size of the top layer in bytes (a page for raw). */
QIMG_API uint64_t qimg_image_get_cluster_bytes(const QimgImage *image);

/* Number of layers from this handle's top down, at least 1. */
QIMG_API unsigned qimg_image_get_n_layers(const QimgImage *image);

/* The path by which layer @depth was opened; owned by @image; NULL beyond the last. */
QIMG_API const char *qimg_image_get_layer_path(const QimgImage *image, unsigned depth);

/* The format of layer @depth, "qcow2" and so on: static. NULL beyond the last layer. */
QIMG_API const char *qimg_image_get_layer_format(const QimgImage *image, unsigned depth);

/* The name of its backing file that layer @depth stores, as it is stored; owned by
 * @image. NULL where it stores none. */
QIMG_API const char *qimg_image_get_layer_backing_name(const QimgImage *image,
                                                       unsigned depth);

/* What is known of a layer. */
#define QIMG_LAYER_ENCRYPTED     (1u << 0) /* its data cannot be read without a key */
#define QIMG_LAYER_DIRTY         (1u << 1) /* it was not closed properly, or is in use */
#define QIMG_LAYER_CORRUPT       (1u << 2) /* marked as corrupt by a writer */
#define QIMG_LAYER_HAS_DATA_FILE (1u << 3) /* its data lie in another file */

/* The flags of layer @depth, ORed, of which later versions may have more; 0 beyond the
 * last layer. Any thread. */
QIMG_API unsigned qimg_image_get_layer_flags(const QimgImage *image, unsigned depth);

/* The status of the top layer's file as it was when the image was opened (of a writable
 * disk: as it is), but for st_blocks: what the files of all layers occupy. Copied to
 * *@out. With the option "cow" the image's status, not the overlay's. */
QIMG_API void qimg_image_get_stat(const QimgImage *image, struct stat *out);

/* A number that was another one if any file of the chain (an overlay of "cow" aside) was
 * another file, or of another size or time of change, when the image was opened. Any
 * thread. */
QIMG_API uint64_t qimg_image_get_stamp(const QimgImage *image);

/* How often the image was, or may have been, changed by calls of this library since it
 * was opened: by writes, changes of size and snapshots, flushes. As long as the number
 * stays, so do the facts about it (qimg_image_info_new) and its bytes. Any thread. */
QIMG_API uint64_t qimg_image_count_changes(const QimgImage *image);

/* The path of a file of the chain that another program has changed since @image was
 * opened, or NULL. From when that is noticed on, all that reads or changes the disk gives
 * -EIO on every handle of the chain: tables and data would be of two moments. Files that
 * @image writes to do not count, and with the option "nolock" none does. Files are looked
 * at once a second while the image is read, and now where @look_now. Owned by @image; any
 * thread. */
QIMG_API const char *qimg_image_find_changed(QimgImage *image, gboolean look_now);

/* Opens the files of @image, which is not writable and shows a whole chain, anew as they
 * are now, by the descriptors that it holds: for programs that cannot open them by name
 * any more. The locks are shared. @options as for qimg_image_open, of which "format" and
 * "nolock" count, and the sizes of caches. @image stays as it is. Errors: as
 * qimg_image_open; REFUSED where an image names other files than before. */
QIMG_API QimgImage *qimg_image_reopen(QimgImage *image, const QimgOptions *options,
                                      GError **error);

/* Warnings of the open, oldest first, each a line that names its file; NULL-terminated,
 * owned by @image. */
QIMG_API const char *const *qimg_image_get_warnings(const QimgImage *image);

/* Reads @length_bytes at @guest_offset into @buffer; the range must lie within the disk.
 * Threads: any number at once. Returns 0, -EINVAL beyond the disk, -EIO on damage, a file
 * that was changed (qimg_image_find_changed) or a failing host file (the content of
 * @buffer is then undefined), -ENOMEM, -ENOKEY. */
QIMG_API int qimg_image_read(QimgImage *image, uint64_t guest_offset, void *buffer,
                             size_t length_bytes);

/* ---- making ---------------------------------------------------------------------------
 */

/* What is stored of a new disk, or of what is added to one. */
typedef enum {
    QIMG_PREALLOCATION_OFF,
    QIMG_PREALLOCATION_METADATA, /* a place for every cluster, in a sparse file */
    QIMG_PREALLOCATION_FALLOC,   /* and room in the host's file system */
    QIMG_PREALLOCATION_FULL,     /* and zeros written there */
} QimgPreallocation;

/* Gives the mode called @name (off, metadata, falloc, full) in *@out, on success only.
 * Errors: USAGE. */
QIMG_API gboolean qimg_preallocation_find(const char *name, QimgPreallocation *out,
                                          GError **error);

/* What a new image shall be. Not thread-safe. */
typedef struct QimgCreate QimgCreate;

/* A qcow2 image of version 3 with clusters of 64 KiB, of no size yet. Never NULL. */
QIMG_API QimgCreate *qimg_create_new(void);

/* Frees @create; accepts NULL. */
QIMG_API void qimg_create_free(QimgCreate *create);

/* Sets one property by its name, as on the command line:
 *   format=qcow2|qed|raw
 *   size=SIZE               as qimg_parse_size, rounded up to a sector (512 bytes); with
 * a backing file the default is its size backing_file=NAME       stored as it is;
 * relative to the directory of the new image backing_fmt=FORMAT   probed where it is
 * not given, and stored (by QED: raw only)
 *   cluster_size=SIZE       a power of two from 512 to 2M, of QED from 4K to 4M
 *   table_size=2|4|8|16     QED: clusters of a table
 *   version=2|3, compat=0.10|1.1   the same in two ways
 *   refcount_bits=1|2|4|8|16|32|64
 *   compression_type=zlib|zstd
 *   extended_l2, lazy_refcounts, data_file_raw   on (as a NULL @value) or off
 *   preallocation=off|metadata|falloc|full
 *   data_file=NAME          made, too; stored as it is; relative to the directory of the
 *                           new image
 *   force                   (value NULL) replace files that have these names
 *   no_check                (value NULL) store the backing file's name without a look at
 *                           the file: size and backing_fmt must be given
 *   backing, backing_map, nolock   as qimg_options_set: for opening the backing file
 * Raw images have format, size, preallocation and force alone.
 * Errors: USAGE, with the property's name and what it takes. */
QIMG_API gboolean qimg_create_set(QimgCreate *create, const char *name, const char *value,
                                  GError **error);

/* Makes the image @path. It is no image until it is complete and durable, name included;
 * on failure, and where it is canceled, what was made is removed, and what it would have
 * replaced is as it was.
 * Errors: USAGE for properties that contradict each other or break a limit of the format;
 * REFUSED where a file has the name already; those of opening the backing file;
 * NOT_FOUND, FAILED of the host. */
QIMG_API gboolean qimg_create_run(QimgCreate *create, const char *path,
                                  QimgProgress progress, void *user, GError **error);

/* What the user should know of the last run, a line each; NULL-terminated, owned by
 * @create. */
QIMG_API const char *const *qimg_create_get_notes(const QimgCreate *create);

/* The virtual size in bytes of the image that the last run has made. */
QIMG_API uint64_t qimg_create_get_size_bytes(const QimgCreate *create);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgCreate, qimg_create_free)

/* ---- writing --------------------------------------------------------------------------
 *
 * Only through a handle from qimg_image_open with "rw" or "cow", or a layer handle of
 * depth 0. What a call has done is seen by every later read, and survives the end of the
 * process at any moment; what was done before a successful qimg_image_flush survives the
 * end of the machine. All but resize may be called from any number of threads at once;
 * the outcome of overlapping writes that run at once is one of them in each byte.
 *
 * Errors of all: -EROFS (not writable, or damage was found and the image is left alone),
 * -EIO, -ENOSPC, -EDQUOT, -ENOMEM: the ranges that were not done are as before. */

/* Whether the functions below work on @image. */
QIMG_API gboolean qimg_image_is_writable(const QimgImage *image);

/* Writes @length_bytes at @guest_offset. Past the disk's end the disk grows, or with the
 * option "nogrowable" the answer is -ENOSPC and nothing is written. -EFBIG past what the
 * format can map. */
QIMG_API int qimg_image_write(QimgImage *image, uint64_t guest_offset, const void *buffer,
                              size_t length_bytes);

/* Lets the range, which must lie within the disk, read as zeros, keeping what is
 * allocated for it. -EINVAL beyond the disk. */
QIMG_API int qimg_image_zero(QimgImage *image, uint64_t guest_offset,
                             uint64_t length_bytes);

/* As qimg_image_zero, giving space back as the option "discard" says. */
QIMG_API int qimg_image_discard(QimgImage *image, uint64_t guest_offset,
                                uint64_t length_bytes);

/* Allocates what is not allocated of the range, which must lie within the disk, without a
 * change of content, so that later writes to it find room. */
QIMG_API int qimg_image_allocate(QimgImage *image, uint64_t guest_offset,
                                 uint64_t length_bytes);

/* Sets the disk's size, rounded up to a sector (512 bytes) where the format knows whole
 * sectors only (qcow2, QED). What is added reads as zeros;
 * what is cut off is lost. Waits until no other request runs. -EFBIG, -EOPNOTSUPP (a
 * version 2 image with snapshots, a raw image on a device, a QED image that shrinks). */
QIMG_API int qimg_image_resize(QimgImage *image, uint64_t size_bytes);

/* As qimg_image_resize to a larger size, and stores what is added as @preallocation says;
 * on failure, and where it is canceled (-ECANCELED), the disk has the old size. -EINVAL
 * where the disk is no smaller, and -EOPNOTSUPP for METADATA of a raw image, too. */
QIMG_API int qimg_image_grow(QimgImage *image, uint64_t size_bytes,
                             QimgPreallocation preallocation, QimgProgress progress,
                             void *user);

/* How many bytes are free on the file system of the file that grows by writing to @image,
 * an overlay's too; 0 for a block device, and where that is not known. Any thread. */
QIMG_API uint64_t qimg_image_get_free_bytes(const QimgImage *image);

/* Whether a write past the disk's end grows it. */
QIMG_API gboolean qimg_image_is_growable(const QimgImage *image);

/* Returns when everything that was done before the call is on stable storage. Once it has
 * failed, it fails for ever, since nobody knows what was lost. */
QIMG_API int qimg_image_flush(QimgImage *image);

/* ---- where data lie -------------------------------------------------------------------
 */

typedef enum {
    QIMG_EXTENT_UNALLOCATED, /* no layer holds it: reads as zeros */
    QIMG_EXTENT_ZERO,        /* a layer says zeros, or the host file has a hole */
    QIMG_EXTENT_DATA,
    QIMG_EXTENT_COMPRESSED,
    QIMG_EXTENT_DAMAGED, /* reads fail with EIO */
} QimgExtentKind;

typedef struct QimgExtent {
    size_t struct_bytes; /* set by the caller */
    uint64_t guest_offset;
    uint64_t length_bytes;
    QimgExtentKind kind;
    unsigned depth;        /* layer that decides it; the last one asked if UNALLOCATED */
    bool present;          /* a layer has an entry for it (as in qemu-img map) */
    uint64_t host_offset;  /* DATA: bytes from the start of @host_path */
    const char *host_path; /* DATA: owned by the image; else NULL */
    const char *reason;    /* DAMAGED: static text; else NULL */
} QimgExtent;

/* Gives the maximal extent that begins at @guest_offset (below the disk's size): all
 * bytes up to its end have one answer (DATA: one stretch of one host file). The walk is
 * bounded in memory and to about a second: an extent that would take longer to follow is
 * cut, and the next call goes on behind it.
 * Threads: any. Returns 0, -EINVAL (also where @out->struct_bytes is not set), -EIO when
 * a table cannot be read, -ENOMEM. */
QIMG_API int qimg_image_map(QimgImage *image, uint64_t guest_offset, QimgExtent *out);

/* As lseek: the first offset at or behind @guest_offset that holds data (@hole false) or
 * lies in a hole (@hole true; the disk's end is one). DATA, COMPRESSED and DAMAGED are
 * data. A search for data that takes longer than about a second answers where it stands,
 * one for a hole answers the disk's end: no data are ever passed over.
 * Returns 0, -ENXIO as lseek, -EIO, -ENOMEM. */
QIMG_API int qimg_image_seek(QimgImage *image, uint64_t guest_offset, gboolean hole,
                             uint64_t *offset_out);

/* Whether the disk's data lie in long stretches (MiBs) rather than scattered, judged by a
 * look at a few places of the tables: a hint of how far reading ahead is worth while. No
 * data is read; FALSE where nothing was found. Threads: any; takes less than a
 * millisecond where the tables are in memory, and 50 at most. */
QIMG_API gboolean qimg_image_has_long_extents(const QimgImage *image);

/* ---- partitions -----------------------------------------------------------------------
 */

/* Linux has no partitions with a higher number, and neither have we. */
#define QIMG_MAX_PARTITION_NUMBER 255u

typedef struct QimgPartition {
    size_t struct_bytes;
    unsigned number;       /* as Linux counts: logical ones of an MBR from 5 on */
    uint64_t start_bytes;  /* from the start of the disk */
    uint64_t length_bytes; /* not 0; lies within the disk */
    gboolean is_extended;  /* of an MBR: only the place of the logical ones */
    gboolean is_bootable;  /* of an MBR: the active one */
    uint64_t attributes;   /* of a GPT: the entry's bits */
    const char *type;      /* a GUID in lower case, or "0x83" */
    const char *type_name; /* what it is called; NULL where it is not well known */
    const char *label;     /* of a GPT: UTF-8; NULL: none */
    const char *uuid;      /* as Linux has it as PARTUUID; NULL: none */
} QimgPartition;

/* A disk's partition table at one moment. Never changes. */
typedef struct QimgPartitions QimgPartitions;

/* Reads the table (GPT, or MBR with logical partitions) of the disk that @image shows.
 * What cannot be trusted is left out and noted. NULL where there is none; a disk that is
 * one file system has none. Threads: any; costs a few reads. Free with
 * qimg_partitions_unref. */
QIMG_API QimgPartitions *qimg_partitions_read(QimgImage *image);

/* One more reference on @list, and one less; unref accepts NULL. Any thread. */
QIMG_API QimgPartitions *qimg_partitions_ref(QimgPartitions *list);
QIMG_API void qimg_partitions_unref(QimgPartitions *list);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgPartitions, qimg_partitions_unref)

/* Number of partitions, and one of them, owned by the list, in the order of their
 * numbers; NULL beyond the last. */
QIMG_API unsigned qimg_partitions_get_n(const QimgPartitions *list);
QIMG_API const QimgPartition *qimg_partitions_get(const QimgPartitions *list,
                                                  unsigned place);

/* The list as a JSON object, with what was noted, and with what each partition of @image
 * (on which the list was read; NULL: leave that out) holds, as far as libblkid knows it:
 * up to 3 MiB of each of the first 128 are read for that. Free with g_free. */
QIMG_API char *qimg_partitions_json(const QimgPartitions *list, QimgImage *image);

/* ---- snapshots ------------------------------------------------------------------------
 */

typedef struct QimgSnapshot {
    size_t struct_bytes;
    uint32_t serial;  /* tells it from all others of this image while the image is open:
                         a number that rises with each new one */
    const char *id;   /* bytes as stored, NUL-terminated */
    const char *name; /* bytes as stored, NUL-terminated; may be empty or not UTF-8 */
    size_t id_bytes;  /* the strings' lengths: a damaged image may store NULs in them */
    size_t name_bytes;
    int64_t date_s; /* seconds since 1970 */
    uint32_t date_ns;
    uint64_t vm_clock_ns;
    uint64_t vm_state_bytes; /* 0: none */
    uint64_t disk_bytes;     /* virtual size at that time */
    int64_t icount;          /* -1: not stored */
} QimgSnapshot;

/* The snapshots of an image at one moment, in the order of its table. Never changes. */
typedef struct QimgSnapshots QimgSnapshots;

/* The present snapshots of the image (none for handles on snapshots, and on backing
 * files, whose snapshots are not looked at). With the option "cow" those of the image,
 * which lies below the overlay. Never NULL; as long as nothing changes, the same list.
 * Any thread; waits while a change of snapshots runs. Free with qimg_snapshots_unref. */
QIMG_API QimgSnapshots *qimg_image_get_snapshots(const QimgImage *image);

/* Frees a list with all that came of it; accepts NULL. */
QIMG_API void qimg_snapshots_unref(QimgSnapshots *list);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgSnapshots, qimg_snapshots_unref)

/* Number of snapshots, and one of them, owned by the list; NULL beyond the last. */
QIMG_API unsigned qimg_snapshots_get_n(const QimgSnapshots *list);
QIMG_API const QimgSnapshot *qimg_snapshots_get(const QimgSnapshots *list,
                                                unsigned place);

/* The snapshot with the name or ID @wanted. Errors: NOT_FOUND; USAGE where several have
 * it, since the wrong one must not be taken. */
QIMG_API const QimgSnapshot *qimg_snapshots_find(const QimgSnapshots *list,
                                                 const char *wanted, GError **error);

/* ---- changing snapshots ----
 *
 * Through a handle that can write to the image itself ("rw", not "cow"). Each call waits
 * for the requests that run, holds new ones back until it is done, and is durable when it
 * returns. A process that dies in it leaves the snapshots as they were before or after.
 * One that is canceled has changed nothing.
 * Errors of all: READ_ONLY, UNSUPPORTED (the format or the image cannot have snapshots),
 * INVALID (damage was met), NO_SPACE, FAILED; CANCELED of those that take a
 * QimgProgress. */

#define QIMG_MAX_SNAPSHOT_NAME_BYTES 255u

/* Whether the functions below can work on @image: it is open for writing, and its format
 * has snapshots. */
QIMG_API gboolean qimg_image_can_change_snapshots(const QimgImage *image);

/* Takes a snapshot of the disk as it is at this moment; what was written before is in it,
 * what comes after is not. Errors: EXISTS for a name that stands there already, USAGE for
 * one that is empty or too long, TOO_LARGE where there are too many snapshots or too
 * narrow refcounts (nothing was changed). */
QIMG_API gboolean qimg_image_create_snapshot(QimgImage *image, const char *name,
                                             QimgProgress progress, void *user,
                                             GError **error);

/* Deletes a snapshot, and frees what nothing else refers to. Errors: NOT_FOUND; BUSY
 * where a handle on it is open. */
QIMG_API gboolean qimg_image_delete_snapshot(QimgImage *image, uint32_t serial,
                                             QimgProgress progress, void *user,
                                             GError **error);

/* Gives a snapshot another name. Errors: as the two above. */
QIMG_API gboolean qimg_image_rename_snapshot(QimgImage *image, uint32_t serial,
                                             const char *name, GError **error);

/* Makes the disk what it was when the snapshot was taken, in content and size; what it is
 * now is lost. Errors: NOT_FOUND. */
QIMG_API gboolean qimg_image_revert_to_snapshot(QimgImage *image, uint32_t serial,
                                                QimgProgress progress, void *user,
                                                GError **error);

/* ---- checking and repairing -----------------------------------------------------------
 *
 * Works on one image file alone: its backing and data files are neither opened nor
 * needed, and encrypted images need no key. Any damage but that of the header itself can
 * be looked at. */

typedef enum {
    QIMG_REPAIR_NONE,  /* only look; nothing is ever written */
    QIMG_REPAIR_LEAKS, /* give back clusters that nothing refers to */
    QIMG_REPAIR_ALL,   /* mend all that can be mended without a loss */
} QimgRepair;

typedef enum {
    QIMG_FINDING_CORRUPTION,
    QIMG_FINDING_LEAK,  /* a cluster counted higher than it is used: space only */
    QIMG_FINDING_ERROR, /* something could not be looked at */
} QimgFindingKind;

typedef struct QimgFinding {
    size_t struct_bytes;
    QimgFindingKind kind;
    uint64_t host_offset;  /* bytes in the image file: of what is wrong */
    uint64_t length_bytes; /* of the stretch from there on that has this fault; 0: no
                              stretch */
    uint64_t guest_offset; /* bytes on the disk; UINT64_MAX: none, or not known */
    const char *text;      /* one line: what is wrong */
} QimgFinding;

typedef struct QimgCheckResult {
    size_t struct_bytes;
    const char *filename; /* as given */
    const char *format;   /* static */
    /* What there is: after a repair, what remains. */
    uint64_t n_corruptions;
    uint64_t n_leaks;
    uint64_t n_check_errors;
    uint64_t n_corruptions_fixed;
    uint64_t n_leaks_fixed;
    /* The end of the last cluster in use, and the clusters of the active disk. */
    uint64_t image_end_offset;
    uint64_t n_total_clusters;
    uint64_t n_allocated_clusters;
    uint64_t n_fragmented_clusters; /* that do not follow the one before on the disk */
    uint64_t n_compressed_clusters;
    gboolean is_dirty;          /* marked as not closed properly */
    gboolean is_marked_corrupt; /* marked as corrupt by a writer */
    /* What the counts above are about, in no special order: at most 1000 of them are
     * listed. */
    unsigned n_findings;
    uint64_t n_all_findings;
} QimgCheckResult;

/* One of the findings that are listed, owned by the result; NULL beyond the last. */
QIMG_API const QimgFinding *qimg_check_result_get_finding(const QimgCheckResult *result,
                                                          unsigned place);

/* Checks the image at @path and, as @repair says, repairs it and checks it again. Of
 * @options (may be NULL) format and nolock count. Checking takes a reader's lock,
 * repairing a writer's. A repair can be interrupted at any moment, by @progress or by
 * whatever means, and be done again: at no time it makes anything worse.
 * Returns the result, also of a damaged image; free with qimg_check_result_free.
 * Errors: NO_CHECK for formats in which nothing can be checked; those of opening; of a
 * repair, those of the storage. */
QIMG_API QimgCheckResult *qimg_check(const char *path, const QimgOptions *options,
                                     QimgRepair repair, QimgProgress progress, void *user,
                                     GError **error);

/* Frees @result with its texts; accepts NULL. */
QIMG_API void qimg_check_result_free(QimgCheckResult *result);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgCheckResult, qimg_check_result_free)

/* The result as a JSON object (the keys of qemu-img check and more). Free with g_free. */
QIMG_API char *qimg_check_result_json(const QimgCheckResult *result);

/* ---- copies ---------------------------------------------------------------------------
 *
 * A copy of all that a handle shows, as a raw file, made by several threads. Where
 * nothing is stored the file has holes. A journal beside the file (its name with
 * ".qimg-resume") says which file it is and how far the copy has come, so that one that
 * was interrupted can go on. A file that replaces another is made beside it (its name
 * with ".qimg-part") and takes its place when it is complete. */

typedef enum {
    QIMG_DIGEST_MD5,
    QIMG_DIGEST_SHA1,
    QIMG_DIGEST_SHA256,
} QimgDigest;

/* "md5" and so on: static; NULL for no digest. They are numbered without a gap. */
QIMG_API const char *qimg_digest_get_name(QimgDigest digest);

/* The digest of that name; FALSE where there is none. */
QIMG_API gboolean qimg_digest_find(const char *name, QimgDigest *digest_out);

/* A range of the disk that could not be read, and was filled with zeros. */
typedef struct QimgUnreadable {
    size_t struct_bytes;
    uint64_t guest_offset;
    uint64_t length_bytes;
    const char *reason; /* static */
} QimgUnreadable;

/* Set by the caller; what is zero is the default. */
typedef struct QimgCopyOptions {
    size_t struct_bytes;
    /* A regular file, which is made, a block device, or a FIFO; NULL: the stream. */
    const char *target_path;
    int stream_fd; /* all is written to it in order; cannot go on later */
    /* What of the image it is, for the journal: two handles on one image, of a snapshot
     * and of the disk, have two names. NULL: "disk". */
    const char *source_name;
    unsigned n_threads;  /* that read and write; 0: qimg_default_threads */
    unsigned digests;    /* 1u << QimgDigest of each that is wanted */
    gboolean hash_files; /* the digests of the chain's files, too */
    gboolean keep_zeros; /* zeros are written, no holes are left */
    gboolean overwrite;  /* a regular file that is there is replaced, at the end */
    gboolean resume;     /* go on where an earlier copy has ended, if there was one */
    gboolean rescue;     /* what cannot be read is filled with zeros */
    /* Called in the thread that runs the copy; may be NULL. Unreadable ranges come in
     * order, those of the earlier copy first. */
    void (*on_unreadable)(const QimgUnreadable *range, void *user);
    QimgProgress on_progress; /* in bytes; FALSE stops as qimg_copy_stop */
    void *user;
    gboolean verify; /* at the end all is read back from the medium and compared */
} QimgCopyOptions;

typedef struct QimgCopyReport {
    size_t struct_bytes;
    uint64_t size_bytes;
    uint64_t done_bytes;    /* copied from the disk's start, by earlier copies, too */
    uint64_t resumed_bytes; /* of these, by earlier copies */
    uint64_t data_bytes;    /* of these, in blocks of 4 KiB that are not all zeros */
    uint64_t n_unreadable;
    uint64_t unreadable_bytes;
    unsigned n_listed; /* of the unreadable ranges: the first ones, at most 65536 */
    gboolean is_target_at_fault; /* it failed because of the target, not of the image */
    gboolean is_resumable;       /* it failed, and can go on from what is there */
} QimgCopyReport;

typedef struct QimgCopy QimgCopy;

/* Prepares a copy of @image, which must outlive it. @options and its texts are copied.
 * Free with qimg_copy_free. NULL only where @options->struct_bytes is not set. */
QIMG_API QimgCopy *qimg_copy_new(QimgImage *image, const QimgCopyOptions *options);

/* Checks all that can be checked before anything changes, and locks the target; once.
 * Errors: as qimg_copy_run, which calls it where the caller has not. */
QIMG_API gboolean qimg_copy_prepare(QimgCopy *copy, GError **error);

/* After qimg_copy_prepare: whether @path names a file of the chain, or one that the copy
 * writes or removes (it need not exist), and so must not be written to meanwhile. */
QIMG_API gboolean qimg_copy_uses_path(const QimgCopy *copy, const char *path);

/* Copies; once. Returns when all is on stable storage. A target that it has begun to fill
 * stays on failure if the copy can go on later; else what it has made is removed (a
 * device is left).
 * Errors: REFUSED for a target that must not be written to, or an earlier copy that is
 * not what the disk has; FAILED, too, where a file of the chain changed meanwhile; the
 * text is about the target or the image as the report says. Threads: waits for those that
 * it makes. */
QIMG_API gboolean qimg_copy_run(QimgCopy *copy, GError **error);

/* Lets qimg_copy_run fail soon. Any thread, also from a signal handler. */
QIMG_API void qimg_copy_stop(QimgCopy *copy);

/* What became of it, after qimg_copy_run; valid until qimg_copy_free. */
QIMG_API const QimgCopyReport *qimg_copy_get_report(const QimgCopy *copy);

/* The rest of the report: texts and ranges are owned by @copy, too. Those of files are
 * numbered from the image down, data files between, and there are none where their
 * digests were not wanted. */

/* One of the unreadable ranges that are listed; NULL beyond the last. */
QIMG_API const QimgUnreadable *qimg_copy_get_unreadable(const QimgCopy *copy,
                                                        unsigned place);

/* The digest of all that was written, or read back, in hexadecimal; NULL: not wanted, or
 * the copy has failed. */
QIMG_API const char *qimg_copy_get_digest(const QimgCopy *copy, QimgDigest digest);

QIMG_API unsigned qimg_copy_get_n_files(const QimgCopy *copy);

/* Of a file below qimg_copy_get_n_files: its path, its digest (NULL: not wanted, or
 * failed), and why its digests could not be computed (NULL: they were). */
QIMG_API const char *qimg_copy_get_file_path(const QimgCopy *copy, unsigned file);
QIMG_API const char *qimg_copy_get_file_digest(const QimgCopy *copy, unsigned file,
                                               QimgDigest digest);
QIMG_API const char *qimg_copy_get_file_error(const QimgCopy *copy, unsigned file);

/* Whether the file of @status, from stat, belongs to the chain of @image, and so must not
 * be written to. Any thread. */
QIMG_API gboolean qimg_image_has_file(const QimgImage *image, const struct stat *status);

/* Frees a copy that does not run; accepts NULL. */
QIMG_API void qimg_copy_free(QimgCopy *copy);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgCopy, qimg_copy_free)

/* ---- facts as text --------------------------------------------------------------------
 */

/* What is known of the image and its chain, as a JSON object (the keys of qemu-img info
 * and more). Free with g_free. */
QIMG_API char *qimg_image_info_json(const QimgImage *image);

/* The same text, made while it is read, since an image with many snapshots has a long
 * one. A text takes what may change (lists of snapshots, the disk's size) when it is
 * made; apart from bitmaps, later changes do not show. It borrows @image, which must
 * outlive it. Making one costs little, whatever the image has. Never NULL; free accepts
 * NULL. */
typedef struct QimgInfo QimgInfo;
QIMG_API QimgInfo *qimg_image_info_new(const QimgImage *image);
QIMG_API void qimg_info_free(QimgInfo *info);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgInfo, qimg_info_free)

/* A place in the text; the start is all zeros. What it holds is the library's. */
typedef struct {
    uint64_t private_words[4];
} QimgInfoPlace;

/* Appends to @out the piece at *@place, which is that of a snapshot or less, and moves
 * *@place behind it. FALSE at the end. The same place gives the same piece again.
 * Threads: any; reads the image where that has bitmaps. */
QIMG_API gboolean qimg_info_next(const QimgInfo *info, QimgInfoPlace *place,
                                 GString *out);

/* One snapshot as a JSON object. Free with g_free. */
QIMG_API char *qimg_snapshot_json(const QimgSnapshot *snapshot);

/* The counters of the image's chain, as a JSON object. Free with g_free. */
QIMG_API char *qimg_image_stats_json(const QimgImage *image);

/* One element of the JSON array that qimg map and map.json show (the keys of qemu-img
 * map, and "error" for damage), without separator. Writes a NUL-terminated text of less
 * than QIMG_EXTENT_JSON_BYTES bytes to @buffer and returns its length. */
#define QIMG_EXTENT_JSON_BYTES 384
QIMG_API size_t qimg_extent_to_json(const QimgExtent *extent,
                                    char buffer[QIMG_EXTENT_JSON_BYTES]);

G_END_DECLS
