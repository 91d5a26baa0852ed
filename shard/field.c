/* SPDX-License-Identifier: MIT
 *
 * From a member of sherd_config, as the plan's hash writes it down, to the key of the configuration file and the
 * words that its values have there.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "optim/optim.h"
#include "shard/build.h"

static const struct {
    const char *member, *key; /* a member that ends in '.' or '_' stands for all that begin so */
} keys[] = {
    {"allreduce_sum", "gradient_allreduce_op"},
    {"dtype", "the element type (fp16.enabled, bf16.enabled)"},
    {"check_grad_overflow", "bf16.check_grad_overflow"},
    {"zero.", "zero_optimization."},
    {"sherd.grad_sum_bf16", "sherd.grad_sum"},
    {"moments_bf16", "bf16.bf16_optimizer_states"},
    {"transport.", "sherd."},
    {"transport(config)", "sherd.transport"},
    {"faults.", "sherd."},
    {"reproducible", "sherd.reproducible"},
    {"replan", "sherd.replan"},
    {"wire", "communication_data_type"},
    {"master_remainder", "sherd.master_remainder"},
    {"lamb.", "optimizer.params."},
    {"muon.", "optimizer.params."},
    {"n_waves", "the number of waves of Muon's matrices"},
    {"window_bytes", "the size of Muon's window"},
    {"optimizer.kind", "optimizer.type"},
    {"optimizer.beta1", "optimizer.params.betas (the first)"},
    {"optimizer.beta2", "optimizer.params.betas (the second)"},
    {"optimizer.", "optimizer.params."},
    {"scheduler.kind", "scheduler.type"},
    {"scheduler.warmup_linear", "scheduler.params.warmup_type"},
    {"scheduler.", "scheduler.params."},
    {"one_cycle.decay_step_size", "scheduler.params.decay_step_size"},
    {"one_cycle.decay_lr_rate", "scheduler.params.decay_lr_rate"},
    {"one_cycle.decay_mom_rate", "scheduler.params.decay_mom_rate"},
    {"one_cycle.cycle_", "scheduler.params.cycle_"},
    {"one_cycle.", "scheduler.params.cycle_"},
    {"lr_range_test.", "scheduler.params.lr_range_test_"},
    {"scaling.kind", "the kind of loss scale (fp16.enabled, fp16.loss_scale)"},
    {"scaling.", "fp16."},
    {"n_groups", "the number of parameter groups"},
    {"groups[g].lr", "a parameter group's lr"},
    {"groups[g].weight_decay", "a parameter group's weight_decay"},
    {"world", "the world"},
    {"n_params", "the number of parameters"},
    {"n_buckets", "the number of buckets"},
    {"ring_bytes", "the size of the gradient ring"},
    {"placement.n_disk", "the number of buckets on disk (memory budgets)"},
    {"placement.n_off", "the number of buckets off the device (offload_optimizer, memory budgets)"},
    {"placement.n_speculated", "the number of buckets updated before the vote (sherd.speculate, memory budgets)"},
    {"placement.disk_slots", "zero_optimization.offload_optimizer.buffer_count"},
};

#define BOOLEAN "false|true"
#define OPTIMIZER "" /* asked of optim/ */

static const struct {
    const char *member, *choices;
} choices[] = {
    {"prescale_gradients", BOOLEAN},
    {"allreduce_sum", "mean|sum"},
    {"dtype", "fp32|bf16|fp16"},
    {"check_grad_overflow", BOOLEAN},
    {"zero.overlap_comm", BOOLEAN},
    {"zero.ignore_unused_parameters", BOOLEAN},
    {"sherd.grad_sum_bf16", "fp32|bf16"},
    {"sherd.exact_bucket_size", BOOLEAN},
    {"transport(config)", "auto|direct|nccl|mpi"},
    {"transport.reduction", "tree|native"},
    {"reproducible", BOOLEAN},
    {"replan", BOOLEAN},
    {"moments_bf16", BOOLEAN},
    {"master_remainder", BOOLEAN},
    {"muon.nesterov", BOOLEAN},
    {"wire", "absent|fp32|bf16|fp16"},
    {"faults.nonfinite", "auto|skip|stop"},
    {"optimizer.kind", OPTIMIZER},
    {"optimizer.bias_correction", BOOLEAN},
    {"scheduler.kind", "none|WarmupLR|WarmupDecayLR|WarmupCosineLR|OneCycle|LRRangeTest"},
    {"scheduler.warmup_linear", "log|linear"},
    {"one_cycle.cycle_momentum", BOOLEAN},
    {"lr_range_test.staircase", BOOLEAN},
    {"scaling.kind", "none|static|dynamic"},
};

static const char *bare(const char *member)
{
    static const char *const heads[] = {"(uint64_t)", "config->", "plan->", "sherd__plan_"};

    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        if (strncmp(member, heads[i], strlen(heads[i])) == 0)
            member += strlen(heads[i]);
    return member;
}

void sherd__plan_field_name(const char *member, sherd__plan_field *out)
{
    size_t capacity = sizeof out->name;

    member = bare(member);
    out->choices = NULL;
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
        if (strcmp(member, choices[i].member) == 0)
            out->choices = choices[i].choices;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        size_t length = strlen(keys[i].member);
        char last = keys[i].member[length - 1];
        int head = (last == '.' || last == '_') && strncmp(member, keys[i].member, length) == 0;
        if (head || strcmp(member, keys[i].member) == 0) {
            snprintf(out->name, capacity, "%s%s", keys[i].key, head ? member + length : "");
            return;
        }
    }
    snprintf(out->name, capacity, "%s", member);
}

/* Choice `index` of "a|b|c", its length in *length; NULL: there is none. */
static const char *choice_at(const char *at, uint64_t index, int *length)
{
    for (; at && index > 0; index--) {
        at = strchr(at, '|');
        at = at ? at + 1 : NULL;
    }
    *length = at ? (int)strcspn(at, "|") : 0;
    return at;
}

/* The value may be another rank's, so nothing is taken for granted about it. */
void sherd__plan_value_text(const sherd__plan_field *field, uint64_t bits, char *out, size_t capacity)
{
    const char *name = NULL;
    double real;
    int length = 0;

    if (field->choices && *field->choices) {
        name = choice_at(field->choices, bits, &length);
    } else if (field->choices && bits <= INT32_MAX && sherd__optim_get((sherd_optimizer)bits)) {
        name = sherd__optim_get((sherd_optimizer)bits)->name;
        length = (int)strlen(name);
    }
    memcpy(&real, &bits, sizeof real);
    if (name)
        snprintf(out, capacity, "%.*s", length, name);
    else if (field->real)
        snprintf(out, capacity, "%.17g", real);
    else
        snprintf(out, capacity, "%" PRId64, (int64_t)bits);
}
