/* SPDX-License-Identifier: MIT
 *
 * Host-synchronous exchanges through the control blocks, and windows made with them. After a communicator exists, its
 * ranks need no other bootstrap: each writes what it offers into its own block and waits for the others' numbers, with
 * the same eye on dead and aborting peers as the collectives on streams.
 *
 * A window takes two exchanges: "this is my memory" and "I have attached to everybody's". So either all ranks have it
 * or none. Devices with memory of their own try that first; where one rank cannot lend or reach it, all see why and
 * make the window again in main memory.
 */
#include "base/log.h"
#include "comm/direct.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define POLL_EVERY_NS 1000000

/* A window is rarely made: after a short spin the processor goes to those who are waited for. */
static void rest(int64_t waited_ns)
{
    if (waited_ns < 100000) {
        sched_yield();
        return;
    }
    struct timespec pause = {0, waited_ns < 10000000 ? 100000 : 1000000};
    nanosleep(&pause, NULL);
}

static sherd_status wait_for_peers(sherd__direct *direct, uint32_t number, const char *what, sherd_error *err)
{
    const sherd__tag tag = {.name = what, .bucket = -1};
    int64_t begin = sherd__now_ns(), polled = begin;
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        _Atomic uint32_t *flag = &direct->control[peer]->exchange;
        while ((int32_t)(atomic_load_explicit(flag, memory_order_acquire) - number) < 0) {
            int64_t now = sherd__now_ns();
            if (now - polled >= POLL_EVERY_NS) {
                polled = now;
                sherd_status status =
                    sherd__direct_poll(&direct->wait[SHERD__KIND_WINDOW], (uint32_t)peer, now - begin, &tag, err);
                if (status != SHERD_OK) {
                    return status;
                }
            }
            rest(now - begin);
        }
    }
    return SHERD_OK;
}

sherd_status sherd__direct_exchange(sherd__direct *direct, const char *what, const sherd__offer *mine,
                                    sherd__offer *all, sherd_error *err)
{
    sherd__control *own = direct->control[direct->base.rank];
    uint32_t number = ++direct->exchanges, slot = number & 1;
    own->offer[slot] = *mine;
    atomic_store_explicit(&own->exchange, number, memory_order_release);
    sherd__flag_wake(&own->exchange);
    /* The checking device lets other ranks run while this one waits outside its operations. */
    if (direct->base.device != NULL) {
        sherd__device_outside_begin(direct->base.device);
    }
    sherd_status status = wait_for_peers(direct, number, what, err);
    if (direct->base.device != NULL) {
        sherd__device_outside_end(direct->base.device);
    }
    for (int32_t peer = 0; peer < direct->base.world && status == SHERD_OK; peer++) {
        all[peer] = direct->control[peer]->offer[slot];
    }
    return status;
}

/* ---------------------------------------------------------------------------------------------------------- windows */

static const char window_exchange[] = "creation of a window";

static void view_free(sherd__direct *direct, sherd__view *view)
{
    const sherd_allocator *allocator = &direct->base.allocator;
    size_t n = (size_t)direct->base.world;
    sherd__free(allocator, view->object, n, sizeof *view->object);
    sherd__free(allocator, view->base, n, sizeof *view->base);
    sherd__free(allocator, view, 1, sizeof *view);
}

static sherd__view *view_new(sherd__direct *direct, uint64_t bytes, sherd_category category)
{
    const sherd_allocator *allocator = &direct->base.allocator;
    sherd__view *view = sherd__alloc(allocator, 1, sizeof *view);
    if (view == NULL) {
        return NULL;
    }
    view->base = sherd__alloc(allocator, (size_t)direct->base.world, sizeof *view->base);
    view->object = sherd__alloc(allocator, (size_t)direct->base.world, sizeof *view->object);
    if (view->base == NULL || view->object == NULL) {
        view_free(direct, view);
        return NULL;
    }
    view->bytes = bytes;
    view->category = category;
    return view;
}

static sherd__offer new_offer(const sherd__direct *direct, uint64_t bytes)
{
    const sherd_device *device = direct->base.device;
    const sherd__share_ops *share = device->ops->share;
    return (sherd__offer){.fd = -1,
                          .bytes = bytes,
                          .place = (int16_t)direct->place,
                          .number = (int16_t)(share != NULL ? share->number(device) : -1)};
}

/* A rank that could not, first those whose reason is final: the same one for all who look. */
static int32_t find_refusal(const sherd__direct *direct, const sherd__offer *all)
{
    int32_t found = -1;
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        if (all[peer].status != SHERD_OK && all[peer].status != SHERD_EUNSUPPORTED) {
            return peer;
        }
        if (all[peer].status != SHERD_OK && found < 0) {
            found = peer;
        }
    }
    return found;
}

