/* SPDX-License-Identifier: MIT
 *
 * Collectives over addressable peers: one algorithm, said only in device operations, so that it runs wherever a device
 * can read its peers' memory. Collective n of a rank, in stream order:
 *
 *     what = kind, bucket, sizes          so that peers can tell a mismatch
 *     arrive = n                          my input is written
 *     wait until every peer's arrive ≥ n  their input is written, and nobody still reads what the two slots held before
 *     compare what                        a mismatch poisons the device before any data moves
 *     read every peer's part once         tree sum, copies, or sums of the vote
 *     depart = n                          I have read your input; `released` waits for this
 *
 * The first four are one operation (sherd__meet). Where ranks are threads on devices with posts, a flag is set when the
 * work is given to the device: then all of the above holds of what devices were given, and each device's streams keep
 * it true of what they do (device.h: sherd__post).
 *
 * World 1 is the same with an empty wait. All collectives of a communicator must be enqueued in one order by one thread
 * at a time; the sequence number is taken when they are enqueued. Flags compare by signed difference, so they may wrap.
 */
#include "comm/direct.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PATIENCE_NS (INT64_C(5) * 1000000000)

static const char *const arrive_site[SHERD__KINDS] = {
    [SHERD__KIND_REDUCE_SCATTER] = "reduce-scatter: peers' gradients",
    [SHERD__KIND_ALL_GATHER] = "all-gather: peers' slices",
    [SHERD__KIND_ALL_REDUCE] = "all-reduce: peers' values",
    [SHERD__KIND_BROADCAST] = "broadcast: root's bytes",
    [SHERD__KIND_BARRIER] = "barrier: peers' arrival",
};

const char *sherd__kind_text(sherd__kind kind)
{
    static const char *const text[SHERD__KINDS] = {"nothing",   "reduce-scatter", "all-gather", "all-reduce",
                                                   "broadcast", "barrier",        "release",    "creation of a window"};
    return (unsigned)kind < SHERD__KINDS ? text[kind] : text[0];
}

static sherd_status refuse(sherd_comm *comm, const sherd_error *error)
{
    return comm->device != NULL ? sherd__device_poison(comm->device, error) : error->status;
}

/* --------------------------------------------------------------------------------------------------------- mismatch */

uint32_t sherd__direct_digest(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t h = a * 0x9E3779B97F4A7C15u;
    h = (h ^ (h >> 29) ^ b) * 0xBF58476D1CE4E5B9u;
    h = (h ^ (h >> 32) ^ c) * 0x94D049BB133111EBu;
    return (uint32_t)(h >> 32);
}

void sherd__direct_describe_call(uint32_t word, char *text, size_t bytes)
{
    const char *kind = sherd__kind_text((sherd__kind)(word >> 28));
    uint32_t bucket = word & 0x0FFFFFFFu;
    if (bucket == 0) {
        snprintf(text, bytes, "%s", kind);
    } else {
        snprintf(text, bytes, "%s of bucket %" PRIu32, kind, bucket - 1);
    }
}

/* After the wait: every peer's words of this slot are those of this collective. */
static void compare_calls(void *arg, const uint32_t says[2])
{
    const sherd__compare *compare = arg;
    sherd__direct *direct = compare->comm;
    sherd_comm *comm = &direct->base;
    uint32_t call = says[0], sizes = says[1];
    for (int32_t peer = 0; peer < comm->world; peer++) {
        if (peer == comm->rank) {
            continue;
        }
        _Atomic uint32_t *theirs = direct->control[peer]->what[compare->slot];
        uint32_t peer_call = atomic_load_explicit(&theirs[0], memory_order_relaxed);
        if (peer_call == call && atomic_load_explicit(&theirs[1], memory_order_relaxed) == sizes) {
            continue;
        }
        char here[64], there[64];
        sherd_error error;
        sherd__direct_describe_call(call, here, sizeof here);
        sherd__direct_describe_call(peer_call, there, sizeof there);
        if (peer_call != call) {
            sherd__fail(&error, SHERD_EMISMATCH, "rank %" PRId32 " called %s where rank %" PRId32 " called %s",
                        direct->number[peer], there, direct->number[comm->rank], here);
        } else {
            sherd__fail(&error, SHERD_EMISMATCH,
                        "rank %" PRId32 " called %s with another size, place or root than rank %" PRId32,
                        direct->number[peer], there, direct->number[comm->rank]);
        }
        refuse(comm, &error);
        return;
    }
}

