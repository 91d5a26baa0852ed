/* SPDX-License-Identifier: MIT
 *
 * Plans by exhaustion over small tables, the memory table of the documentation, large models, and refusals.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "tests/shard/invariants.h"
#include "tests/shard/make.h"

static const int64_t sizes[] = {0, 1, 255, 256, 257, 700};
#define N_SIZES (sizeof sizes / sizeof sizes[0])

static void check_one(const sherd_config *config, const make_table *table, int32_t world, int64_t target,
                      invariants_seen *seen)
{
    sherd_plan *plan = NULL;
    sherd_error err = {0};
    assert_int_equal(sherd_plan_create(config, table->params, table->n, world, &plan, &err), SHERD_OK);
    invariants_check(plan, table->params, table->n, target, seen);
    assert_int_equal(sherd_plan_world(plan), world);
    assert_int_equal(sherd_plan_params(plan), table->n);
    sherd_plan_destroy(plan);
}

/* Every list of up to 4 sizes × world 1 … 9 × bucket target; stage, accumulation and optimizer turn with the rest. */
static void test_every_small_table(void **state)
{
    (void)state;
    static const int64_t targets[] = {1, 300, 1000, INT64_MAX};
    invariants_seen seen = {0};
    uint32_t turn = 0;
    for (uint32_t n = 0, lists = 1; n <= 4; n++, lists *= N_SIZES)
        for (uint32_t list = 0; list < lists; list++) {
            make_table table = {.n = 0};
            for (uint32_t i = 0, rest = list; i < n; i++, rest /= N_SIZES)
                make_param(&table, sizes[rest % N_SIZES]);
            for (int32_t world = 1; world <= 9; world++)
                for (uint32_t t = 0; t < 4; t++, turn++) {
                    sherd_config config = make_config((int32_t)(turn / 4 % 3), turn / 12 % 2 ? 3 : 1, targets[t]);
                    config.optimizer.kind = turn % 5 ? SHERD_ADAMW : SHERD_SGD;
                    check_one(&config, &table, world, targets[t], &seen);
                }
        }
    assert_int_equal(seen.plans, (1 + 6 + 36 + 216 + 1296) * 9 * 4);
    assert_true(seen.overlaps > 100 && seen.wraps > 100);
    print_message("%llu plans, %llu elements, %llu slots taken over within a micro-step\n",
                  (unsigned long long)seen.plans, (unsigned long long)seen.elements,
                  (unsigned long long)seen.overlaps);
}

/* Types, groups, frozen ones and uses: every assignment of 8 kinds to 4 parameters. */
static void amend(sherd_param *param, uint32_t kind)
{
    param->dtype = kind & 1 ? SHERD_BF16 : SHERD_FP32;
    param->grad_dtype = kind == 3 ? SHERD_BF16 : SHERD_FP32;
    param->group = kind == 4 || kind == 7;
    param->uses = kind == 5 ? 2 : kind == 2 ? 3 : 0;
    param->flags = kind >= 6 ? SHERD_PARAM_FROZEN : 0;
    if (kind == 4) {
        param->ndim = 2;
        param->shape[1] = 2;
    }
}

static void test_every_kind(void **state)
{
    (void)state;
    static const int64_t elems[] = {700, 256, 1, 300, 511};
    invariants_seen seen = {0};
    for (uint32_t kinds = 0; kinds < 8 * 8 * 8 * 8; kinds++) {
        make_table table = {.n = 0};
        for (uint32_t i = 0; i < 5; i++)
            amend(make_param(&table, elems[i]), i < 4 ? kinds >> 3 * i & 7 : 3);
        int64_t target = kinds % 3 == 0 ? 1 : kinds % 3 == 1 ? 1024 : 100000;
        sherd_config config = make_config((int32_t)(kinds % 4 % 3), kinds % 5 < 2 ? 2 : 1, target);
        config.sherd.grad_sum_bf16 = kinds % 7 < 4;
        config.n_groups = 2;
        check_one(&config, &table, (int32_t)(1 + kinds % 5), target, &seen);
    }
    assert_int_equal(seen.plans, 4096);
}

/* Without exact_bucket_size the target is the library's: between 1 MB and 64 MB, an eighth of the model, never above
 * the configured bound. */
