/* SPDX-License-Identifier: MIT
 *
 * What embedding programs do: parameters of several types in one engine, working copies in their own memory, several
 * engines in one process, a bootstrap of their own.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/engine/compare.h"

typedef struct own_world {
    compared_run run;
    int failed;
} own_world;

/* A thread of its own: several worlds may run at once. */
static void *run_world(void *ctx)
{
    own_world *world = ctx;
    world_options options = {.world = world->run.c.world, .threads = 1};

    world->failed = world_run_threads(&options, compared_run_rank, &world->run);
    return NULL;
}

static void compare(const own_world *world)
{
    case_result want;

    assert_int_equal(world->failed, 0);
    case_run_oracle(&world->run.c, SHERD_ORACLE_RIGHT, &want);
    compared_results(&world->run, &want);
}

static engine_case embedded_case(uint32_t i, int32_t world)
{
    engine_case c = case_plain(world, i, 5);

    c.mixed = c.borrow = c.ranges = c.read_back = 1;
    c.dtype = SHERD_BF16;
    c.discard = i % 4 == 3;
    if (i % 3 == 2) {
        c.tenths = 5 + 5 * (int32_t)(i % 2);
        c.disk = i % 4 == 1;
        c.speculate = i % 4 == 2;
        c.workers = 1;
    }
    return c;
}

static void test_mixed_and_borrowed(void **state)
{
    (void)state;
    for (int32_t world = 1; world <= 3; world++)
        for (uint32_t i = 0; i < 9; i++) {
            own_world one = {.run.c = embedded_case(i, world)};
            run_world(&one);
            compare(&one);
        }
}

static void test_plan_says_what_is_borrowed(void **state)
{
    float own[300];
    sherd_param params[2] = {{.name = "a", .ndim = 1, .shape = {300}, .storage = own},
                             {.name = "b", .ndim = 1, .shape = {7}}};
    uint8_t with[16], without[16];
    sherd_memory memory[2];
    char text[8192];
    sherd_config config;
    sherd_plan *plan;

    (void)state;
    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = 1;
    assert_int_equal(sherd_plan_create(&config, params, 2, 2, &plan, NULL), SHERD_OK);
    sherd_plan_text(plan, text, sizeof text);
    assert_non_null(strstr(text, "the client's: 1 borrowed parameters, 1200 bytes"));
    assert_int_equal(sherd_plan_memory(plan, 1, &memory[0]), SHERD_OK);
    sherd_plan_hash(plan, with);
    sherd_plan_destroy(plan);
    params[0].storage = NULL;
    assert_int_equal(sherd_plan_create(&config, params, 2, 2, &plan, NULL), SHERD_OK);
    sherd_plan_text(plan, text, sizeof text);
    assert_null(strstr(text, "borrowed"));
    assert_int_equal(sherd_plan_memory(plan, 1, &memory[1]), SHERD_OK);
    sherd_plan_hash(plan, without);
    sherd_plan_destroy(plan);
    assert_memory_equal(with, without, 16);
    assert_memory_equal(&memory[0], &memory[1], sizeof memory[0]);
}

/* ------------------------------------------------------------------------------------------------- several engines */

/* Two models, each with its ranks, devices and communicator, at the same time. */
static void test_two_worlds_at_once(void **state)
{
    own_world worlds[2] = {{.run.c = embedded_case(1, 2)}, {.run.c = embedded_case(5, 3)}};
    pthread_t threads[2];

    (void)state;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_world, &worlds[i]), 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        compare(&worlds[i]);
    }
}

enum { ELEMS = 3000, STEPS = 4, MODELS = 2, RANKS = 2 };

typedef struct both {
    sherd_comm *comm[MODELS]; /* of one rank */
    int32_t interleaved;
    sherd_status status;
    uint8_t hash[MODELS][16];
} both;

