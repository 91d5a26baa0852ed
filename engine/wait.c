/* SPDX-License-Identifier: MIT
 *
 * Where the calling thread waits, and what happens when a wait, or anything else, fails. The first error poisons the
 * device and with it the engine: it is kept, the peers are told once, and every later call returns it.
 */
#include <stdarg.h>
#include <stdio.h>

#include "engine/engine.h"

sherd_status sherd__engine_health(sherd_engine *engine, sherd_error *err)
{
    sherd_error first;
    sherd_status status;
    int tell;

    if (!atomic_load_explicit(&engine->device->failed, memory_order_acquire))
        return SHERD_OK;
    status = sherd__device_error(engine->device, &first);
    pthread_mutex_lock(&engine->lock);
    tell = !engine->aborted;
    engine->aborted = 1;
    pthread_mutex_unlock(&engine->lock);
    if (tell)
        engine->comm->ops->abort(engine->comm, &first);
    sherd__pass(err, &first);
    return status;
}

sherd_status sherd__engine_check(sherd_engine *engine, sherd_status status, sherd_error *err)
{
    sherd_error error;

    if (status == SHERD_OK)
        return SHERD_OK;
    if (!atomic_load_explicit(&engine->device->failed, memory_order_acquire)) {
        sherd__fail(&error, status, "engine: an operation could not be enqueued: %s", sherd_status_text(status));
        sherd__device_poison(engine->device, &error);
    }
    return sherd__engine_health(engine, err);
}

sherd_status sherd__engine_refuse(sherd_engine *engine, sherd_error *err, sherd_status status, const char *format, ...)
{
    sherd_error error = {status, -1, ""};
    va_list args;

    va_start(args, format);
    vsnprintf(error.text, sizeof error.text, format, args);
    va_end(args);
    pthread_mutex_lock(&engine->lock);
    engine->refused = error;
    pthread_mutex_unlock(&engine->lock);
    sherd__pass(err, &error);
    return status;
}

sherd_status sherd_engine_error(sherd_engine *engine, sherd_error *err)
{
    sherd_status status = sherd__engine_health(engine, err);

    if (status != SHERD_OK)
        return status;
    pthread_mutex_lock(&engine->lock);
    status = sherd__pass(err, &engine->refused);
    pthread_mutex_unlock(&engine->lock);
    return status;
}

sherd_status sherd__engine_compute_wait(sherd_engine *engine, sherd__event *event, const char *site)
{
    int64_t begin = sherd__now_ns();
    sherd_status status = engine->device->ops->event_wait(engine->device->compute, event, site);

    atomic_fetch_add_explicit(&engine->times.exposed, sherd__now_ns() - begin, memory_order_relaxed);
    return status;
}

sherd_status sherd__engine_host_wait(sherd_engine *engine, sherd__event *event, const char *site)
{
    int64_t begin = sherd__now_ns();
    sherd_status status = engine->device->ops->event_sync(engine->device, event, site, NULL);

    atomic_fetch_add_explicit(&engine->times.exposed, sherd__now_ns() - begin, memory_order_relaxed);
    return status;
}

sherd_status sherd__engine_compute_released(sherd_engine *engine, sherd__tag tag, sherd__ticket ticket,
                                            const char *site)
{
    int64_t begin = sherd__now_ns();
    sherd_status status = engine->comm->ops->released(engine->comm, engine->device->compute, tag, ticket, site);

    atomic_fetch_add_explicit(&engine->times.exposed, sherd__now_ns() - begin, memory_order_relaxed);
    return status;
}

sherd_status sherd__engine_sync(sherd_engine *engine, sherd__stream_id stream, const char *site, sherd_error *err)
{
    const sherd__device_ops *ops = engine->device->ops;
    sherd_status status = ops->event_record(engine->stream[stream], engine->sync[stream]);

    if (status == SHERD_OK)
        status = ops->event_sync(engine->device, engine->sync[stream], site, NULL);
    status = sherd__engine_check(engine, status, err);
    return status == SHERD_OK ? sherd__engine_health(engine, err) : status;
}

sherd_status sherd__engine_follow(sherd_engine *engine, const char *site)
{
    const sherd__device_ops *ops = engine->device->ops;
    sherd_status status = ops->event_record(engine->device->compute, engine->closed);

    return status == SHERD_OK ? ops->event_wait(engine->stream[SHERD__COMM], engine->closed, site) : status;
}

sherd_status sherd__engine_touch(sherd_engine *engine, const char *who, const void *address, uint64_t bytes,
                                 int32_t write, sherd_error *err)
{
    sherd__access access = {address, bytes, write};
    sherd_status status = SHERD_OK;

    if (address && bytes)
        status = engine->device->ops->touch(engine->device, sherd__engine_tag(engine, who, -1), access);
    return sherd__engine_check(engine, status, err);
}

/* Everything that runs, then the report that may be outstanding. */
sherd_status sherd_engine_wait(sherd_engine *engine, sherd_error *err)
{
    /* What runs on the others is always followed by something here. */
    static const struct {
        sherd__stream_id stream;
        const char *site;
    } ends[] = {{SHERD__UPDATE, "engine wait (update)"}, {SHERD__RAISE, "engine wait (raise)"},
                {SHERD__WRITE, "engine wait (write)"}};
    sherd_status status = SHERD_OK;

    for (size_t i = 0; status == SHERD_OK && i < sizeof ends / sizeof *ends; i++)
        if (engine->stream[ends[i].stream])
            status = sherd__engine_sync(engine, ends[i].stream, ends[i].site, err);
    if (status == SHERD_OK)
        status = sherd__engine_sync(engine, SHERD__COMM, "engine wait (comm)", err);
    return status == SHERD_OK ? sherd__engine_collect(engine, err) : status;
}
