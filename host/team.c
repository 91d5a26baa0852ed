/* SPDX-License-Identifier: MIT
 *
 * One loop at a time is shared out: `owner` is held by the stream whose loop runs, and whoever finds it taken works
 * alone, so that no stream ever waits for another's loop. A loop is open while the OPEN bit of `inside` is set; a
 * worker joins by counting itself in while that bit stands, so one that wakes late finds the loop closed and a short
 * loop never waits for a slow wake-up: the caller closes the loop and waits only for workers that are in the middle of
 * a chunk.
 *
 * The seats of each memory node form a group with a counter of its own, from which its members claim chunks. Idle
 * workers look at `loop` for a while before they sleep on it; the caller makes a system call only when somebody sleeps.
 *
 * A child of fork() has the team's memory but none of its threads. `alive` lies in a page that the kernel gives to
 * children as zeros, which is how a child knows that it is alone.
 */
#include "host/team.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "host/futex.h"
#include "host/pin.h"

#define OPEN 0x80000000u
#define TICK_NS 100000000            /* longest sleep; every condition is looked at again after it */
#define CALLER_SPIN_NS 20000         /* a chunk's end is usually near when the caller waits for it */
#define STUCK_NS INT64_C(2000000000) /* a STAY loop nobody has claimed from for so long is finished by the caller */

typedef struct team_worker {
    sherd__team *team;
    pthread_t thread;
    int32_t number, group;
} team_worker;

typedef struct team_group {
    _Alignas(64) _Atomic int64_t next;
    int64_t end;
    int32_t node;
} team_group;

struct sherd__team {
    _Alignas(64) _Atomic uint32_t loop; /* number of the latest loop; what idle workers watch */
    _Atomic uint32_t inside;            /* workers in the loop, and the OPEN bit */
    _Atomic int32_t sleepers;           /* workers asleep on `loop`, or about to be */
    _Atomic int32_t stop;
    _Alignas(64) _Atomic uint32_t news; /* counts what the caller, once asleep, has to look at */
    _Atomic int32_t caller_sleeps;
    _Atomic int64_t left; /* chunks not done; kept by workers as they leave */
    /* Written by the caller before it opens a loop. */
    sherd__team_fn fn;
    void *arg;
    sherd__team_how how;
    _Atomic uint64_t wakes;
    /* Fixed. */
    sherd_allocator allocator;
    int32_t threads; /* with the caller */
    int32_t started; /* workers that exist: threads − 1 once created */
    int32_t groups, unpinned;
    int32_t caller_cpu;
    int64_t spin_ns;
    team_worker *workers; /* [threads − 1] */
    team_group *group;    /* [groups] */
    volatile uint32_t *alive;
    pthread_mutex_t owner;
    char name[9], unpinned_text[160];
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ------------------------------------------------------------------------------------------------------------ claiming
 */

static int64_t claim_from(team_group *group, sherd__team_fn fn, void *arg, int32_t worker)
{
    int64_t done = 0;
    for (;; done++) {
        int64_t chunk = atomic_fetch_add_explicit(&group->next, 1, memory_order_relaxed);
        if (chunk >= group->end)
            return done;
        fn(arg, chunk, worker);
    }
}

/* The own node's chunks first, then, if asked to help, the others' in turn. */
static int64_t claim_chunks(sherd__team *team, int32_t first, sherd__team_how how, int32_t worker)
{
    int32_t groups = how == SHERD__TEAM_HELP ? team->groups : 1;
    int64_t done = 0;
    for (int32_t i = 0; i < groups; i++) {
        team_group *group = &team->group[(first + i) % team->groups];
        /* Looking costs less than claiming where all is claimed already. */
        if (atomic_load_explicit(&group->next, memory_order_relaxed) < group->end)
            done += claim_from(group, team->fn, team->arg, worker);
    }
    return done;
}

/* ------------------------------------------------------------------------------------------------------------- workers
 */

static int join_loop(sherd__team *team)
{
    uint32_t inside = atomic_load_explicit(&team->inside, memory_order_relaxed);
    while (inside & OPEN)
        if (atomic_compare_exchange_weak_explicit(&team->inside, &inside, inside + 1, memory_order_acquire,
                                                  memory_order_relaxed))
            return 1;
    return 0;
}

/* Sequentially consistent with the caller's announcement that it goes to sleep: one of the two sees the other. */
static void leave_loop(sherd__team *team, int64_t done)
{
    if (done > 0)
        atomic_fetch_sub(&team->left, done);
    atomic_fetch_sub(&team->inside, 1);
    if (atomic_load(&team->caller_sleeps)) {
        atomic_fetch_add(&team->news, 1);
        sherd__futex_wake_all(&team->news, SHERD__FUTEX_PROCESS);
    }
}

static int spin_for_loop(sherd__team *team, uint32_t seen)
{
    int64_t until = team->spin_ns > 0 ? now_ns() + team->spin_ns : 0;
    if (until == 0)
        return 0;
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(&team->loop, memory_order_acquire) != seen)
                return 1;
            relax();
        }
    } while (now_ns() < until);
    return 0;
}

