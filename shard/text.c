/* SPDX-License-Identifier: MIT
 *
 * The plan for human eyes. Written through a sink that counts what does not fit, so that a caller can ask for the
 * length first.
 */
#include <inttypes.h>
#include <string.h>

#include "base/text.h"
#include "shard/build.h"

static const char *const stream_names[SHERD__STREAMS] = {"compute", "comm", "update", "lower",
                                                         "raise",   "host", "read",   "write"};
static const char *const phase_titles[SHERD__PHASES] = {"the only micro-step", "the first micro-step",
                                                        "each micro-step between", "the last micro-step"};

static void put_header(sherd__text *to, const sherd_plan *plan)
{
    sherd__text_put(to, "plan ");
    for (int i = 0; i < 16; i++)
        sherd__text_put(to, "%02x", plan->hash[i]);
    sherd__text_put(to, "\n  ranks %" PRId32 ", ZeRO stage %" PRId32 ", micro-steps %" PRId64 " (%s)\n", plan->world,
                    plan->config.zero.stage, plan->config.gradient_accumulation_steps,
                    plan->full_mode ? "leaves are added to full-size sums, reduced at the last"
                                    : "leaves are reduced as they come");
    sherd__text_put(to, "  parameters %" PRIu32 ", elements %" PRId64 ", buckets %" PRIu32 ", sums in %s\n",
                    plan->n_params, plan->total_elems, plan->n_buckets,
                    plan->sums_bf16     ? "bf16"
                    : plan->narrow_sums ? "fp32, rounded to bf16 at the end"
                                        : "fp32");
}

/* What is narrowed in its slot travels as fewer bytes than the slot has. */
static void put_narrowed(sherd__text *to, const sherd_plan *plan)
{
    const sherd__bucket *last = NULL;
    uint64_t slots = 0, leaves = 0;
    uint32_t n = 0;
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        const sherd__bucket *bucket = &plan->buckets[b];
        slots += bucket->ring_bytes;
        leaves += (uint64_t)bucket->elems * sherd_dtype_bytes(bucket->wire_dtype);
        if (sherd__bucket_narrowed(bucket)) {
            last = bucket;
            n++;
        }
    }
    if (last)
        sherd__text_put(to,
                        "leaves: %" PRIu32 " of %" PRIu32
                        " buckets are narrowed to %s in their slots before they are summed; of all, "
                        "%" PRIu64 " bytes come and %" PRIu64 " are read\n",
                        n, plan->n_buckets, sherd_dtype_name(last->wire_dtype), slots, leaves);
}

static void put_buckets(sherd__text *to, const sherd_plan *plan)
{
    sherd__text_put(to, "buckets, in order of reduction\n  %6s %7s %14s %12s %-9s %14s %12s  %-7s slot free after\n",
                    "bucket", "params", "elems", "slice", "type/grad", "ring offset", "ring bytes", "state");
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        const sherd__bucket *bucket = &plan->buckets[b];
        sherd__text_put(to,
                        "  %6" PRIu32 " %7" PRIu32 " %14" PRId64 " %12" PRId64 " %s/%s %14" PRIu64 " %12" PRIu64
                        "  %-6s%s %" PRIu32 "%s\n",
                        b, bucket->count, bucket->elems, bucket->slice_elems, sherd_dtype_name(bucket->dtype),
                        sherd_dtype_name(bucket->grad_dtype), bucket->ring_offset, bucket->ring_bytes,
                        sherd_tier_name(bucket->tier), bucket->speculated ? "+" : " ", bucket->ring_after,
                        bucket->ring_after_previous ? " of the former micro-step" : "");
    }
    sherd__text_put(to, "ring: %" PRIu64 " bytes\n", plan->ring_bytes);
    put_narrowed(to, plan);
}

/* What the client's own copies of working copies take beside them. */
static void put_borrowed(sherd__text *to, const sherd_plan *plan)
{
    uint64_t bytes = 0;
    uint32_t n = 0;
    for (uint32_t p = 0; p < plan->n_params; p++)
        if (plan->params[p].storage) {
            bytes += (uint64_t)plan->params[p].elems * sherd_dtype_bytes(plan->params[p].dtype);
            n++;
        }
    if (n)
        sherd__text_put(to, "  beside these, the client's: %" PRIu32 " borrowed parameters, %" PRIu64 " bytes\n", n, bytes);
}

/* Where sherd.master_remainder has an effect, and where not. */
static void put_remainders(sherd__text *to, const sherd_plan *plan)
{
    uint32_t with = 0, fp32 = 0, fp16 = 0, offloaded = 0;

    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        const sherd__bucket *bucket = &plan->buckets[b];
        with += bucket->remainder != 0;
        fp32 += bucket->dtype == SHERD_FP32;
        fp16 += bucket->dtype == SHERD_FP16;
        offloaded += bucket->dtype == SHERD_BF16 && sherd__bucket_offloaded(bucket);
    }
    if (plan->config.master_remainder)
        sherd__text_put(to,
                        "masters of %" PRIu32 " of %" PRIu32
                        " buckets are 16-bit remainders; master_remainder is without effect on %" PRIu32
                        " in fp32 (the working copy is the master), %" PRIu32 " in fp16, %" PRIu32
                        " in bf16 but off the device\n",
                        with, plan->n_buckets, fp32, fp16, offloaded);
}

