/* SPDX-License-Identifier: MIT
 *
 * Life of the MPI communicator: its memory, its windows, its device, its end.
 *
 * A window is the node's own (exchange.c); afterwards the nodes tell each other whether they have it, so that all ranks
 * have it or none. The scratch, and windows, may be where MPI is still writing when a rank has failed: before either
 * goes, the progress thread must be quiet, and if it cannot be, they stay.
 */
#include "comm/mpi_comm.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define RING_PARTS 4096
#define AGREEMENT_TAG 110

static void pause_1ms(void)
{
    const struct timespec pause = {0, 1000000};
    nanosleep(&pause, NULL);
}

/* 1: nothing of ours is under way in MPI. A rank that has not failed gets its limit to finish in. */
static int be_quiet(sherd__mpi *mpi)
{
    int64_t begin = sherd__now_ns();
    while (!atomic_load(&mpi->failed) && atomic_load(&mpi->retired) != atomic_load(&mpi->requested) &&
           (double)(sherd__now_ns() - begin) * 1e-9 < (mpi->base.fail_after_s < 5 ? mpi->base.fail_after_s : 5)) {
        pause_1ms();
    }
    if (!atomic_load(&mpi->failed)) {
        if (atomic_load(&mpi->retired) == atomic_load(&mpi->requested)) {
            return 1;
        }
        sherd_error error;
        sherd__fail_rank(&error, SHERD_EABORTED, mpi->base.rank,
                         "rank %" PRId32 " ended while its messages were under way", mpi->base.rank);
        sherd__mpi_abort(&mpi->base, &error);
    }
    while (mpi->running && atomic_load(&mpi->rest) == SHERD__MPI_BUSY) {
        pause_1ms(); /* within LET_GO_NS: the progress thread waits for nobody */
    }
    return atomic_load(&mpi->rest) != SHERD__MPI_STUCK;
}

/* ---------------------------------------------------------------------------------------------------------- windows */

static void list_verdicts(sherd__mpi *mpi)
{
    const sherd__mpi_layout *layout = &mpi->layout;
    sherd__mpi_call *call = &mpi->agree;
    call->n_send = call->n_recv = 0;
    for (int32_t peer = 0; peer < layout->world; peer++) {
        if (layout->node_of[peer] != layout->node && sherd__mpi_partner(layout, layout->node, peer) == layout->rank) {
            sherd__mpi_call_send(call, peer, &mpi->my_verdict, sizeof mpi->my_verdict);
        }
    }
    for (int32_t node = 0; node < layout->nodes; node++) {
        if (node != layout->node) {
            sherd__mpi_call_recv(call, sherd__mpi_partner(layout, node, layout->rank), &mpi->verdict[node],
                                 sizeof *mpi->verdict);
        }
    }
}

static sherd_status wait_for_verdicts(sherd__mpi *mpi, uint32_t wanted, sherd_error *err)
{
    const sherd__tag tag = {.name = "creation of a window", .bucket = -1};
    int64_t begin = sherd__now_ns();
    while (atomic_load_explicit(&mpi->agreed, memory_order_acquire) != wanted) {
        sherd_status status = sherd__mpi_poll(&mpi->wait[SHERD__KIND_WINDOW], 0, sherd__now_ns() - begin, &tag, err);
        if (status != SHERD_OK) {
            return status;
        }
        pause_1ms();
    }
    return SHERD_OK;
}

/* The first node that has no window, or one of another size: the same verdict on all ranks but for the words. */
static sherd_status judge(const sherd__mpi *mpi, sherd_error *err)
{
    for (int32_t node = 0; node < mpi->layout.nodes; node++) {
        const sherd__mpi_verdict *theirs = &mpi->verdict[node];
        if (node == mpi->layout.node) {
            continue;
        }
        if (theirs->status != SHERD_OK) {
            return sherd__fail_rank(err, (sherd_status)theirs->status, theirs->rank, "%.495s", theirs->text);
        }
        if (theirs->bytes != mpi->my_verdict.bytes) {
            return sherd__fail(
                err, SHERD_EMISMATCH,
                "rank %" PRId32 " makes a window of %" PRIu64 " bytes where rank %" PRId32 " makes one of %" PRIu64,
                mpi->layout.member[mpi->layout.first[node]], theirs->bytes, mpi->base.rank, mpi->my_verdict.bytes);
        }
    }
    return SHERD_OK;
}

