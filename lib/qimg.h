/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libqimg: presents disk images (qcow2 and QED with their backing chains, raw) as arrays
 * of bytes.
 *
 * Opening an image opens its whole chain. Any number of threads may use a handle at once.
 * Functions that a user waits for report a GError of the domain QIMG_ERROR; its text says
 * what is wrong and what to do, without the name of the image. Functions on the I/O path
 * return 0 or a negated errno value and allocate nothing.
 *
 * Images are opened for reading unless the option "rw" or "cow" is set. An image opened
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

/* The errno value (positive) for @error; EIO for other domains and for NULL. */
QIMG_API int qimg_error_to_errno(const GError *error);

/* The version of this header. */
#define QIMG_VERSION_MAJOR 0
#define QIMG_VERSION_MINOR 1
#define QIMG_VERSION_MICRO 0

/* Whether this header has at least the given version; works in the preprocessor, too. */
#define QIMG_CHECK_VERSION(major, minor, micro)                                          \
    (QIMG_VERSION_MAJOR > (major) ||                                                     \
     (QIMG_VERSION_MAJOR == (major) && QIMG_VERSION_MINOR > (minor)) ||                  \
     (QIMG_VERSION_MAJOR == (major) && QIMG_VERSION_MINOR == (minor) &&                  \
      QIMG_VERSION_MICRO >= (micro)))

/* The library calls it from time to time during a long call, in the calling thread: @done
 * of @total units of work are done (both restart in each of several passes). Returning
 * FALSE cancels the call; it then fails with CANCELED or -ECANCELED and leaves the state
 * that its description promises. Past the point of no return the call no longer asks, and
 * succeeds. The callback must not use the image. Each function with such a parameter
 * accepts NULL and passes @user on. */
typedef gboolean (*QimgProgress)(uint64_t done, uint64_t total, void *user);

/* The version of the running library, "MAJOR.MINOR.MICRO". Static storage. */
QIMG_API const char *qimg_version(void);

/* Loads the libraries that are otherwise loaded for the first encrypted image or digest
 * (libcrypto): for a process that will lose the right to open files. Errors: UNSUPPORTED
 * if one is not installed. Threads: any. */
QIMG_API gboolean qimg_load_libraries(GError **error);

/* ---- structures ----
 *
 * Every structure below begins with struct_bytes, its size as known to the side that made
 * it, and grows at its end alone. The caller makes one as
 *
 *     QimgExtent extent = {.struct_bytes = sizeof extent};
 *
 * and the library reads or fills no more than that size. Fields beyond it count as zero
 * for the library; fields unknown to the library become zero. The library hands out its
 * own structures by pointer, one at a time, and never copies them; they have the fields
 * of its version. Use QIMG_HAS before reading a field of a later version. */

/* Whether the structure at @pointer has @field; false where an older library made it. */
#define QIMG_HAS(pointer, field)                                                         \
    ((pointer)->struct_bytes >=                                                          \
     (size_t)((const char *)(&(pointer)->field + 1) - (const char *)(pointer)))

/* ---- options ---- */

/* How to open an image. Not thread-safe; may be freed after qimg_image_open. */
typedef struct QimgOptions QimgOptions;

/* The defaults: format probed, backing files below the directory of the image that names
 * them, locks taken, 32 MiB for metadata, 16 MiB for decompressed clusters, one worker
 * thread per core. Never NULL. */
QIMG_API QimgOptions *qimg_options_new(void);

/* Frees @options; accepts NULL. */
QIMG_API void qimg_options_free(QimgOptions *options);

/* Sets one option by its name, as on the command lines:
 *
 *   format=qcow2|qed|qcow|luks|raw  the format of the image (not of its backing files).
 *                                 Default: probed; then the files that the header names
 *                                 are opened as the default of "backing" allows, unless
 *                                 the image is a block device or has a raw disk's name
 *   backing=same-dir|any|none|DIR[:DIR...]   which named files may be opened; if set, it
 *                                 also applies to an image whose format was probed
 *   backing_map=OLD=NEW           open NEW where an image names OLD; may be repeated
 *   l2_cache=SIZE, data_cache=SIZE   bytes, with an optional suffix K, M, G, T
 *   threads=N                     number of decompressing threads
 *   nolock                        (value NULL) take no locks
 *   direct                        (value NULL) data bypass the page cache of the host,
 *                                 where its file system supports that; else a warning
 *   rw                            (value NULL) writes go to the image; it stays unchanged
 *                                 until the first write
 *   cow[=FILE]                    writes go to an overlay, the image stays as it is: to a
 *                                 temporary overlay (value NULL), or to the qcow2 image
 *                                 FILE, created if missing
 *   growable, nogrowable          (value NULL) a write past the disk's end grows the disk
 *                                 (the default) or fails with -ENOSPC
 *   discard=unmap|zero|ignore     effect of qimg_image_discard: free the space, keep it
 *                                 allocated as zeros, or fail with -EOPNOTSUPP
 *   bitmaps=keep|drop             effect of writing on persistent dirty bitmaps: they are
 *                                 kept valid (the default), or become stale
 *   bitmap_cache=SIZE             bytes for the bits of bitmaps that are not stored yet
 *   passphrase_file=[LAYER:]FILE  a passphrase of encrypted images: the bytes of FILE,
 *                                 also a final newline; for the layer LAYER (0: the
 *                                 image itself, 1: its backing file) or any; may be
 *                                 repeated
 *   passphrase_fd=[LAYER:]N       the same, from the descriptor N
 *   max_iterations=N              refuse LUKS headers that ask for more iterations of
 *                                 their hash (default: 100 million)
 *   nokey                         (value NULL) open encrypted images without their
 *                                 passphrases: data fail with ENOKEY; snapshots, bitmaps
 *                                 and maps work, with "rw" also their changes
 *   inspect                       (value NULL) open what cannot be read, too, to show
 *                                 facts: encrypted images, whose data fail with ENOKEY,
 *                                 and images whose backing or data file cannot be
 *                                 opened, with a warning; the data fail with EIO
 *
 * Errors: USAGE, with the option's name and its valid values; also for a NULL @value
 * where the option needs one. */
QIMG_API gboolean qimg_options_set(QimgOptions *options, const char *name,
                                   const char *value, GError **error);

/* Refuses to open or look up anything on @device on the way to an image or to the files
 * it names: for programs that serve that file system themselves and would deadlock.
 * Opening then fails with LOOP or FAILED. */
QIMG_API void qimg_options_avoid_device(QimgOptions *options, dev_t device);

/* A process that stores pending table entries if this process dies, so that writes need
 * not wait for the disk: table entries are then written behind, many of them after one
 * sync. Without a keeper, a write that replaces data returns only when its entries are on
 * stable storage.
 *
 *     qimg_keeper_new ─▶ open images with it ─▶ qimg_keeper_start ─▶ write to the
 *     images ─▶ close the images ─▶ qimg_keeper_free
 *
 * Linux 5.3 or later. */
typedef struct QimgKeeper QimgKeeper;
QIMG_API QimgKeeper *qimg_keeper_new(void);

/* Starts the process, which shares this process's table of open files. Call it at most
 * once, after going to the background and before making threads. The process exits when
 * this one has ended. Returns FALSE with @error set if it cannot be started; images are
 * then written without it. */
QIMG_API gboolean qimg_keeper_start(QimgKeeper *keeper, GError **error);

/* Ends the process and frees @keeper. Close all images opened with it first. Accepts
 * NULL. */
QIMG_API void qimg_keeper_free(QimgKeeper *keeper);

/* Images opened with @options and written to use @keeper. The caller keeps ownership. */
QIMG_API void qimg_options_set_keeper(QimgOptions *options, QimgKeeper *keeper);

/* Splits a list of options as on the command lines, NAME[=VALUE],...: a backslash keeps
 * the next character, and empty elements are left out. Free with g_strfreev. */
QIMG_API char **qimg_options_split(const char *list);

/* Whether @options has a passphrase: a process with one should call
 * qimg_process_hide_memory. */
QIMG_API gboolean qimg_options_has_passphrase(const QimgOptions *options);

