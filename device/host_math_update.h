/* SPDX-License-Identifier: MIT
 *
 * The fused update, a part of host_math_simd.h: one pass that widens the sum, unscales and clips it (one factor),
 * updates master and moments and emits the 16-bit copy.
 *
 * The pass is bound by memory, and a processor reads fast only while many lines are under way at once. Divisions and
 * roots keep it from running ahead by itself, so the block after the next is asked for explicitly; and blocks are so
 * short that all streams move together, which is what the best pure streaming pattern does too (bench/offload).
 * What is only written (the 16-bit copy, second buffers) goes past the caches where it is large; master and moments in
 * place do not: their lines are already owned, and a store past the caches would throw them out to memory one by one.
 */
#ifndef SHERD_DEVICE_HOST_MATH_UPDATE_H
#define SHERD_DEVICE_HOST_MATH_UPDATE_H

/* Elements that go through the steps of the pass together: a whole number of lines of every stream, bf16 included. */
#define UPDATE_BLOCK 64
/* How far ahead is asked for, in elements. */
#define UPDATE_AHEAD 256

/* Iterations of the loop that follows are independent, although what it reads and what it writes may be one array. */
#if defined(__clang__)
#define UPDATE_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define UPDATE_INDEPENDENT _Pragma("GCC ivdep")
#endif

typedef struct update_job update_job;
typedef void (*update_run_fn)(const update_job *job, const sherd__span *span, int64_t begin, int64_t end);

struct update_job {
    const sherd__update *update;
    update_run_fn run;
    int64_t begin, end; /* elements from origin that the spans reach over */
    int past;           /* what is only written goes past the caches */
};

/* A block's new values, where they do not go over the old ones, and its bf16 copy: first in the first cache. */
typedef struct update_block {
    _Alignas(64) float gradient[UPDATE_BLOCK];
    _Alignas(64) float state[1 + SHERD__MAX_MOMENTS][UPDATE_BLOCK]; /* master, then moments */
    _Alignas(64) uint16_t emit[UPDATE_BLOCK];
} update_block;

static inline void gradient_block(float *restrict out, const sherd__update *update, float factor, int64_t at, int64_t n)
{
    if (update->sum_dtype == SHERD_BF16) {
        const uint16_t *sum = (const uint16_t *)update->sum + at;
        for (int64_t i = 0; i < n; ++i) {
            out[i] = sherd__f32_of_bf16(sum[i]) * factor;
        }
    } else {
        const float *sum = (const float *)update->sum + at;
        for (int64_t i = 0; i < n; ++i) {
            out[i] = sum[i] * factor;
        }
    }
}

/* Beyond the end this asks for what nobody needs, at no other cost. */
static inline __attribute__((always_inline)) void fetch_block(const sherd__update *update, int64_t at)
{
    int64_t size = update->sum_dtype == SHERD_BF16 ? 2 : 4, moment_size = update->moment_dtype == SHERD_BF16 ? 2 : 4;
    fetch((const char *)update->sum + at * size, UPDATE_BLOCK * size);
    if (update->remainder) {
        fetch(update->remainder + at, UPDATE_BLOCK * 2);
        fetch(update->emit + at, UPDATE_BLOCK * 2);
    } else {
        fetch(update->master + at, UPDATE_BLOCK * 4);
    }
    for (int k = 0; k < SHERD__MAX_MOMENTS; ++k) {
        if (update->moment[k]) {
            fetch((const char *)update->moment[k] + at * moment_size, UPDATE_BLOCK * moment_size);
        }
    }
}

/* Where a block's master is read: its halves are joined where they stand for it. */
static inline const float *master_in(const sherd__update *update, float *joined, int64_t at, int64_t n)
{
    if (!update->remainder) {
        return update->master + at;
    }
    join_strip(joined, update->emit + at, update->remainder + at, n);
    return joined;
}

