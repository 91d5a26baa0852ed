/* SPDX-License-Identifier: MIT
 *
 * The product of N ring machines with a model of what surrounds them. A rank is its ring, its caller, and its comm
 * stream:
 *
 * - The caller makes any legal gradient call at any time, in any order, and may block in one: for the release of a
 * slot by all ranks, or for its own stream to have emptied a buffer outside the ring.
 * - The stream takes started buckets in order: it arrives at a reduction once the slot is released by its former
 * user, and is done with it once all ranks have arrived. A bucket is released when all ranks are done with it.
 * - After every `accumulation` micro-steps all ranks vote, update, and gather.
 *
 * Buckets are counted through: number (micro-step - 1) × buckets + bucket. Ranks are alike, so states that differ in
 * the order of ranks are one state.
 */
#include "tests/shard/explore.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

enum { NOT_WAITING = 0, REUSE = 0x80, PACKED = 16, STATE = PACKED * EXPLORE_RANKS, FIRST_CAPACITY = 1 << 16 };

typedef struct rank_state {
    sherd__ring ring;
    sherd__ring_param params[EXPLORE_PARAMS];
    sherd__ring_bucket buckets[EXPLORE_BUCKETS];
    uint8_t shard[EXPLORE_BUCKETS];
    uint8_t waiting; /* parameter + 1 whose acquire blocks; with REUSE: for its buffer outside the ring */
    uint32_t arrived, done, stepped, gathered;
} rank_state;

typedef struct explorer {
    const explore_model *model;
    explore_result *result;
    uint8_t (*states)[STATE];
    uint32_t *index; /* open table of state number + 1 */
    size_t n, capacity, slots;
    int out_of_memory;
    rank_state rank[EXPLORE_RANKS]; /* of the state being expanded, and of its successor */
} explorer;

static void fault(explorer *x, explore_outcome outcome)
{
    if (x->result->outcome == EXPLORE_FINE)
        x->result->outcome = outcome;
}

/* ------------------------------------------------------------------------------------------------ states as bytes */

static void pack(const explorer *x, const rank_state *from, uint8_t *to)
{
    const sherd_plan *plan = x->model->plan;
    uint32_t slots = 0, shards = 0;
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        slots |= ((uint32_t)from->buckets[b].state | (uint32_t)from->buckets[b].slot_free << 2) << 3 * b;
        shards |= (uint32_t)from->shard[b] << 3 * b;
    }
    memset(to, 0, PACKED);
    to[0] = (uint8_t)(from->ring.micro_steps | (uint64_t)from->ring.open << 7);
    to[1] = (uint8_t)from->ring.next;
    to[2] = from->waiting;
    to[3] = (uint8_t)from->arrived;
    to[4] = (uint8_t)from->done;
    to[5] = (uint8_t)(from->stepped << 4 | from->gathered);
    to[6] = (uint8_t)slots;
    to[7] = (uint8_t)(slots >> 8);
    to[8] = (uint8_t)shards;
    to[9] = (uint8_t)(shards >> 8);
    for (uint32_t p = 0; p < plan->n_params; p++)
        to[10 + p] =
            (uint8_t)(from->params[p].acquired | from->params[p].ready << 2 | (uint32_t)from->params[p].place << 4);
}

static void unpack(const explorer *x, const uint8_t *from, rank_state *to)
{
    const sherd_plan *plan = x->model->plan;
    uint32_t slots = from[6] | (uint32_t)from[7] << 8, shards = from[8] | (uint32_t)from[9] << 8;
    memset(to, 0, sizeof *to);
    sherd__ring_init(&to->ring, plan, to->params, to->buckets);
    to->ring.micro_steps = from[0] & 0x7F;
    to->ring.open = from[0] >> 7;
    to->ring.next = from[1];
    to->waiting = from[2];
    to->arrived = from[3];
    to->done = from[4];
    to->stepped = from[5] >> 4;
    to->gathered = from[5] & 15;
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        to->buckets[b].state = (sherd__slot_state)(slots >> 3 * b & 3);
        to->buckets[b].slot_free = (int32_t)(slots >> (3 * b + 2) & 1);
        to->shard[b] = shards >> 3 * b & 7;
    }
    for (uint32_t p = 0; p < plan->n_params; p++) {
        to->params[p].acquired = from[10 + p] & 3;
        to->params[p].ready = from[10 + p] >> 2 & 3;
        to->params[p].place = (sherd__grad_place)(from[10 + p] >> 4);
        if (plan->params[p].bucket >= 0)
            to->buckets[plan->params[p].bucket].ready += to->params[p].ready;
    }
}

