/* SPDX-License-Identifier: MIT
 *
 * Topologies of this machine, of recorded ones and of a /sys laid out in a folder: nodes, cores, siblings, GPUs and
 * limits are what was put in; two ways of looking at the same machine agree.
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
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>

#include "host/cpulist.h"
#include "host/pin.h"
#include "host/topology_raw.h"
#include "tests/host/machine_xml.h"
#include "tests/support/fail_alloc.h"

#define GIB (UINT64_C(1) << 30)

static sherd__topology load(sherd__topology_from from, const char *text, const char *cpus)
{
    sherd__topology topology;
    sherd_error err;
    sherd__topology_options options = {.from = from, .text = text, .cpus = cpus};
    if (sherd__topology_load(&options, &topology, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    return topology;
}

static int has_hwloc(void)
{
    return sherd__topology_hwloc_missing() == NULL;
}

/* What must hold of every topology. */
static void check_links(const sherd__topology *it)
{
    int32_t cores = 0, cpus = 0, usable = 0;
    assert_true(it->n_nodes >= 1 && it->n_cores >= 1 && it->n_cpus >= it->n_cores && it->n_packages >= 1);
    for (int32_t n = 0; n < it->n_nodes; n++) {
        int32_t here = 0, of_them = 0;
        assert_true(n == 0 || it->nodes[n].os > it->nodes[n - 1].os);
        assert_int_equal(sherd__topology_node_index(it, it->nodes[n].os), n);
        assert_int_equal(it->distance[n * it->n_nodes + n], 10);
        for (int32_t c = 0; c < it->n_cores; c++) {
            here += it->cores[c].node == n;
            of_them += it->cores[c].node == n && it->cores[c].usable > 0;
        }
        assert_int_equal(it->nodes[n].cores, here);
        assert_int_equal(it->nodes[n].usable, of_them);
        cores += here;
        usable += of_them;
    }
    assert_int_equal(cores, it->n_cores);
    assert_int_equal(usable, sherd__topology_usable_cores(it));
    for (int32_t c = 0; c < it->n_cores; c++) {
        int32_t allowed = 0;
        assert_int_equal(it->cores[c].first_cpu, cpus);
        for (int32_t i = 0; i < it->cores[c].cpus; i++, cpus++) {
            assert_int_equal(it->cpus[cpus].core, c);
            assert_int_equal(sherd__topology_node_of_cpu(it, it->cpus[cpus].os), it->cores[c].node);
            allowed += it->cpus[cpus].allowed;
        }
        assert_int_equal(it->cores[c].usable, allowed);
    }
    assert_int_equal(cpus, it->n_cpus);
}

/* -------------------------------------------------------------------------------------------------------- this machine
 */

static void this_machine_both_ways(void **state)
{
    (void)state;
    sherd__topology one = load(SHERD__TOPOLOGY_MACHINE, NULL, NULL), two = load(SHERD__TOPOLOGY_SYS, NULL, NULL);
    check_links(&one);
    check_links(&two);
    assert_int_equal(one.n_nodes, two.n_nodes);
    assert_int_equal(one.n_cores, two.n_cores);
    assert_int_equal(one.n_cpus, two.n_cpus);
    assert_int_equal(one.n_packages, two.n_packages);
    assert_true(sherd__topology_digest(&one) == sherd__topology_digest(&two));
    for (int32_t i = 0; i < one.n_nodes; i++) {
        assert_int_equal(one.nodes[i].os, two.nodes[i].os);
        assert_true(one.nodes[i].bytes > 0);
        assert_true(one.nodes[i].bytes == two.nodes[i].bytes);
        assert_int_equal(one.nodes[i].usable, two.nodes[i].usable);
    }
    for (int32_t i = 0; i < one.n_cpus; i++) {
        assert_int_equal(one.cpus[i].os, two.cpus[i].os);
        assert_int_equal(one.cpus[i].allowed, sherd__pin_allows(one.cpus[i].os));
    }
    assert_true(sherd__topology_usable_cores(&one) >= 1);
    sherd__topology_free(&one);
    sherd__topology_free(&two);
}