static void await_loop(sherd__team *team, uint32_t seen)
{
    if (spin_for_loop(team, seen))
        return;
    atomic_fetch_add(&team->sleepers, 1);
    while (atomic_load(&team->loop) == seen) /* idle: ended by the next loop or by destroy */
        sherd__futex_wait(&team->loop, seen, 10 * (int64_t)TICK_NS, SHERD__FUTEX_PROCESS);
    atomic_fetch_sub(&team->sleepers, 1);
}

static void *worker_main(void *arg)
{
    team_worker *self = arg;
    sherd__team *team = self->team;
    uint32_t seen = 0;
    (void)sherd__float_mode_enter();
    for (;;) {
        await_loop(team, seen);
        seen = atomic_load(&team->loop);
        if (atomic_load(&team->stop))
            return NULL;
        if (join_loop(team))
            leave_loop(team, claim_chunks(team, self->group, team->how, self->number));
    }
}

/* -------------------------------------------------------------------------------------------------------------- caller
 */

static int64_t claimed(const sherd__team *team)
{
    int64_t sum = 0;
    for (int32_t i = 0; i < team->groups; i++)
        sum += atomic_load_explicit(&team->group[i].next, memory_order_relaxed);
    return sum;
}

static int all_done(sherd__team *team)
{
    return atomic_load(&team->left) == 0;
}
static int nobody_inside(sherd__team *team)
{
    return (atomic_load(&team->inside) & ~OPEN) == 0;
}

/* Waits for what workers bring about. 0: nobody claimed anything for STUCK_NS, or there are no workers in this process.
 */
static int wait_for(sherd__team *team, int (*condition)(sherd__team *team))
{
    int64_t begin = now_ns(), moved = begin, progress = claimed(team);
    int holds = condition(team);
    for (int i = 1; !holds && now_ns() - begin < CALLER_SPIN_NS; i++) {
        relax();
        holds = condition(team);
    }
    atomic_store(&team->caller_sleeps, 1);
    while (!holds && *team->alive) {
        uint32_t seen = atomic_load(&team->news);
        holds = condition(team);
        if (holds)
            break;
        sherd__futex_wait(&team->news, seen, TICK_NS, SHERD__FUTEX_PROCESS);
        int64_t now = now_ns(), latest = claimed(team);
        if (latest != progress) {
            progress = latest;
            moved = now;
        } else if (condition == all_done && now - moved > STUCK_NS) {
            break;
        }
    }
    atomic_store(&team->caller_sleeps, 0);
    return holds;
}

static void wake_workers(sherd__team *team, int64_t chunks)
{
    atomic_fetch_add(&team->loop, 1);
    if (atomic_load(&team->sleepers) == 0)
        return;
    atomic_fetch_add_explicit(&team->wakes, 1, memory_order_relaxed);
    int32_t wanted = chunks - 1 < INT_MAX && team->groups == 1 ? (int32_t)(chunks - 1) : INT_MAX;
    sherd__futex_wake(&team->loop, wanted, SHERD__FUTEX_PROCESS);
}

