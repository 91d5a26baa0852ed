/* SPDX-License-Identifier: MIT
 *
 * What the plan says about Muon's matrices: which lie together, in which wave, who owns them, and what that takes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "optim/muon.h"
#include "tests/shard/make.h"

/* `layers` times a vector, two matrices of 64 × 48, one of 48 × 128. */
static void layers_of(make_table *table, int layers)
{
    static const int64_t shapes[4][2] = {{48, 0}, {64, 48}, {64, 48}, {48, 128}};
    table->n = 0;
    for (int i = 0; i < 4 * layers; i++) {
        sherd_param *param = make_param(table, shapes[i % 4][0]);
        param->dtype = param->grad_dtype = SHERD_BF16;
        if (shapes[i % 4][1] == 0)
            continue;
        param->ndim = 2;
        param->shape[1] = shapes[i % 4][1];
        param->flags = SHERD_PARAM_MUON;
    }
}

static sherd_plan *plan_of(const make_table *table, int32_t world, int32_t stage, int64_t bucket, sherd_optimizer kind)
{
    sherd_config config = make_config(stage, 1, bucket);
    sherd_plan *plan = NULL;
    sherd_error err;
    config.optimizer.kind = kind;
    if (sherd_plan_create(&config, table->params, table->n, world, &plan, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    return plan;
}

static int is_matrix(const sherd_plan *plan, uint32_t param)
{
    return (plan->params[param].flags & SHERD_PARAM_MUON) != 0;
}

static void check_kinds(const sherd_plan *plan)
{
    for (uint32_t p = 0; p < plan->n_params; p++) {
        const sherd__bucket *bucket = &plan->buckets[plan->params[p].bucket];
        assert_int_equal(bucket->muon, is_matrix(plan, p));
        assert_int_equal(plan->params[p].owner >= 0, is_matrix(plan, p));
        assert_true(plan->params[p].owner < plan->world);
        assert_int_equal(sherd__plan_param_states(plan, p), is_matrix(plan, p) ? 2 : 3);
        assert_string_equal(sherd_plan_param_state(plan, p, 1), is_matrix(plan, p) ? "momentum_buffer" : "exp_avg");
        assert_int_equal(sherd_plan_param_state(plan, p, 2) == NULL, is_matrix(plan, p));
        assert_null(sherd_plan_param_state(plan, p, 3));
    }
    assert_string_equal(sherd_plan_state(plan, 3), "momentum_buffer");
    assert_null(sherd_plan_state(plan, 4));
}

/* Waves are runs; each ends when it has work for all, or when the next bucket is too much. */
static void check_waves(const sherd_plan *plan)
{
    uint64_t most = (uint64_t)plan->total_elems * 4 / 8, at = 0, largest = 0;
    uint32_t matrices = 0, wave = 0, n = 0, enough = 2 * (uint32_t)plan->world;
    for (uint32_t left = plan->n_buckets; left > 0; left--) {
        const sherd__bucket *bucket = &plan->buckets[left - 1];
        uint64_t bytes = (uint64_t)bucket->elems * 4;
        if (!bucket->muon)
            continue;
        if (bucket->wave != wave) {
            assert_int_equal(bucket->wave, wave + 1);
            assert_true(matrices >= enough || at + bytes > most);
            wave++;
            at = matrices = 0;
        }
        assert_int_equal(bucket->window_offset, at);
        assert_true(at == 0 || (matrices < enough && at + bytes <= most));
        at += bytes;
        matrices += bucket->count;
        n += bucket->count;
        largest = at > largest ? at : largest;
    }
    assert_int_equal(plan->n_waves, wave + 1);
    assert_int_equal(plan->n_matrices, n);
    assert_int_equal(plan->window_bytes, largest);
}

static double cost(const sherd_plan *plan, uint32_t p)
{
    return sherd__muon_flops(plan->params[p].shape[0], plan->params[p].shape[1], 5);
}

/* Nobody has more than the others by more than one matrix, and what buckets are said to cost is what the busiest does.
 */
static void check_owners(const sherd_plan *plan)
{
    for (uint32_t wave = 0; wave < plan->n_waves; wave++) {
        double least = 1e300, most = 0, largest = 0, said = 0;
        for (int32_t rank = 0; rank < plan->world; rank++) {
            double own = 0;
            for (uint32_t p = 0; p < plan->n_params; p++) {
                if (plan->params[p].owner != rank || plan->buckets[plan->params[p].bucket].wave != wave)
                    continue;
                own += cost(plan, p);
                largest = cost(plan, p) > largest ? cost(plan, p) : largest;
            }
            least = own < least ? own : least;
            most = own > most ? own : most;
        }
        for (uint32_t b = 0; b < plan->n_buckets; b++)
            said += plan->buckets[b].muon && plan->buckets[b].wave == wave ? plan->buckets[b].ortho_flops : 0;
        assert_true(most - least <= largest);
        assert_true(said > 0.999 * most && said < 1.001 * most);
    }
}

static void check_bytes(const sherd_plan *plan)
{
    uint64_t moments = 0, scratch = 0, comm = sherd__plan_comm_bytes(plan->world);
    sherd_memory memory;
    for (uint32_t b = 0; b < plan->n_buckets; b++)
        moments += (uint64_t)sherd__plan_part_elems(plan, &plan->buckets[b]) * 4 * (plan->buckets[b].muon ? 1 : 2);
    for (uint32_t p = 0; p < plan->n_params; p++) {
        uint64_t bytes = (uint64_t)sherd__muon_scratch_elems(plan->params[p].shape[0], plan->params[p].shape[1]) * 4;
        scratch = is_matrix(plan, p) && bytes > scratch ? bytes : scratch;
    }
    assert_int_equal(sherd_plan_memory(plan, 0, &memory), SHERD_OK);
    assert_int_equal(memory.bytes[SHERD_TIER_DEVICE][SHERD_CAT_MOMENTS], moments);
    assert_true(plan->ortho_bytes >= scratch && plan->ortho_bytes < scratch + 64);
    assert_int_equal(memory.bytes[SHERD_TIER_DEVICE][SHERD_CAT_COMMUNICATION],
                     comm + plan->window_bytes + plan->ortho_bytes);
}

static void test_plans(void **state)
{
    static const int64_t buckets[] = {0, 1, 4000, 1 << 20};
    uint32_t several = 0, shared = 0;
    (void)state;
    for (int layers = 1; layers <= 15; layers += 7)
        for (int32_t world = 1; world <= 5; world += 2)
            for (int32_t stage = 0; stage <= 2; stage++)
                for (size_t b = 0; b < 4; b++) {
                    make_table table;
                    layers_of(&table, layers);
                    sherd_plan *plan = plan_of(&table, world, stage, buckets[b], SHERD_MUON);
                    check_kinds(plan);
                    check_waves(plan);
                    check_owners(plan);
                    check_bytes(plan);
                    several += plan->n_waves > 1;
                    for (uint32_t i = 1; i < plan->n_buckets; i++)
                        shared += plan->buckets[i].window_offset > 0;
                    sherd_plan_destroy(plan);
                }
    assert_true(several > 10 && shared > 10);
}

/* What of an offloaded plan can be counted by hand: sums of bf16 leave directions a place of their own, sums of fp32
 * their own. */
static uint64_t host_sums(const sherd_plan *plan, int narrow)
{
    uint64_t bytes = 0;
    for (uint32_t b = 0; b < plan->placement.n_off; b++)
        bytes += (uint64_t)sherd__plan_part_elems(plan, &plan->buckets[b]) *
                 (narrow ? plan->buckets[b].muon ? 2 + 4 : 2 : 4);
    return bytes;
}

/* Nothing that is fetched in a wave waits for what is stored after it. */
static void check_slots(const sherd_plan *plan)
{
    for (uint32_t b = 0; b < plan->placement.n_disk; b++) {
        const sherd__bucket *bucket = &plan->buckets[b], *former = &plan->buckets[bucket->disk_slot.former];
        if (bucket->disk_slot.former_previous)
            continue;
        assert_int_equal(former->disk_slot.next, b);
        assert_int_equal(former->disk_slot.index, bucket->disk_slot.index);
        assert_true(former->muon >= bucket->muon); /* matrices first */
        assert_true(!bucket->muon || former->wave < bucket->wave);
        assert_true(bucket->muon || former->muon || bucket->disk_slot.former > b);
    }
}

static void test_offloaded(void **state)
{
    uint32_t later = 0;
    (void)state;
    for (int i = 0; i < 48; i++) {
        make_table table;
        sherd_config config = make_config(i % 3, 1, i / 3 % 2 ? 4000 : 1);
        sherd_plan *plan = NULL;
        sherd_memory memory;
        int narrow = i / 6 % 2, disk = i / 12 % 2;
        layers_of(&table, 3);
        config.optimizer.kind = SHERD_MUON;
        config.sherd.grad_sum_bf16 = narrow;
        config.offload.tier = disk ? SHERD_TIER_DISK : SHERD_TIER_HOST;
        config.offload.ratio = i < 24 ? 1 : 0.6;
        config.offload.buffer_count = 1 + i % 4;
        strcpy(config.offload.nvme_path, "/nowhere");
        assert_int_equal(sherd_plan_create(&config, table.params, table.n, 2, &plan, NULL), SHERD_OK);
        assert_int_equal(sherd_plan_memory(plan, 0, &memory), SHERD_OK);
        assert_int_equal(memory.bytes[SHERD_TIER_HOST][SHERD_CAT_GRAD_SUMS], host_sums(plan, narrow));
        for (uint32_t wave = 0; wave < plan->n_waves && disk; wave++) {
            int32_t n = 0;
            for (uint32_t b = 0; b < plan->n_buckets; b++)
                n += plan->buckets[b].muon && plan->buckets[b].wave == wave;
            assert_true(n >= 1 && n <= config.offload.buffer_count);
        }
        check_slots(plan);
        later += plan->placement.n_disk > plan->placement.disk_slots;
        sherd_plan_destroy(plan);
    }
    assert_true(later > 10);
}

static void test_text(void **state)
{
    make_table table;
    char text[32768];
    (void)state;
    layers_of(&table, 3);
    sherd_plan *plan = plan_of(&table, 2, 2, 4000, SHERD_MUON);
    assert_true(sherd_plan_text(plan, text, sizeof text) < sizeof text);
    assert_non_null(strstr(text, "matrices stepped as wholes: 9, window "));
    assert_non_null(strstr(text, "wave 1 "));
    assert_non_null(strstr(text, "share"));
    assert_non_null(strstr(text, " window  records"));
    sherd_plan_destroy(plan);
    plan = plan_of(&table, 2, 2, 4000, SHERD_ADAMW);
    assert_true(sherd_plan_text(plan, text, sizeof text) < sizeof text);
    assert_null(strstr(text, "matrices stepped"));
    sherd_plan_destroy(plan);
}

/* More ranks than matrices, very many ranks, a matrix of one element. */
static void test_ends(void **state)
{
    make_table table;
    uint32_t owned = 0;
    (void)state;
    layers_of(&table, 1);
    table.params[1].shape[0] = table.params[1].shape[1] = 1;
    for (int32_t world = 4; world <= 1 << 20; world <<= 6) {
        sherd_plan *plan = plan_of(&table, world, 2, 0, SHERD_MUON);
        owned = 0;
        for (uint32_t p = 0; p < plan->n_params; p++)
            owned += plan->params[p].owner >= 0 ? 1u << plan->params[p].owner : 0;
        assert_int_equal(owned, 7); /* the three matrices go to three ranks */
        check_kinds(plan);
        sherd_plan_destroy(plan);
    }
}

/* Under other optimizers the flag changes the hash and nothing else. */
static void test_flag_without_muon(void **state)
{
    make_table table, bare;
    (void)state;
    layers_of(&table, 3);
    layers_of(&bare, 3);
    for (uint32_t p = 0; p < bare.n; p++)
        bare.params[p].flags = 0;
    sherd_plan *with = plan_of(&table, 2, 2, 4000, SHERD_ADAMW), *without = plan_of(&bare, 2, 2, 4000, SHERD_ADAMW);
    assert_int_equal(with->n_buckets, without->n_buckets);
    assert_int_equal(with->n_matrices, 0);
    assert_int_equal(with->window_bytes, 0);
    assert_int_equal(with->schedule.n_actions, without->schedule.n_actions);
    assert_int_equal(with->moment_elems, without->moment_elems);
    assert_int_equal(with->second_elems, with->moment_elems);
    assert_int_equal(sherd__plan_param_states(with, 1), 3);
    sherd_plan_destroy(with);
    sherd_plan_destroy(without);
}

static void test_forecast(void **state)
{
    make_table table;
    sherd_profile profile = {.size = sizeof profile, .ready_ns_per_elem = 1, .ortho_ns_per_flop = 1e-3};
    sherd_forecast muon, adamw;
    (void)state;
    layers_of(&table, 3);
    sherd_plan *plan = plan_of(&table, 2, 2, 4000, SHERD_MUON), *other = plan_of(&table, 2, 2, 4000, SHERD_ADAMW);
    double flops = 0;
    for (uint32_t b = 0; b < plan->n_buckets; b++)
        flops += plan->buckets[b].ortho_flops;
    assert_int_equal(sherd_plan_forecast(plan, &profile, &muon), SHERD_OK);
    assert_int_equal(sherd_plan_forecast(other, &profile, &adamw), SHERD_OK);
    /* Nothing hides it: the next forward is not modelled to take time, and the next backward needs what it computes. */
    assert_true(muon.exposed_update_ns + muon.exposed_comm_ns > 0.9 * flops * 1e-3);
    assert_true(muon.step_ns > adamw.step_ns);
    sherd_plan_destroy(plan);
    sherd_plan_destroy(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plans),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_offloaded),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_flag_without_muon),
        cmocka_unit_test(test_forecast),
    };
    return cmocka_run_group_tests_name("shard/muon", tests, NULL, NULL);
}
