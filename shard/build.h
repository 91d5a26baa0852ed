/* SPDX-License-Identifier: MIT
 *
 * The stages of sherd_plan_create, in the order in which they run. Each reads what the former ones filled in and
 * fills in more of the plan; on an error the plan is as destroyable as before.
 */
#ifndef SHERD_SHARD_BUILD_H
#define SHERD_SHARD_BUILD_H

#include "shard/plan.h"

/* Bound on the padded elements of a whole model. Eight such arrays of four bytes still count in 64 bits, so that
 * every later sum of bytes is safe once this bound has been checked. */
#define SHERD__MAX_ELEMS ((int64_t)1 << 57)

/* params.c: validates and copies the parameter table. */
sherd_status sherd__plan_take_params(sherd_plan *plan, const sherd_param *params, uint32_t n_params, sherd_error *err);
/* buckets.c: order, buckets and offsets within them. */
sherd_status sherd__plan_form_buckets(sherd_plan *plan, sherd_error *err);
/* Elements after which a bucket of this gradient type is closed. */
int64_t sherd__plan_target_elems(const sherd_plan *plan, sherd_dtype grad_dtype);
/* layout.c: offsets in every arena but the ring, and the arenas' sizes. */
void sherd__plan_place_arenas(sherd_plan *plan);
/* ring_plan.c: the ring's capacity, offsets, and who used a slot before. */
sherd_status sherd__plan_place_ring(sherd_plan *plan, sherd_error *err);
/* placement.c: where master and moments live, by budgets or by ratio; places the arenas anew for each candidate. After
 * the ring. */
sherd_status sherd__plan_place_state(sherd_plan *plan, sherd_error *err);
/* What one rank keeps of a bucket's master and moments, per element. */
uint64_t sherd__plan_state_bytes_per_elem(const sherd_plan *plan, const sherd__bucket *bucket);
/* hash.c: digest of all that ranks must agree on. */
sherd_status sherd__plan_seal(sherd_plan *plan, sherd_error *err);

/* count.c: can the sums be one tree over micro-batches. */
sherd_status sherd__plan_check_reproducible(const sherd_plan *plan, sherd_error *err);

/* transport.c: is the transport possible; its receive scratch, once the buckets are formed. */
sherd_status sherd__plan_check_transport(const sherd_config *config, sherd_error *err);
/* Every bucket's wire type, once they are formed. */
sherd_status sherd__plan_choose_wire(sherd_plan *plan, sherd_error *err);
void sherd__plan_place_receive(sherd_plan *plan);
/* muon.c: waves, owners, window and scratch of matrices, once the buckets are formed. */
sherd_status sherd__plan_place_muon(sherd_plan *plan, sherd_error *err);
/* Additions and multiplications that orthogonalising a parameter takes. */
double sherd__plan_matrix_flops(const sherd_plan *plan, uint32_t param);
/* memory.c: what the ratios of whole parameters take, once the buckets are formed. */
void sherd__plan_place_trust(sherd_plan *plan);

/* Elements of a bucket whose sums, and whose optimizer state, one rank keeps. */
static inline int64_t sherd__plan_sum_elems(const sherd_plan *plan, const sherd__bucket *bucket)
{
    return plan->whole_state || plan->full_mode ? bucket->elems : bucket->slice_elems;
}

static inline uint64_t sherd__plan_sum_elem_bytes(const sherd_plan *plan, const sherd__bucket *bucket)
{
    return sherd_dtype_bytes(sherd__plan_sum_dtype(plan, bucket));
}

/* A member of sherd_config as C writes it, "(uint64_t)config->zero.stage": its key, and what its values are called. */
void sherd__plan_field_name(const char *member, sherd__plan_field *out);

#endif
