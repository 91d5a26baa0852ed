/* SPDX-License-Identifier: MIT
 *
 * Waiting on the host: for events (words of this process) and for flags (words that other ranks write, perhaps in other
 * processes). One core more or less is often all there is, so a waiter sleeps at once; only where cores are plenty does
 * it look a few times first, for about two microseconds, less than a sleep and a wake-up cost.
 */
#include "device/host.h"
#include "host/futex.h"

#define SPIN_NS 2000

typedef struct wait_clock {
    int64_t begin, now;
} wait_clock;

static int64_t wait_limit(sherd_device *device)
{
    return atomic_load_explicit(&device->wait_limit_ns, memory_order_relaxed);
}

/* How long the next sleep may be; 0 when the limit is reached. */
static int64_t next_slice(wait_clock *clock, int64_t limit_ns)
{
    clock->now = sherd__now_ns();
    int64_t left = limit_ns - (clock->now - clock->begin);
    if (left <= 0)
        return 0;
    return left < SHERD__WAIT_SLICE_NS ? left : SHERD__WAIT_SLICE_NS;
}

void sherd__host_event_reach(sherd__host_event *event, uint64_t number)
{
    atomic_store_explicit(&event->time_ns, sherd__now_ns(), memory_order_relaxed);
    atomic_store_explicit(&event->reached, number, memory_order_release);
    atomic_fetch_add(&event->word, 1);
    if (atomic_load(&event->sleepers) > 0)
        sherd__futex_wake_all(&event->word, SHERD__FUTEX_PROCESS);
}

static int reached(sherd__host_event *event, uint64_t number)
{
    return atomic_load_explicit(&event->reached, memory_order_acquire) >= number;
}

static int spin_for_event(sherd__host_event *event, uint64_t number, const wait_clock *clock)
{
    sherd__host_device *device = (sherd__host_device *)event->device;
    while (device->spin && sherd__now_ns() - clock->begin < SPIN_NS)
        if (reached(event, number))
            return 1;
    return 0;
}

static sherd_status event_timeout(sherd_device *device, const char *stream, const char *site, int64_t waited_ns)
{
    sherd_error error;
    sherd__fail(&error, SHERD_ETIMEOUT,
                "stream '%s' waited %.1f s at '%s' for an event that was not reached: another stream of this "
                "rank is stuck; its own sentence comes first where there is one",
                stream, (double)waited_ns * 1e-9, site ? site : "");
    return sherd__device_poison(device, &error);
}

sherd_status sherd__host_event_await(sherd__host_event *event, uint64_t number, const char *stream, const char *site)
{
    sherd_device *device = event->device;
    if (reached(event, number))
        return sherd__device_error(device, NULL);
    wait_clock clock = {.begin = sherd__now_ns()};
    sherd_status status = SHERD_OK;
    int done = spin_for_event(event, number, &clock);
    while (!done) {
        uint32_t seen = atomic_load(&event->word);
        if (reached(event, number))
            break;
        status = sherd__device_error(device, NULL);
        if (status != SHERD_OK)
            break;
        int64_t slice = next_slice(&clock, wait_limit(device));
        if (slice == 0) {
            status = event_timeout(device, stream, site, clock.now - clock.begin);
            break;
        }
        atomic_fetch_add(&event->sleepers, 1);
        sherd__futex_wait(&event->word, seen, slice, SHERD__FUTEX_PROCESS);
        atomic_fetch_sub(&event->sleepers, 1);
    }
    sherd__trace_wait(device, stream, site, (sherd__tag){.bucket = -1}, clock.begin, sherd__now_ns());
    return status != SHERD_OK ? status : sherd__device_error(device, NULL);
}

static int spin_for_flags(const sherd__host_device *device, const sherd__await *await, uint32_t *which,
                          const wait_clock *clock)
{
    while (device->spin && sherd__now_ns() - clock->begin < SPIN_NS)
        if (sherd__await_satisfied(await, which))
            return 1;
    return 0;
}

static sherd_status flags_timeout(sherd_device *device, const char *stream, sherd__tag tag, const sherd__await *await,
                                  uint32_t which, int64_t waited_ns)
{
    sherd_error error;
    sherd__fail(&error, SHERD_ETIMEOUT,
                "stream '%s' waited %.1f s at '%s' (%s of bucket %d, step %lld) for word %u of %u, which another "
                "rank sets: that rank is stuck or gone",
                stream, (double)waited_ns * 1e-9, await->site ? await->site : "", tag.name ? tag.name : "", tag.bucket,
                (long long)tag.step, which, await->count);
    return sherd__device_poison(device, &error);
}

/* Asks the caller's poll, or the device's limit where there is none. */
static sherd_status poll_flags(sherd_device *device, const char *stream, sherd__tag tag, const sherd__await *await,
                               uint32_t which, int64_t waited_ns)
{
    if (!await->poll)
        return waited_ns < wait_limit(device) ? SHERD_OK : flags_timeout(device, stream, tag, await, which, waited_ns);
    sherd_error error = {.status = SHERD_OK, .rank = -1};
    sherd_status status = await->poll(await->ctx, which, waited_ns, &tag, &error);
    if (status == SHERD_OK)
        return SHERD_OK;
    error.status = status;
    return sherd__device_poison(device, &error);
}

sherd_status sherd__host_flags_await(sherd__host_device *host, const char *stream, sherd__tag tag,
                                     const sherd__await *await)
{
    sherd_device *device = &host->base;
    uint32_t which = 0;
    if (sherd__await_satisfied(await, &which))
        return sherd__device_error(device, NULL);
    wait_clock clock = {.begin = sherd__now_ns()};
    sherd_status status = SHERD_OK;
    int done = spin_for_flags(host, await, &which, &clock);
    int64_t polled = clock.begin;
    while (!done) {
        status = sherd__device_error(device, NULL);
        clock.now = sherd__now_ns();
        if (status == SHERD_OK && clock.now - polled >= SHERD__WAIT_SLICE_NS) {
            status = poll_flags(device, stream, tag, await, which, clock.now - clock.begin);
            polled = clock.now;
        }
        if (status != SHERD_OK)
            break;
        uint32_t seen = atomic_load(await->flags[which]);
        if ((int32_t)(seen - await->value) < 0)
            sherd__futex_wait(await->flags[which], seen, SHERD__WAIT_SLICE_NS, SHERD__FUTEX_SHARED);
        done = sherd__await_satisfied(await, &which);
    }
    sherd__trace_wait(device, stream, await->site, tag, clock.begin, sherd__now_ns());
    return status != SHERD_OK ? status : sherd__device_error(device, NULL);
}