/* ------------------------------------------------------------------------------------------------------ both ends */

uint32_t sherd__direct_call_word(sherd__kind kind, sherd__tag tag)
{
    return (uint32_t)kind << 28 | ((uint32_t)(tag.bucket + 1) & 0x0FFFFFFFu);
}

sherd_status sherd__direct_enter(sherd__direct *direct, sherd__stream *stream, sherd__tag tag, sherd__kind kind,
                                 uint32_t sizes)
{
    sherd_comm *comm = &direct->base;
    sherd__control *own = direct->control[comm->rank];
    uint32_t call = sherd__direct_call_word(kind, tag);
    sherd__meet meet = {.word = {&own->what[direct->slot][0], &own->what[direct->slot][1]},
                        .says = {call, sizes},
                        .flag = &own->arrive,
                        .value = direct->sequence,
                        .post = direct->post[0],
                        .await = {.flags = (_Atomic uint32_t *const *)direct->arrive,
                                  .count = (uint32_t)comm->world,
                                  .value = direct->sequence,
                                  .site = arrive_site[kind],
                                  .poll = sherd__direct_poll,
                                  .ctx = &direct->wait[kind],
                                  .posts = (_Atomic uint64_t *const *)direct->post_at[0]},
                        .look = compare_calls,
                        .arg = &direct->compare[direct->slot]};
    return comm->device->ops->meet(stream, tag, &meet);
}

sherd_status sherd__direct_leave(sherd__direct *direct, sherd__stream *stream, sherd__tag tag, sherd__ticket *ticket)
{
    sherd_comm *comm = &direct->base;
    sherd_status status = comm->device->ops->announce(stream, tag, &direct->control[comm->rank]->depart,
                                                      direct->sequence, direct->post[1]);
    if (status == SHERD_OK && ticket != NULL) {
        *ticket = direct->sequence;
    }
    return status;
}

void sherd__direct_take_number(sherd__direct *direct)
{
    direct->sequence += direct->sequence == UINT32_MAX ? 2 : 1;
    direct->slot ^= 1;
}

/* Checks what was asked and takes the next number. */
static sherd_status begin(sherd_comm *comm, const sherd__window *window, uint64_t offset, uint64_t bytes,
                          sherd__kind kind)
{
    sherd_error error;
    if (comm->device == NULL) {
        return SHERD_ESTATE;
    }
    if (window != NULL && (window->handle == NULL || offset > window->bytes || bytes > window->bytes - offset)) {
        sherd__fail(&error, SHERD_EINVAL, "%s: bytes %" PRIu64 " to %" PRIu64 " of a window of %" PRIu64,
                    sherd__kind_text(kind), offset, offset + bytes, window->bytes);
        return refuse(comm, &error);
    }
    sherd__direct_take_number((sherd__direct *)comm);
    return SHERD_OK;
}

/* ----------------------------------------------------------------------------------------------------- collectives */

static sherd_status reduce_scatter(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, const sherd__window *window,
                                   uint64_t offset, const sherd__tree_sum *sum, sherd__ticket *ticket)
{
    sherd__direct *direct = (sherd__direct *)comm;
    uint64_t slice_bytes = (uint64_t)sum->elems * sherd_dtype_bytes(sum->src_dtype);
    sherd_status status = begin(comm, window, offset, slice_bytes * (uint64_t)comm->world, SHERD__KIND_REDUCE_SCATTER);
    if (status == SHERD_OK) {
        status = sherd__direct_enter(direct, stream, tag, SHERD__KIND_REDUCE_SCATTER,
                                     sherd__direct_digest(offset, slice_bytes, sum->src_dtype));
    }
    if (status == SHERD_OK && sum->elems > 0) {
        sherd__tree_sum whole = *sum;
        whole.src = (const void *const *)((sherd__view *)window->handle)->base;
        whole.n_src = (uint32_t)comm->world;
        whole.src_offset = offset + (uint64_t)comm->rank * slice_bytes;
        status = comm->device->ops->tree_sum(stream, tag, &whole);
    }
    return status == SHERD_OK ? sherd__direct_leave(direct, stream, tag, ticket) : status;
}

/* One's own slice is in place already. Each rank begins with its right neighbour, so that not all read the same one at
 * once. */
