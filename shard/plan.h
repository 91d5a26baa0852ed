/* SPDX-License-Identifier: MIT
 *
 * The plan as the engine sees it: one immutable value. Pure: no clock, I/O, thread or device.
 *
 * Layout. Parameters with a gradient stand in reverse registration order; each starts at a multiple of 256 elements.
 * A bucket is a run of consecutive ones of one (dtype, grad_dtype), closed when the next would pass the target size;
 * a parameter larger than the target is a bucket of its own. A bucket is padded to world × slice_elems, slice_elems a
 * multiple of 256. Frozen parameters stand after all buckets in the parameter window; empty ones own nothing.
 *
 * Placement. Buckets [0, n_disk) keep master and moments in files, [n_disk, n_off) in host memory, the rest on the
 * device: what is reduced last stays. The sums of [0, n_off) cross to the host once per step.
 *
 * Modes. RING (stage 2, and stages 0 and 1 with one micro-step): each micro-step's leaves are reduced from the ring
 * into the sums of the owned slices. FULL (stages 0 and 1 with K > 1): leaves are added to full-size fp32 sums, which
 * are tree-summed slice by slice, in place, after the last micro-step.
 *
 * Reproducible: one balanced tree over the micro-batch numbers g. A micro-step's sum over the ranks (RING), or a rank's
 * leaves (FULL), are nodes of it; they are joined as a binary counter counts. The sums then have `carries` more arenas
 * like the first; the counter's place p lies in arena p.
 */
#ifndef SHERD_SHARD_PLAN_H
#define SHERD_SHARD_PLAN_H

#include "base/interval.h"
#include "base/status.h"
#include "shard/schedule.h"

#define SHERD__ALIGN_ELEMS 256

typedef struct sherd__plan_param {
    char *name;
    int64_t shape[SHERD_MAX_DIMS];
    uint32_t ndim;
    sherd_dtype dtype, grad_dtype;
    uint32_t group, uses, flags;
    void *storage; /* NULL, or the client's copy of the working copy; the only thing here that differs between ranks */
    int64_t elems;
    int32_t bucket;         /* -1: frozen or empty */
    int64_t offset;         /* elements: within the bucket (multiple of 256) */
    uint64_t param_offset;  /* bytes: within the parameter window (frozen ones too) */
    uint64_t shared_offset; /* bytes: within the gradients/shared arena, for uses > 1 */
    int32_t owner;          /* Muon's matrices: the rank that orthogonalises it; else -1 */
} sherd__plan_param;

typedef struct sherd__slot {
    uint32_t index;
    uint32_t former;         /* bucket */
    int32_t former_previous; /* 1: its use in the former step */
    uint32_t next;           /* bucket that takes it after this one; SHERD__NOBODY: none in this step */
} sherd__slot;
#define SHERD__NOBODY UINT32_MAX