static void load(explorer *x, size_t number)
{
    for (int32_t r = 0; r < x->model->ranks; r++)
        unpack(x, x->states[number] + r * PACKED, &x->rank[r]);
}

static int by_bytes(const void *a, const void *b)
{
    return memcmp(a, b, PACKED);
}

static uint64_t spread(const uint8_t *state)
{
    uint8_t digest[16];
    uint64_t value;
    sherd__hash_plain(state, STATE, digest);
    memcpy(&value, digest, sizeof value);
    return value;
}

static int grow(explorer *x)
{
    size_t capacity = x->capacity ? 2 * x->capacity : FIRST_CAPACITY, slots = 2 * capacity;
    void *states = realloc(x->states, capacity * STATE);
    if (!states)
        return 0;
    x->states = states;
    uint32_t *index = calloc(slots, sizeof *index);
    if (!index)
        return 0;
    for (size_t i = 0; i < x->n; i++) {
        size_t at = spread(x->states[i]) & (slots - 1);
        while (index[at])
            at = (at + 1) & (slots - 1);
        index[at] = (uint32_t)i + 1;
    }
    free(x->index);
    x->index = index;
    x->capacity = capacity;
    x->slots = slots;
    return 1;
}

/* Adds the successor in x->rank if it is new. */
static void visit(explorer *x)
{
    uint8_t state[STATE] = {0};
    for (int32_t r = 0; r < x->model->ranks; r++)
        pack(x, &x->rank[r], state + r * PACKED);
    qsort(state, (size_t)x->model->ranks, PACKED, by_bytes);
    if (x->n == x->capacity && !grow(x)) {
        x->out_of_memory = 1;
        return;
    }
    size_t at = spread(state) & (x->slots - 1);
    while (x->index[at] && memcmp(x->states[x->index[at] - 1], state, STATE))
        at = (at + 1) & (x->slots - 1);
    if (x->index[at])
        return;
    memcpy(x->states[x->n++], state, STATE);
    x->index[at] = (uint32_t)x->n;
}

/* ------------------------------------------------------------------------------------------ what ranks have done */

static uint32_t micro_step(const rank_state *rank)
{
    return (uint32_t)rank->ring.micro_steps; /* from 1 */
}

static uint32_t started(const explorer *x, const rank_state *rank)
{
    return micro_step(rank) ? (micro_step(rank) - 1) * x->model->plan->n_buckets + rank->ring.next : 0;
}

/* Number of the slot's former user of bucket `b` in micro-step `micro` plus 1; 0: none. */
static uint32_t former(const explorer *x, uint32_t micro, uint32_t b)
{
    const sherd__bucket *bucket = &x->model->plan->buckets[b];
    uint32_t back = bucket->ring_after_previous ? 2 : 1;
    return micro < back ? 0 : (micro - back) * x->model->plan->n_buckets + bucket->ring_after + 1;
}

static int released(const explorer *x, uint32_t count)
{
    for (int32_t r = 0; r < x->model->ranks; r++)
        if (x->rank[r].done < count)
            return 0;
    return 1;
}

/* The slow definition of a free slot: every earlier bucket that shares a byte with it has been read by everybody. */
static void check_slot(explorer *x, uint32_t micro, uint32_t b)
{
    const sherd_plan *plan = x->model->plan;
    const sherd__bucket *mine = &plan->buckets[b];
    uint32_t number = (micro - 1) * plan->n_buckets + b;
    for (uint32_t earlier = 0; earlier < number; earlier++) {
        const sherd__bucket *other = &plan->buckets[earlier % plan->n_buckets];
        if (mine->ring_offset < other->ring_offset + other->ring_bytes &&
            other->ring_offset < mine->ring_offset + mine->ring_bytes && !released(x, earlier + 1))
            fault(x, EXPLORE_OVERWRITE);
    }
}

/* Everything that came is complete; unless the micro-step is being closed, everything has come. */
static void check_started(explorer *x, const rank_state *rank, uint32_t from, uint32_t to, uint32_t before,
                          int closing)
{
    const sherd_plan *plan = x->model->plan;
    if (from != before || to != rank->ring.next || to < from || (closing && to != plan->n_buckets))
        fault(x, EXPLORE_ORDER);
    for (uint32_t b = from; b < to; b++)
        for (uint32_t i = 0; i < plan->buckets[b].count; i++) {
            uint32_t id = plan->order[plan->buckets[b].first + i];
            const sherd__ring_param *param = &rank->params[id];
            if (param->ready != param->acquired || (!closing && param->ready != plan->params[id].uses) ||
                (param->place == SHERD__GRAD_NONE) != (param->acquired == 0))
                fault(x, EXPLORE_GRADIENT_LOST);
        }
}

