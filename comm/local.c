/* SPDX-License-Identifier: MIT
 *
 * Ranks that are processes of one host. A rank's memory is a memfd; peers open it through /proc/PID/fd/FD and map it
 * for as long as the window lives. That way is chosen over passing descriptors through sockets because it needs no name
 * in any file system or network, no second rendezvous that could wait, and no order: opening succeeds or fails at once.
 * It asks for what death detection asks for anyway: one pid namespace and one user. Nothing outlives the processes: a
 * memfd goes with its last mapping.
 *
 * On GPUs, windows are in GPU memory where every rank can lend its own and borrow the others' (CUDA's handles), else in
 * these files, of which each rank pins its own mapping of every peer's.
 *
 * Bootstrap: one all-gather of a hello (who and where I am, which file my control block is). All later agreement, the
 * end of creation included, goes through the control blocks, where a dead peer is noticed.
 */
#include "base/log.h"
#include "comm/direct.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HELLO_MAGIC 0x53484C4Fu
#define LINGER_NS 5000000000

typedef struct hello {
    uint32_t magic, version;
    int32_t rank, world;
    sherd__identity identity;
    sherd__offer control;
} hello;

typedef struct local_peers {
    int *pidfd;      /* [world]; −2: this kernel has none */
    uint64_t *start; /* [world] */
} local_peers;

/* A dying process closes its files before it counts as ended: give it a moment to become one or the other. */
static int ended_soon(int64_t pid, uint64_t start)
{
    const struct timespec pause = {0, 1000000};
    for (int look = 0; look < 500; look++) {
        if (!sherd__process_alive(pid, start)) {
            return 1;
        }
        nanosleep(&pause, NULL);
    }
    return 0;
}

static sherd_status fail_open(const sherd__direct *direct, int32_t peer, const char *what, sherd_error *err)
{
    int code = errno;
    const local_peers *peers = direct->peers_state;
    if (code == ENOENT && ended_soon(direct->pid[peer], peers->start[peer])) {
        return sherd__fail_rank(err, SHERD_ERANKDEAD, direct->number[peer],
                                "rank %" PRId32 " (pid %" PRId64 ") died while its memory was opened",
                                direct->number[peer], direct->pid[peer]);
    }
    return sherd__fail_rank(err, SHERD_ESYSTEM, direct->number[peer],
                            "%s the memory of rank %" PRId32 " (pid %" PRId64
                            "): %s; ranks of one host must run as one user and see each other in /proc",
                            what, direct->number[peer], direct->pid[peer], strerror(code));
}

static sherd_status open_and_map(sherd__direct *direct, int32_t peer, int peer_fd, uint64_t bytes, void **out,
                                 sherd_error *err)
{
    char path[64];
    struct stat info;
    snprintf(path, sizeof path, "/proc/%" PRId64 "/fd/%d", direct->pid[peer], peer_fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return fail_open(direct, peer, "cannot open", err);
    }
    sherd_status status;
    if (fstat(fd, &info) != 0 || (uint64_t)info.st_size != bytes) {
        errno = EINVAL;
        status = fail_open(direct, peer, "unexpected size of", err);
    } else {
        status = sherd__map(fd, bytes, 0, out, err);
    }
    close(fd);
    return status;
}

/* ------------------------------------------------------------------------------------------------------------ peers */

/* GPU memory, lent by CUDA's handles. */
static sherd_status make_lent(sherd__direct *direct, sherd__view *view, sherd__offer *offer, sherd_error *err)
{
    sherd_device *device = direct->base.device;
    const sherd__share_ops *share = device->ops->share;
    void *base = NULL;
    const _Atomic uint32_t *word = &direct->control[direct->base.rank]->closed[view->number % SHERD__CLOSED_WORDS];
    if (view->number > SHERD__CLOSED_WORDS && (int32_t)(atomic_load(word) - (view->number - SHERD__CLOSED_WORDS)) < 0) {
        return sherd__fail(err, SHERD_EUNSUPPORTED, "more than %d windows of lent memory at a time",
                           SHERD__CLOSED_WORDS);
    }
    sherd_status status = share->get(device, view->mapped, &base, err);
    if (status != SHERD_OK) {
        return status;
    }
    status = share->lend(device, base, offer->handle, err);
    if (status != SHERD_OK) {
        share->put(device, share->number(device), base);
        return status;
    }
    view->base[direct->base.rank] = base;
    return SHERD_OK;
}

