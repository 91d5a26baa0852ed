/* SPDX-License-Identifier: MIT
 *
 * Host calls that tell what a stream did: in which order, before or behind a gate, at all.
 */
#ifndef SHERD_TESTS_DEVICE_CALLS_H
#define SHERD_TESTS_DEVICE_CALLS_H

#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

typedef struct sequence {
    int32_t next, wrong;
} sequence;

typedef struct numbered {
    sequence *sequence;
    int32_t number;
} numbered;

static inline void expect_number(void *arg)
{
    const numbered *self = arg;
    if (self->sequence->next++ != self->number)
        self->sequence->wrong++;
    if (self->number % 64 == 0)
        usleep(1000); /* now and then the queue fills up behind it */
}

/* A gate that the test opens; who waits too long gives up. */
typedef struct gate {
    _Atomic int32_t open, passed, gave_up;
} gate;

static inline void pass_gate(void *arg)
{
    gate *self = arg;
    for (int i = 0; i < 20000 && !atomic_load(&self->open); i++)
        usleep(500);
    if (!atomic_load(&self->open))
        atomic_store(&self->gave_up, 1);
    atomic_store(&self->passed, 1);
}

static inline void set_flag(void *arg)
{
    atomic_store((_Atomic int32_t *)arg, 1);
}

#endif
