/* SPDX-License-Identifier: MIT
 *
 * The scheduler of the checking device. Whoever has the turn and is in a device call draws the next move among all that
 * are legal; every draw depends on the seed and on the state of the ranks, not on the machine, as long as all ranks are
 * where they are expected: the drawer waits a moment for a rank that should call soon.
 */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "device/check.h"

#define TICK_NS (INT64_C(5) * 1000000)
#define POLL_NS (INT64_C(15) * 1000000)
#define DEADLOCK_NS (INT64_C(100) * 1000000)   /* nothing moved and nobody is elsewhere */
#define EXPECT_NS (INT64_C(50) * 1000000)      /* patience for a rank that should come back */
#define EXPECT_NEW_NS (INT64_C(500) * 1000000) /* and for one that has yet to start */
#define STEAL_NS (INT64_C(1000) * 1000000)     /* after this long in the client's code a rank loses the turn */
#define MOOD_MOVES 64

static int64_t limit_of(const sherd__check_device *device)
{
    return atomic_load(&((sherd__check_device *)device)->base.wait_limit_ns);
}

/* splitmix64 (Steele, Lea, Flood 2014) */
static uint64_t draw(sherd_checker *checker)
{
    uint64_t z = checker->random += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

static uint32_t draw_below(sherd_checker *checker, uint32_t n) { return (uint32_t)((draw(checker) >> 32) * n >> 32); }

/* Uniform draws visit few extreme orders; moods make streams lag behind or run ahead for a while. */
static void draw_mood(sherd_checker *checker)
{
    static const uint32_t eager[4] = {0, 64, 160, 250}, restless[4] = {0, 16, 80, 200};
    if (checker->mood_left-- > 0)
        return;
    checker->mood_left = MOOD_MOVES;
    checker->eager = eager[draw_below(checker, 4)];
    checker->restless = restless[draw_below(checker, 4)];
    checker->lazy = draw(checker) & draw(checker);
}

/* ---------------------------------------------------------------------------------------------------------- waiting */

static void tick(sherd_checker *checker, pthread_cond_t *condition, int64_t ns)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t sum = until.tv_nsec + ns;
    until.tv_sec += (time_t)(sum / 1000000000);
    until.tv_nsec = (long)(sum % 1000000000);
    pthread_cond_timedwait(condition, &checker->lock, &until);
}

static int satisfied(const sherd__check_rank *rank)
{
    uint32_t which;
    if (atomic_load(&rank->device->base.failed))
        return rank->wait.kind != SHERD__CHECK_EMPTY || rank->wait.stream->count == 0;
    switch (rank->wait.kind) {
    case SHERD__CHECK_NOTHING:
        return 1;
    case SHERD__CHECK_EVENT:
        return rank->wait.event->reached >= rank->wait.number;
    case SHERD__CHECK_FLAGS:
        return sherd__await_satisfied(rank->wait.await, &which);
    case SHERD__CHECK_SPACE:
        return rank->wait.stream->count < rank->wait.stream->capacity;
    case SHERD__CHECK_EMPTY:
        return rank->wait.stream->count == 0;
    }
    return 1;
}

static void poison_timeout(sherd__check_device *device, const char *who, const char *site, int64_t waited_ns)
{
    sherd_error error;
    sherd__fail(&error, SHERD_ETIMEOUT, "rank %" PRId32 ": %s waited %.1f s at '%s'; what it waits for did not come",
                device->rank, who, (double)waited_ns * 1e-9, site ? site : "?");
    (void)sherd__device_poison(&device->base, &error);
}

/* One look at a wait for flags that is not satisfied; its poll may end it. */
static void poll_await(sherd__check_device *device, const char *who, const sherd__await *await, const sherd__tag *tag,
                       int64_t since_ns)
{
    uint32_t which = 0;
    int64_t waited = sherd__now_ns() - since_ns;
    if (sherd__await_satisfied(await, &which))
        return;
    if (!await->poll) {
        if (waited > limit_of(device))
            poison_timeout(device, who, await->site, waited);
        return;
    }
    sherd_error error = {.status = SHERD_OK, .rank = -1};
    sherd_status status = await->poll(await->ctx, which, waited, tag, &error);
    if (status != SHERD_OK) {
        error.status = status;
        (void)sherd__device_poison(&device->base, &error);
    }
}

