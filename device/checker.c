/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "device/check.h"

static void init_sync(sherd_checker *checker)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&checker->lock, NULL);
    pthread_cond_init(&checker->changed, &attributes);
    for (int32_t r = 0; r < checker->ranks; r++)
        pthread_cond_init(&checker->rank[r].turn, &attributes);
    pthread_condattr_destroy(&attributes);
}

sherd_status sherd_checker_create(int32_t ranks, uint64_t seed, sherd_checker **out, sherd_error *err)
{
    const sherd_allocator *memory = &sherd__default_allocator;
    if (ranks < 1 || ranks > SHERD__CHECK_COMPONENTS / 3)
        return sherd__fail(err, SHERD_EINVAL, "a checker of %d ranks: from 1 to %d are possible", ranks,
                           SHERD__CHECK_COMPONENTS / 3);
    sherd_checker *checker = sherd__alloc(memory, 1, sizeof *checker);
    if (!checker)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a checker of %d ranks", ranks);
    checker->ranks = ranks;
    checker->rank = sherd__alloc(memory, (size_t)ranks, sizeof *checker->rank);
    checker->own = sherd__alloc(memory, (size_t)ranks, sizeof *checker->own);
    if (!checker->rank || !checker->own) {
        sherd__free(memory, checker->rank, (size_t)ranks, sizeof *checker->rank);
        sherd__free(memory, checker->own, (size_t)ranks, sizeof *checker->own);
        sherd__free(memory, checker, 1, sizeof *checker);
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a checker of %d ranks", ranks);
    }
    for (int32_t r = 0; r < ranks; r++)
        checker->rank[r].expected = 1;
    init_sync(checker);
    checker->current = -1;
    checker->random = seed;
    checker->verdict.rank = -1;
    *out = checker;
    return SHERD_OK;
}

void sherd_checker_destroy(sherd_checker *checker)
{
    const sherd_allocator *memory = &sherd__default_allocator;
    if (!checker)
        return;
    while (checker->flags) {
        sherd__check_flag *flag = checker->flags;
        checker->flags = flag->next;
        sherd__free(memory, flag, 1, sizeof *flag);
    }
    sherd__shadow_fini(&checker->shared);
    for (int32_t r = 0; r < checker->ranks; r++) {
        sherd__shadow_fini(&checker->own[r]);
        pthread_cond_destroy(&checker->rank[r].turn);
    }
    sherd__free(memory, checker->regions, checker->region_capacity, sizeof *checker->regions);
    sherd__free(memory, checker->own, (size_t)checker->ranks, sizeof *checker->own);
    sherd__free(memory, checker->rank, (size_t)checker->ranks, sizeof *checker->rank);
    pthread_cond_destroy(&checker->changed);
    pthread_mutex_destroy(&checker->lock);
    sherd__free(memory, checker, 1, sizeof *checker);
}

sherd_status sherd_checker_verdict(sherd_checker *checker, uint64_t *operations, sherd_error *err)
{
    pthread_mutex_lock(&checker->lock);
    if (operations)
        *operations = checker->operations;
    sherd_status status = checker->verdict.status;
    if (status != SHERD_OK)
        (void)sherd__pass(err, &checker->verdict);
    pthread_mutex_unlock(&checker->lock);
    return status;
}

void sherd__checker_drop(sherd_checker *checker, const char *site)
{
    pthread_mutex_lock(&checker->lock);
    checker->drop = site;
    pthread_mutex_unlock(&checker->lock);
}

uint32_t sherd__checker_sites(sherd_checker *checker, const char **out, uint32_t capacity)
{
    pthread_mutex_lock(&checker->lock);
    uint32_t n = checker->n_sites < capacity ? checker->n_sites : capacity;
    if (n > 0)
        memcpy(out, checker->sites, n * sizeof *out);
    pthread_mutex_unlock(&checker->lock);
    return n;
}

uint64_t sherd__checker_order(sherd_checker *checker)
{
    pthread_mutex_lock(&checker->lock);
    uint64_t order = checker->order;
    pthread_mutex_unlock(&checker->lock);
    return order;
}

uint64_t sherd__checker_late(sherd_checker *checker)
{
    pthread_mutex_lock(&checker->lock);
    uint64_t late = checker->late;
    pthread_mutex_unlock(&checker->lock);
    return late;
}
