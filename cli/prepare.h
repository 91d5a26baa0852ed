/* SPDX-License-Identifier: MIT
 *
 * What a training run needs before there are ranks.
 */
#ifndef SHERD_CLI_PREPARE_H
#define SHERD_CLI_PREPARE_H

#include <stdio.h>

#include "cli/data.h"
#include "cli/monitor.h"
#include "cli/resume.h"
#include "models/model.h"

/* What all ranks share; made before they exist. */
typedef struct cli_training {
    const cli_options *options;
    sherd_model_shape shape;
    sherd_config config;
    cli_text text, val; /* val.files 0: none */
    int64_t windows, val_windows, steps;
    cli_resume resume;
    FILE *log;            /* rank 0's; NULL without --log */
    cli_monitor *monitor; /* rank 0's; NULL without */
} cli_training;

/* Fills all but options and steps. */
sherd_status cli_training_prepare(cli_training *t, sherd_error *err);

#endif
