/* SPDX-License-Identifier: MIT
 *
 * The disk tier: one scratch file (striped over the folders) holds the records of all disk buckets, one per place, at
 * fixed offsets. Reading and writing are work of the CPU on streams of their own, which wait for the queue within the
 * device's limit; the queue itself keeps many blocks in flight. Nothing here is durable: checkpoints are elsewhere, and
 * are not touched.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "offload/internal.h"

static sherd_status transfer(const sherd__work *work, int32_t write, sherd_error *err)
{
    sherd__offload *offload = work->offload;
    sherd__place *places = sherd__places(offload, work->bucket);
    double limit_s = (double)atomic_load(&offload->device->wait_limit_ns) * 1e-9;
    sherd_status status = SHERD_OK;
    int32_t submitted = 0;

    for (; status == SHERD_OK && submitted < offload->n_nodes; submitted++) {
        sherd__place *place = &places[submitted];
        if (place->record_bytes == 0)
            continue;
        memset(&place->op, 0, sizeof place->op);
        place->op.file = offload->file;
        place->op.offset = place->file_offset;
        place->op.bytes = place->record_bytes;
        place->op.buffer = place->record;
        place->op.write = write;
        status = sherd__aio_submit(offload->aio, &place->op, err);
    }
    for (int32_t node = 0; node < submitted; node++) {
        sherd_status ended = SHERD_OK;
        if (places[node].record_bytes > 0)
            ended = sherd__aio_wait(offload->aio, &places[node].op, limit_s, status == SHERD_OK ? err : NULL);
        status = status == SHERD_OK ? ended : status;
    }
    return status;
}

static sherd_status do_fetch(void *arg, sherd_error *err)
{
    return transfer(arg, 0, err);
}

static sherd_status do_store(void *arg, sherd_error *err)
{
    return transfer(arg, 1, err);
}

static sherd_status enqueue(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket,
                            sherd__work_kind kind, sherd__work_fn fn)
{
    sherd__work *work = sherd__work_of(offload, bucket, kind, 0);
    return offload->device->ops->host_work(stream, tag, fn, work, work->access, work->n_access);
}

sherd_status sherd__offload_fetch(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket)
{
    return enqueue(offload, stream, tag, bucket, SHERD__WORK_FETCH, do_fetch);
}

sherd_status sherd__offload_store(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket)
{
    return enqueue(offload, stream, tag, bucket, SHERD__WORK_STORE, do_store);
}

/* "a:b" into folders; returns how many, 0 for too many. */
static uint32_t split(char *paths, const char **folders)
{
    uint32_t n = 0;
    for (char *rest = paths, *end; rest; rest = end) {
        end = strchr(rest, ':');
        if (end)
            *end++ = '\0';
        if (*rest == '\0')
            continue;
        if (n == SHERD__AIO_MAX_FOLDERS)
            return 0;
        folders[n++] = rest;
    }
    return n;
}

static sherd_status open_file(sherd__offload *offload, sherd_error *err)
{
    const sherd_config *config = &offload->plan->config;
    const char *folders[SHERD__AIO_MAX_FOLDERS];
    char paths[SHERD_PATHS_MAX];
    sherd__aio_file_options options = {
        .folders = folders, .name = "state", .rank = offload->rank, .bytes = offload->file_bytes};

    snprintf(paths, sizeof paths, "%s", config->offload.nvme_path);
    options.n_folders = split(paths, folders);
    if (options.n_folders == 0)
        return sherd__fail(err, SHERD_EINVAL, "offload_optimizer.nvme_path '%.200s' names no folder or more than %u",
                           config->offload.nvme_path, SHERD__AIO_MAX_FOLDERS);
    return sherd__aio_file_create(offload->aio, &options, &offload->file, err);
}

sherd_status sherd__disk_open(sherd__offload *offload, sherd_error *err)
{
    const sherd_config *config = &offload->plan->config;
    sherd__aio_options options;
    sherd_status status;

    sherd__aio_options_init(&options);
    options.queue_depth = (uint32_t)config->offload.aio_queue_depth;
    options.block_size = (uint64_t)config->offload.aio_block_size;
    options.single_submit = config->offload.aio_single_submit;
    options.overlap_events = config->offload.aio_overlap_events;
    options.allocator = offload->device->allocator;
    options.log = offload->device->log;
    options.io = offload->device->io;
    options.fail_after_s = config->sherd.fail_after_s;
    status = sherd__aio_create(&options, &offload->aio, err);
    return status == SHERD_OK ? open_file(offload, err) : status;
}

#define MOST_BUFFERS 64 /* the queue's limit; with more nodes the records work unregistered */

sherd_status sherd__disk_register(sherd__offload *offload, sherd_error *err)
{
    void *areas[MOST_BUFFERS];
    uint64_t bytes[MOST_BUFFERS];
    uint32_t n = 0;

    for (int32_t node = 0; node < offload->n_nodes && n < MOST_BUFFERS; node++)
        if (offload->slot_area_bytes[node] > 0) {
            areas[n] = offload->slot_area[node];
            bytes[n++] = offload->slot_area_bytes[node];
        }
    return n > 0 ? sherd__aio_register(offload->aio, areas, bytes, n, err) : SHERD_OK;
}

void sherd__disk_close(sherd__offload *offload)
{
    sherd__aio_file_destroy(offload->file);
    sherd__aio_destroy(offload->aio);
}
