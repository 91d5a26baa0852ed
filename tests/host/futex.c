/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "host/futex.h"

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void returns_at_its_limit(void **state)
{
    (void)state;
    _Atomic uint32_t word = 7;
    int64_t begin = now_ns();
    sherd__futex_wait(&word, 7, 30000000, SHERD__FUTEX_PROCESS);
    assert_true(now_ns() - begin >= 25000000);
}

static void does_not_sleep_on_another_value(void **state)
{
    (void)state;
    _Atomic uint32_t word = 7;
    int64_t begin = now_ns();
    sherd__futex_wait(&word, 8, INT64_C(20) * 1000000000, SHERD__FUTEX_PROCESS);
    assert_true(now_ns() - begin < INT64_C(10) * 1000000000);
}

static void *set_later(void *arg)
{
    _Atomic uint32_t *word = arg;
    usleep(20000);
    atomic_store(word, 1);
    sherd__futex_wake_all(word, SHERD__FUTEX_PROCESS);
    return NULL;
}

static void wakes_a_thread(void **state)
{
    (void)state;
    _Atomic uint32_t word = 0;
    pthread_t thread;
    int64_t begin = now_ns();
    assert_int_equal(pthread_create(&thread, NULL, set_later, &word), 0);
    while (atomic_load(&word) == 0)
        sherd__futex_wait(&word, 0, INT64_C(30) * 1000000000, SHERD__FUTEX_PROCESS);
    assert_true(now_ns() - begin < INT64_C(20) * 1000000000);
    pthread_join(thread, NULL);
}

static void wakes_another_process(void **state)
{
    (void)state;
    _Atomic uint32_t *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(word, MAP_FAILED);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int64_t begin = now_ns();
        while (atomic_load(word) == 0)
            sherd__futex_wait(word, 0, INT64_C(30) * 1000000000, SHERD__FUTEX_SHARED);
        _exit(now_ns() - begin < INT64_C(20) * 1000000000 ? 0 : 1);
    }
    usleep(50000);
    atomic_store(word, 1);
    sherd__futex_wake_all(word, SHERD__FUTEX_SHARED);
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result) && WEXITSTATUS(result) == 0);
    munmap(word, 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(returns_at_its_limit),
        cmocka_unit_test(does_not_sleep_on_another_value),
        cmocka_unit_test(wakes_a_thread),
        cmocka_unit_test(wakes_another_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
