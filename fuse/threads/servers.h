/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The serving threads: as many as requested while none waits for a disk, and more, up to
 * a limit, while some do. So every waiting request has a read in flight, and requests for
 * cached bytes share few threads.
 *
 * Before a thread waits, it makes sure that enough others do not. A thread ends after
 * many requests in a row without a wait, if there are more threads than requested. */
#pragma once

#include <stdbool.h>

typedef struct Servers Servers;
typedef struct Server Server;

/* The body of a thread: serves until there is nothing more, or server_may_end says so. It
 * starts with cancellation enabled, and may be cancelled wherever it enables
 * cancellation. */
typedef void (*Serve)(void *user, Server *server);

/* The limit of threads if @n_threads are requested. A request for one thread gets no more
 * than one. */
unsigned servers_limit(unsigned n_threads);

/* Makes a set of @n_threads threads that call @serve(@user, …), at most @max_threads
 * while some wait; none runs yet. */
Servers *servers_new(unsigned n_threads, unsigned max_threads, Serve serve, void *user);

/* Starts the threads; returns their number (fewer, perhaps none, if the system gives no
 * more). */
unsigned servers_start(Servers *servers);

/* The thread's place among @max_threads; no other running thread has it, later ones may.
 */
unsigned server_place(const Server *server);

/* A thread calls it after each request: true if the thread is surplus and must return
 * from its Serve at once. */
bool server_may_end(Server *server);

/* Number of threads now. Threads: any. */
unsigned servers_count(Servers *servers);

/* Cancels all threads, waits until they have ended, and starts no more. Call it in the
 * thread that called servers_new. */
void servers_stop(Servers *servers);

/* Frees @servers; no thread may run. Accepts NULL. */
void servers_free(Servers *servers);