static void poll_stream(sherd__check_device *device, sherd__check_stream *stream, int64_t now)
{
    const sherd__op *op = &stream->ring[stream->head].op;
    if (op->kind == SHERD__OP_AWAIT)
        poll_await(device, stream->base.name, &op->u.await, &op->tag, stream->head_since_ns);
    else if (now - stream->head_since_ns > limit_of(device))
        poison_timeout(device, stream->base.name, op->u.event.site, now - stream->head_since_ns);
}

static void poll_rank(sherd__check_rank *rank, int64_t now)
{
    sherd__check_device *device = rank->device;
    for (sherd__check_stream *stream = device->streams; stream; stream = stream->next)
        if (stream->count > 0 && !sherd__check_runnable(stream))
            poll_stream(device, stream, now);
    if (rank->state != SHERD__CHECK_WAITING || satisfied(rank))
        return;
    if (rank->wait.kind == SHERD__CHECK_FLAGS)
        poll_await(device, "its caller", rank->wait.await, &rank->wait.tag, rank->wait.since_ns);
    else if (now - rank->wait.since_ns > limit_of(device))
        poison_timeout(device, "its caller", rank->wait.site, now - rank->wait.since_ns);
}

static void poll_all(sherd_checker *checker, int64_t now)
{
    checker->swept_ns = now;
    for (int32_t r = 0; r < checker->ranks; r++)
        if (checker->rank[r].device && !atomic_load(&checker->rank[r].device->base.failed))
            poll_rank(&checker->rank[r], now);
}

/* --------------------------------------------------------------------------------------------------------- deadlock */

/* Every rank is in a device call or gone: nothing outside can change anything. */
static int all_inside(const sherd_checker *checker)
{
    for (int32_t r = 0; r < checker->ranks; r++)
        if (checker->rank[r].state != SHERD__CHECK_WAITING && checker->rank[r].state != SHERD__CHECK_LEFT)
            return 0;
    return 1;
}

static size_t describe_wait(char *text, size_t bytes, const sherd__check_rank *rank)
{
    size_t used = 0;
    for (const sherd__check_stream *stream = rank->device->streams; stream; stream = stream->next) {
        if (stream->count == 0 || used >= bytes)
            continue;
        const sherd__op *op = &stream->ring[stream->head].op;
        const char *site = op->kind == SHERD__OP_AWAIT ? op->u.await.site : op->u.event.site;
        used += (size_t)snprintf(text + used, bytes - used, " rank %" PRId32 " stream '%s' at '%s';",
                                 rank->device->rank, stream->base.name, site ? site : "?");
    }
    if (used < bytes && !satisfied(rank))
        used += (size_t)snprintf(text + used, bytes - used, " rank %" PRId32 "'s caller at '%s';", rank->device->rank,
                                 rank->wait.site ? rank->wait.site : "?");
    return used < bytes ? used : bytes - 1;
}

static void declare_deadlock(sherd_checker *checker)
{
    char waits[420] = "";
    size_t used = 0;
    sherd_error error;
    for (int32_t r = 0; r < checker->ranks; r++)
        if (checker->rank[r].state == SHERD__CHECK_WAITING)
            used += describe_wait(waits + used, sizeof waits - used, &checker->rank[r]);
    sherd__fail(&error, SHERD_ETIMEOUT, "deadlock, every rank waits and nothing can run:%s", waits);
    for (int32_t r = 0; r < checker->ranks; r++)
        if (checker->rank[r].device)
            (void)sherd__device_poison(&checker->rank[r].device->base, &error);
}

/* There is no move. Somebody may come back from elsewhere, or a poll may end a wait. */
static void idle(sherd_checker *checker)
{
    int64_t now = sherd__now_ns();
    if (checker->idle_since_ns == 0)
        checker->idle_since_ns = now;
    poll_all(checker, now);
    if (all_inside(checker) && now - checker->idle_since_ns > DEADLOCK_NS)
        declare_deadlock(checker);
    else
        tick(checker, &checker->changed, TICK_NS);
}

/* --------------------------------------------------------------------------------------------------------- moves */

