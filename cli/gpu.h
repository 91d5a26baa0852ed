/* SPDX-License-Identifier: MIT
 *
 * GPUs: how many, which one a rank takes, what they have free, and NCCL between them.
 */
#ifndef SHERD_CLI_GPU_H
#define SHERD_CLI_GPU_H

#include <stdio.h>

#include "cli/launch.h"

/* Looks at the GPUs that `world` ranks would take. In a build without CUDA, or without driver or GPU: EUNSUPPORTED with
 * the sentence. */
sherd_status cli_gpus_look(int32_t world, cli_gpus *out, sherd_error *err);
/* The same from a forked child: a process that has looked itself cannot fork ranks that use CUDA. */
sherd_status cli_gpus_look_aside(int32_t world, cli_gpus *out, sherd_error *err);
/* The rank's device, on GPU rank mod count. `options` are those of any device. */
sherd_status cli_gpu_device(const cli_rank *rank, const sherd_device_options *options, sherd_device **out,
                            sherd_error *err);
/* COLLECTIVE: a communicator over NCCL; `allgather` brings the ranks together. */
sherd_status cli_gpu_nccl(const cli_rank *rank, const sherd_comm_options *options, sherd_allgather_fn allgather,
                          void *ctx, sherd_comm **out, sherd_error *err);
/* `, "gpu": {…}` of the rank's GPU, or nothing on other devices. */
void cli_gpu_print_json(FILE *out, const cli_rank *rank);

#endif
