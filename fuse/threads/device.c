/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "threads/device.h"

#include <fcntl.h>
#include <glib.h>
#include <poll.h>
#include <stdatomic.h>

#include "base/lock.h"

struct Device {
    int fd;                 /* const */
    QimgMutex lock;         /* rank QIMG_RANK_SERVERS */
    unsigned n_pollers;     /* guarded by lock: threads with pending reads */
    atomic_bool is_polling; /* atomic, relaxed; changed under lock: O_NONBLOCK is set */
};

Device *
device_new(int fd)
{
    Device *device = g_new0(Device, 1);

    device->fd = fd;
    qimg_mutex_init(&device->lock, QIMG_RANK_SERVERS);
    return device;
}

void
device_free(Device *device)
{
    if (!device)
        return;
    qimg_mutex_clear(&device->lock);
    g_free(device);
}

/* Under lock. */
static void
set_polling(Device *device, bool is_polling)
{
    if (atomic_load_explicit(&device->is_polling, memory_order_relaxed) == is_polling ||
        fcntl(device->fd, F_SETFL, O_RDWR | (is_polling ? O_NONBLOCK : 0)) < 0)
        return;
    atomic_store_explicit(&device->is_polling, is_polling, memory_order_relaxed);
}

void
device_begin_polling(Device *device)
{
    QIMG_LOCK_SCOPE(&device->lock);

    device->n_pollers++;
    set_polling(device, true);
}

void
device_end_polling(Device *device)
{
    QIMG_LOCK_SCOPE(&device->lock);

    device->n_pollers--;
}

void
device_calm_down(Device *device)
{
    if (!atomic_load_explicit(&device->is_polling, memory_order_relaxed))
        return;
    QIMG_LOCK_SCOPE(&device->lock);
    if (device->n_pollers == 0)
        set_polling(device, false);
}

void
device_wait(const Device *device)
{
    poll(&(struct pollfd){.fd = device->fd, .events = POLLIN}, 1, -1);
}