static void run_shared(sherd__team *team, const int64_t *ends, int64_t chunks, sherd__team_how how, sherd__team_fn fn,
                       void *arg)
{
    for (int32_t i = 0; i < team->groups; i++) {
        atomic_store_explicit(&team->group[i].next, i == 0 ? 0 : ends[i - 1], memory_order_relaxed);
        team->group[i].end = ends[i];
    }
    team->fn = fn;
    team->arg = arg;
    team->how = how;
    atomic_store(&team->left, chunks);
    atomic_store(&team->inside, OPEN);
    wake_workers(team, chunks);
    int64_t done = claim_chunks(team, 0, how, 0);
    atomic_fetch_sub(&team->left, done);
    if (how == SHERD__TEAM_STAY && !wait_for(team, all_done))
        (void)claim_chunks(team, 0, SHERD__TEAM_HELP, 0);
    atomic_fetch_and(&team->inside, ~OPEN);
    (void)wait_for(team, nobody_inside); /* each is finishing one chunk: no limit is needed */
}

static int take_team(sherd__team *team, int64_t chunks)
{
    return team && team->threads > 1 && chunks > 1 && *team->alive && pthread_mutex_trylock(&team->owner) == 0;
}

static void run_alone(int64_t chunks, sherd__team_fn fn, void *arg)
{
    for (int64_t chunk = 0; chunk < chunks; chunk++)
        fn(arg, chunk, 0);
}

void sherd__team_run(sherd__team *team, int64_t chunks, sherd__team_fn fn, void *arg)
{
    if (!take_team(team, chunks)) {
        run_alone(chunks, fn, arg);
        return;
    }
    int64_t ends[SHERD__MAX_NODES];
    for (int32_t i = 0; i < team->groups; i++)
        ends[i] = chunks;
    run_shared(team, ends, chunks, SHERD__TEAM_HELP, fn, arg);
    pthread_mutex_unlock(&team->owner);
}

void sherd__team_run_nodes(sherd__team *team, const int64_t *ends, sherd__team_how how, sherd__team_fn fn, void *arg)
{
    int64_t chunks = ends[sherd__team_nodes(team) - 1];
    if (!take_team(team, chunks > 0 ? 2 : 0)) { /* even one chunk may belong to another node */
        run_alone(chunks, fn, arg);
        return;
    }
    run_shared(team, ends, chunks, how, fn, arg);
    pthread_mutex_unlock(&team->owner);
}

/* -------------------------------------------------------------------------------------------------------- life and end
 */

static sherd_status map_alive(sherd__team *team, sherd_error *err)
{
    size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
    void *page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a page of the team");
    (void)madvise(page, bytes, MADV_WIPEONFORK); /* before Linux 4.14: children must not use the team */
    team->alive = page;
    *team->alive = 1;
    return SHERD_OK;
}

static void note_unpinned(sherd__team *team, int32_t number, int32_t cpu, int code)
{
    if (team->unpinned++ == 0)
        snprintf(team->unpinned_text, sizeof team->unpinned_text,
                 "worker %d could not be pinned to processor %d (%s): it runs where the kernel puts it", number, cpu,
                 strerror(code));
}

static sherd_status start_workers(sherd__team *team, const sherd__seat *seats, sherd_error *err)
{
    for (int32_t i = 0; i + 1 < team->threads; i++) {
        team_worker *worker = &team->workers[i];
        int32_t cpu = seats ? seats[i + 1].cpu : -1;
        char name[24];
        int code = pthread_create(&worker->thread, NULL, worker_main, worker);
        if (code != 0)
            return sherd__fail(err, SHERD_ESYSTEM,
                               "worker thread %d of %d could not be started: %s; ask for fewer threads", i + 1,
                               team->threads, strerror(code));
        team->started++;
        snprintf(name, sizeof name, "%s-%d", team->name, i + 1);
        (void)pthread_setname_np(worker->thread, name);
        code = cpu >= 0 ? sherd__pin_thread(worker->thread, cpu) : 0;
        if (code != 0)
            note_unpinned(team, i + 1, cpu, code);
    }
    return SHERD_OK;
}

