/* SPDX-License-Identifier: MIT */
#include "bodies.h"

#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "tests/support/leaves.h"

#define SLICE 1280 /* elements */
#define MAX_RANKS 16

/* Tree sum over ranks by recursive halving (NUMERICS), written here independently of the library. */
static float tree_of(const float *leaves, int32_t low, int32_t high)
{
    if (high - low == 1) {
        return leaves[low];
    }
    int32_t half = 1;
    while (half * 2 < high - low) {
        half *= 2;
    }
    return tree_of(leaves, low, low + half) + tree_of(leaves, low + half, high);
}

static float left_to_right(const float *leaves, int32_t n)
{
    float sum = leaves[0];
    for (int32_t i = 1; i < n; i++) {
        sum += leaves[i];
    }
    return sum;
}

static float right_to_left(const float *leaves, int32_t n)
{
    float sum = leaves[n - 1];
    for (int32_t i = n - 2; i >= 0; i--) {
        sum += leaves[i];
    }
    return sum;
}

static uint32_t bits(float value)
{
    return sherd__bits_of_f32(value);
}

/* All ranks' leaves of element i of this rank's slice. */
typedef struct leaf_table {
    void *of[MAX_RANKS]; /* whole buckets */
} leaf_table;

static void leaves_make(leaf_table *table, int32_t world, sherd_dtype dtype, int64_t round)
{
    for (int32_t rank = 0; rank < world; rank++) {
        table->of[rank] = malloc((size_t)world * SLICE * 4);
        sherd_test_leaf(7, round, rank, 3, dtype, (int64_t)world * SLICE, table->of[rank]);
    }
}

static void leaves_free(leaf_table *table, int32_t world)
{
    for (int32_t rank = 0; rank < world; rank++) {
        free(table->of[rank]);
    }
}

static void leaves_at(const leaf_table *table, int32_t world, sherd_dtype dtype, int64_t element, float *out)
{
    for (int32_t rank = 0; rank < world; rank++) {
        out[rank] = dtype == SHERD_FP32 ? ((const float *)table->of[rank])[element]
                                        : sherd__f32_of_bf16(((const uint16_t *)table->of[rank])[element]);
    }
}

/* Elements whose bits another order would have changed. At world 3, from the left is the tree: (0+1)+2. */
typedef struct wrong_orders {
    int64_t from_left, from_right;
} wrong_orders;

/* One bucket: assign, then add the same sums again; then narrowed to bf16. */
static int reduce_one(rank_ctx *ctx, sherd__window *window, sherd_dtype dtype, wrong_orders *wrong)
{
    const uint64_t offset = 512;
    leaf_table table;
    sherd_error error;
    float *sum = calloc(SLICE, 4);
    uint16_t *narrow = calloc(SLICE, 2);
    leaves_make(&table, ctx->world, dtype, 1);
    memcpy((char *)window->local + offset, table.of[ctx->rank], (size_t)ctx->world * SLICE * sherd_dtype_bytes(dtype));
    sherd__tree_sum job = {.src_dtype = dtype, .dst_dtype = SHERD_FP32, .dst = sum, .elems = SLICE};
    sherd__ticket ticket = 0;
    RANK_CHECK(ctx->comm->ops->reduce_scatter(ctx->comm, ctx->stream, tag_of("reduce", 0), window, offset, &job,
                                              &ticket) == SHERD_OK);
    RANK_CHECK(ticket != 0);
    job.add = 1;
    RANK_CHECK(ctx->comm->ops->reduce_scatter(ctx->comm, ctx->stream, tag_of("reduce", 0), window, offset, &job,
                                              NULL) == SHERD_OK);
    sherd__tree_sum narrowed = {
        .src_dtype = dtype, .dst_dtype = SHERD_BF16, .dst = narrow, .elems = SLICE, .narrow = 1};
    RANK_CHECK(ctx->comm->ops->reduce_scatter(ctx->comm, ctx->stream, tag_of("reduce", 1), window, offset, &narrowed,
                                              &ticket) == SHERD_OK);
    RANK_CHECK(ctx->comm->ops->released(ctx->comm, ctx->stream, tag_of("reduce", 1), ticket, "test: released") ==
               SHERD_OK);
    RANK_CHECK(rank_wait(ctx, &error) == SHERD_OK);
    for (int64_t i = 0; i < SLICE; i++) {
        float leaves[MAX_RANKS];
        leaves_at(&table, ctx->world, dtype, ctx->rank * (int64_t)SLICE + i, leaves);
        float right = tree_of(leaves, 0, ctx->world);
        RANK_CHECK(bits(sum[i]) == bits(right + right));
        RANK_CHECK(narrow[i] == sherd__bf16_of_f32(right));
        wrong->from_left += bits(right) != bits(left_to_right(leaves, ctx->world));
        wrong->from_right += bits(right) != bits(right_to_left(leaves, ctx->world));
    }
    leaves_free(&table, ctx->world);
    free(sum);
    free(narrow);
    return 0;
}