static sherd_status agree(sherd__mpi *mpi, sherd_status status, const sherd_error *error, uint64_t bytes,
                          sherd_error *err)
{
    uint32_t wanted = atomic_load(&mpi->agreement) + 1;
    mpi->my_verdict = (sherd__mpi_verdict){.status = (int32_t)status, .rank = error->rank, .bytes = bytes};
    snprintf(mpi->my_verdict.text, sizeof mpi->my_verdict.text, "%.495s", status != SHERD_OK ? error->text : "");
    mpi->agree.number = wanted;
    mpi->agree.kind = SHERD__KIND_WINDOW;
    mpi->agree.tag = (sherd__tag){.name = "creation of a window", .bucket = -1};
    mpi->agree.what[0] = sherd__direct_call_word(SHERD__KIND_WINDOW, mpi->agree.tag);
    mpi->agree.data_tag = AGREEMENT_TAG;
    list_verdicts(mpi);
    atomic_store_explicit(&mpi->agreement, wanted, memory_order_release);
    sherd_status met = wait_for_verdicts(mpi, wanted, err);
    if (met == SHERD_OK && status == SHERD_OK) {
        met = judge(mpi, err);
    }
    return status == SHERD_OK ? met : sherd__pass(err, error);
}

static sherd_status window_create(sherd_comm *comm, uint64_t bytes, sherd_category category, sherd__window *out,
                                  sherd_error *err)
{
    sherd__mpi *mpi = (sherd__mpi *)comm;
    sherd_comm *inside = &mpi->inside->base;
    sherd__window window = {0};
    sherd_error error = {SHERD_OK, -1, ""};
    if (comm->device == NULL) {
        return sherd__fail(err, SHERD_ESTATE, "a window needs the communicator bound to a device");
    }
    sherd_status status = inside->ops->window_create(inside, bytes, category, &window, &error);
    if (mpi->layout.nodes > 1) {
        status = agree(mpi, status, &error, bytes, err);
    } else if (status != SHERD_OK) {
        sherd__pass(err, &error);
    }
    if (status != SHERD_OK) {
        inside->ops->window_destroy(inside, &window);
        return status;
    }
    *out = window;
    return SHERD_OK;
}

static void window_destroy(sherd_comm *comm, sherd__window *window)
{
    sherd__mpi *mpi = (sherd__mpi *)comm;
    sherd_comm *inside = &mpi->inside->base;
    sherd__view *view = window->handle;
    if (view != NULL && !be_quiet(mpi)) {
        view->base[inside->rank] = NULL; /* MPI may still touch it: it stays mapped */
    }
    inside->ops->window_destroy(inside, window);
}

/* ----------------------------------------------------------------------------------------------------------- device */

static sherd_status bind_scratch(sherd__mpi *mpi, sherd_device *device, sherd_error *err)
{
    uint64_t bytes = mpi->base.receive_bytes, mapped = sherd__map_bytes(bytes);
    void *scratch = NULL;
    if (bytes == 0) {
        return SHERD_OK;
    }
    if (mapped == 0) {
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a scratch of %" PRIu64 " bytes", bytes);
    }
    sherd_status status =
        sherd__ledger_add(&device->ledger, SHERD_TIER_DEVICE, SHERD_CAT_COMMUNICATION, bytes, mapped - bytes, err);
    if (status != SHERD_OK) {
        return status;
    }
    status = sherd__map(-1, mapped, 1, &scratch, err);
    if (status != SHERD_OK) {
        sherd__ledger_sub(&device->ledger, SHERD_TIER_DEVICE, SHERD_CAT_COMMUNICATION, bytes, mapped - bytes);
        return status;
    }
    mpi->scratch = scratch;
    mpi->scratch_bytes = bytes;
    mpi->scratch_mapped = mapped;
    return SHERD_OK;
}

