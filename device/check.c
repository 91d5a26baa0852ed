/* SPDX-License-Identifier: MIT */
#include "device/check.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static sherd__check_device *device_of(sherd_device *device) { return (sherd__check_device *)device; }

/* -------------------------------------------------------------------------------------------------------- memory */

sherd_status sherd__check_device_watch(sherd_device *device, const void *address, uint64_t bytes, sherd_error *err)
{
    sherd_checker *checker = device_of(device)->checker;
    pthread_mutex_lock(&checker->lock);
    sherd_status status = sherd__check_watch(checker, address, bytes);
    pthread_mutex_unlock(&checker->lock);
    return status == SHERD_OK ? SHERD_OK : sherd__fail(err, status, "no memory for the checking device's records");
}

void sherd__check_device_unwatch(sherd_device *device, const void *address, uint64_t bytes)
{
    sherd_checker *checker = device_of(device)->checker;
    pthread_mutex_lock(&checker->lock);
    sherd__check_unwatch(checker, address, bytes);
    pthread_mutex_unlock(&checker->lock);
}

static sherd_status memory_get(sherd_device *device, sherd_tier tier, uint64_t bytes, void **out, uint64_t *rounding,
                               sherd_error *err)
{
    void *block;
    sherd_status status = sherd__host_memory_get(device, tier, bytes, &block, rounding, err);
    if (status != SHERD_OK)
        return status;
    status = sherd__check_device_watch(device, block, bytes + *rounding, err);
    if (status != SHERD_OK) {
        sherd__host_memory_put(device, tier, block, bytes);
        return status;
    }
    *out = block;
    return SHERD_OK;
}

static void memory_put(sherd_device *device, sherd_tier tier, void *block, uint64_t bytes)
{
    sherd__check_device_unwatch(device, block, bytes ? bytes : 1);
    sherd__host_memory_put(device, tier, block, bytes);
}

/* ------------------------------------------------------------------------------------------------------- streams */

/* Operations on the compute stream run at once, in the order of the client's program; waits there let the others go on
 * first. */
static sherd_status compute_submit(sherd__stream *base, const sherd__op *op)
{
    sherd__check_stream *stream = (sherd__check_stream *)base;
    sherd__check_device *device = device_of(base->device);
    sherd_checker *checker = device->checker;
    sherd__check_wait wait = {.kind = SHERD__CHECK_NOTHING, .tag = op->tag};
    if (op->kind == SHERD__OP_WAIT) {
        wait.kind = SHERD__CHECK_EVENT;
        wait.event = (sherd__check_event *)op->u.event.event;
        wait.number = op->u.event.number;
        wait.site = op->u.event.site;
    } else if (op->kind == SHERD__OP_AWAIT) {
        wait.kind = SHERD__CHECK_FLAGS;
        wait.await = &op->u.await;
        wait.site = op->u.await.site;
    }
    int64_t begin = sherd__now_ns();
    sherd_status status = sherd__check_enter(device, &wait);
    if (wait.site)
        sherd__check_site(checker, wait.site);
    sherd__check_run(stream, op, &checker->rank[device->rank].host);
    if (wait.site)
        sherd__trace_wait(&device->base, base->name, wait.site, op->tag, begin, sherd__now_ns());
    sherd__check_leave(device);
    return status;
}

static sherd_status stream_submit(sherd__stream *base, const sherd__op *op)
{
    sherd__check_stream *stream = (sherd__check_stream *)base;
    sherd__check_device *device = device_of(base->device);
    sherd_checker *checker = device->checker;
    sherd__check_wait wait = {
        .kind = SHERD__CHECK_SPACE, .stream = stream, .site = "a place in the stream", .tag = op->tag};
    sherd_status status = sherd__check_enter(device, &wait);
    const char *site = op->kind == SHERD__OP_AWAIT ? op->u.await.site : NULL;
    if (op->kind == SHERD__OP_WAIT)
        site = op->u.event.site;
    if (site)
        sherd__check_site(checker, site);
    if (status == SHERD_OK) {
        uint32_t at = (stream->head + stream->count) % stream->capacity;
        stream->ring[at].op = *op;
        stream->ring[at].host = checker->rank[device->rank].host;
        if (stream->count++ == 0)
            stream->head_since_ns = sherd__now_ns();
    }
    sherd__check_leave(device);
    return status;
}

