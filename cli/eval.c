/* SPDX-License-Identifier: MIT
 *
 * Sequences are dealt out to the ranks a micro-batch at a time, in rounds; the ranks meet after each round, so that
 * none waits for another longer than one forward pass takes.
 */
#include <stdio.h>

#include "cli/eval.h"

/* One rank's part of a round: the summed loss of micro-batch `chunk`. */
static sherd_status evaluate_chunk(cli_session *session, const cli_feed *feed, const cli_text *text, int64_t sequences,
                                   int64_t chunk, double *loss, sherd_error *err)
{
    int64_t begin = chunk * feed->batch, n = sequences - begin < feed->batch ? sequences - begin : feed->batch;
    sherd_status status;

    *loss = 0;
    if (n <= 0) {
        return SHERD_OK;
    }
    for (int64_t i = 0; i < n; i++) {
        cli_text_window(text, begin + i, feed->seq, feed->tokens + i * feed->seq, feed->targets + i * feed->seq);
    }
    status = sherd_model_loss(session->model, &session->store, feed->tokens, feed->targets, n, feed->seq, loss, err);
    *loss *= (double)n;
    return status;
}

sherd_status cli_evaluate(cli_session *session, const cli_feed *feed, const cli_text *text, int64_t sequences,
                          double *loss, sherd_error *err)
{
    int32_t world = session->rank->world;
    double total = 0, part;

    for (int64_t chunk = 0; chunk * feed->batch < sequences; chunk += world) {
        sherd_status status = evaluate_chunk(session, feed, text, sequences, chunk + session->rank->rank, &part, err);

        if (status == SHERD_OK) {
            status = sherd_engine_sum(session->engine, &part, err);
        }
        if (status != SHERD_OK) {
            return status;
        }
        total += part;
    }
    *loss = total / (double)sequences;
    return SHERD_OK;
}

void cli_totals_evaluated(cli_totals *totals, int64_t step, double loss, int64_t ns)
{
    for (int last = totals->evaluations > 0; last < 2; last++) {
        totals->eval_step[last] = step;
        totals->eval_loss[last] = loss;
    }
    totals->evaluations++;
    totals->eval_ns += ns;
}

static double mean_ms(int64_t ns, int64_t n)
{
    return n > 0 ? (double)ns / 1e6 / (double)n : 0;
}

void cli_print_totals(FILE *out, const cli_totals *totals)
{
    double step = mean_ms(totals->wall_ns, totals->steps), forward = mean_ms(totals->forward_ns, totals->reports);
    double backward = mean_ms(totals->backward_ns, totals->reports);

    if (totals->evaluations > 0) {
        fprintf(out, "%-22s %.4f nats (step %lld), %.4f (step %lld), of %lld sequences; %lld times, %.1f s\n",
                "validation loss", totals->eval_loss[0], (long long)totals->eval_step[0], totals->eval_loss[1],
                (long long)totals->eval_step[1], (long long)totals->eval_sequences, (long long)totals->evaluations,
                (double)totals->eval_ns / 1e9);
    }
    fprintf(out, "%-22s %.1f: forward %.1f, backward %.1f, vote and the rest %.1f\n", "ms per step", step, forward,
            backward, step > forward + backward ? step - forward - backward : 0.0);
    fprintf(out, "%-22s %.1f for communication; updates took %.1f, beside the next forward\n", "of these waiting",
            mean_ms(totals->exposed_ns, totals->reports), mean_ms(totals->update_ns, totals->reports));
}