static void *look_pinned(void *arg)
{
    int32_t *found = arg;
    if (sherd__pin_thread(pthread_self(), *found) != 0)
        return NULL;
    for (int from = SHERD__TOPOLOGY_MACHINE; from <= SHERD__TOPOLOGY_SYS; from++) {
        sherd__topology it = load((sherd__topology_from)from, NULL, NULL);
        int32_t allowed = 0, right = 0;
        for (int32_t i = 0; i < it.n_cpus; i++) {
            allowed += it.cpus[i].allowed;
            right += it.cpus[i].allowed && it.cpus[i].os == *found;
        }
        if (allowed != 1 || right != 1 || sherd__topology_usable_cores(&it) != 1)
            *found = -1;
        sherd__topology_free(&it);
    }
    return arg;
}

static void affinity_limits_what_is_usable(void **state)
{
    (void)state;
    int32_t cpu = sched_getcpu();
    pthread_t thread;
    void *pinned = NULL;
    assert_int_equal(pthread_create(&thread, NULL, look_pinned, &cpu), 0);
    pthread_join(thread, &pinned);
    assert_ptr_equal(pinned, &cpu);
    assert_true(cpu >= 0);
}

/* --------------------------------------------------------------------------------------------------- recorded machines
 */

static const machine machines[] = {
    {.packages = 1, .nodes_per_package = 1, .cores_per_node = 4, .smt = 1, .node_bytes = 8 * GIB},
    {.packages = 2,
     .nodes_per_package = 1,
     .cores_per_node = 64,
     .smt = 1,
     .gpus_per_package = 4,
     .node_bytes = 768 * GIB},
    {.packages = 2,
     .nodes_per_package = 1,
     .cores_per_node = 64,
     .smt = 2,
     .gpus_per_package = 4,
     .node_bytes = 768 * GIB},
    {.packages = 2,
     .nodes_per_package = 4,
     .cores_per_node = 16,
     .smt = 2,
     .gpus_per_package = 4,
     .gpus_at_nodes = 1,
     .node_bytes = 96 * GIB},
    {.packages = 2,
     .nodes_per_package = 4,
     .cores_per_node = 16,
     .smt = 1,
     .gpus_per_package = 4,
     .node_bytes = 96 * GIB},
    {.packages = 2,
     .nodes_per_package = 1,
     .cores_per_node = 8,
     .smt = 1,
     .gpus_per_package = 2,
     .memory_nodes = 2,
     .node_bytes = 64 * GIB},
};

static void check_machine(const machine *made, const sherd__topology *it)
{
    check_links(it);
    assert_int_equal(it->n_packages, made->packages);
    assert_int_equal(it->n_nodes, machine_nodes(made));
    assert_int_equal(it->n_cores, machine_cores(made));
    assert_int_equal(it->n_cpus, machine_cores(made) * made->smt);
    assert_int_equal(it->n_gpus, made->packages * made->gpus_per_package);
    int32_t own = made->packages * made->nodes_per_package;
    for (int32_t n = 0; n < it->n_nodes; n++) {
        assert_int_equal(it->nodes[n].cores, n < own ? made->cores_per_node : 0);
        assert_int_equal(it->nodes[n].package, n < own ? n / made->nodes_per_package : n - own);
        assert_true(it->nodes[n].bytes == made->node_bytes);
        assert_int_equal(it->nodes[n].allowed, 1);
    }
    for (int32_t c = 0; c < it->n_cores; c++) {
        assert_int_equal(it->cores[c].cpus, made->smt);
        assert_int_equal(it->cores[c].l3, it->cores[c].node);
        for (int32_t t = 0; t < made->smt; t++) /* the siblings of real machines: a whole machine apart */
            assert_int_equal(it->cpus[it->cores[c].first_cpu + t].os, c + t * machine_cores(made));
    }
}

