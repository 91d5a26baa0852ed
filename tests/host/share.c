/* SPDX-License-Identifier: MIT
 *
 * Shares over many machines, numbers of ranks and places of devices: no core twice, none forgotten, nobody could be
 * nearer without making another farther; the machine this is for gets what one would write down by hand; text and value
 * agree.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "host/share.h"
#include "host/topology_raw.h"
#include "tests/host/machine_xml.h"
#include "tests/support/fail_alloc.h"

#define GIB (UINT64_C(1) << 30)
#define MAX_RANKS 40
#define MAX_CPUS 512

static int has_hwloc(void)
{
    return sherd__topology_hwloc_missing() == NULL;
}

static sherd__topology load(const machine *made, const char *cpus)
{
    sherd__topology topology;
    sherd_error err;
    char *xml = machine_xml(made);
    sherd__topology_options options = {.from = SHERD__TOPOLOGY_XML, .text = xml, .cpus = cpus};
    if (sherd__topology_load(&options, &topology, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    free(xml);
    return topology;
}

static sherd__share make(const sherd__topology *topology, const sherd__share_options *options)
{
    sherd__share share;
    sherd_error err;
    if (sherd__share_make(topology, options, &share, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    return share;
}

static const machine host_128 = {.packages = 2,
                                 .nodes_per_package = 1,
                                 .cores_per_node = 64,
                                 .smt = 2,
                                 .gpus_per_package = 4,
                                 .node_bytes = 768 * GIB};
static const machine host_128_nps4 = {.packages = 2,
                                      .nodes_per_package = 4,
                                      .cores_per_node = 16,
                                      .smt = 1,
                                      .gpus_per_package = 4,
                                      .gpus_at_nodes = 1,
                                      .node_bytes = 96 * GIB};
static const machine host_128_nps4_far = {.packages = 2,
                                          .nodes_per_package = 4,
                                          .cores_per_node = 16,
                                          .smt = 2,
                                          .gpus_per_package = 4,
                                          .node_bytes = 96 * GIB};
static const machine desktop = {
    .packages = 1, .nodes_per_package = 1, .cores_per_node = 6, .smt = 2, .node_bytes = 64 * GIB};
static const machine with_memory = {.packages = 2,
                                    .nodes_per_package = 2,
                                    .cores_per_node = 5,
                                    .smt = 1,
                                    .gpus_per_package = 2,
                                    .memory_nodes = 2,
                                    .node_bytes = 64 * GIB};
static const machine *const machines[] = {&host_128, &host_128_nps4, &host_128_nps4_far, &desktop, &with_memory};

/* ------------------------------------------------------------------------------------------------------- the
 * properties */

typedef struct world {
    const sherd__topology *topology;
    sherd__share_device devices[MAX_RANKS];
    sherd__share shares[MAX_RANKS];
    int32_t ranks, reserve;
    int32_t count[MAX_RANKS][SHERD__MAX_NODES]; /* cores of each node, reserved ones included */
    int32_t users[MAX_CPUS];                    /* by processor */
} world;

static void count_seat(world *w, int32_t rank, sherd__seat seat)
{
    int32_t node = sherd__topology_node_of_cpu(w->topology, seat.cpu);
    assert_true(node >= 0);
    assert_int_equal(w->topology->nodes[node].os, seat.node);
    w->users[seat.cpu]++;
    w->count[rank][node]++;
}

static void check_nodes(const sherd__share *share)
{
    int32_t seats = 0;
    assert_true(share->n_nodes >= 1 && share->n_seated_nodes >= 1);
    for (int32_t i = 0; i < share->n_nodes; i++) {
        const sherd__share_node *node = &share->nodes[i];
        assert_int_equal(node->first_seat, seats);
        assert_int_equal(node->seats > 0, i < share->n_seated_nodes);
        assert_true(node->sharers >= 1);
        assert_true(node->worked_by >= 0 && node->worked_by < share->n_seated_nodes);
        assert_true(node->seats == 0 || node->worked_by == i);
        for (int32_t k = 0; k < node->seats; k++)
            assert_int_equal(share->seats[seats++].node, node->node);
    }
    assert_int_equal(seats, share->n_seats);
}