typedef struct sherd__bucket {
    uint32_t first, count; /* into plan->order */
    sherd_dtype dtype, grad_dtype;
    sherd_dtype wire_dtype; /* of leaves: what reductions read from the slot's begin on, and what travels */
    int64_t elems, slice_elems;
    uint64_t first_block;  /* number of the bucket's first 256-element block: parameters' blocks in bucket order,
                              bucket padding not counted, so numbers do not depend on bucket sizes */
    uint64_t param_offset; /* bytes in the parameter window; multiple of 64 */
    uint64_t ring_offset, ring_bytes; /* bytes in the ring; the same on every rank */
    uint64_t sum_offset;   /* bytes in the grad_sums arena (of the owned part: slice, or whole at stage 0 and in FULL
                              mode) */
    uint64_t state_offset; /* elements in the first moment's arena (slice, or whole at stage 0) */
    uint64_t second_offset; /* the same in the second's, where the bucket has two moments */
    uint64_t master_offset; /* elements in the master arena (that of remainders, where it has one); unused where dtype
                               is fp32: the working copy is the master */
    int32_t remainder;      /* 1: the master is the bf16 working copy and a 16-bit remainder beside it (base/half.h) */
    uint32_t contributions; /* sum of its parameters' uses: grad_ready calls that complete it in a micro-step */
    /* The slot is free once bucket ring_after has been released by every rank: the latest in reduction order among those
     * whose bytes overlap. ring_after_previous: 1 where that is the previous micro-step's (of this or the previous step;
     * it may be the bucket itself), 0 where it is this micro-step's. */
    uint32_t ring_after;
    int32_t ring_after_previous;
    /* Placement. Slots are small rings whose users are fixed: the former user in update order (sum slots: in order of
     * reduction), and 1 where that is the former step's. */
    sherd_tier tier;
    int32_t speculated;
    sherd__slot sum_slot;          /* device: the sum on its way to the host; unused where plan->sum_slots is 0 */
    sherd__slot emit_slot;         /* host: bf16 on its way to the device; speculated buckets have a place of their own */
    sherd__slot disk_slot;         /* host: state of a disk bucket */
    uint64_t host_sum_offset;      /* bytes in the host's sums, below n_off */
    uint64_t host_master_offset;   /* elements in the host's masters (HOST) or in a file of masters (DISK) */
    uint64_t shadow_offset, shadow_emit_offset; /* elements in the second buffers, where speculated */
    /* Muon: all of it are matrices that are stepped as wholes (shard/muon.c). */
    int32_t muon;
    uint32_t wave;          /* from 0, in the order of updates */
    uint64_t window_offset; /* bytes in the window, all of the bucket as fp32 */
    double ortho_flops;     /* its part of what the wave's busiest rank does */
} sherd__bucket;

#define SHERD__SUM_SLOTS  3u
#define SHERD__EMIT_SLOTS 3u
#define SHERD__MAX_SLOTS  64u

/* Which buckets live where, and what that takes. */
typedef struct sherd__placement {
    uint32_t n_disk, n_off;      /* buckets [0, n_disk) on disk, [n_disk, n_off) in host memory */
    uint32_t n_speculated;       /* of them, [n_disk, n_disk + n_speculated) are updated before the vote */
    uint32_t sum_slots;          /* 0: every bucket's sum has its place on the device */
    uint32_t emit_slots, disk_slots;
    uint64_t sum_slot_bytes;     /* device */
    uint64_t emit_slot_elems;    /* host, bf16 */
    uint64_t disk_slot_bytes;    /* host, of master and moments */
    uint64_t host_sum_bytes;
    uint64_t host_master_elems, host_moment_elems; /* moments: of all arrays together */
    uint64_t disk_elems, disk_moment_elems;        /* masters; moments likewise */
    uint64_t shadow_elems, shadow_emit_elems;
} sherd__placement;

struct sherd_plan {
    sherd_config config; /* resolved */
    int32_t world;
    int32_t full_mode;   /* 0 RING, 1 FULL */
    int32_t whole_state; /* 1: stage 0, every rank holds and updates whole buckets */
    int32_t narrow_sums; /* 1: grad_sum bf16 in effect for bf16 buckets */
    int32_t sums_bf16;   /* 1: and stored as bf16 (K = 1) */
    uint32_t n_moments;
    sherd_dtype moment_dtype; /* fp32 or bf16 */
    uint32_t n_params, n_buckets;
    sherd__plan_param *params;
    uint32_t *order; /* parameters with a bucket, in bucket order */
    const uint32_t *arrival; /* while the plan is made: every parameter, in the order wanted; NULL: from the last to the first */
    sherd__bucket *buckets;
    uint64_t param_bytes, ring_bytes, sum_bytes, shared_bytes; /* arena sizes; there are 1 + carries of sums */
    uint32_t carries;
    uint64_t master_elems, moment_elems;                       /* per arena; of moments, the first's */
    uint64_t second_elems;                                     /* the second moment's */
    uint64_t remainder_elems;                                  /* beside master_elems, 2 bytes each */
    uint64_t comm_bytes;                                       /* control block and vote, per rank */
    sherd__placement placement;
    int64_t total_elems;                                       /* without padding, frozen included */
    sherd__schedule schedule;
    /* Ratios of whole parameters (optim/trust.h), where the optimizer wants them. Parameters stand in the plan's order. Part of
     * COMMUNICATION: on the device one slice of sums for every rank whose part differs, their total where that is more than one,
     * and the ratios; on the host the total and the ratios once more, which offloaded buckets work with. */
    int32_t trust;
    uint32_t trust_slices;      /* the world; 1 where every rank has whole buckets */
    uint32_t n_tensors;         /* in `order` */
    uint64_t trust_slice_bytes, ratio_bytes;
    /* Muon's matrices (shard/muon.c). Part of COMMUNICATION on the device: the window, and the scratch of the largest. */
    uint32_t n_matrices, n_waves;
    uint64_t window_bytes, ortho_bytes;
    uint64_t receive_bytes; /* of comm_bytes: what others' slices arrive in, where they cannot be read in place */
    uint8_t hash[16];
};