int body_reduce_scatter(rank_ctx *ctx)
{
    sherd_error error;
    sherd__window window;
    wrong_orders wrong = {0, 0};
    RANK_CHECK(ctx->comm->ops->window_create(ctx->comm, (uint64_t)ctx->world * SLICE * 4 + 512, SHERD_CAT_GRADIENTS,
                                             &window, &error) == SHERD_OK);
    int failed = reduce_one(ctx, &window, SHERD_FP32, &wrong);
    RANK_CHECK(failed || (ctx->world < 4 ? wrong.from_left == 0 : wrong.from_left > SLICE / 10));
    RANK_CHECK(failed || (ctx->world < 3 ? wrong.from_right == 0 : wrong.from_right > SLICE / 10));
    if (!failed) {
        failed = reduce_one(ctx, &window, SHERD_BF16, &wrong);
    }
    ctx->comm->ops->window_destroy(ctx->comm, &window);
    return failed;
}

static uint32_t pattern(int32_t rank, int64_t round, uint64_t i)
{
    return (uint32_t)sherd_test_mix(5, (uint64_t)rank, (uint64_t)round, i, 0);
}

int body_all_gather(rank_ctx *ctx)
{
    const uint64_t words = 5 * 64, offset = 64;
    sherd_error error;
    sherd__window window;
    RANK_CHECK(ctx->comm->ops->window_create(ctx->comm, (uint64_t)ctx->world * words * 4 + 128, SHERD_CAT_PARAMETERS,
                                             &window, &error) == SHERD_OK);
    uint32_t *at = (uint32_t *)((char *)window.local + offset);
    for (int64_t round = 0; round < 5; round++) {
        sherd__ticket ticket;
        for (uint64_t i = 0; i < words; i++) {
            at[(uint64_t)ctx->rank * words + i] = pattern(ctx->rank, round, i);
        }
        RANK_CHECK(ctx->comm->ops->all_gather(ctx->comm, ctx->stream, tag_of("gather", 2), &window, offset, words * 4,
                                              &ticket) == SHERD_OK);
        RANK_CHECK(ctx->comm->ops->released(ctx->comm, ctx->stream, tag_of("gather", 2), ticket, "test: released") ==
                   SHERD_OK);
        RANK_CHECK(rank_wait(ctx, &error) == SHERD_OK);
        for (int32_t rank = 0; rank < ctx->world; rank++) {
            for (uint64_t i = 0; i < words; i++) {
                RANK_CHECK(at[(uint64_t)rank * words + i] == pattern(rank, round, i));
            }
        }
        RANK_CHECK(((unsigned char *)window.local)[0] == 0 && ((unsigned char *)window.local)[window.bytes - 1] == 0);
    }
    ctx->comm->ops->window_destroy(ctx->comm, &window);
    return 0;
}