/* Keeps this process's memory out of core dumps from now on, by the kernel
 * (PR_SET_DUMPABLE) and by debuggers that follow /proc/PID/coredump_filter (gcore); its
 * children inherit the latter. Passphrases and keys lie outside of dumps anyway, but
 * libcrypto keeps round keys in ordinary memory. For programs: it concerns the whole
 * process. Call it before the process is confined. */
QIMG_API void qimg_process_hide_memory(void);

/* Adds a passphrase of encrypted images, as the option passphrase_file; @depth: of the
 * layer, -1: any. The library keeps a copy outside of core dumps; wiping @bytes is the
 * caller's. Errors: USAGE if it is longer than 8192 bytes. */
QIMG_API gboolean qimg_options_add_passphrase(QimgOptions *options, const void *bytes,
                                              size_t n_bytes, int depth, GError **error);

/* The library calls it in the opening thread if none of the passphrases opens the file at
 * @path, for the (@n_asked + 1)-th time for this file: it writes at most @size_bytes of a
 * passphrase to @bytes, which is outside of core dumps, and returns their number, or -1:
 * there is none. */
typedef gssize (*QimgAskPassphrase)(const char *path, unsigned n_asked, uint8_t *bytes,
                                    size_t size_bytes, void *user);
QIMG_API void qimg_options_set_ask_passphrase(QimgOptions *options, QimgAskPassphrase ask,
                                              void *user);

/* A QimgAskPassphrase for programs: asks on the controlling terminal, without echo, three
 * times for a file. -1 also without a terminal, and for ^C and ^D. @user: the QimgOptions
 * to which the answers are added, so that nothing is asked twice; or NULL. */
QIMG_API gssize qimg_ask_on_terminal(const char *path, unsigned n_asked, uint8_t *bytes,
                                     size_t size_bytes, void *user);

/* A QimgAskPassphrase for new passphrases: asks on the controlling terminal, without
 * echo, and again, until both answers are the same; -1 after three pairs that differ, and
 * as qimg_ask_on_terminal. @user is unused. */
QIMG_API gssize qimg_ask_new_on_terminal(const char *path, unsigned n_asked,
                                         uint8_t *bytes, size_t size_bytes, void *user);

/* Whether qimg_options_set knows @name. */
QIMG_API gboolean qimg_options_has(const char *name);

/* The places outside the images' own directories from which files named by images may be
 * opened, as set by "backing" and "backing_map": directories and files, "/" for "any".
 * NULL-terminated; free with g_strfreev. For a process that confines itself and opens
 * images later. */
QIMG_API char **qimg_options_get_named_places(const QimgOptions *options);

/* Parses a size as the command lines do: bytes, or a number, optionally with a fraction,
 * with K, M, G, T, P or E (powers of 1024; either case; also KiB etc.), rounded to whole
 * bytes. Writes *@bytes_out on success only. Errors: USAGE for text that is no size, is
 * negative or does not fit. */
QIMG_API gboolean qimg_parse_size(const char *text, uint64_t *bytes_out, GError **error);

/* The suitable number of threads: one per core available to this process, at least 2. Any
 * thread. */
QIMG_API unsigned qimg_default_threads(void);

/* ---- images ---- */

typedef struct QimgImage QimgImage;

/* Opens @path (a regular file or block device) and its backing chain: for reading, or
 * with the option "rw" or "cow" for reading and writing. @options may be NULL. Ownership:
 * free with qimg_image_close. Errors: the domain's codes; nothing stays open on
 * failure. */
QIMG_API QimgImage *qimg_image_open(const char *path, const QimgOptions *options,
                                    GError **error);

/* As qimg_image_open, for @name relative to the open directory @dir_fd as in openat(2)
 * (O_PATH suffices); messages and qimg_image_get_layer_path call it @path. The image
 * counts as found in that directory, not as named by the user: a data file named by its
 * header is opened for writing only if "format" or "backing" was set. */
QIMG_API QimgImage *qimg_image_open_at(int dir_fd, const char *name, const char *path,
                                       const QimgOptions *options, GError **error);

/* As qimg_image_open, for the regular file or block device open as @fd: for reading, or
 * with the option "rw" for reading and writing; without O_APPEND and O_DIRECT. Messages
 * and qimg_image_get_layer_path call it @path, which is never opened. The caller keeps
 * @fd and may close it at once. The locks belong to the open file description and end
 * with its last descriptor. Names relative to the image's directory are refused, since a
 * descriptor has no directory; map them with "backing_map". Absolute names are opened
 * only if "backing" names directories or is "any". "cow" with a file name is refused.
 * Errors: also USAGE for an unsuitable descriptor. */
QIMG_API QimgImage *qimg_image_open_fd(int fd, const char *path,
                                       const QimgOptions *options, GError **error);

/* The name of the format whose images begin with @bytes, the first 512 bytes of a file
 * (or the whole file): static. NULL if no known format matches; the file may be raw. Any
 * thread. */
QIMG_API const char *qimg_probe(const void *bytes, size_t n_bytes);

/* Why the file that is open as @fd, which qimg_probe does not know, would be refused as
 * an image: it holds a disk in a form that this library does not read (VMDK, E01, ...)
 * or, where @archives_too, is an archive, a text and the like. NULL: it would not be;
 * else free with g_free. Any thread. */
QIMG_API char *qimg_probe_foreign(int fd, gboolean archives_too);

/* Opens another handle on the chain of @image from layer @depth down: 0 is the image
 * itself, 1 its backing file. Costs no I/O. Errors: USAGE beyond the last layer. */
QIMG_API QimgImage *qimg_image_open_layer(QimgImage *image, unsigned depth,
                                          GError **error);

/* Opens the internal snapshot with the number @serial (QimgSnapshot.serial) as a disk.
 * The snapshot cannot be deleted while the handle is open. Errors: NOT_FOUND for an
 * unknown number, INVALID if its table is damaged. */
QIMG_API QimgImage *qimg_image_open_snapshot(QimgImage *image, uint32_t serial,
                                             GError **error);

/* Opens a snapshot's VM state as an image of exactly its length. Errors: as
 * qimg_image_open_snapshot; NOT_FOUND if the snapshot has none. */
QIMG_API QimgImage *qimg_image_open_vmstate(QimgImage *image, uint32_t serial,
                                            GError **error);

/* Opens [@start_bytes, @start_bytes + @length_bytes) of the content of @image (the disk,
 * a layer, a snapshot) as an image of its own. The part is writable if @image is, and
 * never grows or shrinks: writes past its end fail with -ENOSPC, resizing with -EINVAL.
 * If the disk shrinks, the part shrinks with it. Costs no I/O. Errors: USAGE if the range
 * exceeds the present size of @image. */
QIMG_API QimgImage *qimg_image_open_part(QimgImage *image, uint64_t start_bytes,
                                         uint64_t length_bytes, GError **error);

/* Closes a handle; the last handle of a chain closes and unlocks the files. Closing
 * flushes as far as possible, but reports no errors: call qimg_image_flush before. No
 * request may be in flight on this handle. Accepts NULL. */
QIMG_API void qimg_image_close(QimgImage *image);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgOptions, qimg_options_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgKeeper, qimg_keeper_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgImage, qimg_image_close)

/* The virtual size in bytes. Cannot fail; any thread. Resizing a writable disk changes
 * it. */
QIMG_API uint64_t qimg_image_get_size_bytes(const QimgImage *image);

/* The cluster size of the top layer in bytes (a page for raw). */
QIMG_API uint64_t qimg_image_get_cluster_bytes(const QimgImage *image);

/* The start of a handle from qimg_image_open_part, in bytes from the start of the disk,
 * layer or snapshot of which it is a part; 0 for other handles. */
QIMG_API uint64_t qimg_image_get_start_bytes(const QimgImage *image);

/* Whether the image was opened for reading ("rw" and "cow" not set), so that no handle on
 * it changes anything. Any thread. */
QIMG_API gboolean qimg_image_is_constant(const QimgImage *image);

/* Number of layers from this handle's top down, at least 1. */
QIMG_API unsigned qimg_image_get_n_layers(const QimgImage *image);

