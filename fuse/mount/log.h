/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Destinations of the running mount's messages, above all about damage. */
#pragma once

/* @text made fit for one line of a message: valid UTF-8 without control characters, since
 * names of files may hold anything. Free with g_free. */
char *log_line(const char *text);

/* Messages go to the terminal as lines, "qcowfs: warning: …". */
void log_to_terminal(void);

/* From now on, messages go to the system's log; opens its socket now. */
void log_to_syslog(void);

/* A new socket, connected to the system's log: its number, or -1. Thread-safe. */
int log_connect(void);

/* An alternative to log_connect. */
typedef int (*LogConnect)(void *user);

/* After a restart of the log, @connect_by(@user) reopens the socket, one call at a time;
 * NULL: log_connect. */
void log_connect_by(LogConnect connect_by, void *user);
