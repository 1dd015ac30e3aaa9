/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Telling the service manager how far we are: sd_notify(3)'s protocol, without its
 * library. Everything here does nothing where no service manager asked for it. */
#pragma once

#include <glib.h>

/* Connects to the socket that the environment names, and takes it out of the environment.
 * Before the sandbox is entered. */
void notify_open(void);

/* Sends "NAME=value" lines, made as by printf. Any thread. */
void notify_send(const char *format, ...) G_GNUC_PRINTF(1, 2);