static sherd_status map_watched(sherd__direct *direct, int fd, uint64_t bytes, void **out, sherd_error *err)
{
    sherd_status status = sherd__map(fd, bytes, 1, out, err);
    if (status != SHERD_OK) {
        return status;
    }
    status = sherd__device_watch(direct->base.device, *out, bytes, err);
    if (status != SHERD_OK) {
        sherd__unmap(*out, bytes);
        *out = NULL;
    }
    return status;
}

static sherd_status local_make(sherd__direct *direct, sherd__view *view, sherd__offer *offer, sherd_error *err)
{
    int fd;
    if (view->place == SHERD__PLACE_DEVICE) {
        return make_lent(direct, view, offer, err);
    }
    sherd_status status = sherd__memfd("sherd-window", view->mapped, &fd, err);
    if (status != SHERD_OK) {
        return status;
    }
    status = map_watched(direct, fd, view->mapped, &view->base[direct->base.rank], err);
    if (status != SHERD_OK) {
        close(fd);
        return status;
    }
    offer->fd = fd;
    return SHERD_OK;
}

static sherd_status local_attach(sherd__direct *direct, sherd__view *view, int32_t peer, const sherd__offer *offer,
                                 sherd_error *err)
{
    sherd_device *device = direct->base.device;
    if (view->place == SHERD__PLACE_DEVICE) {
        return device->ops->share->borrow(device, offer->handle, &view->base[peer], err);
    }
    sherd_status status = open_and_map(direct, peer, offer->fd, view->mapped, &view->base[peer], err);
    if (status != SHERD_OK) {
        return status;
    }
    status = sherd__device_watch(device, view->base[peer], view->mapped, err);
    if (status != SHERD_OK) {
        sherd__unmap(view->base[peer], view->mapped);
        view->base[peer] = NULL;
    }
    return status;
}

static void local_settle(sherd__direct *direct, sherd__view *view, sherd__offer *offer, int known)
{
    (void)direct, (void)view, (void)known;
    if (offer->fd >= 0) {
        close(offer->fd);
        offer->fd = -1;
    }
}

/* CUDA wants lent memory to stay until all borrowers have given it back. Ranks destroy their windows at about the same
 * time; who is dead or gone has given back; a rank that is neither is waited for a little, then its memory stays. */
static int given_back(sherd__direct *direct, uint32_t number)
{
    int64_t begin = sherd__now_ns();
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        const _Atomic uint32_t *word = &direct->control[peer]->closed[number % SHERD__CLOSED_WORDS];
        while ((int32_t)(atomic_load_explicit(word, memory_order_acquire) - number) < 0 &&
               !sherd__direct_gone(direct, peer)) {
            const struct timespec pause = {0, 200000};
            if (sherd__now_ns() - begin > direct->patience_ns) {
                direct->patience_ns = 0;
                sherd__log(&direct->base.log, SHERD_LOG_WARNING,
                           "rank %" PRId32 " still holds memory that rank %" PRId32
                           " lent it: that memory is not freed before this process ends",
                           direct->number[peer], direct->number[direct->base.rank]);
                return 0;
            }
            nanosleep(&pause, NULL);
        }
    }
    direct->patience_ns -= sherd__now_ns() - begin;
    return 1;
}

static void release_lent(sherd__direct *direct, sherd__view *view)
{
    sherd_device *device = direct->base.device;
    int32_t self = direct->base.rank;
    if (device == NULL || !device->ops->share->quiet(device)) {
        return; /* it hangs: what it may still use stays */
    }
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        if (peer != self && view->base[peer] != NULL) {
            device->ops->share->give_back(device, view->base[peer]);
        }
    }
    atomic_store_explicit(&direct->control[self]->closed[view->number % SHERD__CLOSED_WORDS], view->number,
                          memory_order_release);
    if (view->base[self] != NULL && given_back(direct, view->number)) {
        device->ops->share->put(device, device->ops->share->number(device), view->base[self]);
    }
}

static void local_release(sherd__direct *direct, sherd__view *view)
{
    if (view->place == SHERD__PLACE_DEVICE) {
        release_lent(direct, view);
        return;
    }
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        if (view->base[peer] != NULL && direct->base.device != NULL) {
            sherd__device_unwatch(direct->base.device, view->base[peer], view->mapped);
        }
        sherd__unmap(view->base[peer], view->mapped);
        view->base[peer] = NULL;
    }
}

