/* SPDX-License-Identifier: MIT
 *
 * How ranks come to be, and what each is told.
 */
#ifndef SHERD_CLI_LAUNCH_H
#define SHERD_CLI_LAUNCH_H

#include "cli/cli.h"

/* What is known of this machine's GPUs before ranks exist. */
typedef struct cli_gpus {
    int32_t count;
    uint64_t free_bytes; /* of the GPU with the least, among those that get a rank; a context of ours is in use there */
    uint64_t used_bytes; /* of GPU 0: its whole memory less what is free */
} cli_gpus;

typedef struct cli_rank {
    int32_t rank, world, threads;
    int32_t one_process;    /* the ranks are threads of one */
    int32_t sharing;        /* ranks that share `available` */
    sherd_comm *comm;
    sherd_checker *checker; /* with --device check */
    cli_gpus gpus;          /* with --device cuda */
    uint64_t available;     /* bytes of memory before any rank took some: one reading, so that all ranks decide alike */
    const cli_options *options;
} cli_rank;

typedef int (*cli_body)(const cli_rank *rank, void *ctx); /* returns an exit code */

/* How many ranks there will be, before they exist: --ranks, or mpirun's. */
int32_t cli_world(const cli_options *options);
int cli_is_first(void); /* 0 on the processes that mpirun started beside the first */
/* Runs `body` on every rank: in this process alone, in forked ranks, in threads (GPUs, the checking device), or as one
 * rank of mpirun. Returns the exit code. */
int cli_launch(const cli_options *options, const sherd_config *config, cli_body body, void *ctx);
int cli_under_mpi(void);
/* Which GPU and memory a rank has; `gpus` is looked at with --device cuda. */
void cli_rank_memory(cli_rank *rank, int32_t local_ranks, const cli_gpus *gpus);
int cli_launch_mpi(const cli_options *options, const sherd_comm_options *comm, cli_body body, void *ctx,
                   const cli_gpus *gpus);
int cli_launch_forked(const cli_options *options, const sherd_comm_options *comm, cli_body body, void *ctx,
                      const cli_gpus *gpus);
int cli_launch_threads(const cli_options *options, const sherd_comm_options *comm, cli_body body, void *ctx,
                       const cli_gpus *gpus);
/* --threads, or max(1, cores / local ranks). */
int32_t cli_threads(const cli_options *options, int32_t cores, int32_t local_ranks);
int32_t cli_cores(void); /* that this process may run on */

#endif
