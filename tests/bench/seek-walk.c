/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Walks over a file with SEEK_DATA and SEEK_HOLE, as cp and tar do, and prints as JSON
 * the number of data extents, their bytes, and the time taken.
 *
 * With a second argument the walk gives up after that number of seconds and says so. */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct Walk {
    uint64_t n_extents;
    uint64_t data_bytes;
    double elapsed_ms;
    bool complete;
} Walk;

static double
now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* Walks over all of @fd, or until @limit_ms have passed. Returns 0 or an errno. */
static int
walk_extents(int fd, double limit_ms, Walk *walk_out)
{
    Walk walk = {.complete = true};
    double start_ms = now_ms();
    off_t hole_offset = 0;

    for (;;) {
        off_t data_offset = lseek(fd, hole_offset, SEEK_DATA);
        if (data_offset < 0 && errno == ENXIO)
            break; /* no data up to the end of the file */
        if (data_offset < 0)
            return errno;
        hole_offset = lseek(fd, data_offset, SEEK_HOLE);
        if (hole_offset < 0)
            return errno;
        walk.n_extents++;
        walk.data_bytes += (uint64_t)(hole_offset - data_offset);
        if (now_ms() - start_ms > limit_ms) {
            walk.complete = false;
            break;
        }
    }
    walk.elapsed_ms = now_ms() - start_ms;
    *walk_out = walk;
    return 0;
}

int
main(int argc, char **argv)
{
    Walk walk = {0};

    if (argc != 2 && argc != 3) {
        fprintf(stderr, "usage: %s FILE [LIMIT-SECONDS]\n", argv[0]);
        return 2;
    }
    double limit_ms = argc == 3 ? atof(argv[2]) * 1e3 : 1e15;
    int fd = open(argv[1], O_RDONLY | O_CLOEXEC);
    int error = fd < 0 ? errno : walk_extents(fd, limit_ms, &walk);
    if (fd >= 0)
        close(fd);
    if (error != 0) {
        fprintf(stderr, "%s: %s: %s\n", argv[0], argv[1], strerror(error));
        return 1;
    }
    printf("{\"extents\": %" PRIu64 ", \"data_bytes\": %" PRIu64
           ", \"ms\": %.3f, \"complete\": %s}\n",
           walk.n_extents, walk.data_bytes, walk.elapsed_ms,
           walk.complete ? "true" : "false");
    return 0;
}
