/* SPDX-License-Identifier: MIT
 *
 * sherd.h: the whole public API of libsherd, a ZeRO-style sharded optimizer engine.
 *
 * How the parts fit:
 *
 *     sherd_config ─┐
 *     sherd_param[] ┼─► sherd_plan (pure: buckets, spans, ring, bytes, schedule) ─► sherd_engine (executes the plan
 *     world         ┘                                                                on a sherd_device over a sherd_comm)
 *
 * Conventions that hold for every function unless its comment says otherwise:
 *   status   Functions return SHERD_OK or the kind of fault. Where there is a `sherd_error *err` it may be NULL; on a
 *            fault it receives one sentence. `*out` is written on success only.
 *   handles  Opaque. Every create has one destroy, which takes NULL.
 *   threads  A handle may be used by one thread at a time. Exceptions are named (the gradient calls of an engine).
 *   local    A call is local (no other rank takes part) unless marked COLLECTIVE: then every rank of the communicator
 *            must make the same call in the same order.
 *   sizes    Counts of elements are int64_t, bytes are uint64_t, times are nanoseconds in int64_t.
 *   process  The library never prints, exits, aborts, or changes the environment.
 *   structs  A struct whose first member is `size` must have it set to sizeof(that struct) by its init function or by
 *            the caller; structs grow at their end only.
 */
#ifndef SHERD_SHERD_H
#define SHERD_SHERD_H

#include <stddef.h>
#include <stdint.h>

#include "sherd/sherd_base.h" /* status, log, allocator, types, memory */

