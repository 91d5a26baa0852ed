/* SPDX-License-Identifier: MIT
 *
 * sherd_steer.h: what a client may want while it trains beyond steps as configured: state by parameter and range, rates of its
 * own, steps that end early, micro-steps that are discarded. Part of sherd.h, whose conventions hold.
 */
#ifndef SHERD_SHERD_STEER_H
#define SHERD_SHERD_STEER_H

#include "sherd/sherd.h"

#if defined(__cplusplus)
extern "C" {
#endif

/* --------------------------------------------------------------------------------------------------------------- state */

/* What rank `rank` keeps the state of and updates of a parameter: elements *first … *first + *count − 1, in row order (count 0:
 * nothing; all of it at stage 0, and nothing of frozen ones). Pure. EINVAL: no such parameter or rank. */
SHERD_API sherd_status sherd_plan_own(const sherd_plan *plan, uint32_t param, int32_t rank, int64_t *first, int64_t *count);
/* Name of fp32 state `which`: 0 "master", then the optimizer's moments ("exp_avg", …). NULL past the last. Static. Under Muon
 * parameters differ in what they have: these are AdamW's, then that of matrices, where there are any. */
SHERD_API const char *sherd_plan_state(const sherd_plan *plan, uint32_t which);
/* The same of one parameter: its own states only, which the calls below number so. */
SHERD_API const char *sherd_plan_param_state(const sherd_plan *plan, uint32_t param, uint32_t which);
/* Further state of a parameter by `which`: 0 is the fp32 master (a frozen parameter's stored values widened), 1 and up are the
 * optimizer's moments, as sherd_plan_param_state names them. Between steps only; values are fp32 in row order, elements first …
 * first + count − 1 of the parameter, on whatever tier they lie.
 * COLLECTIVE, with the same arguments on every rank: `out[count]` is filled on every rank. */
SHERD_API sherd_status sherd_state_read(sherd_engine *engine, uint32_t param, uint32_t which, int64_t first, int64_t count,
                                        float *out, sherd_error *err);
/* Local: of what this rank updates itself (sherd_plan_own). EINVAL where the range is not within it. */
SHERD_API sherd_status sherd_state_read_own(sherd_engine *engine, uint32_t param, uint32_t which, int64_t first,
                                            int64_t count, float *out, sherd_error *err);
/* COLLECTIVE. From rank 0's `data[count]` (other ranks' may be NULL). The master's working copy is its narrowing; with
 * sherd.master_remainder a NaN is stored as 0x7FC00000. The count of updates, which says how far bias corrections are, is a
 * checkpoint's alone. */
SHERD_API sherd_status sherd_state_write(sherd_engine *engine, uint32_t param, uint32_t which, int64_t first,
                                         int64_t count, const float *data, sherd_error *err);

/* --------------------------------------------------------------------------------------------------------------- rates */

/* Rates while training. A group's rate, or weight decay, from the update of the step under way on (between steps: of the next
 * one): exactly this value, whatever the scheduler says, until it is set again. SHERD_AS_CONFIGURED: what the
 * configuration says. Local, at any time by the engine's thread. Only what rank 0 sets counts: it travels with the vote to all
 * ranks, so that they cannot drift apart; elsewhere the call checks its arguments and does nothing. Checkpoints do not keep it:
 * set it again after sherd_engine_load. Where state is speculated, a change costs that step's speculation. EINVAL: no
 * such group (the one group without groups is 0), or no number from 0 up. */
#define SHERD_AS_CONFIGURED (-1.0)
SHERD_API sherd_status sherd_engine_set_lr(sherd_engine *engine, uint32_t group, double lr, sherd_error *err);
SHERD_API sherd_status sherd_engine_set_weight_decay(sherd_engine *engine, uint32_t group, double weight_decay,
                                                     sherd_error *err);

/* ---------------------------------------------------------------------------------------------- steps that go otherwise */

/* Early boundary: this micro-step is the step's last, though fewer than gradient_accumulation_steps were made. The mean is
 * over the micro-steps there are. Right after sherd_micro_begin, before any gradient of it; on every rank or on none: ranks that
 * disagree end with a sentence (EMISMATCH), at the vote at the latest, and no rank has updated. EUNSUPPORTED under
 * sherd.reproducible. Local. */
SHERD_API sherd_status sherd_micro_last(sherd_engine *engine, sherd_error *err);
/* COLLECTIVE. Instead of sherd_engine_step: this micro-step never was, whatever gradients of it came (no thread may be writing
 * one any more; acquired ones need not be ready, acquired parameters are to be released). The next sherd_micro_begin says where
 * the step goes on. Where nothing of it has entered a sum that is this micro-step again: stages 0 and 1 with accumulation
 * keep it so until a bucket's gradients are complete on some rank. Else the step starts over from its first micro-step, and all
 * its micro-batches are computed again: bits are those of a step that was never disturbed. A declaration by sherd_micro_last
 * is void with it. EMISMATCH: a rank did something else, or discards another micro-step. */
SHERD_API sherd_status sherd_micro_discard(sherd_engine *engine, sherd_error *err);

#if defined(__cplusplus)
}
#endif
#endif