/* The same verdict on all ranks, for all look at the same offers. EUNSUPPORTED: not in this place. */
static sherd_status judge(const sherd__direct *direct, const sherd__offer *all, sherd_error *err)
{
    int32_t self = direct->base.rank, peer = find_refusal(direct, all);
    if (peer >= 0 && (all[peer].status == SHERD_ERANKDEAD || all[peer].status == SHERD_EABORTED)) {
        /* What broke a third rank is passed on as it stands. */
        return sherd__fail_rank(err, (sherd_status)all[peer].status, all[peer].rank, "%.479s", all[peer].text);
    }
    if (peer >= 0) {
        return sherd__fail_rank(err, (sherd_status)all[peer].status, direct->number[peer],
                                "rank %" PRId32 " could not make a window: %.440s", direct->number[peer],
                                all[peer].text);
    }
    for (peer = 0; peer < direct->base.world; peer++) {
        if (all[peer].place != all[0].place) {
            return sherd__fail_rank(err, SHERD_EUNSUPPORTED, direct->number[peer],
                                    "the devices of rank %" PRId32 " and rank %" PRId32 " have no memory in common",
                                    direct->number[0], direct->number[peer]);
        }
        if (all[peer].bytes != all[self].bytes) {
            return sherd__fail(err, SHERD_EMISMATCH,
                               "rank %" PRId32 " makes a window of %" PRIu64 " bytes where rank %" PRId32
                               " makes one of %" PRIu64,
                               direct->number[peer], all[peer].bytes, direct->number[self], all[self].bytes);
        }
    }
    return SHERD_OK;
}

static void put_error(sherd__offer *offer, sherd_status status, const sherd_error *error)
{
    offer->status = (int32_t)status;
    offer->rank = error->rank;
    memcpy(offer->text, error->text, sizeof offer->text - 1);
    offer->text[sizeof offer->text - 1] = '\0';
}

static sherd_status attach_all(sherd__direct *direct, sherd__view *view, const sherd__offer *all, sherd_error *err)
{
    sherd_status status = SHERD_OK;
    for (int32_t peer = 0; peer < direct->base.world && status == SHERD_OK; peer++) {
        if (peer != direct->base.rank) {
            status = direct->peers->attach(direct, view, peer, &all[peer], err);
        }
    }
    return status;
}

/* Both rounds. `all` has room for the world. */
static sherd_status agree(sherd__direct *direct, sherd__view *view, sherd__offer *all, sherd_error *err)
{
    sherd_error error = {0};
    sherd__offer mine = new_offer(direct, view->bytes), done = mine;
    sherd_status status = direct->peers->make(direct, view, &mine, &error);
    if (status != SHERD_OK) {
        put_error(&mine, status, &error);
    }
    status = sherd__direct_exchange(direct, window_exchange, &mine, all, err);
    int known = status == SHERD_OK;
    if (status == SHERD_OK) {
        status = judge(direct, all, err);
    }
    if (status == SHERD_OK) {
        status = attach_all(direct, view, all, &error);
        if (status != SHERD_OK) {
            put_error(&done, status, &error);
        }
        status = sherd__direct_exchange(direct, window_exchange, &done, all, err);
        known = status == SHERD_OK;
        if (known) {
            status = judge(direct, all, err);
        }
    }
    direct->peers->settle(direct, view, &mine, known);
    return status;
}

/* Fails on all ranks alike also if only this one cannot book or has no memory for its tables: it must take part in
 * round one. */
static sherd_status refuse_window(sherd__direct *direct, uint64_t bytes, sherd__offer *all, sherd_status status,
                                  sherd_error *error, sherd_error *err)
{
    sherd__offer mine = new_offer(direct, bytes);
    put_error(&mine, status, error);
    sherd_error other;
    if (all == NULL || sherd__direct_exchange(direct, window_exchange, &mine, all, &other) != SHERD_OK) {
        sherd__direct_abort(&direct->base, error);
    }
    return sherd__pass(err, error);
}

/* In direct->place. */
static sherd_status try_window(sherd__direct *direct, sherd__view *view, sherd__offer *all, sherd_error *err)
{
    sherd_device *device = direct->base.device;
    sherd_error error = {0};
    sherd_status status = SHERD_OK;
    view->place = direct->place;
    view->number = ++direct->windows;
    view->mapped = view->place == SHERD__PLACE_DEVICE
                       ? device->ops->share->whole(view->bytes, direct->peers->keep == NULL)
                       : sherd__map_bytes(view->bytes);
    if (view->mapped == 0) {
        status = sherd__fail(&error, SHERD_ENOMEM, "no memory for a window of %" PRIu64 " bytes", view->bytes);
    } else {
        status = sherd__ledger_add(&device->ledger, SHERD_TIER_DEVICE, view->category, view->bytes,
                                   view->mapped - view->bytes, &error);
    }
    if (status != SHERD_OK) {
        return refuse_window(direct, view->bytes, all, status, &error, err);
    }
    status = agree(direct, view, all, err);
    if (status != SHERD_OK) {
        direct->peers->release(direct, view);
        sherd__ledger_sub(&device->ledger, SHERD_TIER_DEVICE, view->category, view->bytes, view->mapped - view->bytes);
    }
    return status;
}

