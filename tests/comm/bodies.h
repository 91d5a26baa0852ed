/* SPDX-License-Identifier: MIT
 *
 * What every rank does in the tests of collectives, whatever the world is made of.
 */
#ifndef SHERD_TESTS_COMM_BODIES_H
#define SHERD_TESTS_COMM_BODIES_H

#include "world.h"

/* Tree sum over ranks of recursively halved ranges (NUMERICS), written here independently of the library. */
float tree_of(const float *leaves, int32_t low, int32_t high);
float left_to_right(const float *leaves, int32_t n);

int body_reduce_scatter(
    rank_ctx *ctx); /* fp32 and bf16, assign, add, narrow; bitwise; a wrong order differs from world 3 on */
int body_all_gather(rank_ctx *ctx);
int body_broadcast(rank_ctx *ctx);
int body_all_reduce(rank_ctx *ctx);
int body_reuse(rank_ctx *ctx);   /* one slot rewritten after `released` 100 times */
int body_random(rank_ctx *ctx);  /* arg: uint64_t seed; 200 collectives drawn from it */
int body_windows(rank_ctx *ctx); /* several sizes, zeroed, booked, gone */
int body_all(rank_ctx *ctx);     /* all of the above */

#endif
