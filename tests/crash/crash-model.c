/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Random operations, and the possible content of a disk after them. Written bytes depend
 * on the operation and the place, so that neither another operation's bytes nor moved
 * bytes pass. */
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "crash-fixture.h"
#include "format/drivers.h"

const char *const crash_op_names[] = {"write",  "zero", "discard", "allocate", "flush",
                                      "resize", "take", "delete",  "rename",   "revert"};

static uint8_t
value_at(const CrashOp *op, uint64_t at)
{
    return (uint8_t)(op->value + at + at / 512 * 7);
}

static CrashOpKind
choose_kind(GRand *rand)
{
    unsigned x = g_rand_int_range(rand, 0, 100);

    return x < 50   ? CRASH_OP_WRITE
           : x < 62 ? CRASH_OP_ZERO
           : x < 74 ? CRASH_OP_DISCARD
           : x < 80 ? CRASH_OP_ALLOCATE
           : x < 92 ? CRASH_OP_FLUSH
                    : CRASH_OP_RESIZE;
}

/* A small write at the end of the disk, or across it. */
static void
choose_append(GRand *rand, uint64_t size_bytes, CrashOp *op)
{
    uint64_t back = g_rand_int_range(rand, 0, 4) ? 0 : g_rand_int_range(rand, 0, 600);

    op->offset = size_bytes - MIN(back, size_bytes);
    op->n_bytes = (uint64_t)g_rand_int_range(rand, 1, 6000);
    op->n_bytes = MIN(op->n_bytes, CRASH_MAX_BYTES - op->offset);
}

CrashOp
crash_op_choose(GRand *rand, uint64_t size_bytes, uint64_t cluster_bytes)
{
    CrashOp op = {.kind = choose_kind(rand), .value = (uint8_t)g_rand_int(rand)};
    uint64_t unit = g_rand_int_range(rand, 0, 3) ? cluster_bytes : 512;
    uint64_t end = MIN(size_bytes + (size_bytes > 512 ? 0 : 4096), CRASH_MAX_BYTES);

    op.offset = (uint64_t)(g_rand_double(rand) * (double)end);
    op.n_bytes = (uint64_t)(g_rand_double(rand) * (double)unit *
                            (g_rand_int_range(rand, 0, 6) ? 4 : 40)) +
                 1;
    if (g_rand_boolean(rand)) { /* near earlier operations */
        op.offset %= MAX(8 * unit, 1);
    }
    if (g_rand_boolean(rand)) {
        op.offset -= op.offset % unit;
        op.n_bytes += unit - op.n_bytes % unit;
    }
    op.n_bytes = MIN(op.n_bytes, CRASH_MAX_BYTES - op.offset);
    if (op.kind == CRASH_OP_WRITE && size_bytes < CRASH_MAX_BYTES &&
        g_rand_int_range(rand, 0, 4) == 0) {
        choose_append(rand, size_bytes, &op);
    } else if (op.kind == CRASH_OP_RESIZE) {
        int64_t delta = g_rand_int_range(rand, -300, 300) * (int64_t)512;

        op.offset = CLAMP((int64_t)size_bytes + delta, 512, (int64_t)CRASH_MAX_BYTES);
    } else if (op.kind == CRASH_OP_FLUSH) {
        op.offset = op.n_bytes = 0;
    } else if (op.kind != CRASH_OP_WRITE || g_rand_int_range(rand, 0, 8)) {
        op.offset = MIN(op.offset, size_bytes - 1);
        op.n_bytes = MIN(op.n_bytes, size_bytes - op.offset);
    }
    return op;
}

int
crash_op_run(QimgImage *image, const CrashOp *op)
{
    g_autofree uint8_t *bytes = NULL;

    switch (op->kind) {
    case CRASH_OP_WRITE:
        bytes = g_malloc(op->n_bytes);
        for (uint64_t i = 0; i < op->n_bytes; i++)
            bytes[i] = value_at(op, op->offset + i);
        return qimg_image_write(image, op->offset, bytes, op->n_bytes);
    case CRASH_OP_ZERO:
        return qimg_image_zero(image, op->offset, op->n_bytes);
    case CRASH_OP_DISCARD:
        return qimg_image_discard(image, op->offset, op->n_bytes);
    case CRASH_OP_ALLOCATE:
        return qimg_image_allocate(image, op->offset, op->n_bytes);
    case CRASH_OP_FLUSH:
        return qimg_image_flush(image);
    default:
        g_assert(op->kind == CRASH_OP_RESIZE);
        return qimg_image_resize(image, op->offset, NULL, NULL);
    }
}

CrashModel *
crash_model_new(QimgImage *image, char **problem_out)
{
    CrashModel *model = g_new0(CrashModel, 1);
    int err;

    model->bytes = g_malloc0(CRASH_MAX_BYTES);
    model->size_bytes = qimg_image_get_size_bytes(image);
    g_assert_cmpuint(model->size_bytes, <=, CRASH_MAX_BYTES);
    model->size_unit_bytes =
        image->chain->layers[0]->driver == &qimg_driver_raw ? 1 : QIMG_SECTOR_BYTES;
    err = qimg_image_read(image, 0, model->bytes, model->size_bytes);
    if (!err)
        return model;
    *problem_out = g_strdup_printf("cannot be read: %s", g_strerror(-err));
    crash_model_free(model);
    return NULL;
}

CrashModel *
crash_model_copy(const CrashModel *model)
{
    CrashModel *copy = g_memdup2(model, sizeof *model);

    copy->bytes = g_memdup2(model->bytes, CRASH_MAX_BYTES);
    return copy;
}