static int32_t cost(const world *w, int32_t rank, int32_t node)
{
    const sherd__topology *it = w->topology;
    const sherd__topology_gpu *gpu = sherd__topology_find_gpu(it, w->devices[rank].pci);
    int32_t best = 1 << 20, home = sherd__topology_node_index(it, w->devices[rank].node);
    for (int32_t n = 0; n < it->n_nodes; n++) {
        int here = gpu && gpu->near ? (int)(gpu->near >> n & 1) : n == home;
        if (here && it->distance[n * it->n_nodes + node] < best)
            best = it->distance[n * it->n_nodes + node];
    }
    return best == 1 << 20 ? 0 : best;
}

/* No two ranks can exchange a core and be nearer together. All cores are in use, so nothing nearer is free. */
static void check_nearness(const world *w)
{
    int32_t nodes = w->topology->n_nodes;
    for (int32_t a = 0; a < w->ranks; a++)
        for (int32_t n = 0; n < nodes; n++)
            for (int32_t b = 0; w->count[a][n] > 0 && b < w->ranks; b++)
                for (int32_t m = 0; m < nodes; m++)
                    if (w->count[b][m] > 0)
                        assert_true(cost(w, a, n) + cost(w, b, m) <= cost(w, a, m) + cost(w, b, n));
}

static void check_use(const world *w)
{
    int32_t cores = sherd__topology_usable_cores(w->topology), crowded = w->ranks > cores;
    for (int32_t c = 0; c < w->topology->n_cores; c++) {
        const sherd__topology_core *core = &w->topology->cores[c];
        int32_t users = 0;
        for (int32_t i = 0; i < core->cpus; i++) {
            int32_t of_cpu = w->users[w->topology->cpus[core->first_cpu + i].os];
            assert_true(of_cpu == 0 || w->topology->cpus[core->first_cpu + i].allowed);
            users += of_cpu;
        }
        if (crowded)
            assert_true(users <= (w->ranks + cores - 1) / cores);
        else
            assert_int_equal(users, core->usable > 0);
    }
}

static void check_rank(world *w, int32_t rank)
{
    const sherd__share *share = &w->shares[rank];
    int32_t cores = sherd__topology_usable_cores(w->topology), all = share->n_seats + share->n_reserved;
    int32_t fair = cores / w->ranks;
    assert_int_equal(share->crowded, w->ranks > cores);
    assert_true(share->n_seats >= 1);
    assert_true(share->crowded ? all == 1 : all == fair || all == fair + 1);
    assert_true(share->n_reserved <= w->reserve && share->n_reserved <= all / 4);
    for (int32_t i = 0; i < share->n_seats; i++)
        count_seat(w, rank, share->seats[i]);
    for (int32_t i = 0; i < share->n_reserved; i++)
        count_seat(w, rank, share->reserved[i]);
    check_nodes(share);
    assert_true(sherd__topology_node_index(w->topology, share->home) >= 0);
}

static void check_world(const sherd__topology *topology, int32_t ranks, int32_t reserve,
                        const sherd__share_device *devices)
{
    static world w;
    memset(&w, 0, sizeof w);
    w.topology = topology;
    w.ranks = ranks;
    w.reserve = reserve;
    for (int32_t r = 0; r < ranks; r++)
        w.devices[r] = devices ? devices[r] : (sherd__share_device){NULL, -1};
    for (int32_t r = 0; r < ranks; r++) {
        sherd__share_options options = {.ranks = ranks, .rank = r, .devices = devices, .reserve = reserve};
        w.shares[r] = make(topology, &options);
        check_rank(&w, r);
    }
    check_use(&w);
    if (devices && !w.shares[0].crowded)
        check_nearness(&w);
    for (int32_t r = 0; r < ranks; r++)
        sherd__share_free(&w.shares[r]);
}

static void random_devices(const sherd__topology *topology, int32_t ranks, uint32_t seed, sherd__share_device *devices)
{
    for (int32_t r = 0; r < ranks; r++) {
        seed = seed * 1664525u + 1013904223u;
        int32_t node = (int32_t)(seed >> 16) % topology->n_nodes;
        int by_gpu = topology->n_gpus > 0 && seed & 0x8000;
        devices[r] = (sherd__share_device){NULL, topology->nodes[node].os};
        if (by_gpu)
            devices[r].pci = topology->gpus[(seed >> 20) % (uint32_t)topology->n_gpus].pci;
    }
}

static void check_worlds(const machine *made, const char *cpus)
{
    sherd__topology it = load(made, cpus);
    sherd__share_device devices[MAX_RANKS];
    for (int32_t ranks = 1; ranks <= MAX_RANKS; ranks += ranks < 9 ? 1 : 7)
        for (int32_t reserve = 0; reserve < 4; reserve += 3) {
            check_world(&it, ranks, reserve, NULL);
            for (uint32_t seed = 0; seed < 4; seed++) {
                random_devices(&it, ranks, seed + (uint32_t)ranks, devices);
                check_world(&it, ranks, reserve, devices);
            }
        }
    sherd__topology_free(&it);
}

