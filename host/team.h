/* SPDX-License-Identifier: MIT
 *
 * A team of worker threads that share out one loop at a time. The caller takes part; a team of 1 has no threads. Chunks are
 * numbered, so the work of a chunk depends on its number only, never on who does it: results do not depend on the team's size.
 */
#ifndef SHERD_HOST_TEAM_H
#define SHERD_HOST_TEAM_H

#include "base/status.h"

typedef struct sherd__team sherd__team;
typedef void (*sherd__team_fn)(void *arg, int64_t chunk, int32_t worker);

/* `threads` ≥ 1, the caller included. Workers keep their own floating-point mode (nearest, no flush to zero). */
sherd_status sherd__team_create(const sherd_allocator *allocator, int32_t threads, sherd__team **out, sherd_error *err);
void sherd__team_destroy(sherd__team *team);
int32_t sherd__team_threads(const sherd__team *team);
/* Calls fn(arg, c, w) for c in [0, chunks), w in [0, threads) distinct at any one time; returns when all are done. If the team is busy
 * with another stream's loop, the caller does everything itself as worker 0 of its own. Never allocates. `team` NULL: the caller alone. */
void sherd__team_run(sherd__team *team, int64_t chunks, sherd__team_fn fn, void *arg);

/* Sets the calling thread's floating-point mode to the library's (nearest even, subnormals kept) and returns the former;
 * restore puts it back. For work done on a caller's thread. */
uint64_t sherd__float_mode_enter(void);
void sherd__float_mode_leave(uint64_t former);

#endif