static void unbind_scratch(sherd__mpi *mpi)
{
    if (mpi->scratch == NULL) {
        return;
    }
    if (be_quiet(mpi)) {
        sherd__unmap(mpi->scratch, mpi->scratch_mapped);
    }
    sherd__ledger_sub(&mpi->base.device->ledger, SHERD_TIER_DEVICE, SHERD_CAT_COMMUNICATION, mpi->scratch_bytes,
                      mpi->scratch_mapped - mpi->scratch_bytes);
    mpi->scratch = NULL;
    mpi->scratch_bytes = mpi->scratch_mapped = 0;
}

static sherd_status bind_device(sherd_comm *comm, sherd_device *device, sherd_error *err)
{
    sherd__mpi *mpi = (sherd__mpi *)comm;
    sherd_comm *inside = &mpi->inside->base;
    if (comm->device != NULL) {
        return sherd__fail(err, SHERD_ESTATE, "the communicator serves an engine already: destroy that one first");
    }
    if (device->kind != SHERD_DEVICE_HOST) {
        return sherd__fail(err, SHERD_EUNSUPPORTED,
                           "MPI between nodes moves main memory, and the device is %s: on GPUs of several hosts use "
                           "sherd.transport 'nccl'",
                           device->description);
    }
    sherd_status status = inside->ops->bind(inside, device, err);
    if (status != SHERD_OK) {
        return status;
    }
    status = bind_scratch(mpi, device, err);
    if (status != SHERD_OK) {
        inside->ops->unbind(inside);
        return status;
    }
    comm->device = device;
    return SHERD_OK;
}

/* The streams are gone: what they had asked for is all there will be. */
static void unbind_device(sherd_comm *comm)
{
    sherd__mpi *mpi = (sherd__mpi *)comm;
    if (comm->device != NULL) {
        (void)be_quiet(mpi);
        unbind_scratch(mpi);
        mpi->inside->base.ops->unbind(&mpi->inside->base);
        comm->device = NULL;
    }
}

/* --------------------------------------------------------------------------------------------------------- lifetime */

static void free_calls(sherd__mpi *mpi)
{
    const sherd_allocator *allocator = &mpi->base.allocator;
    size_t world = (size_t)mpi->base.world;
    for (uint32_t i = 0; mpi->ring != NULL && i < mpi->capacity; i++) {
        sherd__free(allocator, mpi->ring[i].send, 2 * world, sizeof(sherd__mpi_part));
        sherd__free(allocator, mpi->ring[i].table, 3 * world, sizeof(void *));
    }
    sherd__free(allocator, mpi->ring, mpi->capacity, sizeof *mpi->ring);
    sherd__free(allocator, mpi->agree.send, 2 * world, sizeof(sherd__mpi_part));
}

static void free_all(sherd__mpi *mpi)
{
    sherd_allocator allocator = mpi->base.allocator;
    size_t world = (size_t)mpi->base.world;
    free_calls(mpi);
    for (int kind = 0; kind < SHERD__MPI_NOTES; kind++) {
        sherd__free(&allocator, mpi->note[kind].request, world, sizeof(MPI_Request));
    }
    sherd__free(&allocator, mpi->beat, world, sizeof(MPI_Request));
    sherd__free(&allocator, mpi->heard_ns, world, sizeof *mpi->heard_ns);
    sherd__free(&allocator, mpi->gone_how, world, sizeof *mpi->gone_how);
    sherd__free(&allocator, mpi->gone_ns, world, sizeof *mpi->gone_ns);
    sherd__free(&allocator, mpi->verdict, world, sizeof *mpi->verdict);
    sherd__free(&allocator, mpi->sources, world, sizeof *mpi->sources);
    sherd__free(&allocator, mpi->row, world, sizeof *mpi->row);
    sherd__free(&allocator, mpi->rows, world * SHERD__VOTE_MAX, sizeof *mpi->rows);
    sherd__free(&allocator, mpi->who, world, sizeof *mpi->who);
    sherd__mpi_layout_fini(&mpi->layout, &allocator);
    sherd__free(&allocator, mpi, 1, sizeof *mpi);
}

