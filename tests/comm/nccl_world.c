/* SPDX-License-Identifier: MIT */
#include "nccl_world.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int stub_launch(void *stream, const char *function, void (*fn)(const void *), const void *args, size_t bytes)
{
    return (int)cuda_stub_launch(stream, function, fn, args, bytes);
}

static int stub_get(void **out, size_t bytes)
{
    return (int)cudaMalloc(out, bytes);
}

static int stub_put(void *block)
{
    return (int)cudaFree(block);
}

static int stub_device(int *out)
{
    return (int)cudaGetDevice(out);
}

const nccl_stub *nccl_stub_open(void)
{
    static const nccl_stub_cuda cuda = {stub_launch, stub_get, stub_put, stub_device};
    static nccl_stub stub;
    if (!stub.attach) {
        void *library = dlopen(getenv("SHERD_NCCL_LIBRARY"), RTLD_NOW | RTLD_LOCAL), *at;
        if (!library) {
            fprintf(stderr, "%s\n", dlerror());
            abort();
        }
#define X(type, name, arguments)                                                                                       \
    at = dlsym(library, "nccl_stub_" #name);                                                                           \
    memcpy(&stub.name, &at, sizeof at);
        NCCL_STUB_MAP(X)
#undef X
        stub.attach(&cuda);
    }
    cuda_stub_reset(NCCL_RANKS, 0);
    stub.reset();
    return &stub;
}

/* ------------------------------------------------------------------------------------------------------------
 * bootstrap */

static struct timespec deadline(double seconds)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    int64_t sum = until.tv_nsec + (int64_t)(seconds * 1e9);
    until.tv_sec += (time_t)(sum / 1000000000);
    until.tv_nsec = (long)(sum % 1000000000);
    return until;
}

static int meet(void *ctx, const void *mine, void *all, size_t bytes)
{
    const nccl_rank *rank = ctx;
    nccl_meeting *meeting = rank->meeting;
    struct timespec until = deadline(meeting->limit_s);
    int code = 0;
    pthread_mutex_lock(&meeting->lock);
    while (meeting->leaving > 0)
        pthread_cond_wait(&meeting->changed, &meeting->lock);
    if (meeting->here == 0)
        meeting->all = calloc((size_t)meeting->world, bytes);
    memcpy(meeting->all + (size_t)rank->rank * bytes, mine, bytes);
    if (++meeting->here == meeting->world)
        meeting->leaving = meeting->world;
    pthread_cond_broadcast(&meeting->changed);
    while (meeting->leaving == 0 && code == 0)
        code = pthread_cond_timedwait(&meeting->changed, &meeting->lock, &until);
    if (meeting->leaving > 0) {
        code = 0;
        memcpy(all, meeting->all, (size_t)meeting->world * bytes);
        if (--meeting->leaving == 0) {
            meeting->here = 0;
            free(meeting->all);
            meeting->all = NULL;
            pthread_cond_broadcast(&meeting->changed);
        }
    }
    pthread_mutex_unlock(&meeting->lock);
    return code == 0 ? 0 : 7;
}

/* ----------------------------------------------------------------------------------------------------------------
 * ranks */

/* What a client has, who brings an ncclComm_t of its own: a blocking one. */
static void *client_comm(nccl_rank *rank, const sherd__nccl_api **out)
{
    sherd__nccl_config config = {
        .size = sizeof config, .magic = SHERD__NCCL_CONFIG_MAGIC, .version = 21800, .blocking = 1};
    sherd__nccl_id id, all[NCCL_RANKS];
    sherd__nccl_handle comm = NULL;
    if (sherd__nccl_load(out, &rank->err) != SHERD_OK || (*out)->GetUniqueId(&id) || meet(rank, &id, all, sizeof id))
        return NULL;
    (void)(*out)->CommInitRankConfig(&comm, rank->world, all[0], rank->rank, &config);
    return comm;
}

static void *rank_main(void *arg)
{
    nccl_rank *rank = arg;
    const sherd__nccl_api *api = NULL;
    sherd_comm_options options;
    void *parent = NULL;
    (void)cudaSetDevice(rank->rank);
    sherd_comm_options_init(&options, sizeof options);
    options.fail_after_s = rank->fail_after_s;
    options.log = rank->log;
    if (rank->absent == rank->rank + 1)
        return NULL;
    if (rank->adopt) {
        parent = client_comm(rank, &api);
        rank->status = sherd_comm_adopt_nccl(&options, parent, &rank->comm, &rank->err);
    } else {
        rank->status = sherd_comm_create_nccl(&options, rank->rank, rank->world, meet, rank, &rank->comm, &rank->err);
    }
    if (rank->status == SHERD_OK && rank->body)
        rank->body(rank);
    sherd_comm_destroy(rank->comm);
    if (parent) { /* still the client's, as good as before */
        (void)api->CommFinalize(parent);
        int state;
        (void)api->CommGetAsyncError(parent, &state);
        (void)api->CommDestroy(parent);
    }
    return NULL;
}