static sherd_status make_engine(sherd_comm *comm, int model, sherd_plan **plan, sherd_device **device,
                                sherd_engine **engine)
{
    sherd_param param = {.name = "w",
                         .ndim = 1,
                         .shape = {ELEMS},
                         .dtype = model ? SHERD_BF16 : SHERD_FP32,
                         .grad_dtype = model ? SHERD_BF16 : SHERD_FP32};
    static float weights[ELEMS];
    sherd_config config;
    sherd_status status;

    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = 1;
    config.zero.stage = 1 + model;
    config.optimizer.kind = model ? SHERD_SGD : SHERD_ADAMW;
    config.optimizer.lr = 0.05;
    status = sherd_plan_create(&config, &param, 1, RANKS, plan, NULL);
    if (status == SHERD_OK)
        status = sherd_device_create(NULL, device, NULL);
    if (status == SHERD_OK)
        status = sherd_engine_create(*plan, *device, comm, engine, NULL);
    return status == SHERD_OK ? sherd_param_write(*engine, 0, weights, NULL) : status;
}

static sherd_status bring(sherd_engine *engine, int model, const sherd_micro *micro)
{
    float grad[ELEMS];
    for (int i = 0; i < ELEMS; i++)
        grad[i] = (float)((i * 7 + micro->step * 31 + micro->number * 5 + model) % 101) / 64.0f - 0.7f;
    return sherd_grad_copy(engine, 0, grad, SHERD_FP32);
}

static void *drive_both(void *arg)
{
    both *b = arg;
    sherd_plan *plan[MODELS] = {NULL};
    sherd_device *device[MODELS] = {NULL};
    sherd_engine *engine[MODELS] = {NULL};
    sherd_micro micro[MODELS];

    for (int m = 0; m < MODELS && b->status == SHERD_OK; m++)
        b->status = make_engine(b->comm[m], m, &plan[m], &device[m], &engine[m]);
    for (int s = 0; s < STEPS * MODELS && b->status == SHERD_OK; s++) {
        int low = b->interleaved ? 0 : s / STEPS, high = b->interleaved ? MODELS : low + 1;
        if (b->interleaved && s >= STEPS)
            break;
        for (int m = low; m < high && b->status == SHERD_OK; m++)
            b->status = sherd_micro_begin(engine[m], &micro[m]);
        for (int m = high; m-- > low && b->status == SHERD_OK;)
            b->status = bring(engine[m], m, &micro[m]);
        for (int m = low; m < high && b->status == SHERD_OK; m++)
            b->status = sherd_engine_step(engine[m], NULL, NULL);
    }
    for (int m = 0; m < MODELS && b->status == SHERD_OK; m++)
        b->status = sherd_engine_hash(engine[m], NULL, b->hash[m], NULL);
    for (int m = 0; m < MODELS; m++) {
        sherd_engine_destroy(engine[m]);
        sherd_comm_destroy(b->comm[m]);
        sherd_device_destroy(device[m]);
        sherd_plan_destroy(plan[m]);
    }
    return NULL;
}

static void run_both(both ranks[RANKS], int interleaved)
{
    pthread_t threads[RANKS];
    sherd_comm *comms[RANKS];

    memset(ranks, 0, RANKS * sizeof *ranks);
    for (int m = 0; m < MODELS; m++) {
        assert_int_equal(sherd_comm_create_threads(NULL, RANKS, comms, NULL), SHERD_OK);
        for (int r = 0; r < RANKS; r++)
            ranks[r].comm[m] = comms[r];
    }
    for (int r = 0; r < RANKS; r++) {
        ranks[r].interleaved = interleaved;
        assert_int_equal(pthread_create(&threads[r], NULL, drive_both, &ranks[r]), 0);
    }
    for (int r = 0; r < RANKS; r++) {
        pthread_join(threads[r], NULL);
        assert_int_equal(ranks[r].status, SHERD_OK);
    }
}

/* One thread per rank drives two engines call by call: as if each were alone. */
static void test_two_engines_interleaved(void **state)
{
    both together[RANKS], apart[RANKS];

    (void)state;
    run_both(together, 1);
    run_both(apart, 0);
    for (int r = 0; r < RANKS; r++)
        assert_memory_equal(together[r].hash, apart[r].hash, sizeof apart[r].hash);
    assert_memory_not_equal(together[0].hash[0], together[0].hash[1], 16);
}