/* A call may take a slot through more than one move. */
static void check_slot_moves(explorer *x, const rank_state *rank, const sherd__slot_state *before)
{
    for (uint32_t b = 0; b < x->model->plan->n_buckets; b++) {
        sherd__slot_state at = before[b];
        for (int move = 0; move < 2 && at != rank->buckets[b].state; move++) {
            sherd__slot_state next = (sherd__slot_state)((at + 1) % 3);
            if (!sherd__slot_move_legal(at, next))
                fault(x, EXPLORE_ILLEGAL_MOVE);
            at = next;
        }
    }
}

static void move_shard(explorer *x, rank_state *rank, uint32_t b, sherd__shard_state to)
{
    if (!sherd__shard_move_legal((sherd__shard_state)rank->shard[b], to))
        fault(x, EXPLORE_ILLEGAL_MOVE);
    rank->shard[b] = (uint8_t)to;
}

/* -------------------------------------------------------------------------------------------------- stream moves */

/* Each returns 1 if the rank's stream could move. */
static int stream_arrives(explorer *x, rank_state *rank)
{
    const explore_model *model = x->model;
    uint32_t number = rank->arrived, n = model->plan->n_buckets, micro = number / n + 1;
    if (number >= started(x, rank) || rank->gathered < (micro - 1) / (uint32_t)model->accumulation)
        return 0;
    if (model->rule != EXPLORE_EARLY_START && !released(x, former(x, micro, number % n)))
        return 0;
    check_slot(x, micro, number % n); /* it moves gradients into the slot and zeroes its padding */
    rank->arrived++;
    return 1;
}

static int stream_reduces(explorer *x, rank_state *rank)
{
    uint32_t n = x->model->plan->n_buckets, last = (uint32_t)x->model->accumulation - 1;
    if (rank->done >= rank->arrived)
        return 0;
    for (int32_t r = 0; r < x->model->ranks; r++)
        if (x->rank[r].arrived <= rank->done)
            return 0;
    move_shard(x, rank, rank->done % n, rank->done / n % (last + 1) == last ? SHERD__SUMMED : SHERD__ACCUMULATING);
    rank->done++;
    return 1;
}

static int stream_votes(explorer *x, rank_state *rank)
{
    uint32_t n = x->model->plan->n_buckets, until = (rank->stepped + 1) * (uint32_t)x->model->accumulation * n;
    if (rank->ring.open || started(x, rank) < until || !released(x, until))
        return 0;
    for (uint32_t b = 0; b < n; b++) {
        move_shard(x, rank, b, SHERD__STEPPING);
        move_shard(x, rank, b, SHERD__STEPPED);
    }
    rank->stepped++;
    return 1;
}

static int stream_gathers(explorer *x, rank_state *rank)
{
    if (rank->gathered == rank->stepped)
        return 0;
    for (int32_t r = 0; r < x->model->ranks; r++)
        if (x->rank[r].stepped <= rank->gathered)
            return 0;
    for (uint32_t b = 0; b < x->model->plan->n_buckets; b++)
        move_shard(x, rank, b, SHERD__CLEAN);
    rank->gathered++;
    return 1;
}

/* -------------------------------------------------------------------------------------------------- caller moves */

static int make_ready(explorer *x, rank_state *rank, uint32_t p)
{
    uint32_t from, to, before = rank->ring.next;
    const char *why;
    if (sherd__ring_ready(&rank->ring, p, &from, &to, &why) != SHERD__RING_PLACED)
        fault(x, EXPLORE_GRADIENT_LOST);
    else
        check_started(x, rank, from, to, before, 0);
    return 1;
}

/* The caller has its pointer, unless the buffer outside the ring still holds the former micro-step's gradient. */
static void take_place(explorer *x, rank_state *rank, uint32_t p, int32_t beta)
{
    const sherd_plan *plan = x->model->plan;
    uint32_t b = (uint32_t)plan->params[p].bucket, micro = micro_step(rank);
    rank->waiting = NOT_WAITING;
    if (rank->params[p].place == SHERD__GRAD_SLOT) {
        check_slot(x, micro, b);
    } else if (!beta && micro > 1 && rank->done < (micro - 2) * plan->n_buckets + b + 1) {
        rank->waiting = (uint8_t)(REUSE | (p + 1));
        return;
    }
    if (x->model->copies)
        make_ready(x, rank, p);
}

