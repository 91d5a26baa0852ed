/* SPDX-License-Identifier: MIT
 *
 * An arena is what it says: its bytes, zeros, on its node, locked, not inherited, not dumped; and what could not be had
 * is an error with its remedy or a fallback that the report names. Limits and capabilities are taken away in child
 * processes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <errno.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "host/arena.h"
#include "host/meminfo.h"
#include "host/numa.h"
#include "tests/support/fail_alloc.h"

#define MIB (UINT64_C(1) << 20)

/* Under the sanitizers mlock does nothing and says it did. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define MLOCK_IS_REAL 0
#else
#define MLOCK_IS_REAL 1
#endif

/* A node this process may have memory on: that of the page under our feet. */
static int32_t some_node(void)
{
    char here = 1;
    void *page = (void *)((uintptr_t)&here & ~(uintptr_t)4095);
    int32_t node = -1;
    return sherd__numa_where(&page, 1, &node) == 0 ? node : -1;
}

static int can_place(void)
{
    return sherd__numa_missing() == NULL && some_node() >= 0;
}

static sherd__arena *make_arena(const sherd__arena_options *options)
{
    sherd__arena *arena = NULL;
    sherd_error err;
    if (sherd__arena_create(options, &arena, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    return arena;
}

static sherd__arena_report inspect(const sherd__arena *arena)
{
    sherd__arena_report report;
    sherd_error err;
    if (sherd__arena_inspect(arena, &report, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    return report;
}

static int is_mapped(const void *base)
{
    unsigned char there;
    return mincore((void *)(uintptr_t)base, 1, &there) == 0;
}

/* ------------------------------------------------------------------------------------------------------------- what is
 */

static void check_memory(sherd__arena *arena, uint64_t bytes)
{
    unsigned char *base = sherd__arena_base(arena);
    assert_int_equal((uintptr_t)base % 4096, 0);
    assert_int_equal(sherd__arena_bytes(arena), bytes);
    for (uint64_t i = 0; i < bytes; i += 509)
        assert_int_equal(base[i], 0);
    memset(base, 0xA5, bytes);
    assert_int_equal(base[bytes - 1], 0xA5);
}

static void check_report(const sherd__arena_report *report, uint64_t bytes, int32_t node)
{
    uint64_t sum = 0;
    assert_int_equal(report->bytes, bytes);
    assert_true(report->mapped_bytes >= bytes && report->mapped_bytes - bytes < report->page_bytes);
    assert_int_equal(report->node, node);
    assert_int_equal(report->counted, sherd__numa_missing() == NULL);
    if (!report->counted)
        return;
    assert_int_equal(report->there_bytes, report->mapped_bytes);
    assert_int_equal(report->elsewhere_bytes, 0);
    assert_int_equal(report->absent_bytes, 0);
    for (int i = 0; i < SHERD__MAX_NODES; i++)
        sum += report->on_node[i];
    assert_int_equal(sum, report->mapped_bytes);
    if (node >= 0)
        assert_int_equal(report->on_node[node], report->mapped_bytes);
}

static void sizes_and_nodes(void **state)
{
    static const uint64_t sizes[] = {1, 4095, 4096, 4097, MIB, 2 * MIB, 2 * MIB + 1, 9 * MIB + 12345};
    static const sherd__seat seats[] = {{-1, 0}, {-1, 0}, {-1, 0}};
    (void)state;
    sherd__team *team = NULL;
    sherd__team_options with = {.threads = 3, .seats = seats};
    assert_int_equal(sherd__team_make(&with, &team, NULL), SHERD_OK);
    int32_t node = can_place() ? some_node() : -1;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (int variant = 0; variant < 8; variant++) {
            int32_t on = variant & 1 ? node : -1;
            sherd__arena_options options = {.name = "moments",
                                            .bytes = sizes[i],
                                            .node = on,
                                            .bind = variant & 1 && can_place() ? SHERD__ARENA_MUST : SHERD__ARENA_TRY,
                                            .huge = variant & 2 ? SHERD__ARENA_TRY : SHERD__ARENA_NEVER,
                                            .team = variant & 4 ? team : NULL};
            sherd__arena *arena = make_arena(&options);
            sherd__arena_report report = inspect(arena);
            check_report(&report, sizes[i], on);
            assert_string_equal(report.name, "moments");
            assert_string_equal(report.fallback, "");
            check_memory(arena, sizes[i]);
            void *base = sherd__arena_base(arena);
            sherd__arena_destroy(arena);
            assert_false(is_mapped(base));
        }
    }
    sherd__team_destroy(team);
}

/* The mapping's flags, as /proc/self/smaps shows them: dc (not inherited), dd (not dumped), lo (locked). */
static void flags_of(const void *base, char *flags, size_t bytes)
{
    FILE *file = fopen("/proc/self/smaps", "r");
    char line[512];
    unsigned long begin, end;
    int inside = 0;
    flags[0] = '\0';
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
            inside = begin == (unsigned long)(uintptr_t)base;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            snprintf(flags, bytes, "%s", line);
    }
    fclose(file);
}

static void neighbours_stay_apart_and_unshared(void **state)
{
    char flags[512];
    (void)state;
    sherd__arena *arena[4];
    for (int i = 0; i < 4; i++) {
        sherd__arena_options options = {.name = "a", .bytes = 3 * 4096, .node = -1};
        arena[i] = make_arena(&options);
    }
    for (int i = 0; i < 4; i++) {
        char *base = sherd__arena_base(arena[i]);
        flags_of(base, flags, sizeof flags);
        assert_non_null(strstr(flags, " dc"));
        assert_non_null(strstr(flags, " dd"));
        assert_null(strstr(flags, " lo"));
    }
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(is_mapped(sherd__arena_base(arena[0])) ? 1 : 0);
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    for (int i = 0; i < 4; i++) {
        check_memory(arena[i], 3 * 4096);
        sherd__arena_destroy(arena[i]);
    }
}

/* ---------------------------------------------------------------------------------------------------------- page locks
 */

static void locked_is_locked(void **state)
{
    (void)state;
    char flags[512];
    uint64_t before = sherd__meminfo_locked();
    sherd__arena_options options = {.name = "locked", .bytes = MIB, .node = -1, .lock = SHERD__ARENA_MUST};
    sherd__arena *arena = NULL;
    sherd_error err;
    sherd_status status = sherd__arena_create(&options, &arena, &err);
    if (status != SHERD_OK) { /* a machine whose limit is below 1 MiB: then it must say so */
        assert_non_null(strstr(err.text, "RLIMIT_MEMLOCK"));
        skip();
    }
    sherd__arena_report report = inspect(arena);
    assert_int_equal(report.locked_bytes, MIB);
    flags_of(sherd__arena_base(arena), flags, sizeof flags);
    if (MLOCK_IS_REAL) {
        assert_non_null(strstr(flags, " lo"));
        assert_int_equal(sherd__meminfo_locked(), before + MIB);
    }
    sherd__arena_destroy(arena);
    assert_int_equal(sherd__meminfo_locked(), before);
}

static void drop_memlock(void)
{
    struct rlimit none = {0, 0};
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct data[2];
    memset(data, 0, sizeof data);
    if (setrlimit(RLIMIT_MEMLOCK, &none) != 0 || syscall(SYS_capset, &header, data) != 0)
        _exit(90);
}

/* In the child: 0, or the number of the claim that did not hold. */
static int without_memlock(void)
{
    sherd__arena *arena = NULL;
    sherd__arena_report report;
    sherd_error err;
    sherd__arena_options options = {.name = "staging", .bytes = MIB, .node = -1, .lock = SHERD__ARENA_MUST};
    drop_memlock();
    if (sherd__arena_create(&options, &arena, &err) != SHERD_ESYSTEM || arena)
        return 1;
    if (!strstr(err.text, "arena 'staging'") || !strstr(err.text, "RLIMIT_MEMLOCK") || !strstr(err.text, "ulimit -l"))
        return 2;
    options.lock = SHERD__ARENA_TRY;
    if (sherd__arena_create(&options, &arena, &err) != SHERD_OK ||
        sherd__arena_inspect(arena, &report, &err) != SHERD_OK)
        return 3;
    if (report.locked_bytes != 0 || !strstr(report.fallback, "RLIMIT_MEMLOCK"))
        return 4;
    memset(sherd__arena_base(arena), 1, MIB);
    sherd__arena_destroy(arena);
    return 0;
}

static int in_child(int (*body)(void))
{
    int status = -1;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(30);
        _exit(body());
    }
    if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

static void no_memlock_is_said(void **state)
{
    (void)state;
    if (!MLOCK_IS_REAL)
        skip();
    assert_int_equal(in_child(without_memlock), 0);
}

/* ---------------------------------------------------------------------------------------------------------- huge pages
 */

static void huge_pages_come_or_are_missed(void **state)
{
    (void)state;
    sherd__arena_options options = {.name = "huge", .bytes = 8 * MIB, .node = -1, .huge = SHERD__ARENA_TRY};
    sherd__arena *arena = make_arena(&options);
    sherd__arena_report report = inspect(arena);
    assert_true(report.huge_bytes <= report.mapped_bytes);
    assert_int_equal((uintptr_t)sherd__arena_base(arena) % (2 * MIB), 0);
    sherd__arena_destroy(arena);
    options.huge = SHERD__ARENA_NEVER;
    arena = make_arena(&options);
    report = inspect(arena);
    assert_int_equal(report.huge_bytes, 0);
    sherd__arena_destroy(arena);
    /* More than can be reserved: a sentence with both numbers. */
    sherd_error err;
    options.huge = SHERD__ARENA_MUST;
    options.bytes = sherd__meminfo_huge_free(-1) + 64 * MIB;
    arena = NULL;
    assert_int_equal(sherd__arena_create(&options, &arena, &err), SHERD_ENOMEM);
    assert_non_null(strstr(err.text, "nr_hugepages"));
    assert_null(arena);
}

/* Where the machine has some reserved (vm.nr_hugepages); it is not changed for a test. */
static void reserved_huge_pages(void **state)
{
    (void)state;
    uint64_t page = sherd__meminfo_huge_page(), free_before = sherd__meminfo_huge_free(-1);
    if (page == 0 || free_before < 3 * page)
        skip();
    sherd__arena_options options = {
        .name = "huge", .bytes = 3 * page - 5, .node = -1, .huge = SHERD__ARENA_MUST, .lock = SHERD__ARENA_MUST};
    sherd__arena *arena = make_arena(&options);
    memset(sherd__arena_base(arena), 7, options.bytes);
    sherd__arena_report report = inspect(arena);
    sherd__arena_destroy(arena);
    assert_int_equal(report.page_bytes, page);
    assert_int_equal(report.mapped_bytes, 3 * page);
    assert_int_equal(report.huge_bytes, 3 * page);
    assert_int_equal(report.locked_bytes, 3 * page);
    if (report.counted)
        assert_int_equal(report.there_bytes, 3 * page);
    assert_int_equal(sherd__meminfo_huge_free(-1), free_before);
}

/* ----------------------------------------------------------------------------------------------------------- the hook
 */

typedef struct hook_log {
    void *base;
    uint64_t bytes;
    int32_t pins, unpins, mapped_at_unpin, refuse;
} hook_log;

static sherd_status log_pin(void *ctx, void *base, uint64_t bytes, sherd_error *err)
{
    hook_log *log = ctx;
    log->base = base;
    log->bytes = bytes;
    log->pins++;
    return log->refuse ? sherd__fail(err, SHERD_EDEVICE, "the device refuses") : SHERD_OK;
}

static void log_unpin(void *ctx, void *base, uint64_t bytes)
{
    hook_log *log = ctx;
    log->unpins += base == log->base && bytes == log->bytes;
    log->mapped_at_unpin = is_mapped(base);
}

static void the_device_registers(void **state)
{
    (void)state;
    hook_log log;
    memset(&log, 0, sizeof log);
    sherd__arena_hook hook = {.pin = log_pin, .unpin = log_unpin, .ctx = &log};
    sherd__arena_options options = {.name = "hook", .bytes = 100000, .node = -1, .hook = &hook};
    sherd__arena *arena = make_arena(&options);
    sherd__arena_report report = inspect(arena);
    assert_int_equal(log.pins, 1);
    assert_ptr_equal(log.base, sherd__arena_base(arena));
    assert_int_equal(log.bytes, report.mapped_bytes);
    assert_int_equal(report.pinned_bytes, report.mapped_bytes);
    sherd__arena_destroy(arena);
    assert_int_equal(log.unpins, 1);
    assert_true(log.mapped_at_unpin);
    log.refuse = 1;
    sherd_error err;
    arena = NULL;
    assert_int_equal(sherd__arena_create(&options, &arena, &err), SHERD_EDEVICE);
    assert_string_equal(err.text, "the device refuses");
    assert_null(arena);
    assert_int_equal(log.unpins, 1);
    assert_false(is_mapped(log.base));
}

/* -------------------------------------------------------------------------------------------------------------
 * refusals */

static void bad_requests(void **state)
{
    (void)state;
    sherd__arena *arena = NULL;
    sherd_error err;
    sherd__arena_options options = {.name = "bad", .bytes = 0, .node = -1};
    assert_int_equal(sherd__arena_create(&options, &arena, &err), SHERD_EINVAL);
    options.bytes = UINT64_MAX;
    assert_int_equal(sherd__arena_create(&options, &arena, &err), SHERD_EINVAL);
    options.bytes = 4096;
    options.node = -2;
    assert_int_equal(sherd__arena_create(&options, &arena, &err), SHERD_EINVAL);
    options.node = 900; /* no machine here has it */
    options.bind = SHERD__ARENA_MUST;
    assert_int_equal(sherd__arena_create(&options, &arena, &err), SHERD_ESYSTEM);
    assert_non_null(strstr(err.text, "node 900"));
    options.bind = SHERD__ARENA_TRY;
    arena = make_arena(&options);
    sherd__arena_report report = inspect(arena);
    assert_non_null(strstr(report.fallback, "not bound to node 900"));
    sherd__arena_destroy(arena);
}

static void too_much_is_refused(void **state)
{
    (void)state;
    sherd__arena *arena = NULL;
    sherd_error err;
    uint64_t there = sherd__meminfo_available(-1);
    sherd__arena_options options = {.name = "vast", .bytes = UINT64_C(1) << 45, .node = -1};
    assert_int_equal(sherd__arena_create(&options, &arena, &err), SHERD_ENOMEM);
    assert_non_null(strstr(err.text, "arena 'vast'"));
    assert_true(there != UINT64_MAX && there > 0);
    options.bytes = there + there / 16;
    assert_int_equal(sherd__arena_create(&options, &arena, &err), SHERD_ENOMEM);
    if (can_place()) {
        options.node = some_node();
        options.bind = SHERD__ARENA_MUST;
        options.bytes = sherd__meminfo_available(options.node) + 64 * MIB;
        assert_int_equal(sherd__arena_create(&options, &arena, &err), SHERD_ENOMEM);
        assert_non_null(strstr(err.text, "node"));
    }
    assert_null(arena);
}

static void the_record_may_fail(void **state)
{
    (void)state;
    sherd_test_alloc counts = {.fail_at = 1};
    sherd_allocator allocator = sherd_test_allocator(&counts);
    sherd__arena_options options = {.allocator = &allocator, .name = "r", .bytes = 4096, .node = -1};
    sherd__arena *arena = NULL;
    assert_int_equal(sherd__arena_create(&options, &arena, NULL), SHERD_ENOMEM);
    assert_null(arena);
    arena = make_arena(&options);
    sherd__arena_destroy(arena);
    assert_int_equal(atomic_load(&counts.live_blocks), 0);
    assert_int_equal(atomic_load(&counts.wrong_sizes), 0);
    sherd__arena_destroy(NULL);
}

static void a_line_for_people(void **state)
{
    (void)state;
    char text[600], cut[40];
    sherd__arena_report report = {.name = "moments",
                                  .node = 1,
                                  .bytes = 64 * MIB,
                                  .counted = 1,
                                  .huge_bytes = 32 * MIB,
                                  .locked_bytes = 64 * MIB,
                                  .fallback = "sentence"};
    report.on_node[1] = 48 * MIB;
    report.on_node[3] = 16 * MIB;
    size_t wanted = sherd__arena_print(&report, text, sizeof text);
    assert_string_equal(text,
                        "arena 'moments': 64.0 MiB for node 1, 48.0 on node 1, 16.0 on node 3, 32.0 in huge pages, "
                        "64.0 locked; sentence");
    assert_int_equal(wanted, strlen(text));
    assert_int_equal(sherd__arena_print(&report, cut, sizeof cut), wanted);
    assert_memory_equal(cut, text, sizeof cut - 1);
    assert_int_equal(sherd__arena_print(&report, NULL, 0), wanted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_and_nodes),
        cmocka_unit_test(neighbours_stay_apart_and_unshared),
        cmocka_unit_test(locked_is_locked),
        cmocka_unit_test(no_memlock_is_said),
        cmocka_unit_test(huge_pages_come_or_are_missed),
        cmocka_unit_test(reserved_huge_pages),
        cmocka_unit_test(the_device_registers),
        cmocka_unit_test(bad_requests),
        cmocka_unit_test(too_much_is_refused),
        cmocka_unit_test(the_record_may_fail),
        cmocka_unit_test(a_line_for_people),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
