/* SPDX-License-Identifier: MIT
 *
 * Every grouping of up to seven ranks into nodes: who serves whom, which nodes are subtrees, and that the plan's
 * scratch is enough for what a rank sends, receives and keeps.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "comm/mpi_comm.h"

enum { MOST = 7, ELEMS = 256 };

typedef void (*grouping_fn)(const int32_t *nodes, int32_t world);

/* All partitions: each rank joins an older one's node or opens the next. */
static uint32_t each_grouping(int32_t *nodes, int32_t at, int32_t world, int32_t opened, grouping_fn fn)
{
    uint32_t n = 0;
    if (at == world) {
        fn(nodes, world);
        return 1;
    }
    for (int32_t node = 0; node <= opened; node++) {
        nodes[at] = node;
        n += each_grouping(nodes, at + 1, world, node == opened ? opened + 1 : opened, fn);
    }
    return n;
}

static void all_groupings(grouping_fn fn)
{
    static const uint32_t bell[] = {1, 1, 2, 5, 15, 52, 203, 877};
    for (int32_t world = 1; world <= MOST; world++) {
        int32_t nodes[MOST];
        assert_int_equal(each_grouping(nodes, 0, world, 0, fn), bell[world]);
    }
}

/* 1: the ranks of mask are exactly those under one inner node of the tree over [low, high). */
static int is_subtree(uint32_t mask, int32_t low, int32_t high)
{
    int32_t power = 1;
    if (mask == (1u << high) - (1u << low)) {
        return high - low > 1;
    }
    if (high - low == 1) {
        return 0;
    }
    while (power * 2 < high - low) {
        power *= 2;
    }
    return is_subtree(mask, low, low + power) || is_subtree(mask, low + power, high);
}

static void check_nodes(const int32_t *nodes, int32_t world)
{
    sherd__mpi_layout layout;
    for (int32_t rank = 0; rank < world; rank++) {
        assert_true(sherd__mpi_layout_init(&layout, &sherd__default_allocator, nodes, rank, world));
        assert_int_equal(layout.node, layout.node_of[rank]);
        for (int32_t node = 0; node < layout.nodes; node++) {
            int32_t count = sherd__mpi_count(&layout, node), served[MOST] = {0}, most = 0, outsiders = 0;
            uint32_t mask = 0;
            for (int32_t r = 0; r < world; r++) {
                mask |= nodes[r] == node ? 1u << r : 0;
                if (nodes[r] != node) {
                    int32_t by = sherd__mpi_partner(&layout, node, r);
                    assert_int_equal(nodes[by], node);
                    most = ++served[by] > most ? served[by] : most;
                    outsiders++;
                }
            }
            assert_true(most <= (outsiders + count - 1) / count);
            if (layout.block[node]) {
                assert_true(is_subtree(mask, 0, world) && (count & (count - 1)) == 0);
            }
        }
        sherd__mpi_layout_fini(&layout, &sherd__default_allocator);
    }
}

static void test_nodes(void **state)
{
    (void)state;
    all_groupings(check_nodes);
}

/* Every rank hears of every other node, from four of its ranks or all there are, so that one that stands still is not
 * its node's silence. */
static void check_beats(const int32_t *nodes, int32_t world)
{
    sherd__mpi_layout layout;
    assert_true(sherd__mpi_layout_init(&layout, &sherd__default_allocator, nodes, 0, world));
    for (int32_t hearer = 0; hearer < world; hearer++) {
        for (int32_t node = 0; node < layout.nodes; node++) {
            int32_t count = sherd__mpi_count(&layout, node), heard = 0;
            for (int32_t sender = 0; sender < world; sender++) {
                heard += layout.node_of[sender] == node && sherd__mpi_beats(&layout, sender, hearer);
            }
            assert_int_equal(heard, node == layout.node_of[hearer] ? 0
                                    : count < SHERD__MPI_HEARERS   ? count
                                                                   : SHERD__MPI_HEARERS);
        }
    }
    sherd__mpi_layout_fini(&layout, &sherd__default_allocator);
}