static void check_gpus(const machine *made, const sherd__topology *it)
{
    for (int32_t p = 0; p < made->packages; p++)
        for (int32_t k = 0; k < made->gpus_per_package; k++) {
            char pci[16], shouted[24];
            machine_gpu_pci(p, k, pci);
            const sherd__topology_gpu *gpu = sherd__topology_find_gpu(it, pci);
            assert_non_null(gpu);
            snprintf(shouted, sizeof shouted, "%08X:%02X:00.0", (unsigned int)p, (unsigned int)(0x10 * (k + 1)));
            assert_ptr_equal(sherd__topology_find_gpu(it, shouted), gpu);
            uint64_t expected =
                made->gpus_at_nodes ? UINT64_C(1) << (p * made->nodes_per_package + k % made->nodes_per_package) : 0;
            for (int32_t n = 0; !made->gpus_at_nodes && n < it->n_nodes; n++)
                expected |= (uint64_t)(it->nodes[n].package == p) << n;
            assert_true(gpu->near == expected);
        }
    assert_null(sherd__topology_find_gpu(it, "0000:ff:00.0"));
    assert_null(sherd__topology_find_gpu(it, "no id"));
    assert_null(sherd__topology_find_gpu(it, NULL));
}

static void recorded_machines(void **state)
{
    (void)state;
    if (!has_hwloc())
        skip();
    for (size_t i = 0; i < sizeof machines / sizeof machines[0]; i++) {
        char *xml = machine_xml(&machines[i]);
        sherd__topology it = load(SHERD__TOPOLOGY_XML, xml, NULL);
        check_machine(&machines[i], &it);
        check_gpus(&machines[i], &it);
        sherd__topology_free(&it);
        free(xml);
    }
}

static void distances_are_the_firmwares(void **state)
{
    (void)state;
    if (!has_hwloc())
        skip();
    char *xml = machine_xml(&machines[5]);
    sherd__topology it = load(SHERD__TOPOLOGY_XML, xml, NULL);
    static const uint16_t expected[] = {10, 32, 17, 32, 32, 10, 32, 17, 17, 32, 10, 32, 32, 17, 32, 10};
    assert_memory_equal(it.distance, expected, sizeof expected);
    sherd__topology_free(&it);
    free(xml);
    /* A synthetic machine says none: then nodes of a package are nearer than others. */
    it = load(SHERD__TOPOLOGY_SYNTHETIC, "pack:2 group:2 [numa] core:2 pu:1", NULL);
    static const uint16_t guessed[] = {10, 12, 20, 20, 12, 10, 20, 20, 20, 20, 10, 12, 20, 20, 12, 10};
    assert_memory_equal(it.distance, guessed, sizeof guessed);
    sherd__topology_free(&it);
}

static void synthetic_machines(void **state)
{
    (void)state;
    if (!has_hwloc())
        skip();
    sherd__topology it = load(SHERD__TOPOLOGY_SYNTHETIC, "pack:2 [numa] l3:4 core:8 pu:2", "1,6-8");
    check_links(&it);
    assert_int_equal(it.n_cores, 64);
    assert_int_equal(it.n_cpus, 128);
    assert_int_equal(it.cores[63].l3, 7);
    assert_int_equal(sherd__topology_usable_cores(&it), 3); /* processors 0 1, 6 7 and 8 9 are cores */
    assert_int_equal(it.nodes[0].cores, 32);
    assert_int_equal(it.nodes[1].usable, 0);
    assert_int_equal(it.caches[0].level, 3);
    assert_int_equal(it.caches[0].caches, 8);
    sherd__topology_free(&it);
}

/* ------------------------------------------------------------------------------------------------------- a laid-out
 * /sys */

