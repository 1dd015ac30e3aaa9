/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Telling the kernel that a name has gone waits for the directory's lock, which the
 * kernel holds during a request about another name in it. So a separate thread does it,
 * which answers no requests and holds nothing that the serving threads wait for.
 *
 * A directory that cannot be watched is checked for changes at each look into it
 * (images_refresh), and the kernel forgets names within a second anyway. */
#include "images/dir-watch.h"

#include <errno.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "images/images-close.h"
#include "images/images-dir.h"

#define EVENTS                                                                           \
    (IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_ONLYDIR)
#define EVENT_BYTES 65536

struct DirWatch {
    Images *images;
    int inotify_fd;       /* -1: none */
    GHashTable *by_watch; /* inotify's numbers to ImageDir * */
    DirWatchGone on_gone;
    void *user;
    pthread_t thread;
    bool is_started;
    atomic_bool stops; /* atomic: set before the wake after which the thread checks it */
};

/* Whether programs outside this kernel may change the directory. */
static bool
is_remote(const ImageDir *dir)
{
    static const unsigned long types[] = {
        NFS_SUPER_MAGIC, SMB_SUPER_MAGIC,  CIFS_SUPER_MAGIC, SMB2_SUPER_MAGIC,
        V9FS_MAGIC,      CEPH_SUPER_MAGIC, AFS_FS_MAGIC,     FUSE_SUPER_MAGIC};
    struct statfs status;

    if (fstatfs(dir->fd, &status) < 0)
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(types); i++)
        if ((unsigned long)status.f_type == types[i])
            return true;
    return false;
}

/* Watches one directory; else logs the reason. */
static void
watch_directory(DirWatch *watch, ImageDir *dir)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", dir->fd);
    const char *reason = NULL;
    int number = -1;

    if (is_remote(dir)) {
        reason = "it lies on a remote file system";
    } else {
        if (watch->inotify_fd >= 0)
            number = inotify_add_watch(watch->inotify_fd, link, EVENTS);
        if (number < 0)
            reason = g_strerror(errno);
    }
    dir->is_watched = number >= 0;
    if (dir->is_watched)
        g_hash_table_insert(watch->by_watch, GINT_TO_POINTER(number), dir);
    else
        g_message("%s: cannot be watched: %s; new and removed images are found only when "
                  "the mount is used",
                  dir->path, reason);
}

DirWatch *
dir_watch_new(Images *images, GError **error)
{
    g_autoptr(DirWatch) watch = g_new0(DirWatch, 1);
    ImageDir *dir;

    watch->images = images;
    watch->by_watch = g_hash_table_new(NULL, NULL);
    watch->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    /* Watch first, so that no change is missed before the scan. */
    for (unsigned i = 0; (dir = images_get_directory(images, i)) != NULL; i++) {
        watch_directory(watch, dir);
        if (images_scan(images, dir))
            continue;
        g_set_error(error, QIMG_ERROR, QIMG_ERROR_FAILED,
                    "%s: cannot read the directory: %s (give one that holds disk images)",
                    dir->path, g_strerror(errno));
        return NULL;
    }
    return g_steal_pointer(&watch);
}

void
dir_watch_free(DirWatch *watch)
{
    if (!watch)
        return;
    if (watch->inotify_fd >= 0)
        close(watch->inotify_fd);
    g_hash_table_unref(watch->by_watch);
    g_free(watch);
}

/* Rescans after lost events. */
static void
scan_all(DirWatch *watch)
{
    ImageDir *dir;

    for (unsigned i = 0; (dir = images_get_directory(watch->images, i)) != NULL; i++)
        if (!images_scan(watch->images, dir))
            g_warning("%s: cannot read the directory: %s", dir->path, g_strerror(errno));
}

static void
take_event(DirWatch *watch, const struct inotify_event *event)
{
    ImageDir *dir = g_hash_table_lookup(watch->by_watch, GINT_TO_POINTER(event->wd));

    if (event->mask & IN_Q_OVERFLOW)
        scan_all(watch);
    /* A subdirectory may be the mount itself, which must not be examined. */
    if (!dir || event->len == 0 || (event->mask & IN_ISDIR))
        return;
    if (event->mask & (IN_CLOSE_WRITE | IN_MOVED_TO))
        images_update(watch->images, dir, event->name, FILE_COMPLETE);
    else if (event->mask & IN_CREATE)
        images_update(watch->images, dir, event->name, FILE_CREATED);
    else if (event->mask & (IN_MOVED_FROM | IN_DELETE))
        images_update(watch->images, dir, event->name, FILE_LEFT);
}

static void
take_events(DirWatch *watch, char *buffer)
{
    ssize_t n;

    while (!atomic_load(&watch->stops) &&
           (n = read(watch->inotify_fd, buffer, EVENT_BYTES)) > 0) {
        const struct inotify_event *event;

        for (char *at = buffer; at < buffer + n; at += sizeof *event + event->len) {
            event = (const struct inotify_event *)(const void *)at;
            take_event(watch, event);
        }
    }
}

static void
tell_gone(DirWatch *watch)
{
    g_autoptr(GPtrArray) gone = images_take_gone(watch->images);

    for (guint i = 0; i < gone->len; i++)
        watch->on_gone(gone->pdata[i], watch->user);
}

static void *
run(void *user)
{
    DirWatch *watch = user;
    g_autofree char *buffer = g_malloc(EVENT_BYTES);
    struct pollfd fds[] = {
        {.fd = images_get_wake_fd(watch->images), .events = POLLIN},
        {.fd = watch->inotify_fd, .events = POLLIN}, /* poll ignores -1 */
    };

    while (!atomic_load(&watch->stops)) {
        int due_ms = images_close_idle(watch->images);
        uint64_t n_wakes;

        if (poll(fds, G_N_ELEMENTS(fds), due_ms) < 0 && errno != EINTR)
            break;
        if (read(fds[0].fd, &n_wakes, sizeof n_wakes) < 0 && errno != EAGAIN)
            break;
        if (fds[1].revents)
            take_events(watch, buffer);
        tell_gone(watch);
    }
    return NULL;
}

bool
dir_watch_start(DirWatch *watch, DirWatchGone on_gone, void *user)
{
    watch->on_gone = on_gone;
    watch->user = user;
    errno = pthread_create(&watch->thread, NULL, run, watch);
    watch->is_started = errno == 0;
    return watch->is_started;
}

void
dir_watch_stop(DirWatch *watch)
{
    if (!watch->is_started)
        return;
    atomic_store(&watch->stops, true);
    images_wake(watch->images);
    pthread_join(watch->thread, NULL);
    watch->is_started = false;
}
