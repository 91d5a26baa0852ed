/* SPDX-License-Identifier: MIT
 *
 * Which sequences a micro-batch holds. Every epoch is a permutation of all windows, drawn from the seed and the
 * epoch's number; the epochs stand one behind the other, and micro-batch g of step s takes positions (s·G + g)·B …
 * + B of that stream. What it holds does not depend on the number of ranks, and nothing is dropped or repeated.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/data.h"

uint64_t cli_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Uniform in [0, n): values from the incomplete last run of n are drawn again. */
static uint64_t random_below(uint64_t *state, uint64_t n)
{
    uint64_t limit = UINT64_MAX - UINT64_MAX % n, value;

    do {
        value = cli_random(state);
    } while (value >= limit);
    return value % n;
}

sherd_status cli_sampler_create(uint64_t seed, int64_t windows, cli_sampler *out, sherd_error *err)
{
    cli_sampler s = {.seed = seed, .windows = windows, .epoch = {-1, -1}};

    if (windows < 1 || windows > UINT32_MAX) {
        return cli_fail(err, SHERD_EINVAL, "%lld windows of text, but 1 to %lld are needed", (long long)windows,
                        (long long)UINT32_MAX);
    }
    s.order[0] = malloc((size_t)windows * sizeof(uint32_t));
    s.order[1] = malloc((size_t)windows * sizeof(uint32_t));
    if (s.order[0] == NULL || s.order[1] == NULL) {
        cli_sampler_destroy(&s);
        return cli_fail(err, SHERD_ENOMEM, "no memory for the order of %lld windows", (long long)windows);
    }
    *out = s;
    return SHERD_OK;
}

void cli_sampler_destroy(cli_sampler *sampler)
{
    free(sampler->order[0]);
    free(sampler->order[1]);
    sampler->order[0] = sampler->order[1] = NULL;
}

/* Two epochs are kept, since a step may reach from one into the next. */
static const uint32_t *epoch_order(cli_sampler *sampler, int64_t epoch)
{
    uint32_t *order = sampler->order[epoch % 2];
    uint64_t state = sampler->seed;

    if (sampler->epoch[epoch % 2] == epoch) {
        return order;
    }
    state = cli_random(&state) ^ ((uint64_t)epoch * 0xD1342543DE82EF95u);
    for (int64_t i = 0; i < sampler->windows; i++) {
        uint64_t k = random_below(&state, (uint64_t)i + 1);

        order[i] = order[k];
        order[k] = (uint32_t)i;
    }
    sampler->epoch[epoch % 2] = epoch;
    return order;
}

int64_t cli_sampler_window(cli_sampler *sampler, int64_t position)
{
    return epoch_order(sampler, position / sampler->windows)[position % sampler->windows];
}

void cli_text_window(const cli_text *text, int64_t window, int64_t seq, int32_t *tokens, int32_t *targets)
{
    const unsigned char *at = text->bytes + (text->wide ? 2 : 1) * window * seq;
    int32_t next = text->wide ? at[0] | at[1] << 8 : at[0];

    for (int64_t t = 0; t < seq; t++) {
        tokens[t] = next;
        at += text->wide ? 2 : 1;
        next = text->wide ? at[0] | at[1] << 8 : at[0];
        targets[t] = next;
    }
}

void cli_sampler_batch(cli_sampler *sampler, const cli_text *text, int64_t seq, int64_t batch, int64_t s, int64_t g,
                       int64_t g_per_step, int32_t *tokens, int32_t *targets)
{
    for (int64_t b = 0; b < batch; b++) {
        int64_t window = cli_sampler_window(sampler, sampler->base + (s * g_per_step + g) * batch + b);

        cli_text_window(text, window, seq, tokens + b * seq, targets + b * seq);
    }
}
