/* SPDX-License-Identifier: MIT
 *
 * Orthogonalising in the plainest C; it defines the bits (docs/numerics.md). Every element of a product is one chain of
 * fma in rising k, so whoever keeps to that may cut the matrices as he likes. A and B are symmetric to the bit, because
 * the products of a chain commute one by one.
 */
#include <string.h>

#include "device/host_math_table.h"

/* X is m × n, m ≤ n. */
typedef struct newton {
    float *x, *next, *gram, *mix;
    int64_t m, n;
} newton;

static float divisor_of(const float *values, int64_t elems)
{
    sherd__norm norm;
    sherd__norm_clear(&norm);
    for (int64_t at = 0; at < elems; at += SHERD__NORM_BLOCK) {
        int64_t left = elems - at;
        sherd__norm_add_block(&norm, values + at, (int32_t)(left < SHERD__NORM_BLOCK ? left : SHERD__NORM_BLOCK),
                              (uint64_t)(at / SHERD__NORM_BLOCK));
    }
    return sherd__muon_divisor(&norm);
}

/* gram = X X' */
static void form_gram(const newton *w)
{
    for (int64_t i = 0; i < w->m; ++i) {
        for (int64_t j = 0; j < w->m; ++j) {
            float sum = 0.0f;
            for (int64_t k = 0; k < w->n; ++k) {
                sum = SHERD__FMAF(w->x[i * w->n + k], w->x[j * w->n + k], sum);
            }
            w->gram[i * w->m + j] = sum;
        }
    }
}

/* mix = b gram + c gram gram */
static void form_mix(const newton *w)
{
    for (int64_t i = 0; i < w->m; ++i) {
        for (int64_t j = 0; j < w->m; ++j) {
            float sum = 0.0f;
            for (int64_t k = 0; k < w->m; ++k) {
                sum = SHERD__FMAF(w->gram[i * w->m + k], w->gram[k * w->m + j], sum);
            }
            w->mix[i * w->m + j] = sherd__muon_square(sum, w->gram[i * w->m + j]);
        }
    }
}

/* X = a X + mix X */
static void step(newton *w)
{
    float *former = w->x;
    for (int64_t i = 0; i < w->m; ++i) {
        for (int64_t j = 0; j < w->n; ++j) {
            float sum = SHERD__MUON_A * former[i * w->n + j];
            for (int64_t k = 0; k < w->m; ++k) {
                sum = SHERD__FMAF(w->mix[i * w->m + k], former[k * w->n + j], sum);
            }
            w->next[i * w->n + j] = sum;
        }
    }
    w->x = w->next;
    w->next = former;
}

void sherd__orthogonalise_reference(sherd__team *team, const sherd__orthogonal *job)
{
    int turned = job->rows > job->cols;
    newton w = {.m = turned ? job->cols : job->rows, .n = turned ? job->rows : job->cols};
    float scale = sherd__muon_scale(job->rows, job->cols), divisor;
    (void)team;
    if (job->scalars && job->scalars->skip) {
        return;
    }
    w.x = job->scratch;
    w.next = w.x + w.m * w.n;
    w.gram = w.next + w.m * w.n;
    w.mix = w.gram + w.m * w.m;
    divisor = divisor_of(job->matrix, job->rows * job->cols);
    for (int64_t r = 0; r < job->rows; ++r) {
        for (int64_t c = 0; c < job->cols; ++c) {
            w.x[turned ? c * w.n + r : r * w.n + c] = job->matrix[r * job->cols + c] / divisor;
        }
    }
    for (int32_t i = 0; i < job->steps; ++i) {
        form_gram(&w);
        form_mix(&w);
        step(&w);
    }
    for (int64_t r = 0; r < job->rows; ++r) {
        for (int64_t c = 0; c < job->cols; ++c) {
            float x = w.x[turned ? c * w.n + r : r * w.n + c];
            job->matrix[r * job->cols + c] = sherd__one_nan(x * scale + 0.0f); /* no −0: other ranks' zeros are added */
        }
    }
}