/* Seats come sorted by node: each change of node begins a group. Needs room for MAX_NODES groups at most. */
static sherd_status make_groups(sherd__team *team, const sherd__seat *seats, sherd_error *err)
{
    int32_t groups = 1;
    for (int32_t i = 1; seats && i < team->threads; i++)
        groups += seats[i].node != seats[i - 1].node;
    if (groups > SHERD__MAX_NODES)
        return sherd__fail(err, SHERD_EINVAL,
                           "a team's seats change their node %d times: at most %d nodes are possible, and "
                           "seats must be sorted by node",
                           groups - 1, SHERD__MAX_NODES);
    team->groups = groups;
    team->group = sherd__alloc(&team->allocator, (size_t)groups, sizeof *team->group);
    team->workers = sherd__alloc(&team->allocator, (size_t)team->threads, sizeof *team->workers);
    if (!team->group || !team->workers)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a team of %d threads", team->threads);
    int32_t group = 0;
    team->group[0].node = seats ? seats[0].node : -1;
    for (int32_t i = 1; i < team->threads; i++) {
        if (seats && seats[i].node != seats[i - 1].node)
            team->group[++group].node = seats[i].node;
        team->workers[i - 1] = (team_worker){.team = team, .number = i, .group = group};
    }
    return SHERD_OK;
}

sherd_status sherd__team_make(const sherd__team_options *options, sherd__team **out, sherd_error *err)
{
    int32_t threads = options->threads;
    if (threads < 1 || threads > 4096)
        return sherd__fail(err, SHERD_EINVAL, "a team of %d threads: from 1 to 4096 are possible", threads);
    sherd_allocator memory = sherd__allocator_or_default(options->allocator);
    sherd__team *team = sherd__alloc(&memory, 1, sizeof *team);
    if (!team)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a team of %d threads", threads);
    team->allocator = memory;
    team->threads = threads;
    team->spin_ns = options->spin_ns;
    team->caller_cpu = options->seats ? options->seats[0].cpu : -1;
    snprintf(team->name, sizeof team->name, "%s", options->name ? options->name : "sherd");
    pthread_mutex_init(&team->owner, NULL);
    sherd_status status = map_alive(team, err);
    if (status == SHERD_OK)
        status = make_groups(team, options->seats, err);
    if (status == SHERD_OK)
        status = start_workers(team, options->seats, err);
    if (status != SHERD_OK) {
        sherd__team_destroy(team);
        return status;
    }
    *out = team;
    return SHERD_OK;
}

sherd_status sherd__team_create(const sherd_allocator *allocator, int32_t threads, sherd__team **out, sherd_error *err)
{
    sherd__team_options options = {.allocator = allocator, .threads = threads};
    return sherd__team_make(&options, out, err);
}

static void stop_workers(sherd__team *team)
{
    atomic_store(&team->stop, 1);
    atomic_fetch_add(&team->loop, 1);
    sherd__futex_wake_all(&team->loop, SHERD__FUTEX_PROCESS);
    for (int32_t i = 0; i < team->started; i++)
        pthread_join(team->workers[i].thread, NULL);
    pthread_mutex_destroy(&team->owner);
}

void sherd__team_destroy(sherd__team *team)
{
    if (!team)
        return;
    if (team->alive && *team->alive)
        stop_workers(team);
    if (team->alive)
        munmap((void *)(uintptr_t)team->alive, (size_t)sysconf(_SC_PAGESIZE));
    sherd_allocator memory = team->allocator;
    sherd__free(&memory, team->workers, (size_t)team->threads, sizeof *team->workers);
    sherd__free(&memory, team->group, (size_t)team->groups, sizeof *team->group);
    sherd__free(&memory, team, 1, sizeof *team);
}

int32_t sherd__team_threads(const sherd__team *team)
{
    return team ? team->threads : 1;
}
int32_t sherd__team_nodes(const sherd__team *team)
{
    return team ? team->groups : 1;
}
int32_t sherd__team_node(const sherd__team *team, int32_t n)
{
    return team ? team->group[n].node : -1;
}

uint64_t sherd__team_wakes(const sherd__team *team)
{
    return team ? atomic_load_explicit(&((sherd__team *)(uintptr_t)team)->wakes, memory_order_relaxed) : 0;
}

int32_t sherd__team_unpinned(const sherd__team *team, const char **text)
{
    if (text)
        *text = team ? team->unpinned_text : "";
    return team ? team->unpinned : 0;
}

sherd_status sherd__team_pin_caller(const sherd__team *team, sherd_error *err)
{
    int code = team && team->caller_cpu >= 0 ? sherd__pin_thread(pthread_self(), team->caller_cpu) : 0;
    if (code == 0)
        return SHERD_OK;
    return sherd__fail(err, SHERD_ESYSTEM, "the calling thread could not be pinned to processor %d: %s",
                       team->caller_cpu, strerror(code));
}
