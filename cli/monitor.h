/* SPDX-License-Identifier: MIT
 *
 * The configuration's monitors: one row per step, as CSV and as TensorBoard's event files. Rank 0 writes; the files are
 * opened before there are ranks, so that a folder that cannot be written is told before hours of training.
 */
#ifndef SHERD_CLI_MONITOR_H
#define SHERD_CLI_MONITOR_H

#include "sherd/sherd.h"

typedef struct cli_monitor cli_monitor;

/* Of one step. */
typedef struct cli_row {
    int64_t step;
    double loss, tokens_per_s, memory_bytes;
    double eval_loss;                 /* below 0: none */
    double lr, loss_scale, grad_norm; /* from the step's report */
} cli_row;

/* Folders are made. `done`: steps of the run that this one goes on from, 0 for none: later rows that it left are
 * dropped, and TensorBoard is told to. *out is NULL where no monitor is enabled. */
sherd_status cli_monitor_open(const sherd_config *config, int64_t done, cli_monitor **out, sherd_error *err);
/* Every call takes a NULL monitor. A row waits for the report of its step, which on a GPU comes with the next one's. A
 * file that cannot be written is told once, and left. */
void cli_monitor_row(cli_monitor *monitor, const cli_row *row);
void cli_monitor_report(cli_monitor *monitor, const sherd_report *report);
void cli_monitor_close(cli_monitor *monitor);

#endif
