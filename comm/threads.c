/* SPDX-License-Identifier: MIT
 *
 * Ranks that are threads of one process, world 1 among them. Peers read each other's memory where it is. A window's
 * memory goes when its last rank lets go of it, so that a rank may destroy its own while peers still read.
 */
#include "comm/direct.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>

typedef struct sherd__shared_memory {
    void *base;
    uint64_t bytes;
    _Atomic int32_t holders;
    struct sherd__shared_memory *next; /* among the abandoned */
} sherd__shared_memory;

/* What the ranks of a world share; the last to leave frees it. */
typedef struct thread_group {
    _Atomic int32_t ranks;
    int32_t world;
    sherd_allocator allocator;
    void *controls;
    uint64_t control_bytes;
    pthread_mutex_t lock;            /* of `abandoned` */
    sherd__shared_memory *abandoned; /* offered when making a window failed: a late peer may still look at it */
} thread_group;

static void memory_free(const sherd_allocator *allocator, sherd__shared_memory *memory)
{
    sherd__unmap(memory->base, memory->bytes);
    sherd__free(allocator, memory, 1, sizeof *memory);
}

static void let_go(const sherd_allocator *allocator, sherd_device *device, sherd__shared_memory *memory)
{
    if (memory == NULL || atomic_fetch_sub(&memory->holders, 1) != 1) {
        return;
    }
    if (device != NULL) {
        sherd__device_unwatch(device, memory->base, memory->bytes);
    }
    memory_free(allocator, memory);
}

static sherd_status threads_make(sherd__direct *direct, sherd__view *view, sherd__offer *offer, sherd_error *err)
{
    const thread_group *group = direct->peers_state;
    sherd__shared_memory *memory = sherd__alloc(&group->allocator, 1, sizeof *memory);
    if (memory == NULL) {
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a window of %" PRIu64 " bytes", view->bytes);
    }
    sherd_status status = sherd__map(-1, view->mapped, 1, &memory->base, err);
    if (status != SHERD_OK) {
        sherd__free(&group->allocator, memory, 1, sizeof *memory);
        return status;
    }
    memory->bytes = view->mapped;
    status = sherd__device_watch(direct->base.device, memory->base, memory->bytes, err);
    if (status != SHERD_OK) {
        memory_free(&group->allocator, memory);
        return status;
    }
    atomic_store(&memory->holders, 1);
    view->object[direct->base.rank] = memory;
    view->base[direct->base.rank] = memory->base;
    offer->address = (uint64_t)(uintptr_t)memory;
    return SHERD_OK;
}

static sherd_status threads_attach(sherd__direct *direct, sherd__view *view, int32_t peer, const sherd__offer *offer,
                                   sherd_error *err)
{
    (void)direct, (void)err;
    sherd__shared_memory *memory = (sherd__shared_memory *)(uintptr_t)offer->address;
    atomic_fetch_add(&memory->holders, 1);
    view->object[peer] = memory;
    view->base[peer] = memory->base;
    return SHERD_OK;
}

static void threads_settle(sherd__direct *direct, sherd__view *view, sherd__offer *offer, int agreed)
{
    thread_group *group = direct->peers_state;
    sherd__shared_memory *own = view->object[direct->base.rank];
    (void)offer;
    if (agreed || own == NULL) {
        return;
    }
    pthread_mutex_lock(&group->lock);
    own->next = group->abandoned;
    group->abandoned = own;
    pthread_mutex_unlock(&group->lock);
    atomic_fetch_add(&own->holders, 1);
}

static void threads_release(sherd__direct *direct, sherd__view *view)
{
    const thread_group *group = direct->peers_state;
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        let_go(&group->allocator, direct->base.device, view->object[peer]);
        view->object[peer] = NULL;
    }
}

/* A thread does not die alone. */
static int threads_dead(sherd__direct *direct, int32_t peer)
{
    (void)direct, (void)peer;
    return 0;
}

static void group_free(thread_group *group)
{
    sherd_allocator allocator = group->allocator;
    while (group->abandoned != NULL) {
        sherd__shared_memory *memory = group->abandoned;
        group->abandoned = memory->next;
        let_go(&allocator, NULL, memory);
    }
    sherd__unmap(group->controls, group->control_bytes);
    pthread_mutex_destroy(&group->lock);
    sherd__free(&allocator, group, 1, sizeof *group);
}

static void threads_fini(sherd__direct *direct)
{
    thread_group *group = direct->peers_state;
    if (atomic_fetch_sub(&group->ranks, 1) == 1) {
        group_free(group);
    }
}

static const sherd__peers_ops thread_peers = {.make = threads_make,
                                              .attach = threads_attach,
                                              .settle = threads_settle,
                                              .release = threads_release,
                                              .dead = threads_dead,
                                              .fini = threads_fini};

static sherd_status group_new(const sherd_allocator *allocator, int32_t world, thread_group **out, sherd_error *err)
{
    thread_group *group = sherd__alloc(allocator, 1, sizeof *group);
    if (group == NULL) {
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a communicator of %" PRId32 " threads", world);
    }
    group->world = world;
    group->allocator = *allocator;
    group->control_bytes = sherd__map_bytes((uint64_t)world * sizeof(sherd__control));
    sherd_status status = sherd__map(-1, group->control_bytes, 1, &group->controls, err);
    if (status != SHERD_OK) {
        sherd__free(allocator, group, 1, sizeof *group);
        return status;
    }
    pthread_mutex_init(&group->lock, NULL);
    sherd__control *controls = group->controls;
    for (int32_t rank = 0; rank < world; rank++) {
        sherd__control_init(&controls[rank], rank, world);
    }
    *out = group;
    return SHERD_OK;
}

sherd_status sherd_comm_create_threads(const sherd_comm_options *options, int32_t world, sherd_comm **out,
                                       sherd_error *err)
{
    sherd_comm_options settled;
    thread_group *group = NULL;
    if (world < 1 || world > 65536) {
        return sherd__fail(err, SHERD_EINVAL, "a world of %" PRId32 " threads: 1 to 65536 are possible", world);
    }
    sherd_status status = sherd__direct_options(options, &settled, err);
    if (status == SHERD_OK) {
        status = group_new(&settled.allocator, world, &group, err);
    }
    if (status != SHERD_OK) {
        return status;
    }
    int32_t made = 0;
    for (; made < world && status == SHERD_OK; made++) {
        sherd__direct *direct;
        status = sherd__direct_new(&settled, made, world, &direct, err);
        if (status != SHERD_OK) {
            break;
        }
        for (int32_t peer = 0; peer < world; peer++) {
            direct->control[peer] = (sherd__control *)group->controls + peer;
        }
        direct->peers = &thread_peers;
        direct->peers_state = group;
        sherd__direct_connect(direct);
        snprintf(direct->base.description, sizeof direct->base.description,
                 world == 1 ? "direct, alone" : "direct in one process, %" PRId32 " threads", world);
        out[made] = &direct->base;
    }
    if (status == SHERD_OK) {
        atomic_store(&group->ranks, world);
        return SHERD_OK;
    }
    while (made > 0) {
        sherd__direct_free((sherd__direct *)out[--made]);
        out[made] = NULL;
    }
    group_free(group);
    return status;
}

sherd_status sherd_comm_create_self(const sherd_comm_options *options, sherd_comm **out, sherd_error *err)
{
    return sherd_comm_create_threads(options, 1, out, err);
}
