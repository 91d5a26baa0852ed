/* SPDX-License-Identifier: MIT
 *
 * Checkpoints of a training run: where it goes on, when it saves, and SIGTERM.
 */
#ifndef SHERD_CLI_RESUME_H
#define SHERD_CLI_RESUME_H

#include "cli/data.h"
#include "cli/session.h"

/* From where a run goes on; made before the ranks. */
typedef struct cli_resume {
    sherd_checkpoint from; /* folder "": from the start */
    uint64_t position;     /* of the sampler */
} cli_resume;

/* --resume DIR or auto: the checkpoint, looked at and not loaded. */
sherd_status cli_resume_find(const cli_options *options, int64_t steps, cli_resume *out, sherd_error *err);
/* Keeps the checkpoint's global batch on another number of ranks, unless train_batch_size is given: the micro-batch is
 * the largest up to the configured one that divides a rank's share, accumulation does the rest. */
sherd_status cli_resume_batch(const cli_resume *resume, int32_t world, sherd_config *config, sherd_error *err);
/* COLLECTIVE. Loads it into a session that was just opened; rank 0 says so. */
sherd_status cli_resume_load(cli_session *session, const cli_resume *resume, sherd_error *err);

/* With --save, SIGTERM asks for a checkpoint and the end instead of ending the process. Before the ranks. */
void cli_stop_on_sigterm(const cli_options *options);
/* COLLECTIVE, after `steps` of `total` are done. Saves where that is due; *stop becomes 1 where a signal has asked for
 * the end. */
sherd_status cli_save_due(cli_session *session, int64_t steps, int64_t total, uint64_t position, int *stop,
                          sherd_error *err);

#endif
