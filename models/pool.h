/* SPDX-License-Identifier: MIT
 *
 * Worker threads of one rank's host ops. Work is a number of independent tasks, taken in order by whoever is free, so
 * results may not depend on who ran a task.
 */
#ifndef SHERD_MODELS_POOL_H
#define SHERD_MODELS_POOL_H

#include "sherd/sherd.h"

typedef struct sherd_pool sherd_pool;
typedef void (*sherd_pool_fn)(void *ctx, int64_t task, int worker);

/* `threads` includes the caller, which is worker 0. */
sherd_status sherd__pool_create(int threads, sherd_pool **out, sherd_error *err);
void sherd__pool_destroy(sherd_pool *pool);
int sherd__pool_threads(const sherd_pool *pool);
/* Runs fn(ctx, 0 … tasks − 1, worker) and returns when all are done. Tasks must end by themselves: they wait for
 * nobody. */
void sherd__pool_run(sherd_pool *pool, int64_t tasks, sherd_pool_fn fn, void *ctx);

#endif