static void every_core_once_and_near(void **state)
{
    (void)state;
    if (!has_hwloc())
        skip();
    for (size_t i = 0; i < sizeof machines / sizeof machines[0]; i++)
        check_worlds(machines[i], NULL);
    check_worlds(&host_128, "3,70,9"); /* three odd cores, one of the other package */
    check_worlds(&host_128, "1");
    check_worlds(&with_memory, "2-7,11,13-19");
}

/* ----------------------------------------------------------------------------------------------- known machines, by
 * hand */

static void expect(const sherd__topology *topology, sherd__share_options options, int32_t rank, const char *text,
                   int32_t home)
{
    char got[1024];
    options.rank = rank;
    sherd__share share = make(topology, &options);
    sherd__share_print(&share, got, sizeof got);
    assert_string_equal(got, text);
    assert_int_equal(share.home, home);
    sherd__share_free(&share);
}

static void eight_gpus_on_two_packages(void **state)
{
    (void)state;
    if (!has_hwloc())
        skip();
    sherd__topology it = load(&host_128, NULL);
    char pci[8][16];
    sherd__share_device devices[8];
    for (int32_t r = 0; r < 8; r++) { /* ranks as CUDA may number them: the second package's GPUs first */
        machine_gpu_pci(r < 4 ? 1 : 0, r % 4, pci[r]);
        devices[r] = (sherd__share_device){pci[r], -1};
    }
    sherd__share_options options = {.ranks = 8, .devices = devices, .reserve = 3};
    expect(&it, options, 0, "64-76@1,!77-79", 1);
    expect(&it, options, 3, "112-124@1,!125-127", 1);
    expect(&it, options, 4, "0-12@0,!13-15", 0);
    expect(&it, options, 7, "48-60@0,!61-63", 0);
    options.max_seats = 5;
    expect(&it, options, 7, "48-52@0,!61-63", 0);
    options.max_seats = 0;
    options.smt = 1;
    options.rank = 0;
    sherd__share share = make(&it, &options);
    assert_int_equal(share.n_seats, 26);
    assert_int_equal(share.seats[0].cpu, 64);
    assert_int_equal(share.seats[1].cpu, 192);
    assert_int_equal(share.n_reserved, 3);
    assert_true(share.nodes[0].bytes == 768 * GIB / 4);
    assert_int_equal(share.nodes[0].sharers, 4);
    sherd__share_free(&share);
    sherd__topology_free(&it);
}

/* All GPUs of a package hang on the package, of four nodes: each rank gets a node of its own. */
static void four_nodes_per_package(void **state)
{
    (void)state;
    if (!has_hwloc())
        skip();
    sherd__topology it = load(&host_128_nps4_far, NULL);
    char pci[8][16];
    sherd__share_device devices[8];
    for (int32_t r = 0; r < 8; r++) {
        machine_gpu_pci(r / 4, r % 4, pci[r]);
        devices[r] = (sherd__share_device){pci[r], -1};
    }
    sherd__share_options options = {.ranks = 8, .devices = devices, .reserve = 2};
    expect(&it, options, 2, "32-45@2,!46-47", 2);
    expect(&it, options, 5, "80-93@5,!94-95", 5);
    options.ranks = 2;
    options.reserve = 0;
    devices[1] = devices[7];
    expect(&it, options, 1, "64-79@4,80-95@5,96-111@6,112-127@7", 4);
    sherd__topology_free(&it);
    /* GPUs on the nodes themselves: the rank of GPU 3 gets node 3, whatever its number. */
    it = load(&host_128_nps4, NULL);
    for (int32_t r = 0; r < 8; r++) {
        machine_gpu_pci(1 - r / 4, 3 - r % 4, pci[r]);
        devices[r] = (sherd__share_device){pci[r], -1};
    }
    options = (sherd__share_options){.ranks = 8, .devices = devices};
    expect(&it, options, 0, "112-127@7", 7);
    expect(&it, options, 6, "16-31@1", 1);
    sherd__topology_free(&it);
}