int body_broadcast(rank_ctx *ctx)
{
    const uint64_t words = 333;
    sherd_error error;
    sherd__window window;
    RANK_CHECK(ctx->comm->ops->window_create(ctx->comm, words * 4, SHERD_CAT_COMMUNICATION, &window, &error) ==
               SHERD_OK);
    uint32_t *at = window.local;
    for (int32_t root = 0; root < ctx->world; root++) {
        sherd__ticket ticket;
        for (uint64_t i = 0; i < words; i++) {
            at[i] = pattern(ctx->rank, root, i);
        }
        RANK_CHECK(ctx->comm->ops->broadcast(ctx->comm, ctx->stream, tag_of("weights", 0), &window, 0, words * 4, root,
                                             &ticket) == SHERD_OK);
        RANK_CHECK(ctx->comm->ops->released(ctx->comm, ctx->stream, tag_of("weights", 0), ticket, "test: released") ==
                   SHERD_OK);
        RANK_CHECK(rank_wait(ctx, &error) == SHERD_OK);
        for (uint64_t i = 0; i < words; i++) {
            RANK_CHECK(at[i] == pattern(root, root, i));
        }
        RANK_CHECK(ctx->comm->ops->barrier(ctx->comm, ctx->stream, tag_of("end", -1)) == SHERD_OK);
        RANK_CHECK(rank_wait(ctx, &error) == SHERD_OK);
    }
    ctx->comm->ops->window_destroy(ctx->comm, &window);
    return 0;
}

int body_all_reduce(rank_ctx *ctx)
{
    for (uint64_t round = 0; round < 20; round++) {
        uint64_t values[SHERD__VOTE_MAX];
        uint32_t n_sum = (uint32_t)(round % 63) + 1, n_min = SHERD__VOTE_MAX - n_sum;
        sherd_error error;
        for (uint64_t i = 0; i < SHERD__VOTE_MAX; i++) {
            values[i] = sherd_test_mix(round, (uint64_t)ctx->rank, i, 0, 0);
        }
        RANK_CHECK(ctx->comm->ops->all_reduce(ctx->comm, ctx->stream, tag_of("vote", -1), values, n_sum, n_min) ==
                   SHERD_OK);
        RANK_CHECK(rank_wait(ctx, &error) == SHERD_OK);
        for (uint64_t i = 0; i < SHERD__VOTE_MAX; i++) {
            uint64_t sum = 0, least = UINT64_MAX;
            for (int32_t rank = 0; rank < ctx->world; rank++) {
                uint64_t value = sherd_test_mix(round, (uint64_t)rank, i, 0, 0);
                sum += value;
                least = value < least ? value : least;
            }
            RANK_CHECK(values[i] == (i < n_sum ? sum : least));
        }
    }
    return 0;
}

/* Back to back without waiting on the host: the slot is rewritten by the stream as soon as every rank has read it. */
int body_reuse(rank_ctx *ctx)
{
    enum { ROUNDS = 100, ELEMS = 256 };
    sherd_error error;
    sherd__window window;
    float *source = malloc((size_t)ROUNDS * (size_t)ctx->world * ELEMS * 4), *sums = malloc((size_t)ROUNDS * ELEMS * 4);
    uint64_t bytes = (uint64_t)ctx->world * ELEMS * 4;
    RANK_CHECK(ctx->comm->ops->window_create(ctx->comm, bytes, SHERD_CAT_GRADIENTS, &window, &error) == SHERD_OK);
    sherd__ticket ticket = 0;
    for (int round = 0; round < ROUNDS; round++) {
        float *bucket = source + (size_t)round * (size_t)ctx->world * ELEMS;
        for (int i = 0; i < ctx->world * ELEMS; i++) {
            bucket[i] = (float)(round * 1000 + ctx->rank * 10 + i % 7);
        }
        RANK_CHECK(ctx->comm->ops->released(ctx->comm, ctx->stream, tag_of("reduce", round), ticket,
                                            "test: slot free") == SHERD_OK);
        RANK_CHECK(ctx->device->ops->copy(ctx->stream, tag_of("fill", round), window.local, bucket, bytes) == SHERD_OK);
        sherd__tree_sum job = {
            .src_dtype = SHERD_FP32, .dst_dtype = SHERD_FP32, .dst = sums + (size_t)round * ELEMS, .elems = ELEMS};
        RANK_CHECK(ctx->comm->ops->reduce_scatter(ctx->comm, ctx->stream, tag_of("reduce", round), &window, 0, &job,
                                                  &ticket) == SHERD_OK);
    }
    RANK_CHECK(rank_wait(ctx, &error) == SHERD_OK);
    for (int i = 0; i < ROUNDS * ELEMS; i++) {
        int round = i / ELEMS, place = ctx->rank * ELEMS + i % ELEMS, world = ctx->world;
        RANK_CHECK(sums[i] == (float)(world * (round * 1000 + place % 7) + 10 * world * (world - 1) / 2));
    }
    ctx->comm->ops->window_destroy(ctx->comm, &window);
    free(source);
    free(sums);
    return 0;
}