/* ----------------------------------------------------------------------------------------------- own bootstrap */

/* A star of socket pairs: rank 0 gathers and hands out. */
typedef struct star {
    int32_t rank, world;
    int hub[WORLD_MAX], spoke[WORLD_MAX];
} star;

static int move_all(int fd, void *data, size_t bytes, int sending)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n =
            sending ? write(fd, (char *)data + done, bytes - done) : read(fd, (char *)data + done, bytes - done);
        if (n <= 0)
            return 1;
        done += (size_t)n;
    }
    return 0;
}

static int star_allgather(void *ctx, const void *mine, void *all, size_t bytes)
{
    const star *s = ctx;
    int failed = 0;

    memcpy((char *)all + (size_t)s->rank * bytes, mine, bytes);
    if (s->rank > 0) {
        failed = move_all(s->spoke[s->rank], (char *)all + (size_t)s->rank * bytes, bytes, 1);
        return failed || move_all(s->spoke[s->rank], all, bytes * (size_t)s->world, 0);
    }
    for (int32_t r = 1; r < s->world && !failed; r++)
        failed = move_all(s->hub[r], (char *)all + (size_t)r * bytes, bytes, 0);
    for (int32_t r = 1; r < s->world && !failed; r++)
        failed = move_all(s->hub[r], all, bytes * (size_t)s->world, 1);
    return failed;
}

static int star_rank(star *s, int32_t rank, const engine_case *c, case_result *out)
{
    sherd_device *device = NULL;
    sherd_comm *comm = NULL;
    sherd_error err = {0};
    sherd_status status;

    s->rank = rank;
    status = sherd_comm_create_local(NULL, rank, s->world, star_allgather, s, &comm, &err);
    if (status == SHERD_OK)
        status = sherd_device_create(NULL, &device, &err);
    if (status == SHERD_OK)
        case_run_rank(c, device, comm, out);
    else
        fprintf(stderr, "rank %d: %s\n", rank, err.text);
    sherd_comm_destroy(comm);
    sherd_device_destroy(device);
    return status != SHERD_OK;
}

static void test_own_bootstrap(void **state)
{
    star s = {.world = 3};
    engine_case c = embedded_case(4, 3);
    case_result want;
    case_result *results = world_shared(WORLD_MAX * sizeof *results);
    int failed = 0, how;

    (void)state;
    assert_non_null(results);
    for (int32_t r = 1; r < s.world; r++) {
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        s.hub[r] = pair[0];
        s.spoke[r] = pair[1];
    }
    for (int32_t r = 0; r < s.world; r++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            _exit(star_rank(&s, r, &c, &results[r]));
    }
    for (int32_t r = 0; r < s.world; r++) {
        assert_true(wait(&how) > 0);
        failed |= how != 0;
    }
    assert_int_equal(failed, 0);
    case_run_oracle(&c, SHERD_ORACLE_RIGHT, &want);
    for (int32_t r = 0; r < s.world; r++)
        compared_result(&c, &want, &results[r], r);
}

static int failing_allgather(void *ctx, const void *mine, void *all, size_t bytes)
{
    (void)mine;
    (void)all;
    (void)bytes;
    ++*(int *)ctx;
    return 1;
}

static void test_failing_bootstrap(void **state)
{
    sherd_comm *comm = NULL;
    sherd_error err = {0};
    int calls = 0;

    (void)state;
    assert_int_not_equal(sherd_comm_create_local(NULL, 0, 2, failing_allgather, &calls, &comm, &err), SHERD_OK);
    assert_null(comm);
    assert_int_equal(calls, 1);
    assert_true(err.text[0] != '\0');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mixed_and_borrowed), cmocka_unit_test(test_plan_says_what_is_borrowed),
        cmocka_unit_test(test_two_worlds_at_once), cmocka_unit_test(test_two_engines_interleaved),
        cmocka_unit_test(test_own_bootstrap),      cmocka_unit_test(test_failing_bootstrap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
