/* SPDX-License-Identifier: MIT
 *
 * Muon steps hidden matrices as wholes: the direction of a matrix is orthogonalised, which takes matrix products that
 * cannot be cut as elements are. Each matrix has an owner that does it for everybody, in a window of fp32 that all
 * ranks have: every rank writes the directions of its slices there, a gather brings them together, the owners work in
 * place, and a reduction of results and zeros gives every rank the results of its slices.
 *
 * That goes in waves of consecutive buckets, last bucket first as all updates do. A wave holds two matrices for each
 * rank, so that all have work, but no more than an eighth of the model in fp32: the window is as large as the largest
 * wave. Where state can be on disk it also has no more buckets than there are slots: their momentum stays there until
 * they have stepped. Within a wave matrices go to owners, the most costly first, to whoever has least to do so far
 * (ties: the lower place in the plan's order, the lower rank). Who owns what shows in no bit.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "optim/muon.h"
#include "shard/build.h"

#define MODEL_SHARE 8
#define MATRICES_PER_RANK 2

typedef struct matrix {
    double flops;
    uint32_t place; /* in plan->order */
} matrix;

/* A rank and what it has to do. */
typedef struct worker {
    double flops;
    int32_t rank;
} worker;

typedef struct dealer {
    sherd_plan *plan;
    matrix *matrices; /* of one wave */
    worker *workers;  /* a heap: who has least, then the lowest rank, comes first */
    uint32_t n_workers;
} dealer;

static sherd__plan_param *param_at(const sherd_plan *plan, uint32_t place)
{
    return &plan->params[plan->order[place]];
}

double sherd__plan_matrix_flops(const sherd_plan *plan, uint32_t param)
{
    const int64_t *shape = plan->params[param].shape;
    return sherd__muon_flops(shape[0], shape[1], plan->config.muon.ns_steps);
}

static double flops_of(const sherd_plan *plan, uint32_t place)
{
    return sherd__plan_matrix_flops(plan, plan->order[place]);
}

/* Buckets of a wave; placement comes later and is the same for all ranks, this too then. */
static uint64_t most_buckets(const sherd_plan *plan)
{
    const sherd_config *config = &plan->config;
    int disk = config->offload.tier == SHERD_TIER_DISK || config->offload.host_memory_budget != SHERD_BUDGET_NONE;
    return disk ? (uint64_t)config->offload.buffer_count : UINT64_MAX;
}

static void form_waves(sherd_plan *plan)
{
    uint64_t most = (uint64_t)plan->total_elems * sizeof(float) / MODEL_SHARE, at = 0;
    uint64_t matrices = 0, enough = (uint64_t)plan->world * MATRICES_PER_RANK;
    uint64_t buckets = 0, slots = most_buckets(plan);

    for (uint32_t left = plan->n_buckets; left > 0; left--) {
        sherd__bucket *bucket = &plan->buckets[left - 1];
        uint64_t bytes = (uint64_t)bucket->elems * sizeof(float);
        if (!bucket->muon)
            continue;
        if (plan->n_waves == 0 || matrices >= enough || at + bytes > most || buckets >= slots) {
            plan->n_waves++;
            at = matrices = buckets = 0;
        }
        bucket->wave = plan->n_waves - 1;
        bucket->window_offset = at;
        at += bytes;
        matrices += bucket->count;
        buckets++;
        plan->n_matrices += bucket->count;
        plan->window_bytes = at > plan->window_bytes ? at : plan->window_bytes;
    }
}

static int compare_cost(const void *left, const void *right)
{
    const matrix *a = left, *b = right;
    if (a->flops != b->flops)
        return a->flops > b->flops ? -1 : 1;
    return a->place < b->place ? -1 : 1;
}

static int before(const worker *a, const worker *b)
{
    return a->flops < b->flops || (a->flops == b->flops && a->rank < b->rank);
}

/* The first of the heap has got more to do. */
static void sink(dealer *dealer)
{
    worker *heap = dealer->workers;
    uint32_t at = 0, n = dealer->n_workers;
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child + 1 < n && before(&heap[child + 1], &heap[child]))
            child++;
        if (child >= n || !before(&heap[child], &heap[at]))
            return;
        worker moved = heap[at];
        heap[at] = heap[child];
        heap[child] = moved;
        at = child;
    }
}