static void test_beats(void **state)
{
    (void)state;
    all_groupings(check_beats);
}

/* Full nodes of 2^j that begin where they should are found, whatever comes after them. */
static void test_blocks(void **state)
{
    static const int32_t pairs[] = {0, 0, 1, 1, 2, 2, 3}, late[] = {0, 1, 1, 2, 2, 3, 3},
                         four[] = {0, 0, 0, 0, 1, 1, 2};
    sherd__mpi_layout layout;
    (void)state;
    assert_true(sherd__mpi_layout_init(&layout, &sherd__default_allocator, pairs, 0, 7));
    assert_true(layout.block[0] && layout.block[1] && layout.block[2] && !layout.block[3]);
    sherd__mpi_layout_fini(&layout, &sherd__default_allocator);
    assert_true(sherd__mpi_layout_init(&layout, &sherd__default_allocator, late, 0, 7));
    assert_false(layout.block[0] || layout.block[1] || layout.block[2] || layout.block[3]);
    sherd__mpi_layout_fini(&layout, &sherd__default_allocator);
    assert_true(sherd__mpi_layout_init(&layout, &sherd__default_allocator, four, 0, 7));
    assert_true(layout.block[0] && layout.block[1] && !layout.block[2]);
    sherd__mpi_layout_fini(&layout, &sherd__default_allocator);
}

static uint64_t planned(int32_t world, sherd_dtype dtype, sherd_wire wire)
{
    sherd_config config;
    sherd_plan *plan = NULL;
    sherd_param param = {
        .name = "p", .shape = {(int64_t)world * ELEMS}, .ndim = 1, .dtype = dtype, .grad_dtype = dtype};
    sherd_memory with, without;
    for (int mpi = 0; mpi < 2; mpi++) {
        sherd_config_init(&config, sizeof config);
        config.train_micro_batch_size_per_gpu = 1;
        config.zero.stage = 2;
        config.wire = wire;
        config.transport.kind = mpi ? SHERD_TRANSPORT_MPI : SHERD_TRANSPORT_DIRECT;
        assert_int_equal(sherd_plan_create(&config, &param, 1, world, &plan, NULL), SHERD_OK);
        assert_int_equal(sherd_plan_memory(plan, 0, mpi ? &with : &without), SHERD_OK);
        sherd_plan_destroy(plan);
    }
    return with.bytes[SHERD_TIER_DEVICE][SHERD_CAT_COMMUNICATION] -
           without.bytes[SHERD_TIER_DEVICE][SHERD_CAT_COMMUNICATION];
}

static void check_scratch(const int32_t *nodes, int32_t world)
{
    for (int32_t rank = 0; rank < world; rank++) {
        for (sherd_dtype dtype = SHERD_FP32; dtype <= SHERD_BF16; dtype++) {
            uint64_t leaf = ELEMS * sherd_dtype_bytes(dtype), sum = ELEMS * 4, needed = 0;
            sherd__mpi_layout layout;
            assert_true(sherd__mpi_layout_init(&layout, &sherd__default_allocator, nodes, rank, world));
            int mine = layout.block[layout.node], levels = 1;
            for (int32_t node = 0; node < layout.nodes; node++) {
                int32_t count = sherd__mpi_count(&layout, node);
                needed += node == layout.node ? 0 : layout.block[node] ? sum : (uint64_t)count * leaf;
            }
            for (int32_t peer = 0; peer < world && mine; peer++) {
                needed +=
                    nodes[peer] != nodes[rank] && sherd__mpi_partner(&layout, layout.node, peer) == rank ? sum : 0;
            }
            while (1 << (levels - 1) < world) {
                levels++;
            }
            needed += (mine ? sum : 0) + (world > 2 ? (uint64_t)levels * sum : 0);
            assert_true(layout.nodes == 1 || needed <= planned(world, dtype, SHERD_WIRE_GRADIENT));
            if (dtype == SHERD_BF16) /* likewise where it is only the wire's */
                assert_true(layout.nodes == 1 || needed <= planned(world, SHERD_FP32, SHERD_WIRE_BF16));
            sherd__mpi_layout_fini(&layout, &sherd__default_allocator);
        }
    }
}