/* The path by which layer @depth was opened; owned by @image; NULL beyond the last. */
QIMG_API const char *qimg_image_get_layer_path(const QimgImage *image, unsigned depth);

/* The format of layer @depth, for example "qcow2": static. NULL beyond the last layer. */
QIMG_API const char *qimg_image_get_layer_format(const QimgImage *image, unsigned depth);

/* The backing file's name as layer @depth stores it; owned by @image. NULL if it stores
 * none. */
QIMG_API const char *qimg_image_get_layer_backing_name(const QimgImage *image,
                                                       unsigned depth);

/* The cluster size of layer @depth in bytes (a page for raw); 0 beyond the last layer. */
QIMG_API uint64_t qimg_image_get_layer_cluster_bytes(const QimgImage *image,
                                                     unsigned depth);

/* The error of every read of layer @depth's data in an image opened with "inspect":
 * -ENOKEY (encrypted, no passphrase), -ENOENT (its data file is not open); 0: none, also
 * beyond the last layer. */
QIMG_API int qimg_image_get_layer_error(const QimgImage *image, unsigned depth);

/* Flags of a layer. */
#define QIMG_LAYER_ENCRYPTED     (1u << 0) /* its data need a key */
#define QIMG_LAYER_DIRTY         (1u << 1) /* not closed properly, or in use */
#define QIMG_LAYER_CORRUPT       (1u << 2) /* marked as corrupt by a writer */
#define QIMG_LAYER_HAS_DATA_FILE (1u << 3) /* its data are in another file */

/* The ORed flags of layer @depth; later versions may have more. 0 beyond the last layer.
 * Any thread. */
QIMG_API unsigned qimg_image_get_layer_flags(const QimgImage *image, unsigned depth);

/* One of the host files of an image. */
typedef struct QimgFile {
    size_t struct_bytes;       /* set by the caller */
    unsigned depth;            /* its layer */
    gboolean is_data_file;     /* the layer's external data file */
    const char *path;          /* by which it was opened */
    const struct stat *status; /* as of the open */
    uint64_t size_bytes; /* the present length, also of a block device; 0: unknown */
    int fd;              /* open for reading, at any position: use pread; -1: none */
} QimgFile;

/* Describes the files of @image: number 0 is the top layer's, followed by its data file
 * if it has one, then those of the next layer. @image owns texts, status and descriptor.
 * FALSE beyond the last file, and if @out->struct_bytes is not set. Any thread. */
QIMG_API gboolean qimg_image_get_file(const QimgImage *image, unsigned file,
                                      QimgFile *out);

/* Whether the file of @status, from stat, belongs to the chain of @image (also above its
 * first layer), and so must not be written to. Any thread. */
QIMG_API gboolean qimg_image_has_file(const QimgImage *image, const struct stat *status);

/* Copies the status of the top layer's file to *@out, as of the open (of a writable disk:
 * the present one); st_blocks counts the files of all layers. With the option "cow" it is
 * the image's status, not the overlay's. */
QIMG_API void qimg_image_get_stat(const QimgImage *image, struct stat *out);

/* A number that differs if any file of the chain (except an overlay of "cow") was another
 * file, or had another size or change time, when the image was opened. Any thread. */
QIMG_API uint64_t qimg_image_get_stamp(const QimgImage *image);

/* How often calls of this library changed, or may have changed, the image since the open:
 * by writes, resizes, snapshots and flushes. While the number stays the same, so do the
 * image's facts (qimg_image_info_new) and bytes. Any thread. */
QIMG_API uint64_t qimg_image_count_changes(const QimgImage *image);

/* The path of a file of the chain that another program has changed since the open of
 * @image, or NULL. Once a change is noticed, all reads and changes of the disk return
 * -EIO on every handle of the chain, since tables and data would be of two moments. Files
 * that @image writes to do not count; with the option "nolock" no file counts. Files are
 * checked once a second while the image is read, and immediately with @look_now. Owned by
 * @image; any thread. */
QIMG_API const char *qimg_image_find_changed(QimgImage *image, gboolean look_now);

/* Reopens the present files of @image through the descriptors that it holds; @image must
 * be read-only and show a whole chain. For programs that can no longer open files by
 * name. The locks are shared. Of @options, as for qimg_image_open, only "format",
 * "nolock" and the cache sizes count. @image stays as it is. Errors: as qimg_image_open;
 * REFUSED if an image names other files than before. */
QIMG_API QimgImage *qimg_image_reopen(QimgImage *image, const QimgOptions *options,
                                      GError **error);

/* The warnings of the open, oldest first, one line each with the file's name;
 * NULL-terminated, owned by @image. */
QIMG_API const char *const *qimg_image_get_warnings(const QimgImage *image);

/* Reads @length_bytes at @guest_offset into @buffer; the range must lie within the disk.
 * Threads: any number at once. Returns 0; -EINVAL beyond the disk; -EIO on damage, a
 * changed file (qimg_image_find_changed) or a failing host file (@buffer is then
 * undefined); -ENOMEM; -ENOKEY. */
QIMG_API int qimg_image_read(QimgImage *image, uint64_t guest_offset, void *buffer,
                             size_t length_bytes);

/* The bytes are not read again soon, as by one of many threads that scan a disk: the
 * calling thread does all the work, and compressed clusters are not cached. */
#define QIMG_READ_ONCE (1u << 0)

/* As qimg_image_read, with ORed flags; -EINVAL for flags unknown to this version. */
QIMG_API int qimg_image_read_with(QimgImage *image, uint64_t guest_offset, void *buffer,
                                  size_t length_bytes, unsigned flags);

/* Bytes of an open file of an image. */
typedef struct {
    size_t struct_bytes; /* sizeof, set by the caller */
    int fd;
    uint64_t file_offset;
    size_t length_bytes;
    gboolean is_answer; /* these bytes are all that was asked for; see
                           qimg_image_end_read */
} QimgReadPlace;

/* As qimg_image_read, but -EAGAIN instead of a wait for a disk to read guest data, where
 * the kernel can tell. The bytes that are missing in its page cache are stored in
 * *@place_out: read them there by other means, such as io_uring, and call again. The
 * descriptor is valid as long as @image is open. @expects_wait: the caller supposes that
 * these are missing, and wants to read several such places by one call; the library does
 * not look first. Tables and compressed clusters are waited for. */
QIMG_API int qimg_image_read_unless_waiting(QimgImage *image, uint64_t guest_offset,
                                            void *buffer, size_t length_bytes,
                                            bool expects_wait, QimgReadPlace *place_out);

/* After all bytes at @place, which is_answer, have been read: 0 if they are the answer;
 * -EIO if a file of the chain has changed. In place of the repeated call. Threads: any.
 */
QIMG_API int qimg_image_end_read(QimgImage *image, const QimgReadPlace *place);

/* ---- creation ---- */

/* Which storage a new disk, or a grown part, gets at once. */
typedef enum {
    QIMG_PREALLOCATION_OFF,
    QIMG_PREALLOCATION_METADATA, /* a place for every cluster, in a sparse file */
    QIMG_PREALLOCATION_FALLOC,   /* also space in the host's file system */
    QIMG_PREALLOCATION_FULL,     /* also zeros written there */
} QimgPreallocation;

/* Stores the mode called @name (off, metadata, falloc, full) in *@out, on success only.
 * Errors: USAGE. */
QIMG_API gboolean qimg_preallocation_find(const char *name, QimgPreallocation *out,
                                          GError **error);

/* The properties of a new image. Not thread-safe. */
typedef struct QimgCreate QimgCreate;

/* Defaults: qcow2 version 3, 64 KiB clusters, no size yet. Never NULL. */
QIMG_API QimgCreate *qimg_create_new(void);

/* Frees @create; accepts NULL. */
QIMG_API void qimg_create_free(QimgCreate *create);