/* Ring of `capacity`, 0 for the compute stream. */
static sherd_status stream_new(sherd__check_device *device, const char *name, uint32_t capacity,
                               sherd__check_stream **out, sherd_error *err)
{
    sherd__check_stream *stream = sherd__device_metadata_alloc(&device->base, 1, sizeof *stream);
    if (!stream)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for stream '%s'", name);
    stream->base =
        (sherd__stream){.device = &device->base, .name = name, .submit = capacity ? stream_submit : compute_submit};
    stream->capacity = capacity;
    if (capacity > 0) {
        stream->ring = sherd__device_metadata_alloc(&device->base, capacity, sizeof *stream->ring);
        if (!stream->ring) {
            sherd__device_metadata_free(&device->base, stream, 1, sizeof *stream);
            return sherd__fail(err, SHERD_ENOMEM, "no memory for the %" PRIu32 " operations of stream '%s'", capacity,
                               name);
        }
    }
    *out = stream;
    return SHERD_OK;
}

static void stream_free(sherd__check_stream *stream)
{
    sherd_device *device = stream->base.device;
    sherd__device_metadata_free(device, stream->ring, stream->capacity, sizeof *stream->ring);
    sherd__device_metadata_free(device, stream, 1, sizeof *stream);
}

/* Each rank has its own share of the components, so that their numbers do not depend on which rank starts first. They
 * are not given back: a clock may still speak of a stream that is gone. A stream of the same name that comes later goes
 * on with its component, so that engines may come and go. */
static sherd_status take_component(sherd__check_device *device, sherd__check_stream *stream, sherd_error *err)
{
    sherd_checker *checker = device->checker;
    uint32_t share = SHERD__CHECK_COMPONENTS / (uint32_t)checker->ranks, first = (uint32_t)device->rank * share;
    for (uint32_t i = first; i < first + share; i++) {
        sherd__check_component *component = &checker->component[i];
        if (component->taken ||
            (component->name[0] && strncmp(component->name, stream->base.name, sizeof component->name - 1) != 0))
            continue;
        snprintf(component->name, sizeof component->name, "%s", stream->base.name);
        component->taken = 1;
        stream->component = i;
        stream->clock = component->clock;
        return SHERD_OK;
    }
    return sherd__fail(err, SHERD_EUNSUPPORTED,
                       "the checking device tells %" PRIu32 " streams of each of %" PRId32 " ranks apart, and stream "
                       "'%s' of rank %" PRId32 " is one more; use fewer ranks",
                       share, checker->ranks, stream->base.name, device->rank);
}

static void leave_component(sherd__check_stream *stream)
{
    sherd_checker *checker = device_of(stream->base.device)->checker;
    checker->component[stream->component].taken = 0;
    checker->component[stream->component].clock = stream->clock;
}

static sherd_status stream_create(sherd_device *base, const char *name, uint32_t capacity, sherd__stream **out,
                                  sherd_error *err)
{
    sherd__check_device *device = device_of(base);
    sherd__check_stream *stream = NULL;
    if (capacity == 0)
        return sherd__fail(err, SHERD_EINVAL, "stream '%s': a capacity of 0 operations; give at least 1", name);
    sherd_status status = stream_new(device, name, capacity, &stream, err);
    if (status != SHERD_OK)
        return status;
    pthread_mutex_lock(&device->checker->lock);
    status = take_component(device, stream, err);
    if (status == SHERD_OK) {
        stream->next = device->streams;
        device->streams = stream;
    }
    pthread_mutex_unlock(&device->checker->lock);
    if (status != SHERD_OK) {
        stream_free(stream);
        return status;
    }
    *out = &stream->base;
    return SHERD_OK;
}