/* More ranks than matrices: the rest gets nothing. */
static void seat_workers(dealer *dealer, uint32_t n)
{
    dealer->n_workers = (uint32_t)dealer->plan->world < n ? (uint32_t)dealer->plan->world : n;
    for (uint32_t r = 0; r < dealer->n_workers; r++)
        dealer->workers[r] = (worker){0, (int32_t)r};
}

/* Buckets of one wave lie between `low` and `high`, with others among them. */
static void deal_wave(dealer *dealer, uint32_t low, uint32_t high)
{
    sherd_plan *plan = dealer->plan;
    double all = 0, busiest = 0;
    uint32_t n = 0;

    for (uint32_t b = low; b <= high; b++)
        for (uint32_t i = 0; i < plan->buckets[b].count && plan->buckets[b].muon; i++, n++)
            dealer->matrices[n] = (matrix){flops_of(plan, plan->buckets[b].first + i), plan->buckets[b].first + i};
    qsort(dealer->matrices, n, sizeof *dealer->matrices, compare_cost);
    seat_workers(dealer, n);
    for (uint32_t i = 0; i < n; i++) {
        worker *least = &dealer->workers[0];
        param_at(plan, dealer->matrices[i].place)->owner = least->rank;
        least->flops += dealer->matrices[i].flops;
        all += dealer->matrices[i].flops;
        busiest = least->flops > busiest ? least->flops : busiest;
        sink(dealer);
    }
    for (uint32_t b = low; b <= high; b++)
        for (uint32_t i = 0; i < plan->buckets[b].count && plan->buckets[b].muon; i++)
            plan->buckets[b].ortho_flops += flops_of(plan, plan->buckets[b].first + i) / all * busiest;
}

static void deal(dealer *dealer)
{
    const sherd_plan *plan = dealer->plan;
    uint32_t high = plan->n_buckets;

    for (uint32_t left = plan->n_buckets; left > 0; left--) {
        uint32_t b = left - 1, next = b;
        if (!plan->buckets[b].muon)
            continue;
        high = high == plan->n_buckets ? b : high;
        while (next > 0 && !plan->buckets[next - 1].muon)
            next--;
        if (next > 0 && plan->buckets[next - 1].wave == plan->buckets[b].wave)
            continue;
        deal_wave(dealer, b, high);
        high = plan->n_buckets;
    }
}

static void place_scratch(sherd_plan *plan)
{
    const uint64_t line = 64;
    for (uint32_t p = 0; p < plan->n_params; p++) {
        const sherd__plan_param *param = &plan->params[p];
        uint64_t bytes;
        if (param->owner < 0)
            continue;
        bytes = (uint64_t)sherd__muon_scratch_elems(param->shape[0], param->shape[1]) * sizeof(float);
        bytes = (bytes + line - 1) / line * line;
        plan->ortho_bytes = bytes > plan->ortho_bytes ? bytes : plan->ortho_bytes;
    }
    plan->comm_bytes += plan->window_bytes + plan->ortho_bytes;
}

sherd_status sherd__plan_place_muon(sherd_plan *plan, sherd_error *err)
{
    dealer dealer = {.plan = plan};
    sherd_status status = SHERD_OK;

    form_waves(plan);
    if (plan->n_matrices == 0)
        return SHERD_OK;
    dealer.matrices = sherd__alloc(&sherd__default_allocator, plan->n_matrices, sizeof *dealer.matrices);
    dealer.workers = sherd__alloc(&sherd__default_allocator, plan->n_matrices, sizeof *dealer.workers);
    if (!dealer.matrices || !dealer.workers)
        status = sherd__fail(err, SHERD_ENOMEM, "no memory to deal out %" PRIu32 " matrices", plan->n_matrices);
    else
        deal(&dealer);
    sherd__free(&sherd__default_allocator, dealer.workers, plan->n_matrices, sizeof *dealer.workers);
    sherd__free(&sherd__default_allocator, dealer.matrices, plan->n_matrices, sizeof *dealer.matrices);
    if (status == SHERD_OK)
        place_scratch(plan);
    return status;
}