/* Sets one property by its name, as on the command line:
 *
 *   format=qcow2|qed|raw
 *   size=SIZE               as qimg_parse_size, rounded up to a sector (512 bytes);
 *                           default: the size of the backing file
 *   backing_file=NAME       stored as given; relative to the new image's directory
 *   backing_fmt=FORMAT      default: probed; stored (by QED: only raw)
 *   cluster_size=SIZE       a power of two from 512 to 2M, for QED from 4K to 4M
 *   table_size=2|4|8|16     QED: clusters per table
 *   version=2|3, compat=0.10|1.1   two spellings of the same
 *   refcount_bits=1|2|4|8|16|32|64
 *   compression_type=zlib|zstd
 *   extended_l2, lazy_refcounts, data_file_raw   on (also a NULL @value) or off
 *   preallocation=off|metadata|falloc|full
 *   data_file=NAME          created, too; stored as given; relative to the new image's
 *                           directory
 *   force                   (value NULL) replace existing files of these names
 *   no_check                (value NULL) store the backing file's name without opening
 *                           the file; requires size and backing_fmt
 *   backing, backing_map, nolock   as qimg_options_set, for opening the backing file,
 *                           which needs no passphrase
 *   encrypt.format=luks     encrypt the disk, with a new key that one passphrase opens
 *   encrypt.cipher-alg=aes-128|aes-192|aes-256   default: aes-256
 *   encrypt.cipher-mode=xts
 *   encrypt.ivgen-alg=plain|plain64|essiv        default: plain64
 *   encrypt.ivgen-hash-alg=sha256|md5|sm3        of essiv; default: sha256
 *   encrypt.hash-alg=HASH   of the passphrase: sha256 (the default), sha1, sha224,
 * sha384, sha512, ripemd160, md5 or sm3 encrypt.iter-time=MS    CPU time that a try of a
 * passphrase shall take here; default: 2000 passphrase_file=FILE, passphrase_fd=N   the
 * passphrase, as qimg_options_set
 *
 * Raw images have only format, size, preallocation and force. Errors: USAGE, with the
 * property's name and its valid values. */
QIMG_API gboolean qimg_create_set(QimgCreate *create, const char *name, const char *value,
                                  GError **error);

/* Sets the passphrase of an encrypted image, as the property passphrase_file. The library
 * keeps a copy outside of core dumps. Errors: USAGE if it is longer than 8192 bytes. */
QIMG_API gboolean qimg_create_add_passphrase(QimgCreate *create, const void *bytes,
                                             size_t n_bytes, GError **error);

/* The library calls @ask(@user) in qimg_create_run for the passphrase of an encrypted
 * image, if none was set. NULL: it fails then. */
QIMG_API void qimg_create_set_ask_passphrase(QimgCreate *create, QimgAskPassphrase ask,
                                             void *user);

/* Creates the image @path. The file becomes an image only when it is complete and
 * durable, including its name. Before the first call of @progress nothing is made: the
 * backing file is opened, and a key derived. On failure or cancellation, the new files
 * are removed, and files to be replaced stay as they were. Errors: USAGE for properties
 * that contradict each other or exceed a limit of the format; REFUSED if a file has the
 * name already; those of opening the backing file; NOT_FOUND, FAILED of the host. */
QIMG_API gboolean qimg_create_run(QimgCreate *create, const char *path,
                                  QimgProgress progress, void *user, GError **error);

/* Notes on the last run for the user, one line each; NULL-terminated, owned by
 * @create. */
QIMG_API const char *const *qimg_create_get_notes(const QimgCreate *create);

/* The virtual size in bytes of the image created by the last run. */
QIMG_API uint64_t qimg_create_get_size_bytes(const QimgCreate *create);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgCreate, qimg_create_free)

/* ---- properties of an image, and its passphrases ---- */

/* A change of the header of an image, or of the key slots of one that is encrypted by
 * LUKS. Not thread-safe. */
typedef struct QimgAmend QimgAmend;

/* Without a change yet. Never NULL. */
QIMG_API QimgAmend *qimg_amend_new(void);

/* Frees @amend; accepts NULL. */
QIMG_API void qimg_amend_free(QimgAmend *amend);

/* Sets one property by its name, as on the command line:
 *
 *   compat=0.10|1.1          qcow2: the version of the format, 2 or 3
 *   refcount_bits=1|2|4|8|16|32|64
 *   lazy_refcounts           on (also a NULL @value) or off
 *   data_file=NAME           the new name of the external data file, stored as given
 *   data_file_raw=off        the data file need no longer be the whole disk
 *   encrypt.state=active     fill a key slot, for the new passphrase; with an old one,
 *                            erase its slots afterwards
 *   encrypt.state=inactive   erase a slot, or all that open with the old passphrase
 *   encrypt.keyslot=N        the slot, 0 to 7; default: the first inactive one
 *   encrypt.iter-time=MS     as qimg_create_set
 *   new_passphrase_file=FILE, new_passphrase_fd=N   the new passphrase
 *   old_passphrase_file=FILE, old_passphrase_fd=N   the one whose slots are erased
 *   force                    (value NULL) erase also the last slot, and the data with it,
 *                            or one without a passphrase for another
 *   passphrase_file, passphrase_fd, max_iterations, format, nolock   as qimg_options_set:
 *                            how to open the image
 *
 * Errors: USAGE, with the property's name and its valid values. */
QIMG_API gboolean qimg_amend_set(QimgAmend *amend, const char *name, const char *value,
                                 GError **error);

/* The library calls @ask for a passphrase that opens the image, and @ask_new for the new
 * one, if they were not set; NULL: it fails then. */
QIMG_API void qimg_amend_set_ask_passphrase(QimgAmend *amend, QimgAskPassphrase ask,
                                            QimgAskPassphrase ask_new, void *user);

/* Changes the image @path, which no other program may have open, in place and durably:
 * its header, or its key slots, not both. The header is replaced by one write, so that a
 * crash leaves the old properties or the new ones; a change that would lose something is
 * refused. Of key slots: after a failure, a kill or a loss of power each slot opens with
 * its passphrase or is inactive, and a slot is erased only when the new one is durable.
 * Cancelled before a slot is written, it changes nothing of that slot. Errors: USAGE;
 * ENCRYPTED without a passphrase that opens it; REFUSED for the last slot; EXISTS and
 * NOT_FOUND for a slot that is active or is not; TOO_LARGE if all are; UNSUPPORTED for an
 * image without key slots or such properties; those of opening; FAILED of the host. */
QIMG_API gboolean qimg_amend_run(QimgAmend *amend, const char *path,
                                 QimgProgress progress, void *user, GError **error);

/* The changes of the last run, for the user, one line each; NULL-terminated, owned by
 * @amend. */
QIMG_API const char *const *qimg_amend_get_notes(const QimgAmend *amend);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgAmend, qimg_amend_free)

/* ---- another backing file ---- */

/* Set by the caller; zero is the default. */
typedef struct QimgRebaseOptions {
    size_t struct_bytes;
    const char *backing_file;   /* stored as given; NULL or "": none */
    const char *backing_format; /* must be given with a backing file */
    gboolean header_only;     /* changes the name alone: the disk may then show something
                                 else,     and the new file is not opened */
    QimgProgress on_progress; /* in bytes of the disk */
    void *user;               /* of on_progress */
} QimgRebaseOptions;

/* Gives the image @path, which no other program may have open, another backing file. The
 * disk stays the same: parts that would differ are stored in the image first, and when
 * they are durable, one write of the header names the new file. A crash, failure or
 * cancellation leaves the same disk with the old file or the new one, and perhaps stored
 * parts. @options (may be NULL): how to open the image and the new file. Errors: USAGE,
 * REFUSED (an internal snapshot would change), LOOP, UNSUPPORTED, CANCELED, NO_SPACE,
 * those of opening; FAILED. */
QIMG_API gboolean qimg_rebase(const char *path, const QimgOptions *options,
                              const QimgRebaseOptions *rebase, GError **error);

/* ---- data of an overlay into the image below it ---- */

/* Set by the caller; zero is the default. */
typedef struct QimgCommitOptions {
    size_t struct_bytes;
    const char *base; /* a backing file further down: its path, or the name stored in the
                         image above it; NULL: the image's own backing file */
    gboolean keep_overlay;    /* do not empty the image; also with @base */
    QimgProgress on_progress; /* in bytes of the disk */
    void *user;               /* of on_progress */
} QimgCommitOptions;

