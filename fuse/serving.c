/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "serving.h"

#include <errno.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include "ops/image-reads.h"

/* This number of requests without a pending read shows that the disk is not needed. */
#define HOT_REQUESTS 256u

typedef struct {
    struct fuse_session *fuse;
    Device *device;
    PendingReads *pending;
    struct fuse_buf buffer;
    bool is_polling; /* as told to @device */
    unsigned n_hot;  /* requests since the last pending read */
} Receiver;

bool
serve_is_connection_gone(struct fuse_session *fuse)
{
    struct pollfd device = {.fd = fuse_session_fd(fuse)};

    return poll(&device, 1, 0) == 1 && (device.revents & POLLERR) != 0;
}

static void
tell_device(Receiver *receiver)
{
    bool has_reads = pending_reads_count(receiver->pending) > 0;

    if (has_reads)
        receiver->n_hot = 0;
    else if (++receiver->n_hot == HOT_REQUESTS)
        device_calm_down(receiver->device);
    if (has_reads == receiver->is_polling)
        return;
    receiver->is_polling = has_reads;
    if (has_reads)
        device_begin_polling(receiver->device);
    else
        device_end_polling(receiver->device);
}

/* As fuse_session_receive_buf, but -EAGAIN if instead a pending read may be ready. */
static int
receive(Receiver *receiver)
{
    int n;

    tell_device(receiver);
    /* The main thread cancels only a thread that waits for a request, never one that
     * answers. */
    if (!receiver->is_polling)
        pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    n = fuse_session_receive_buf(receiver->fuse, &receiver->buffer);
    if (n == -EAGAIN && receiver->pending)
        pending_reads_wait_or_receive(receiver->pending);
    else if (n == -EAGAIN)
        device_wait(receiver->device);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    return n == -EINTR ? -EAGAIN : n;
}

static bool
is_read(const struct fuse_buf *buffer)
{
    const struct fuse_in_header *header = buffer->mem;

    return !(buffer->flags & FUSE_BUF_IS_FD) && header->opcode == FUSE_READ;
}

/* Answers all pending reads. */
static void
answer_all(Receiver *receiver)
{
    while (pending_reads_count(receiver->pending) > 0) {
        pending_reads_wait(receiver->pending);
        image_reads_answer_pending(receiver->pending);
    }
}

/* A request other than a read may wait for the answers to reads: an open that drops pages
 * waits for the kernel, which waits for reads into these pages. */
static void
process(Receiver *receiver)
{
    if (!is_read(&receiver->buffer))
        answer_all(receiver);
    fuse_session_process_buf(receiver->fuse, &receiver->buffer);
}

static void
free_buffer(void *user)
{
    free(((Receiver *)user)->buffer.mem);
}

static ServeEnd
serve_to_end(Receiver *receiver, Server *server, int *error_out)
{
    while (!fuse_session_exited(receiver->fuse)) {
        int n = receive(receiver);

        if (n > 0)
            process(receiver);
        if (receiver->pending)
            image_reads_answer_pending(receiver->pending);
        if (n == -EAGAIN)
            continue;
        if (n <= 0) {
            *error_out = n;
            return n == 0 || serve_is_connection_gone(receiver->fuse) ? SERVE_ENDED
                                                                      : SERVE_FAILED;
        }
        if (pending_reads_count(receiver->pending) == 0 && server_may_end(server))
            return SERVE_SPARE;
    }
    return SERVE_ENDED;
}

ServeEnd
serve_requests(struct fuse_session *fuse, Device *device, PendingReads *pending,
               Server *server, int *error_out)
{
    Receiver receiver = {.fuse = fuse, .device = device, .pending = pending};
    ServeEnd end;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    pthread_cleanup_push(free_buffer, &receiver);
    image_reads_set_pending(pending);
    end = serve_to_end(&receiver, server, error_out);
    answer_all(&receiver);
    tell_device(&receiver);
    pthread_cleanup_pop(1);
    return end;
}
