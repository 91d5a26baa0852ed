/* SPDX-License-Identifier: MIT
 *
 * What a run leaves: memory by category, a continuation, a trace.
 */
#ifndef SHERD_CLI_RESULTS_H
#define SHERD_CLI_RESULTS_H

#include <stdio.h>

#include "cli/session.h"

/* One rank's memory, known to all ranks. */
typedef struct cli_usage_of_rank {
    sherd_memory live, peak, plan;
    uint64_t live_total, peak_total, pss;
} cli_usage_of_rank;

/* COLLECTIVE. usage[world]. */
sherd_status cli_gather_usage(cli_session *session, cli_usage_of_rank *usage, sherd_error *err);
uint64_t cli_process_pss(void);   /* 0 where the kernel does not tell */
uint64_t cli_available_bytes(void); /* MemAvailable and the control group's limit, the smaller */
void cli_print_usage(FILE *out, const cli_usage_of_rank *usage, int32_t world, int one_process);
void cli_print_memory_json(FILE *out, const sherd_memory *memory); /* {"device": {"parameters": 123, …}} */
void cli_print_number(FILE *out, double value);                    /* null where it is not finite */
void cli_print_hash(FILE *out, const uint8_t hash[16]);

/* Text that continues the prompt, to stdout. COLLECTIVE: rank 0 works, and the ranks meet at every character, so
 * that no wait is as long as the whole text. */
sherd_status cli_sample(cli_session *session, const cli_options *options, int64_t seq, sherd_error *err);
/* The device's trace as a Chrome trace file. Rank 0 writes its own. */
sherd_status cli_write_trace(sherd_device *device, const char *path, sherd_error *err);

#endif