void
crash_model_free(CrashModel *model)
{
    if (!model)
        return;
    g_free(model->bytes);
    g_free(model);
}

/* The size after @op on a disk like @model, but of @size_bytes. */
static uint64_t
size_after(const CrashModel *model, const CrashOp *op, uint64_t size_bytes)
{
    uint64_t end = op->offset + op->n_bytes;

    if (op->kind == CRASH_OP_RESIZE)
        return op->offset;
    if (op->kind == CRASH_OP_REVERT)
        return op->content->size_bytes;
    if (op->kind == CRASH_OP_WRITE && end > size_bytes)
        return qimg_div_round_up(end, model->size_unit_bytes) * model->size_unit_bytes;
    return size_bytes;
}

void
crash_model_apply(CrashModel *model, const CrashOp *op)
{
    model->size_bytes = size_after(model, op, model->size_bytes);
    switch (op->kind) {
    case CRASH_OP_WRITE:
        for (uint64_t i = op->offset; i < op->offset + op->n_bytes; i++)
            model->bytes[i] = value_at(op, i);
        break;
    case CRASH_OP_ZERO:
    case CRASH_OP_DISCARD:
        memset(model->bytes + op->offset, 0, op->n_bytes);
        break;
    case CRASH_OP_RESIZE:
        memset(model->bytes + op->offset, 0, CRASH_MAX_BYTES - op->offset);
        break;
    case CRASH_OP_REVERT:
        memcpy(model->bytes, op->content->bytes, CRASH_MAX_BYTES);
        break;
    default:
        break;
    }
}

/* Whether @op may make @value visible at @at. */
static bool
may_have_put(const CrashOp *op, uint64_t at, uint8_t value)
{
    switch (op->kind) {
    case CRASH_OP_WRITE:
        return at >= op->offset && at < op->offset + op->n_bytes &&
               value == value_at(op, at);
    case CRASH_OP_ZERO:
    case CRASH_OP_DISCARD:
        return at >= op->offset && at < op->offset + op->n_bytes && value == 0;
    case CRASH_OP_RESIZE: /* cut off, and grown again */
        return at >= op->offset && value == 0;
    case CRASH_OP_REVERT:
        return value == op->content->bytes[at];
    default:
        return false;
    }
}

typedef struct {
    uint64_t seen;
    uint64_t least, most; /* of the sizes that were possible */
} SizeSearch;

/* Whether a disk of @size_bytes may have the size that was seen after some of @ops, in
 * their order. An operation that failed may have changed the size, or not. */
static bool
may_have_size(SizeSearch *search, const CrashModel *base, const CrashOp *ops,
              size_t n_ops, uint64_t size_bytes)
{
    uint64_t next;

    search->least = MIN(search->least, size_bytes);
    search->most = MAX(search->most, size_bytes);
    if (size_bytes == search->seen)
        return true;
    if (n_ops == 0)
        return false;
    next = size_after(base, ops, size_bytes);
    if (ops->result && next != size_bytes &&
        may_have_size(search, base, ops + 1, n_ops - 1, size_bytes))
        return true;
    return may_have_size(search, base, ops + 1, n_ops - 1, next);
}

/* A raw disk ends with its file: if the machine dies, a change of its length may be lost,
 * although a later write below that end survives. */
static char *
compare_size(const CrashModel *base, const CrashOp *ops, size_t n_ops, uint64_t seen)
{
    SizeSearch search = {seen, base->size_bytes, base->size_bytes};

    if (may_have_size(&search, base, ops, n_ops, base->size_bytes))
        return NULL;
    if (base->size_unit_bytes == 1 && seen >= search.least && seen <= search.most)
        return NULL;
    return g_strdup_printf("the disk has %" PRIu64 " bytes, not %" PRIu64 " to %" PRIu64,
                           seen, search.least, search.most);
}

char *
crash_model_compare(const CrashModel *base, const CrashOp *ops, size_t n_ops,
                    const CrashModel *seen)
{
    char *problem = compare_size(base, ops, n_ops, seen->size_bytes);

    for (uint64_t at = 0; !problem && at < seen->size_bytes; at++) {
        uint8_t value = seen->bytes[at];
        size_t i = n_ops;

        if (at % 4096 == 0 && at + 4096 <= seen->size_bytes &&
            memcmp(base->bytes + at, seen->bytes + at, 4096) == 0) {
            at += 4095;
            continue;
        }
        if (value == base->bytes[at])
            continue;
        while (i > 0 && !may_have_put(&ops[i - 1], at, value))
            i--;
        if (i == 0)
            problem = g_strdup_printf("byte %" PRIu64 " is %02x, was %02x, and none of "
                                      "%zu operations has put that there",
                                      at, value, base->bytes[at], n_ops);
    }
    return problem;
}

char *
crash_model_compare_data_file(const CrashModel *base, const CrashOp *ops, size_t n_ops,
                              const CrashModel *seen, const CrashFixture *disk)
{
    g_autoptr(CrashModel) data = NULL;
    char *problem, *whole;

    if (!disk->is_data_file_raw)
        return NULL;
    data = crash_model_copy(seen);
    memset(data->bytes, 0, CRASH_MAX_BYTES);
    memcpy(data->bytes, disk->files[1]->data, MIN(disk->files[1]->len, seen->size_bytes));
    problem = crash_model_compare(base, ops, n_ops, data);
    if (!problem)
        return NULL;
    whole = g_strdup_printf("the raw data file: %s", problem);
    g_free(problem);
    return whole;
}