/* ----------------------------------------------------------------------------------------------------------- random */

#define RANDOM_WORDS 1024u /* of each kind's own part of the window, per rank */

typedef struct random_state {
    sherd__window window;
    uint64_t part; /* bytes of a part: world × RANDOM_WORDS × 4 */
    uint64_t seed;
    _Alignas(64) float sum[RANDOM_WORDS];
    uint64_t vote[2];
} random_state;

static uint64_t draw(const random_state *state, int64_t number, uint64_t what)
{
    return sherd_test_mix(state->seed, (uint64_t)number, what, 1, 2);
}

static float small_leaf(int32_t rank, int64_t number, uint64_t i)
{
    return (float)(((uint64_t)rank * 3 + (uint64_t)number + i) % 101);
}

/* Writes this rank's input of collective `number` in the part of its kind, and starts it. */
static sherd_status random_start(rank_ctx *ctx, random_state *state, int64_t number, sherd__ticket *ticket)
{
    uint64_t kind = draw(state, number, 0) % 5, words = (draw(state, number, 1) % (RANDOM_WORDS / 256) + 1) * 256;
    sherd__tag tag = tag_of("random", (int32_t)number);
    uint64_t offset = kind * state->part;
    char *at = (char *)state->window.local + offset;
    const sherd__comm_ops *ops = ctx->comm->ops;
    sherd__tree_sum job = {
        .src_dtype = SHERD_FP32, .dst_dtype = SHERD_FP32, .dst = state->sum, .elems = (int64_t)words};
    switch (kind) {
    case 0:
        for (uint64_t i = 0; i < words * (uint64_t)ctx->world; i++) {
            ((float *)(void *)at)[i] = small_leaf(ctx->rank, number, i);
        }
        return ops->reduce_scatter(ctx->comm, ctx->stream, tag, &state->window, offset, &job, ticket);
    case 1:
        for (uint64_t i = 0; i < words; i++) {
            ((uint32_t *)(void *)at)[(uint64_t)ctx->rank * words + i] = pattern(ctx->rank, number, i);
        }
        return ops->all_gather(ctx->comm, ctx->stream, tag, &state->window, offset, words * 4, ticket);
    case 2:
        for (uint64_t i = 0; i < words; i++) {
            ((uint32_t *)(void *)at)[i] = pattern(ctx->rank, number, i);
        }
        return ops->broadcast(ctx->comm, ctx->stream, tag, &state->window, offset, words * 4,
                              (int32_t)(draw(state, number, 2) % (uint64_t)ctx->world), ticket);
    case 3:
        state->vote[0] = state->vote[1] = (uint64_t)number + (uint64_t)ctx->rank;
        return ops->all_reduce(ctx->comm, ctx->stream, tag, state->vote, 1, 1);
    default:
        return ops->barrier(ctx->comm, ctx->stream, tag);
    }
}

