/* SPDX-License-Identifier: MIT */
#include "optim/trust.h"

#include <math.h>
#include <string.h>

_Static_assert(sizeof(sherd__trust_sums) == SHERD__TRUST_WORDS * sizeof(uint64_t), "words without gaps");

static double root_of(const uint64_t limb[SHERD__NORM_LIMBS])
{
    sherd__norm norm;
    sherd__norm_clear(&norm);
    memcpy(norm.limb, limb, sizeof norm.limb);
    return sherd__norm_root(&norm);
}

void sherd__trust_add_block(sherd__trust_sums *sums, const float *weight, const float *direction, int32_t n)
{
    sherd__norm w, u;
    sherd__norm_clear(&w);
    sherd__norm_clear(&u);
    sherd__norm_add_block(&w, weight, n, 0);
    sherd__norm_add_block(&u, direction, n, 0);
    if (w.bad_block != SHERD__NO_BAD_BLOCK || u.bad_block != SHERD__NO_BAD_BLOCK) {
        sums->bad += 1;
        return;
    }
    for (int i = 0; i < SHERD__NORM_LIMBS; ++i) {
        sums->weight[i] += w.limb[i];
        sums->direction[i] += u.limb[i];
    }
}

float sherd__trust_ratio(const sherd__trust_sums *sums, double least, double most)
{
    double weight = root_of(sums->weight), direction = root_of(sums->direction), ratio = weight / direction;
    if (sums->bad > 0) {
        return (float)NAN;
    }
    if (weight == 0.0 || direction == 0.0) {
        return 1.0f;
    }
    return (float)(ratio > most ? most : ratio < least ? least : ratio);
}