static void write_file(const char *root, const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *at = full + strlen(root) + 1; *at; at++)
        if (*at == '/') {
            *at = '\0';
            (void)mkdir(full, 0700);
            *at = '/';
        }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* Two packages of two cores with two siblings each, numbered as real ones are; a node without processors; one GPU, one
 * disk. */
static void lay_out(const char *root)
{
    char path[256], text[64];
    write_file(root, "/sys/devices/system/cpu/online", "0-7\n");
    for (int cpu = 0; cpu < 8; cpu++) {
        int core = cpu % 4;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/physical_package_id", cpu);
        write_file(root, path, core < 2 ? "3\n" : "7\n");
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
        snprintf(text, sizeof text, "%d,%d\n", core, core + 4);
        write_file(root, path, text);
        for (int index = 0; index < 3; index++) {
            static const char *const kinds[] = {"Data\n", "Instruction\n", "Unified\n"};
            static const char *const levels[] = {"1\n", "1\n", "3\n"};
            static const char *const sizes[] = {"32K\n", "32K\n", "16384K\n"};
            snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cache/index%d/type", cpu, index);
            write_file(root, path, kinds[index]);
            snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cache/index%d/level", cpu, index);
            write_file(root, path, levels[index]);
            snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cache/index%d/size", cpu, index);
            write_file(root, path, sizes[index]);
            snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cache/index%d/shared_cpu_list", cpu, index);
            write_file(root, path, index < 2 ? text : core < 2 ? "0-1,4-5\n" : "2-3,6-7\n");
        }
    }
    write_file(root, "/sys/devices/system/node/online", "0,2,5\n");
    write_file(root, "/sys/devices/system/node/node0/cpulist", "0-1,4-5\n");
    write_file(root, "/sys/devices/system/node/node2/cpulist", "2-3,6-7\n");
    write_file(root, "/sys/devices/system/node/node5/cpulist", "\n");
    write_file(root, "/sys/devices/system/node/node0/distance", "10 21 14\n");
    write_file(root, "/sys/devices/system/node/node2/distance", "21 10 24\n");
    write_file(root, "/sys/devices/system/node/node5/distance", "14 24 10\n");
    for (int node = 0; node < 3; node++) {
        static const int os[] = {0, 2, 5};
        snprintf(path, sizeof path, "/sys/devices/system/node/node%d/meminfo", os[node]);
        snprintf(text, sizeof text, "Node %d MemTotal:  %d kB\nNode %d MemFree:  5 kB\n", os[node], (node + 1) << 20,
                 os[node]);
        write_file(root, path, text);
    }
    write_file(root, "/proc/thread-self/status", "Name:\tx\nCpus_allowed_list:\t1-3,6\nMems_allowed_list:\t0,5\n");
    write_file(root, "/sys/bus/pci/devices/0000:3b:00.0/class", "0x030200\n");
    write_file(root, "/sys/bus/pci/devices/0000:3b:00.0/vendor", "0x10de\n");
    write_file(root, "/sys/bus/pci/devices/0000:3b:00.0/device", "0x2330\n");
    write_file(root, "/sys/bus/pci/devices/0000:3b:00.0/numa_node", "2\n");
    write_file(root, "/sys/bus/pci/devices/0000:5e:00.0/class", "0x010802\n");
    write_file(root, "/sys/bus/pci/devices/0000:af:00.0/class", "0x120000\n");
    write_file(root, "/sys/bus/pci/devices/0000:af:00.0/numa_node", "-1\n");
}

static void remove_tree(const char *root)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    assert_int_equal(system(command), 0);
}