void nccl_run(int32_t world, nccl_rank *ranks)
{
    pthread_t threads[NCCL_RANKS];
    nccl_meeting meeting = {.lock = PTHREAD_MUTEX_INITIALIZER,
                            .changed = PTHREAD_COND_INITIALIZER,
                            .world = world,
                            .limit_s = ranks[0].absent ? 0.2 : 30};
    for (int32_t r = 0; r < world; r++) {
        if (r > 0)
            ranks[r] = ranks[0];
        ranks[r].meeting = &meeting;
        ranks[r].fail_after_s = ranks[0].fail_after_s > 0 ? ranks[0].fail_after_s : 30;
        ranks[r].rank = r;
        ranks[r].world = world;
    }
    for (int32_t r = 0; r < world; r++)
        pthread_create(&threads[r], NULL, rank_main, &ranks[r]);
    for (int32_t r = 0; r < world; r++)
        pthread_join(threads[r], NULL);
    free(meeting.all);
}

sherd_status nccl_touch_by_cpu(sherd_device *device, sherd__tag tag, sherd__access access)
{
    if (strncmp(tag.name, "client", 6) == 0)
        cuda_stub_show_memory(access.address);
    return sherd__cuda_await_idle((sherd__cuda_stream *)device->compute, "client on the CPU");
}

/* ----------------------------------------------------------------------------------------------------------------
 * bench */

int nccl_bench_open(nccl_rank *rank, uint64_t bytes, nccl_bench *bench)
{
    sherd_cuda_options options;
    memset(bench, 0, sizeof *bench);
    sherd_cuda_options_init(&options, sizeof options);
    rank->comm->receive_bytes = bytes;
    if (sherd_device_create_cuda(&options, &bench->device, &bench->err) != SHERD_OK)
        return 0;
    atomic_store(&bench->device->wait_limit_ns, (int64_t)((rank->fail_after_s + 2) * 1e9));
    sherd_status status = rank->comm->ops->bind(rank->comm, bench->device, &bench->err);
    if (status == SHERD_OK)
        status = bench->device->ops->stream_create(bench->device, "comm", 256, &bench->stream, &bench->err);
    if (status == SHERD_OK)
        status = bench->device->ops->stream_create(bench->device, "other", 256, &bench->other, &bench->err);
    if (status == SHERD_OK)
        status = bench->device->ops->event_create(bench->device, &bench->event, &bench->err);
    if (status == SHERD_OK)
        status = rank->comm->ops->window_create(rank->comm, bytes, SHERD_CAT_GRADIENTS, &bench->window, &bench->err);
    if (status == SHERD_OK)
        return 1;
    rank->comm->ops->abort(rank->comm, &bench->err);
    nccl_bench_close(rank, bench);
    return 0;
}

void nccl_bench_close(nccl_rank *rank, nccl_bench *bench)
{
    if (!bench->device)
        return;
    bench->device->ops->stream_destroy(bench->stream);
    bench->device->ops->stream_destroy(bench->other);
    rank->comm->ops->window_destroy(rank->comm, &bench->window);
    bench->device->ops->event_destroy(bench->event);
    rank->comm->ops->unbind(rank->comm);
    sherd_device_destroy(bench->device);
    bench->device = NULL;
}

sherd_status nccl_bench_wait(nccl_bench *bench)
{
    sherd_status status = bench->device->ops->event_record(bench->stream, bench->event);
    if (status == SHERD_OK)
        status = bench->device->ops->event_sync(bench->device, bench->event, "test: end", &bench->err);
    return status == SHERD_OK ? SHERD_OK : sherd__device_error(bench->device, &bench->err);
}

int nccl_nothing_left(const nccl_stub *stub)
{
    for (int i = 0; i < 2000 && (cuda_stub_alive() > 0 || stub->alive() > 0); i++)
        usleep(1000);
    if (cuda_stub_alive() > 0 || stub->alive() > 0)
        fprintf(stderr, "left: %d of CUDA's, %d of NCCL's\n", (int)cuda_stub_alive(), (int)stub->alive());
    return cuda_stub_alive() == 0 && stub->alive() == 0;
}