/* One of the numbers that the plan's hash is made of, those of parameters and buckets left out. */
typedef struct sherd__plan_field {
    char name[96]; /* as the configuration file has it: "zero_optimization.stage" */
    uint64_t bits;
    int32_t real;        /* 1: those of a double */
    const char *choices; /* "tree|native": what 0, 1, … are called there; NULL: it is a number. Static */
} sherd__plan_field;
void sherd__plan_field_at(const sherd_plan *plan, uint32_t index, sherd__plan_field *out);
/* `bits` as the configuration file would have it: a name where there is one for it, else the number. */
void sherd__plan_value_text(const sherd__plan_field *field, uint64_t bits, char *out, size_t capacity);
/* Digests of fields, and of parameters, [begin, end); fields past the last count for nothing. */
uint64_t sherd__plan_fields_digest(const sherd_plan *plan, uint32_t begin, uint32_t end);
uint64_t sherd__plan_params_digest(const sherd_plan *plan, uint32_t begin, uint32_t end);

/* Spans of `bucket` clipped to [begin, end) of its elements, into out[capacity]; returns how many there are (call
 * with capacity 0 to count). Padding belongs to no span. Adjacent parameters of one group merge only where no padding
 * lies between them. */
uint32_t sherd__plan_spans(const sherd_plan *plan, uint32_t bucket, int64_t begin, int64_t end, sherd__span *out,
                           uint32_t capacity);
/* Parameter that owns block `number` (first_block numbering); -1 if none. */
int64_t sherd__plan_param_of_block(const sherd_plan *plan, uint64_t number);
/* The plan's transport: AUTO decided. */
static inline sherd_transport sherd__plan_transport(const sherd_config *config)
{
    return config->transport.kind == SHERD_TRANSPORT_AUTO ? SHERD_TRANSPORT_DIRECT : config->transport.kind;
}

const char *sherd__transport_name(sherd_transport transport); /* "nccl" */

/* Type of the leaves that gradients of this type become. */
sherd_dtype sherd__plan_wire_dtype(const sherd_config *config, sherd_dtype grad_dtype);

/* COMMUNICATION, per rank: the communicator's control block, the engine's step block (vote, norm, step state and
 * scalars), and a scratch window with one line for every rank; with receive_bytes beside them. */
#define SHERD__CONTROL_BYTES          4096u
#define SHERD__STEP_BYTES             4096u
#define SHERD__SCRATCH_BYTES_PER_RANK 64u
uint64_t sherd__plan_comm_bytes(int32_t world);
/* COMMUNICATION on the host tier, per rank: the host's copy of the step block, and what device values are staged through when
 * the host must see them (digests). */
#define SHERD__STAGE_BYTES 65536u
#define SHERD__HOST_COMM_BYTES (SHERD__STEP_BYTES + SHERD__STAGE_BYTES)

/* Does a collective gather Muon's directions, and does one share the results? */
static inline int sherd__plan_joins(const sherd_plan *plan) { return plan->world > 1 && !plan->whole_state; }
static inline int sherd__plan_shares(const sherd_plan *plan) { return plan->world > 1; }

static inline uint64_t sherd__plan_trust_device_bytes(const sherd_plan *plan)
{
    return (plan->trust_slices + (plan->trust_slices > 1)) * plan->trust_slice_bytes + plan->ratio_bytes;
}

/* How state `which` (0: master, then the moments) is kept; a bucket with `remainder` has its master in two halves
 * instead. */