static int random_check(rank_ctx *ctx, const random_state *state, int64_t number)
{
    uint64_t kind = draw(state, number, 0) % 5, words = (draw(state, number, 1) % (RANDOM_WORDS / 256) + 1) * 256;
    const uint32_t *at = (const uint32_t *)(const void *)((const char *)state->window.local + kind * state->part);
    for (uint64_t i = 0; i < words && kind == 0; i++) {
        float right = 0;
        for (int32_t rank = 0; rank < ctx->world; rank++) {
            right += small_leaf(rank, number, (uint64_t)ctx->rank * words + i);
        }
        RANK_CHECK(state->sum[i] == right);
    }
    for (uint64_t i = 0; i < words * (uint64_t)ctx->world && kind == 1; i++) {
        RANK_CHECK(at[i] == pattern((int32_t)(i / words), number, i % words));
    }
    for (uint64_t i = 0; i < words && kind == 2; i++) {
        RANK_CHECK(at[i] == pattern((int32_t)(draw(state, number, 2) % (uint64_t)ctx->world), number, i));
    }
    if (kind == 3) {
        uint64_t world = (uint64_t)ctx->world;
        RANK_CHECK(state->vote[0] == (uint64_t)number * world + world * (world - 1) / 2 &&
                   state->vote[1] == (uint64_t)number);
    }
    return 0;
}

int body_random(rank_ctx *ctx)
{
    random_state state = {.seed = *(const uint64_t *)ctx->arg, .part = (uint64_t)ctx->world * RANDOM_WORDS * 4};
    sherd_error error;
    sherd__ticket last[5] = {0};
    RANK_CHECK(ctx->comm->ops->window_create(ctx->comm, 5 * state.part, SHERD_CAT_GRADIENTS, &state.window, &error) ==
               SHERD_OK);
    for (int64_t number = 0; number < 200; number++) {
        uint64_t kind = draw(&state, number, 0) % 5;
        RANK_CHECK(ctx->comm->ops->released(ctx->comm, ctx->stream, tag_of("random", (int32_t)number), last[kind],
                                            "test: part free") == SHERD_OK);
        RANK_CHECK(rank_wait(ctx, &error) == SHERD_OK);
        RANK_CHECK(random_start(ctx, &state, number, &last[kind]) == SHERD_OK);
        RANK_CHECK(rank_wait(ctx, &error) == SHERD_OK);
        int failed = random_check(ctx, &state, number);
        if (failed) {
            return failed;
        }
    }
    ctx->comm->ops->window_destroy(ctx->comm, &state.window);
    return 0;
}

/* ---------------------------------------------------------------------------------------------------------- windows */

int body_windows(rank_ctx *ctx)
{
    static const uint64_t sizes[] = {0, 1, 64, 4096, 4097, 100000, 3u << 20};
    sherd_error error;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        sherd__window window;
        sherd_memory live;
        RANK_CHECK(ctx->comm->ops->window_create(ctx->comm, sizes[s], SHERD_CAT_PARAMETERS, &window, &error) ==
                   SHERD_OK);
        sherd_device_memory(ctx->device, &live, NULL);
        RANK_CHECK(live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_PARAMETERS] == sizes[s]);
        RANK_CHECK((sizes[s] + live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_ROUNDING]) % 4096 == 0);
        for (uint64_t i = 0; i < sizes[s]; i++) {
            RANK_CHECK(((const unsigned char *)window.local)[i] == 0);
        }
        ctx->comm->ops->window_destroy(ctx->comm, &window);
        RANK_CHECK(window.handle == NULL && window.local == NULL);
        ctx->comm->ops->window_destroy(ctx->comm, &window);
        sherd_device_memory(ctx->device, &live, NULL);
        RANK_CHECK(live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_PARAMETERS] == 0 &&
                   live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_ROUNDING] == 0);
    }
    return 0;
}

int body_all(rank_ctx *ctx)
{
    uint64_t seed = 11;
    static const rank_fn bodies[] = {body_windows,   body_reduce_scatter, body_all_gather,
                                     body_broadcast, body_all_reduce,     body_reuse};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        if (bodies[i](ctx) != 0) {
            return 1;
        }
    }
    ctx->arg = &seed;
    return body_random(ctx);
}
