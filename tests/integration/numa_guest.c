/* SPDX-License-Identifier: MIT
 *
 * Runs inside a virtual machine with several memory nodes (scripts/numa-vm): numa_guest NODES CPUS. Every page and
 * every worker is asked of the kernel, not of the library. Changes limits, cgroups and reserved pages of the machine it
 * runs on.
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
#include <numaif.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "host/arena.h"
#include "host/arena_pages.h"
#include "host/meminfo.h"
#include "host/pin.h"

#define MIB (UINT64_C(1) << 20)
#define MAX_CPUS 256

static int32_t nodes, cpus;

static sherd__topology load(void)
{
    sherd__topology it;
    sherd_error err;
    sherd__topology_options options = {.from = SHERD__TOPOLOGY_MACHINE};
    if (sherd__topology_load(&options, &it, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    return it;
}

/* Pages of the range on the node, as the kernel says. */
static uint64_t pages_on(const void *base, uint64_t bytes, int32_t node)
{
    void *pages[1024];
    int status[1024];
    uint64_t there = 0;
    for (uint64_t at = 0; at < bytes;) {
        unsigned long n = 0;
        for (; n < 1024 && at < bytes; at += 4096)
            pages[n++] = (char *)(uintptr_t)base + at;
        assert_int_equal(move_pages(0, n, pages, NULL, status, 0), 0);
        for (unsigned long i = 0; i < n; i++)
            there += status[i] == node;
    }
    return there;
}

static void where_am_i(int32_t *cpu, int32_t *node)
{
    unsigned int c = 0, n = 0;
    (void)syscall(SYS_getcpu, &c, &n, NULL);
    *cpu = (int32_t)c;
    *node = (int32_t)n;
}