/* The last core of a node is not reserved away: somebody must work on that node's memory. */
static void small_nodes_keep_a_seat(void **state)
{
    static const machine small = {
        .packages = 1, .nodes_per_package = 4, .cores_per_node = 1, .smt = 1, .node_bytes = GIB};
    static const machine pairs = {
        .packages = 1, .nodes_per_package = 4, .cores_per_node = 2, .smt = 1, .node_bytes = GIB};
    (void)state;
    if (!has_hwloc())
        skip();
    sherd__topology it = load(&small, NULL);
    sherd__share_options options = {.ranks = 1, .reserve = 3};
    expect(&it, options, 0, "0@0,1@1,2@2,3@3", 0);
    sherd__topology_free(&it);
    it = load(&pairs, NULL);
    expect(&it, options, 0, "0@0,2@1,4-5@2,6-7@3,!1,!3", 0);
    sherd__topology_free(&it);
}

static void nodes_without_cores(void **state)
{
    (void)state;
    if (!has_hwloc())
        skip();
    sherd__topology it = load(&with_memory, NULL);
    sherd__share_options options = {.ranks = 2};
    expect(&it, options, 0, "0-4@0,5-9@1,@4", 0);
    expect(&it, options, 1, "10-14@2,15-19@3,@5", 2);
    options.ranks = 4;
    options.rank = 3;
    sherd__share share = make(&it, &options);
    assert_int_equal(share.n_nodes, 2);
    assert_int_equal(share.n_seated_nodes, 1);
    assert_int_equal(share.nodes[1].node, 5);
    assert_int_equal(share.nodes[1].worked_by, 0);
    assert_int_equal(share.nodes[1].sharers, 2);
    assert_true(share.nodes[1].bytes == 32 * GIB);
    sherd__share_free(&share);
    sherd__topology_free(&it);
    /* A node whose cores belong to somebody else is not one without cores. */
    it = load(&with_memory, "0-3");
    options = (sherd__share_options){.ranks = 1};
    expect(&it, options, 0, "0-3@0,@4", 0);
    sherd__topology_free(&it);
}

static void three_odd_cores(void **state)
{
    (void)state;
    if (!has_hwloc())
        skip();
    sherd__topology it = load(&host_128, "5,77,130"); /* 130 is core 2's second thread */
    sherd__share_options options = {.ranks = 1, .reserve = 3};
    expect(&it, options, 0, "130,5@0,77@1", 0);
    sherd__topology_free(&it);
}

/* ---------------------------------------------------------------------------------------------------------------- text
 */

static void text_there_and_back(void **state)
{
    static const char *const texts[] = {"0-3@0,4-7@1,@2,!8-9", "7@1", "0,2,4@0,1,3@1", "64-70@3,0@0,@1,@5,!1,!100"};
    (void)state;
    if (!has_hwloc())
        skip();
    sherd__topology it = load(&host_128_nps4, NULL);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char got[256], cut[6];
        sherd__share_options options = {.ranks = 1, .text = texts[i]};
        sherd__share share = make(&it, &options);
        check_nodes(&share);
        size_t wanted = sherd__share_print(&share, got, sizeof got);
        if (i != 2)
            assert_string_equal(got, texts[i]);
        assert_int_equal(wanted, strlen(got));
        assert_int_equal(sherd__share_print(&share, cut, sizeof cut), wanted);
        sherd__share_free(&share);
    }
    sherd__share_options options = {.ranks = 3, .text = "0-1;16-17,33@1;@0,40,41"};
    expect(&it, options, 0, "0-1@0", 0);
    expect(&it, options, 1, "16-17,33@1", 1);
    expect(&it, options, 2, "40-41@2,@0", 2);
    sherd__topology_free(&it);
}

static void refused(const sherd__topology *topology, int32_t ranks, const char *text, const char *why)
{
    sherd__share share;
    sherd_error err = {.text = ""};
    for (int32_t rank = 0; rank < ranks; rank++) {
        sherd__share_options options = {.ranks = ranks, .rank = rank, .text = text};
        assert_int_equal(sherd__share_make(topology, &options, &share, &err), SHERD_EINVAL);
        if (!strstr(err.text, why))
            fail_msg("\"%s\": expected '%s' in: %s", text, why, err.text);
    }
}

