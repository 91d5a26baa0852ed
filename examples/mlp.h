/* SPDX-License-Identifier: MIT
 *
 * The model of the two embedding examples: y = w2·relu(w1·x + b1) + b2 on eight inputs, squared error against a fixed target function.
 * Nothing here knows of Sherd.
 */
#ifndef SHERD_EXAMPLES_MLP_H
#define SHERD_EXAMPLES_MLP_H

#include <stdint.h>

enum { MLP_IN = 8, MLP_HIDDEN = 32, MLP_BATCH = 16, MLP_PARAMS = 4 };

static const int64_t mlp_elems[MLP_PARAMS] = {MLP_HIDDEN * MLP_IN, MLP_HIDDEN, MLP_HIDDEN, 1};

/* A number in [-1, 1) that depends on its place only. */
static inline float mlp_noise(uint64_t place)
{
    place += 0x9E3779B97F4A7C15u;
    place = (place ^ (place >> 30)) * 0xBF58476D1CE4E5B9u;
    place = (place ^ (place >> 27)) * 0x94D049BB133111EBu;
    return (float)((int64_t)(place >> 40) - (1 << 23)) / (float)(1 << 23);
}

static inline void mlp_init(int param, float *values)
{
    for (int64_t i = 0; i < mlp_elems[param]; i++)
        values[i] = 0.3f * mlp_noise((uint64_t)param << 32 | (uint64_t)i);
}

/* One micro-batch: the mean loss, and its gradient in grad[0..4). */
static inline double mlp_gradient(int64_t step, int64_t micro, const float *const w[MLP_PARAMS], float *const grad[MLP_PARAMS])
{
    double loss = 0;

    for (int p = 0; p < MLP_PARAMS; p++)
        for (int64_t i = 0; i < mlp_elems[p]; i++)
            grad[p][i] = 0;
    for (int b = 0; b < MLP_BATCH; b++) {
        float x[MLP_IN], hidden[MLP_HIDDEN], y = w[3][0], error;
        for (int i = 0; i < MLP_IN; i++)
            x[i] = mlp_noise((uint64_t)(((step * 4096 + micro) * MLP_BATCH + b) * MLP_IN + i) | 1ull << 60);
        for (int h = 0; h < MLP_HIDDEN; h++) {
            hidden[h] = w[1][h];
            for (int i = 0; i < MLP_IN; i++)
                hidden[h] += w[0][h * MLP_IN + i] * x[i];
            hidden[h] = hidden[h] > 0 ? hidden[h] : 0;
            y += w[2][h] * hidden[h];
        }
        error = y - (x[0] * x[1] + 0.5f * x[2]);
        loss += (double)error * error / MLP_BATCH;
        error *= 2.0f / MLP_BATCH;
        grad[3][0] += error;
        for (int h = 0; h < MLP_HIDDEN; h++) {
            grad[2][h] += error * hidden[h];
            if (hidden[h] > 0) {
                grad[1][h] += error * w[2][h];
                for (int i = 0; i < MLP_IN; i++)
                    grad[0][h * MLP_IN + i] += error * w[2][h] * x[i];
            }
        }
    }
    return loss;
}

#endif