static sherd__ring_answer broken_acquire(const explorer *x, rank_state *rank, uint32_t p, sherd__grad_place *place,
                                         int32_t *beta)
{
    const char *why;
    sherd__ring_param before = rank->params[p];
    uint32_t b = (uint32_t)x->model->plan->params[p].bucket;
    sherd__ring_answer answer = sherd__ring_acquire(&rank->ring, p, place, beta, &why);
    if (x->model->rule == EXPLORE_WAIT_FOR_PARK && answer == SHERD__RING_PLACED && *place == SHERD__GRAD_PARKED) {
        rank->params[p] = before;
        return SHERD__RING_WAIT;
    }
    if (x->model->rule == EXPLORE_SLOT_FOR_WAIT && answer == SHERD__RING_WAIT) {
        sherd__ring_released(&rank->ring, b);
        answer = sherd__ring_acquire(&rank->ring, p, place, beta, &why);
    }
    return answer;
}

static void caller_acquires(explorer *x, rank_state *rank, uint32_t p)
{
    sherd__grad_place place = SHERD__GRAD_NONE;
    int32_t beta = 0;
    uint32_t b = (uint32_t)x->model->plan->params[p].bucket;
    switch (broken_acquire(x, rank, p, &place, &beta)) {
    case SHERD__RING_PLACED:
        x->result->parks += place == SHERD__GRAD_PARKED;
        take_place(x, rank, p, beta);
        break;
    case SHERD__RING_WAIT:
        x->result->waits++;
        if (!x->model->blind && former(x, micro_step(rank), b) > started(x, rank))
            fault(x, EXPLORE_WAITS_ON_CALLER);
        rank->waiting = (uint8_t)(p + 1);
        break;
    case SHERD__RING_REFUSED: fault(x, EXPLORE_GRADIENT_LOST); break;
    }
}

/* A blocked caller goes on: the slot is released, or the buffer outside the ring is empty. */
static int caller_wakes(explorer *x, rank_state *rank)
{
    const sherd_plan *plan = x->model->plan;
    uint32_t p = (rank->waiting & ~(uint32_t)REUSE) - 1, b = (uint32_t)plan->params[p].bucket,
             micro = micro_step(rank);
    if (rank->waiting & REUSE) {
        if (rank->done < (micro - 2) * plan->n_buckets + b + 1)
            return 0;
        rank->waiting = NOT_WAITING;
        if (x->model->copies)
            make_ready(x, rank, p);
        return 1;
    }
    if (!released(x, former(x, micro, b)))
        return 0;
    sherd__ring_released(&rank->ring, b);
    caller_acquires(x, rank, p);
    return 1;
}

static int caller_closes(explorer *x, rank_state *rank)
{
    const explore_model *model = x->model;
    uint32_t from, to, before = rank->ring.next;
    const char *why;
    for (uint32_t p = 0; p < model->plan->n_params; p++)
        if (rank->params[p].ready != rank->params[p].acquired)
            return 0;
    for (uint32_t p = sherd__ring_missing(&rank->ring, 0); p < model->plan->n_params;
         p = sherd__ring_missing(&rank->ring, p + 1))
        if (!(model->may_miss >> p & 1))
            return 0;
    if (sherd__ring_close(&rank->ring, &from, &to, &why) != SHERD__RING_PLACED)
        fault(x, EXPLORE_ORDER);
    check_started(x, rank, from, to, before, 1);
    return 1;
}

static int caller_begins(explorer *x, rank_state *rank)
{
    uint32_t micro = micro_step(rank), accumulation = (uint32_t)x->model->accumulation;
    if (micro == (uint32_t)x->model->micro_steps ||
        (micro % accumulation == 0 && rank->stepped < micro / accumulation))
        return 0;
    sherd__ring_begin(&rank->ring);
    return 1;
}

/* ----------------------------------------------------------------------------------------------------- exploring */

/* Moves are numbered: streams, then the caller's few, then acquire and ready of each parameter. */
enum { ARRIVE, REDUCE, VOTE, GATHER, STREAM_MOVES, WAKE = STREAM_MOVES, CLOSE, BEGIN, ACQUIRE };

