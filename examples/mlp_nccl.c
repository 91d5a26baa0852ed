/* SPDX-License-Identifier: MIT
 *
 * Embedding on GPUs: the program has NCCL communicators and CUDA streams already, and Sherd adopts both. So that the
 * example stays short the model is computed by the CPU, between two copies on the program's stream; a program with
 * kernels launches them into it instead.
 *
 *     mlp_nccl [STEPS]                a rank, here a thread, for each GPU; ZeRO stage 2, AdamW, clipping
 */
#include <cuda_runtime_api.h>
#include <nccl.h>

#include "examples/mlp_sherd.h"
#include "sherd/sherd_cuda.h"

enum { GPUS_MAX = 16 };

typedef struct gpu {
    int ordinal, world;
    ncclComm_t nccl;
} gpu;

static int steps;

static void check_cuda(int failed, const char *what)
{
    if (failed) {
        fprintf(stderr, "%s failed with code %d\n", what, failed);
        MLP_QUIT();
    }
}

static void copy(void *to, const void *from, int param, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    check_cuda(cudaMemcpyAsync(to, from, (size_t)mlp_elems[param] * sizeof(float), kind, stream), "cudaMemcpyAsync");
}

/* As mlp_micro_step; weights and gradients are the GPU's, reached in the order of the stream. */
static double micro_step(sherd_engine *engine, void *ctx)
{
    float host[2 * MLP_PARAMS][MLP_HIDDEN * MLP_IN], *grads[MLP_PARAMS], *there[MLP_PARAMS];
    const float *weights[MLP_PARAMS], *here[MLP_PARAMS];
    cudaStream_t stream = ctx;
    sherd_error err = {0};
    sherd_micro micro;
    double loss;

    check(sherd_micro_begin(engine, &micro), &err);
    mlp_acquire(engine, weights);
    mlp_acquire_grads(engine, there);
    for (int p = 0; p < MLP_PARAMS; p++) {
        here[p] = host[p], grads[p] = host[MLP_PARAMS + p];
        copy(host[p], weights[p], p, cudaMemcpyDeviceToHost, stream);
    }
    check_cuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    loss = mlp_gradient(micro.step, micro.number, here, grads);
    for (int p = MLP_PARAMS; p-- > 0;) {
        copy(there[p], grads[p], p, cudaMemcpyHostToDevice, stream);
        check(sherd_grad_ready(engine, (uint32_t)p), &err);
    }
    mlp_release(engine);
    check_cuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize"); /* `host` goes */
    check(sherd_engine_step(engine, NULL, &err), &err);
    return loss;
}

static void *rank_main(void *arg)
{
    gpu *gpu = arg;
    sherd_cuda_options options;
    sherd_config config;
    sherd_device *device;
    sherd_comm *comm;
    sherd_engine *engine;
    sherd_plan *plan;
    sherd_error err;
    cudaStream_t stream;

    check_cuda(cudaSetDevice(gpu->ordinal), "cudaSetDevice");
    check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    sherd_cuda_options_init(&options, sizeof options);
    options.adopt_stream = 1;
    options.stream = stream;
    check(sherd_device_create_cuda(&options, &device, &err), &err);
    check(sherd_comm_adopt_nccl(NULL, gpu->nccl, &comm, &err), &err);
    mlp_config(&config);
    config.transport.kind = SHERD_TRANSPORT_NCCL;
    plan = mlp_plan(&config, gpu->world, NULL);
    check(sherd_engine_create(plan, device, comm, &engine, &err), &err);
    mlp_write(engine);
    mlp_train(engine, comm, steps, 1, micro_step, stream);
    sherd_engine_destroy(engine);
    sherd_comm_destroy(comm);
    sherd_device_destroy(device);
    sherd_plan_destroy(plan);
    check_cuda(cudaStreamDestroy(stream), "cudaStreamDestroy"); /* both are still the program's own */
    check_cuda(ncclCommDestroy(gpu->nccl), "ncclCommDestroy");
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[GPUS_MAX];
    ncclComm_t nccl[GPUS_MAX];
    gpu gpus[GPUS_MAX];
    int n = 0;

    steps = argc > 1 ? atoi(argv[1]) : 20;
    check_cuda(cudaGetDeviceCount(&n), "cudaGetDeviceCount");
    n = n < GPUS_MAX ? n : GPUS_MAX;
    check_cuda(ncclCommInitAll(nccl, n, NULL), "ncclCommInitAll");
    for (int g = 0; g < n; g++) {
        gpus[g] = (gpu){.ordinal = g, .world = n, .nccl = nccl[g]};
        check_cuda(pthread_create(&threads[g], NULL, rank_main, &gpus[g]), "pthread_create");
    }
    for (int g = 0; g < n; g++)
        pthread_join(threads[g], NULL);
    return 0;
}