static sherd_status all_gather(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, const sherd__window *window,
                               uint64_t offset, uint64_t slice_bytes, sherd__ticket *ticket)
{
    sherd__direct *direct = (sherd__direct *)comm;
    sherd_status status = begin(comm, window, offset, slice_bytes * (uint64_t)comm->world, SHERD__KIND_ALL_GATHER);
    if (status == SHERD_OK) {
        status = sherd__direct_enter(direct, stream, tag, SHERD__KIND_ALL_GATHER,
                                     sherd__direct_digest(offset, slice_bytes, 0));
    }
    for (int32_t step = 1; step < comm->world && status == SHERD_OK && slice_bytes > 0; step++) {
        int32_t peer = (comm->rank + step) % comm->world;
        uint64_t at = offset + (uint64_t)peer * slice_bytes;
        const sherd__view *view = window->handle;
        status = comm->device->ops->copy(stream, tag, (char *)window->local + at, (const char *)view->base[peer] + at,
                                         slice_bytes);
    }
    return status == SHERD_OK ? sherd__direct_leave(direct, stream, tag, ticket) : status;
}

/* Through the control block's two slots, so that it needs neither a window nor a release. */
static sherd_status all_reduce(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, uint64_t *values,
                               uint32_t n_sum, uint32_t n_min)
{
    sherd__direct *direct = (sherd__direct *)comm;
    sherd_error error;
    if (n_sum > SHERD__VOTE_MAX || n_min > SHERD__VOTE_MAX - n_sum) {
        sherd__fail(&error, SHERD_EINVAL, "all-reduce of %" PRIu32 " sums and %" PRIu32 " minima: at most %d values",
                    n_sum, n_min, SHERD__VOTE_MAX);
        return refuse(comm, &error);
    }
    sherd_status status = begin(comm, NULL, 0, 0, SHERD__KIND_ALL_REDUCE);
    if (status != SHERD_OK) {
        return status;
    }
    const sherd__device_ops *device = comm->device->ops;
    uint64_t *own = direct->control[comm->rank]->vote[direct->slot];
    uint64_t at = (uint64_t)((char *)own - (char *)direct->control[comm->rank]);
    status = device->copy(stream, tag, own, values, ((uint64_t)n_sum + n_min) * 8);
    if (status == SHERD_OK) {
        status =
            sherd__direct_enter(direct, stream, tag, SHERD__KIND_ALL_REDUCE, sherd__direct_digest(n_sum, n_min, 0));
    }
    return status == SHERD_OK
               ? device->reduce_u64(stream, tag, values, direct->votes, (uint32_t)comm->world, at, n_sum, n_min)
               : status;
}

static sherd_status broadcast(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, const sherd__window *window,
                              uint64_t offset, uint64_t bytes, int32_t root, sherd__ticket *ticket)
{
    sherd__direct *direct = (sherd__direct *)comm;
    sherd_error error;
    if (root < 0 || root >= comm->world) {
        sherd__fail(&error, SHERD_EINVAL, "broadcast from rank %" PRId32 " in a world of %" PRId32, root, comm->world);
        return refuse(comm, &error);
    }
    sherd_status status = begin(comm, window, offset, bytes, SHERD__KIND_BROADCAST);
    if (status == SHERD_OK) {
        status = sherd__direct_enter(direct, stream, tag, SHERD__KIND_BROADCAST,
                                     sherd__direct_digest(offset, bytes, (uint64_t)root + 1));
    }
    if (status == SHERD_OK && root != comm->rank && bytes > 0) {
        const sherd__view *view = window->handle;
        status = comm->device->ops->copy(stream, tag, (char *)window->local + offset,
                                         (const char *)view->base[root] + offset, bytes);
    }
    return status == SHERD_OK ? sherd__direct_leave(direct, stream, tag, ticket) : status;
}

static sherd_status barrier(sherd_comm *comm, sherd__stream *stream, sherd__tag tag)
{
    sherd_status status = begin(comm, NULL, 0, 0, SHERD__KIND_BARRIER);
    return status == SHERD_OK ? sherd__direct_enter((sherd__direct *)comm, stream, tag, SHERD__KIND_BARRIER, 0)
                              : status;
}