static sherd__arena *make_arena(const sherd__arena_options *options)
{
    sherd__arena *arena = NULL;
    sherd_error err;
    if (sherd__arena_create(options, &arena, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    return arena;
}

static void the_machine_is_seen(void **state)
{
    (void)state;
    char text[8192];
    sherd__topology one = load(), two;
    sherd__topology_options options = {.from = SHERD__TOPOLOGY_SYS};
    assert_int_equal(sherd__topology_load(&options, &two, NULL), SHERD_OK);
    sherd__topology_print(&one, text, sizeof text);
    print_message("%s", text);
    assert_int_equal(one.n_nodes, nodes);
    assert_int_equal(one.n_cpus, cpus);
    assert_int_equal(sherd__topology_usable_cores(&one), one.n_cores);
    assert_int_equal(one.n_nodes, two.n_nodes);
    assert_int_equal(one.n_cores, two.n_cores);
    assert_memory_equal(one.distance, two.distance, (size_t)(nodes * nodes) * sizeof one.distance[0]);
    assert_true(sherd__topology_digest(&one) == sherd__topology_digest(&two));
    for (int32_t i = 0; i < one.n_nodes; i++)
        assert_int_equal(one.nodes[i].cores, one.n_cores / nodes);
    sherd__topology_free(&one);
    sherd__topology_free(&two);
}

/* ------------------------------------------------------------------------------------------------ ranks, teams, arenas
 */

typedef struct seen {
    int32_t cpu[MAX_CPUS], node[MAX_CPUS];
    _Atomic int32_t arrived, threads;
} seen;

/* Every member does one chunk: each waits, for a while, for the others. */
static void note_place(void *arg, int64_t chunk, int32_t worker)
{
    seen *it = arg;
    (void)chunk;
    where_am_i(&it->cpu[worker], &it->node[worker]);
    atomic_fetch_add(&it->arrived, 1);
    for (int i = 0; i < 120000 && atomic_load(&it->arrived) < atomic_load(&it->threads); i++)
        usleep(1000);
}

static void check_workers(sherd__team *team, const sherd__share *share, uint8_t *used)
{
    seen it;
    memset(&it, 0, sizeof it);
    atomic_store(&it.threads, share->n_seats);
    const char *why;
    if (sherd__team_unpinned(team, &why) != 0)
        fail_msg("%s", why);
    sherd__team_run(team, share->n_seats, note_place, &it);
    assert_int_equal(atomic_load(&it.arrived), share->n_seats);
    for (int32_t i = 1; i < share->n_seats; i++) {
        assert_int_equal(it.cpu[i], share->seats[i].cpu);
        assert_int_equal(it.node[i], share->seats[i].node);
    }
    for (int32_t i = 0; i < share->n_seats; i++)
        assert_int_equal(used[share->seats[i].cpu]++, 0);
}

static void check_arena(sherd__team *team, int32_t node, uint64_t bytes, sherd__arena_want huge)
{
    sherd__arena_report report;
    sherd_error err;
    char text[700];
    sherd__arena_options options = {.name = "moments",
                                    .bytes = bytes,
                                    .node = node,
                                    .bind = SHERD__ARENA_MUST,
                                    .lock = SHERD__ARENA_MUST,
                                    .huge = huge,
                                    .team = team};
    sherd__arena *arena = make_arena(&options);
    memset(sherd__arena_base(arena), 0x5A, bytes);
    assert_int_equal(sherd__arena_inspect(arena, &report, &err), SHERD_OK);
    sherd__arena_print(&report, text, sizeof text);
    print_message("%s\n", text);
    assert_int_equal(report.there_bytes, report.mapped_bytes);
    assert_int_equal(report.on_node[node], report.mapped_bytes);
    assert_int_equal(report.locked_bytes, report.mapped_bytes);
    assert_int_equal(pages_on(sherd__arena_base(arena), bytes, node), (bytes + 4095) / 4096);
    sherd__arena_destroy(arena);
}

static void check_rank(const sherd__topology *topology, int32_t ranks, int32_t rank, uint8_t *used)
{
    sherd__share share;
    sherd__team *team = NULL;
    sherd_error err;
    char text[512];
    sherd__share_device devices[MAX_CPUS];
    for (int32_t r = 0; r < ranks; r++) /* the last rank's device hangs on the first node */
        devices[r] = (sherd__share_device){NULL, topology->nodes[(ranks - 1 - r) * nodes / ranks].os};
    sherd__share_options options = {.ranks = ranks, .rank = rank, .devices = devices};
    if (sherd__share_make(topology, &options, &share, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    sherd__share_print(&share, text, sizeof text);
    print_message("rank %d of %d: %s\n", rank, ranks, text);
    assert_int_equal(share.home, devices[rank].node);
    sherd__team_options with = {.threads = share.n_seats, .seats = share.seats};
    if (sherd__team_make(&with, &team, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    check_workers(team, &share, used);
    for (int32_t i = 0; i < share.n_nodes; i++)
        check_arena(team, share.nodes[i].node, 9 * MIB + 4097, i % 2 ? SHERD__ARENA_NEVER : SHERD__ARENA_TRY);
    sherd__team_destroy(team);
    sherd__share_free(&share);
}

static void pages_and_workers_are_where_the_plan_says(void **state)
{
    (void)state;
    sherd__topology it = load();
    for (int32_t ranks = 1; ranks <= 8; ranks *= 2) {
        uint8_t used[MAX_CPUS] = {0};
        for (int32_t rank = 0; rank < ranks; rank++)
            check_rank(&it, ranks, rank, used);
        for (int32_t i = 0; i < it.n_cpus; i++)
            assert_int_equal(used[it.cpus[i].os], 1);
    }
    sherd__topology_free(&it);
}

/* Without a policy a page lies where its first toucher sits: half of the arena on each of two nodes. */
static void first_touch_is_the_seats(void **state)
{
    (void)state;
    sherd__topology it = load();
    sherd__seat seats[2];
    seats[0] = (sherd__seat){.cpu = it.cpus[0].os, .node = it.nodes[0].os};
    seats[1] = (sherd__seat){.cpu = it.cpus[it.n_cpus - 1].os, .node = it.nodes[it.n_nodes - 1].os};
    sherd__team *team = NULL;
    sherd__team_options with = {.threads = 2, .seats = seats};
    assert_int_equal(sherd__team_make(&with, &team, NULL), SHERD_OK);
    assert_int_equal(sherd__team_pin_caller(team, NULL), SHERD_OK);
    sherd__arena_options options = {
        .name = "spread", .bytes = 32 * MIB, .node = -1, .huge = SHERD__ARENA_NEVER, .team = team};
    sherd__arena *arena = make_arena(&options);
    char *base = sherd__arena_base(arena);
    assert_int_equal(pages_on(base, 16 * MIB, seats[0].node), 4096);
    assert_int_equal(pages_on(base + 16 * MIB, 16 * MIB, seats[1].node), 4096);
    sherd__arena_destroy(arena);
    sherd__team_destroy(team);
    sherd__topology_free(&it);
}

static void strays_are_fetched(void **state)
{
    (void)state;
    sherd__topology it = load();
    int32_t home = it.nodes[nodes - 1].os;
    assert_int_equal(sherd__pin_thread(pthread_self(), it.cpus[0].os), 0);
    char *base = mmap(NULL, 8 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(base != MAP_FAILED);
    memset(base, 3, 8 * MIB);
    assert_int_equal(pages_on(base, 8 * MIB, home), 0);
    sherd__pages pages = {.base = base, .bytes = 8 * MIB, .page_bytes = 4096, .node = home, .gather = 1};
    sherd__pages_count count;
    assert_int_equal(sherd__pages_populate(&pages, NULL, &count), 0);
    assert_int_equal(count.there, 8 * MIB);
    assert_int_equal(count.elsewhere, 0);
    assert_int_equal(pages_on(base, 8 * MIB, home), 2048);
    assert_int_equal(base[8 * MIB - 1], 3);
    munmap(base, 8 * MIB);
    sherd__topology_free(&it);
}

/* -------------------------------------------------------------------------------------------------------------- faults
 */

static void a_full_node(void **state)
{
    (void)state;
    sherd__topology it = load();
    int32_t node = it.nodes[1].os;
    uint64_t there = sherd__meminfo_available(node);
    sherd__arena *arena = NULL;
    sherd_error err;
    sherd__arena_options options = {.name = "vast", .bytes = there + 16 * MIB, .node = node, .bind = SHERD__ARENA_MUST};
    assert_int_equal(sherd__arena_create(&options, &arena, &err), SHERD_ENOMEM);
    print_message("%s\n", err.text);
    assert_non_null(strstr(err.text, "free memory there"));
    assert_null(arena);
    assert_true(sherd__meminfo_available(node) + 8 * MIB > there);
    options.bind = SHERD__ARENA_TRY;
    arena = make_arena(&options);
    sherd__arena_report report;
    char text[700];
    assert_int_equal(sherd__arena_inspect(arena, &report, &err), SHERD_OK);
    sherd__arena_print(&report, text, sizeof text);
    print_message("%s\n", text);
    assert_true(report.elsewhere_bytes >= 16 * MIB);
    assert_int_equal(report.there_bytes + report.elsewhere_bytes, report.mapped_bytes);
    assert_non_null(strstr(report.fallback, "lie off node"));
    assert_int_equal(pages_on(sherd__arena_base(arena), report.mapped_bytes, node), report.there_bytes / 4096);
    sherd__arena_destroy(arena);
    sherd__topology_free(&it);
}

static int write_to(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    if (!file)
        return 0;
    int done = fputs(text, file) >= 0;
    return fclose(file) == 0 && done;
}

static void reserved_huge_pages_of_a_node(void **state)
{
    (void)state;
    sherd__topology it = load();
    char path[128];
    int32_t node = it.nodes[nodes - 1].os;
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/nr_hugepages", node);
    assert_true(write_to(path, "6"));
    assert_int_equal(sherd__meminfo_huge_free(node), 12 * MIB);
    sherd__arena *arena = NULL;
    sherd_error err;
    sherd__arena_options options = {.name = "huge",
                                    .bytes = 7 * MIB,
                                    .node = it.nodes[0].os,
                                    .bind = SHERD__ARENA_MUST,
                                    .huge = SHERD__ARENA_MUST,
                                    .lock = SHERD__ARENA_MUST};
    assert_int_equal(sherd__arena_create(&options, &arena, &err), SHERD_ENOMEM);
    assert_non_null(strstr(err.text, "nr_hugepages"));
    options.node = node;
    arena = make_arena(&options);
    sherd__arena_report report;
    memset(sherd__arena_base(arena), 1, 7 * MIB);
    assert_int_equal(sherd__arena_inspect(arena, &report, &err), SHERD_OK);
    assert_int_equal(report.page_bytes, 2 * MIB);
    assert_int_equal(report.huge_bytes, 8 * MIB);
    assert_int_equal(report.on_node[node], 8 * MIB);
    assert_int_equal(pages_on(sherd__arena_base(arena), 8 * MIB, node), 2048);
    sherd__arena_destroy(arena);
    assert_true(write_to(path, "0"));
    sherd__topology_free(&it);
}

#define GROUP "/sys/fs/cgroup/sherd"

/* In a child, whose cgroup has the first node's processors and memory only: 0, or the claim that did not hold. */
static int inside_cpuset(int32_t own_cpu, int32_t other_cpu, int32_t other_node)
{
    sherd__topology it;
    sherd__topology_options from = {.from = SHERD__TOPOLOGY_MACHINE};
    sherd_error err;
    const char *why;
    if (sherd__topology_load(&from, &it, &err) != SHERD_OK || sherd__topology_usable_cores(&it) != 1 ||
        it.n_nodes != nodes)
        return 2;
    if (it.nodes[0].allowed != 1 || it.nodes[1].allowed != 0 || it.nodes[1].cores == 0)
        return 3;
    sherd__seat seats[] = {{own_cpu, 0}, {own_cpu, 0}, {other_cpu, other_node}};
    sherd__team_options with = {.threads = 3, .seats = seats};
    sherd__team *team = NULL;
    if (sherd__team_make(&with, &team, &err) != SHERD_OK || sherd__team_unpinned(team, &why) != 1 ||
        !strstr(why, "worker 2"))
        return 4;
    print_message("%s\n", why);
    sherd__arena *arena = NULL;
    sherd__arena_options options = {
        .name = "m", .bytes = MIB, .node = other_node, .bind = SHERD__ARENA_MUST, .team = team};
    if (sherd__arena_create(&options, &arena, &err) == SHERD_OK)
        return 5;
    print_message("%s\n", err.text);
    options.node = it.nodes[0].os;
    if (sherd__arena_create(&options, &arena, &err) != SHERD_OK)
        return 6;
    sherd__arena_destroy(arena);
    sherd__team_destroy(team);
    sherd__topology_free(&it);
    return 0;
}

static void a_cpuset_keeps_workers_out(void **state)
{
    (void)state;
    char text[64];
    int status = -1;
    sherd__topology it = load();
    int32_t own = it.cpus[0].os, other = it.cpus[it.n_cpus - 1].os, node = it.nodes[nodes - 1].os;
    assert_true(write_to("/sys/fs/cgroup/cgroup.subtree_control", "+cpuset"));
    assert_int_equal(mkdir(GROUP, 0700), 0);
    snprintf(text, sizeof text, "%d", own);
    assert_true(write_to(GROUP "/cpuset.cpus", text));
    assert_true(write_to(GROUP "/cpuset.mems", "0"));
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(300);
        snprintf(text, sizeof text, "%d", (int)getpid());
        _exit(write_to(GROUP "/cgroup.procs", text) ? inside_cpuset(own, other, node) : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(rmdir(GROUP), 0);
    sherd__topology_free(&it);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_machine_is_seen),           cmocka_unit_test(pages_and_workers_are_where_the_plan_says),
        cmocka_unit_test(reserved_huge_pages_of_a_node), cmocka_unit_test(a_full_node),
        cmocka_unit_test(a_cpuset_keeps_workers_out),    cmocka_unit_test(strays_are_fetched),
        cmocka_unit_test(first_touch_is_the_seats), /* pins the main thread: last */
    };
    if (argc != 3 || (nodes = atoi(argv[1])) < 2 || (cpus = atoi(argv[2])) < nodes || cpus > MAX_CPUS) {
        fprintf(stderr, "usage: numa_guest NODES CPUS, on a machine with as many\n");
        return 2;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