static int stream_move(explorer *x, rank_state *rank, uint32_t move)
{
    switch (move) {
    case ARRIVE: return stream_arrives(x, rank);
    case REDUCE: return stream_reduces(x, rank);
    case VOTE: return stream_votes(x, rank);
    default: return stream_gathers(x, rank);
    }
}

static int caller_move(explorer *x, rank_state *rank, uint32_t move)
{
    const sherd_plan *plan = x->model->plan;
    if (rank->waiting != NOT_WAITING)
        return move == WAKE && caller_wakes(x, rank);
    if (!rank->ring.open)
        return move == BEGIN && caller_begins(x, rank);
    if (move < ACQUIRE)
        return move == CLOSE && caller_closes(x, rank);
    uint32_t p = (move - ACQUIRE) / 2;
    if (plan->params[p].bucket < 0)
        return 0;
    if ((move - ACQUIRE) % 2)
        return rank->params[p].ready < rank->params[p].acquired && make_ready(x, rank, p);
    if (rank->params[p].acquired == plan->params[p].uses)
        return 0;
    caller_acquires(x, rank, p);
    return 1;
}

static int try_move(explorer *x, int32_t r, uint32_t move)
{
    sherd__slot_state before[EXPLORE_BUCKETS];
    rank_state *rank = &x->rank[r];
    for (uint32_t b = 0; b < x->model->plan->n_buckets; b++)
        before[b] = rank->buckets[b].state;
    int moved = move < STREAM_MOVES ? stream_move(x, rank, move) : caller_move(x, rank, move);
    check_slot_moves(x, rank, before);
    return moved;
}

static void settle_streams(explorer *x)
{
    for (int moved = 1; moved;) {
        moved = 0;
        for (int32_t r = 0; r < x->model->ranks; r++)
            for (uint32_t move = 0; move < STREAM_MOVES; move++)
                moved |= try_move(x, r, move);
    }
}

static int at_end(const explorer *x)
{
    const explore_model *model = x->model;
    for (int32_t r = 0; r < model->ranks; r++)
        if (x->rank[r].ring.open || x->rank[r].waiting || micro_step(&x->rank[r]) != (uint32_t)model->micro_steps ||
            x->rank[r].gathered * (uint32_t)model->accumulation != (uint32_t)model->micro_steps)
            return 0;
    return 1;
}

static void expand(explorer *x, size_t number)
{
    uint32_t first = x->model->eager ? STREAM_MOVES : 0, last = ACQUIRE + 2 * x->model->plan->n_params;
    uint64_t before = x->result->moves;
    load(x, number);
    for (int32_t r = 0; r < x->model->ranks; r++)
        for (uint32_t move = first; move < last; move++) {
            if (!try_move(x, r, move)) /* and then has changed nothing */
                continue;
            x->result->moves++;
            if (x->model->eager)
                settle_streams(x);
            visit(x);
            load(x, number);
        }
    if (x->result->moves > before)
        return;
    if (at_end(x))
        x->result->ends++;
    else
        fault(x, EXPLORE_DEADLOCK);
}

int explore(const explore_model *model, explore_result *result)
{
    explorer *x = calloc(1, sizeof *x);
    int complete = 0;
    memset(result, 0, sizeof *result);
    if (!x)
        return 0;
    x->model = model;
    x->result = result;
    for (int32_t r = 0; r < model->ranks; r++)
        sherd__ring_init(&x->rank[r].ring, model->plan, x->rank[r].params, x->rank[r].buckets);
    visit(x);
    for (size_t number = 0; number < x->n && result->outcome == EXPLORE_FINE && !x->out_of_memory; number++)
        expand(x, number);
    complete = !x->out_of_memory;
    result->states = x->n;
    free(x->states);
    free(x->index);
    free(x);
    return complete;
}

void explore_relayout(sherd_plan *plan, uint32_t slots)
{
    uint32_t n = plan->n_buckets;
    uint64_t slot = 0;
    for (uint32_t b = 0; b < n; b++)
        slot = plan->buckets[b].ring_bytes > slot ? plan->buckets[b].ring_bytes : slot;
    plan->ring_bytes = slots * slot;
    for (uint32_t b = 0; b < n; b++)
        plan->buckets[b].ring_offset = b % slots * slot;
    for (uint32_t b = 0; b < n; b++)
        for (uint32_t at = n + b; at-- > 0;)
            if (plan->buckets[at % n].ring_offset == plan->buckets[b].ring_offset) {
                plan->buckets[b].ring_after = at % n;
                plan->buckets[b].ring_after_previous = at < n;
                break;
            }
}