/* Likewise a block's moment, widened if it is bf16; and where its new values are computed: in place where they may. */
static inline const float *moment_in(const sherd__update *update, int k, float *widened, int64_t at, int64_t n)
{
    if (update->moment_dtype == SHERD_FP32) {
        return (const float *)update->moment[k] + at;
    }
    widen_strip(widened, (const uint16_t *)update->moment[k] + at, n);
    return widened;
}

static inline float *new_moment_block(const sherd__update *update, int k, update_block *block, int64_t at)
{
    int in_place = update->moment_dtype == SHERD_FP32 && !update->moment_out[k];
    return in_place ? (float *)update->moment[k] + at : block->state[1 + k];
}

static inline void store_bf16_moment(const update_job *job, int k, const float *values, int64_t at, int64_t n)
{
    const sherd__update *update = job->update;
    uint16_t half[UPDATE_BLOCK];
    narrow_strip(half, values, n);
    if (update->moment_out[k]) {
        store_strip((uint16_t *)update->moment_out[k] + at, half, (size_t)n * 2, job->past);
    } else {
        memcpy((uint16_t *)update->moment[k] + at, half, (size_t)n * 2);
    }
}

static inline void store_block(const update_job *job, const update_block *block, const float *master, int64_t at,
                               int64_t n)
{
    const sherd__update *update = job->update;
    size_t bytes = (size_t)n * 4;
    if (update->master_out) {
        store_strip(update->master_out + at, block->state[0], bytes, job->past);
    }
    for (int k = 0; k < SHERD__MAX_MOMENTS; ++k) {
        if (update->moment[k] && update->moment_dtype == SHERD_BF16) {
            store_bf16_moment(job, k, block->state[1 + k], at, n);
        } else if (update->moment_out[k]) {
            store_strip((float *)update->moment_out[k] + at, block->state[1 + k], bytes, job->past);
        }
    }
    if (update->remainder) { /* both have been read, so the caches own them */
        narrow_strip(update->emit + at, master, n);
        remainder_strip(update->remainder + at, master, n);
    } else if (update->emit) {
        uint16_t emit[UPDATE_BLOCK];
        if (update->emit_dtype == SHERD_FP16) {
            narrow_f16_strip(emit, master, n);
        } else {
            narrow_strip(emit, master, n);
        }
        store_strip(update->emit + at, emit, (size_t)n * 2, job->past);
    }
}

/* Elements [begin, end), all of one group. A whole block has a constant length: vector code without a tail. `moments`
 * is a constant too, so the unused moment costs nothing. */