/* Every rank's mapping of every control block is its own: kernels read the peers' votes there. */
static sherd_status local_bind(sherd__direct *direct, sherd_device *device, sherd_error *err)
{
    int32_t peer = 0;
    sherd_status status = SHERD_OK;
    for (; peer < direct->base.world && status == SHERD_OK; peer++) {
        status = sherd__device_watch(device, direct->control[peer], SHERD__CONTROL_SIZE, err);
    }
    for (peer -= 2; status != SHERD_OK && peer >= 0; peer--) {
        sherd__device_unwatch(device, direct->control[peer], SHERD__CONTROL_SIZE);
    }
    return status;
}

static void local_unbind(sherd__direct *direct, sherd_device *device)
{
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        sherd__device_unwatch(device, direct->control[peer], SHERD__CONTROL_SIZE);
    }
}

static int local_dead(sherd__direct *direct, int32_t peer)
{
    const local_peers *peers = direct->peers_state;
    if (peers->pidfd[peer] >= 0) {
        return sherd__pidfd_ended(peers->pidfd[peer]);
    }
    return !sherd__process_alive(direct->pid[peer], peers->start[peer]);
}

static void local_fini(sherd__direct *direct)
{
    local_peers *peers = direct->peers_state;
    size_t n = (size_t)direct->base.world;
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        sherd__unmap(direct->control[peer], SHERD__CONTROL_SIZE);
        if (peers->pidfd != NULL && peers->pidfd[peer] >= 0) {
            close(peers->pidfd[peer]);
        }
    }
    sherd__free(&direct->base.allocator, peers->start, n, sizeof *peers->start);
    sherd__free(&direct->base.allocator, peers->pidfd, n, sizeof *peers->pidfd);
    sherd__free(&direct->base.allocator, peers, 1, sizeof *peers);
}

static const sherd__peers_ops process_peers = {.make = local_make,
                                               .attach = local_attach,
                                               .settle = local_settle,
                                               .release = local_release,
                                               .dead = local_dead,
                                               .bind = local_bind,
                                               .unbind = local_unbind,
                                               .fini = local_fini};

static sherd_status peers_new(sherd__direct *direct, sherd_error *err)
{
    size_t n = (size_t)direct->base.world;
    const sherd_allocator *allocator = &direct->base.allocator;
    local_peers *peers = sherd__alloc(allocator, 1, sizeof *peers);
    if (peers == NULL) {
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a communicator of %" PRId32 " ranks", direct->base.world);
    }
    direct->peers = &process_peers;
    direct->peers_state = peers;
    peers->pidfd = sherd__alloc(allocator, n, sizeof *peers->pidfd);
    peers->start = sherd__alloc(allocator, n, sizeof *peers->start);
    for (size_t peer = 0; peer < n && peers->pidfd != NULL; peer++) {
        peers->pidfd[peer] = -1;
    }
    if (peers->pidfd == NULL || peers->start == NULL) {
        local_fini(direct);
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a communicator of %" PRId32 " ranks", direct->base.world);
    }
    return SHERD_OK;
}

/* -------------------------------------------------------------------------------------------------------- bootstrap */

/* Makes the own control block; a failure travels in the hello, so that all ranks end alike. */
static void say_hello(sherd__direct *direct, hello *mine)
{
    sherd_error error = {0};
    void *control = NULL;
    int fd = -1;
    memset(mine, 0, sizeof *mine);
    mine->magic = HELLO_MAGIC;
    mine->version = SHERD__CONTROL_VERSION;
    mine->rank = direct->base.rank;
    mine->world = direct->base.world;
    sherd__identity_self(&mine->identity);
    sherd_status status = sherd__memfd("sherd-control", SHERD__CONTROL_SIZE, &fd, &error);
    if (status == SHERD_OK) {
        status = sherd__map(fd, SHERD__CONTROL_SIZE, 1, &control, &error);
    }
    mine->control.fd = fd;
    mine->control.bytes = SHERD__CONTROL_SIZE;
    mine->control.status = (int32_t)status;
    snprintf(mine->control.text, sizeof mine->control.text, "%.479s", error.text);
    if (status == SHERD_OK) {
        direct->control[direct->base.rank] = control;
        sherd__control_init(control, direct->base.rank, direct->base.world);
    }
}