static void put_memory(sherd__text *to, const sherd_plan *plan)
{
    sherd_memory memory;
    if (sherd_plan_memory(plan, 0, &memory))
        return;
    sherd__text_put(to, "transport %s, reduction %s, receive scratch %" PRIu64 " bytes\n",
                    sherd__transport_name(sherd__plan_transport(&plan->config)),
                    plan->config.transport.reduction == SHERD_REDUCTION_NATIVE ? "native" : "tree",
                    plan->receive_bytes);
    sherd__text_put(to, "bytes of each rank\n");
    for (int tier = 0; tier < SHERD_TIERS; tier++)
        for (int category = 0; category < SHERD_CATEGORIES; category++)
            if (memory.bytes[tier][category])
                sherd__text_put(to, "  %-7s %-18s %16" PRIu64 "\n", sherd_tier_name((sherd_tier)tier),
                                sherd_category_name((sherd_category)category), memory.bytes[tier][category]);
    sherd__text_put(to, "  %-7s %-18s %16" PRIu64 "\n", sherd_tier_name(SHERD_TIER_DEVICE), "total",
                    sherd_memory_total(&memory, SHERD_TIER_DEVICE));
    put_borrowed(to, plan);
    put_remainders(to, plan);
}

/* How even the owners' work is: the busiest rank's part against all of it, wave by wave. */
static void put_matrices(sherd__text *to, const sherd_plan *plan)
{
    uint32_t left = plan->n_buckets;

    if (plan->n_matrices == 0)
        return;
    sherd__text_put(to, "matrices stepped as wholes: %" PRIu32 ", window %" PRIu64 " bytes, scratch %" PRIu64 " bytes\n",
                    plan->n_matrices, plan->window_bytes, plan->ortho_bytes);
    for (uint32_t wave = 0; wave < plan->n_waves; wave++) {
        double all = 0, busiest = 0;
        uint32_t n = 0;
        for (; left > 0 && (!plan->buckets[left - 1].muon || plan->buckets[left - 1].wave == wave); left--) {
            const sherd__bucket *bucket = &plan->buckets[left - 1];
            busiest += bucket->ortho_flops;
            n += bucket->muon ? bucket->count : 0;
            for (uint32_t i = 0; i < bucket->count && bucket->muon; i++)
                all += sherd__plan_matrix_flops(plan, plan->order[bucket->first + i]);
        }
        sherd__text_put(to, "  wave %-4" PRIu32 " %6" PRIu32 " matrices, %.3g operations, of the busiest rank %.3g\n", wave, n, all,
                        busiest);
    }
}

static void put_event(sherd__text *to, sherd__event_ref event)
{
    if (event.kind == SHERD__EV_CLOSED || event.kind == SHERD__EV_VOTED || event.kind == SHERD__EV_RATED)
        sherd__text_put(to, " %s", sherd__event_name(event.kind));
    else
        sherd__text_put(to, " %s[%" PRIu32 "]", sherd__event_name(event.kind), event.bucket);
}

static void put_action(sherd__text *to, const sherd__action *action)
{
    sherd__text_put(to, "    %-7s %-11s", stream_names[action->stream], sherd__action_name(action->kind));
    if (action->kind != SHERD__ACT_VOTE && action->kind != SHERD__ACT_SCALARS && action->kind != SHERD__ACT_RATIOS)
        sherd__text_put(to, " %" PRIu32, action->bucket);
    if (action->flags & SHERD__F_ASSIGN)
        sherd__text_put(to, " assign");
    if (action->flags & SHERD__F_COUNT)
        sherd__text_put(to, " count");
    if (action->flags & SHERD__F_DRAIN)
        sherd__text_put(to, " drain");
    if (action->flags & SHERD__F_FINAL)
        sherd__text_put(to, " final");
    if (action->flags & SHERD__F_SLOT)
        sherd__text_put(to, " slot");
    if (action->flags & SHERD__F_WINDOW)
        sherd__text_put(to, " window");
    for (uint32_t w = 0; w < action->n_waits; w++) {
        sherd__text_put(to, w ? "," : "  waits");
        put_event(to, action->wait[w]);
    }
    if (action->record.kind != SHERD__EV_NONE) {
        sherd__text_put(to, "  records");
        put_event(to, action->record);
    }
    sherd__text_put(to, "\n");
}

static void put_range(sherd__text *to, const sherd_plan *plan, sherd__range range)
{
    for (uint32_t a = range.begin; a < range.end; a++)
        put_action(to, &plan->schedule.actions[a]);
}

static void put_schedule(sherd__text *to, const sherd_plan *plan)
{
    const sherd__schedule *schedule = &plan->schedule;
    sherd__text_put(to, "schedule: the compute stream reads a bucket's parameters after %s[bucket]\n",
                    sherd__event_name(schedule->acquire_wait));
    for (int phase = 0; phase < SHERD__PHASES; phase++) {
        if (!plan->n_buckets || schedule->on_ready[phase][0].begin == schedule->on_ready[phase][0].end ||
            (phase == SHERD__ONLY && plan->config.gradient_accumulation_steps > 1)) /* of steps that end early */
            continue;
        sherd__text_put(to, "  in %s, as buckets are ready\n", phase_titles[phase]);
        for (uint32_t b = 0; b < plan->n_buckets; b++)
            put_range(to, plan, schedule->on_ready[phase][b]);
    }
    sherd__text_put(to, "  at the step's end\n");
    put_range(to, plan, schedule->boundary);
}

size_t sherd_plan_text(const sherd_plan *plan, char *buffer, size_t capacity)
{
    sherd__text to = sherd__text_in(buffer, capacity);
    put_header(&to, plan);
    put_buckets(&to, plan);
    put_memory(&to, plan);
    put_matrices(&to, plan);
    put_schedule(&to, plan);
    return to.length;
}