typedef struct moves {
    sherd__check_stream *streams[SHERD__CHECK_COMPONENTS];
    sherd__check_rank *ranks[SHERD__CHECK_COMPONENTS];
    uint32_t n_streams, n_ranks;
    int last; /* the rank that was last let go on is among them */
} moves;

static void collect(sherd_checker *checker, moves *out)
{
    out->n_streams = out->n_ranks = 0;
    out->last = 0;
    for (int32_t r = 0; r < checker->ranks; r++) {
        sherd__check_rank *rank = &checker->rank[r];
        if (!rank->device)
            continue;
        for (sherd__check_stream *stream = rank->device->streams; stream; stream = stream->next)
            if (sherd__check_runnable(stream))
                out->streams[out->n_streams++] = stream;
        if (rank->state == SHERD__CHECK_WAITING && satisfied(rank)) {
            out->last |= r == checker->last;
            out->ranks[out->n_ranks++] = rank;
        }
    }
}

static sherd__check_stream *draw_stream(sherd_checker *checker, const moves *legal)
{
    uint32_t first = draw_below(checker, legal->n_streams);
    for (uint32_t i = 0; i < legal->n_streams; i++) {
        sherd__check_stream *stream = legal->streams[(first + i) % legal->n_streams];
        if (!(checker->lazy >> stream->component & 1))
            return stream;
    }
    return legal->streams[first];
}

/* Who draws must not matter, only what there is to draw from: it may depend on the machine which of several ranks
 * draws. */
static sherd__check_rank *draw_rank(sherd_checker *checker, const moves *legal)
{
    if (legal->last && (draw(checker) & 255) >= checker->restless)
        return &checker->rank[checker->last];
    sherd__check_rank *rank = legal->ranks[draw_below(checker, legal->n_ranks)];
    checker->last = (int32_t)(rank - checker->rank);
    return rank;
}

/* Waits, but not for long, until every rank that should call soon is in a call. */
static void gather_expected(sherd_checker *checker)
{
    int64_t begin = sherd__now_ns(), patience = 0;
    for (;;) {
        int missing = 0;
        for (int32_t r = 0; r < checker->ranks; r++) {
            const sherd__check_rank *rank = &checker->rank[r];
            if (rank->expected && (rank->state == SHERD__CHECK_NEW || rank->state == SHERD__CHECK_FREE)) {
                int64_t due = rank->state == SHERD__CHECK_NEW ? EXPECT_NEW_NS : EXPECT_NS;
                patience = due > patience ? due : patience;
                missing = 1;
            }
        }
        if (!missing)
            return;
        if (sherd__now_ns() - begin > patience)
            break;
        tick(checker, &checker->changed, TICK_NS);
    }
    for (int32_t r = 0; r < checker->ranks; r++)
        checker->rank[r].expected = 0;
}

/* Returns 1 when the turn was given because the rank's wait is satisfied, 0 when it fell to the rank to draw. */
static int wait_turn(sherd_checker *checker, sherd__check_rank *me)
{
    int32_t number = (int32_t)(me - checker->rank);
    while (checker->current != number) {
        if (checker->current >= 0) {
            sherd__check_rank *owner = &checker->rank[checker->current];
            int stale = owner->state == SHERD__CHECK_TURN && (pthread_equal(checker->holder, pthread_self()) ||
                                                              sherd__now_ns() - checker->moved_ns > STEAL_NS);
            if (stale)
                owner->state = SHERD__CHECK_FREE;
            if (stale || owner->state == SHERD__CHECK_FREE || owner->state == SHERD__CHECK_LEFT)
                checker->current = -1;
        }
        if (checker->current < 0) {
            checker->current = number;
            me->granted = 0;
        } else {
            tick(checker, &me->turn, POLL_NS);
        }
    }
    return me->granted;
}

static void give_turn(sherd_checker *checker, sherd__check_rank *to, int granted)
{
    checker->current = (int32_t)(to - checker->rank);
    to->granted = granted;
    pthread_cond_signal(&to->turn);
}