static void unlink_stream(sherd__check_device *device, const sherd__check_stream *stream)
{
    for (sherd__check_stream **link = &device->streams; *link; link = &(*link)->next) {
        if (*link == stream) {
            *link = stream->next;
            return;
        }
    }
}

static void stream_destroy(sherd__stream *base)
{
    sherd__check_stream *stream = (sherd__check_stream *)base;
    if (!base)
        return;
    sherd__check_device *device = device_of(base->device);
    sherd__check_wait wait = {
        .kind = SHERD__CHECK_EMPTY, .stream = stream, .site = "the end of a stream", .tag = {.bucket = -1}};
    (void)sherd__check_enter(device, &wait);
    sherd__clock_join(&device->checker->rank[device->rank].host, &stream->clock);
    unlink_stream(device, stream);
    leave_component(stream);
    sherd__check_leave(device);
    stream_free(stream);
}

/* -------------------------------------------------------------------------------------------------------- events */

static sherd_status event_create(sherd_device *device, sherd__event **out, sherd_error *err)
{
    sherd__check_event *event = sherd__device_metadata_alloc(device, 1, sizeof *event);
    if (!event)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for an event");
    event->device = device_of(device);
    *out = (sherd__event *)event;
    return SHERD_OK;
}

static void event_destroy(sherd__event *handle)
{
    sherd__check_event *event = (sherd__check_event *)handle;
    if (event)
        sherd__device_metadata_free(&event->device->base, event, 1, sizeof *event);
}

static sherd_status event_record(sherd__stream *base, sherd__event *handle)
{
    sherd__check_stream *stream = (sherd__check_stream *)base;
    sherd__check_event *event = (sherd__check_event *)handle;
    sherd__op op = {.kind = SHERD__OP_RECORD, .tag = {.bucket = -1}};
    sherd_error error;
    pthread_mutex_lock(&event->device->checker->lock);
    const sherd__check_stream *former = event->reached < event->recorded ? event->recorder : stream;
    op.u.event.event = handle;
    op.u.event.number = ++event->recorded;
    event->recorder = stream;
    pthread_mutex_unlock(&event->device->checker->lock);
    if (former != stream) {
        sherd__fail(&error, SHERD_EINVAL,
                    "rank %" PRId32 ": an event is recorded on stream '%s' while its record on stream '%s' is pending",
                    event->device->rank, base->name, former->base.name);
        return sherd__device_poison(base->device, &error);
    }
    return base->submit(base, &op);
}

static uint64_t latest_record(sherd__check_event *event)
{
    pthread_mutex_lock(&event->device->checker->lock);
    uint64_t number = event->recorded;
    pthread_mutex_unlock(&event->device->checker->lock);
    return number;
}

static sherd_status event_wait(sherd__stream *stream, sherd__event *event, const char *site)
{
    sherd__op op = {.kind = SHERD__OP_WAIT, .tag = {.bucket = -1}};
    op.u.event.event = event;
    op.u.event.number = latest_record((sherd__check_event *)event);
    op.u.event.site = site;
    return stream->submit(stream, &op);
}

static sherd_status event_sync(sherd_device *base, sherd__event *handle, const char *site, sherd_error *err)
{
    sherd__check_device *device = device_of(base);
    sherd_checker *checker = device->checker;
    sherd__check_event *event = (sherd__check_event *)handle;
    sherd__check_wait wait = {.kind = SHERD__CHECK_EVENT, .event = event, .number = latest_record(event), .site = site,
                              .tag = {.bucket = -1}};
    int64_t begin = sherd__now_ns();
    sherd_status status = sherd__check_enter(device, &wait);
    if (site)
        sherd__check_site(checker, site);
    if (status == SHERD_OK)
        sherd__check_join_event(checker, &checker->rank[device->rank].host, event, wait.number, site);
    sherd__trace_wait(base, "compute", site, wait.tag, begin, sherd__now_ns());
    sherd__check_leave(device);
    return status == SHERD_OK ? SHERD_OK : sherd__device_error(base, err);
}

static int64_t event_time_ns(sherd__event *handle)
{
    sherd__check_event *event = (sherd__check_event *)handle;
    pthread_mutex_lock(&event->device->checker->lock);
    int64_t time_ns = event->time_ns;
    pthread_mutex_unlock(&event->device->checker->lock);
    return time_ns;
}