static void check_target(int64_t n, int64_t elems, int64_t upper, sherd_dtype dtype, int64_t want)
{
    make_table table = {.n = 0};
    for (int64_t i = 0; i < n; i++) {
        sherd_param *param = make_param(&table, elems);
        param->dtype = param->grad_dtype = dtype;
    }
    sherd_config config = make_config(2, 1, 0);
    config.zero.reduce_bucket_size = upper;
    sherd_plan *plan = NULL;
    assert_int_equal(sherd_plan_create(&config, table.params, table.n, 2, &plan, NULL), SHERD_OK);
    sherd_bucket_info info;
    assert_int_equal(sherd_plan_bucket(plan, 0, &info), SHERD_OK);
    assert_int_equal(info.n_params, want);
    assert_int_equal(sherd_plan_buckets(plan), (n + want - 1) / want);
    assert_int_equal(sherd_plan_bucket(plan, sherd_plan_buckets(plan), &info), SHERD_EINVAL);
    sherd_plan_destroy(plan);
}

static void test_target(void **state)
{
    (void)state;
    check_target(64, 4096, 500000000, SHERD_FP32, 64);   /* 1 MB in all: one bucket */
    check_target(64, 65536, 500000000, SHERD_FP32, 8);   /* 16 MB: an eighth */
    check_target(64, 65536, 500000000, SHERD_BF16, 8);   /* 8 MB: an eighth */
    check_target(64, 16384, 500000000, SHERD_FP32, 16);  /* 4 MB: at least 1 MB */
    check_target(64, 1 << 24, 500000000, SHERD_FP32, 1); /* 4 GB: at most 64 MB */
    check_target(64, 1 << 23, 500000000, SHERD_BF16, 4); /* 1 GB: at most 64 MB */
    check_target(64, 65536, 65536 * 3, SHERD_FP32, 3);   /* the configured bound */
    check_target(64, 65536, 1, SHERD_FP32, 1);
}

/* One bucket serves both collectives, so that the smaller bound counts; stage 0 gathers no parameters. */
static void test_gather_target(void **state)
{
    (void)state;
    make_table table = {.n = 0};
    for (int i = 0; i < 8; i++)
        make_param(&table, 65536);
    for (int32_t stage = 0; stage <= 2; stage++) {
        sherd_config config = make_config(stage, 1, 0);
        config.zero.reduce_bucket_size = 4 * 65536;
        config.zero.allgather_bucket_size = 2 * 65536;
        sherd_plan *plan = NULL;
        assert_int_equal(sherd_plan_create(&config, table.params, table.n, 2, &plan, NULL), SHERD_OK);
        assert_int_equal(sherd_plan_buckets(plan), stage ? 4 : 2);
        sherd_plan_destroy(plan);
    }
}

/* The documentation's table of bytes per parameter, bf16 AdamW, on a model that needs no padding. */
typedef struct row {
    int32_t stage;
    int64_t accumulation;
    int32_t bf16;
    double fixed, divided;
} row;

static void test_memory_table(void **state)
{
    (void)state;
    static const row rows[] = {
        {0, 1, 0, 18, 0}, {0, 4, 0, 18, 0}, {0, 1, 1, 16, 0}, {0, 4, 1, 18, 0}, {1, 1, 0, 2, 16}, {1, 1, 1, 2, 14},
        {1, 4, 0, 6, 12}, {1, 4, 1, 6, 12}, {2, 1, 0, 2, 16}, {2, 1, 1, 2, 14}, {2, 4, 0, 2, 16}, {2, 4, 1, 2, 16},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (int32_t world = 1; world <= 8; world *= 2) {
            make_table table = {.n = 0};
            for (int p = 0; p < 8; p++) {
                sherd_param *param = make_param(&table, 256 * 8 * 8);
                param->dtype = param->grad_dtype = SHERD_BF16;
            }
            sherd_config config = make_config(rows[i].stage, rows[i].accumulation, 1);
            config.sherd.grad_sum_bf16 = rows[i].bf16;
            sherd_plan *plan = NULL;
            assert_int_equal(sherd_plan_create(&config, table.params, table.n, world, &plan, NULL), SHERD_OK);
            sherd_memory memory;
            assert_int_equal(sherd_plan_memory(plan, 0, &memory), SHERD_OK);
            double elems = (double)sherd_plan_elems(plan);
            uint64_t scratch = memory.bytes[0][SHERD_CAT_GRADIENTS] + memory.bytes[0][SHERD_CAT_COMMUNICATION];
            double rest = (double)(sherd_memory_total(&memory, SHERD_TIER_DEVICE) - scratch);
            assert_true(rest == elems * (rows[i].fixed + rows[i].divided / world));
            assert_true(memory.bytes[0][SHERD_CAT_GRADIENTS] == (uint64_t)(256 * 8 * 8 * 2 * 3));
            sherd_plan_destroy(plan);
        }
}

/* A trillion parameters on 4096 ranks, in processor time. */
static void test_trillion(void **state)
{
    (void)state;
    enum { MI = 1 << 20, N = 14902 };
    sherd_param *params = test_calloc(N, sizeof *params);
    char(*names)[16] = test_calloc(N, sizeof *names);
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "p%d", i);
        params[i] = (sherd_param){
            .name = names[i], .shape = {8192, 8192}, .ndim = 2, .dtype = SHERD_BF16, .grad_dtype = SHERD_BF16};
    }
    clock_t begin = clock();
    for (int32_t stage = 0; stage <= 2; stage++) {
        sherd_config config = make_config(stage, 1, 0);
        sherd_plan *plan = NULL;
        sherd_memory memory;
        assert_int_equal(sherd_plan_create(&config, params, N, 4096, &plan, NULL), SHERD_OK);
        assert_int_equal(sherd_plan_memory(plan, 4095, &memory), SHERD_OK);
        assert_int_equal(sherd_plan_elems(plan), (int64_t)N * 64 * MI);
        assert_int_equal(memory.bytes[0][SHERD_CAT_PARAMETERS], (uint64_t)N * 64 * MI * 2);
        assert_int_equal(memory.bytes[0][SHERD_CAT_MOMENTS], (uint64_t)N * 64 * MI * 8 / (stage ? 4096 : 1));
        sherd_plan_destroy(plan);
    }
    double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    assert_true(seconds < 5);
    print_message("three plans of 10^12 parameters for 4096 ranks: %.0f ms of processor time\n", seconds * 1e3);
    test_free(names);
    test_free(params);
}

