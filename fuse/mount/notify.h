/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reports progress to the service manager by the protocol of sd_notify(3), without its
 * library. All functions do nothing if no service manager asked for reports. */
#pragma once

#include <glib.h>

/* Connects to the socket named by the environment, and removes it from the environment.
 * Call before entering the sandbox. */
void notify_open(void);

/* Sends "NAME=value" lines, formatted as by printf. Any thread. */
void notify_send(const char *format, ...) G_GNUC_PRINTF(1, 2);