static void test_scratch(void **state)
{
    (void)state;
    all_groupings(check_scratch);
}

/* The plan's bytes between nodes, against closed forms of equal nodes; and what is sent is received, in any grouping.
 */
static sherd_plan *small_plan(int32_t world, sherd_dtype dtype, sherd_wire wire)
{
    sherd_config config;
    sherd_plan *plan = NULL;
    sherd_param param = {
        .name = "p", .shape = {(int64_t)world * ELEMS}, .ndim = 1, .dtype = dtype, .grad_dtype = dtype};
    sherd_config_init(&config, sizeof config);
    config.wire = wire;
    config.train_micro_batch_size_per_gpu = 1;
    config.gradient_accumulation_steps = 3;
    config.zero.stage = 2;
    config.transport.kind = SHERD_TRANSPORT_MPI;
    assert_int_equal(sherd_plan_create(&config, &param, 1, world, &plan, NULL), SHERD_OK);
    return plan;
}

static void check_conserved(const int32_t *nodes, int32_t world)
{
    sherd_plan *plan = small_plan(world, SHERD_BF16, SHERD_WIRE_GRADIENT);
    uint64_t sent = 0, received = 0;
    int32_t apart = 0;
    for (int32_t rank = 0; rank < world; rank++) {
        uint64_t out, in;
        assert_int_equal(sherd_plan_wire_bytes(plan, nodes, rank, &out, &in), SHERD_OK);
        sent += out;
        received += in;
        apart |= nodes[rank] != nodes[0];
    }
    assert_true(sent == received && (sent > 0) == apart);
    sherd_plan_destroy(plan);
}

static void test_wire(void **state)
{
    static const int32_t pairs[] = {0, 0, 1, 1, 2, 2}, alone[] = {0, 1, 2, 3, 4, 5};
    uint64_t vote = (SHERD__VOTE_SUMS + SHERD__VOTE_MINS) * 8 + 32, out[2], leaf = ELEMS * 2 + 32, sum = ELEMS * 4 + 32;
    sherd_plan *plan = small_plan(6, SHERD_BF16, SHERD_WIRE_GRADIENT);
    (void)state;
    for (int32_t rank = 0; rank < 2; rank++) {
        assert_int_equal(sherd_plan_wire_bytes(plan, pairs, rank, &out[rank], NULL), SHERD_OK);
    }
    assert_int_equal(out[0] + out[1], 3 * 4 * sum + 2 * 2 * leaf + 4 * vote);
    assert_int_equal(sherd_plan_wire_bytes(plan, alone, 3, &out[0], NULL), SHERD_OK);
    assert_int_equal(out[0], 3 * 5 * leaf + 5 * leaf + 5 * vote);
    assert_int_equal(sherd_plan_wire_bytes(plan, alone, 6, &out[0], NULL), SHERD_EINVAL);
    sherd_plan_destroy(plan);
    plan = small_plan(6, SHERD_FP32, SHERD_WIRE_FP16); /* gradients as bf16's, working copies as fp32's */
    assert_int_equal(sherd_plan_wire_bytes(plan, alone, 3, &out[0], NULL), SHERD_OK);
    assert_int_equal(out[0], 3 * 5 * leaf + 5 * sum + 5 * vote);
    sherd_plan_destroy(plan);
    plan = small_plan(6, SHERD_BF16, SHERD_WIRE_FP32);
    assert_int_equal(sherd_plan_wire_bytes(plan, alone, 3, &out[0], NULL), SHERD_OK);
    assert_int_equal(out[0], 3 * 5 * leaf + 5 * leaf + 5 * vote);
    sherd_plan_destroy(plan);
    all_groupings(check_conserved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nodes),   cmocka_unit_test(test_beats), cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_scratch), cmocka_unit_test(test_wire),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