static inline sherd_dtype sherd__plan_state_dtype(const sherd_plan *plan, uint32_t which)
{
    return which == 0 ? SHERD_FP32 : plan->moment_dtype;
}

static inline uint64_t sherd__plan_state_width(const sherd_plan *plan, uint32_t which)
{
    return sherd_dtype_bytes(sherd__plan_state_dtype(plan, which));
}

/* Moments of a bucket's parameters: under Muon those of matrices are fewer. */
static inline uint32_t sherd__bucket_moments(const sherd_plan *plan, const sherd__bucket *bucket)
{
    return bucket->muon ? 1 : plan->n_moments;
}

/* States of a parameter, the master included. */
static inline uint32_t sherd__plan_param_states(const sherd_plan *plan, uint32_t param)
{
    int32_t bucket = plan->params[param].bucket;
    if (bucket >= 0)
        return 1 + sherd__bucket_moments(plan, &plan->buckets[bucket]);
    return plan->params[param].flags & SHERD_PARAM_FROZEN ? 1 : 1 + plan->n_moments;
}

/* Elements in the arena of moment m, and where a bucket's begin there. */
static inline uint64_t sherd__plan_moment_elems(const sherd_plan *plan, uint32_t m)
{
    return m == 0 ? plan->moment_elems : plan->second_elems;
}

static inline uint64_t sherd__bucket_moment_offset(const sherd__bucket *bucket, uint32_t m)
{
    return m == 0 ? bucket->state_offset : bucket->second_offset;
}

/* 1: the bucket's master and moments are not on the device. */
static inline int sherd__bucket_offloaded(const sherd__bucket *bucket) { return bucket->tier != SHERD_TIER_DEVICE; }

/* 1: the client's gradients are narrowed in their slot before they are summed. */
static inline int sherd__bucket_narrowed(const sherd__bucket *bucket)
{
    return bucket->wire_dtype != bucket->grad_dtype;
}

/* What a rank updates of a bucket: all of it at stage 0, else its slice. Elements, and where they begin in the bucket. */
static inline int64_t sherd__plan_part_begin(const sherd_plan *plan, const sherd__bucket *bucket, int32_t rank)
{
    return plan->whole_state ? 0 : rank * bucket->slice_elems;
}

static inline int64_t sherd__plan_part_elems(const sherd_plan *plan, const sherd__bucket *bucket)
{
    return plan->whole_state ? bucket->elems : bucket->slice_elems;
}

/* Storage type of a bucket's sums. */
static inline sherd_dtype sherd__plan_sum_dtype(const sherd_plan *plan, const sherd__bucket *bucket)
{
    return plan->sums_bf16 && bucket->dtype == SHERD_BF16 ? SHERD_BF16 : SHERD_FP32;
}

/* 1: the directions of an offloaded bucket of Muon's matrices, and its steps, need a place of their own on the host; sums of
 * fp32 make room for them where they lie. */
static inline int sherd__bucket_has_step(const sherd_plan *plan, const sherd__bucket *bucket)
{
    return bucket->muon && sherd__bucket_offloaded(bucket) && sherd__plan_sum_dtype(plan, bucket) != SHERD_FP32;
}

/* Reproducible: what micro-step k does to the places of the counter. Its own sum is assigned or added to `place`; then
 * `joins` times place p is added to place p − 1, from `place` downwards. In the step's last micro-step all is joined:
 * `place` times. The result is in place 0. */
typedef struct sherd__count {
    uint32_t place, joins;
    int32_t assign;
} sherd__count;
sherd__count sherd__plan_count(int64_t k);
/* Places after the first that micro-steps 0 … accumulation − 1 need. */
uint32_t sherd__plan_carries(int64_t accumulation);

/* The same parameters and configuration laid out in another order: arrival[n_params] names every parameter once, first ready
 * first. Refused with EINVAL where the new plan cannot be had, as sherd_plan_create does. */
sherd_status sherd__plan_reordered(const sherd_plan *plan, const uint32_t *arrival, sherd_plan **out, sherd_error *err);

/* The micro-batch number (NUMERICS: Numbering). */
int64_t sherd__plan_micro_number(const sherd_plan *plan, int32_t rank, int64_t k);

#endif
