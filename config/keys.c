/* SPDX-License-Identifier: MIT
 *
 * The table. Defaults are those of reference DeepSpeed unless the note says otherwise. A row of status "refused"
 * stops the reading only when its value asks for the feature, that is, when it differs from the default written
 * here.
 */
#include "config/keys.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define AT(member) offsetof(sherd__draft, member)
#define HONOURED(path, type, range, store, member, value, note)                                                        \
    {path, SHERD__##type, SHERD__RANGE_##range, SHERD__STORE_##store, AT(member), SHERD_KEY_HONOURED, 0, 0, NULL,      \
     value, note}
#define PARAMETER(path, members, type, range, store, member, value, note)                                              \
    {path, SHERD__##type, SHERD__RANGE_##range, SHERD__STORE_##store, AT(member), SHERD_KEY_HONOURED, 0, members,      \
     NULL, value, note}
#define CHOICE(path, members, flags, member, choices, value, note)                                                     \
    {path, SHERD__CHOICE, SHERD__RANGE_ANY, SHERD__STORE_I32, AT(member), SHERD_KEY_HONOURED, flags, members,          \
     choices, value, note}
#define NO_EFFECT(path, type, range, value, note)                                                                      \
    {path, SHERD__##type, SHERD__RANGE_##range, SHERD__STORE_NONE, 0, SHERD_KEY_NO_EFFECT, 0, 0, NULL, value, note}
#define NO_EFFECT_CHOICE(path, choices, value, note)                                                                   \
    {path, SHERD__CHOICE, SHERD__RANGE_ANY, SHERD__STORE_NONE, 0, SHERD_KEY_NO_EFFECT, SHERD__KEY_ANY_CASE, 0,         \
     choices, value, note}
#define REFUSED(path, type, range, value, note)                                                                        \
    {path, SHERD__##type, SHERD__RANGE_##range, SHERD__STORE_NONE, 0, SHERD_KEY_REFUSED, 0, 0, NULL, value, note}
#define REFUSED_CHOICE(path, choices, value, note)                                                                     \
    {path, SHERD__CHOICE, SHERD__RANGE_ANY, SHERD__STORE_NONE, 0, SHERD_KEY_REFUSED, 0, 0, choices, value, note}
#define SECTION(path, status, flags, note)                                                                             \
    {path, SHERD__OBJECT, SHERD__RANGE_ANY, SHERD__STORE_NONE, 0, SHERD_KEY_##status, flags, 0, NULL, "", note}

#define ADAM SHERD__FOR_ADAM
#define SGD SHERD__FOR_SGD
#define LION SHERD__FOR_LION
#define ADAGRAD SHERD__FOR_ADAGRAD
#define LAMB SHERD__FOR_LAMB
#define MUON SHERD__FOR_MUON
#define OPTIMIZERS SHERD__FOR_OPTIMIZERS
#define WARMUP (SHERD__FOR_WARMUP | SHERD__FOR_DECAY)
#define COSINE SHERD__FOR_COSINE
#define CYCLE SHERD__FOR_CYCLE
#define RANGE SHERD__FOR_RANGE

#define STAGE_3_ONLY "belongs to stage 3, which is not built yet; stages 0 to 2 do not use it"
#define ELASTIC_ONLY "belongs to elasticity, which is not built"
#define WANDB "Sherd sends nothing over the network; enable tensorboard or csv_monitor instead, which wandb can import"
#define PROFILER "Sherd has no such profiler; sherd train --trace FILE and sherd bench show where the time goes"
#define NO_CHECKPOINT "checkpoints load at any world size, from the fp32 masters, and all ranks must agree"

const sherd__key sherd__keys[] = {
    /* ---- top level */
    HONOURED("train_batch_size", INTEGER, ONE_UP, I64, config.train_batch_size, "",
             "sequences per step over all ranks and micro-steps; inferred if absent"),
    HONOURED("train_micro_batch_size_per_gpu", INTEGER, ONE_UP, I64, config.train_micro_batch_size_per_gpu, "",
             "sequences per forward on one rank; inferred if absent"),
    HONOURED("gradient_accumulation_steps", INTEGER, ONE_UP, I64, config.gradient_accumulation_steps, "",
             "micro-steps per step; inferred if absent, 1 where the other two leave it open"),
    HONOURED("steps_per_print", INTEGER, ONE_UP, I64, config.steps_per_print, "10", "steps between progress lines"),
    HONOURED("gradient_clipping", NUMBER, ZERO_UP, F64, config.gradient_clipping, "1.0",
             "largest global L2 norm of the gradient; 0 turns clipping off"),
    HONOURED("prescale_gradients", BOOLEAN, ANY, I32, config.prescale_gradients, "false",
             "accepted; sums are never divided before they are complete, so it cannot change a result"),
    HONOURED("gradient_predivide_factor", NUMBER, POSITIVE, F64, config.gradient_predivide_factor, "1.0",
             "accepted; sums are never divided before they are complete, so it cannot change a result"),
    CHOICE("gradient_allreduce_op", 0, 0, config.allreduce_sum, "mean|sum", "\"mean\"",
           "mean divides the summed gradient by the number of ranks, sum does not"),
    CHOICE("communication_data_type", 0, 0, communication_dtype, "fp32|bf16|fp16", "",
           "type in which a micro-batch's gradient is summed and travels. bf16 and fp16: gradients of other types are "
           "narrowed to it once, before anything is added, which halves fp32's bytes. fp32 changes no bit: sums are fp32 "
           "whatever this says, so 16-bit gradients travel as they are"),
    HONOURED("wall_clock_breakdown", BOOLEAN, ANY, I32, config.wall_clock_breakdown, "false",
             "adds the parts of the step's time to the progress line"),
    HONOURED("memory_breakdown", BOOLEAN, ANY, I32, config.memory_breakdown, "false",
             "adds memory by category to the progress line"),
    NO_EFFECT("dump_state", BOOLEAN, ANY, "false", "sherd plan prints what the engine will do"),
    NO_EFFECT("zero_allow_untested_optimizer", BOOLEAN, ANY, "false", "every optimizer that Sherd builds is tested "
              "with it"),
    NO_EFFECT("zero_force_ds_cpu_optimizer", BOOLEAN, ANY, "true", "Sherd always updates with its own optimizers"),
    SECTION("activation_checkpointing", NO_EFFECT, SHERD__KEY_OPEN,
            "activations are the model's business: sherd train --checkpoint-activations"),

    SECTION("data_types", HONOURED, 0, "element types"),
    REFUSED_CHOICE("data_types.grad_accum_dtype", "fp32|{bf16}|{fp16}", "\"fp32\"",
                   "Sherd always sums in fp32; to keep the finished sum as bf16 (2 bytes less per parameter) write "
                   "\"sherd\": {\"grad_sum\": \"bf16\"}"),

    /* ---- zero_optimization */
    SECTION("zero_optimization", HONOURED, 0, "what is sharded, and how; true is an old form of stage 1"),
    HONOURED("zero_optimization.stage", INTEGER, STAGE, I32, config.zero.stage, "0",
             "1 shards the optimizer's state, 2 gradients too; 3 (parameters) is not built yet, use 2"),
    NO_EFFECT("zero_optimization.contiguous_gradients", BOOLEAN, ANY, "true",
              "gradients always lie side by side, backward writes them into the ring"),
    NO_EFFECT("zero_optimization.reduce_scatter", BOOLEAN, ANY, "true",
              "gradients are always reduced by a reduce-scatter"),
    HONOURED("zero_optimization.reduce_bucket_size", INTEGER, ONE_UP, I64, config.zero.reduce_bucket_size, "5e8",
             "elements per reduction, an upper bound: the plan takes an eighth of the model, at least 1 MB and at most "
             "64 MB, unless sherd.exact_bucket_size is true"),
    NO_EFFECT("zero_optimization.allgather_partitions", BOOLEAN, ANY, "true",
              "updated parameters are always all-gathered per bucket"),
    HONOURED("zero_optimization.allgather_bucket_size", INTEGER, ONE_UP, I64, config.zero.allgather_bucket_size, "5e8",
             "elements per all-gather, an upper bound"),
    HONOURED("zero_optimization.overlap_comm", BOOLEAN, ANY, I32, config.zero.overlap_comm, "true",
             "reductions run beside the rest of backward; on unless it says false (DeepSpeed: off below stage 3)"),
    NO_EFFECT("zero_optimization.round_robin_gradients", BOOLEAN, ANY, "false",
              "every rank owns an equal slice of every bucket, so there is nothing to balance"),
    NO_EFFECT("zero_optimization.sub_group_size", INTEGER, ONE_UP, "1e9", "updates run bucket by bucket"),
    NO_EFFECT("zero_optimization.elastic_checkpoint", BOOLEAN, ANY, "false", NO_CHECKPOINT),
    HONOURED("zero_optimization.ignore_unused_parameters", BOOLEAN, ANY, I32, config.zero.ignore_unused_parameters,
             "true", "a gradient that never came counts as zeros; false: it is an error that names the parameter"),
    NO_EFFECT("zero_optimization.stage3_prefetch_bucket_size", INTEGER, ZERO_UP, "5e7", STAGE_3_ONLY),
    NO_EFFECT("zero_optimization.stage3_param_persistence_threshold", INTEGER, ZERO_UP, "1e5", STAGE_3_ONLY),
    NO_EFFECT("zero_optimization.stage3_max_live_parameters", INTEGER, ZERO_UP, "1e9", STAGE_3_ONLY),
    NO_EFFECT("zero_optimization.stage3_max_reuse_distance", INTEGER, ZERO_UP, "1e9", STAGE_3_ONLY),
    NO_EFFECT("zero_optimization.stage3_gather_16bit_weights_on_model_save", BOOLEAN, ANY, "false", STAGE_3_ONLY),
    REFUSED("zero_optimization.zero_quantized_weights", BOOLEAN, ANY, "false",
            "lossy communication is not built yet; leave it out"),
    REFUSED("zero_optimization.zero_quantized_gradients", BOOLEAN, ANY, "false",
            "lossy communication is not built yet; leave it out"),
    REFUSED("zero_optimization.zero_hpz_partition_size", INTEGER, ONE_UP, "1",
            "secondary partitions belong to stage 3, which is not built yet; leave it out"),
    {"zero_optimization.zenflow", SHERD__OBJECT, SHERD__RANGE_ANY, SHERD__STORE_NONE, 0, SHERD_KEY_REFUSED,
     SHERD__KEY_OPEN, 0, NULL, "", "ZenFlow is not built; remove the section"},
    HONOURED("zero_optimization.cpu_offload", BOOLEAN, ANY, I32, cpu_offload, "false",
             "an old form of offload_optimizer {\"device\": \"cpu\"}"),
    REFUSED("zero_optimization.cpu_offload_params", BOOLEAN, ANY, "false",
            "an old form of offload_param {\"device\": \"cpu\"}, which belongs to stage 3; leave it out"),
    HONOURED("zero_optimization.cpu_offload_use_pin_memory", BOOLEAN, ANY, I32, config.offload.pin_memory, "true",
             "an old form of offload_optimizer.pin_memory"),
    NO_EFFECT("zero_optimization.load_from_fp32_weights", BOOLEAN, ANY, "true", NO_CHECKPOINT),

    SECTION("zero_optimization.offload_optimizer", HONOURED, 0, "where the optimizer's state lives"),
    CHOICE("zero_optimization.offload_optimizer.device", 0, 0, offload_device, "none|cpu|nvme", "\"none\"",
           "cpu keeps masters and moments in host memory and updates them there, nvme in files"),
    HONOURED("zero_optimization.offload_optimizer.nvme_path", STRING, ANY, PATHS, config.offload.nvme_path, "",
             "folder of the disk tier; several, separated by ':', are striped"),
    HONOURED("zero_optimization.offload_optimizer.buffer_count", INTEGER, ONE_UP, I32, config.offload.buffer_count, "4",
             "buckets of the disk tier that are in host memory at once"),
    HONOURED("zero_optimization.offload_optimizer.pin_memory", BOOLEAN, ANY, I32, config.offload.pin_memory, "true",
             "true: host memory is page-locked, with a warning where the limit forbids it; false: it is not"),
    NO_EFFECT("zero_optimization.offload_optimizer.pipeline_read", BOOLEAN, ANY, "false",
              "reads always run ahead of the update"),
    NO_EFFECT("zero_optimization.offload_optimizer.pipeline_write", BOOLEAN, ANY, "false",
              "writes always run behind the update"),
    NO_EFFECT("zero_optimization.offload_optimizer.fast_init", BOOLEAN, ANY, "false", "creation is always fast"),
    HONOURED("zero_optimization.offload_optimizer.ratio", NUMBER, UNIT, F64, config.offload.ratio, "1.0",
             "share of the state that leaves the device, bucket by bucket, first reduced first; a "
             "sherd.device_memory_budget decides instead where it is given"),
    NO_EFFECT("zero_optimization.offload_optimizer.super_offload", BOOLEAN, ANY, "false",
              "see sherd.speculate, which is exact"),
    NO_EFFECT("zero_optimization.offload_optimizer.cpuadam_cores_perc", NUMBER, UNIT, "0.8",
              "cores are shared out by their nearness to the device"),

    SECTION("zero_optimization.offload_param", HONOURED, SHERD__KEY_QUIET, "where parameters live"),
    REFUSED_CHOICE("zero_optimization.offload_param.device", "none|{cpu}|{nvme}", "\"none\"",
                   "offloaded parameters belong to stage 3, which is not built yet; write \"none\" or remove the section"),
    NO_EFFECT("zero_optimization.offload_param.nvme_path", STRING, ANY, "", STAGE_3_ONLY),
    NO_EFFECT("zero_optimization.offload_param.buffer_count", INTEGER, ONE_UP, "5", STAGE_3_ONLY),
    NO_EFFECT("zero_optimization.offload_param.buffer_size", INTEGER, ONE_UP, "1e8", STAGE_3_ONLY),
    NO_EFFECT("zero_optimization.offload_param.max_in_cpu", INTEGER, ZERO_UP, "1e9", STAGE_3_ONLY),
    NO_EFFECT("zero_optimization.offload_param.pin_memory", BOOLEAN, ANY, "true", STAGE_3_ONLY),

    /* ---- the disk tier */
    SECTION("aio", HONOURED, 0, "how the disk tier reads and writes"),
    HONOURED("aio.block_size", INTEGER, ONE_UP, I64, config.offload.aio_block_size, "1048576",
             "bytes of one read or write, rounded up to 4096"),
    HONOURED("aio.queue_depth", INTEGER, ONE_UP, I32, config.offload.aio_queue_depth, "8", "of them at once"),
    HONOURED("aio.single_submit", BOOLEAN, ANY, I32, config.offload.aio_single_submit, "false",
             "each read or write is handed to the kernel by itself"),
    HONOURED("aio.overlap_events", BOOLEAN, ANY, I32, config.offload.aio_overlap_events, "true",
             "submits further ones while earlier ones run"),
    NO_EFFECT("aio.thread_count", INTEGER, ONE_UP, "1", "one ring of the kernel needs no threads"),
    NO_EFFECT("aio.use_gds", BOOLEAN, ANY, "false", "files are read into host memory, where they are updated"),

    /* ---- element types */
    SECTION("fp16", HONOURED, SHERD__KEY_QUIET, "half precision with loss scaling"),
    HONOURED("fp16.enabled", BOOLEAN, ANY, I32, fp16_enabled, "false",
             "fp16 working copies and gradients, with a loss scale; sherd train's decoder stores fp16 and computes in fp32"),
    NO_EFFECT("fp16.auto_cast", BOOLEAN, ANY, "false", "what the model computes in is the model's business"),
    HONOURED("fp16.loss_scale", NUMBER, ZERO_UP, F64, config.scaling.loss_scale, "0",
             "above 0: the loss scale of every step; 0: it follows the gradients (docs/numerics.md)"),
    HONOURED("fp16.initial_scale_power", INTEGER, POWER, I32, config.scaling.initial_scale_power, "16",
             "the first scale is 2 to this power"),
    HONOURED("fp16.loss_scale_window", INTEGER, ONE_UP, I64, config.scaling.loss_scale_window, "1000",
             "steps without overflow after which the scale doubles"),
    HONOURED("fp16.hysteresis", INTEGER, ONE_UP, I32, config.scaling.hysteresis, "2",
             "overflows until the scale is halved; refilled when it doubles"),
    HONOURED("fp16.consecutive_hysteresis", BOOLEAN, ANY, I32, config.scaling.consecutive_hysteresis, "false",
             "refills the hysteresis after every step without overflow"),
    HONOURED("fp16.min_loss_scale", NUMBER, POSITIVE, F64, config.scaling.min_loss_scale, "1",
             "least scale; an overflow at it is an error"),
    REFUSED("fp16.fp16_master_weights_and_grads", BOOLEAN, ANY, "false", "masters are always fp32; leave it out"),
    SECTION("bf16", HONOURED, 0, "bfloat16 parameters and gradients with fp32 masters"),
    HONOURED("bf16.enabled", BOOLEAN, ANY, I32, bf16_enabled, "false", "bf16 working copies and gradients"),
    NO_EFFECT("bf16.immediate_grad_update", BOOLEAN, ANY, "false",
              "a gradient always enters its bucket as soon as it is ready"),
    HONOURED("bf16.check_grad_overflow", BOOLEAN, ANY, I32, config.check_grad_overflow, "true",
             "a step with non-finite gradients is skipped"),
    REFUSED("bf16.bf16_master_weights_and_grads", BOOLEAN, ANY, "false", "masters are always fp32; leave it out"),
    HONOURED("bf16.bf16_optimizer_states", BOOLEAN, ANY, I32, config.moments_bf16, "false",
             "moments are kept as bf16, 2 bytes instead of 4, with any parameter type; masters stay fp32 (docs/numerics.md)"),

    /* ---- optimizer */
    SECTION("optimizer", HONOURED, 0, "absent: AdamW with the defaults below"),
    CHOICE("optimizer.type", 0, SHERD__KEY_ANY_CASE, optimizer_type,
           "AdamW|Adam|SGD|Lion|Adagrad|Lamb|Muon|{OneBitAdam}|{OneBitLamb}|{ZeroOneAdam}", "",
           "AdamW, Adam (which is AdamW too unless adam_w_mode is false), SGD, Lion, Adagrad, Lamb and Muon (hidden matrices; "
           "all else by AdamW) are built; use one of these"),
    SECTION("optimizer.params", HONOURED, 0, "the optimizer's own parameters"),
    PARAMETER("optimizer.params.lr", OPTIMIZERS, NUMBER, ZERO_UP, F64, config.optimizer.lr, "1e-3",
              "learning rate; a scheduler replaces it or multiplies it; Adagrad's default is 1e-2"),
    PARAMETER("optimizer.params.betas", ADAM | LION | LAMB | MUON, BETAS, BELOW_ONE, BETAS, config.optimizer.beta1, "[0.9, 0.999]",
              "decay of the first and the second moment; for Lion, of the moment as it enters the step and as it is "
              "kept"),
    PARAMETER("optimizer.params.eps", ADAM | ADAGRAD | LAMB | MUON, NUMBER, ZERO_UP, F64, config.optimizer.eps, "1e-8",
              "added to the root of the second moment; Adagrad's default is 1e-10"),
    PARAMETER("optimizer.params.weight_decay", OPTIMIZERS, NUMBER, ZERO_UP, F64, config.optimizer.weight_decay, "0",
              "decoupled for AdamW, Lion and Muon, added to the gradient for Adam, SGD and Adagrad, to the direction for Lamb"),
    PARAMETER("optimizer.params.bias_correction", ADAM | LAMB | MUON, BOOLEAN, ANY, I32, config.optimizer.bias_correction, "true",
              "corrects the moments' start from zero"),
    PARAMETER("optimizer.params.adam_w_mode", ADAM | MUON, BOOLEAN, ANY, I32, adam_w_mode, "true",
              "false makes \"Adam\" add weight decay to the gradient; \"AdamW\" is not changed by it; an error with \"Muon\""),
    PARAMETER("optimizer.params.momentum", SGD | MUON, NUMBER, BELOW_ONE, F64, config.optimizer.momentum, "0",
              "decay of SGD's running gradient, or of Muon's running mean of gradients; Muon's default is 0.95"),
    PARAMETER("optimizer.params.muon_lr", MUON, NUMBER, ZERO_UP, F64, config.muon.muon_lr, "",
              "rate of the matrices; absent: lr. What a scheduler or a client sets is lr, and this one moves in proportion"),
    PARAMETER("optimizer.params.adam_lr", MUON, NUMBER, ZERO_UP, F64, config.muon.adam_lr, "",
              "the same of what is no matrix"),
    PARAMETER("optimizer.params.nesterov", MUON, BOOLEAN, ANY, I32, config.muon.nesterov, "true",
              "Muon's direction looks one step of the momentum ahead"),
    PARAMETER("optimizer.params.ns_steps", MUON, INTEGER, ONE_UP, I32, config.muon.ns_steps, "5",
              "steps of Newton and Schulz with which a direction is orthogonalised; at most 100"),
    PARAMETER("optimizer.params.max_coeff", LAMB, NUMBER, ZERO_UP, F64, config.lamb.max_coeff, "10",
              "the most by which Lamb multiplies a parameter's rate: its norm over that of its direction"),
    PARAMETER("optimizer.params.min_coeff", LAMB, NUMBER, ZERO_UP, F64, config.lamb.min_coeff, "0.01",
              "the least of it"),
    {"optimizer.params.ns_method", SHERD__CHOICE, SHERD__RANGE_ANY, SHERD__STORE_NONE, 0, SHERD_KEY_NO_EFFECT,
     SHERD__KEY_ANY_CASE, MUON, "gram|standard", "\"gram\"",
     "the standard iteration, in fp32; in exact arithmetic both are the same"},
    {"optimizer.params.torch_adam", SHERD__BOOLEAN, SHERD__RANGE_ANY, SHERD__STORE_NONE, 0, SHERD_KEY_NO_EFFECT, 0,
     ADAM | MUON, NULL, "false", "Sherd always updates with its own optimizers"},
    {"optimizer.params.max_grad_norm", SHERD__ANY, SHERD__RANGE_ANY, SHERD__STORE_NONE, 0, SHERD_KEY_REFUSED,
     SHERD__KEY_FORBIDDEN, OPTIMIZERS, NULL, "", "an error, as in DeepSpeed; use gradient_clipping at top level"},

    /* ---- scheduler */
    SECTION("scheduler", HONOURED, 0, "absent: the learning rate stays as it is"),
    CHOICE("scheduler.type", 0, 0, scheduler_type, "WarmupLR|WarmupDecayLR|WarmupCosineLR|OneCycle|LRRangeTest", "",
           "the learning rate as a function of the updates made; skipped steps do not count"),
    SECTION("scheduler.params", HONOURED, 0, "the schedule's own parameters"),
    PARAMETER("scheduler.params.warmup_min_lr", WARMUP, NUMBER, ZERO_UP, F64, config.scheduler.warmup_min_lr, "0",
              "rate at the start of the warm-up"),
    PARAMETER("scheduler.params.warmup_max_lr", WARMUP, NUMBER, ZERO_UP, F64, config.scheduler.warmup_max_lr, "1e-3",
              "rate at the end of the warm-up; replaces the optimizer's lr"),
    PARAMETER("scheduler.params.warmup_num_steps", WARMUP | COSINE, INTEGER, ZERO_UP, I64,
              config.scheduler.warmup_num_steps, "1000", "updates of the warm-up; at least 2 are made"),
    CHOICE("scheduler.params.warmup_type", WARMUP | COSINE, 0, config.scheduler.warmup_linear, "log|linear", "\"log\"",
           "shape of the warm-up"),
    PARAMETER("scheduler.params.total_num_steps", SHERD__FOR_DECAY | COSINE, INTEGER, ONE_UP, I64,
              config.scheduler.total_num_steps, "", "updates of the whole run; must be given"),
    PARAMETER("scheduler.params.warmup_min_ratio", COSINE, NUMBER, UNIT, F64, config.scheduler.warmup_min_ratio, "0",
              "share of the optimizer's lr at the start of the warm-up"),
    PARAMETER("scheduler.params.cos_min_ratio", COSINE, NUMBER, UNIT, F64, config.scheduler.cos_min_ratio, "1e-4",
              "share of the optimizer's lr at the end of the cosine"),
    PARAMETER("scheduler.params.cycle_min_lr", CYCLE, NUMBER, ZERO_UP, F64, config.one_cycle.min_lr, "",
              "rate at both ends of the cycle; must be given"),
    PARAMETER("scheduler.params.cycle_max_lr", CYCLE, NUMBER, ZERO_UP, F64, config.one_cycle.max_lr, "",
              "rate at its top; must be given"),
    PARAMETER("scheduler.params.decay_lr_rate", CYCLE, NUMBER, ZERO_UP, F64, config.one_cycle.decay_lr_rate, "0",
              "after the cycle: cycle_min_lr / (1 + decay_lr_rate * updates since / decay_step_size)"),
    PARAMETER("scheduler.params.cycle_first_step_size", CYCLE, INTEGER, ONE_UP, I64, config.one_cycle.first_step_size,
              "2000", "updates on the way up"),
    PARAMETER("scheduler.params.cycle_second_step_size", CYCLE, INTEGER, ONE_UP, I64, config.one_cycle.second_step_size,
              "", "updates on the way down; absent: as many"),
    PARAMETER("scheduler.params.cycle_first_stair_count", CYCLE, INTEGER, ZERO_UP, I64,
              config.one_cycle.first_stair_count, "0", "stairs on the way up; 0: none"),
    PARAMETER("scheduler.params.cycle_second_stair_count", CYCLE, INTEGER, ZERO_UP, I64,
              config.one_cycle.second_stair_count, "", "stairs on the way down; absent: as many"),
    PARAMETER("scheduler.params.decay_step_size", CYCLE, INTEGER, ZERO_UP, I64, config.one_cycle.decay_step_size, "0",
              "updates per unit of decay after the cycle; 0: no decay"),
    PARAMETER("scheduler.params.cycle_momentum", CYCLE, BOOLEAN, ANY, I32, config.one_cycle.cycle_momentum, "true",
              "the first of the betas goes the other way, the second is 0.99 (without effect on SGD, Adagrad and Muon)"),
    PARAMETER("scheduler.params.cycle_min_mom", CYCLE, NUMBER, BELOW_ONE, F64, config.one_cycle.min_mom, "0.8",
              "beta1 at the top of the cycle and in the very first update"),
    PARAMETER("scheduler.params.cycle_max_mom", CYCLE, NUMBER, BELOW_ONE, F64, config.one_cycle.max_mom, "0.9",
              "beta1 at its ends"),
    PARAMETER("scheduler.params.decay_mom_rate", CYCLE, NUMBER, ZERO_UP, F64, config.one_cycle.decay_mom_rate, "0",
              "after the cycle: cycle_max_mom * (1 + decay_mom_rate * updates since / decay_step_size)"),
    PARAMETER("scheduler.params.lr_range_test_min_lr", RANGE, NUMBER, ZERO_UP, F64, config.lr_range_test.min_lr, "1e-3",
              "rate of the first update"),
    PARAMETER("scheduler.params.lr_range_test_step_size", RANGE, INTEGER, ONE_UP, I64, config.lr_range_test.step_size,
              "2000", "updates per step of the test"),
    PARAMETER("scheduler.params.lr_range_test_step_rate", RANGE, NUMBER, ZERO_UP, F64, config.lr_range_test.step_rate,
              "1.0", "what a step of the test adds, in units of the first rate"),
    PARAMETER("scheduler.params.lr_range_test_staircase", RANGE, BOOLEAN, ANY, I32, config.lr_range_test.staircase,
              "false", "the rate stays the same within a step of the test"),

    /* ---- monitors and profilers */
    SECTION("tensorboard", HONOURED, 0, "event files for TensorBoard, with a row per step"),
    HONOURED("tensorboard.enabled", BOOLEAN, ANY, I32, config.tensorboard.enabled, "false",
             "sherd train writes them; other clients find the section in their sherd_config"),
    HONOURED("tensorboard.output_path", STRING, ANY, PATHS, config.tensorboard.output_path, "",
             "folder in which the folder job_name is made; absent: the current one"),
    HONOURED("tensorboard.job_name", STRING, ANY, PATHS, config.tensorboard.job_name, "\"DeepSpeedJobName\"",
             "name of the folder"),
    SECTION("csv_monitor", HONOURED, 0, "metrics.csv, with a row per step"),
    HONOURED("csv_monitor.enabled", BOOLEAN, ANY, I32, config.csv_monitor.enabled, "false",
             "sherd train writes them; other clients find the section in their sherd_config"),
    HONOURED("csv_monitor.output_path", STRING, ANY, PATHS, config.csv_monitor.output_path, "",
             "folder in which the folder job_name is made; absent: the current one"),
    HONOURED("csv_monitor.job_name", STRING, ANY, PATHS, config.csv_monitor.job_name, "\"DeepSpeedJobName\"",
             "name of the folder"),
    SECTION("wandb", HONOURED, SHERD__KEY_QUIET, "Weights and Biases"),
    REFUSED("wandb.enabled", BOOLEAN, ANY, "false", WANDB),
    NO_EFFECT("wandb.output_path", STRING, ANY, "", WANDB),
    NO_EFFECT("wandb.job_name", STRING, ANY, "", WANDB),
    NO_EFFECT("wandb.group", STRING, ANY, "", WANDB),
    NO_EFFECT("wandb.team", STRING, ANY, "", WANDB),
    NO_EFFECT("wandb.project", STRING, ANY, "", WANDB),
    SECTION("comms_logger", NO_EFFECT, SHERD__KEY_OPEN, PROFILER),
    SECTION("flops_profiler", NO_EFFECT, SHERD__KEY_OPEN, PROFILER),

    /* ---- elasticity, checkpoints */
    SECTION("elasticity", HONOURED, SHERD__KEY_QUIET, "batch sizes for changing worlds"),
    REFUSED("elasticity.enabled", BOOLEAN, ANY, "false", "elasticity is not built; give the batch sizes themselves"),
    NO_EFFECT("elasticity.max_train_batch_size", INTEGER, ONE_UP, "2000", ELASTIC_ONLY),
    NO_EFFECT("elasticity.micro_batch_sizes", INTEGERS, ONE_UP, "[2, 4, 6]", ELASTIC_ONLY),
    SECTION("checkpoint", HONOURED, 0, "how checkpoints are written and read"),
    NO_EFFECT_CHOICE("checkpoint.tag_validation", "Warn|Ignore|Fail", "\"Warn\"", NO_CHECKPOINT),
    REFUSED("checkpoint.load_universal", BOOLEAN, ANY, "false",
            "DeepSpeed's universal checkpoints are not read; Sherd's own load at any world size anyway: leave it out"),

    /* ---- Sherd's own */
    SECTION("sherd", HONOURED, 0, "extensions that DeepSpeed does not have"),
    CHOICE("sherd.grad_sum", 0, 0, config.sherd.grad_sum_bf16, "fp32|bf16", "\"fp32\"",
           "type that the finished sum of gradients is kept in until the update"),
    HONOURED("sherd.exact_bucket_size", BOOLEAN, ANY, I32, config.sherd.exact_bucket_size, "false",
             "takes reduce_bucket_size as it stands, not as an upper bound"),
    CHOICE("sherd.transport", 0, 0, config.transport.kind, "auto|direct|nccl|mpi", "\"auto\"",
           "what the communicator is; plans for nccl and mpi (several nodes) hold a receive scratch; auto: direct"),
    CHOICE("sherd.reduction", 0, 0, config.transport.reduction, "tree|native", "\"tree\"",
           "tree: the same bits on every transport; native: NCCL's own sums, whose bits depend on NCCL"),
    HONOURED("sherd.warn_after_s", NUMBER, POSITIVE, F64, config.sherd.warn_after_s, "60",
             "seconds after which a wait is logged"),
    HONOURED("sherd.fail_after_s", NUMBER, POSITIVE, F64, config.sherd.fail_after_s, "600",
             "seconds after which a wait ends the engine with an error"),
    HONOURED("sherd.silent_after_s", NUMBER, ZERO_UP, F64, config.silent_after_s, "30",
             "over MPI between nodes: seconds without a sign of life of a node after which a wait for it ends; 0: as any other wait"),
    HONOURED("sherd.reproducible", BOOLEAN, ANY, I32, config.reproducible, "false",
             "sums are one tree over the step's micro-batches: the same bits for every world and stage"),
    CHOICE("sherd.nonfinite", 0, 0, config.faults.nonfinite, "auto|skip|stop", "\"auto\"",
           "a step with non-finite gradients: skip: no update, the next step goes on; stop: no update, and an error that names the "
           "first such parameter; auto: as bf16.check_grad_overflow and a dynamic loss scale say"),
    HONOURED("sherd.check_replicas", INTEGER, ZERO_UP, I64, config.faults.check_replicas, "0",
             "every so many steps the ranks compare their working copies of the parameters, which must have the same bits; 0: never"),
    HONOURED("sherd.replan", BOOLEAN, ANY, I32, config.replan, "false",
             "after the first step, once, buckets are formed anew in the order in which rank 0's gradients came"),
    HONOURED("sherd.master_remainder", BOOLEAN, ANY, I32, config.master_remainder, "false",
             "bf16 parameters whose state is on the device keep 16 bits beside the working copy instead of an fp32 master; the "
             "same bits (docs/numerics.md)"),
    HONOURED("sherd.speculate", BOOLEAN, ANY, I32, config.offload.speculate, "false",
             "offloaded buckets are updated before the vote, into second buffers, and again where it was refused"),
    HONOURED("sherd.device_memory_budget", BYTES, ANY, I64, config.offload.device_memory_budget, "",
             "bytes of the device that the engine may take; what does not fit is offloaded"),
    HONOURED("sherd.host_threads", INTEGER, ZERO_UP, I32, config.offload.host_threads, "0",
             "threads per rank that update host memory; 0: the cores nearest the device"),
    CHOICE("sherd.host_kernels", 0, 0, config.offload.host_kernels, "auto|avx512|avx2|portable|reference", "\"auto\"",
           "instruction set of updates in host memory; the bits do not depend on it"),
    HONOURED("sherd.host_topology", STRING, ANY, PATHS, config.offload.host_topology, "",
             "hwloc's synthetic text instead of the machine's topology, as \"numa:2 core:4 pu:1\": to try a placement elsewhere"),
    HONOURED("sherd.host_cores", STRING, ANY, PATHS, config.offload.host_cores, "",
             "processors@node of each local rank instead of the nearest, as \"0-3@0,4-7@1;8-15@2\""),
    HONOURED("sherd.host_memory_budget", BYTES, ANY, I64, config.offload.host_memory_budget, "",
             "bytes of host memory that one rank may take; what does not fit goes to offload_optimizer.nvme_path"),
};

const size_t sherd__keys_count = sizeof sherd__keys / sizeof sherd__keys[0];

const sherd__key *sherd__key_find(const char *path)
{
    for (size_t i = 0; i < sherd__keys_count; i++) {
        if (strcmp(sherd__keys[i].path, path) == 0) {
            return &sherd__keys[i];
        }
    }
    return NULL;
}

int sherd__key_choice(const sherd__key *key, int32_t index, char *buffer, size_t capacity, int *refused)
{
    const char *at = key->choices;
    size_t length;

    for (; at != NULL && index > 0; index--) {
        at = strchr(at, '|');
        at = at != NULL ? at + 1 : NULL;
    }
    if (at == NULL || index < 0) {
        return 0;
    }
    length = strcspn(at, "|");
    *refused = at[0] == '{';
    snprintf(buffer, capacity, "%.*s", (int)(*refused ? length - 2 : length), *refused ? at + 1 : at);
    return 1;
}

int32_t sherd__key_choose(const sherd__key *key, const char *text)
{
    char choice[64];
    int refused;

    for (int32_t i = 0; sherd__key_choice(key, i, choice, sizeof choice, &refused); i++) {
        if (strcmp(choice, text) == 0 || ((key->flags & SHERD__KEY_ANY_CASE) && strcasecmp(choice, text) == 0)) {
            return i;
        }
    }
    return -1;
}

uint32_t sherd__key_members(const sherd__key *type_key, int32_t index)
{
    static const uint32_t optimizers[] = {ADAM, ADAM, SGD, LION, ADAGRAD, LAMB, MUON};
    static const uint32_t schedulers[] = {SHERD__FOR_WARMUP, SHERD__FOR_DECAY, COSINE, CYCLE, RANGE};
    int optimizer = type_key->offset == AT(optimizer_type);

    if (index < 0 || index >= (optimizer ? (int32_t)(sizeof optimizers / sizeof *optimizers)
                                         : (int32_t)(sizeof schedulers / sizeof *schedulers))) {
        return 0;
    }
    return optimizer ? optimizers[index] : schedulers[index];
}

/* Only what is built: nobody is told to give what would be refused. */
static const char *expected_choice(const sherd__key *key, char *buffer, size_t capacity)
{
    size_t length = (size_t)snprintf(buffer, capacity, "one of");
    char choice[64];
    int refused;

    for (int32_t i = 0; sherd__key_choice(key, i, choice, sizeof choice, &refused); i++) {
        if (!refused && length < capacity) {
            length += (size_t)snprintf(buffer + length, capacity - length, "%s \"%s\"", i > 0 ? "," : "", choice);
        }
    }
    return buffer;
}

const char *sherd__key_expects(const sherd__key *key, char *buffer, size_t capacity)
{
    static const char *const types[] = {
        [SHERD__BOOLEAN] = "true or false", [SHERD__INTEGER] = "an integer",      [SHERD__NUMBER] = "a number",
        [SHERD__STRING] = "a string",       [SHERD__INTEGERS] = "a list of integers",
        [SHERD__BETAS] = "a list of two numbers", [SHERD__ANY] = "a value",       [SHERD__OBJECT] = "an object",
        [SHERD__BYTES] = "a number of bytes, a size as \"12GiB\", or \"auto\"",
    };
    static const char *const ranges[] = {
        [SHERD__RANGE_ANY] = "",
        [SHERD__RANGE_ZERO_UP] = " of at least 0",
        [SHERD__RANGE_ONE_UP] = " of at least 1",
        [SHERD__RANGE_POSITIVE] = " above 0",
        [SHERD__RANGE_UNIT] = " from 0 to 1",
        [SHERD__RANGE_BELOW_ONE] = " from 0 to below 1",
        [SHERD__RANGE_STAGE] = " from 0 to 3",
        [SHERD__RANGE_POWER] = " from 0 to 100",
    };

    if (key->type == SHERD__CHOICE) {
        return expected_choice(key, buffer, capacity);
    }
    snprintf(buffer, capacity, "%s%s", types[key->type], ranges[key->range]);
    return buffer;
}
