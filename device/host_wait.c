/* SPDX-License-Identifier: MIT
 *
 * Waiting on the host: for events (words of this process) and for flags (words that other ranks write, perhaps in other
 * processes).
 */
#include "device/host.h"

void sherd__host_event_reach(sherd__host_event *event, uint64_t number)
{
    atomic_store_explicit(&event->time_ns, sherd__now_ns(), memory_order_relaxed);
    sherd__count_reach(&event->reached, number);
}

sherd_status sherd__host_event_await(sherd__host_event *event, uint64_t number, const char *stream, const char *site)
{
    sherd__waiter waiter = {.device = event->device, .stream = stream, .site = site, .tag = {.bucket = -1}};
    waiter.spin = ((sherd__host_device *)event->device)->spin;
    return sherd__count_await(&waiter, &event->reached, number,
                              "an event that was not reached: another stream of this rank is stuck");
}

sherd_status sherd__host_flags_await(sherd__host_device *host, const char *stream, sherd__tag tag,
                                     const sherd__await *await)
{
    sherd__waiter waiter = {.device = &host->base, .stream = stream, .site = await->site, .tag = tag};
    waiter.spin = host->spin;
    return sherd__flags_await(&waiter, await);
}