/* The same verdict on every rank: only what all have received is looked at. */
static sherd_status judge_hello(const sherd__direct *direct, const hello *all, int32_t peer, sherd_error *err)
{
    const hello *theirs = &all[peer];
    int32_t world = direct->base.world, name = direct->number[peer];
    if (theirs->magic != HELLO_MAGIC || theirs->version != SHERD__CONTROL_VERSION) {
        return sherd__fail_rank(err, SHERD_EMISMATCH, name, "rank %" PRId32 " runs another version of the library",
                                name);
    }
    if (theirs->rank != peer || theirs->world != world) {
        return sherd__fail_rank(err, SHERD_EMISMATCH, peer,
                                "the bootstrap's place %" PRId32 " of %" PRId32 " says it is rank %" PRId32
                                " of %" PRId32,
                                peer, world, theirs->rank, theirs->world);
    }
    const sherd__identity *first = &all[0].identity, *other = &theirs->identity;
    if (strncmp(first->host, other->host, sizeof first->host) != 0 ||
        strncmp(first->boot, other->boot, sizeof first->boot) != 0) {
        return sherd__fail_rank(err, SHERD_EUNSUPPORTED, name,
                                "rank 0 runs on host %.64s and rank %" PRId32
                                " on host %.64s: shared memory needs all ranks on one host",
                                first->host, name, other->host);
    }
    if (first->pid_space != other->pid_space) {
        return sherd__fail_rank(
            err, SHERD_EUNSUPPORTED, name,
            "rank 0 and rank %" PRId32 " are in different pid namespaces: run all ranks in one container", name);
    }
    if (theirs->control.status != SHERD_OK) {
        return sherd__fail_rank(err, (sherd_status)theirs->control.status, name,
                                "rank %" PRId32 " could not start: %.440s", name, theirs->control.text);
    }
    return SHERD_OK;
}

static sherd_status attach_peer(sherd__direct *direct, const hello *theirs, int32_t peer, sherd_error *err)
{
    local_peers *peers = direct->peers_state;
    void *control;
    peers->pidfd[peer] = sherd__process_open(direct->pid[peer], peers->start[peer]);
    if (peers->pidfd[peer] == -1) {
        return sherd__fail_rank(err, SHERD_ERANKDEAD, direct->number[peer],
                                "rank %" PRId32 " (pid %" PRId64 ") died during creation of the communicator",
                                direct->number[peer], direct->pid[peer]);
    }
    sherd_status status = open_and_map(direct, peer, theirs->control.fd, SHERD__CONTROL_SIZE, &control, err);
    if (status != SHERD_OK) {
        return status;
    }
    direct->control[peer] = control;
    if (direct->control[peer]->magic != SHERD__CONTROL_MAGIC || direct->control[peer]->rank != peer) {
        return sherd__fail_rank(err, SHERD_EMISMATCH, direct->number[peer],
                                "the memory of rank %" PRId32 " (pid %" PRId64 ") is not its control block",
                                direct->number[peer], direct->pid[peer]);
    }
    return SHERD_OK;
}

/* A rank that gives up stays until everybody it knows has attached or given up too: if it went at once, those who have
 * not opened its memory yet would take it for the one that broke. */
static void linger(sherd__direct *direct)
{
    int64_t begin = sherd__now_ns();
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        sherd__control *theirs = direct->control[peer];
        while (theirs != NULL && peer != direct->base.rank && sherd__now_ns() - begin < LINGER_NS &&
               atomic_load(&theirs->exchange) == 0 && atomic_load(&theirs->abort.set) == 0 &&
               atomic_load(&theirs->left) == 0 && !local_dead(direct, peer)) {
            const struct timespec pause = {0, 1000000};
            nanosleep(&pause, NULL);
        }
    }
}

/* Attaches to all; then waits until all have. If it cannot, its abort record says why, to those who have attached to
 * it. */