/* Draws moves until one of them is to let this rank go on. */
static void schedule(sherd_checker *checker, sherd__check_rank *me)
{
    moves legal;
    for (;;) {
        gather_expected(checker);
        int64_t now = sherd__now_ns();
        if (now - checker->swept_ns > POLL_NS)
            poll_all(checker, now);
        collect(checker, &legal);
        if (legal.n_streams == 0 && legal.n_ranks == 0) {
            idle(checker);
            continue;
        }
        checker->idle_since_ns = 0;
        draw_mood(checker);
        int run = legal.n_streams > 0 && (legal.n_ranks == 0 || (draw(checker) & 255) < checker->eager);
        if (run) {
            sherd__check_run_head(draw_stream(checker, &legal));
            continue;
        }
        sherd__check_rank *next = draw_rank(checker, &legal);
        if (next == me)
            return;
        give_turn(checker, next, 1);
        if (wait_turn(checker, me))
            return;
    }
}

/* --------------------------------------------------------------------------------------------------------- calls */

static const sherd__check_wait no_wait = {.kind = SHERD__CHECK_NOTHING};

static void take_turn(sherd_checker *checker, sherd__check_rank *me, const sherd__check_wait *wait)
{
    me->wait = wait ? *wait : no_wait;
    me->wait.since_ns = sherd__now_ns();
    me->expected = 0;
    me->granted = 0;
    me->state = SHERD__CHECK_WAITING;
    pthread_cond_broadcast(&checker->changed);
    if (!wait_turn(checker, me))
        schedule(checker, me);
}

sherd_status sherd__check_enter(sherd__check_device *device, const sherd__check_wait *wait)
{
    sherd_checker *checker = device->checker;
    pthread_mutex_lock(&device->call);
    pthread_mutex_lock(&checker->lock);
    take_turn(checker, &checker->rank[device->rank], wait);
    return sherd__device_error(&device->base, NULL);
}

void sherd__check_leave(sherd__check_device *device)
{
    sherd_checker *checker = device->checker;
    checker->rank[device->rank].state = SHERD__CHECK_TURN;
    checker->holder = pthread_self();
    checker->moved_ns = sherd__now_ns();
    pthread_mutex_unlock(&checker->lock);
    pthread_mutex_unlock(&device->call);
}

/* The turn goes to a waiting rank, any of them: it draws, and may draw another. */
static void pass_turn(sherd_checker *checker, const sherd__check_rank *from)
{
    if (checker->current != (int32_t)(from - checker->rank))
        return;
    checker->current = -1;
    for (int32_t r = 0; r < checker->ranks && checker->current < 0; r++)
        if (checker->rank[r].state == SHERD__CHECK_WAITING)
            give_turn(checker, &checker->rank[r], 0);
}

void sherd__check_quit(sherd__check_device *device)
{
    sherd_checker *checker = device->checker;
    sherd__check_rank *me = &checker->rank[device->rank];
    me->state = SHERD__CHECK_LEFT;
    me->expected = 0;
    me->device = NULL;
    pass_turn(checker, me);
    pthread_cond_broadcast(&checker->changed);
}

/* Ranks usually go outside to meet. Whoever comes last waits for nobody, and lets all others come back: then all are
 * expected. */
static void expect_return(sherd_checker *checker, const sherd__check_rank *me)
{
    for (int32_t r = 0; r < checker->ranks; r++)
        if (checker->rank[r].state != SHERD__CHECK_LEFT && checker->rank[r].visits < me->visits)
            return;
    for (int32_t r = 0; r < checker->ranks; r++)
        if (checker->rank[r].state == SHERD__CHECK_FREE && checker->rank[r].visits == me->visits)
            checker->rank[r].expected = 1;
}

void sherd__check_outside_begin(sherd_device *base)
{
    const sherd__check_device *device = (const sherd__check_device *)base;
    sherd_checker *checker = device->checker;
    pthread_mutex_lock(&checker->lock);
    sherd__check_rank *me = &checker->rank[device->rank];
    me->state = SHERD__CHECK_FREE;
    me->expected = 0;
    me->visits++;
    expect_return(checker, me);
    pass_turn(checker, me);
    pthread_cond_broadcast(&checker->changed);
    pthread_mutex_unlock(&checker->lock);
}

void sherd__check_outside_end(sherd_device *base)
{
    sherd__check_device *device = (sherd__check_device *)base;
    sherd_checker *checker = device->checker;
    pthread_mutex_lock(&device->call);
    pthread_mutex_lock(&checker->lock);
    take_turn(checker, &checker->rank[device->rank], NULL);
    sherd__check_leave(device);
}