static void bad_texts_are_refused(void **state)
{
    (void)state;
    if (!has_hwloc())
        skip();
    sherd__topology it = load(&host_128_nps4, "0-63");
    refused(&it, 1, "", "a processor's number is missing");
    refused(&it, 1, "0-", "a processor's number is missing");
    refused(&it, 1, "0,", "a processor's number is missing");
    refused(&it, 1, "0 1", "a comma is missing");
    refused(&it, 1, "0@", "@ wants a node's number");
    refused(&it, 1, "0@0-1", "@ wants a node's number");
    refused(&it, 1, "0@9", "there is no such node");
    refused(&it, 1, "@1", "at least one processor");
    refused(&it, 1, "!1", "at least one processor");
    refused(&it, 1, "0-64", "processor 64");
    refused(&it, 1, "0,1,0", "processor 0 is given twice");
    refused(&it, 1, "0,!0", "processor 0 is given twice");
    refused(&it, 2, "0;0", "processor 0 is given twice");
    refused(&it, 2, "0", "fewer ranks than the 2");
    refused(&it, 2, "0;1;2", "more ranks than the 2");
    refused(&it, 2, "0;", "a processor's number is missing");
    sherd__topology_free(&it);
}

static void bad_options_are_refused(void **state)
{
    static const sherd__share_options bad[] = {{.ranks = 0},
                                               {.ranks = 2, .rank = 2},
                                               {.ranks = 2, .rank = -1},
                                               {.ranks = 1, .reserve = -1},
                                               {.ranks = 1, .max_seats = -1},
                                               {.ranks = 70000}};
    (void)state;
    sherd__topology it;
    sherd__topology_options options = {.from = SHERD__TOPOLOGY_SYS};
    sherd__share share;
    sherd_error err;
    assert_int_equal(sherd__topology_load(&options, &it, &err), SHERD_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(sherd__share_make(&it, &bad[i], &share, &err), SHERD_EINVAL);
    check_world(&it, 1, 0, NULL);
    check_world(&it, 3, 2, NULL);
    sherd__topology_free(&it);
    options.cpus = ""; /* none at all */
    assert_int_equal(sherd__topology_load(&options, &it, &err), SHERD_OK);
    assert_int_equal(sherd__share_make(&it, &(sherd__share_options){.ranks = 1}, &share, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "none of the processors"));
    sherd__topology_free(&it);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    sherd__topology it;
    sherd__topology_options from = {.from = SHERD__TOPOLOGY_SYS};
    assert_int_equal(sherd__topology_load(&from, &it, NULL), SHERD_OK);
    char own[32];
    snprintf(own, sizeof own, "%d", it.cpus[0].os);
    for (int with_text = 0; with_text < 2; with_text++) {
        int failed = 0;
        for (int64_t k = 1;; k++, failed++) {
            sherd_test_alloc counts = {.fail_at = k};
            sherd_allocator allocator = sherd_test_allocator(&counts);
            sherd__share_options options = {.allocator = &allocator, .ranks = 1, .text = with_text ? own : NULL};
            sherd__share share;
            sherd_status status = sherd__share_make(&it, &options, &share, NULL);
            if (status == SHERD_OK)
                sherd__share_free(&share);
            assert_int_equal(atomic_load(&counts.live_blocks), 0);
            assert_int_equal(atomic_load(&counts.wrong_sizes), 0);
            if (status == SHERD_OK)
                break;
            assert_int_equal(status, SHERD_ENOMEM);
        }
        assert_true(failed >= 4);
    }
    sherd__topology_free(&it);
}

static void even_parts(void **state)
{
    static const int64_t sizes[] = {0, 1, 255, 256, 257, 1000, 25600, 25601, 1000003, INT64_C(70000000001)};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int32_t parts = 1; parts < 20; parts++) {
            int64_t expected = 0, smallest = INT64_MAX, largest = 0;
            for (int32_t part = 0; part < parts; part++) {
                int64_t begin, end;
                sherd__even_part(sizes[i], parts, part, &begin, &end);
                assert_int_equal(begin, expected);
                assert_true(end >= begin);
                assert_true(begin % 256 == 0);
                expected = end;
                smallest = end - begin < smallest ? end - begin : smallest;
                largest = end - begin > largest ? end - begin : largest;
            }
            assert_int_equal(expected, sizes[i]);
            assert_true(largest - smallest < 512);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_core_once_and_near),
        cmocka_unit_test(eight_gpus_on_two_packages),
        cmocka_unit_test(four_nodes_per_package),
        cmocka_unit_test(small_nodes_keep_a_seat),
        cmocka_unit_test(nodes_without_cores),
        cmocka_unit_test(three_odd_cores),
        cmocka_unit_test(text_there_and_back),
        cmocka_unit_test(bad_texts_are_refused),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(even_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