/* Writes all data of the image @path into its base, which grows if it is smaller, and
 * then, when these are durable, empties the image. No other program may have either open.
 * The image shows the same disk at every moment, also after a crash, failure or
 * cancellation; other overlays on the base change. @options (may be NULL): how to open
 * the files. Errors: USAGE (no backing file), NOT_FOUND (no such base), REFUSED (the
 * image has internal snapshots, which would change), UNSUPPORTED (its format cannot be
 * emptied), CANCELED, NO_SPACE, those of opening; FAILED. */
QIMG_API gboolean qimg_commit(const char *path, const QimgOptions *options,
                              const QimgCommitOptions *commit, GError **error);

/* ---- writing ----
 *
 * Requires a handle from qimg_image_open with "rw" or "cow", or a layer handle of depth
 * 0. Every later read sees the effect of a call, and the effect survives the end of the
 * process at any moment. Effects before a successful qimg_image_flush survive the end of
 * the machine. Any number of threads may call all but resize at once; of overlapping
 * concurrent writes, each byte gets one of the values. The time of a call is that of its
 * range: for progress, pass a long range in pieces.
 *
 * Errors of all: -EROFS (not writable, or the image has damage and is left alone), -EIO,
 * -ENOSPC, -EDQUOT, -ENOMEM: the ranges not done are as before. */

/* Whether the functions below work on @image. */
QIMG_API gboolean qimg_image_is_writable(const QimgImage *image);

/* Writes @length_bytes at @guest_offset. Past the disk's end the disk grows, or with the
 * option "nogrowable" the call returns -ENOSPC and writes nothing. -EFBIG beyond the
 * format's limit. */
QIMG_API int qimg_image_write(QimgImage *image, uint64_t guest_offset, const void *buffer,
                              size_t length_bytes);

/* Makes the range, which must lie within the disk, read as zeros and keeps its
 * allocation. -EINVAL beyond the disk. */
QIMG_API int qimg_image_zero(QimgImage *image, uint64_t guest_offset,
                             uint64_t length_bytes);

/* As qimg_image_zero, but frees space as the option "discard" says. */
QIMG_API int qimg_image_discard(QimgImage *image, uint64_t guest_offset,
                                uint64_t length_bytes);

/* Allocates the unallocated parts of the range, which must lie within the disk, without
 * changing the content, so that later writes to it find room. */
QIMG_API int qimg_image_allocate(QimgImage *image, uint64_t guest_offset,
                                 uint64_t length_bytes);

/* Sets the disk's size, rounded up to a sector (512 bytes) for formats with whole sectors
 * (qcow2, QED). Added space reads as zeros; data past the new end are lost. Waits until
 * no other request is in flight. -EFBIG (also for bitmaps), -EBUSY (a
 * bitmap is in use or damaged), -EOPNOTSUPP (a version 2 image with snapshots, a
 * raw image on a device, shrinking a QED image). -ECANCELED: a disk to be grown has its
 * old size; a disk to be shrunk has its new size, and space behind that is not freed
 * before the disk grows over it. */
QIMG_API int qimg_image_resize(QimgImage *image, uint64_t size_bytes,
                               QimgProgress progress, void *user);

/* As qimg_image_resize to a larger size; stores the added space as @preallocation says.
 * On failure or cancellation (-ECANCELED) the disk keeps its old size. -EINVAL if
 * @size_bytes is smaller than the disk; -EOPNOTSUPP also for METADATA of a raw image. */
QIMG_API int qimg_image_grow(QimgImage *image, uint64_t size_bytes,
                             QimgPreallocation preallocation, QimgProgress progress,
                             void *user);

/* Free bytes on the file system of the file that grows by writing to @image (with an
 * overlay: the overlay's); 0 for a block device, or if unknown. Any thread. */
QIMG_API uint64_t qimg_image_get_free_bytes(const QimgImage *image);

/* Whether a write past the disk's end grows the disk. */
QIMG_API gboolean qimg_image_is_growable(const QimgImage *image);

/* Returns when the effects of all earlier calls are on stable storage. After one failure
 * it fails forever, since the lost data are unknown. */
QIMG_API int qimg_image_flush(QimgImage *image);

/* ---- location of data ---- */

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
    unsigned depth;        /* the deciding layer; if UNALLOCATED, the last one asked */
    bool present;          /* a layer has an entry for it (as in qemu-img map) */
    uint64_t host_offset;  /* DATA: bytes from the start of @host_path */
    const char *host_path; /* DATA that is stored plain: owned by the image; else NULL */
    const char *reason;    /* DAMAGED: static text; else NULL */
} QimgExtent;

/* Gives the maximal extent that begins at @guest_offset (below the disk's size): all its
 * bytes have one answer (DATA: one stretch of one host file). The walk is bounded in
 * memory and to about a second; a longer extent is cut, and the next call continues
 * behind it. Threads: any. Returns 0, -EINVAL (also if @out->struct_bytes is not set),
 * -EIO if a table cannot be read, -ENOMEM. */
QIMG_API int qimg_image_map(QimgImage *image, uint64_t guest_offset, QimgExtent *out);

/* As qimg_image_map, for at most @length_bytes > 0 (which may exceed the disk). Looks no
 * farther, so it is fast also in a long extent. */
QIMG_API int qimg_image_map_range(QimgImage *image, uint64_t guest_offset,
                                  uint64_t length_bytes, QimgExtent *out);

/* As lseek: the first offset at or behind @guest_offset that holds data (@hole false) or
 * lies in a hole (@hole true; the disk's end is a hole). DATA, COMPRESSED and DAMAGED are
 * data. After about a second, a search for data returns its present position and a search
 * for a hole returns the disk's end: no data are ever skipped. Returns 0, -ENXIO as
 * lseek, -EIO, -ENOMEM. */
QIMG_API int qimg_image_seek(QimgImage *image, uint64_t guest_offset, gboolean hole,
                             uint64_t *offset_out);

/* Whether the disk's data lie in long stretches (MiBs) rather than scattered, judged by a
 * few samples of the tables: a hint for the distance of read-ahead. Reads no data; FALSE
 * if nothing was found. Threads: any; takes less than a millisecond with the tables in
 * memory, and 50 ms at most. */
QIMG_API gboolean qimg_image_has_long_extents(const QimgImage *image);

/* ---- partitions ---- */

/* Linux has no partitions with higher numbers. */
#define QIMG_MAX_PARTITION_NUMBER 255u

typedef struct QimgPartition {
    size_t struct_bytes;
    unsigned number;       /* as in Linux: logical ones of an MBR from 5 on */
    uint64_t start_bytes;  /* from the start of the disk */
    uint64_t length_bytes; /* not 0; lies within the disk */
    gboolean is_extended;  /* MBR: only contains the logical ones */
    gboolean is_bootable;  /* MBR: the active one */
    uint64_t attributes;   /* GPT: the entry's bits */
    const char *type;      /* a GUID in lower case, or "0x83" */
    const char *type_name; /* NULL if the type is not well known */
    const char *label;     /* GPT: UTF-8; NULL: none */
    const char *uuid;      /* the PARTUUID of Linux; NULL: none */
} QimgPartition;

/* A disk's partition table at one moment. Never changes. */
typedef struct QimgPartitions QimgPartitions;

/* Reads the table (GPT, MBR with logical partitions, and others that libblkid knows) of
 * the disk of @image. Leaves out and notes untrustworthy entries. NULL if there is no
 * table, as on a disk that is one file system. Threads: any; costs a few reads. Free with
 * qimg_partitions_unref. */
QIMG_API QimgPartitions *qimg_partitions_read(QimgImage *image);

/* Adds or drops a reference on @list; unref accepts NULL. Any thread. */
QIMG_API QimgPartitions *qimg_partitions_ref(QimgPartitions *list);
QIMG_API void qimg_partitions_unref(QimgPartitions *list);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgPartitions, qimg_partitions_unref)

/* The number of partitions, and one of them in the order of their numbers, owned by the
 * list; NULL beyond the last. */
