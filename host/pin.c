/* SPDX-License-Identifier: MIT
 *
 * Affinity masks with room for more processors than cpu_set_t's 1024; the kernel refuses to read its mask into a
 * shorter one.
 */
#include "host/pin.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

typedef struct pin_mask {
    unsigned long words[SHERD__PIN_CPUS / (8 * sizeof(unsigned long))];
} pin_mask;

static cpu_set_t *as_set(pin_mask *mask)
{
    return (cpu_set_t *)(void *)mask->words;
}

static int is_set(const pin_mask *mask, int32_t cpu)
{
    int32_t bits = (int32_t)(8 * sizeof mask->words[0]);
    return (int)(mask->words[cpu / bits] >> (cpu % bits) & 1u);
}

int sherd__pin_thread(pthread_t thread, int32_t cpu)
{
    pin_mask mask;
    int32_t bits = (int32_t)(8 * sizeof mask.words[0]);
    memset(&mask, 0, sizeof mask);
    if (cpu < 0 || cpu >= SHERD__PIN_CPUS)
        return EINVAL;
    mask.words[cpu / bits] |= 1ul << (cpu % bits);
    return pthread_setaffinity_np(thread, sizeof mask, as_set(&mask));
}

int sherd__pin_allows(int32_t cpu)
{
    pin_mask mask;
    memset(&mask, 0, sizeof mask);
    return cpu >= 0 && cpu < SHERD__PIN_CPUS && sched_getaffinity(0, sizeof mask, as_set(&mask)) == 0 &&
           is_set(&mask, cpu);
}

int32_t sherd__pin_each(void (*fn)(void *arg, int32_t cpu), void *arg)
{
    pin_mask mask;
    int32_t count = 0;
    memset(&mask, 0, sizeof mask);
    if (sched_getaffinity(0, sizeof mask, as_set(&mask)) != 0)
        return -1;
    for (int32_t cpu = 0; cpu < SHERD__PIN_CPUS; cpu++) {
        if (!is_set(&mask, cpu))
            continue;
        count++;
        if (fn)
            fn(arg, cpu);
    }
    return count;
}