/* 1: MPI writes into no message of this rank's any more. */
static int deaf(const sherd__mpi *mpi)
{
    return mpi->hearing == MPI_REQUEST_NULL && mpi->listening == MPI_REQUEST_NULL;
}

/* What MPI has not let go of stays: the duplicate too. */
static void destroy(sherd_comm *comm)
{
    sherd__mpi *mpi = (sherd__mpi *)comm;
    unbind_device(comm);
    int clean = 1;
    if (mpi->running) {
        atomic_store(&mpi->order, SHERD__MPI_LEAVE);
        sherd__flag_wake(&mpi->requested);
        pthread_join(mpi->thread, NULL); /* within its limits */
        clean = !atomic_load(&mpi->failed) && deaf(mpi);
    }
    sherd_comm *inside = &mpi->inside->base;
    inside->ops->destroy(inside);
    if (clean) {
        MPI_Comm_free(&mpi->comm);
        free_all(mpi);
    } else if (deaf(mpi) && atomic_load(&mpi->rest) == SHERD__MPI_QUIET) {
        free_all(mpi);
    }
}

static const sherd__comm_ops mpi_ops = {
    .destroy = destroy,
    .bind = bind_device,
    .unbind = unbind_device,
    .window_create = window_create,
    .window_destroy = window_destroy,
    .reduce_scatter = sherd__mpi_reduce_scatter,
    .all_gather = sherd__mpi_all_gather,
    .all_reduce = sherd__mpi_all_reduce,
    .broadcast = sherd__mpi_broadcast,
    .barrier = sherd__mpi_barrier,
    .released = sherd__mpi_released,
    .abort = sherd__mpi_abort,
};

static int new_call(const sherd_allocator *allocator, size_t world, sherd__mpi_call *call)
{
    call->send = sherd__alloc(allocator, 2 * world, sizeof *call->send);
    call->recv = call->send != NULL ? call->send + world : NULL;
    return call->send != NULL;
}

static int new_calls(sherd__mpi *mpi)
{
    const sherd_allocator *allocator = &mpi->base.allocator;
    size_t world = (size_t)mpi->base.world;
    mpi->capacity = 256;
    while (mpi->capacity > 16 && mpi->capacity * world > RING_PARTS) {
        mpi->capacity /= 2;
    }
    mpi->ring = sherd__alloc(allocator, mpi->capacity, sizeof *mpi->ring);
    for (uint32_t i = 0; mpi->ring != NULL && i < mpi->capacity; i++) {
        mpi->ring[i].table = sherd__alloc(allocator, 3 * world, sizeof(void *));
        if (mpi->ring[i].table == NULL || !new_call(allocator, world, &mpi->ring[i])) {
            return 0;
        }
    }
    return mpi->ring != NULL && new_call(allocator, world, &mpi->agree);
}

