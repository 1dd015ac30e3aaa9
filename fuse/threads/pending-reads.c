/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "threads/pending-reads.h"

#include <errno.h>
#include <glib.h>
#include <liburing.h>
#include <sys/epoll.h>
#include <unistd.h>

#define MAX_READS 64u
/* Started together: fewer keep the disk waiting, more cost system calls. */
#define BATCH_READS 4u
/* After this number of waits, the next read is expected to wait; */
#define MIN_WAITS 4u
/* one of this number looks whether that is still so. */
#define READS_PER_LOOK 16u
#define NAP_US         1000

typedef struct {
    void *request;
    bool keeps;
} Place;

struct PendingReads {
    struct io_uring ring;
    int epoll_fd;
    unsigned n_reads;
    Place places[MAX_READS];
    unsigned free_places[MAX_READS]; /* a stack of MAX_READS - n_reads */
    uint8_t *kept;                   /* PENDING_READ_MAX_KEPT_BYTES for each place */
    unsigned n_waits;                /* of the last reads, in a row */
    unsigned n_expected;
    uint8_t *ignored; /* of all other reads: only the page cache counts */
};

/* A compromised process must not get round its filter of system calls by the ring. */
static int
restrict_to_reads(struct io_uring *ring)
{
    struct io_uring_restriction allowed[] = {
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READ},
    };
    int err = io_uring_register_restrictions(ring, allowed, G_N_ELEMENTS(allowed));

    return err ? err : io_uring_enable_rings(ring);
}

static bool
wake_by(const PendingReads *pending, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events};

    return epoll_ctl(pending->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

PendingReads *
pending_reads_new(int device_fd)
{
    struct io_uring_params params = {.flags = IORING_SETUP_R_DISABLED |
                                              IORING_SETUP_COOP_TASKRUN};
    PendingReads *pending = g_new0(PendingReads, 1);

    if (io_uring_queue_init_params(MAX_READS, &pending->ring, &params) != 0) {
        g_free(pending);
        return NULL;
    }
    pending->ignored = g_malloc(PENDING_READ_MAX_BYTES);
    pending->kept = g_malloc(MAX_READS * PENDING_READ_MAX_KEPT_BYTES);
    for (unsigned i = 0; i < MAX_READS; i++)
        pending->free_places[i] = MAX_READS - 1 - i;
    pending->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    /* A request wakes one idle thread, not all. */
    if (pending->epoll_fd >= 0 && restrict_to_reads(&pending->ring) == 0 &&
        wake_by(pending, device_fd, EPOLLIN | EPOLLEXCLUSIVE) &&
        wake_by(pending, pending->ring.ring_fd, EPOLLIN))
        return pending;
    pending_reads_free(pending);
    return NULL;
}

void
pending_reads_free(PendingReads *pending)
{
    if (!pending)
        return;
    io_uring_queue_exit(&pending->ring);
    if (pending->epoll_fd >= 0)
        close(pending->epoll_fd);
    g_free(pending->ignored);
    g_free(pending->kept);
    g_free(pending);
}

bool
pending_reads_add(PendingReads *pending, QimgReadPlace place, bool keeps, void *request)
{
    struct io_uring_sqe *sqe =
        pending->n_reads < MAX_READS ? io_uring_get_sqe(&pending->ring) : NULL;
    size_t n_bytes = MIN(place.length_bytes,
                         keeps ? PENDING_READ_MAX_KEPT_BYTES : PENDING_READ_MAX_BYTES);
    unsigned number;

    if (!sqe)
        return false;
    number = pending->free_places[MAX_READS - 1 - pending->n_reads++];
    pending->places[number] = (Place){.request = request, .keeps = keeps};
    io_uring_prep_read(sqe, place.fd,
                       keeps ? pending->kept + number * PENDING_READ_MAX_KEPT_BYTES
                             : pending->ignored,
                       (unsigned)n_bytes, place.file_offset);
    sqe->user_data = number;
    if (io_uring_sq_ready(&pending->ring) >= BATCH_READS)
        io_uring_submit(&pending->ring); /* after a failure, again by a later call */
    return true;
}

unsigned
pending_reads_count(const PendingReads *pending)
{
    return pending ? pending->n_reads : 0;
}

void *
pending_reads_take(PendingReads *pending, const uint8_t **bytes_out, int *n_bytes_out)
{
    struct io_uring_cqe *cqe = NULL;
    unsigned number;
    const Place *place;

    if (io_uring_cq_ready(&pending->ring) == 0 ||
        io_uring_peek_cqe(&pending->ring, &cqe) != 0)
        return NULL;
    number = (unsigned)cqe->user_data;
    *n_bytes_out = cqe->res;
    io_uring_cqe_seen(&pending->ring, cqe);
    place = &pending->places[number];
    *bytes_out =
        place->keeps ? pending->kept + number * PENDING_READ_MAX_KEPT_BYTES : NULL;
    pending->free_places[MAX_READS - pending->n_reads--] = number;
    return place->request;
}

/* Starts the reads that were added; false if memory is short. */
static bool
submit(PendingReads *pending)
{
    return io_uring_sq_ready(&pending->ring) == 0 || io_uring_submit(&pending->ring) >= 0;
}

void
pending_reads_wait(PendingReads *pending)
{
    struct io_uring_cqe *cqe;

    if (!submit(pending))
        g_usleep(NAP_US);
    else
        (void)io_uring_wait_cqe(&pending->ring, &cqe);
}

void
pending_reads_wait_or_receive(PendingReads *pending)
{
    struct epoll_event event;

    if (!submit(pending))
        g_usleep(NAP_US);
    else if (io_uring_cq_ready(&pending->ring) == 0)
        epoll_wait(pending->epoll_fd, &event, 1, -1);
}

bool
pending_reads_expect_wait(PendingReads *pending)
{
    return pending->n_waits >= MIN_WAITS && pending->n_expected++ % READS_PER_LOOK != 0;
}

void
pending_reads_note(PendingReads *pending, bool has_waited)
{
    pending->n_waits = has_waited ? pending->n_waits + 1 : 0;
}
