/* SPDX-License-Identifier: MIT
 *
 * What one rank needs to take steps.
 */
#ifndef SHERD_CLI_SESSION_H
#define SHERD_CLI_SESSION_H

#include "cli/launch.h"
#include "models/model.h"

typedef struct cli_session {
    const cli_rank *rank;
    sherd_model_shape shape;
    sherd_config config; /* resolved */
    sherd_param *params;
    char *names;
    uint32_t n_params;
    sherd_plan *plan;
    sherd_device *device;
    sherd_engine *engine;
    sherd_model *model;
    sherd_model_store store;
} cli_session;

/* Plan, device, engine and model; weights from the seed. COLLECTIVE. On a fault everything is closed again. */
sherd_status cli_session_open(cli_session *session, const cli_rank *rank, const sherd_model_shape *shape,
                              const sherd_config *config, int64_t seq, sherd_error *err);
void cli_session_close(cli_session *session);
/* The decoder's groups: matrices with the configured weight decay, 1-D parameters without. */
void cli_groups(sherd_config *config);
/* The decoder's table; *params and *names are malloc'ed. */
sherd_status cli_model_table(const sherd_model_shape *shape, const sherd_config *config, sherd_param **params,
                             char **names, uint32_t *n, sherd_error *err);

/* Wall time and what the engine said about it, added up over micro-steps. */
typedef struct cli_step {
    double loss; /* mean over the global batch, nats */
    int64_t wall_ns;
    sherd_report report;
} cli_step;

/* Where micro-batches come from: `fill` writes micro-batch `number` of step `step` (both from 0) into tokens and
 * targets. */
typedef struct cli_feed {
    void (*fill)(const struct cli_feed *feed, int64_t step, int64_t number);
    int64_t batch, seq;
    int32_t *tokens, *targets;
    void *ctx;
} cli_feed;

sherd_status cli_feed_create(cli_feed *feed, int64_t batch, int64_t seq, sherd_error *err);
void cli_feed_destroy(cli_feed *feed);
/* One whole step: K micro-steps, and the loss over all ranks. COLLECTIVE. */
sherd_status cli_session_step(cli_session *session, int64_t step, const cli_feed *feed, cli_step *out,
                              sherd_error *err);
int64_t cli_now_ns(void);

#endif
