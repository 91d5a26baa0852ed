/* SPDX-License-Identifier: MIT
 *
 * What the files of the command share. The command is a client: it sees include/sherd and models/model.h only.
 */
#ifndef SHERD_CLI_CLI_H
#define SHERD_CLI_CLI_H

#include <stdio.h>

#include "models/model.h"
#include "sherd/sherd.h"

enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 }; /* exit codes */
enum { CLI_LIST_MAX = 64 };                         /* --set, --data and --batch values */

typedef enum cli_device { CLI_HOST = 0, CLI_CHECK = 1 } cli_device;

typedef struct cli_options {
    const char *model, *config, *log, *trace, *prompt;
    const char *sets[CLI_LIST_MAX], *data[CLI_LIST_MAX];
    size_t n_sets, n_data, n_batches;
    int64_t batches[CLI_LIST_MAX];
    int64_t steps, seq, sample, params;
    uint64_t seed, gpu_memory;
    double temperature;
    int32_t ranks, threads; /* 0: not given */
    cli_device device;
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
/* A log for the library: warnings, and rank 0's information. `rank` must outlive it; it holds -1 before ranks exist. */
sherd_log cli_log(const int32_t *rank);

/* ---- units */
int cli_parse_bytes(const char *text, uint64_t *out);  /* "24GB", "1.5 GiB", "512": 0 if it is none */
int cli_parse_count(const char *text, int64_t *out);   /* "1.3e9", "7B", "512" */
/* "20.9 MiB", the last digit rounded. */
const char *cli_bytes_text(uint64_t bytes, char *buffer, size_t capacity);

/* ---- ranks */
typedef struct cli_rank {
    int32_t rank, world, threads;
    sherd_comm *comm;
    sherd_checker *checker; /* with --device check */
    uint64_t available;     /* bytes of memory before any rank took some: one reading, so that all ranks decide alike */
    const cli_options *options;
} cli_rank;

typedef int (*cli_body)(const cli_rank *rank, void *ctx); /* returns an exit code */

/* How many ranks there will be, before they exist: --ranks, or mpirun's. */
int32_t cli_world(const cli_options *options);
int cli_is_first(void); /* 0 on the processes that mpirun started beside the first */
/* Runs `body` on every rank: in this process alone, in forked ranks, in threads under the checking device, or as one
 * rank of mpirun. Returns the exit code. */
int cli_launch(const cli_options *options, const sherd_config *config, cli_body body, void *ctx);
int cli_under_mpi(void);
int cli_launch_mpi(const cli_options *options, const sherd_comm_options *comm, cli_body body, void *ctx);
int cli_launch_forked(const cli_options *options, const sherd_comm_options *comm, cli_body body, void *ctx);
int cli_launch_threads(const cli_options *options, const sherd_comm_options *comm, cli_body body, void *ctx);
/* --threads, or max(1, cores / local ranks). */
int32_t cli_threads(const cli_options *options, int32_t cores, int32_t local_ranks);
int32_t cli_cores(void); /* that this process may run on */

/* ---- data */
typedef struct cli_text {
    unsigned char *bytes;
    uint64_t size;
    uint32_t files;
} cli_text;

sherd_status cli_text_read(const char *const *paths, size_t n_paths, cli_text *out, sherd_error *err);
void cli_text_free(cli_text *text);

/* Sequences by position in the concatenated permutations of all epochs. */
typedef struct cli_sampler {
    uint64_t seed;
    int64_t windows;
    int64_t epoch[2]; /* which permutation each of `order` holds; -1: none */
    uint32_t *order[2];
} cli_sampler;

sherd_status cli_sampler_create(uint64_t seed, int64_t windows, cli_sampler *out, sherd_error *err);
void cli_sampler_destroy(cli_sampler *sampler);
int64_t cli_sampler_window(cli_sampler *sampler, int64_t position);
/* The B sequences of micro-batch g of step s (both from 0), G micro-batches per step. */
void cli_sampler_batch(cli_sampler *sampler, const cli_text *text, int64_t seq, int64_t batch, int64_t s, int64_t g,
                       int64_t g_per_step, int32_t *tokens, int32_t *targets);
uint64_t cli_random(uint64_t *state); /* splitmix64 */

/* ---- session: everything one rank needs to take steps */
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

/* ---- results */
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

/* ---- sub-commands */
int cli_train(const cli_options *options);
int cli_bench(const cli_options *options);
int cli_memory(const cli_options *options);
int cli_plan(const cli_options *options);
int cli_info(const cli_options *options);

/* Configuration of --config and --set, read once before ranks exist. */
sherd_status cli_config(const cli_options *options, sherd_config *out, sherd_error *err);
sherd_status cli_fail(sherd_error *err, sherd_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
