/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ops/image-reads.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "ops/ops.h"
#include "ops/reply.h"

/* Then a request is waited for: its bytes leave the cache before they are used, or a part
 * of it waits after another. */
#define MAX_TRIES 8u

/* A request that may have to wait. */
typedef struct {
    fuse_req_t req;
    QimgImage *image;
    size_t size;
    uint64_t guest_offset;
    unsigned n_tries;    /* before */
    QimgReadPlace place; /* of a pending one */
} ImageRead;

typedef enum { READ_WAITS, READ_TRIES, READ_EXPECTS_WAIT } ReadManner;

static _Thread_local PendingReads *my_pending;
static pthread_key_t buffer_key;
static pthread_once_t buffer_once = PTHREAD_ONCE_INIT;

static void
make_buffer_key(void)
{
    if (pthread_key_create(&buffer_key, free) != 0)
        g_error("no thread-specific data left");
}

char *
image_reads_buffer(void)
{
    static _Thread_local char *mine;

    if (!mine) {
        pthread_once(&buffer_once, make_buffer_key);
        mine = aligned_alloc(4096, MAX_REQUEST_BYTES);
        if (mine)
            pthread_setspecific(buffer_key, mine);
    }
    return mine;
}

/* Reads at most *@size bytes, fewer only at the disk's end: the kernel takes a short
 * reply for the end of the file. */
static int
read_to_end(QimgImage *image, char *buffer, size_t *size, uint64_t guest_offset,
            ReadManner manner, QimgReadPlace *place_out)
{
    for (;;) {
        uint64_t size_bytes = qimg_image_get_size_bytes(image);
        uint64_t left = guest_offset < size_bytes ? size_bytes - guest_offset : 0;
        size_t n_bytes = MIN(*size, left);
        int err =
            manner == READ_WAITS
                ? qimg_image_read(image, guest_offset, buffer, n_bytes)
                : qimg_image_read_unless_waiting(image, guest_offset, buffer, n_bytes,
                                                 manner == READ_EXPECTS_WAIT, place_out);

        /* The disk may have shrunk since its size was read. */
        if (err != -EINVAL || qimg_image_get_size_bytes(image) >= size_bytes) {
            *size = MIN(*size, left);
            return err;
        }
    }
}

void
image_reads_set_pending(PendingReads *pending)
{
    my_pending = pending;
}

static ReadManner
choose_manner(const ImageRead *read)
{
    if (!my_pending || read->size > PENDING_READ_MAX_BYTES || read->n_tries == MAX_TRIES)
        return READ_WAITS;
    return read->n_tries == 0 && pending_reads_expect_wait(my_pending) ? READ_EXPECTS_WAIT
                                                                       : READ_TRIES;
}

static bool
add_pending(const ImageRead *read, QimgReadPlace place)
{
    ImageRead *waiting = g_memdup2(read, sizeof *read);

    waiting->n_tries++;
    waiting->place = place;
    waiting->place.is_answer &= place.length_bytes <= PENDING_READ_MAX_KEPT_BYTES;
    if (pending_reads_add(my_pending, place, waiting->place.is_answer, waiting))
        return true;
    g_free(waiting);
    return false;
}

/* Answers @read, or adds it to the pending ones. */
static void
answer_or_add(const ImageRead *read, char *buffer)
{
    ReadManner manner = choose_manner(read);
    size_t size = read->size;
    QimgReadPlace place = {.struct_bytes = sizeof place};
    int err = read_to_end(read->image, buffer, &size, read->guest_offset, manner, &place);

    if (manner == READ_TRIES && read->n_tries == 0)
        pending_reads_note(my_pending, err == -EAGAIN);
    if (manner != READ_WAITS && err == -EAGAIN) {
        if (add_pending(read, place))
            return;
        err =
            read_to_end(read->image, buffer, &size, read->guest_offset, READ_WAITS, NULL);
    }
    if (err)
        reply_result(read->req, err);
    else
        fuse_reply_buf(read->req, buffer, size);
}

void
image_reads_answer(fuse_req_t req, QimgImage *image, char *buffer, size_t size,
                   uint64_t guest_offset)
{
    ImageRead read = {
        .req = req, .image = image, .size = size, .guest_offset = guest_offset};

    answer_or_add(&read, buffer);
}

/* The read of a pending request has ended with @n_bytes @bytes. */
static void
answer_ended(ImageRead *read, const uint8_t *bytes, int n_bytes)
{
    if (bytes && n_bytes == (int)read->place.length_bytes) {
        int err = qimg_image_end_read(read->image, &read->place);

        if (err)
            reply_result(read->req, err);
        else
            fuse_reply_buf(read->req, (const char *)bytes, read->place.length_bytes);
        return;
    }
    if (n_bytes < 0) /* an ordinary read tells the error */
        read->n_tries = MAX_TRIES;
    /* The buffer exists: the request was tried with it. */
    answer_or_add(read, image_reads_buffer());
}

void
image_reads_answer_pending(PendingReads *pending)
{
    const uint8_t *bytes;
    ImageRead *read;
    int n_bytes;

    while ((read = pending_reads_take(pending, &bytes, &n_bytes)) != NULL) {
        answer_ended(read, bytes, n_bytes);
        g_free(read);
    }
}
