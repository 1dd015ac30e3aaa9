/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The content of a partition, identified by libblkid. libblkid needs a file, so it gets
 * one in memory, of the partition's length and empty except for the regions where file
 * systems and the like identify themselves: the beginning, and the end with some RAID and
 * ZFS labels. */
#include "partition/content.h"

#include <glib.h>
#include <string.h>

#ifdef HAVE_BLKID
#include <blkid.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"

#define HEAD_BYTES  (2 * QIMG_MIB)
#define TAIL_BYTES  QIMG_MIB
#define PIECE_BYTES (64 * QIMG_KIB)

static bool
content_is_zero(const uint8_t *bytes, size_t n_bytes)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, n_bytes - 1) == 0;
}

/* Copies [@start, @end); leaves zeros for unreadable bytes. */
static bool
copy_stretch(const PartitionSource *source, int fd, uint64_t start, uint64_t end)
{
    g_autofree uint8_t *bytes = g_try_malloc(PIECE_BYTES);

    if (!bytes)
        return false;
    while (start < end) {
        size_t n_bytes = (size_t)qimg_min_u64(end - start, PIECE_BYTES);

        if (source->read(source->user, start, bytes, n_bytes) == 0 &&
            !content_is_zero(bytes, n_bytes) &&
            pwrite(fd, bytes, n_bytes, (off_t)start) != (ssize_t)n_bytes)
            return false;
        start += n_bytes;
    }
    return true;
}

/* A file with the regions that libblkid reads; -1 if it cannot be made. */
static int
make_excerpt(const PartitionSource *source)
{
    uint64_t size_bytes = source->size_bytes;
    uint64_t head_end = qimg_min_u64(size_bytes, HEAD_BYTES);
    uint64_t tail_start = size_bytes - qimg_min_u64(size_bytes - head_end, TAIL_BYTES);
    qimg_autofd fd = memfd_create("qimg-partition", MFD_CLOEXEC);

    if (fd < 0 || size_bytes > INT64_MAX || ftruncate(fd, (off_t)size_bytes) < 0 ||
        !copy_stretch(source, fd, 0, head_end) ||
        !copy_stretch(source, fd, tail_start, size_bytes))
        return -1;
    return qimg_steal_fd(&fd);
}

static char *
value_of(blkid_probe probe, const char *name)
{
    const char *value;

    return blkid_probe_lookup_value(probe, name, &value, NULL) == 0 ? g_strdup(value)
                                                                    : NULL;
}

bool
partition_content_probe(const PartitionSource *source, PartitionContent *out)
{
    qimg_autofd fd = make_excerpt(source);
    blkid_probe probe = fd >= 0 ? blkid_new_probe() : NULL;

    *out = (PartitionContent){0};
    if (!probe)
        return false;
    blkid_probe_enable_superblocks(probe, 1);
    blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_DEFAULT | BLKID_SUBLKS_USAGE |
                                                 BLKID_SUBLKS_VERSION);
    if (blkid_probe_set_device(probe, fd, 0, 0) == 0 && blkid_do_safeprobe(probe) == 0) {
        out->usage = value_of(probe, "USAGE");
        out->type = value_of(probe, "TYPE");
        out->version = value_of(probe, "VERSION");
        out->label = value_of(probe, "LABEL");
        out->uuid = value_of(probe, "UUID");
    }
    blkid_free_probe(probe);
    return out->type != NULL;
}
#else
bool
partition_content_probe(const PartitionSource *source, PartitionContent *out)
{
    (void)source, (void)out;
    return false;
}
#endif

void
partition_content_clear(PartitionContent *content)
{
    g_free(content->usage);
    g_free(content->type);
    g_free(content->version);
    g_free(content->label);
    g_free(content->uuid);
    *content = (PartitionContent){0};
}
