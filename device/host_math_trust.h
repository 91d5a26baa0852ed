/* SPDX-License-Identifier: MIT
 *
 * The first pass of optimizers that want a ratio for every parameter: what the update will read is read, and the norms
 * of the master and of the direction are added up, block by block, from each parameter's start. Part of
 * host_math_simd.h.
 */
#ifndef SHERD_DEVICE_HOST_MATH_TRUST_H
#define SHERD_DEVICE_HOST_MATH_TRUST_H

typedef struct trust_block {
    _Alignas(64) float gradient[SHERD__NORM_BLOCK];
    _Alignas(64) float weight[SHERD__NORM_BLOCK];
    _Alignas(64) float direction[SHERD__NORM_BLOCK];
    _Alignas(64) float moment[SHERD__MAX_MOMENTS][SHERD__NORM_BLOCK]; /* where they are bf16 */
} trust_block;

typedef void (*trust_run_fn)(const sherd__update *update, const float *scalars, trust_block *block, int64_t at,
                             int64_t n);

#define X(KIND, name, moments)                                                                                         \
    static void trust_run_##name(const sherd__update *update, const float *scalars, trust_block *block, int64_t at,    \
                                 int64_t n)                                                                            \
    {                                                                                                                  \
        const float *master = master_in(update, block->weight, at, n);                                                 \
        const float *moment0 = moment_in(update, 0, block->moment[0], at, n);                                          \
        const float *moment1 = (moments) > 1 ? moment_in(update, 1, block->moment[1], at, n) : NULL;                   \
        gradient_block(block->gradient, update, update->scalars->factor, at, n);                                       \
        UPDATE_INDEPENDENT                                                                                             \
        for (int64_t i = 0; i < n; ++i) {                                                                              \
            float m[SHERD__MAX_MOMENTS] = {moment0[i], (moments) > 1 ? moment1[i] : 0.0f};                             \
            block->weight[i] = master[i];                                                                              \
            block->direction[i] = sherd__##name##_direction(scalars, block->gradient[i], master[i], m);                \
        }                                                                                                              \
    }
SHERD__OPTIM_TRUST_MAP(X)
#undef X

static trust_run_fn trust_run_of(sherd_optimizer kind)
{
    switch (kind) {
#define X(KIND, name, moments)                                                                                         \
    case SHERD_##KIND:                                                                                                 \
        return trust_run_##name;
        SHERD__OPTIM_TRUST_MAP(X)
#undef X
    default:
        return NULL;
    }
}

/* What lies beyond the end adds +0. */
static void trust_add_block(sherd__trust_sums *own, trust_block *block, int64_t n)
{
    uint64_t part[3];
    double weight, direction;
    int at;
    memset(block->weight + n, 0, (size_t)(SHERD__NORM_BLOCK - n) * sizeof(float));
    memset(block->direction + n, 0, (size_t)(SHERD__NORM_BLOCK - n) * sizeof(float));
    weight = block_squares(block->weight);
    direction = block_squares(block->direction);
    if (weight - weight != 0.0 || direction - direction != 0.0) {
        own->bad += 1;
        return;
    }
    at = sherd__norm_split(weight, part);
    for (int i = 0; at >= 0 && i < 3; ++i) {
        own->weight[at + i] += part[i];
    }
    at = sherd__norm_split(direction, part);
    for (int i = 0; at >= 0 && i < 3; ++i) {
        own->direction[at + i] += part[i];
    }
}

/* Integers: whichever worker comes first, the sums are the same. */
static void trust_merge(sherd__trust_sums *shared, const sherd__trust_sums *own)
{
    for (int i = 0; i < SHERD__NORM_LIMBS; ++i) {
        if (own->weight[i]) {
            __atomic_fetch_add(&shared->weight[i], own->weight[i], __ATOMIC_RELAXED);
        }
        if (own->direction[i]) {
            __atomic_fetch_add(&shared->direction[i], own->direction[i], __ATOMIC_RELAXED);
        }
    }
    if (own->bad) {
        __atomic_fetch_add(&shared->bad, own->bad, __ATOMIC_RELAXED);
    }
}

static void trust_span(const update_job *job, const sherd__span *span, int64_t begin, int64_t end)
{
    const sherd__update *update = job->update;
    trust_run_fn run = trust_run_of(update->kind);
    float scalars[SHERD__GROUP_SCALARS];
    sherd__trust_sums own = {.bad = 0};
    trust_block block;
    memcpy(scalars, update->scalars->group[span->group], sizeof scalars);
    for (int64_t at = begin; at < end; at += SHERD__NORM_BLOCK) {
        int64_t n = least(SHERD__NORM_BLOCK, end - at);
        for (int64_t ahead = 0; ahead < SHERD__NORM_BLOCK; ahead += UPDATE_BLOCK) {
            fetch_block(update, at + UPDATE_AHEAD + ahead);
        }
        run(update, scalars, &block, at, n);
        trust_add_block(&own, &block, n);
    }
    trust_merge(&update->trust[span->tensor], &own);
}

/* Chunks begin and end between blocks, as spans begin. */
static void simd_trust(sherd__team *team, const sherd__update *update)
{
    update_job job = {.update = update, .run = trust_span};
    if (update->scalars->skip || update->n_spans == 0) {
        return;
    }
    job.begin = update->spans[0].begin - update->origin;
    job.end = update->spans[update->n_spans - 1].end - update->origin;
    sherd__team_run(team, chunks_of(job.end - job.begin, CHUNK), update_chunk, &job);
}

#endif