static sherd_status released(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, sherd__ticket ticket,
                             const char *site)
{
    sherd__direct *direct = (sherd__direct *)comm;
    if (comm->device == NULL) {
        return SHERD_ESTATE;
    }
    if (ticket == 0) {
        return SHERD_OK;
    }
    sherd__wait *wait = &direct->release_wait[atomic_fetch_add(&direct->releases, 1) % SHERD__RELEASE_WAITS];
    atomic_store(&wait->value, ticket);
    sherd__await await = {.flags = (_Atomic uint32_t *const *)direct->depart,
                          .count = (uint32_t)comm->world,
                          .value = ticket,
                          .site = site,
                          .poll = sherd__direct_poll,
                          .ctx = wait,
                          .posts = (_Atomic uint64_t *const *)direct->post_at[1]};
    return comm->device->ops->await(stream, tag, &await);
}

/* --------------------------------------------------------------------------------------------------------- lifetime */

static sherd_status bind_device(sherd_comm *comm, sherd_device *device, sherd_error *err)
{
    sherd__direct *direct = (sherd__direct *)comm;
    if (comm->device != NULL) {
        return sherd__fail(err, SHERD_ESTATE, "the communicator serves an engine already: destroy that one first");
    }
    sherd_status status =
        sherd__ledger_add(&device->ledger, SHERD_TIER_DEVICE, SHERD_CAT_COMMUNICATION, SHERD__CONTROL_SIZE, 0, err);
    if (status != SHERD_OK) {
        return status;
    }
    status = direct->peers->bind(direct, device, err);
    if (status != SHERD_OK) {
        sherd__ledger_sub(&device->ledger, SHERD_TIER_DEVICE, SHERD_CAT_COMMUNICATION, SHERD__CONTROL_SIZE, 0);
        return status;
    }
    comm->device = device;
    direct->place = device->ops->share != NULL ? SHERD__PLACE_DEVICE : SHERD__PLACE_MAIN;
    direct->patience_ns = PATIENCE_NS;
    return SHERD_OK;
}

static void unbind_device(sherd_comm *comm)
{
    sherd__direct *direct = (sherd__direct *)comm;
    if (comm->device != NULL) {
        sherd__direct_unpost(direct);
        direct->peers->unbind(direct, comm->device);
        sherd__ledger_sub(&comm->device->ledger, SHERD_TIER_DEVICE, SHERD_CAT_COMMUNICATION, SHERD__CONTROL_SIZE, 0);
        comm->device = NULL;
    }
}

static void destroy(sherd_comm *comm)
{
    sherd__direct *direct = (sherd__direct *)comm;
    sherd__control *own = direct->control[comm->rank];
    unbind_device(comm);
    atomic_store(&own->left, 1);
    sherd__flag_wake(&own->arrive);
    sherd__flag_wake(&own->depart);
    sherd__flag_wake(&own->exchange);
    direct->peers->fini(direct);
    sherd__direct_free(direct);
}

static const sherd__comm_ops direct_ops = {
    .destroy = destroy,
    .bind = bind_device,
    .unbind = unbind_device,
    .window_create = sherd__direct_window_create,
    .window_destroy = sherd__direct_window_destroy,
    .reduce_scatter = reduce_scatter,
    .all_gather = all_gather,
    .all_reduce = all_reduce,
    .broadcast = broadcast,
    .barrier = barrier,
    .released = released,
    .abort = sherd__direct_abort,
};

sherd_status sherd__direct_options(const sherd_comm_options *options, sherd_comm_options *out, sherd_error *err)
{
    sherd_comm_options_init(out, sizeof *out);
    if (options != NULL) {
        if (options->size < sizeof(size_t) || options->size > 4096) {
            return sherd__fail(err, SHERD_EINVAL,
                               "communicator options: size is %zu; call sherd_comm_options_init first", options->size);
        }
        memcpy(out, options, options->size < sizeof *out ? options->size : sizeof *out);
    }
    if (!(out->fail_after_s > 0) || !(out->warn_after_s >= 0)) {
        return sherd__fail(
            err, SHERD_EINVAL,
            "communicator options: fail_after_s (%g) must be positive and warn_after_s (%g) not negative",
            out->fail_after_s, out->warn_after_s);
    }
    if (!(out->silent_after_s >= 0)) {
        return sherd__fail(err, SHERD_EINVAL, "communicator options: silent_after_s (%g) must not be negative",
                           out->silent_after_s);
    }
    out->allocator = sherd__allocator_or_default(&out->allocator);
    return SHERD_OK;
}

