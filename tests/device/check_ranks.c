/* SPDX-License-Identifier: MIT
 *
 * The checking device with several ranks, each a thread: messages by signal and await, turns, meeting outside the
 * device.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/device/check_world.h"

enum { RANKS = 3, ROUNDS = 12, SEEDS = 20, ELEMS = 64 };

/* What the ranks share. Every rank writes its own line of `data`, in each round, and reads its neighbour's. */
typedef struct world {
    int32_t ranks;
    sherd_checker *checker;
    uint64_t *data; /* [ranks][ELEMS], on rank 0's device */
    _Atomic uint32_t arrive[RANKS * 16], depart[RANKS * 16];
    uint64_t sum[RANKS];
    int leave_out;  /* 1: readers do not wait for the writer; 2: writers do not wait for the readers */
    int meet;       /* 1: ranks meet outside the device between rounds */
    pthread_barrier_t barrier;
    sherd_status status[RANKS];
    sherd_error error[RANKS];
    sherd_device *device[RANKS];
} world;

typedef struct rank_args {
    world *world;
    int32_t rank;
} rank_args;

typedef struct fill {
    uint64_t *line, value;
} fill;

static void fill_line(void *arg)
{
    const fill *self = arg;
    for (int i = 0; i < ELEMS; i++)
        self->line[i] = self->value;
}

typedef struct read_args {
    const uint64_t *line;
    uint64_t *sum;
} read_args;

static void read_line(void *arg)
{
    const read_args *self = arg;
    for (int i = 0; i < ELEMS; i++)
        *self->sum = *self->sum * 31 + self->line[i];
}

static void meet_outside(world *world, sherd_device *device)
{
    sherd__device_outside_begin(device);
    pthread_barrier_wait(&world->barrier);
    sherd__device_outside_end(device);
}

static sherd_status one_round(world *world, int32_t rank, uint32_t round, sherd__stream *stream, fill *fills,
                              read_args *reads)
{
    sherd_device *device = world->device[rank];
    const sherd__device_ops *ops = device->ops;
    sherd__tag write_tag = {"write", rank, round}, read_tag = {"read", rank, round};
    int32_t left = (rank + world->ranks - 1) % world->ranks, right = (rank + 1) % world->ranks;
    static _Thread_local _Atomic uint32_t *written[1], *readers[1];
    written[0] = &world->arrive[16 * left];
    readers[0] = &world->depart[16 * right];
    sherd__await peers_write = {.flags = written, .count = 1, .value = round, .site = "reader waits for writer"};
    sherd__await peers_read = {.flags = readers, .count = 1, .value = round - 1, .site = "writer waits for reader"};
    sherd__access writes = {fills->line, ELEMS * 8, 1}, read = {reads->line, ELEMS * 8, 0};
    sherd_status status = SHERD_OK;
    if (world->leave_out != 2)
        status = ops->await(stream, write_tag, &peers_read);
    if (status == SHERD_OK)
        status = ops->host_call(stream, write_tag, fill_line, fills, &writes, 1);
    if (status == SHERD_OK)
        status = ops->signal(stream, write_tag, &world->arrive[16 * rank], round);
    if (status == SHERD_OK && world->leave_out != 1)
        status = ops->await(stream, read_tag, &peers_write);
    if (status == SHERD_OK)
        status = ops->host_call(stream, read_tag, read_line, reads, &read, 1);
    return status == SHERD_OK ? ops->signal(stream, read_tag, &world->depart[16 * rank], round) : status;
}