/* Worlds and shapes at the edge of the numbers: an answer or a sentence, never a wrapped size. */
static void test_extremes(void **state)
{
    (void)state;
    make_table table = {.n = 0};
    for (int i = 0; i < 8; i++)
        make_param(&table, 1);
    sherd_config config = make_config(2, 1, 1);
    sherd_plan *plan = NULL;
    sherd_error err;
    assert_int_equal(sherd_plan_create(&config, table.params, table.n, INT32_MAX, &plan, &err), SHERD_OK);
    sherd_bucket_info info;
    assert_int_equal(sherd_plan_bucket(plan, 7, &info), SHERD_OK);
    assert_int_equal(info.slice_elems, 256);
    assert_int_equal(info.elems, (int64_t)INT32_MAX * 256);
    assert_true(info.ring_bytes == (uint64_t)INT32_MAX * 1024);
    sherd_plan_destroy(plan);

    for (uint32_t d = 0; d < 8; d++)
        table.params[3].shape[d] = INT64_MAX;
    for (uint32_t ndim = 1; ndim <= 8; ndim++) {
        table.params[3].ndim = ndim;
        assert_int_equal(sherd_plan_create(&config, table.params, table.n, 2, &plan, &err), SHERD_EINVAL);
        assert_non_null(strstr(err.text, "'p03'"));
    }
    table.params[3].shape[6] = 0; /* an empty parameter, whatever its other dimensions */
    assert_int_equal(sherd_plan_create(&config, table.params, table.n, 2, &plan, &err), SHERD_OK);
    assert_int_equal(sherd_plan_elems(plan), 7);
    assert_int_equal(sherd_plan_param_bucket(plan, 3), -1);
    assert_int_equal(sherd_plan_param_bucket(plan, 99), -1);
    sherd_plan_destroy(plan);

    table.params[3].ndim = 1;
    table.params[3].shape[0] = (int64_t)1 << 57;
    assert_int_equal(sherd_plan_create(&config, table.params, table.n, 2, &plan, &err), SHERD_EINVAL);
    table.params[3].shape[0] = ((int64_t)1 << 57) - 7;
    assert_int_equal(sherd_plan_create(&config, table.params, table.n, 2, &plan, &err), SHERD_EINVAL); /* padding */
    table.params[3].shape[0] = (int64_t)1 << 56;
    assert_int_equal(sherd_plan_create(&config, table.params, table.n, 2, &plan, &err), SHERD_OK);
    sherd_memory memory;
    assert_int_equal(sherd_plan_memory(plan, 0, &memory), SHERD_OK);
    assert_true(memory.bytes[0][SHERD_CAT_PARAMETERS] > (uint64_t)1 << 58);
    sherd_plan_destroy(plan);
}

