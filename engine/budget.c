/* SPDX-License-Identifier: MIT
 *
 * "auto" budgets become numbers before the plan is made: what is free here, less what the model says it will take, the
 * least of all ranks. The communicator is borrowed for one all-reduce.
 */
#include <inttypes.h>

#include "engine/engine.h"
#include "host/meminfo.h"

#define HOST_RESERVE 16 /* a sixteenth of the host's free memory is left alone */

static sherd_status free_here(sherd_device *device, uint64_t sharers, uint64_t words[2], sherd_error *err)
{
    uint64_t host = sherd__meminfo_available(-1);
    sherd_status status = device->ops->memory_free(device, &words[0], err);

    if (host == UINT64_MAX)
        return sherd__fail(err, SHERD_EUNSUPPORTED,
                           "a memory budget is \"auto\", but the kernel does not say how much "
                           "memory is available; give bytes");
    host -= host / HOST_RESERVE;
    words[1] = host / sharers;
    if (device->kind != SHERD_DEVICE_CUDA && device->ledger.limit[SHERD_TIER_DEVICE] == 0)
        words[0] = host / sharers / 2; /* main memory is both tiers: half for each */
    return status;
}

/* The least of two words over all ranks. */
static sherd_status least(sherd_device *device, sherd_comm *comm, uint64_t words[2], sherd_error *err)
{
    const sherd__tag tag = {"budget", -1, 0};
    sherd__stream *stream = NULL;
    sherd__event *event = NULL;
    void *block = NULL;
    sherd_status status = comm->ops->bind(comm, device, err);

    if (status != SHERD_OK)
        return status;
    status = device->ops->stream_create(device, "budget", 16, &stream, err);
    if (status == SHERD_OK)
        status = device->ops->event_create(device, &event, err);
    if (status == SHERD_OK)
        status = sherd__device_alloc(device, SHERD_TIER_DEVICE, SHERD_CAT_COMMUNICATION, 64, &block, err);
    if (status == SHERD_OK)
        status = device->ops->copy(stream, tag, block, words, 2 * sizeof *words);
    if (status == SHERD_OK)
        status = comm->ops->all_reduce(comm, stream, tag, block, 0, 2);
    if (status == SHERD_OK)
        status = device->ops->copy(stream, tag, words, block, 2 * sizeof *words);
    if (status == SHERD_OK)
        status = device->ops->event_record(stream, event);
    if (status == SHERD_OK)
        status = device->ops->event_sync(device, event, "budget", NULL);
    if (status != SHERD_OK && atomic_load(&device->failed))
        status = sherd__device_error(device, err);
    device->ops->stream_destroy(stream);
    if (event)
        device->ops->event_destroy(event);
    sherd_device_free(device, block);
    comm->ops->unbind(comm);
    return status;
}

sherd_status sherd_config_resolve_memory(sherd_config *config, sherd_device *device, sherd_comm *comm,
                                         uint64_t model_bytes, sherd_error *err)
{
    uint64_t words[2] = {0, 0};
    sherd_status status;

    if (!config || !device || !comm || config->size < sizeof *config)
        return sherd__fail(err, SHERD_EINVAL,
                           "sherd_config_resolve_memory: configuration, device and communicator must be given");
    if (config->offload.device_memory_budget != SHERD_BUDGET_AUTO &&
        config->offload.host_memory_budget != SHERD_BUDGET_AUTO)
        return SHERD_OK;
    if (comm->device)
        return sherd__fail(err, SHERD_ESTATE,
                           "sherd_config_resolve_memory: the communicator serves an engine; call it before");
    status = free_here(device, (uint64_t)comm->world, words, err);
    words[0] = words[0] > model_bytes ? words[0] - model_bytes : 0;
    if (status != SHERD_OK) /* the others wait for this rank's words: it takes part, and says nothing is free */
        words[0] = words[1] = 0;
    sherd_status shared = least(device, comm, words, status == SHERD_OK ? err : NULL);
    if (status != SHERD_OK || shared != SHERD_OK)
        return status != SHERD_OK ? status : shared;
    if (config->offload.device_memory_budget == SHERD_BUDGET_AUTO)
        config->offload.device_memory_budget = (int64_t)words[0];
    if (config->offload.host_memory_budget == SHERD_BUDGET_AUTO)
        config->offload.host_memory_budget = (int64_t)words[1];
    return SHERD_OK;
}