static void *rank_main(void *arg)
{
    const rank_args *self = arg;
    world *world = self->world;
    int32_t rank = self->rank, left = (rank + world->ranks - 1) % world->ranks;
    sherd_device *device = world->device[rank];
    sherd__stream *stream = NULL;
    fill fills[ROUNDS];
    read_args reads = {world->data + left * ELEMS, &world->sum[rank]};
    sherd_status status = device->ops->stream_create(device, "comm", 5, &stream, NULL);
    for (uint32_t round = 1; round <= ROUNDS && status == SHERD_OK; round++) {
        fills[round - 1] = (fill){world->data + rank * ELEMS, round * 1000 + (uint64_t)rank};
        status = one_round(world, rank, round, stream, &fills[round - 1], &reads);
        if (world->meet && status == SHERD_OK)
            meet_outside(world, device);
    }
    device->ops->stream_destroy(stream);
    world->status[rank] = sherd__device_error(device, &world->error[rank]);
    if (rank == 0)
        sherd__device_outside_begin(device); /* it holds the data, and goes last */
    else
        sherd_device_destroy(device);
    return NULL;
}

typedef struct result {
    sherd_status verdict;
    sherd_error error;
    uint64_t order, sum[RANKS];
} result;

static result run_world(int32_t ranks, uint64_t seed, int leave_out, int meet, const char *drop)
{
    static world world;
    pthread_t thread[RANKS];
    rank_args args[RANKS];
    result out = {.verdict = SHERD_OK};
    memset(&world, 0, sizeof world);
    world.ranks = ranks;
    world.leave_out = leave_out;
    world.meet = meet;
    world.checker = make_checker(ranks, seed);
    sherd__checker_drop(world.checker, drop);
    pthread_barrier_init(&world.barrier, NULL, (unsigned)ranks);
    for (int32_t r = 0; r < ranks; r++)
        world.device[r] = make_check_device(world.checker, r);
    OK(sherd_device_alloc(world.device[0], RANKS * ELEMS * 8, SHERD_CAT_COMMUNICATION, (void **)&world.data, NULL));
    memset(world.data, 0, RANKS * ELEMS * 8);
    for (int32_t r = 0; r < ranks; r++) {
        args[r] = (rank_args){&world, r};
        assert_int_equal(pthread_create(&thread[r], NULL, rank_main, &args[r]), 0);
    }
    for (int32_t r = 0; r < ranks; r++)
        pthread_join(thread[r], NULL);
    for (int32_t r = 0; r < ranks; r++)
        if (world.status[r] != SHERD_OK)
            fail_msg("rank %d: %s", r, world.error[r].text);
    out.verdict = sherd_checker_verdict(world.checker, NULL, &out.error);
    out.order = sherd__checker_order(world.checker);
    memcpy(out.sum, world.sum, sizeof out.sum);
    sherd_device_free(world.device[0], world.data);
    sherd_device_destroy(world.device[0]);
    pthread_barrier_destroy(&world.barrier);
    sherd_checker_destroy(world.checker);
    return out;
}

static void messages_are_clean_and_equal_in_every_order(void **state)
{
    (void)state;
    for (int32_t ranks = 2; ranks <= RANKS; ranks++) {
        result first = {.verdict = SHERD_OK};
        int different = 0;
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            result out = run_world(ranks, seed, 0, (int)(seed & 1), NULL);
            if (out.verdict != SHERD_OK)
                fail_msg("%d ranks, seed %d: %s", ranks, (int)seed, out.error.text);
            if (seed == 0)
                first = out;
            assert_memory_equal(first.sum, out.sum, sizeof out.sum);
            different += out.order != first.order;
        }
        assert_true(different > SEEDS / 2);
        assert_true(first.sum[0] != 0 && first.sum[0] != first.sum[1]);
    }
}

static void a_seed_draws_the_same_order_twice(void **state)
{
    (void)state;
    int same = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        result a = run_world(RANKS, seed, 0, (int)(seed & 1), NULL),
               b = run_world(RANKS, seed, 0, (int)(seed & 1), NULL);
        same += a.order == b.order;
    }
    /* A machine that stalls a thread for longer than the checker's patience may change an order; not many. */
    assert_true(same >= SEEDS - 2);
}

