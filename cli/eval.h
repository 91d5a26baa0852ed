/* SPDX-License-Identifier: MIT
 *
 * The loss over text that is not trained on, and what a run adds up on its way, for the table at its end.
 */
#ifndef SHERD_CLI_EVAL_H
#define SHERD_CLI_EVAL_H

#include <stdio.h>

#include "cli/data.h"
#include "cli/session.h"

/* COLLECTIVE, between steps. Mean loss over the first `sequences` windows of `text`, the same on every rank, by forward
 * passes only: nothing of the engine changes. The feed lends its buffers and its size. */
sherd_status cli_evaluate(cli_session *session, const cli_feed *feed, const cli_text *text, int64_t sequences,
                          double *loss, sherd_error *err);

/* Sums over a run's steps. */
typedef struct cli_totals {
    int64_t steps, wall_ns;
    int64_t reports, forward_ns, backward_ns, exposed_ns, update_ns;
    int64_t evaluations, eval_ns, eval_sequences; /* sequences of one evaluation */
    int64_t eval_step[2];                         /* the first and the last */
    double eval_loss[2];
} cli_totals;

void cli_totals_evaluated(cli_totals *totals, int64_t step, double loss, int64_t ns);
/* The rows of the table that show them. */
void cli_print_totals(FILE *out, const cli_totals *totals);

#endif