static int new_tables(sherd__mpi *mpi)
{
    const sherd_allocator *allocator = &mpi->base.allocator;
    size_t world = (size_t)mpi->base.world;
    int made = 1;
    for (int kind = 0; kind < SHERD__MPI_NOTES; kind++) {
        mpi->note[kind].request = sherd__alloc(allocator, world, sizeof(MPI_Request));
        for (size_t i = 0; mpi->note[kind].request != NULL && i < world; i++) {
            mpi->note[kind].request[i] = MPI_REQUEST_NULL;
        }
        made = made && mpi->note[kind].request != NULL;
    }
    mpi->beat = sherd__alloc(allocator, world, sizeof(MPI_Request));
    for (size_t i = 0; mpi->beat != NULL && i < world; i++) {
        mpi->beat[i] = MPI_REQUEST_NULL;
    }
    mpi->heard_ns = sherd__alloc(allocator, world, sizeof *mpi->heard_ns);
    made = made && mpi->beat != NULL && mpi->heard_ns != NULL;
    mpi->gone_how = sherd__alloc(allocator, world, sizeof *mpi->gone_how);
    mpi->gone_ns = sherd__alloc(allocator, world, sizeof *mpi->gone_ns);
    mpi->verdict = sherd__alloc(allocator, world, sizeof *mpi->verdict);
    mpi->sources = sherd__alloc(allocator, world, sizeof *mpi->sources);
    mpi->row = sherd__alloc(allocator, world, sizeof *mpi->row);
    mpi->rows = sherd__alloc(allocator, world * SHERD__VOTE_MAX, sizeof *mpi->rows);
    for (size_t node = 0; mpi->rows != NULL && mpi->row != NULL && node < world; node++) {
        mpi->row[node] = mpi->rows + node * SHERD__VOTE_MAX;
    }
    return made && mpi->gone_how != NULL && mpi->gone_ns != NULL && mpi->verdict != NULL && mpi->sources != NULL &&
           mpi->row != NULL && mpi->rows != NULL && new_calls(mpi);
}

static void describe(sherd__mpi *mpi)
{
    const sherd__mpi_layout *layout = &mpi->layout;
    snprintf(mpi->base.description, sizeof mpi->base.description,
             "MPI between %" PRId32 " node%s, shared memory (memfd) inside, %" PRId32 " rank%s", layout->nodes,
             layout->nodes == 1 ? "" : "s", layout->world, layout->world == 1 ? "" : "s");
}

static void fill(sherd__mpi *mpi, const sherd_comm_options *options)
{
    mpi->base = (sherd_comm){.ops = &mpi_ops,
                             .transport = SHERD_TRANSPORT_MPI,
                             .rank = mpi->layout.rank,
                             .world = mpi->layout.world,
                             .allocator = options->allocator,
                             .log = options->log,
                             .warn_after_s = options->warn_after_s,
                             .fail_after_s = options->fail_after_s,
                             .node_of = mpi->layout.node_of};
    for (int kind = 0; kind < SHERD__KINDS; kind++) {
        mpi->wait[kind].mpi = mpi;
        mpi->wait[kind].kind = (sherd__kind)kind;
    }
    mpi->done_flag[0] = &mpi->done;
    mpi->sent_flag[0] = &mpi->sent;
    mpi->hearing = mpi->listening = MPI_REQUEST_NULL;
    mpi->silent_ns = mpi->layout.nodes > 1 && options->silent_after_s < 9e9 ? (int64_t)(options->silent_after_s * 1e9) : 0;
    atomic_store(&mpi->missing, -1);
    describe(mpi);
}

sherd_status sherd__mpi_create(const sherd_comm_options *options, sherd__direct *inside, sherd__mpi_layout *layout,
                               MPI_Comm comm, sherd__identity *who, sherd_comm **out, sherd_error *err)
{
    sherd__mpi *mpi = sherd__alloc(&options->allocator, 1, sizeof *mpi);
    if (mpi == NULL) {
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a communicator of %" PRId32 " ranks", layout->world);
    }
    mpi->layout = *layout;
    fill(mpi, options);
    if (!new_tables(mpi)) {
        memset(&mpi->layout, 0, sizeof mpi->layout); /* stays the caller's */
        free_all(mpi);
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a communicator of %" PRId32 " ranks", layout->world);
    }
    mpi->inside = inside;
    mpi->comm = comm;
    mpi->who = who;
    mpi->running = pthread_create(&mpi->thread, NULL, sherd__mpi_progress, mpi) == 0;
    if (!mpi->running) {
        memset(&mpi->layout, 0, sizeof mpi->layout);
        mpi->who = NULL;
        free_all(mpi);
        return sherd__fail(err, SHERD_ESYSTEM, "no thread for the messages of rank %" PRId32, layout->rank);
    }
    *out = &mpi->base;
    return SHERD_OK;
}