static void check_laid_out(const sherd__topology *it)
{
    static const int32_t cpus[] = {0, 4, 1, 5, 2, 6, 3, 7}, allowed[] = {0, 0, 1, 0, 1, 1, 1, 0};
    static const uint16_t distance[] = {10, 21, 14, 21, 10, 24, 14, 24, 10};
    check_links(it);
    assert_int_equal(it->n_nodes, 3);
    assert_int_equal(it->n_packages, 2);
    assert_int_equal(it->n_cores, 4);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(it->cpus[i].os, cpus[i]);
        assert_int_equal(it->cpus[i].allowed, allowed[i]);
    }
    assert_int_equal(sherd__topology_usable_cores(it), 3);
    assert_memory_equal(it->distance, distance, sizeof distance);
    assert_int_equal(it->nodes[1].os, 2);
    assert_int_equal(it->nodes[1].allowed, 0);
    assert_int_equal(it->nodes[2].os, 5);
    assert_int_equal(it->nodes[2].cores, 0);
    assert_true(it->nodes[2].bytes == 3 * GIB);
    assert_int_equal(it->n_caches, 2);
    assert_int_equal(it->caches[0].caches, 4);
    assert_int_equal(it->caches[1].caches, 2);
    assert_true(it->caches[1].bytes == 16384 * 1024);
    assert_int_equal(it->cores[3].l3, 1);
    assert_int_equal(it->n_gpus, 2);
    assert_string_equal(it->gpus[0].model, "10de:2330");
    assert_true(sherd__topology_find_gpu(it, "3b:00.0")->near == 2);
    assert_true(sherd__topology_find_gpu(it, "0000:af:00.0")->near == 0);
}

static void a_laid_out_sys(void **state)
{
    char root[] = "/tmp/sherd_topology_XXXXXX", text[2048];
    (void)state;
    assert_non_null(mkdtemp(root));
    lay_out(root);
    sherd__topology it = load(SHERD__TOPOLOGY_SYS, root, NULL);
    check_laid_out(&it);
    size_t wanted = sherd__topology_print(&it, text, sizeof text);
    assert_int_equal(wanted, strlen(text));
    assert_non_null(strstr(text, "2 packages, 4 cores, 8 processors, 4 × 32 KiB L1, 2 × 16384 KiB L3"));
    assert_non_null(
        strstr(text, "node 2: 2.0 GiB (not allowed), package 1, 2 of 2 cores usable, processors 2-3,6, distances 21"));
    assert_non_null(strstr(text, "node 5: 3.0 GiB, memory only, distances 14 24 10"));
    assert_non_null(strstr(text, "GPU 0000:3b:00.0 10de:2330, near node 2\n"));
    assert_non_null(strstr(text, "GPU 0000:af:00.0, near node unknown\n"));
    assert_int_equal(sherd__topology_print(&it, text, 10), wanted);
    assert_int_equal(sherd__topology_print(&it, NULL, 0), wanted);
    sherd__topology_free(&it);
    sherd__topology_free(&it);
    remove_tree(root);
}

static void a_sys_without_nodes(void **state)
{
    char root[] = "/tmp/sherd_topology_XXXXXX";
    (void)state;
    assert_non_null(mkdtemp(root));
    write_file(root, "/sys/devices/system/cpu/online", "0-2\n");
    sherd__topology it = load(SHERD__TOPOLOGY_SYS, root, NULL);
    check_links(&it);
    assert_int_equal(it.n_nodes, 1);
    assert_int_equal(it.n_cores, 3);
    assert_int_equal(it.nodes[0].usable, 3);
    sherd__topology_free(&it);
    remove_tree(root);
}

/* ---------------------------------------------------------------------------------------------------------------
 * faults */

static sherd_status refused(sherd__topology_from from, const char *text, const char *cpus, sherd_error *err)
{
    sherd__topology it;
    sherd__topology_options options = {.from = from, .text = text, .cpus = cpus};
    return sherd__topology_load(&options, &it, err);
}