static sherd_status attach_peers(sherd__direct *direct, const hello *all, sherd__offer *offers, sherd_error *err)
{
    static const char creation[] = "creation of the communicator";
    const local_peers *peers = direct->peers_state;
    sherd_error first = {0}, error;
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        direct->pid[peer] = all[peer].identity.pid;
        peers->start[peer] = all[peer].identity.start;
    }
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        if (peer != direct->base.rank && attach_peer(direct, &all[peer], peer, &error) != SHERD_OK &&
            first.status == SHERD_OK) {
            first = error;
        }
    }
    if (first.status == SHERD_OK) {
        const sherd__offer attached = {.fd = -1};
        sherd__direct_connect(direct);
        sherd__direct_exchange(direct, creation, &attached, offers, &first);
    }
    if (first.status != SHERD_OK) {
        sherd__direct_abort(&direct->base, &first);
        linger(direct);
        return sherd__pass(err, &first);
    }
    return SHERD_OK;
}

static sherd_status bootstrap_failed(sherd_allgather_fn allgather, void *ctx, int code, sherd_error *err)
{
    if (allgather == sherd_rendezvous_allgather) {
        return sherd__rendezvous_error(ctx, err);
    }
    return sherd__fail(err, SHERD_ESYSTEM, "the bootstrap's all-gather failed with code %d: not all ranks came", code);
}

static sherd_status connect_all(sherd__direct *direct, sherd_allgather_fn allgather, void *ctx, sherd_error *err)
{
    const sherd_allocator *allocator = &direct->base.allocator;
    size_t n = (size_t)direct->base.world;
    hello *all = sherd__alloc(allocator, n, sizeof *all);
    sherd__offer *offers = sherd__alloc(allocator, n, sizeof *offers);
    sherd_status status = SHERD_OK;
    hello mine;
    say_hello(direct, &mine);
    if (all == NULL || offers == NULL) {
        status = sherd__fail(err, SHERD_ENOMEM, "no memory to meet %" PRId32 " ranks", direct->base.world);
        goto close_control;
    }
    int code = allgather(ctx, &mine, all, sizeof mine);
    if (code != 0) {
        status = bootstrap_failed(allgather, ctx, code, err);
        goto close_control;
    }
    for (int32_t peer = 0; peer < direct->base.world && status == SHERD_OK; peer++) {
        status = judge_hello(direct, all, peer, err);
    }
    if (status == SHERD_OK) {
        status = attach_peers(direct, all, offers, err);
    }

close_control:
    if (mine.control.fd >= 0) {
        close(mine.control.fd);
    }
    sherd__free(allocator, offers, n, sizeof *offers);
    sherd__free(allocator, all, n, sizeof *all);
    return status;
}

sherd_status sherd__local_create(const sherd_comm_options *options, int32_t rank, int32_t world, const int32_t *number,
                                 sherd_allgather_fn allgather, void *ctx, sherd__direct **out, sherd_error *err)
{
    sherd_comm_options settled;
    sherd__direct *direct;
    if (world < 1 || rank < 0 || rank >= world || allgather == NULL) {
        return sherd__fail(err, SHERD_EINVAL, "rank %" PRId32 " of %" PRId32 " ranks is not possible", rank, world);
    }
    sherd_status status = sherd__direct_options(options, &settled, err);
    if (status == SHERD_OK) {
        status = sherd__direct_new(&settled, rank, world, &direct, err);
    }
    if (status != SHERD_OK) {
        return status;
    }
    for (int32_t peer = 0; number != NULL && peer < world; peer++) {
        direct->number[peer] = number[peer];
    }
    status = peers_new(direct, err);
    if (status != SHERD_OK) {
        goto free_direct;
    }
    status = connect_all(direct, allgather, ctx, err);
    if (status != SHERD_OK) {
        goto free_peers;
    }
    snprintf(direct->base.description, sizeof direct->base.description,
             "direct over shared memory (memfd), %" PRId32 " rank%s", world, world == 1 ? "" : "s");
    *out = direct;
    return SHERD_OK;

free_peers:
    local_fini(direct);
free_direct:
    sherd__direct_free(direct);
    return status;
}

sherd_status sherd_comm_create_local(const sherd_comm_options *options, int32_t rank, int32_t world,
                                     sherd_allgather_fn allgather, void *ctx, sherd_comm **out, sherd_error *err)
{
    sherd__direct *direct = NULL;
    sherd_status status = sherd__local_create(options, rank, world, NULL, allgather, ctx, &direct, err);
    if (status == SHERD_OK) {
        *out = &direct->base;
    }
    return status;
}
