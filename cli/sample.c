/* SPDX-License-Identifier: MIT
 *
 * A continuation, byte by byte: the whole context is computed again for each, which is slow and simple.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/data.h"
#include "cli/results.h"
#include "cli/session.h"

enum { BYTES = 256 };

static int likeliest(const float *logits)
{
    int best = 0;

    for (int i = 1; i < BYTES; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return best;
}

/* From softmax(logits / temperature), over the bytes only: a vocabulary may be larger. */
static int draw(const float *logits, double temperature, uint64_t *state)
{
    double weights[BYTES], sum = 0, mark;
    int best = likeliest(logits);

    if (temperature <= 0) {
        return best;
    }
    for (int i = 0; i < BYTES; i++) {
        weights[i] = exp((logits[i] - logits[best]) / temperature);
        sum += weights[i];
    }
    mark = (double)(cli_random(state) >> 11) / 9007199254740992.0 * sum;
    for (int i = 0; i < BYTES; i++) {
        mark -= weights[i];
        if (mark < 0) {
            return i;
        }
    }
    return best;
}

static void show(int byte)
{
    putchar(byte == '\n' || (byte >= ' ' && byte < 127) ? byte : '?');
}

/* Rank 0's next byte, behind tokens[0 … length). */
static sherd_status next_byte(cli_session *session, int32_t *tokens, int64_t length, int64_t seq, float *logits,
                              uint64_t *state, sherd_error *err)
{
    int64_t context = length < seq ? length : seq;
    sherd_status status =
        sherd_model_logits(session->model, &session->store, tokens + length - context, context, logits, err);

    if (status == SHERD_OK) {
        tokens[length] = draw(logits, session->rank->options->temperature, state);
        show(tokens[length]);
    }
    return status;
}

sherd_status cli_sample(cli_session *session, const cli_options *options, int64_t seq, sherd_error *err)
{
    int first = session->rank->rank == 0;
    int64_t length = (int64_t)strlen(options->prompt), room = length + options->sample;
    int32_t *tokens = malloc((size_t)room * sizeof *tokens);
    float *logits = malloc((size_t)session->shape.vocab * sizeof *logits);
    uint64_t state = options->seed;
    double meeting = 0;
    sherd_status status = SHERD_OK;

    if (tokens == NULL || logits == NULL) {
        status = cli_fail(err, SHERD_ENOMEM, "no memory for a continuation of %lld characters",
                          (long long)options->sample);
        goto free_buffers;
    }
    if (first) {
        printf("\ncontinuation of \"%s\" (temperature %g, seed %llu)\n%s", options->prompt, options->temperature,
               (unsigned long long)options->seed, options->prompt);
    }
    for (int64_t i = 0; i < length; i++) {
        tokens[i] = (unsigned char)options->prompt[i];
    }
    for (; length < room && status == SHERD_OK; length++) {
        if (first) {
            status = next_byte(session, tokens, length, seq, logits, &state, err);
        }
        if (status == SHERD_OK) {
            status = sherd_engine_sum(session->engine, &meeting, err);
        }
    }
    if (first) {
        putchar('\n');
    }
free_buffers:
    free(logits);
    free(tokens);
    return status;
}
