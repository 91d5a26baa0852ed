/* SPDX-License-Identifier: MIT
 *
 * The rendezvous of forked ranks: all-gathers of many sizes, and children that die before, while and after joining.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "comm/direct.h"
#include "world.h"

#define WORLD 4

typedef int (*child_fn)(sherd_rendezvous *rendezvous, int32_t rank);

/* Forks WORLD children; returns how many ended other than with 0. */
static int run_children(child_fn child, double limit_s)
{
    sherd_rendezvous *rendezvous;
    pid_t pids[WORLD];
    int bad = 0;
    assert_int_equal(sherd_rendezvous_create(WORLD, &rendezvous, NULL), SHERD_OK);
    sherd__rendezvous_limit(rendezvous, limit_s);
    for (int32_t rank = 0; rank < WORLD; rank++) {
        pids[rank] = fork();
        if (pids[rank] == 0) {
            alarm(30);
            _exit(child(rendezvous, rank));
        }
    }
    for (int32_t rank = 0; rank < WORLD; rank++) {
        int status;
        assert_int_equal(waitpid(pids[rank], &status, 0), pids[rank]);
        bad += status != 0;
    }
    sherd_rendezvous_destroy(rendezvous);
    return bad;
}

static unsigned char byte_of(int32_t rank, size_t size, size_t i)
{
    return (unsigned char)(rank * 31 + (int)size * 7 + (int)i);
}

static int gather_sizes(sherd_rendezvous *rendezvous, int32_t rank)
{
    static const size_t sizes[] = {1, 8, 1023, 1024, 1025, 5000, 0, 3};
    if (sherd_rendezvous_join(rendezvous, rank, NULL) != SHERD_OK) {
        return 1;
    }
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        unsigned char mine[5000], all[WORLD * 5000];
        for (size_t i = 0; i < sizes[s]; i++) {
            mine[i] = byte_of(rank, sizes[s], i);
        }
        if (sherd_rendezvous_allgather(rendezvous, mine, all, sizes[s]) != 0) {
            return 2;
        }
        for (size_t i = 0; i < WORLD * sizes[s]; i++) {
            if (all[i] != byte_of((int32_t)(i / sizes[s]), sizes[s], i % sizes[s])) {
                return 3;
            }
        }
    }
    return 0;
}

static void sizes(void **state)
{
    (void)state;
    assert_int_equal(run_children(gather_sizes, 20), 0);
}

/* Rank 1 dies between two all-gathers; the others' next one ends with a sentence, long before the limit. */
static int die_between(sherd_rendezvous *rendezvous, int32_t rank)
{
    int all[WORLD];
    sherd_error error;
    if (sherd_rendezvous_join(rendezvous, rank, NULL) != SHERD_OK ||
        sherd_rendezvous_allgather(rendezvous, &rank, all, sizeof rank) != 0) {
        return 1;
    }
    if (rank == 1) {
        kill(getpid(), SIGKILL);
    }
    double begin = seconds_now();
    if (sherd_rendezvous_allgather(rendezvous, &rank, all, sizeof rank) != SHERD_ERANKDEAD ||
        seconds_now() - begin > 5) {
        return 2;
    }
    sherd__rendezvous_error(rendezvous, &error);
    return error.rank == 1 && strstr(error.text, "died during start-up") ? 0 : 3;
}

static void death_after_join(void **state)
{
    (void)state;
    assert_int_equal(run_children(die_between, 20), 1);
}

static int die_before(sherd_rendezvous *rendezvous, int32_t rank)
{
    sherd_comm *comm;
    sherd_error error;
    if (rank == 2) {
        kill(getpid(), SIGKILL);
    }
    if (sherd_rendezvous_join(rendezvous, rank, NULL) != SHERD_OK) {
        return 1;
    }
    sherd_status status =
        sherd_comm_create_local(NULL, rank, WORLD, sherd_rendezvous_allgather, rendezvous, &comm, &error);
    return status == SHERD_ETIMEOUT && error.rank == 2 && strstr(error.text, "rank 2 did not come") ? 0 : 2;
}

static void death_before_join(void **state)
{
    (void)state;
    assert_int_equal(run_children(die_before, 0.3), 1);
}

static int gather_then_die(void *rendezvous, const void *mine, void *all, size_t bytes)
{
    sherd_rendezvous_allgather(rendezvous, mine, all, bytes);
    kill(getpid(), SIGKILL);
    return 0;
}

/* Rank 2 says hello and dies before the others have attached to it, or while they do. */
static int die_after_hello(sherd_rendezvous *rendezvous, int32_t rank)
{
    sherd_comm *comm;
    sherd_error error;
    if (sherd_rendezvous_join(rendezvous, rank, NULL) != SHERD_OK) {
        return 1;
    }
    sherd_status status = sherd_comm_create_local(
        NULL, rank, WORLD, rank == 2 ? gather_then_die : sherd_rendezvous_allgather, rendezvous, &comm, &error);
    if (status == SHERD_ERANKDEAD && error.rank == 2 && strstr(error.text, "rank 2 (pid ") != NULL) {
        return 0;
    }
    fprintf(stderr, "rank %d: %s\n", (int)rank, error.text);
    return 2;
}

static void death_during_creation(void **state)
{
    (void)state;
    for (int trial = 0; trial < 20; trial++) {
        assert_int_equal(run_children(die_after_hello, 20), 1);
    }
}

static void misuse(void **state)
{
    (void)state;
    sherd_rendezvous *rendezvous;
    sherd_error error;
    int all[2], mine = 0;
    assert_int_equal(sherd_rendezvous_create(0, &rendezvous, &error), SHERD_EINVAL);
    assert_int_equal(sherd_rendezvous_create(1, &rendezvous, &error), SHERD_OK);
    assert_int_equal(sherd_rendezvous_join(rendezvous, 1, &error), SHERD_EINVAL);
    assert_int_equal(sherd_rendezvous_join(rendezvous, 0, &error), SHERD_OK);
    assert_int_equal(sherd_rendezvous_join(rendezvous, 0, &error), SHERD_ESTATE);
    assert_int_equal(sherd_rendezvous_allgather(rendezvous, &mine, all, sizeof mine), 0);
    sherd_rendezvous_destroy(rendezvous);
    sherd_rendezvous_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(misuse),
        cmocka_unit_test(sizes),
        cmocka_unit_test(death_after_join),
        cmocka_unit_test(death_before_join),
        cmocka_unit_test(death_during_creation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