static void describe_windows(sherd__direct *direct)
{
    static const char *const where[] = {"", "; windows in GPU memory", "; windows in pinned main memory"};
    const sherd_device *device = direct->base.device;
    int which = device->ops->share == NULL ? 0 : direct->place == SHERD__PLACE_DEVICE ? 1 : 2;
    if (direct->title[0] == '\0') {
        snprintf(direct->title, sizeof direct->title, "%.95s", direct->base.description);
    }
    snprintf(direct->base.description, sizeof direct->base.description, "%s%s", direct->title, where[which]);
}

/* 1: all ranks try again, in main memory. They decide alike: each failed attempt has the same verdict everywhere. */
static int fall_back(sherd__direct *direct, const sherd__offer *all, const sherd_error *why)
{
    int possible = 0;
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        possible = possible || all[peer].place == SHERD__PLACE_DEVICE;
    }
    if (!possible) {
        return 0;
    }
    if (direct->place == SHERD__PLACE_DEVICE) {
        sherd__log(&direct->base.log, SHERD_LOG_WARNING,
                   "rank %" PRId32 ": windows are in pinned main memory, not in the GPUs': %s",
                   direct->number[direct->base.rank], why->text);
    }
    direct->place = SHERD__PLACE_MAIN;
    return 1;
}

static int all_post(const sherd__direct *direct, const sherd__offer *all)
{
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        if (all[peer].number < 0) {
            return 0;
        }
    }
    return direct->peers->keep != NULL;
}

sherd_status sherd__direct_window_create(sherd_comm *comm, uint64_t bytes, sherd_category category, sherd__window *out,
                                         sherd_error *err)
{
    sherd__direct *direct = (sherd__direct *)comm;
    sherd_error error = {0};
    if (comm->device == NULL) {
        return sherd__fail(err, SHERD_ESTATE, "a window needs the communicator bound to a device");
    }
    size_t n = (size_t)comm->world;
    sherd__offer *all = sherd__alloc(&comm->allocator, n, sizeof *all);
    sherd__view *view = all != NULL ? view_new(direct, bytes, category) : NULL;
    sherd_status status;
    if (view == NULL) {
        status = sherd__fail(&error, SHERD_ENOMEM, "no memory for a window of %" PRIu64 " bytes", bytes);
        status = refuse_window(direct, bytes, all, status, &error, err);
        goto free_all;
    }
    do {
        status = try_window(direct, view, all, &error);
    } while (status == SHERD_EUNSUPPORTED && fall_back(direct, all, &error));
    if (status != SHERD_OK) {
        status = sherd__pass(err, &error);
        goto free_view;
    }
    if (all_post(direct, all)) {
        sherd__direct_post(direct);
    }
    describe_windows(direct);
    sherd__free(&comm->allocator, all, n, sizeof *all);
    *out = (sherd__window){.local = view->base[comm->rank], .bytes = bytes, .handle = view};
    return SHERD_OK;

free_view:
    view_free(direct, view);
free_all:
    sherd__free(&comm->allocator, all, n, sizeof *all);
    return status;
}

void sherd__direct_window_destroy(sherd_comm *comm, sherd__window *window)
{
    sherd__direct *direct = (sherd__direct *)comm;
    sherd__view *view = window->handle;
    if (view == NULL) {
        return;
    }
    direct->peers->release(direct, view);
    if (comm->device != NULL) {
        sherd__ledger_sub(&comm->device->ledger, SHERD_TIER_DEVICE, view->category, view->bytes,
                          view->mapped - view->bytes);
    }
    view_free(direct, view);
    memset(window, 0, sizeof *window);
}

/* ------------------------------------------------------------------------------------------------------------ posts */

/* A rank without posts says so, and its flags are set when its work is done: nobody else need care. */
void sherd__direct_post(sherd__direct *direct)
{
    sherd_device *device = direct->base.device;
    const sherd__share_ops *share = device->ops->share;
    if (direct->post[0] != NULL) {
        return;
    }
    for (int i = 0; i < 2; i++) {
        if (direct->kept[i] != NULL && direct->posts_of == share->number(device)) {
            continue;
        }
        sherd__post *made = NULL;
        if (share->post_create(device, &made, NULL) != SHERD_OK) {
            return;
        }
        if (!direct->peers->keep(direct, made, share->post_destroy)) {
            share->post_destroy(made);
            return;
        }
        direct->kept[i] = made;
    }
    direct->posts_of = share->number(device);
    device->guard_ctx = direct;
    atomic_store(&device->guard, sherd__direct_guard);
    for (int i = 0; i < 2; i++) {
        direct->post[i] = direct->kept[i];
        atomic_store(&direct->control[direct->base.rank]->post[i], (uint64_t)(uintptr_t)direct->post[i]);
    }
}

/* Peers that ask later find the flag alone: it must mean that the work is done. */
void sherd__direct_unpost(sherd__direct *direct)
{
    sherd_device *device = direct->base.device;
    if (direct->post[0] == NULL) {
        return;
    }
    if (device->ops->share->quiet(device)) {
        atomic_store(&direct->control[direct->base.rank]->post[0], 0);
        atomic_store(&direct->control[direct->base.rank]->post[1], 0);
    }
    direct->post[0] = direct->post[1] = NULL;
    atomic_store(&device->guard, NULL);
}
