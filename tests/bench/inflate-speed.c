/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Measures how fast one core decompresses the clusters of an image with nothing around
 * it: libdeflate for zlib clusters, libzstd for zstd clusters. The targets of the
 * compressed rows are a share of this speed.
 *
 * The input is a list of records that run-bench.py cuts out of a qcow2 image: a
 * little-endian 32-bit length, then that number of bytes of compressed cluster, including
 * the rest of its last sector. */

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <libdeflate.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>

#define RECORD_HEAD_BYTES sizeof(uint32_t)

typedef struct Decoder {
    bool is_zstd;
    struct libdeflate_decompressor *deflate;
    ZSTD_DCtx *zstd;
    uint8_t *cluster; /* room for one decompressed cluster */
    size_t cluster_bytes;
} Decoder;

static double
now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Decompresses one cluster. False: the input is not one whole cluster. */
static bool
decode_cluster(const Decoder *d, const uint8_t *input, size_t input_bytes)
{
    size_t used_bytes, made_bytes;

    if (d->is_zstd) {
        used_bytes = ZSTD_findFrameCompressedSize(input, input_bytes);
        if (ZSTD_isError(used_bytes))
            return false;
        made_bytes =
            ZSTD_decompressDCtx(d->zstd, d->cluster, d->cluster_bytes, input, used_bytes);
        return !ZSTD_isError(made_bytes) && made_bytes == d->cluster_bytes;
    }
    return libdeflate_deflate_decompress_ex(d->deflate, input, input_bytes, d->cluster,
                                            d->cluster_bytes, &used_bytes,
                                            NULL) == LIBDEFLATE_SUCCESS;
}

/* Decompresses all records once. False: a record is damaged. */
static bool
decode_all(const Decoder *d, const uint8_t *records, size_t records_bytes,
           uint64_t *n_clusters_out)
{
    uint64_t n_clusters = 0;
    size_t file_offset = 0;

    while (records_bytes - file_offset >= RECORD_HEAD_BYTES) {
        uint32_t length_le;
        memcpy(&length_le, records + file_offset, sizeof length_le);
        size_t length_bytes = le32toh(length_le);
        file_offset += RECORD_HEAD_BYTES;
        if (length_bytes > records_bytes - file_offset ||
            !decode_cluster(d, records + file_offset, length_bytes))
            return false;
        file_offset += length_bytes;
        n_clusters++;
    }
    *n_clusters_out = n_clusters;
    return n_clusters > 0;
}

/* Decompresses all records repeatedly for @seconds and prints the speed. */
static bool
measure(const Decoder *d, const uint8_t *records, size_t records_bytes, double seconds)
{
    uint64_t n_clusters, n_total = 0;
    double elapsed_s, start_s;

    /* The first pass only brings the records into memory. */
    if (!decode_all(d, records, records_bytes, &n_clusters))
        return false;
    start_s = now_s();
    do {
        if (!decode_all(d, records, records_bytes, &n_clusters))
            return false;
        n_total += n_clusters;
        elapsed_s = now_s() - start_s;
    } while (elapsed_s < seconds);
    printf("{\"mb_per_s\": %.1f, \"clusters\": %llu}\n",
           (double)n_total * (double)d->cluster_bytes / elapsed_s / 1e6,
           (unsigned long long)n_clusters);
    return true;
}

int
main(int argc, char **argv)
{
    struct stat st;

    if (argc != 5 || (strcmp(argv[1], "zlib") != 0 && strcmp(argv[1], "zstd") != 0)) {
        fprintf(stderr, "usage: %s zlib|zstd CLUSTER-BYTES SECONDS RECORDS\n", argv[0]);
        return 2;
    }
    Decoder d = {
        .is_zstd = strcmp(argv[1], "zstd") == 0,
        .deflate = libdeflate_alloc_decompressor(),
        .zstd = ZSTD_createDCtx(),
        .cluster_bytes = strtoul(argv[2], NULL, 10),
    };
    d.cluster = malloc(d.cluster_bytes);

    int fd = open(argv[4], O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0 || st.st_size == 0) {
        fprintf(stderr, "%s: %s: %s\n", argv[0], argv[4],
                errno != 0 ? strerror(errno) : "empty");
        return 1;
    }
    size_t records_bytes = (size_t)st.st_size;
    void *records = mmap(NULL, records_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    bool ok = records != MAP_FAILED && d.cluster != NULL && d.deflate != NULL &&
              d.zstd != NULL && measure(&d, records, records_bytes, atof(argv[3]));
    if (!ok)
        fprintf(stderr, "%s: %s: damaged records\n", argv[0], argv[4]);

    if (records != MAP_FAILED)
        munmap(records, records_bytes);
    free(d.cluster);
    libdeflate_free_decompressor(d.deflate);
    ZSTD_freeDCtx(d.zstd);
    return ok ? 0 : 1;
}