QIMG_API unsigned qimg_partitions_get_n(const QimgPartitions *list);
QIMG_API const QimgPartition *qimg_partitions_get(const QimgPartitions *list,
                                                  unsigned place);

/* The list as a JSON object, with the notes. If @image (of which the list was read) is
 * not NULL, also each partition's content as far as libblkid knows it, which reads up to
 * 3 MiB of each of the first 128 partitions. Free with g_free. */
QIMG_API char *qimg_partitions_json(const QimgPartitions *list, QimgImage *image);

/* ---- snapshots ------------------------------------------------------------------------
 */

typedef struct QimgSnapshot {
    size_t struct_bytes;
    uint32_t serial;  /* unique in this image while the image is open; rises with each new
                         snapshot */
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

/* The present snapshots of the image (none for handles on snapshots and on backing files,
 * whose snapshots are not read). With the option "cow", those of the image below the
 * overlay. Never NULL; the same list until a snapshot changes. Any thread; waits while a
 * change of snapshots is in flight. Free with qimg_snapshots_unref. */
QIMG_API QimgSnapshots *qimg_image_get_snapshots(const QimgImage *image);

/* Drops the list and everything got from it; accepts NULL. */
QIMG_API void qimg_snapshots_unref(QimgSnapshots *list);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgSnapshots, qimg_snapshots_unref)

/* The number of snapshots, and one of them, owned by the list; NULL beyond the last. */
QIMG_API unsigned qimg_snapshots_get_n(const QimgSnapshots *list);
QIMG_API const QimgSnapshot *qimg_snapshots_get(const QimgSnapshots *list,
                                                unsigned place);

/* The snapshot with the name or ID @wanted. Errors: NOT_FOUND; USAGE if several match, so
 * that the wrong one is never taken. */
QIMG_API const QimgSnapshot *qimg_snapshots_find(const QimgSnapshots *list,
                                                 const char *wanted, GError **error);

/* ---- changing snapshots ----
 *
 * Requires a handle that writes to the image itself ("rw", not "cow"). Each call waits
 * for the requests in flight, holds back new ones until it is done, and is durable when
 * it returns. If the process dies during the call, the snapshots are as before or as
 * after it. A canceled call has changed nothing. Errors of all: READ_ONLY, UNSUPPORTED
 * (the format or the image cannot have snapshots), INVALID (damage), NO_SPACE, FAILED;
 * CANCELED for those with a QimgProgress. */

#define QIMG_MAX_SNAPSHOT_NAME_BYTES 255u

/* Whether the functions below work on @image: it is open for writing, and its format has
 * snapshots. */
QIMG_API gboolean qimg_image_can_change_snapshots(const QimgImage *image);

/* Takes a snapshot of the present disk: earlier writes are in it, later ones are not.
 * Errors: EXISTS if the name is taken, USAGE if it is empty or too long, TOO_LARGE for
 * too many snapshots or too narrow refcounts (nothing was changed). */
QIMG_API gboolean qimg_image_create_snapshot(QimgImage *image, const char *name,
                                             QimgProgress progress, void *user,
                                             GError **error);

/* Deletes a snapshot and frees clusters without other references. Errors: NOT_FOUND; BUSY
 * while a handle on it is open. */
QIMG_API gboolean qimg_image_delete_snapshot(QimgImage *image, uint32_t serial,
                                             QimgProgress progress, void *user,
                                             GError **error);

/* Renames a snapshot. Errors: as the two above. */
QIMG_API gboolean qimg_image_rename_snapshot(QimgImage *image, uint32_t serial,
                                             const char *name, GError **error);

/* Restores the disk's content and size as of the snapshot; the present content is lost.
 * Errors: NOT_FOUND. */
QIMG_API gboolean qimg_image_revert_to_snapshot(QimgImage *image, uint32_t serial,
                                                QimgProgress progress, void *user,
                                                GError **error);

/* Receives a range of a disk; FALSE ends the walk. */
typedef gboolean (*QimgRangeFunc)(uint64_t guest_offset, uint64_t length_bytes,
                                  void *user);

/* Calls @func for each range in which the disks @a and @b may differ, in their order and
 * joined: those that are not stored at one place of the file, and the rest of the larger
 * one. Both are handles on one image: its disk, or snapshots of it. Reads tables, but no
 * data. Holds back changes of the image's snapshots meanwhile. @user is for both
 * callbacks. Errors: USAGE for other handles, CANCELED if one of them ended the walk,
 * FAILED. */
QIMG_API gboolean qimg_image_diff(QimgImage *a, QimgImage *b, QimgRangeFunc func,
                                  QimgProgress progress, void *user, GError **error);

/* ---- bitmaps ----
 *
 * Persistent dirty bitmaps of qcow2: one bit for each granule of the disk, set if it was
 * changed since the bitmap was created or cleared. */

typedef struct QimgBitmap {
    size_t struct_bytes;
    const char *name; /* bytes as stored, NUL-terminated; may be invalid UTF-8 */
    size_t name_bytes;
    uint64_t granularity_bytes; /* of the disk, per bit */
    uint64_t size_bytes;        /* of the bitmap's disk: its layer's */
    gboolean is_enabled;        /* every change of the disk is recorded */
    /* Its bits are invalid if one of these is set: */
    gboolean is_in_use; /* a writer has not stored it, or has it open now */
    gboolean is_stale; /* the disk was changed by a program without support for bitmaps */
    const char *damage; /* static: the broken rule of the format; NULL: none */
} QimgBitmap;

/* The bitmaps of a layer at one moment, in the order of their directory. Never
 * changes. */
typedef struct QimgBitmaps QimgBitmaps;

/* Reads the list of bitmaps of the first layer of @image; it is empty if there are none,
 * also for formats without bitmaps and for snapshots. Free with qimg_bitmaps_unref.
 * Threads: any. Errors: FAILED, NO_MEMORY. */
QIMG_API QimgBitmaps *qimg_image_read_bitmaps(QimgImage *image, GError **error);

/* Adds or drops a reference on @list; unref accepts NULL. Any thread. */
QIMG_API QimgBitmaps *qimg_bitmaps_ref(QimgBitmaps *list);
QIMG_API void qimg_bitmaps_unref(QimgBitmaps *list);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgBitmaps, qimg_bitmaps_unref)

/* Number of bitmaps, and one of them, owned by the list; NULL beyond the last. */
QIMG_API unsigned qimg_bitmaps_get_n(const QimgBitmaps *list);
QIMG_API const QimgBitmap *qimg_bitmaps_get(const QimgBitmaps *list, unsigned place);

/* Why the list may be incomplete: static text; NULL: it is complete. */
QIMG_API const char *qimg_bitmaps_get_damage(const QimgBitmaps *list);

/* Finds the place of the bitmap with @name. Errors: NOT_FOUND. */
QIMG_API gboolean qimg_bitmaps_find(const QimgBitmaps *list, const char *name,
                                    unsigned *place_out, GError **error);

typedef enum {
    QIMG_BITMAP_ADD, /* enabled; granularity_bytes 0: the cluster size, 4 KiB to 64 KiB */
    QIMG_BITMAP_REMOVE,
    QIMG_BITMAP_REMOVE_ALL, /* also damaged ones; no name is needed */
    QIMG_BITMAP_CLEAR,
    QIMG_BITMAP_ENABLE,
    QIMG_BITMAP_DISABLE,
    QIMG_BITMAP_MERGE,   /* adds the bits of the bitmap "source" */
    QIMG_BITMAP_RECOVER, /* sets all bits of a bitmap that was left in use */
} QimgBitmapActionKind;

typedef struct QimgBitmapAction {
    size_t struct_bytes; /* set by the caller */
    QimgBitmapActionKind kind;
    uint64_t granularity_bytes; /* ADD */
    const char *source;         /* MERGE */
    QimgImage *source_image;    /* MERGE: the source's image; NULL: the same image */
} QimgBitmapAction;

