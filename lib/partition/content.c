/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The content of a partition, identified by libblkid in an excerpt. */
#include "partition/content.h"

#include <glib.h>

#ifdef HAVE_BLKID
#include <blkid.h>

#include "base/cleanup.h"
#include "partition/excerpt.h"

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
    qimg_autofd fd = partition_excerpt_make(source, NULL, 0);
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
