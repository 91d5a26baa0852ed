/* SPDX-License-Identifier: MIT
 *
 * What goes wrong under offloading: every read and write of the disk tier fails in turn, every allocation, the memory
 * lock is forbidden, the process forks in the middle. One sentence or the documented fallback; nothing is left behind.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/capability.h>

#include <cmocka.h>

#include "device/device.h"
#include "tests/engine/compare.h"
#include "tests/support/fail_io.h"

static engine_case disk_case(void)
{
    engine_case c = case_plain(1, 2, 3);
    c.stage = 2;
    c.dtype = SHERD_BF16;
    c.optimizer = SHERD_ADAMW;
    c.bucket = 3000;
    c.accumulation = 1;
    c.bad_step = 0;
    c.tenths = 10;
    c.disk = 1;
    c.workers = 1;
    c.read_back = 1;
    return c;
}

/* One run on a device of its own; afterwards nothing is held. */
static void run(const engine_case *c, sherd_test_io *faults, case_result *out)
{
    sherd_device_options options;
    sherd_device *device;
    sherd_comm *comm;
    sherd__io io;
    int files = sherd_test_open_files();

    sherd_device_options_init(&options, sizeof options);
    assert_int_equal(sherd_device_create(&options, &device, NULL), SHERD_OK);
    assert_int_equal(sherd_comm_create_self(NULL, &comm, NULL), SHERD_OK);
    if (faults) {
        io = sherd_test_io_hook(faults);
        device->io = &io;
    }
    case_run_rank(c, device, comm, out);
    sherd_comm_destroy(comm);
    assert_int_equal(compared_planned_bytes(device), 0);
    sherd_device_destroy(device);
    assert_int_equal(sherd_test_open_files(), files);
}

static void must_equal_oracle(const engine_case *c, const case_result *got)
{
    case_result want;
    case_run_oracle(c, SHERD_ORACLE_RIGHT, &want);
    if (got->status != SHERD_OK)
        fail_msg("%s: %s", case_name(c), got->error.text);
    assert_true(case_equal(&want, got, c->steps));
}

/* Fails the k-th of `kinds` for k = 1, 1 + stride, …, until a run has fewer; returns how many failed. */
static int64_t fail_each(uint32_t kinds, int code, int64_t stride, sherd_optimizer optimizer)
{
    engine_case c = disk_case();
    int64_t failed = 0, forgiven = 0;

    c.optimizer = optimizer;
    for (int64_t k = 1;; k += stride) {
        sherd_test_io faults = {.kinds = kinds, .fail_at = k, .code = code};
        case_result result;
        run(&c, &faults, &result);
        if (faults.counted < k) {
            must_equal_oracle(&c, &result);
            return failed;
        }
        if (result.status == SHERD_OK) { /* a probe of direct access: buffered access takes its place */
            must_equal_oracle(&c, &result);
            assert_int_equal(++forgiven, 1);
            continue;
        }
        if (!strstr(result.error.text, strerror(code)))
            fail_msg("call %lld: '%s' does not say '%s'", (long long)k, result.error.text, strerror(code));
        failed++;
    }
}

static void test_reads_and_writes(void **state)
{
    (void)state;
    assert_true(fail_each(1u << SHERD__IO_READ, EIO, 3, SHERD_ADAMW) > 10);
    assert_true(fail_each(1u << SHERD__IO_WRITE, EIO, 3, SHERD_ADAMW) > 10);
    assert_true(fail_each(1u << SHERD__IO_WRITE, ENOSPC, 5, SHERD_ADAMW) > 2);
    assert_true(fail_each(1u << SHERD__IO_READ, EIO, 7, SHERD_MUON) > 2);
    assert_true(fail_each(1u << SHERD__IO_WRITE, EIO, 7, SHERD_MUON) > 2);
}

static void test_making_files(void **state)
{
    (void)state;
    assert_true(fail_each(1u << SHERD__IO_ALLOCATE, ENOSPC, 1, SHERD_ADAMW) >= 1);
    assert_true(fail_each(1u << SHERD__IO_OPEN, EACCES, 1, SHERD_ADAMW) >= 1);
}

static void test_short_transfers(void **state)
{
    engine_case c = disk_case();
    sherd_test_io faults = {.kinds = 1u << SHERD__IO_READ | 1u << SHERD__IO_WRITE, .most = 4096};
    case_result result;

    (void)state;
    c.steps = 2;
    run(&c, &faults, &result);
    must_equal_oracle(&c, &result);
    assert_true(faults.counted > 20);
}

static void test_allocations(void **state)
{
    engine_case c = disk_case();

    (void)state;
    c.steps = 1;
    c.read_back = 0;
    assert_true(compared_fail_allocations(&c) > 20);
}

static void drop_lock_capability(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    struct rlimit none = {0, 0};

    if (syscall(SYS_capget, &header, data) == 0) {
        data[0].effective &= ~(1u << CAP_IPC_LOCK);
        data[0].permitted &= ~(1u << CAP_IPC_LOCK);
        (void)syscall(SYS_capset, &header, data);
    }
    (void)setrlimit(RLIMIT_MEMLOCK, &none);
}

enum { LOCKED_ALL_THE_SAME = 77 }; /* sanitizers answer mlock themselves, with success */
static char warned[512];

static void note_warning(void *ctx, sherd_log_level level, const char *text)
{
    (void)ctx;
    if (level == SHERD_LOG_WARNING && strstr(text, "lock"))
        snprintf(warned, sizeof warned, "%s", text);
}

/* In a child: 0 if the run was right and the missing lock was said, with the remedy. */
static int run_without_lock(void)
{
    engine_case c = disk_case();
    sherd_device_options options;
    sherd_device *device;
    sherd_comm *comm;
    case_result want, got;

    drop_lock_capability();
    if (mlock(&c, sizeof c) == 0)
        return LOCKED_ALL_THE_SAME;
    c.disk = 0;
    c.pin = 1;
    c.steps = 2;
    sherd_device_options_init(&options, sizeof options);
    options.log = (sherd_log){note_warning, NULL};
    if (sherd_device_create(&options, &device, NULL) != SHERD_OK ||
        sherd_comm_create_self(NULL, &comm, NULL) != SHERD_OK)
        return 1;
    case_run_rank(&c, device, comm, &got);
    case_run_oracle(&c, SHERD_ORACLE_RIGHT, &want);
    sherd_comm_destroy(comm);
    sherd_device_destroy(device);
    fprintf(stderr, "%s\n", warned);
    if (got.status != SHERD_OK || !case_equal(&want, &got, c.steps))
        return 2;
    return strstr(warned, "memlock") || strstr(warned, "RLIMIT_MEMLOCK") ? 0 : 3;
}

static void test_no_memory_lock(void **state)
{
    int status = -1;
    pid_t child;

    (void)state;
    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(run_without_lock());
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == LOCKED_ALL_THE_SAME) {
        print_message("skipped: memory is locked here whatever the limit (a sanitizer, perhaps)\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* Another program is started in the middle of training (a data loader, a shell): the child ends, the training goes on.
 */
static void test_fork_in_the_middle(void **state)
{
    engine_case c = disk_case();
    case_result result;

    (void)state;
    c.fork_at = 2;
    run(&c, NULL, &result);
    must_equal_oracle(&c, &result);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_and_writes), cmocka_unit_test(test_making_files),
        cmocka_unit_test(test_short_transfers),  cmocka_unit_test(test_allocations),
        cmocka_unit_test(test_no_memory_lock),   cmocka_unit_test(test_fork_in_the_middle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
