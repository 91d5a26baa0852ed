/* SPDX-License-Identifier: MIT
 *
 * What a case does beside training: rates that change, state read and written by ranges, and the same for the oracle.
 */
#ifndef SHERD_TESTS_ENGINE_CASE_API_H
#define SHERD_TESTS_ENGINE_CASE_API_H

#include "tests/engine/case.h"

/* Before the k-th micro-step of step `step` (from 1) is closed. Ranks other than 0 set other values, which must not
 * count. */
sherd_status case_set_rates(const engine_case *c, sherd_engine *engine, int32_t rank, int64_t step, int64_t k);
/* The same for the oracle, before its step. */
void case_set_rates_oracle(const engine_case *c, sherd_oracle *oracle, int64_t step);
/* Every second parameter's working copy will lie in `block`, whose bytes are counted; the block may be NULL to count. */
size_t case_borrow(sherd_param *params, uint32_t n, unsigned char *block);
/* What the client reads of them lies there. */
sherd_status case_check_borrowed(sherd_engine *engine, const sherd_param *params, uint32_t n, case_result *out);
/* How many micro-steps a step has. */
int64_t case_micros(const engine_case *c, int64_t step);
/* 1: this attempt at a micro-step is discarded, and after how many uses on this rank. The first attempts of all steps together
 * cover: nothing came anywhere, some on some ranks, all on all. */
int case_discards(const engine_case *c, int64_t step, int64_t attempt, int32_t rank, uint32_t uses, uint32_t *after);
/* Every state in odd pieces has the digest `state_hash`, own parts are parts of it, a piece that is written is read
 * again and no more than it, and with the old values back the digest is the old one. */
sherd_status case_state_ranges(const sherd_plan *plan, sherd_engine *engine, const sherd_param *params, uint32_t n,
                               int32_t rank, case_result *out);

#endif