/* The same parameters in the order asked for: buckets follow it, and ranks that ask for other orders hold other plans. */
static void test_reordered(void **state)
{
    (void)state;
    static const uint32_t orders[][4] = {{3, 2, 1, 0}, {0, 1, 2, 3}, {2, 0, 3, 1}};
    uint8_t hashes[3][16];
    make_table table = {.n = 0};
    sherd_config config = make_config(2, 1, 1500);
    sherd_plan *plan, *other;
    for (int i = 0; i < 4; i++)
        make_param(&table, 700 + i);
    table.params[1].flags = SHERD_PARAM_FROZEN;
    table.params[2].uses = 2;
    assert_int_equal(sherd_plan_create(&config, table.params, table.n, 2, &plan, NULL), SHERD_OK);
    for (size_t o = 0; o < 3; o++) {
        uint32_t place = 0;
        assert_int_equal(sherd__plan_reordered(plan, orders[o], &other, NULL), SHERD_OK);
        for (int i = 0; i < 4; i++)
            if (orders[o][i] != 1)
                assert_int_equal(other->order[place++], orders[o][i]);
        assert_int_equal(other->params[2].uses, 2);
        assert_int_equal(other->params[1].bucket, -1);
        assert_int_equal(other->n_buckets, plan->n_buckets);
        assert_null(other->arrival);
        sherd_plan_hash(other, hashes[o]);
        for (size_t before = 0; before < o; before++)
            assert_memory_not_equal(hashes[before], hashes[o], 16);
        sherd_plan_destroy(other);
    }
    sherd_plan_destroy(plan);
}

static void refuse(sherd_config *config, sherd_param *params, uint32_t n, int32_t world, sherd_status want,
                   const char *part)
{
    sherd_plan *plan = (sherd_plan *)params; /* must not be written */
    sherd_error err = {0};
    assert_int_equal(sherd_plan_create(config, params, n, world, &plan, &err), want);
    assert_ptr_equal(plan, params);
    assert_int_equal(err.status, want);
    if (!strstr(err.text, part))
        fail_msg("'%s' is not in '%s'", part, err.text);
    assert_int_equal(sherd_plan_create(config, params, n, world, &plan, NULL), want);
}

static void test_param_refusals(void **state)
{
    (void)state;
    make_table table = {.n = 0};
    for (int i = 0; i < 3; i++)
        make_param(&table, 10);
    sherd_config config = make_config(2, 1, 1);
    sherd_param *p = &table.params[1], good = *p;
    char long_name[300];
    memset(long_name, 'x', sizeof long_name);
    long_name[256] = '\0';

    p->name = NULL;
    refuse(&config, table.params, 3, 2, SHERD_EINVAL, "parameter 1 has no name");
    p->name = "";
    refuse(&config, table.params, 3, 2, SHERD_EINVAL, "parameter 1 has no name");
    p->name = long_name;
    refuse(&config, table.params, 3, 2, SHERD_EINVAL, "255");
    p->name = "p00";
    refuse(&config, table.params, 3, 2, SHERD_EINVAL, "parameters 0 and 1 are both named 'p00'");
    *p = good;
    p->ndim = 9;
    refuse(&config, table.params, 3, 2, SHERD_EINVAL, "'p01': 9 dimensions");
    *p = good;
    p->shape[0] = -1;
    refuse(&config, table.params, 3, 2, SHERD_EINVAL, "'p01': dimension 0 is -1");
    *p = good;
    p->group = 1;
    refuse(&config, table.params, 3, 2, SHERD_EINVAL, "'p01': group 1");
    *p = good;
    p->flags = 2;
    refuse(&config, table.params, 3, 2, SHERD_EINVAL, "'p01': SHERD_PARAM_MUON is for matrices");
    *p = good;
    p->flags = 4;
    refuse(&config, table.params, 3, 2, SHERD_EINVAL, "'p01': unknown flags");
    *p = good;
    p->uses = 70000;
    refuse(&config, table.params, 3, 2, SHERD_EINVAL, "'p01': 70000 uses");
    *p = good;
    p->dtype = (sherd_dtype)7;
    refuse(&config, table.params, 3, 2, SHERD_EINVAL, "'p01': unknown dtype 7");
    *p = good;
    p->grad_dtype = SHERD_BF16;
    refuse(&config, table.params, 3, 2, SHERD_EINVAL, "'p01': gradient dtype");
    long_name[255] = '\0';
    *p = good;
    p->name = long_name;
    sherd_plan *plan = NULL;
    assert_int_equal(sherd_plan_create(&config, table.params, 3, 2, &plan, NULL), SHERD_OK);
    sherd_plan_destroy(plan);
}

