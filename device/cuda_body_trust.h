/* SPDX-License-Identifier: MIT
 *
 * The first pass of optimizers that want a ratio for every parameter, as cuda_body.h has the others: a thread block
 * takes a tile of one span, forms master and direction of its blocks in shared memory, and adds their norms to the
 * parameter's. A tile begins between two of the norm's blocks, since spans do.
 */
#ifndef SHERD_DEVICE_CUDA_BODY_TRUST_H
#define SHERD_DEVICE_CUDA_BODY_TRUST_H

#include "device/cuda_body.h"

#define CUDA__TRUST_BLOCKS (SHERD__CUDA_UPDATE_TILE / SHERD__NORM_BLOCK)
#define CUDA__TRUST_LANES (CUDA__TRUST_BLOCKS * CUDA__LANES)

enum { CUDA__WEIGHT, CUDA__DIRECTION, CUDA__NORMS };

typedef struct cuda__trust_shared {
    __attribute__((aligned(16))) float value[CUDA__NORMS][CUDA__TRUST_BLOCKS * CUDA__BLOCK_STRIDE];
    double lane[CUDA__NORMS][CUDA__TRUST_LANES];
    unsigned long long limb[CUDA__NORMS][SHERD__NORM_LIMBS];
    unsigned long long bad;
} cuda__trust_shared;

/* Eight elements from i on of one optimizer; beyond the span's end zeros, which add nothing. */
#define CUDA__TRUST(KIND, name, moments)                                                                               \
    CUDA__FN void cuda__trust_eight_##name(const sherd__cuda_update *a, const float *s, float factor, int64_t i,       \
                                           int64_t end, cuda__eight *weight, cuda__eight *direction)                   \
    {                                                                                                                  \
        cuda__state state;                                                                                             \
        int whole = a->vectors && i + CUDA__VECTOR <= end;                                                             \
        if (whole) {                                                                                                   \
            cuda__state_load(a, 1, (moments), i, &state);                                                              \
        }                                                                                                              \
        CUDA__UNROLL                                                                                                   \
        for (int j = 0; j < CUDA__VECTOR; ++j) {                                                                       \
            float moment[SHERD__MAX_MOMENTS], sum = 0.0f, master = 0.0f;                                               \
            if (whole) {                                                                                               \
                sum = state.sum.at[j];                                                                                 \
                master = state.master.at[j];                                                                           \
            } else if (i + j < end) {                                                                                  \
                sum = cuda__load_one(a->sum, a->sum_type, i + j);                                                      \
                master = cuda__master_one(a, i + j);                                                                   \
            }                                                                                                          \
            CUDA__UNROLL                                                                                               \
            for (int m = 0; m < (moments); ++m) {                                                                      \
                moment[m] = whole         ? state.moment[m].at[j]                                                      \
                            : i + j < end ? cuda__load_one(a->moment[m], a->moment_type, i + j)                        \
                                          : 0.0f;                                                                      \
            }                                                                                                          \
            weight->at[j] = master;                                                                                    \
            direction->at[j] = i + j < end ? sherd__##name##_direction(s, sum * factor, master, moment) : 0.0f;        \
        }                                                                                                              \
    }                                                                                                                  \
    CUDA__FN void cuda__trust_##name(const sherd__cuda_update *a, cuda__trust_shared *shared, uint32_t tile)           \
    {                                                                                                                  \
        const sherd__step_scalars *scalars = a->scalars;                                                               \
        uint32_t at;                                                                                                   \
        if (scalars->skip) {                                                                                           \
            return;                                                                                                    \
        }                                                                                                              \
        CUDA__FIND(a->span, a->n_spans, tile, at);                                                                     \
        const sherd__cuda_span *span = &a->span[at];                                                                   \
        int64_t begin = span->begin + (int64_t)(tile - span->first_tile) * SHERD__CUDA_UPDATE_TILE;                    \
        CUDA__EACH(t)                                                                                                  \
        {                                                                                                              \
            cuda__eight weight, direction;                                                                             \
            int in = t * CUDA__VECTOR;                                                                                 \
            int to = in / SHERD__NORM_BLOCK * CUDA__BLOCK_STRIDE + in % SHERD__NORM_BLOCK;                             \
            cuda__trust_eight_##name(a, scalars->group[span->group], scalars->factor, begin + in, span->end, &weight,  \
                                     &direction);                                                                      \
            cuda__keep_values(shared->value[CUDA__WEIGHT] + to, weight);                                               \
            cuda__keep_values(shared->value[CUDA__DIRECTION] + to, direction);                                         \
        }                                                                                                              \
        cuda__trust_add(shared, &a->trust[span->tensor]);                                                              \
    }

/* What stands in shared memory, added to one parameter's sums. */
CUDA__FN void cuda__trust_add(cuda__trust_shared *s, sherd__trust_sums *to)
{
    CUDA__EACH(t)
    {
        if (t < CUDA__NORMS * SHERD__NORM_LIMBS) {
            s->limb[t / SHERD__NORM_LIMBS][t % SHERD__NORM_LIMBS] = 0;
        } else if (t == CUDA__NORMS * SHERD__NORM_LIMBS) {
            s->bad = 0;
        }
    }
    CUDA__BARRIER();
    CUDA__EACH(t)
    {
        if (t < CUDA__NORMS * CUDA__TRUST_LANES) {
            int norm = t / CUDA__TRUST_LANES, in = t % CUDA__TRUST_LANES;
            s->lane[norm][in] = cuda__lane_squares(s->value[norm], in / CUDA__LANES, in % CUDA__LANES);
        }
    }
    CUDA__BARRIER();
    CUDA__EACH(t)
    {
        if (t < CUDA__TRUST_BLOCKS) {
            double weight = cuda__lanes_total(s->lane[CUDA__WEIGHT] + t * CUDA__LANES);
            double direction = cuda__lanes_total(s->lane[CUDA__DIRECTION] + t * CUDA__LANES);
            if (weight - weight == 0.0 && direction - direction == 0.0) { /* finite */
                cuda__limbs_add(s->limb[CUDA__WEIGHT], weight);
                cuda__limbs_add(s->limb[CUDA__DIRECTION], direction);
            } else {
                cuda__add_u64(&s->bad, 1);
            }
        }
    }
    CUDA__BARRIER();
    CUDA__EACH(t)
    {
        if (t < SHERD__NORM_LIMBS && s->limb[CUDA__WEIGHT][t]) {
            cuda__add_u64((unsigned long long *)&to->weight[t], s->limb[CUDA__WEIGHT][t]);
        } else if (t >= SHERD__NORM_LIMBS && t < 2 * SHERD__NORM_LIMBS &&
                   s->limb[CUDA__DIRECTION][t - SHERD__NORM_LIMBS]) {
            cuda__add_u64((unsigned long long *)&to->direction[t - SHERD__NORM_LIMBS],
                          s->limb[CUDA__DIRECTION][t - SHERD__NORM_LIMBS]);
        } else if (t == 2 * SHERD__NORM_LIMBS && s->bad) {
            cuda__add_u64((unsigned long long *)&to->bad, s->bad);
        }
    }
}

SHERD__OPTIM_TRUST_MAP(CUDA__TRUST)

#endif
