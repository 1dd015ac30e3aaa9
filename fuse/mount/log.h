/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where messages of the running mount go: damage that is found, above all. */
#pragma once

/* @text as it can stand in one line of a message, valid UTF-8 without control characters:
 * names of files may hold anything. Free with g_free. */
char *log_line(const char *text);

/* Messages become lines on the terminal, "qcowfs: warning: …". */
void log_to_terminal(void);

/* From now on they go to the system's log, whose socket is opened now. */
void log_to_syslog(void);

/* A new socket, connected to the system's log: its number, or -1. Thread-safe. */
int log_connect(void);

/* As log_connect, in another way. */
typedef int (*LogConnect)(void *user);

/* The socket is opened anew by @connect_by(@user), one call at a time, when the log was
 * started anew; by log_connect for NULL. */
void log_connect_by(LogConnect connect_by, void *user);