#if defined(__cplusplus)
extern "C" {
#endif

/* -------------------------------------------------------------------------------------------------------------- config */

#define SHERD_MAX_GROUPS 16
#define SHERD_PATHS_MAX 1024 /* bytes of a list of folders, the final NUL included */
/* Budgets of memory, beside numbers of bytes. */
#define SHERD_BUDGET_NONE (-1) /* no limit */
#define SHERD_BUDGET_AUTO (-2) /* what is free: to be made a number by sherd_config_resolve_budget */

typedef enum sherd_optimizer {
    SHERD_ADAMW = 0, SHERD_ADAM /* L2, not decoupled */, SHERD_SGD, SHERD_LION, SHERD_ADAGRAD, SHERD_LAMB, SHERD_MUON
} sherd_optimizer;

typedef enum sherd_scheduler {
    SHERD_SCHED_NONE = 0, SHERD_SCHED_WARMUP, SHERD_SCHED_WARMUP_DECAY, SHERD_SCHED_WARMUP_COSINE,
    SHERD_SCHED_ONE_CYCLE, SHERD_SCHED_LR_RANGE_TEST
} sherd_scheduler;

/* What carries the collectives. It must be that of the engine's communicator: plans for NCCL and MPI hold a receive
 * scratch. AUTO is DIRECT. */
typedef enum sherd_transport {
    SHERD_TRANSPORT_AUTO = 0, SHERD_TRANSPORT_DIRECT = 1, SHERD_TRANSPORT_NCCL = 2, SHERD_TRANSPORT_MPI = 3
} sherd_transport;

/* TREE: the balanced tree over ranks, the same bits on every transport. NATIVE: the transport's own reduction in the
 * wire's type; its bits depend on the transport, its version and the machine. */
typedef enum sherd_reduction { SHERD_REDUCTION_TREE = 0, SHERD_REDUCTION_NATIVE = 1 } sherd_reduction;

/* The type in which a micro-batch's gradient is summed and travels (communication_data_type). GRADIENT: its own. BF16,
 * FP16: each is narrowed to it once, before anything is added (docs/numerics.md). FP32 changes no bit, because sums are
 * fp32 anyway: gradients travel as they are. */
typedef enum sherd_wire {
    SHERD_WIRE_GRADIENT = 0, SHERD_WIRE_FP32 = 1, SHERD_WIRE_BF16 = 2, SHERD_WIRE_FP16 = 3
} sherd_wire;

/* A parameter group. lr and weight_decay override the optimizer's own. With a scheduler, a group's rate is the scheduled
 * rate times lr / optimizer.lr. */
typedef struct sherd_group {
    double lr;
    double weight_decay;
} sherd_group;

/* Scheduler OneCycle: up over the first part, down over the second, then decay; counted in updates. */
typedef struct sherd_one_cycle {
    double min_lr, max_lr, decay_lr_rate;
    int64_t first_step_size, second_step_size;     /* 2000; second 0: as the first */
    int64_t first_stair_count, second_stair_count; /* 0: no stairs; second -1: as the first */
    int64_t decay_step_size;                       /* 0: no decay */
    int32_t cycle_momentum;                        /* beta1 goes the other way, beta2 is 0.99; not with SGD, Adagrad */
    double min_mom, max_mom, decay_mom_rate;       /* 0.8, 0.9, 0 */
} sherd_one_cycle;

/* By what the client multiplies its loss, so that small gradients survive their type. DYNAMIC: halved where gradients overflow,
 * doubled after a window without (docs/numerics.md). */
typedef enum sherd_scaling { SHERD_SCALING_NONE = 0, SHERD_SCALING_STATIC = 1, SHERD_SCALING_DYNAMIC = 2 } sherd_scaling;

/* Files with a row per step. The engine writes none: `sherd train` does, into the folder output_path/job_name, and other
 * clients find here what was asked for. */
typedef struct sherd_monitor {
    int32_t enabled;
    char output_path[SHERD_PATHS_MAX]; /* "": the current folder */
    char job_name[SHERD_PATHS_MAX];    /* "DeepSpeedJobName" */
} sherd_monitor;
/* What becomes of a step whose gradients are not finite. AUTO: skipped where bf16.check_grad_overflow or a dynamic loss scale says
 * so, else the update is made with what there is. SKIP: no update, the next step goes on. STOP: no update, and sherd_engine_step
 * returns ESTATE with a sentence that names the first such parameter, on every rank; not with a dynamic loss scale. */
typedef enum sherd_nonfinite { SHERD_NONFINITE_AUTO = 0, SHERD_NONFINITE_SKIP = 1, SHERD_NONFINITE_STOP = 2 } sherd_nonfinite;

/* The configuration by value: DeepSpeed's keys under their own names (docs/configuration.md has the whole table). Fill it
 * with sherd_config_init, then set members or read a JSON file. A value of 0 in the batch triad means "infer". */
typedef struct sherd_config {
    size_t size;
    int64_t train_batch_size;               /* sequences per step over all ranks and micro-steps */
    int64_t train_micro_batch_size_per_gpu; /* sequences per forward on one rank */
    int64_t gradient_accumulation_steps;    /* micro-steps per step */
    int64_t steps_per_print;                /* 10 */
    double gradient_clipping;               /* global L2 norm; 1.0, 0: off */
    double gradient_predivide_factor;       /* accepted; sums are never divided, so it cannot change a result */
    int32_t prescale_gradients;             /* likewise */
    int32_t allreduce_sum;                  /* gradient_allreduce_op: 0 mean (divide by the world), 1 sum */
    int32_t wall_clock_breakdown;
    int32_t memory_breakdown;
    sherd_dtype dtype;                      /* SHERD_BF16 with bf16.enabled, SHERD_FP16 with fp16.enabled, else SHERD_FP32 */
    int32_t check_grad_overflow;            /* bf16.check_grad_overflow */
    struct {
        int32_t stage;                      /* 0, 1, 2 */
        int64_t reduce_bucket_size;         /* elements, an upper bound; 5e8 */
        int64_t allgather_bucket_size;      /* elements, an upper bound; 5e8 */
        int32_t overlap_comm;               /* 1; an explicit false serialises reductions with backward */
        int32_t ignore_unused_parameters;   /* 1: a gradient that never came is zeros; 0: an error that names it */
    } zero;
    struct {
        sherd_optimizer kind;
        double lr, beta1, beta2, eps, weight_decay, momentum;
        int32_t bias_correction;
    } optimizer;
    struct {
        sherd_scheduler kind;
        double warmup_min_lr, warmup_max_lr, warmup_min_ratio, cos_min_ratio;
        int64_t warmup_num_steps, total_num_steps;
        int32_t warmup_linear;              /* warmup_type: 0 log, 1 linear */
    } scheduler;
    uint32_t n_groups;                      /* 0: one group with the optimizer's values */
    sherd_group groups[SHERD_MAX_GROUPS];
    struct {                                /* extensions, JSON object "sherd" */
        int32_t grad_sum_bf16;              /* grad_sum: 0 "fp32", 1 "bf16" */
        int32_t exact_bucket_size;          /* 1: reduce_bucket_size is a target as it stands, not an upper bound */
        double warn_after_s;                /* 60: a wait that lasts longer is logged */
        double fail_after_s;                /* 600: a wait that lasts longer ends the engine with a sentence */
    } sherd;
    struct {                                /* where the optimizer's state lives (zero_optimization.offload_optimizer, aio) */
        sherd_tier tier;                    /* device: none, cpu, nvme. With a device budget: the lowest tier allowed */
        double ratio;                       /* share of the state that leaves the device, without a budget; 1.0 */
        int64_t device_memory_budget;       /* bytes of the device tier for all that the plan names, or SHERD_BUDGET_… */
        int64_t host_memory_budget;         /* the same of the host tier, per rank */
        int32_t speculate;                  /* update before the vote, into second buffers */
        int32_t buffer_count;               /* buckets of the disk tier that are in host memory at once; 4 */
        int32_t pin_memory;                 /* 1: host memory is page-locked where the limit allows it, else a warning; 0: not */
        int32_t host_threads;               /* that update host memory, per rank; 0: the cores nearest the device */
        int32_t host_kernels;               /* 0: the best this processor runs; 1 avx512, 2 avx2, 3 portable, 4 reference */
        int64_t aio_block_size;             /* bytes of one read or write; 1048576 */
        int32_t aio_queue_depth;            /* of them at once; 8 */
        int32_t aio_single_submit, aio_overlap_events;
        char nvme_path[SHERD_PATHS_MAX];    /* folders of the disk tier, several separated by ':' */
        char host_topology[SHERD_PATHS_MAX]; /* "": the machine's own; else hwloc's synthetic text, "numa:2 core:4 pu:1" */
        char host_cores[SHERD_PATHS_MAX];   /* "": shared out; else processors@node of each local rank, "0-3@0,4-7@1;8-15@2" */
    } offload;
    struct {                                /* JSON object "sherd": transport, reduction */
        sherd_transport kind;
        sherd_reduction reduction;
    } transport;
    sherd_one_cycle one_cycle;              /* scheduler OneCycle */
    struct {                                /* scheduler LRRangeTest: min_lr × (1 + step_rate × updates / step_size) */
        double min_lr, step_rate;
        int64_t step_size;
        int32_t staircase;                  /* 1: the quotient is rounded down */
    } lr_range_test;
    struct {                                /* fp16.*; any type may be scaled if the client scales its loss */
        sherd_scaling kind;                 /* with fp16.enabled: static if loss_scale is above 0, else dynamic */
        double loss_scale, min_loss_scale;  /* the static one; the least of a dynamic one, 1 */
        int32_t initial_scale_power, hysteresis, consecutive_hysteresis; /* 16, 2, 0 */
        int64_t loss_scale_window;          /* steps; 1000 */
    } scaling;
    int32_t reproducible;                   /* sherd.reproducible: sums are one tree over micro-batches, whatever the world */
    sherd_monitor tensorboard, csv_monitor;
    struct { double max_coeff, min_coeff; } lamb; /* bounds of a parameter's norm over its direction's; 10, 0.01 */
    struct {                                /* JSON object "sherd": nonfinite, check_replicas */
        sherd_nonfinite nonfinite;
        int64_t check_replicas;             /* every so many steps ranks compare their working copies; 0: never */
    } faults;
    int32_t replan;                         /* sherd.replan: after the first step, once, by the order in which gradients came */
    int32_t moments_bf16;                   /* 1: moments are kept as bf16 (docs/numerics.md); masters stay fp32 */
    sherd_wire wire;                        /* communication_data_type */
    double silent_after_s;                  /* 30: sherd_comm_options has it too */
    int32_t master_remainder;               /* sherd.master_remainder: bf16 on the device keeps 2 bytes beside it, not a master of 4 */
    struct {                                /* optimizer Muon; its momentum is optimizer.momentum */
        double muon_lr, adam_lr;            /* rates of matrices and of all others, where lr is not both's; below 0: lr */
        int32_t nesterov, ns_steps;         /* 1; steps of Newton and Schulz, 5 */
    } muon;
} sherd_config;

/* Defaults. `size` is sizeof(sherd_config) as the caller was compiled. */
SHERD_API void sherd_config_init(sherd_config *config, size_t size);

/* Reads DeepSpeed's JSON over the defaults: the file at `path` (NULL: an empty object), then n_sets strings "a.b=V" applied
 * in order (V is JSON if it parses, else a string; missing objects are made). Values are validated first, then refused if
 * the feature is not built. Errors: EINVAL, EIO; "FILE: line L, column C: key.path: what is wrong, what to do". Warnings
 * (keys without effect, unknown keys at top level) go to `log`, which may be NULL. */
SHERD_API sherd_status sherd_config_read(sherd_config *config, const char *path, const char *const *sets, size_t n_sets,
                                         const sherd_log *log, sherd_error *err);
/* The same from text in memory; `name` stands for the file in messages. */
SHERD_API sherd_status sherd_config_parse(sherd_config *config, const char *text, size_t bytes, const char *name,
                                          const char *const *sets, size_t n_sets, const sherd_log *log,
                                          sherd_error *err);
/* Completes the batch triad for this world: train_batch_size = micro × accumulation × world; any one or two may be given.
 * Errors: EINVAL with the three numbers. Idempotent. */
SHERD_API sherd_status sherd_config_resolve(sherd_config *config, int32_t world, sherd_error *err);
/* Learning rate for the update that follows `updates` finished ones (source of the formulas: DeepSpeed's lr_schedules). */
SHERD_API double sherd_config_lr(const sherd_config *config, int64_t updates);

/* One row of the table of keys, for listings and documentation. Static strings. */
typedef enum sherd_key_status { SHERD_KEY_HONOURED, SHERD_KEY_NO_EFFECT, SHERD_KEY_REFUSED } sherd_key_status;
typedef struct sherd_config_key_info {
    const char *path;          /* "zero_optimization.stage" */
    const char *type;          /* "integer >= 1", "boolean", "object", …; a choice: "none|{cpu}", refused ones in braces */
    const char *default_value; /* as JSON text; "" for none */
    sherd_key_status status;
    const char *note;          /* what it does, why it has no effect, or what to do instead */
} sherd_config_key_info;
SHERD_API size_t sherd_config_key_count(void);
SHERD_API sherd_status sherd_config_key(size_t index, sherd_config_key_info *out);

/* ---------------------------------------------------------------------------------------------------------- parameters */

#define SHERD_MAX_DIMS 8
#define SHERD_PARAM_FROZEN 1u /* stored and readable, never updated, no gradient */
/* A hidden layer's matrix (two dimensions, both 1 or more: rows are outputs): optimizer Muon orthogonalises its step as a whole.
 * What does not have it, as embeddings, heads and norms should not, is updated by AdamW under Muon. No effect under other
 * optimizers. */
#define SHERD_PARAM_MUON 2u

/* One parameter. Register in forward order of first use: buckets run in reverse of it. The plan copies everything. */
typedef struct sherd_param {
    const char *name;  /* unique, at most 255 bytes */
    int64_t shape[SHERD_MAX_DIMS];
    uint32_t ndim;     /* 0: a scalar, one element. A dimension of 0 makes an empty parameter, which is legal. */
    sherd_dtype dtype; /* of the working copy */
    sherd_dtype grad_dtype; /* of its gradient, and on the wire without config.wire: must be fp32, or equal to dtype */
    uint32_t group;    /* index into config.groups; 0 without groups */
    uint32_t uses;     /* gradient contributions per micro-step; 0 counts as 1 */
    uint32_t flags;    /* SHERD_PARAM_… */
    /* NULL, or where the client has the working copy: elems values of dtype in memory of the device, aligned to the type, valid as
     * long as the engine. sherd_param_acquire gives this address. The engine alone writes there, from the first
     * sherd_param_write, load or step on: after each all-gather (stage 0: each update) it copies its own working copy, which
     * peers read, so this costs the client's bytes beside the planned ones (sherd_plan_text says how many) and a copy per
     * step. Not part of the plan's hash; ranks that are threads of one process need plans of their own then. */
    void *storage;
} sherd_param;

/* ---------------------------------------------------------------------------------------------------------------- plan */

typedef struct sherd_plan sherd_plan;

/* Pure and local: who owns what, which bucket goes when, what it costs. Linear in the number of parameters, whatever the
 * world. The plan owns copies of everything. Errors: EINVAL (names the parameter), ENOMEM, EUNSUPPORTED. */
SHERD_API sherd_status sherd_plan_create(const sherd_config *config, const sherd_param *params, uint32_t n_params,
                                         int32_t world, sherd_plan **out, sherd_error *err);
SHERD_API void sherd_plan_destroy(sherd_plan *plan);
/* Bytes rank `rank` will hold, planned categories only. */
SHERD_API sherd_status sherd_plan_memory(const sherd_plan *plan, int32_t rank, sherd_memory *out);
SHERD_API void sherd_plan_hash(const sherd_plan *plan, uint8_t out[16]);
SHERD_API const sherd_config *sherd_plan_config(const sherd_plan *plan); /* resolved; lives as long as the plan */
SHERD_API int32_t sherd_plan_world(const sherd_plan *plan);
SHERD_API uint32_t sherd_plan_params(const sherd_plan *plan);
SHERD_API int64_t sherd_plan_elems(const sherd_plan *plan); /* of all parameters, without padding */

typedef struct sherd_bucket_info {
    uint32_t n_params;
    int64_t elems;       /* with padding: world × slice_elems */
    int64_t slice_elems; /* what each rank owns of it; a multiple of 256 */
    uint64_t ring_offset, ring_bytes;
    sherd_dtype dtype, grad_dtype;
    sherd_tier tier;     /* where the owned part's master and moments live */
    int32_t speculated;  /* 1: updated before the vote */
} sherd_bucket_info;
SHERD_API uint32_t sherd_plan_buckets(const sherd_plan *plan);
SHERD_API sherd_status sherd_plan_bucket(const sherd_plan *plan, uint32_t bucket, sherd_bucket_info *out);
/* Bucket of a parameter; -1 for frozen and empty ones. */
SHERD_API int32_t sherd_plan_param_bucket(const sherd_plan *plan, uint32_t param);
/* The plan as text (buckets, ring, bytes, the schedule's actions). Writes at most `capacity` bytes with a final NUL; returns
 * the length the whole text has without it, so call twice. */
SHERD_API size_t sherd_plan_text(const sherd_plan *plan, char *buffer, size_t capacity);

/* What a step costs on a machine, by simulating the plan's schedule. All times in nanoseconds. */
typedef struct sherd_profile {
    size_t size;
    double ready_ns_per_elem;    /* backward time per gradient element */
    double forward_ns_per_elem;  /* forward time per parameter element */
    double reduce_ns_per_byte, gather_ns_per_byte; /* per byte of a whole bucket */
    double update_ns_per_elem;   /* per element of the own slice */
    double collective_ns;        /* fixed cost of each collective */
    double bus_ns_per_byte;      /* between device and host, each way */
    double host_update_ns_per_elem; /* of the offloaded part of the own slice */
    double disk_ns_per_byte;     /* each way */
    double ortho_ns_per_flop;    /* Muon: one rank's own matrix products in fp32; an addition and a product are two */
} sherd_profile;
typedef struct sherd_forecast {
    double step_ns;              /* steady state, one step */
    double exposed_comm_ns;      /* of it, time the compute stream waits for reductions and gathers */
    double exposed_update_ns;    /* of it, time it waits for updates */
} sherd_forecast;
SHERD_API sherd_status sherd_plan_forecast(const sherd_plan *plan, const sherd_profile *profile, sherd_forecast *out);

/* -------------------------------------------------------------------------------------------------------------- device */

typedef struct sherd_device sherd_device;
typedef struct sherd_checker sherd_checker;

typedef enum sherd_device_kind { SHERD_DEVICE_HOST = 0, SHERD_DEVICE_CHECK = 1, SHERD_DEVICE_CUDA = 2 } sherd_device_kind;

typedef struct sherd_device_options {
    size_t size;
    sherd_device_kind kind;
    int32_t threads;            /* of reductions and updates on the host; 0: 1. Results do not depend on it. */
    uint32_t trace_capacity;    /* operations to record with begin and end times; 0: none */
    uint64_t memory_limit;      /* bytes of the device tier after which allocation fails with ENOMEM; 0: none */
    sherd_checker *checker;     /* SHERD_DEVICE_CHECK: shared by all ranks */
    int32_t rank;               /* SHERD_DEVICE_CHECK: this rank's number */
    sherd_allocator allocator;  /* zeros: malloc */
    sherd_log log;
} sherd_device_options;

SHERD_API void sherd_device_options_init(sherd_device_options *options, size_t size);
/* options NULL: the host, one thread. */
SHERD_API sherd_status sherd_device_create(const sherd_device_options *options, sherd_device **out, sherd_error *err);
/* All engines and allocations of the device must be gone. */
SHERD_API void sherd_device_destroy(sherd_device *device);
/* Memory on the device, counted in its ledger. Aligned to 64 bytes at least; contents undefined. Any thread. */
SHERD_API sherd_status sherd_device_alloc(sherd_device *device, uint64_t bytes, sherd_category category, void **out,
                                          sherd_error *err);
/* On a GPU, blocks of the categories activations and workspace are kept for the next request of their size, which may
 * come before the GPU is through with them: use them on the compute stream only, whose order keeps the two apart. */
SHERD_API void sherd_device_free(sherd_device *device, void *block);
/* The ledger: bytes held now, and the highest each category (and the tiers' totals) has been. Either may be NULL. */
SHERD_API void sherd_device_memory(sherd_device *device, sherd_memory *live, sherd_memory *peak);
/* Highest total ever held at one time in a tier (not the sum of the categories' peaks). */
SHERD_API uint64_t sherd_device_peak_total(sherd_device *device, sherd_tier tier);
SHERD_API const char *sherd_device_describe(const sherd_device *device); /* "host, 2 threads, avx512 kernels": static */
SHERD_API sherd_device_kind sherd_device_kind_of(const sherd_device *device);

typedef struct sherd_trace_record {
    const char *name;    /* "reduce", "update", "wait:parameter acquire", …: valid as long as the device */
    const char *stream;  /* static: "compute", "comm", "update" */
    int32_t bucket;      /* -1: none */
    int64_t step;        /* of the engine, from 1 */
    int64_t begin_ns, end_ns; /* CLOCK_MONOTONIC */
} sherd_trace_record;
/* Copies at most `capacity` records, oldest first, and forgets them. Returns how many; *lost counts those that had no room. */
SHERD_API size_t sherd_device_trace(sherd_device *device, sherd_trace_record *out, size_t capacity, uint64_t *lost);

/* The checking device: ranks are threads of one process; every operation declares what it reads and writes, and any two
 * conflicting accesses without a wait between them are reported. Operations run in an order drawn from `seed` among the
 * legal ones. World `ranks` devices share one checker. */
SHERD_API sherd_status sherd_checker_create(int32_t ranks, uint64_t seed, sherd_checker **out, sherd_error *err);
SHERD_API void sherd_checker_destroy(sherd_checker *checker);
/* SHERD_OK, or ERACE with the first report: both accesses named. */
SHERD_API sherd_status sherd_checker_verdict(sherd_checker *checker, uint64_t *operations, sherd_error *err);

/* ------------------------------------------------------------------------------------------------------- communicators */

typedef struct sherd_comm sherd_comm;

typedef struct sherd_comm_options {
    size_t size;
    double warn_after_s, fail_after_s; /* 60 and 600 */
    sherd_log log;
    sherd_allocator allocator;
    int32_t ranks_per_node; /* sherd_comm_create_mpi: 0: nodes are as ranks are on hosts; R: ranks 0 … R−1 count as one, and so on */
    double silent_after_s;  /* sherd_comm_create_mpi, several nodes: 30; a wait for a rank of whose node nothing was heard for so long
                             * ends; 0: not before fail_after_s */
} sherd_comm_options;

SHERD_API void sherd_comm_options_init(sherd_comm_options *options, size_t size);
/* World 1. Here and below, options NULL: the defaults. */
SHERD_API sherd_status sherd_comm_create_self(const sherd_comm_options *options, sherd_comm **out, sherd_error *err);
/* `world` communicators for ranks that are threads of this process; out[world]. Each is used by its own thread. */
SHERD_API sherd_status sherd_comm_create_threads(const sherd_comm_options *options, int32_t world, sherd_comm **out,
                                                 sherd_error *err);
/* Ranks are processes of one host; data moves through shared memory (memfd). COLLECTIVE. The bootstrap needs only this:
 * `allgather` gives every rank all ranks' `bytes` bytes in rank order and returns 0; it is called a few times during
 * creation and never again. It must not wait for ever. */
typedef int (*sherd_allgather_fn)(void *ctx, const void *mine, void *all, size_t bytes);
SHERD_API sherd_status sherd_comm_create_local(const sherd_comm_options *options, int32_t rank, int32_t world,
                                               sherd_allgather_fn allgather, void *ctx, sherd_comm **out,
                                               sherd_error *err);
/* A ready-made bootstrap for ranks forked from one parent: the parent creates the rendezvous before it forks, every child
 * passes it as ctx of sherd_rendezvous_allgather after sherd_rendezvous_join. Shared memory, futexes, 60 s limit. */
typedef struct sherd_rendezvous sherd_rendezvous;
SHERD_API sherd_status sherd_rendezvous_create(int32_t world, sherd_rendezvous **out, sherd_error *err);
SHERD_API sherd_status sherd_rendezvous_join(sherd_rendezvous *rendezvous, int32_t rank, sherd_error *err);
SHERD_API int sherd_rendezvous_allgather(void *rendezvous, const void *mine, void *all, size_t bytes);
SHERD_API void sherd_rendezvous_destroy(sherd_rendezvous *rendezvous);

SHERD_API void sherd_comm_destroy(sherd_comm *comm); /* local; peers see the rank leave */
SHERD_API int32_t sherd_comm_rank(const sherd_comm *comm);
SHERD_API int32_t sherd_comm_world(const sherd_comm *comm);
SHERD_API const char *sherd_comm_describe(const sherd_comm *comm); /* "direct over shared memory (memfd)": static */

/* COLLECTIVE, before sherd_plan_create. Makes numbers of memory budgets that are SHERD_BUDGET_AUTO: the free bytes of device
 * (less model_bytes, what activations and workspace will take) and host, the least of all ranks. On a device whose memory is the
 * host's, half of what is free counts for each. Nothing to do: SHERD_OK at once, not collective then. */
SHERD_API sherd_status sherd_config_resolve_memory(sherd_config *config, sherd_device *device, sherd_comm *comm,
                                                   uint64_t model_bytes, sherd_error *err);

/* -------------------------------------------------------------------------------------------------------------- engine */

typedef struct sherd_engine sherd_engine;

/* COLLECTIVE. All ranks must hold the same plan (hashes are compared; EMISMATCH names a rank that differs). Plan, device and
 * communicator must outlive the engine; a communicator and a device serve one engine at a time. Everything the plan names is
 * allocated here and nothing later (but for sherd.replan, once). Parameters start as zeros. */
SHERD_API sherd_status sherd_engine_create(const sherd_plan *plan, sherd_device *device, sherd_comm *comm,
                                           sherd_engine **out, sherd_error *err);
/* The plan that the engine executes: the one it was made with or, once it has made another (sherd.replan), that one; valid until
 * the engine makes another or is destroyed. Local; not in a step. */
SHERD_API const sherd_plan *sherd_engine_plan(const sherd_engine *engine);
SHERD_API void sherd_engine_destroy(sherd_engine *engine); /* local; waits for the streams, within the limit */

/* COLLECTIVE. Sets a parameter from rank 0's `data`, fp32, elems values in row order (other ranks' data may be NULL). The
 * working copy is its narrowing. Between steps only. */
SHERD_API sherd_status sherd_param_write(sherd_engine *engine, uint32_t param, const float *data, sherd_error *err);
/* COLLECTIVE. Reads a parameter's fp32 master (frozen: the stored values widened) into data[elems] on every rank. */
SHERD_API sherd_status sherd_param_read(sherd_engine *engine, uint32_t param, float *data, sherd_error *err);

typedef struct sherd_micro {
    int64_t step;       /* the update this micro-step works towards, from 1 */
    int64_t index;      /* k: 0 … gradient_accumulation_steps − 1 */
    int64_t number;     /* which of the step's world × gradient_accumulation_steps micro-batches to compute */
    int32_t last;       /* 1: sherd_engine_step will update (see sherd_micro_last) */
} sherd_micro;

/* Opens a micro-step. The calls below come between it and sherd_engine_step, on the compute stream, which on the host
 * device is the calling thread. Calls without an `err` leave their sentence in sherd_engine_error. */
SHERD_API sherd_status sherd_micro_begin(sherd_engine *engine, sherd_micro *out);
/* The working copy, elems values of the parameter's dtype, readable until release. The compute stream waits for this
 * bucket's all-gather only. Any thread. Also legal outside a micro-step, between two of one step and between steps, as
 * often as one likes: evaluation needs nothing else. What was acquired is released before sherd_engine_step of the step's last
 * micro-step: the update writes it. The client never does: with sherd.master_remainder it is half of the master. */
SHERD_API sherd_status sherd_param_acquire(sherd_engine *engine, uint32_t param, const void **out);
SHERD_API sherd_status sherd_param_release(sherd_engine *engine, uint32_t param);

typedef struct sherd_grad {
    void *data;        /* elems values of the gradient dtype, row order; write all of them */
    int32_t beta;      /* 0: overwrite. 1: add to what is there (a further use in this micro-step) */
    sherd_dtype dtype;
} sherd_grad;
/* Where backward writes this use's gradient. Never waits for something that only the caller can bring about. Any thread. */
SHERD_API sherd_status sherd_grad_acquire(sherd_engine *engine, uint32_t param, sherd_grad *out);
/* The gradient of this use is written (on the compute stream). The bucket's reduction starts with its last one. Any thread. */
SHERD_API sherd_status sherd_grad_ready(sherd_engine *engine, uint32_t param);
/* acquire, copy (or add) from the caller's buffer of `dtype` (narrowed where it must be, docs/numerics.md), ready. */
SHERD_API sherd_status sherd_grad_copy(sherd_engine *engine, uint32_t param, const void *data, sherd_dtype dtype);

typedef struct sherd_report {
    size_t size;
    int64_t step;          /* the update the figures belong to, from 1; 0: none yet */
    int64_t updates;       /* updates made so far, skipped ones not counted */
    int32_t boundary;      /* 1: this call closed a step */
    int32_t skipped;       /* 1: non-finite gradients, the update was not made (config: bf16.check_grad_overflow, sherd.nonfinite) */
    int64_t bad_param;     /* first parameter (in backward order) with a non-finite gradient sum; -1: none */
    double grad_norm;      /* L2 of the mean gradient before clipping */
    double lr;             /* scheduled rate, before groups and what was set for them */
    double loss_scale;     /* of that step */
    int64_t step_ns;       /* from the first micro_begin of this step to that of the next, or to this call's return */
    int64_t forward_ns, backward_ns; /* micro_begin to first grad_acquire; from there to sherd_engine_step; summed */
    int64_t exposed_comm_ns; /* time the compute stream waited for reductions, the vote and gathers */
    int64_t update_ns;     /* first update's begin to last update's end of the previous finished step */
    uint64_t parked;       /* gradients parked outside the ring so far */
    uint64_t speculated;   /* buckets updated before the vote so far */
    uint64_t speculation_missed; /* of them, those that were updated again since the vote clipped or skipped */
} sherd_report;
SHERD_API void sherd_report_init(sherd_report *report, size_t size);

/* COLLECTIVE at the boundary. Closes the micro-step: gradients that never came are zeros (or an error that names them);
 * at the last micro-step votes, updates, and gathers. On the host device it returns when the vote is known; updates and
 * gathers go on beside the caller. On a GPU it returns when they are enqueued, and the report is the former step's
 * (report.step says which; 0: none yet): sherd_engine_wait, then sherd_engine_report, give the last one. `report` may be
 * NULL. */
SHERD_API sherd_status sherd_engine_step(sherd_engine *engine, sherd_report *report, sherd_error *err);
/* The latest report there is, without waiting. */
SHERD_API void sherd_engine_report(const sherd_engine *engine, sherd_report *report);
/* Multiply the loss of this step's micro-batches by it; 1 without loss scaling. Changes in sherd_engine_step only. Local. When the
 * scale is at its minimum and gradients still overflow, sherd_engine_step skips the update and returns ESTATE on every rank; so
 * it does with sherd.nonfinite "stop". The engine is as after any skipped step and may go on. */
SHERD_API double sherd_engine_loss_scale(sherd_engine *engine);
/* Waits until everything enqueued is done. Local. */
SHERD_API sherd_status sherd_engine_wait(sherd_engine *engine, sherd_error *err);
/* Offloading as it came out: threads and cores, arenas (bytes asked for and really there, per node), files. "" where nothing is
 * offloaded. Returns the whole length, as sherd_plan_text. Local; not in a step. */
SHERD_API size_t sherd_engine_offload_text(sherd_engine *engine, char *buffer, size_t capacity);
/* COLLECTIVE. 16-byte digests, independent of sharding (NUMERICS in docs/): masters; masters and moments. Either may be NULL. */
SHERD_API sherd_status sherd_engine_hash(sherd_engine *engine, uint8_t param_hash[16], uint8_t state_hash[16],
                                         sherd_error *err);
/* COLLECTIVE. Sum of one double over the ranks, by the balanced tree (a loss, a count). */
SHERD_API sherd_status sherd_engine_sum(sherd_engine *engine, double *value, sherd_error *err);
/* First error of the engine (or the last refused call's); SHERD_OK if there is none. Any thread. */
SHERD_API sherd_status sherd_engine_error(sherd_engine *engine, sherd_error *err);

/* ---------------------------------------------------------------------------------------------------------------- info */

/* What this build and machine offer, as "key: value" lines (version, features, kernels, transports, limits). Like
 * sherd_plan_text: returns the whole length, call twice. */
SHERD_API size_t sherd_info_text(char *buffer, size_t capacity);

#if defined(__cplusplus)
}
#endif

#include "sherd/sherd_nodes.h" /* several nodes */
#include "sherd/sherd_steer.h" /* rates and state while training, steps that go another way */
#include "sherd/sherd_store.h" /* checkpoints, safetensors */
#endif
