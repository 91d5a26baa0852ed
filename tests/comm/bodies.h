/* SPDX-License-Identifier: MIT
 *
 * What every rank does in the tests of collectives, whatever the world is made of.
 */
#ifndef SHERD_TESTS_COMM_BODIES_H
#define SHERD_TESTS_COMM_BODIES_H

#include "world.h"

int body_reduce_scatter(
    rank_ctx *ctx); /* fp32 and bf16, assign, add, narrow; bitwise; wrong orders differ from world 3 on */
int body_all_gather(rank_ctx *ctx);
int body_broadcast(rank_ctx *ctx);
int body_all_reduce(rank_ctx *ctx);
int body_reuse(rank_ctx *ctx);   /* one slot rewritten after `released` 100 times */
int body_random(rank_ctx *ctx);  /* arg: uint64_t seed; 200 collectives drawn from it */
int body_windows(rank_ctx *ctx); /* several sizes, zeroed, booked, gone */
int body_all(rank_ctx *ctx);     /* all of the above */

#endif
