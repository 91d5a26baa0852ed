/* SPDX-License-Identifier: MIT
 *
 * The bootstrap for ranks forked from one parent: a shared mapping that the children inherit. An all-gather goes in
 * rounds of at most ROUND_BYTES: write into the own slot of the round's parity, announce the round's number, wait for
 * all others' numbers, read. Two slots suffice, because a rank writes slot s of round n + 2 only after all have
 * announced n + 1, which each does after it has read round n.
 *
 * Waits sleep on the missing rank's number, at most SLICE_NS at a time, and look whether that rank's process still
 * runs. One that died before it joined has left no pid: there the limit ends the wait.
 */
#include "comm/direct.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ROUND_BYTES 1024
#define SLICE_NS 10000000
#define LIMIT_S 60

typedef struct seat {
    _Alignas(SHERD__LINE) _Atomic uint32_t round; /* the last one announced */
    _Atomic uint32_t joined;
    int64_t pid;
    uint64_t start;
    _Alignas(SHERD__LINE) unsigned char slot[2][ROUND_BYTES];
} seat;

struct sherd_rendezvous {
    int32_t world, rank; /* rank: −1 until joined */
    uint32_t round;
    int64_t limit_ns;
    seat *seats; /* [world], shared */
    size_t bytes;
    sherd_error error;
};

sherd_status sherd_rendezvous_create(int32_t world, sherd_rendezvous **out, sherd_error *err)
{
    if (world < 1 || world > 65536) {
        return sherd__fail(err, SHERD_EINVAL, "a rendezvous of %" PRId32 " ranks: 1 to 65536 are possible", world);
    }
    sherd_rendezvous *rendezvous = sherd__alloc(&sherd__default_allocator, 1, sizeof *rendezvous);
    if (rendezvous == NULL) {
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a rendezvous of %" PRId32 " ranks", world);
    }
    rendezvous->bytes = (size_t)world * sizeof(seat);
    void *seats = mmap(NULL, rendezvous->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (seats == MAP_FAILED) {
        int code = errno;
        sherd__free(&sherd__default_allocator, rendezvous, 1, sizeof *rendezvous);
        return sherd__fail(err, SHERD_ESYSTEM, "no shared memory for a rendezvous of %" PRId32 " ranks: %s", world,
                           strerror(code));
    }
    rendezvous->seats = seats;
    rendezvous->world = world;
    rendezvous->rank = -1;
    rendezvous->limit_ns = (int64_t)LIMIT_S * 1000000000;
    *out = rendezvous;
    return SHERD_OK;
}

sherd_status sherd_rendezvous_join(sherd_rendezvous *rendezvous, int32_t rank, sherd_error *err)
{
    if (rank < 0 || rank >= rendezvous->world) {
        return sherd__fail(err, SHERD_EINVAL, "rank %" PRId32 " joins a rendezvous of %" PRId32 " ranks", rank,
                           rendezvous->world);
    }
    seat *own = &rendezvous->seats[rank];
    if (rendezvous->rank >= 0 || atomic_exchange(&own->joined, 1) != 0) {
        return sherd__fail(err, SHERD_ESTATE, "rank %" PRId32 " has joined the rendezvous already", rank);
    }
    sherd__identity self;
    sherd__identity_self(&self);
    own->pid = self.pid;
    own->start = self.start;
    atomic_store_explicit(&own->joined, 2, memory_order_release);
    rendezvous->rank = rank;
    return SHERD_OK;
}

static int seat_dead(seat *other)
{
    return atomic_load_explicit(&other->joined, memory_order_acquire) == 2 &&
           !sherd__process_alive(other->pid, other->start);
}

static int announced(seat *other, uint32_t round)
{
    return (int32_t)(atomic_load_explicit(&other->round, memory_order_acquire) - round) >= 0;
}

static void sleep_on(_Atomic uint32_t *word, uint32_t seen)
{
    const struct timespec slice = {0, SLICE_NS};
    syscall(SYS_futex, (void *)word, FUTEX_WAIT, seen, &slice, NULL, 0);
}

static sherd_status wait_for(sherd_rendezvous *rendezvous, int32_t rank, int64_t begin)
{
    seat *other = &rendezvous->seats[rank];
    while (!announced(other, rendezvous->round)) {
        uint32_t seen = atomic_load(&other->round);
        if (seat_dead(other) && !announced(other, rendezvous->round)) {
            return sherd__fail_rank(&rendezvous->error, SHERD_ERANKDEAD, rank,
                                    "rank %" PRId32 " (pid %" PRId64 ") died during start-up", rank, other->pid);
        }
        if (sherd__now_ns() - begin > rendezvous->limit_ns) {
            return sherd__fail_rank(&rendezvous->error, SHERD_ETIMEOUT, rank,
                                    "rank %" PRId32 " did not come to the rendezvous within %g s", rank,
                                    (double)rendezvous->limit_ns * 1e-9);
        }
        if ((int32_t)(seen - rendezvous->round) < 0) {
            sleep_on(&other->round, seen);
        }
    }
    return SHERD_OK;
}

static sherd_status one_round(sherd_rendezvous *rendezvous, const char *mine, char *all, size_t bytes, size_t stride)
{
    seat *own = &rendezvous->seats[rendezvous->rank];
    uint32_t round = ++rendezvous->round;
    int64_t begin = sherd__now_ns();
    memcpy(own->slot[round & 1], mine, bytes);
    atomic_store_explicit(&own->round, round, memory_order_release);
    sherd__flag_wake(&own->round);
    for (int32_t rank = 0; rank < rendezvous->world; rank++) {
        sherd_status status = wait_for(rendezvous, rank, begin);
        if (status != SHERD_OK) {
            return status;
        }
        memcpy(all + (size_t)rank * stride, rendezvous->seats[rank].slot[round & 1], bytes);
    }
    return SHERD_OK;
}

int sherd_rendezvous_allgather(void *ctx, const void *mine, void *all, size_t bytes)
{
    sherd_rendezvous *rendezvous = ctx;
    if (rendezvous->rank < 0) {
        return (int)sherd__fail(&rendezvous->error, SHERD_ESTATE,
                                "all-gather at a rendezvous that this process has not joined");
    }
    for (size_t done = 0; done < bytes && rendezvous->error.status == SHERD_OK; done += ROUND_BYTES) {
        size_t part = bytes - done < ROUND_BYTES ? bytes - done : ROUND_BYTES;
        one_round(rendezvous, (const char *)mine + done, (char *)all + done, part, bytes);
    }
    return (int)rendezvous->error.status;
}

void sherd_rendezvous_destroy(sherd_rendezvous *rendezvous)
{
    if (rendezvous == NULL) {
        return;
    }
    munmap(rendezvous->seats, rendezvous->bytes);
    sherd__free(&sherd__default_allocator, rendezvous, 1, sizeof *rendezvous);
}

void sherd__rendezvous_limit(sherd_rendezvous *rendezvous, double seconds)
{
    rendezvous->limit_ns = (int64_t)(seconds * 1e9);
}

sherd_status sherd__rendezvous_error(sherd_rendezvous *rendezvous, sherd_error *err)
{
    return sherd__pass(err, &rendezvous->error);
}
