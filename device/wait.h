/* SPDX-License-Identifier: MIT
 *
 * How threads of the host and of the CUDA device sleep: on words that others change, at most a slice at a time, and
 * then look at the device's first error and at its limit. So neither a lost wake-up nor a dead peer can hang a thread.
 */
#ifndef SHERD_DEVICE_WAIT_H
#define SHERD_DEVICE_WAIT_H

#include "device/op.h"

#define SHERD__WAIT_SLICE_NS (INT64_C(15) * 1000000)

/* A count that only grows, and the word that its waiters sleep on. */
typedef struct sherd__count {
    _Atomic uint64_t at;
    _Atomic uint32_t word; /* changes whenever the count does */
    _Atomic uint32_t sleepers;
} sherd__count;

/* Who waits, and where: for traces and sentences. */
typedef struct sherd__waiter {
    sherd_device *device;
    const char *stream, *site;
    sherd__tag tag;
    sherd_status (*health)(
        sherd_device *device); /* asked at every slice; NULL: nothing to ask. Poisons where it fails */
    int32_t spin;              /* 1: there are cores to spare for a short look before sleeping */
} sherd__waiter;

int64_t sherd__wait_limit(sherd_device *device);
void sherd__count_reach(sherd__count *count, uint64_t number);
/* Until the count is at or past `number`. At the limit the device is poisoned: "… waited … for `what`". */
sherd_status sherd__count_await(const sherd__waiter *waiter, sherd__count *count, uint64_t number, const char *what);
/* Until the await is satisfied. Its poll, or the device's limit where it has none, ends it. */
sherd_status sherd__flags_await(const sherd__waiter *waiter, const sherd__await *await);

#endif
