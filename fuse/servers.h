/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The threads that serve: as many as were asked for while none waits for a disk, and
 * more, up to a limit, while some do. So as many reads are in flight as there are
 * requests, and requests that find their bytes in memory are spread over few threads.
 *
 * A thread that is about to wait makes sure that enough others do not. One that has
 * served many requests in a row without a wait, while there are more threads than asked
 * for, ends. */
#pragma once

#include <stdbool.h>

typedef struct Servers Servers;
typedef struct Server Server;

/* What a thread runs: serves until there is nothing more, or server_may_end says so. It
 * is started with its cancellation enabled, and may be cancelled where it enables it. */
typedef void (*Serve)(void *user, Server *server);

/* How many threads there may be where @n_threads are asked for. Who asks for one gets no
 * more. */
unsigned servers_limit(unsigned n_threads);

/* Makes a set of @n_threads threads that call @serve(@user, …), at most @max_threads
 * while some wait; none runs yet. */
Servers *servers_new(unsigned n_threads, unsigned max_threads, Serve serve, void *user);

/* Starts the threads; returns how many there are (fewer, perhaps none, when the system
 * gives no more). */
unsigned servers_start(Servers *servers);

/* For a thread after each request: whether it is one too many and has to return from its
 * Serve at once. */
bool server_may_end(Server *server);

/* Number of threads now. Threads: any. */
unsigned servers_count(Servers *servers);

/* Cancels all threads, waits until they have ended, and starts no more. In the thread
 * that has called servers_new. */
void servers_stop(Servers *servers);

/* Frees; no thread may run. Accepts NULL. */
void servers_free(Servers *servers);
