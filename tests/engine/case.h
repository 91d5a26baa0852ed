/* SPDX-License-Identifier: MIT
 *
 * One training run of a small synthetic model, as one rank sees it and as the oracle does. Everything is a function of
 * the case, so that any two runs of it can be compared bit for bit.
 */
#ifndef SHERD_TESTS_ENGINE_CASE_H
#define SHERD_TESTS_ENGINE_CASE_H

#include "sherd/sherd.h"
#include "tests/support/oracle.h"

#define CASE_MAX_STEPS 24

typedef enum case_arrival { ARRIVE_BACKWARD = 0, ARRIVE_SHUFFLED = 1, ARRIVE_FORWARD = 2 } case_arrival;

typedef struct engine_case {
    int32_t world, stage;
    int64_t bucket; /* elements, exact: 1 is one parameter per bucket, 1 << 40 all in one; 0: the plan's choice */
    sherd_optimizer optimizer;
    sherd_dtype dtype;
    int64_t accumulation, steps;
    double clipping;
    int32_t grad_sum_bf16, overlap;
    case_arrival arrival; /* order in which backward brings the gradients */
    int32_t bad_step;     /* > 0: one gradient of this step is infinite */
    int32_t copy_grads;   /* gradients come by sherd_grad_copy */
    int32_t blind;        /* the client never reads parameters, so nothing it waits for orders the engine by accident */
    int32_t leave_early;  /* the engine is destroyed right after its last step: no digest, zeros in the result */
    int32_t all_used;     /* every gradient comes */
    int32_t tied_large; /* the tied parameter is as large as the largest and follows it: its slot is its neighbour's */
    int32_t tenths;       /* of the state that leaves the device */
    int32_t disk;         /* and to where: 1 to files, 2 half to files by a budget of host memory */
    int32_t speculate;
    int32_t workers;      /* threads of host updates; 0: the default */
    int32_t kernels;      /* of host updates: sherd_config.offload.host_kernels */
    int32_t nodes;        /* > 1: host memory of so many nodes per rank, on a made-up machine */
    int32_t pin;          /* host memory is to be page-locked */
    int32_t fork_at;      /* > 0: a child process is made, and ends, in this step */
    int32_t read_back;    /* the masters are read too and must have the digest */
    const char *save_to;  /* a checkpoint is saved there after step save_at */
    int64_t save_at;
    const char *load_from; /* the run begins with this checkpoint, after step `first` */
    int64_t first;
    sherd_scaling scaling; /* dynamic: from 16, halved by the second overflow, doubled after 2 steps, 1 at least */
    double scale;          /* by which the client multiplies its gradients; set while the case runs */
    uint32_t bad_steps;    /* bit s: one gradient of step s is infinite */
    int32_t one_cycle;     /* that scheduler, with its momentum */
    int32_t rates;         /* groups' rates and decays are set while the case runs */
    int32_t early;         /* steps end after fewer micro-steps than configured, each after another number */
    int32_t discard;       /* micro-steps are discarded, after some of their gradients came */
    int32_t mixed;         /* parameters of all types in one engine */
    int32_t borrow;        /* some working copies lie in the client's memory */
    int32_t evaluate;      /* parameters are read between micro-steps and between steps too */
    int32_t ranges;        /* at the end all state is read and written by ranges */
    int32_t reproducible;  /* one tree over micro-batches */
    int32_t replan;        /* after the first step, by the order in which gradients came */
    int32_t moments_bf16;
    int32_t remainder;      /* sherd.master_remainder */
    int64_t check_replicas; /* every so many steps */
    uint64_t seed;
    sherd_wire wire;
    sherd_transport transport;
    sherd_reduction reduction;
    int32_t unchecked;         /* bf16.check_grad_overflow is false */
    sherd_nonfinite nonfinite; /* STOP: the run goes on and counts */
} engine_case;

typedef struct case_result {
    sherd_status status;
    sherd_error error;
    uint8_t param_hash[16], state_hash[16];
    double norm[CASE_MAX_STEPS], loss_scale[CASE_MAX_STEPS];
    int32_t skipped[CASE_MAX_STEPS];
    int64_t bad_param; /* of the last skipped step */
    int64_t updates;
    uint64_t parked, speculated, missed;
    uint64_t discarded, restarted; /* micro-steps; of them, others than their step's first */
    uint64_t parked_first;  /* of them in the first step */
    int32_t replanned;      /* the engine made a plan of its own */
    uint32_t buckets[3];    /* by tier */
    int32_t threads, nodes; /* that worked on offloaded state; 0: nothing was */
    int64_t stops;          /* steps that ended with ESTATE */
    int32_t memory_matches; /* ledger = plan in every planned category */
} case_result;

/* A number for table and message: "world 3 stage 2 bucket 1 AdamW bf16 K 1 …". Static buffer per thread. */
const char *case_name(const engine_case *c);
/* The i-th of the matrix for one world; returns 0 past the end. wide: also accumulation, grad_sum, arrival orders. */
int case_at(uint32_t index, int32_t world, int64_t steps, int wide, engine_case *out);

/* A folder for the disk tier's files, made at first use; removed at exit. */
const char *case_folder(void);
/* The same for offloading: every tenth on the host, speculated, on disk, and in parts on all three; stages, types, optimizers,
 * accumulation vary along. */
int case_offload_at(uint32_t index, int32_t world, int64_t steps, engine_case *out);
/* Types on the wire: every type of gradients and mixed ones, stages, accumulation; bucket sizes, orders of arrival,
 * optimizers vary along. */
int case_wire_at(uint32_t index, int32_t world, int64_t steps, engine_case *out);
/* LAMB: stages, bucket sizes, types and accumulation (CASE_LAMB_PLAIN of them), then every tenth on the host and on disk. */
#define CASE_LAMB_PLAIN 54
int case_lamb_at(uint32_t index, int32_t world, int64_t steps, engine_case *out);
/* Muon: the same. */
int case_muon_at(uint32_t index, int32_t world, int64_t steps, engine_case *out);
/* Number `i` of those before anything is offloaded. */
engine_case case_plain(int32_t world, uint32_t i, int64_t steps);

sherd_status case_config(const engine_case *c, sherd_config *out, sherd_error *err);
/* The model: under 30 k parameters; odd, empty, 0-d, frozen, tied, unused, larger than a bucket, two groups. */
const sherd_param *case_params(const engine_case *c, sherd_param out[16], uint32_t *n);

void case_run_rank(const engine_case *c, sherd_device *device, sherd_comm *comm, case_result *out);
void case_run_oracle(const engine_case *c, sherd_oracle_fault fault, case_result *out);
/* The engine's reads of masters, compared element by element with the oracle's; for diagnosis. */
int case_equal(const case_result *a, const case_result *b, int64_t steps);

#endif
