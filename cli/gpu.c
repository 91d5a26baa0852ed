/* SPDX-License-Identifier: MIT
 *
 * GPUs, where this build has CUDA; the sentence that says so where it has not.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/gpu.h"

#if defined(SHERD_HAVE_CUDA)
#include "sherd/sherd_cuda.h"

sherd_status cli_gpus_look(int32_t world, cli_gpus *out, sherd_error *err)
{
    cli_gpus gpus = {.free_bytes = UINT64_MAX};
    sherd_status status = sherd_cuda_count(&gpus.count, err);

    for (int32_t i = 0; i < gpus.count && i < world && status == SHERD_OK; i++) {
        sherd_cuda_gpu gpu = {.size = sizeof gpu};

        status = sherd_cuda_gpu_read(i, &gpu, err);
        gpus.used_bytes = i == 0 ? gpu.total_bytes - gpu.free_bytes : gpus.used_bytes;
        gpus.free_bytes = gpu.free_bytes < gpus.free_bytes ? gpu.free_bytes : gpus.free_bytes;
    }
    if (status == SHERD_OK) {
        *out = gpus;
    }
    return status;
}

sherd_status cli_gpu_device(const cli_rank *rank, const sherd_device_options *options, sherd_device **out,
                            sherd_error *err)
{
    sherd_cuda_options cuda;

    sherd_cuda_options_init(&cuda, sizeof cuda);
    cuda.device = *options;
    cuda.ordinal = rank->rank % rank->gpus.count;
    return sherd_device_create_cuda(&cuda, out, err);
}

sherd_status cli_gpu_nccl(const cli_rank *rank, const sherd_comm_options *options, sherd_allgather_fn allgather,
                          void *ctx, sherd_comm **out, sherd_error *err)
{
    sherd_status status = sherd_cuda_use(rank->rank % rank->gpus.count, err);

    return status == SHERD_OK ? sherd_comm_create_nccl(options, rank->rank, rank->world, allgather, ctx, out, err)
                              : status;
}

void cli_gpu_print_json(FILE *out, const cli_rank *rank)
{
    sherd_cuda_gpu gpu = {.size = sizeof gpu};
    sherd_error err;

    if (rank->options->device != CLI_CUDA ||
        sherd_cuda_gpu_read(rank->rank % rank->gpus.count, &gpu, &err) != SHERD_OK) {
        return;
    }
    fprintf(out,
            ", \"gpu\": {\"name\": \"%s\", \"sm\": %d, \"count\": %d, \"total_bytes\": %llu, \"used_bytes\": %llu, "
            "\"used_before_bytes\": %llu}",
            gpu.name, (int)(gpu.major * 10 + gpu.minor), (int)rank->gpus.count, (unsigned long long)gpu.total_bytes,
            (unsigned long long)(gpu.total_bytes - gpu.free_bytes), (unsigned long long)rank->gpus.used_bytes);
}

#else

/* The library's own sentence. */
static sherd_status without_cuda(sherd_error *err)
{
    sherd_device_options options;
    sherd_device *device = NULL;

    sherd_device_options_init(&options, sizeof options);
    options.kind = SHERD_DEVICE_CUDA;
    return sherd_device_create(&options, &device, err);
}

sherd_status cli_gpus_look(int32_t world, cli_gpus *out, sherd_error *err)
{
    (void)world;
    (void)out;
    return without_cuda(err);
}

sherd_status cli_gpu_device(const cli_rank *rank, const sherd_device_options *options, sherd_device **out,
                            sherd_error *err)
{
    (void)rank;
    (void)options;
    (void)out;
    return without_cuda(err);
}

sherd_status cli_gpu_nccl(const cli_rank *rank, const sherd_comm_options *options, sherd_allgather_fn allgather,
                          void *ctx, sherd_comm **out, sherd_error *err)
{
    (void)rank;
    (void)options;
    (void)allgather;
    (void)ctx;
    (void)out;
    return without_cuda(err);
}

void cli_gpu_print_json(FILE *out, const cli_rank *rank)
{
    (void)out;
    (void)rank;
}

#endif

/* What the child found, as it travels through the pipe. */
typedef struct finding {
    cli_gpus gpus;
    sherd_error err;
    sherd_status status;
} finding;

static int read_all(int fd, void *to, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t got = read(fd, (char *)to + done, bytes - done);

        if (got <= 0 && !(got < 0 && errno == EINTR)) {
            return 0;
        }
        done += got > 0 ? (size_t)got : 0;
    }
    return 1;
}

static void look_in_child(int fd, int32_t world)
{
    finding found;

    memset(&found, 0, sizeof found);
    found.status = cli_gpus_look(world, &found.gpus, &found.err);
    _exit(write(fd, &found, sizeof found) == (ssize_t)sizeof found ? 0 : 1);
}

sherd_status cli_gpus_look_aside(int32_t world, cli_gpus *out, sherd_error *err)
{
    finding found;
    int ends[2], complete = 0;
    pid_t pid;

    if (pipe(ends) != 0) {
        return cli_fail(err, SHERD_EIO, "no pipe to a process that looks for GPUs: %s", strerror(errno));
    }
    pid = fork();
    if (pid == 0) {
        look_in_child(ends[1], world);
    }
    close(ends[1]);
    complete = pid > 0 && read_all(ends[0], &found, sizeof found);
    close(ends[0]);
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
    if (!complete) {
        return cli_fail(err, SHERD_EDEVICE, "the process that looks for GPUs ended without an answer");
    }
    *out = found.gpus;
    *err = found.err;
    return found.status;
}