static sherd_status touch(sherd_device *device, sherd__tag tag, sherd__access access)
{
    sherd__op op = {.kind = SHERD__OP_TOUCH, .tag = tag, .u.call = {.n = 1}};
    op.u.call.access[0] = access;
    return device->compute->submit(device->compute, &op);
}

/* -------------------------------------------------------------------------------------------------------- device */

static void destroy(sherd_device *base)
{
    sherd__check_device *device = device_of(base);
    sherd_checker *checker = device->checker;
    sherd_allocator memory = base->allocator;
    pthread_mutex_lock(&checker->lock);
    leave_component((sherd__check_stream *)base->compute);
    sherd__check_quit(device);
    pthread_mutex_unlock(&checker->lock);
    stream_free((sherd__check_stream *)base->compute);
    sherd__device_base_fini(base);
    pthread_mutex_destroy(&device->call);
    sherd__free(&memory, device, 1, sizeof *device);
}

static const sherd__device_ops check_ops = {
    .destroy = destroy,
    .memory_free = sherd__host_memory_free,
    .memory_get = memory_get,
    .memory_put = memory_put,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_wait = event_wait,
    .event_sync = event_sync,
    .event_time_ns = event_time_ns,
    SHERD__OP_ENTRIES,
    .touch = touch,
    .meet = sherd__op_meet,
    .announce = sherd__op_announce,
};

static sherd_status join_checker(sherd__check_device *device, sherd_error *err)
{
    sherd_checker *checker = device->checker;
    pthread_mutex_lock(&checker->lock);
    sherd__check_rank *rank = &checker->rank[device->rank];
    sherd_status status;
    if (rank->device) {
        status = sherd__fail(err, SHERD_EINVAL,
                             "rank %" PRId32 " has a checking device already; each rank may have one", device->rank);
    } else {
        status = take_component(device, (sherd__check_stream *)device->base.compute, err);
    }
    if (status == SHERD_OK) {
        rank->device = device;
        rank->state = SHERD__CHECK_NEW;
        rank->expected = 1;
    }
    pthread_mutex_unlock(&checker->lock);
    return status;
}

sherd_status sherd__device_create_check(const sherd_device_options *options, sherd_device **out, sherd_error *err)
{
    sherd_checker *checker = options->checker;
    if (!checker)
        return sherd__fail(err, SHERD_EINVAL,
                           "the checking device needs a checker: make one with sherd_checker_create, for all ranks");
    if (options->rank < 0 || options->rank >= checker->ranks)
        return sherd__fail(err, SHERD_EINVAL,
                           "rank %" PRId32 " of a checking device: the checker was made for %" PRId32 " ranks",
                           options->rank, checker->ranks);
    sherd_allocator memory = sherd__allocator_or_default(&options->allocator);
    sherd__check_device *device = sherd__alloc(&memory, 1, sizeof *device);
    if (!device)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a checking device");
    sherd__check_stream *compute = NULL;
    sherd_status status = sherd__device_base_init(&device->base, &check_ops, options, err);
    if (status != SHERD_OK)
        goto free_device;
    pthread_mutex_init(&device->call, NULL);
    device->checker = checker;
    device->rank = options->rank;
    device->math = sherd__host_math_best();
    status = stream_new(device, "compute", 0, &compute, err);
    if (status != SHERD_OK)
        goto fini_base;
    device->base.compute = &compute->base;
    snprintf(device->base.description, sizeof device->base.description,
             "check, rank %" PRId32 " of %" PRId32 ", %s kernels", device->rank, checker->ranks, device->math->name);
    status = join_checker(device, err);
    if (status != SHERD_OK)
        goto free_compute;
    *out = &device->base;
    return SHERD_OK;

free_compute:
    stream_free(compute);
fini_base:
    sherd__device_base_fini(&device->base);
    pthread_mutex_destroy(&device->call);
free_device:
    sherd__free(&memory, device, 1, sizeof *device);
    return status;
}