static void missing_and_dropped_waits_are_reported(void **state)
{
    static const char *const sites[2] = {"reader waits for writer", "writer waits for reader"};
    (void)state;
    for (int which = 0; which < 2; which++) {
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            result left_out = run_world(2, seed, which + 1, 0, NULL),
                   dropped = run_world(RANKS, seed, 0, 0, sites[which]);
            assert_int_equal(left_out.verdict, SHERD_ERACE);
            assert_int_equal(dropped.verdict, SHERD_ERACE);
            assert_non_null(strstr(dropped.error.text, "write[bucket"));
            assert_non_null(strstr(dropped.error.text, "read[bucket"));
        }
    }
}

/* Left-out waits do not only lack a proof: some order goes wrong for real. */
static void a_missing_wait_gives_wrong_bits_in_some_order(void **state)
{
    (void)state;
    result right = run_world(2, 0, 0, 0, NULL);
    int wrong = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        result out = run_world(2, seed, 1, 0, NULL);
        wrong += memcmp(out.sum, right.sum, sizeof out.sum) != 0;
    }
    assert_true(wrong > 0);
}

/* One rank waits for a word that its peer, which has left, will never set. */
static void *leave_at_once(void *arg)
{
    sherd_device_destroy(arg);
    return NULL;
}

static void a_peer_that_left_is_a_deadlock(void **state)
{
    (void)state;
    sherd_checker *checker = make_checker(2, 3);
    sherd_device *stays = make_check_device(checker, 0), *leaves = make_check_device(checker, 1);
    pthread_t thread;
    _Atomic uint32_t word = 0;
    _Atomic uint32_t *flags[1] = {&word};
    sherd__await await = {.flags = flags, .count = 1, .value = 1, .site = "a peer's word"};
    sherd_error err;
    assert_int_equal(pthread_create(&thread, NULL, leave_at_once, leaves), 0);
    assert_int_equal(stays->ops->await(stays->compute, (sherd__tag){"vote", -1, 1}, &await), SHERD_ETIMEOUT);
    pthread_join(thread, NULL);
    assert_int_equal(sherd__device_error(stays, &err), SHERD_ETIMEOUT);
    assert_non_null(strstr(err.text, "rank 0's caller at 'a peer's word'"));
    sherd_device_destroy(stays);
    sherd_checker_destroy(checker);
}

/* A rank that blocks in the client's code without saying so loses its turn after a while instead of hanging the others.
 */
static void *signal_after_a_call(void *arg)
{
    world *world = arg;
    sherd_device *device = world->device[1];
    sherd__tag tag = {"late", -1, 1};
    world->status[1] = device->ops->signal(device->compute, tag, &world->arrive[16], 1);
    return NULL;
}

static void a_sleeping_rank_loses_its_turn(void **state)
{
    (void)state;
    static world world;
    memset(&world, 0, sizeof world);
    sherd_checker *checker = make_checker(2, 3);
    for (int32_t r = 0; r < 2; r++)
        world.device[r] = make_check_device(checker, r);
    sherd__tag tag = {"early", -1, 1};
    OK(world.device[0]->ops->signal(world.device[0]->compute, tag, &world.arrive[0], 1)); /* takes the turn */
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, signal_after_a_call, &world), 0);
    pthread_join(thread, NULL); /* a join is outside the device, and nobody said so */
    OK(world.status[1]);
    assert_int_equal(atomic_load(&world.arrive[16]), 1);
    sherd_device_destroy(world.device[0]);
    sherd_device_destroy(world.device[1]);
    sherd_checker_destroy(checker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_are_clean_and_equal_in_every_order),
        cmocka_unit_test(a_seed_draws_the_same_order_twice),
        cmocka_unit_test(missing_and_dropped_waits_are_reported),
        cmocka_unit_test(a_missing_wait_gives_wrong_bits_in_some_order),
        cmocka_unit_test(a_peer_that_left_is_a_deadlock),
        cmocka_unit_test(a_sleeping_rank_loses_its_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
