/* SPDX-License-Identifier: MIT
 *
 * Options, messages and sub-commands. The command is a client: it sees include/sherd and models/model.h only.
 */
#ifndef SHERD_CLI_CLI_H
#define SHERD_CLI_CLI_H

#include "sherd/sherd.h"

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 }; /* exit codes */
enum { CLI_LIST_MAX = 64 };                         /* --set, --data, --val and --batch values */

typedef enum cli_device { CLI_HOST = 0, CLI_CHECK = 1, CLI_CUDA = 2 } cli_device;
typedef enum cli_transport { CLI_AUTO = 0, CLI_DIRECT = 1, CLI_NCCL = 2 } cli_transport;

typedef struct cli_options {
    const char *model, *config, *log, *trace, *prompt;
    const char *save, *resume, *out; /* folders of checkpoints; a file to write */
    const char *init;                /* weights: a file, an index, a folder */
    const char *words[2];            /* of sub-commands that take words */
    size_t n_words;
    int takes_words;
    int64_t save_every, keep;        /* 0: at the end; all */
    int64_t eval_every, eval_batches; /* 0: at the end; 20 */
    const char *sets[CLI_LIST_MAX], *data[CLI_LIST_MAX], *val[CLI_LIST_MAX];
    size_t n_sets, n_data, n_val, n_batches;
    int64_t batches[CLI_LIST_MAX];
    int64_t steps, seq, sample, params;
    uint64_t seed, gpu_memory;
    double temperature;
    int32_t ranks, threads; /* 0: not given */
    int32_t ranks_per_node; /* of one machine that stands for several; 0: nodes are hosts */
    cli_device device;
    cli_transport transport;
    int32_t json, keys, checkpointing;
} cli_options;

/* ---- arguments */
/* Fills *options for sub-command `name`. Ends the process with code 2 and a sentence where the arguments are wrong. */
void cli_arguments(const char *name, int argc, char **argv, cli_options *options);
const char *cli_commands(size_t index, const char **about); /* NULL past the end */

/* ---- messages. Everything goes to stderr as "sherd: …", or "sherd: rank 1: …" where there are several ranks. */
void cli_message(int32_t rank, const char *format, ...) __attribute__((format(printf, 2, 3)));
int cli_failure(int32_t rank, const sherd_error *err); /* says the sentence; returns CLI_FAILED */
int cli_usage(const char *format, ...) __attribute__((format(printf, 1, 2))); /* returns CLI_USAGE */
void cli_let_first_speak(void); /* ranks of mpirun but the first: a second of silence before they end */
/* A log for the library: warnings, and rank 0's information. `rank` must outlive it; it holds -1 before ranks exist. */
sherd_log cli_log(const int32_t *rank);
sherd_status cli_fail(sherd_error *err, sherd_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Configuration of --config and --set, read once before ranks exist. */
sherd_status cli_config(const cli_options *options, sherd_config *out, sherd_error *err);

/* ---- sub-commands */
int cli_train(const cli_options *options);
int cli_bench(const cli_options *options);
int cli_memory(const cli_options *options);
int cli_plan(const cli_options *options);
int cli_info(const cli_options *options);
int cli_checkpoint(const cli_options *options);
int cli_tokens(const cli_options *options);

#endif
