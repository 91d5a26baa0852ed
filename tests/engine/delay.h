/* SPDX-License-Identifier: MIT
 *
 * A slow communicator: every collective on buckets takes `delay_ns` longer, on its own stream, as a slow link would.
 */
#ifndef SHERD_TESTS_ENGINE_DELAY_H
#define SHERD_TESTS_ENGINE_DELAY_H

#include "comm/comm.h"

/* Makes `comm` slow until undo. Static storage: one delay for all communicators of the process at a time. */
void delay_install(sherd_comm *comm, int64_t delay_ns);
/* Collectives on buckets that have run on this rank since install. */
int delay_done(const sherd_comm *comm);
void delay_remove(sherd_comm *comm);

#endif
