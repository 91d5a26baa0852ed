/* SPDX-License-Identifier: MIT
 *
 * One core more or less is often all there is, so a waiter sleeps at once; only where cores are plenty does it look a
 * few times first, for about two microseconds, less than a sleep and a wake-up cost.
 */
#include "device/wait.h"

#include "device/trace.h"
#include "host/futex.h"

#define SPIN_NS 2000

int64_t sherd__wait_limit(sherd_device *device)
{
    return atomic_load_explicit(&device->wait_limit_ns, memory_order_relaxed);
}

void sherd__count_reach(sherd__count *count, uint64_t number)
{
    atomic_store_explicit(&count->at, number, memory_order_release);
    atomic_fetch_add(&count->word, 1);
    if (atomic_load(&count->sleepers) > 0)
        sherd__futex_wake_all(&count->word, SHERD__FUTEX_PROCESS);
}

static int reached(sherd__count *count, uint64_t number)
{
    return atomic_load_explicit(&count->at, memory_order_acquire) >= number;
}

static int spin_for_count(const sherd__waiter *waiter, sherd__count *count, uint64_t number, int64_t begin)
{
    while (waiter->spin && sherd__now_ns() - begin < SPIN_NS)
        if (reached(count, number))
            return 1;
    return 0;
}

/* The device's first error, or what its health says. */
static sherd_status look_around(const sherd__waiter *waiter)
{
    sherd_status status = sherd__device_error(waiter->device, NULL);
    return status == SHERD_OK && waiter->health ? waiter->health(waiter->device) : status;
}

static sherd_status count_timeout(const sherd__waiter *waiter, const char *what, int64_t waited_ns)
{
    sherd_error error;
    sherd__fail(&error, SHERD_ETIMEOUT,
                "stream '%s' waited %.1f s at '%s' for %s; its own sentence comes first where there is one",
                waiter->stream, (double)waited_ns * 1e-9, waiter->site ? waiter->site : "", what);
    return sherd__device_poison(waiter->device, &error);
}

static void sleep_on_count(sherd__count *count, uint32_t seen, int64_t ns)
{
    atomic_fetch_add(&count->sleepers, 1);
    sherd__futex_wait(&count->word, seen, ns < SHERD__WAIT_SLICE_NS ? ns : SHERD__WAIT_SLICE_NS, SHERD__FUTEX_PROCESS);
    atomic_fetch_sub(&count->sleepers, 1);
}

sherd_status sherd__count_await(const sherd__waiter *waiter, sherd__count *count, uint64_t number, const char *what)
{
    sherd_device *device = waiter->device;
    if (reached(count, number))
        return sherd__device_error(device, NULL);
    int64_t begin = sherd__now_ns();
    sherd_status status = SHERD_OK;
    int done = spin_for_count(waiter, count, number, begin);
    while (!done && status == SHERD_OK) {
        uint32_t seen = atomic_load(&count->word);
        if (reached(count, number))
            break;
        int64_t waited = sherd__now_ns() - begin, left = sherd__wait_limit(device) - waited;
        status = look_around(waiter);
        if (status == SHERD_OK && left <= 0)
            status = count_timeout(waiter, what, waited);
        if (status == SHERD_OK)
            sleep_on_count(count, seen, left);
    }
    sherd__trace_wait(device, waiter->stream, waiter->site, waiter->tag, begin, sherd__now_ns());
    return status != SHERD_OK ? status : sherd__device_error(device, NULL);
}

static int spin_for_flags(const sherd__waiter *waiter, const sherd__await *await, uint32_t *which, int64_t begin)
{
    while (waiter->spin && sherd__now_ns() - begin < SPIN_NS)
        if (sherd__await_satisfied(await, which))
            return 1;
    return 0;
}

static sherd_status flags_timeout(const sherd__waiter *waiter, const sherd__await *await, uint32_t which,
                                  int64_t waited_ns)
{
    const sherd__tag *tag = &waiter->tag;
    sherd_error error;
    sherd__fail(&error, SHERD_ETIMEOUT,
                "stream '%s' waited %.1f s at '%s' (%s of bucket %d, step %lld) for word %u of %u, which another rank "
                "sets: that rank is stuck or gone",
                waiter->stream, (double)waited_ns * 1e-9, waiter->site ? waiter->site : "", tag->name ? tag->name : "",
                tag->bucket, (long long)tag->step, which, await->count);
    return sherd__device_poison(waiter->device, &error);
}

/* Asks the caller's poll, or the device's limit where there is none. */
static sherd_status poll_flags(const sherd__waiter *waiter, const sherd__await *await, uint32_t which,
                               int64_t waited_ns)
{
    if (!await->poll)
        return waited_ns < sherd__wait_limit(waiter->device) ? SHERD_OK
                                                             : flags_timeout(waiter, await, which, waited_ns);
    sherd_error error = {.status = SHERD_OK, .rank = -1};
    sherd_status status = await->poll(await->ctx, which, waited_ns, &waiter->tag, &error);
    if (status == SHERD_OK)
        return SHERD_OK;
    error.status = status;
    return sherd__device_poison(waiter->device, &error);
}

static void sleep_on_flag(const sherd__await *await, uint32_t which)
{
    uint32_t seen = atomic_load(await->flags[which]);
    if ((int32_t)(seen - await->value) < 0)
        sherd__futex_wait(await->flags[which], seen, SHERD__WAIT_SLICE_NS, SHERD__FUTEX_SHARED);
}

sherd_status sherd__flags_await(const sherd__waiter *waiter, const sherd__await *await)
{
    sherd_device *device = waiter->device;
    uint32_t which = 0;
    if (sherd__await_satisfied(await, &which))
        return sherd__device_error(device, NULL);
    int64_t begin = sherd__now_ns(), polled = begin;
    sherd_status status = SHERD_OK;
    int done = spin_for_flags(waiter, await, &which, begin);
    while (!done && status == SHERD_OK) {
        int64_t now = sherd__now_ns();
        status = sherd__device_error(device, NULL);
        if (status == SHERD_OK && now - polled >= SHERD__WAIT_SLICE_NS) {
            status = look_around(waiter);
            if (status == SHERD_OK)
                status = poll_flags(waiter, await, which, now - begin);
            polled = now;
        }
        if (status != SHERD_OK)
            break;
        sleep_on_flag(await, which);
        done = sherd__await_satisfied(await, &which);
    }
    sherd__trace_wait(device, waiter->stream, waiter->site, waiter->tag, begin, sherd__now_ns());
    return status != SHERD_OK ? status : sherd__device_error(device, NULL);
}