static void fill(sherd__direct *direct, const sherd_comm_options *options, int32_t rank, int32_t world)
{
    direct->base = (sherd_comm){.ops = &direct_ops,
                                .transport = SHERD_TRANSPORT_DIRECT,
                                .rank = rank,
                                .world = world,
                                .allocator = options->allocator,
                                .log = options->log,
                                .warn_after_s = options->warn_after_s,
                                .fail_after_s = options->fail_after_s};
    for (uint32_t slot = 0; slot < 2; slot++) {
        direct->compare[slot] = (sherd__compare){direct, slot};
    }
    for (int kind = 0; kind < SHERD__KINDS; kind++) {
        direct->wait[kind].comm = direct;
        direct->wait[kind].kind = (sherd__kind)kind;
    }
    for (int i = 0; i < SHERD__RELEASE_WAITS; i++) {
        direct->release_wait[i].comm = direct;
        direct->release_wait[i].kind = SHERD__KIND_RELEASE;
    }
}

sherd_status sherd__direct_new(const sherd_comm_options *options, int32_t rank, int32_t world, sherd__direct **out,
                               sherd_error *err)
{
    size_t n = (size_t)world;
    const sherd_allocator *allocator = &options->allocator;
    sherd__direct *direct = sherd__alloc(allocator, 1, sizeof *direct);
    if (direct == NULL) {
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a communicator of %" PRId32 " ranks", world);
    }
    direct->base.allocator = *allocator;
    direct->base.world = world;
    direct->pid = sherd__alloc(allocator, n, sizeof *direct->pid);
    direct->number = sherd__alloc(allocator, n, sizeof *direct->number);
    direct->control = sherd__alloc(allocator, n, sizeof *direct->control);
    direct->votes = sherd__alloc(allocator, n, sizeof *direct->votes);
    direct->arrive = sherd__alloc(allocator, n, sizeof *direct->arrive);
    direct->depart = sherd__alloc(allocator, n, sizeof *direct->depart);
    direct->post_at[0] = sherd__alloc(allocator, n, sizeof **direct->post_at);
    direct->post_at[1] = sherd__alloc(allocator, n, sizeof **direct->post_at);
    direct->release_wait = sherd__alloc(allocator, SHERD__RELEASE_WAITS, sizeof *direct->release_wait);
    if (direct->pid == NULL || direct->number == NULL || direct->control == NULL || direct->votes == NULL ||
        direct->arrive == NULL || direct->depart == NULL || direct->release_wait == NULL ||
        direct->post_at[0] == NULL || direct->post_at[1] == NULL) {
        sherd__direct_free(direct);
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a communicator of %" PRId32 " ranks", world);
    }
    fill(direct, options, rank, world);
    for (int32_t peer = 0; peer < world; peer++) {
        direct->number[peer] = peer;
    }
    *out = direct;
    return SHERD_OK;
}

void sherd__direct_connect(sherd__direct *direct)
{
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        sherd__control *control = direct->control[peer];
        int own = peer == direct->base.rank;
        direct->votes[peer] = control;
        direct->post_at[0][peer] = &control->post[0];
        direct->post_at[1][peer] = &control->post[1];
        direct->arrive[peer] = own ? NULL : &control->arrive;
        direct->depart[peer] =
            &control->depart; /* the own one too: `released` may run on another stream than the collective */
    }
}

void sherd__direct_free(sherd__direct *direct)
{
    sherd_allocator allocator = direct->base.allocator;
    size_t n = (size_t)direct->base.world;
    sherd__free(&allocator, direct->release_wait, SHERD__RELEASE_WAITS, sizeof *direct->release_wait);
    sherd__free(&allocator, direct->post_at[1], n, sizeof **direct->post_at);
    sherd__free(&allocator, direct->post_at[0], n, sizeof **direct->post_at);
    sherd__free(&allocator, direct->depart, n, sizeof *direct->depart);
    sherd__free(&allocator, direct->arrive, n, sizeof *direct->arrive);
    sherd__free(&allocator, direct->votes, n, sizeof *direct->votes);
    sherd__free(&allocator, direct->control, n, sizeof *direct->control);
    sherd__free(&allocator, direct->number, n, sizeof *direct->number);
    sherd__free(&allocator, direct->pid, n, sizeof *direct->pid);
    sherd__free(&allocator, direct, 1, sizeof *direct);
}

void sherd__control_init(sherd__control *control, int32_t rank, int32_t world)
{
    control->magic = SHERD__CONTROL_MAGIC;
    control->version = SHERD__CONTROL_VERSION;
    control->rank = rank;
    control->world = world;
}