static void test_config_refusals(void **state)
{
    (void)state;
    make_table table = {.n = 0};
    make_param(&table, 10);
    sherd_config good = make_config(2, 1, 1), c = good;
    refuse(&c, table.params, 1, 0, SHERD_EINVAL, "world of 0");
    refuse(&c, table.params, 1, -1, SHERD_EINVAL, "world of -1");
    c.zero.stage = 3;
    refuse(&c, table.params, 1, 1, SHERD_EUNSUPPORTED, "stage 3");
    c.zero.stage = 4;
    refuse(&c, table.params, 1, 1, SHERD_EINVAL, "stage");
    c = good;
    c.scaling.kind = SHERD_SCALING_STATIC;
    refuse(&c, table.params, 1, 1, SHERD_EINVAL, "loss_scale is 0");
    c.scaling.kind = SHERD_SCALING_DYNAMIC;
    c.scaling.initial_scale_power = 101;
    refuse(&c, table.params, 1, 1, SHERD_EINVAL, "initial_scale_power 101");
    c = good;
    c.zero.reduce_bucket_size = 0;
    refuse(&c, table.params, 1, 1, SHERD_EINVAL, "reduce_bucket_size");
    c = good;
    c.n_groups = 17;
    refuse(&c, table.params, 1, 1, SHERD_EINVAL, "17 parameter groups");
    c = good;
    c.optimizer.kind = (sherd_optimizer)9;
    refuse(&c, table.params, 1, 1, SHERD_EINVAL, "optimizer kind 9");
    c = good;
    c.size = 0;
    refuse(&c, table.params, 1, 1, SHERD_EINVAL, "sherd_config_init");
    c = good;
    c.train_batch_size = 7; /* 1 × 1 × 2 ranks */
    refuse(&c, table.params, 1, 2, SHERD_EINVAL, "7");
    refuse(NULL, table.params, 1, 2, SHERD_EINVAL, "needs");
    sherd_plan_destroy(NULL);
}

/* A caller compiled against an older, shorter struct: members it lacks keep their defaults. */
static void test_short_config(void **state)
{
    (void)state;
    make_table table = {.n = 0};
    for (int i = 0; i < 4; i++)
        make_param(&table, 1000);
    sherd_config config = make_config(2, 1, 1);
    sherd_plan *plan = NULL;
    assert_int_equal(sherd_plan_create(&config, table.params, 4, 1, &plan, NULL), SHERD_OK);
    assert_int_equal(sherd_plan_buckets(plan), 4);
    sherd_plan_destroy(plan);
    config.zero.reduce_bucket_size = 500000000;
    config.sherd.grad_sum_bf16 = 77;
    config.size = offsetof(sherd_config, sherd);
    assert_int_equal(sherd_plan_create(&config, table.params, 4, 1, &plan, NULL), SHERD_OK);
    assert_int_equal(sherd_plan_buckets(plan), 1);
    assert_int_equal(sherd_plan_config(plan)->sherd.grad_sum_bf16, 0);
    assert_int_equal(sherd_plan_config(plan)->size, sizeof(sherd_config));
    assert_true(sherd_plan_config(plan)->sherd.fail_after_s > 0);
    sherd_plan_destroy(plan);
}

static void test_micro_numbers(void **state)
{
    (void)state;
    make_table table = {.n = 0};
    make_param(&table, 10);
    for (int32_t stage = 0; stage <= 2; stage++)
        for (int64_t k_all = 1; k_all <= 4; k_all++) {
            sherd_config config = make_config(stage, k_all, 1);
            sherd_plan *plan = NULL;
            assert_int_equal(sherd_plan_create(&config, table.params, 1, 3, &plan, NULL), SHERD_OK);
            for (int32_t rank = 0; rank < 3; rank++)
                for (int64_t k = 0; k < k_all; k++)
                    assert_int_equal(sherd__plan_micro_number(plan, rank, k),
                                     stage < 2 && k_all > 1 ? rank * k_all + k : k * 3 + rank);
            sherd_plan_destroy(plan);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_small_table),
        cmocka_unit_test(test_every_kind),
        cmocka_unit_test(test_target),
        cmocka_unit_test(test_gather_target),
        cmocka_unit_test(test_memory_table),
        cmocka_unit_test(test_trillion),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_param_refusals),
        cmocka_unit_test(test_config_refusals),
        cmocka_unit_test(test_reordered),
        cmocka_unit_test(test_micro_numbers),
        cmocka_unit_test(test_short_config),
    };
    return cmocka_run_group_tests_name("shard/plan", tests, NULL, NULL);
}
