/* SPDX-License-Identifier: MIT
 *
 * What tests tell the stub.
 */
#include "tests/support/nccl_stub/state.h"

#include <string.h>

static nccl_state *const st = &nccl_stub_state;

EXPORT void nccl_stub_attach(const nccl_stub_cuda *table)
{
    st->cuda = *table;
}

EXPORT void nccl_stub_reset(void)
{
    pthread_mutex_lock(&st->lock);
    memset(st->functions, 0, sizeof st->functions);
    memset(st->faults, 0, sizeof st->faults);
    st->version_code = 22809;
    st->init_polls = st->launch_polls = st->stuck = 0;
    st->has_symmetric = 1;
    st->misuses = 0;
    pthread_cond_broadcast(&st->changed);
    pthread_mutex_unlock(&st->lock);
}

EXPORT void nccl_stub_version(int code)
{
    st->version_code = code;
}

EXPORT void nccl_stub_hang(int rank, uint64_t nth)
{
    pthread_mutex_lock(&st->lock);
    st->faults[rank].hang_at = st->faults[rank].operations + nth;
    pthread_mutex_unlock(&st->lock);
}

EXPORT void nccl_stub_error(int rank, uint64_t nth, int code)
{
    pthread_mutex_lock(&st->lock);
    st->faults[rank].error_at = st->faults[rank].operations + nth;
    st->faults[rank].code = code;
    pthread_mutex_unlock(&st->lock);
}

EXPORT void nccl_stub_refuse(const char *function, uint64_t nth, int code)
{
    pthread_mutex_lock(&st->lock);
    int at = nccl_stub_function(function);
    st->functions[at].refuse_at = nth;
    st->functions[at].code = code;
    pthread_mutex_unlock(&st->lock);
}

EXPORT void nccl_stub_slow_init(int polls)
{
    pthread_mutex_lock(&st->lock);
    st->init_polls = polls;
    pthread_mutex_unlock(&st->lock);
}

EXPORT void nccl_stub_slow_launch(int polls)
{
    pthread_mutex_lock(&st->lock);
    st->launch_polls = polls;
    pthread_mutex_unlock(&st->lock);
}

EXPORT void nccl_stub_symmetric(int on)
{
    st->has_symmetric = on;
}

EXPORT void nccl_stub_stuck_abort(int on)
{
    pthread_mutex_lock(&st->lock);
    st->stuck = on;
    pthread_cond_broadcast(&st->changed);
    pthread_mutex_unlock(&st->lock);
}

EXPORT uint64_t nccl_stub_calls(const char *function)
{
    pthread_mutex_lock(&st->lock);
    uint64_t calls = st->functions[nccl_stub_function(function)].calls;
    pthread_mutex_unlock(&st->lock);
    return calls;
}

EXPORT uint64_t nccl_stub_operations(int rank)
{
    pthread_mutex_lock(&st->lock);
    uint64_t operations = st->faults[rank].operations;
    pthread_mutex_unlock(&st->lock);
    return operations;
}

EXPORT uint64_t nccl_stub_misuses(void)
{
    pthread_mutex_lock(&st->lock);
    uint64_t n = st->misuses;
    pthread_mutex_unlock(&st->lock);
    return n;
}

EXPORT uint64_t nccl_stub_alive(void)
{
    pthread_mutex_lock(&st->lock);
    uint64_t n = st->alive;
    pthread_mutex_unlock(&st->lock);
    return n;
}