static void bad_machines(void **state)
{
    (void)state;
    sherd_error err;
    assert_int_equal(refused(SHERD__TOPOLOGY_SYS, "/nonexistent", NULL, &err), SHERD_ESYSTEM);
    assert_non_null(strstr(err.text, "/nonexistent"));
    assert_int_equal(refused(SHERD__TOPOLOGY_MACHINE, NULL, "0-", &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "'0-'"));
    sherd_status expected = has_hwloc() ? SHERD_EINVAL : SHERD_EUNSUPPORTED;
    assert_int_equal(refused(SHERD__TOPOLOGY_SYNTHETIC, "no machine", NULL, &err), expected);
    if (!has_hwloc())
        assert_non_null(strstr(err.text, "built without it"));
    sherd_status xml = refused(SHERD__TOPOLOGY_XML, "<topology", NULL, &err);
    assert_true(has_hwloc() ? xml == SHERD_EINVAL || xml == SHERD_ESYSTEM : xml == SHERD_EUNSUPPORTED);
    char *crowd = has_hwloc()
                      ? machine_xml(&(machine){.packages = 65, .nodes_per_package = 1, .cores_per_node = 1, .smt = 1})
                      : NULL;
    if (crowd) {
        assert_int_equal(refused(SHERD__TOPOLOGY_XML, crowd, NULL, &err), SHERD_EUNSUPPORTED);
        assert_non_null(strstr(err.text, "65 memory nodes"));
    }
    free(crowd);
}

static void lists_of_processors(void **state)
{
    static const char *const good[] = {"", "\n", "0", "0-3,7\n", "5,1", "2-2 \n", "9-1000000"};
    static const char *const bad[] = {"-", "0-",  "3-1", "0,",    ",1",      "1,,2",
                                      "a", "1 2", "0x1", "1-2-3", "1000001", "99999999999"};
    uint8_t set[10];
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_int_equal(sherd__cpulist_read(good[i], set, 10), 1);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(sherd__cpulist_read(bad[i], set, 10), 0);
    memset(set, 0, sizeof set);
    assert_int_equal(sherd__cpulist_read("1-3,8-20", set, 10), 1);
    static const uint8_t expected[] = {0, 1, 1, 1, 0, 0, 0, 0, 1, 1};
    assert_memory_equal(set, expected, sizeof expected);
}

static void pci_ids(void **state)
{
    (void)state;
    uint64_t pci;
    char text[16];
    assert_int_equal(sherd__pci_parse("0001:af:1F.7", &pci), 1);
    sherd__pci_print(pci, text);
    assert_string_equal(text, "0001:af:1f.7");
    static const char *const bad[] = {"", "0000", "0000:3b:00", "0000:3b:00.0x", "3b:00.0 ", "0000:3b:00.", "g:00.0"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(sherd__pci_parse(bad[i], &pci), 0);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    int failed = 0;
    for (int64_t k = 1;; k++, failed++) {
        sherd_test_alloc counts = {.fail_at = k};
        sherd_allocator allocator = sherd_test_allocator(&counts);
        sherd__topology_options options = {.allocator = &allocator, .from = SHERD__TOPOLOGY_SYS};
        sherd__topology it;
        sherd_error err;
        sherd_status status = sherd__topology_load(&options, &it, &err);
        if (status == SHERD_OK)
            sherd__topology_free(&it);
        assert_int_equal(atomic_load(&counts.live_blocks), 0);
        assert_int_equal(atomic_load(&counts.wrong_sizes), 0);
        if (status == SHERD_OK)
            break;
        assert_int_equal(status, SHERD_ENOMEM);
    }
    assert_true(failed >= 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(this_machine_both_ways),    cmocka_unit_test(affinity_limits_what_is_usable),
        cmocka_unit_test(recorded_machines),         cmocka_unit_test(distances_are_the_firmwares),
        cmocka_unit_test(synthetic_machines),        cmocka_unit_test(a_laid_out_sys),
        cmocka_unit_test(a_sys_without_nodes),       cmocka_unit_test(bad_machines),
        cmocka_unit_test(lists_of_processors),       cmocka_unit_test(pci_ids),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
