/* SPDX-License-Identifier: MIT
 *
 * Ranks that are threads of one process, world 1 among them. Peers read each other's memory where it is: main memory,
 * or that of their GPUs. A window's memory goes when its last rank lets go of it, so that a rank may destroy its own
 * while peers still read; a rank whose device hangs never lets go. Control blocks are pinned once for all ranks: a
 * rank's may be read by a peer's kernel after that rank has left.
 */
#include "comm/direct.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>

typedef struct sherd__shared_memory {
    void *base;
    uint64_t bytes;
    const sherd__share_ops *share; /* of device memory; NULL: main memory */
    int32_t number;
    _Atomic int32_t holders;
    struct sherd__shared_memory *next; /* among the abandoned */
} sherd__shared_memory;

typedef struct held_post {
    sherd__post *post;
    void (*destroy)(sherd__post *post);
    struct held_post *next;
} held_post;

/* What the ranks of a world share; the last to leave frees it. */
typedef struct thread_group {
    _Atomic int32_t ranks;
    int32_t world;
    sherd_allocator allocator;
    void *controls;
    uint64_t control_bytes;
    pthread_mutex_t lock; /* of what follows */
    struct held_post *posts;
    int32_t pinned;                  /* ranks that are bound to devices which need the control blocks pinned */
    sherd__shared_memory *abandoned; /* offered when making a window failed: a late peer may still look at it */
} thread_group;

static void memory_free(const sherd_allocator *allocator, sherd_device *device, sherd__shared_memory *memory)
{
    if (memory->share != NULL) {
        memory->share->put(device, memory->number, memory->base);
    } else {
        if (device != NULL) {
            sherd__device_unwatch(device, memory->base, memory->bytes);
        }
        sherd__unmap(memory->base, memory->bytes);
    }
    sherd__free(allocator, memory, 1, sizeof *memory);
}

static void let_go(const sherd_allocator *allocator, sherd_device *device, sherd__shared_memory *memory)
{
    if (memory != NULL && atomic_fetch_sub(&memory->holders, 1) == 1) {
        memory_free(allocator, device, memory);
    }
}

/* Memory of the view's place, zeroed. */
static sherd_status memory_make(sherd_device *device, const sherd__view *view, sherd__shared_memory *memory,
                                sherd_error *err)
{
    sherd_status status;
    memory->bytes = view->mapped;
    if (view->place == SHERD__PLACE_DEVICE) {
        memory->share = device->ops->share;
        memory->number = memory->share->number(device);
        return memory->share->get(device, view->mapped, &memory->base, err);
    }
    status = sherd__map(-1, view->mapped, 1, &memory->base, err);
    if (status != SHERD_OK) {
        return status;
    }
    status = sherd__device_watch(device, memory->base, memory->bytes, err);
    if (status != SHERD_OK) {
        sherd__unmap(memory->base, memory->bytes);
    }
    return status;
}

static sherd_status threads_make(sherd__direct *direct, sherd__view *view, sherd__offer *offer, sherd_error *err)
{
    const thread_group *group = direct->peers_state;
    sherd__shared_memory *memory = sherd__alloc(&group->allocator, 1, sizeof *memory);
    if (memory == NULL) {
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a window of %" PRIu64 " bytes", view->bytes);
    }
    sherd_status status = memory_make(direct->base.device, view, memory, err);
    if (status != SHERD_OK) {
        sherd__free(&group->allocator, memory, 1, sizeof *memory);
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
    sherd__shared_memory *memory = (sherd__shared_memory *)(uintptr_t)offer->address;
    if (view->place == SHERD__PLACE_DEVICE) {
        sherd_status status = memory->share->reach(direct->base.device, memory->number, err);
        if (status != SHERD_OK) {
            return status;
        }
    }
    atomic_fetch_add(&memory->holders, 1);
    view->object[peer] = memory;
    view->base[peer] = memory->base;
    return SHERD_OK;
}

static void threads_settle(sherd__direct *direct, sherd__view *view, sherd__offer *offer, int known)
{
    thread_group *group = direct->peers_state;
    sherd__shared_memory *own = view->object[direct->base.rank];
    (void)offer;
    if (known || own == NULL) {
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
    sherd_device *device = direct->base.device;
    int letting_go = device == NULL || device->ops->share == NULL || device->ops->share->quiet(device);
    for (int32_t peer = 0; letting_go && peer < direct->base.world; peer++) {
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

/* Devices with memory of their own have all control blocks pinned, from the first rank to the last. */
static sherd_status threads_bind(sherd__direct *direct, sherd_device *device, sherd_error *err)
{
    thread_group *group = direct->peers_state;
    sherd_status status = SHERD_OK;
    if (device->ops->share == NULL) {
        return sherd__device_watch(device, direct->control[direct->base.rank], SHERD__CONTROL_SIZE, err);
    }
    pthread_mutex_lock(&group->lock);
    if (group->pinned == 0) {
        status = sherd__device_watch(device, group->controls, group->control_bytes, err);
    }
    group->pinned += status == SHERD_OK;
    pthread_mutex_unlock(&group->lock);
    return status;
}

static void threads_unbind(sherd__direct *direct, sherd_device *device)
{
    thread_group *group = direct->peers_state;
    if (device->ops->share == NULL) {
        sherd__device_unwatch(device, direct->control[direct->base.rank], SHERD__CONTROL_SIZE);
        return;
    }
    if (!device->ops->share->quiet(device)) {
        return;
    }
    pthread_mutex_lock(&group->lock);
    if (--group->pinned == 0) {
        sherd__device_unwatch(device, group->controls, group->control_bytes);
    }
    pthread_mutex_unlock(&group->lock);
}

static int threads_keep(sherd__direct *direct, sherd__post *post, void (*destroy)(sherd__post *post))
{
    thread_group *group = direct->peers_state;
    held_post *held = sherd__alloc(&group->allocator, 1, sizeof *held);
    if (held == NULL) {
        return 0;
    }
    *held = (held_post){.post = post, .destroy = destroy};
    pthread_mutex_lock(&group->lock);
    held->next = group->posts;
    group->posts = held;
    pthread_mutex_unlock(&group->lock);
    return 1;
}

static void group_free(thread_group *group)
{
    sherd_allocator allocator = group->allocator;
    while (group->abandoned != NULL) {
        sherd__shared_memory *memory = group->abandoned;
        group->abandoned = memory->next;
        let_go(&allocator, NULL, memory);
    }
    while (group->posts != NULL) {
        held_post *held = group->posts;
        group->posts = held->next;
        held->destroy(held->post);
        sherd__free(&allocator, held, 1, sizeof *held);
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
                                              .bind = threads_bind,
                                              .unbind = threads_unbind,
                                              .keep = threads_keep,
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
