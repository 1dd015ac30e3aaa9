/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The connection to the kernel, shared by the serving threads.
 *
 * A thread with pending reads must not wait for a request, and an open file waits for all
 * threads or for none: while some thread has pending reads, and for a while afterwards,
 * receiving fails with -EAGAIN instead, and idle threads wait by polling. At other times,
 * receiving waits, which costs fewer system calls. */
#pragma once

#include <stdbool.h>

typedef struct Device Device;

/* @fd: the open device, used by serving threads only; it stays open. */
Device *device_new(int fd);

/* No thread may use it. Accepts NULL. */
void device_free(Device *device);

/* A thread has pending reads from now on: receiving does not wait. */
void device_begin_polling(Device *device);

/* It has none any more. */
void device_end_polling(Device *device);

/* A thread has received many requests without a pending read: receiving waits again,
 * unless another thread has some. */
void device_calm_down(Device *device);

/* Waits until there may be a request. A cancellation point. */
void device_wait(const Device *device);