#define X(RULE, name, moments)                                                                                         \
    static inline void update_block_##name(const update_job *job, const float *scalars, update_block *block,           \
                                           int64_t at, int64_t n)                                                      \
    {                                                                                                                  \
        const sherd__update *update = job->update;                                                                     \
        const float *master = master_in(update, block->state[0], at, n);                                               \
        const float *moment0 = (moments) > 0 ? moment_in(update, 0, block->state[1], at, n) : NULL;                    \
        const float *moment1 = (moments) > 1 ? moment_in(update, 1, block->state[2], at, n) : NULL;                    \
        int aside = update->master_out || update->remainder;                                                           \
        float *new_master = aside ? block->state[0] : update->master + at;                                             \
        float *new_moment0 = (moments) < 1 ? block->state[1] : new_moment_block(update, 0, block, at);                 \
        float *new_moment1 = (moments) < 2 ? block->state[2] : new_moment_block(update, 1, block, at);                 \
        uint32_t first = update->scalars->first;                                                                       \
        const float *sum = block->gradient;                                                                            \
        if (SHERD__RULE_TAKES_SUMS(SHERD__RULE_##RULE)) {                                                              \
            gradient_block(block->gradient, update, update->scalars->factor, at, n);                                   \
        } else {                                                                                                       \
            sum = (const float *)update->sum + at;                                                                     \
        }                                                                                                              \
        UPDATE_INDEPENDENT                                                                                             \
        for (int64_t i = 0; i < n; ++i) {                                                                              \
            float p = master[i];                                                                                       \
            float m[SHERD__MAX_MOMENTS] = {(moments) > 0 ? moment0[i] : 0.0f, (moments) > 1 ? moment1[i] : 0.0f};      \
            sherd__##name##_element(scalars, first, sum[i], &p, m);                                                    \
            new_master[i] = sherd__one_nan(p);                                                                         \
            if ((moments) > 0) {                                                                                       \
                new_moment0[i] = sherd__one_nan(m[0]);                                                                 \
            }                                                                                                          \
            if ((moments) > 1) {                                                                                       \
                new_moment1[i] = sherd__one_nan(m[1]);                                                                 \
            }                                                                                                          \
        }                                                                                                              \
        store_block(job, block, new_master, at, n);                                                                    \
    }                                                                                                                  \
    static void update_run_##name(const update_job *job, const sherd__span *span, int64_t begin, int64_t end)          \
    {                                                                                                                  \
        float scalars[SHERD__GROUP_SCALARS];                                                                           \
        update_block block;                                                                                            \
        int64_t at = begin;                                                                                            \
        const float *row = SHERD__RULE_OF_MATRIX(SHERD__RULE_##RULE) ? job->update->scalars->matrix[span->group]       \
                                                                     : job->update->scalars->group[span->group];       \
        memcpy(scalars, row, sizeof scalars);                                                                          \
        if (SHERD__RULE_TRUSTS(SHERD__RULE_##RULE) && job->update->ratios) {                                           \
            scalars[SHERD__TENSOR_SCALAR] = job->update->ratios[span->tensor];                                         \
        }                                                                                                              \
        for (; at + UPDATE_BLOCK <= end; at += UPDATE_BLOCK) {                                                         \
            fetch_block(job->update, at + UPDATE_AHEAD);                                                               \
            update_block_##name(job, scalars, &block, at, UPDATE_BLOCK);                                               \
        }                                                                                                              \
        if (at < end) {                                                                                                \
            update_block_##name(job, scalars, &block, at, end - at);                                                   \
        }                                                                                                              \
    }
SHERD__RULE_MAP(X)
#undef X

static const update_run_fn update_runs[] = {
#define X(RULE, name, moments) [SHERD__RULE_##RULE] = update_run_##name,
    SHERD__RULE_MAP(X)
#undef X
};

/* First span that ends after `at`: spans rise and do not overlap. */
static uint32_t span_at(const sherd__update *update, int64_t at)
{
    uint32_t low = 0, high = update->n_spans;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (update->spans[middle].end - update->origin > at) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

static void update_chunk(void *arg, int64_t chunk, int32_t worker)
{
    const update_job *job = arg;
    const sherd__update *update = job->update;
    int64_t from = job->begin + chunk * CHUNK, to = least(from + CHUNK, job->end);
    (void)worker;
    for (uint32_t s = span_at(update, from); s < update->n_spans; ++s) {
        int64_t begin = update->spans[s].begin - update->origin, end = update->spans[s].end - update->origin;
        if (begin >= to) {
            break;
        }
        job->run(job, &update->spans[s], begin > from ? begin : from, least(end, to));
    }
    store_fence(job->past);
}

static void simd_update(sherd__team *team, const sherd__update *update)
{
    update_job job = {.update = update, .run = update_runs[sherd__rule_of(update->kind, update->part)]};
    if (update->scalars->skip || update->n_spans == 0) {
        return;
    }
    job.begin = update->spans[0].begin - update->origin;
    job.end = update->spans[update->n_spans - 1].end - update->origin;
    job.past = (job.end - job.begin) * 2 >= PAST_CACHES;
    sherd__team_run(team, chunks_of(job.end - job.begin, CHUNK), update_chunk, &job);
}

#endif