/* Does all of @actions in their order to the bitmap @name of @image, which is open for
 * writing ("rw"), or nothing; durable when it returns. Waits until no request is in
 * flight. Errors: READ_ONLY, UNSUPPORTED (the format has no bitmaps), NOT_FOUND, EXISTS,
 * BUSY (in use: only removed or recovered), INVALID (damaged: only removed), TOO_LARGE,
 * USAGE, FAILED, CANCELED (nothing was changed). */
QIMG_API gboolean qimg_image_change_bitmaps(QimgImage *image, const char *name,
                                            const QimgBitmapAction *const *actions,
                                            unsigned n_actions, QimgProgress progress,
                                            void *user, GError **error);

/* Why the bits of @bitmap are invalid, as a static text; NULL: they are valid. */
QIMG_API const char *qimg_bitmap_get_reason(const QimgBitmap *bitmap);

/* The properties of @bitmap as a JSON object. Free with g_free. */
QIMG_API char *qimg_bitmap_json(const QimgBitmap *bitmap);

/* Reads the bits of one bitmap. Not thread-safe, takes about 70 KiB. */
typedef struct QimgBitmapReader QimgBitmapReader;

/* Creates a reader of the bitmap at @place of @list (keeps a reference), which was read
 * from @image; close @image only after the reader is freed. Free with
 * qimg_bitmap_reader_free, which accepts NULL. */
QIMG_API QimgBitmapReader *qimg_bitmap_reader_new(QimgImage *image, QimgBitmaps *list,
                                                  unsigned place);
QIMG_API void qimg_bitmap_reader_free(QimgBitmapReader *reader);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgBitmapReader, qimg_bitmap_reader_free)

typedef struct QimgBitmapExtent {
    size_t struct_bytes; /* set by the caller */
    uint64_t guest_offset;
    uint64_t length_bytes;
    gboolean is_dirty;
} QimgBitmapExtent;

/* Returns the maximal extent of equal bits that begins at @guest_offset (below the size
 * of the bitmap's disk). An extent that takes longer than about a second to follow is
 * cut. Returns 0, -EINVAL (also for a bitmap with invalid bits, and if @out->struct_bytes
 * is not set), -EIO, -ENOMEM. */
QIMG_API int qimg_bitmap_reader_map(QimgBitmapReader *reader, uint64_t guest_offset,
                                    QimgBitmapExtent *out);

/* Appends the next piece of a JSON object with all extents of the bitmap to @out: the
 * piece at *@place (0 at first), which it advances; nothing at the end. @layer becomes a
 * member. Returns 0, or an error like qimg_bitmap_reader_map without appending
 * anything. */
QIMG_API int qimg_bitmap_reader_next_json(QimgBitmapReader *reader, unsigned layer,
                                          uint64_t *place, GString *out);

/* ---- checking and repairing ----
 *
 * Works on one image file alone: backing and data files are neither opened nor needed,
 * and encrypted images need no key. Any damage except to the header itself can be
 * examined. */

typedef enum {
    QIMG_REPAIR_NONE,  /* read-only */
    QIMG_REPAIR_LEAKS, /* free clusters without references */
    QIMG_REPAIR_ALL,   /* repair everything that can be repaired without loss */
} QimgRepair;

typedef enum {
    QIMG_FINDING_CORRUPTION,
    QIMG_FINDING_LEAK,  /* refcount too high: only wastes space */
    QIMG_FINDING_ERROR, /* something could not be read */
} QimgFindingKind;

typedef struct QimgFinding {
    size_t struct_bytes;
    QimgFindingKind kind;
    uint64_t host_offset;  /* bytes in the image file */
    uint64_t length_bytes; /* of the stretch with this fault; 0: no stretch */
    uint64_t guest_offset; /* bytes on the disk; UINT64_MAX: none or unknown */
    const char *text;      /* one line: the fault */
} QimgFinding;

typedef struct QimgCheckResult {
    size_t struct_bytes;
    const char *filename; /* as given */
    const char *format;   /* static */
    /* Counts; after a repair, the remaining ones. */
    uint64_t n_corruptions;
    uint64_t n_leaks;
    uint64_t n_check_errors;
    uint64_t n_corruptions_fixed;
    uint64_t n_leaks_fixed;
    /* The end of the last used cluster, and the clusters of the active disk. */
    uint64_t image_end_offset;
    uint64_t n_total_clusters;
    uint64_t n_allocated_clusters;
    uint64_t n_fragmented_clusters; /* not behind their predecessor on the disk */
    uint64_t n_compressed_clusters;
    gboolean is_dirty;          /* not closed properly */
    gboolean is_marked_corrupt; /* marked as corrupt by a writer */
    /* The findings behind the counts above, in no special order; at most 1000 are
     * listed. */
    unsigned n_findings;
    uint64_t n_all_findings;
} QimgCheckResult;

/* One of the listed findings, owned by the result; NULL beyond the last. */
QIMG_API const QimgFinding *qimg_check_result_get_finding(const QimgCheckResult *result,
                                                          unsigned place);

/* Checks the image at @path and, as @repair says, repairs it and checks it again. Of
 * @options (may be NULL), format and nolock count. Checking takes a reader's lock,
 * repairing a writer's. A repair may be interrupted at any moment, by @progress or
 * otherwise, and be repeated; it never makes anything worse. Returns the result, also for
 * a damaged image; free with qimg_check_result_free. Errors: NO_CHECK for formats without
 * a check; those of opening; for a repair, those of the storage. */
QIMG_API QimgCheckResult *qimg_check(const char *path, const QimgOptions *options,
                                     QimgRepair repair, QimgProgress progress, void *user,
                                     GError **error);

/* Frees @result with its texts; accepts NULL. */
QIMG_API void qimg_check_result_free(QimgCheckResult *result);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgCheckResult, qimg_check_result_free)

/* The result as a JSON object (the keys of qemu-img check and more). Free with g_free. */
QIMG_API char *qimg_check_result_json(const QimgCheckResult *result);

/* ---- copies ----
 *
 * A copy holds everything a handle shows, as a raw file, made by several threads, with
 * holes where nothing is stored. A journal beside the file (its name plus ".qimg-resume")
 * identifies the file and records the progress, so that an interrupted copy can be
 * resumed. To replace an existing file, the copy is made beside it (its name plus
 * ".qimg-part") and renamed when complete. */

typedef enum {
    QIMG_DIGEST_MD5,
    QIMG_DIGEST_SHA1,
    QIMG_DIGEST_SHA256,
} QimgDigest;

/* The digest's name, for example "md5": static; NULL for no digest. Digests are numbered
 * without gaps. */
QIMG_API const char *qimg_digest_get_name(QimgDigest digest);

/* Finds the digest called @name; FALSE if there is none. */
QIMG_API gboolean qimg_digest_find(const char *name, QimgDigest *digest_out);

/* A range of the disk that could not be read and was filled with zeros. */
typedef struct QimgUnreadable {
    size_t struct_bytes;
    uint64_t guest_offset;
    uint64_t length_bytes;
    const char *reason; /* static */
} QimgUnreadable;

/* Set by the caller; zero is the default. */
typedef struct QimgCopyOptions {
    size_t struct_bytes;
    /* A regular file (created), a block device, or a FIFO; NULL: the stream. */
    const char *target_path;
    int stream_fd; /* written in order; cannot be resumed */
    /* Names the handle in the journal: two handles on one image, for example of a
     * snapshot and of the disk, need two names. NULL: "disk". */
    const char *source_name;
    unsigned n_threads;  /* for reading and writing; 0: qimg_default_threads */
    unsigned digests;    /* 1u << QimgDigest for each */
    gboolean hash_files; /* also the digests of the chain's files */
    gboolean keep_zeros; /* write zeros, leave no holes */
    gboolean overwrite;  /* replace an existing regular file, at the end */
    gboolean resume;     /* continue an earlier copy, if there is one */
    gboolean rescue;     /* fill unreadable ranges with zeros */
    /* Called in the thread that runs the copy; may be NULL. Ranges come in order, those
     * of the earlier copy first. */
    void (*on_unreadable)(const QimgUnreadable *range, void *user);
    QimgProgress on_progress; /* in bytes; FALSE stops as qimg_copy_stop */
    void *user;
    gboolean verify; /* read the target back from the medium and compare */
} QimgCopyOptions;

typedef struct QimgCopyReport {
    size_t struct_bytes;
    uint64_t size_bytes;
    uint64_t done_bytes;    /* from the disk's start, including earlier copies */
    uint64_t resumed_bytes; /* of these, by earlier copies */
    uint64_t data_bytes;    /* of these, in blocks of 4 KiB that are not all zeros */
    uint64_t n_unreadable;
    uint64_t unreadable_bytes;
    unsigned n_listed;           /* the first unreadable ranges, at most 65536 */
    gboolean is_target_at_fault; /* the failure is the target's, not the image's */
    gboolean is_resumable;       /* failed, and can be resumed */
} QimgCopyReport;

typedef struct QimgCopy QimgCopy;

/* Prepares a copy of @image, which must outlive it. @options and its texts are copied.
 * Free with qimg_copy_free. NULL only where @options->struct_bytes is not set. */
QIMG_API QimgCopy *qimg_copy_new(QimgImage *image, const QimgCopyOptions *options);

/* Runs all checks that are possible before any change, and locks the target; once.
 * Errors: as qimg_copy_run, which calls it if the caller has not. */
QIMG_API gboolean qimg_copy_prepare(QimgCopy *copy, GError **error);

/* After qimg_copy_prepare: whether @path names a file of the chain, or one that the copy
 * writes or removes (it need not exist), and so must not be written to meanwhile. */
QIMG_API gboolean qimg_copy_uses_path(const QimgCopy *copy, const char *path);

/* Copies; once. Returns when everything is on stable storage. On failure, a partly filled
 * target stays if the copy can be resumed; else it is removed (a device is left). Errors:
 * REFUSED for a target that must not be written to, or an earlier copy that does not
 * match the disk; FAILED also if a file of the chain changed meanwhile. The report says
 * whether the text is about the target or the image. Threads: waits for those that it
 * makes. */
QIMG_API gboolean qimg_copy_run(QimgCopy *copy, GError **error);

/* Copies only the parts of @image's disk that are dirty in its bitmap called @bitmap, to
 * the existing file or block device @options->target_path, which holds an earlier copy of
 * the disk; the rest of it is neither read nor written. Of @options only target_path,
 * keep_zeros, on_progress (in bytes of the disk) and user count. An interrupted copy has
 * changed a part; the same call again completes it. Stores in *@report (may be NULL) the
 * sizes of the disk and of the dirty parts (done_bytes), and whose fault a failure is.
 * Errors: NOT_FOUND (no such bitmap), REFUSED (its bits are invalid; the target is no
 * copy of that size, or is a file of the chain), BUSY, CANCELED, FAILED, NO_SPACE. */
QIMG_API gboolean qimg_copy_dirty(QimgImage *image, const char *bitmap,
                                  const QimgCopyOptions *options, QimgCopyReport *report,
                                  GError **error);

/* Makes qimg_copy_run fail soon. Any thread, also from a signal handler. */
QIMG_API void qimg_copy_stop(QimgCopy *copy);

/* The report, after qimg_copy_run; valid until qimg_copy_free. */
QIMG_API const QimgCopyReport *qimg_copy_get_report(const QimgCopy *copy);

/* The rest of the report. @copy owns the texts and ranges. Files are numbered from the
 * image down, with data files in between; there are none if their digests were not
 * requested. */

/* One of the listed unreadable ranges; NULL beyond the last. */
QIMG_API const QimgUnreadable *qimg_copy_get_unreadable(const QimgCopy *copy,
                                                        unsigned place);

/* The digest of all written, or read back, bytes in hexadecimal; NULL: not requested, or
 * the copy failed. */
QIMG_API const char *qimg_copy_get_digest(const QimgCopy *copy, QimgDigest digest);

QIMG_API unsigned qimg_copy_get_n_files(const QimgCopy *copy);

/* For a file below qimg_copy_get_n_files: its path, its digest (NULL: not requested, or
 * failed), and the reason for a failed digest (NULL: none). */
QIMG_API const char *qimg_copy_get_file_path(const QimgCopy *copy, unsigned file);
QIMG_API const char *qimg_copy_get_file_digest(const QimgCopy *copy, unsigned file,
                                               QimgDigest digest);
QIMG_API const char *qimg_copy_get_file_error(const QimgCopy *copy, unsigned file);

/* Frees a copy that is not running; accepts NULL. */
QIMG_API void qimg_copy_free(QimgCopy *copy);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgCopy, qimg_copy_free)

/* ---- comparison ---- */

typedef enum {
    QIMG_DIFFERENT_NOT,        /* the disks are equal */
    QIMG_DIFFERENT_CONTENT,    /* at guest_offset */
    QIMG_DIFFERENT_SIZE,       /* strict: other sizes */
    QIMG_DIFFERENT_ALLOCATION, /* strict: stored in another way at guest_offset */
} QimgDifference;

/* Set by the caller; zero is the default. */
typedef struct QimgCompareOptions {
    size_t struct_bytes;
    gboolean strict;          /* sizes and allocation must be equal, too */
    unsigned n_threads;       /* 0: qimg_default_threads */
    QimgProgress on_progress; /* in bytes of the larger disk */
    void *user;
} QimgCompareOptions;

typedef struct QimgComparison {
    size_t struct_bytes; /* set by the caller */
    QimgDifference difference;
    uint64_t guest_offset; /* of the first difference: the byte, or the extent */
    gboolean sizes_differ;
    /* On failure: */
    unsigned failed_image;    /* 1 or 2: the fault is that disk's; 0: it is not */
    gboolean is_map_at_fault; /* its tables, not its data */
} QimgComparison;

/* Compares the disks @a and @b; ranges that neither of them stores are not read. The rest
 * of the larger disk must read as zeros. @options may be NULL. TRUE: *@out (may be NULL)
 * is the result. Errors: CANCELED, FAILED, NO_MEMORY; USAGE if struct_bytes is not set.
 * Threads: waits for those that it makes. */
QIMG_API gboolean qimg_compare(QimgImage *a, QimgImage *b,
                               const QimgCompareOptions *options, QimgComparison *out,
                               GError **error);

/* ---- facts as text ---- */

/* The facts about the image and its chain as a JSON object (the keys of qemu-img info and
 * more). Free with g_free. */
QIMG_API char *qimg_image_info_json(const QimgImage *image);

/* The same text, generated piece by piece, since an image with many snapshots has a long
 * one. Making one takes the changeable facts (lists of snapshots, the disk's size);
 * except for bitmaps, later changes do not show. It borrows @image, which must outlive
 * it. Making one costs little for any image. Never NULL; free accepts NULL. */
typedef struct QimgInfo QimgInfo;
QIMG_API QimgInfo *qimg_image_info_new(const QimgImage *image);
QIMG_API void qimg_info_free(QimgInfo *info);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(QimgInfo, qimg_info_free)

/* A place in the text; the start is all zeros. The content is private to the library. */
typedef struct {
    uint64_t private_words[4];
} QimgInfoPlace;

/* Appends to @out the piece at *@place, at most one snapshot, and moves *@place behind
 * it. FALSE at the end. The same place gives the same piece again. Threads: any; reads
 * the image if it has bitmaps. */
QIMG_API gboolean qimg_info_next(const QimgInfo *info, QimgInfoPlace *place,
                                 GString *out);

/* One snapshot as a JSON object. Free with g_free. */
QIMG_API char *qimg_snapshot_json(const QimgSnapshot *snapshot);

/* The counters of the image's chain, as a JSON object. Free with g_free. */
QIMG_API char *qimg_image_stats_json(const QimgImage *image);

/* One element of the JSON array of qimg map and map.json (the keys of qemu-img map, and
 * "error" for damage), without separator. Writes a NUL-terminated text of less than
 * QIMG_EXTENT_JSON_BYTES bytes to @buffer and returns its length. */
#define QIMG_EXTENT_JSON_BYTES 384
QIMG_API size_t qimg_extent_to_json(const QimgExtent *extent,
                                    char buffer[QIMG_EXTENT_JSON_BYTES]);

G_END_DECLS
