/* SPDX-License-Identifier: MIT
 *
 * The engine's matrix over NCCL on the stubs: worlds 1 to 4, stages 0 to 2, one micro-step and several, equal to the
 * unsharded oracle in every bit, ledger equal to the plan. GPU memory, the windows' included, is hidden from the CPU
 * but for what the test's client reads and writes. It shows nothing about a GPU.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "nccl_world.h"
#include "tests/engine/compare.h"

enum { MAX_CASES = 512, STEPS = 4 };

typedef struct matrix {
    int64_t steps;
    int wide; /* 2: LAMB; 3: types on the wire */
    uint32_t first, stride;
    sherd_reduction reduction;
    case_result results[NCCL_RANKS][MAX_CASES];
} matrix;

static uint32_t combinations, accumulated;

static int matrix_case(const matrix *m, uint32_t i, int32_t world, engine_case *out)
{
    if (i >= MAX_CASES || ((m->wide == 2 || m->wide == 4) && i >= CASE_LAMB_PLAIN) ||
        !(m->wide == 2   ? case_lamb_at(i, world, m->steps, out)
          : m->wide == 3 ? case_wire_at(i, world, m->steps, out)
          : m->wide == 4 ? case_muon_at(i, world, m->steps, out)
                         : case_at(i, world, m->steps, m->wide, out)))
        return 0;
    out->read_back = 0;
    out->transport = SHERD_TRANSPORT_NCCL;
    out->reduction = m->reduction;
    return 1;
}

static void matrix_body(nccl_rank *rank)
{
    matrix *m = rank->arg;
    sherd_cuda_options options;
    sherd_device *device = NULL;
    sherd__device_ops ops;
    engine_case c;
    sherd_cuda_options_init(&options, sizeof options);
    rank->failed = 1;
    if (sherd_device_create_cuda(&options, &device, &rank->err) != SHERD_OK)
        return;
    ops = *device->ops;
    ops.touch = nccl_touch_by_cpu;
    device->ops = &ops;
    rank->failed = 0;
    for (uint32_t i = m->first; !rank->failed && matrix_case(m, i, rank->world, &c); i += m->stride) {
        case_result *result = &m->results[rank->rank][i];
        case_run_rank(&c, device, rank->comm, result);
        rank->failed = result->status != SHERD_OK;
    }
    sherd_memory live;
    sherd_device_memory(device, &live, NULL);
    rank->failed |= live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_COMMUNICATION] != 0;
    sherd_device_destroy(device);
}

static void compare(const matrix *m, int32_t world)
{
    engine_case c;
    case_result want;
    for (uint32_t i = m->first; matrix_case(m, i, world, &c); i += m->stride) {
        case_run_oracle(&c, SHERD_ORACLE_RIGHT, &want);
        for (int32_t r = 0; r < world; r++)
            compared_result(&c, &want, &m->results[r][i], r);
        combinations++;
        accumulated += c.accumulation > 1;
    }
}

static void run_world(int32_t world, int64_t steps, int wide, uint32_t first, uint32_t stride)
{
    matrix *m = calloc(1, sizeof *m);
    const nccl_stub *stub = nccl_stub_open();
    nccl_rank ranks[NCCL_RANKS] = {{.body = matrix_body, .arg = m}};
    uint32_t before = combinations;
    *m = (matrix){.steps = steps, .wide = wide, .first = first, .stride = stride};
    cuda_stub_hide_memory(wide);
    stub->slow_launch(world == 3);
    nccl_run(world, ranks);
    compare(m, world);
    for (int32_t r = 0; r < world; r++)
        if (ranks[r].status != SHERD_OK || ranks[r].failed)
            fail_msg("rank %d of %d: %s", (int)r, (int)world, ranks[r].err.text);
    cuda_stub_hide_memory(0);
    assert_true(combinations > before);
    assert_int_equal(stub->misuses(), 0);
    assert_int_equal(stub->calls("CommAbort"), 0);
    assert_true(world == 1 || stub->operations(0) > 100);
    assert_true(nccl_nothing_left(stub));
    free(m);
}

static void test_matrix(void **state)
{
    (void)state;
    for (int32_t world = 1; world <= 4; world++)
        run_world(world, STEPS, 0, 0, world == 1 ? 1 : world);
}

static void test_wide(void **state)
{
    (void)state;
    run_world(2, 3, 1, 0, 11);
    run_world(3, 3, 1, 2, 17);
    run_world(4, 3, 1, 4, 23);
    run_world(2, 3, 2, 0, 7);
    run_world(3, 3, 2, 1, 11);
    run_world(2, 3, 3, 0, 7);
    run_world(3, 3, 3, 2, 5);
    run_world(2, 3, 4, 1, 9);
    run_world(3, 3, 4, 2, 13);
    printf("combinations: %u, with several micro-steps: %u\n", combinations, accumulated);
    assert_true(accumulated > 4);
}

/* ------------------------------------------------------------------------------------------------ plan and
 * communicator */

static void refuse_body(nccl_rank *rank)
{
    static const sherd_transport kinds[] = {SHERD_TRANSPORT_AUTO, SHERD_TRANSPORT_DIRECT, SHERD_TRANSPORT_MPI};
    sherd_param param = {.name = "w", .shape = {1000}, .ndim = 1};
    sherd_device *device = NULL, *host = NULL;
    sherd_engine *engine = NULL;
    sherd_error err;
    rank->failed =
        sherd_device_create_cuda(NULL, &device, &err) != SHERD_OK || sherd_device_create(NULL, &host, &err) != SHERD_OK;
    for (size_t i = 0; i < 4 && !rank->failed; i++) {
        sherd_config config;
        sherd_plan *plan = NULL;
        sherd_config_init(&config, sizeof config);
        config.train_micro_batch_size_per_gpu = 1;
        config.transport.kind = i < 3 ? kinds[i] : SHERD_TRANSPORT_NCCL;
        if (sherd_plan_create(&config, &param, 1, rank->world, &plan, &err) != SHERD_OK)
            rank->failed = 1;
        else if (i < 3)
            rank->failed = sherd_engine_create(plan, device, rank->comm, &engine, &err) != SHERD_EINVAL ||
                           !strstr(err.text, "set sherd.transport to what the communicator is") ||
                           !strstr(err.text, i < 2 ? "'direct'" : "'mpi'") || !strstr(err.text, "'nccl'");
        else
            rank->failed = sherd_engine_create(plan, host, rank->comm, &engine, &err) != SHERD_EINVAL ||
                           !strstr(err.text, "NCCL moves memory of GPUs");
        sherd_plan_destroy(plan);
    }
    sherd_device_destroy(device);
    sherd_device_destroy(host);
}

static void test_refused(void **state)
{
    nccl_rank ranks[NCCL_RANKS] = {{.body = refuse_body}};
    (void)state;
    const nccl_stub *stub = nccl_stub_open();
    nccl_run(2, ranks);
    assert_int_equal(ranks[0].failed, 0);
    assert_int_equal(ranks[1].failed, 0);
    assert_true(nccl_nothing_left(stub));
}

/* The scratch is in the plan: one slice for each other rank; none for native sums, for one rank, or for the direct
 * communicator. */
static void test_plan_bytes(void **state)
{
    sherd_param params[2] = {{.name = "a", .shape = {1000}, .ndim = 1, .dtype = SHERD_BF16, .grad_dtype = SHERD_BF16},
                             {.name = "b", .shape = {5000}, .ndim = 1, .dtype = SHERD_BF16, .grad_dtype = SHERD_BF16}};
    (void)state;
    for (int k = 1; k <= 3; k += 2) {
        sherd_config config;
        sherd_plan *plan[2];
        sherd_memory bytes[2];
        sherd_error err;
        for (int i = 0; i < 2; i++) {
            sherd_config_init(&config, sizeof config);
            config.dtype = SHERD_BF16;
            config.train_micro_batch_size_per_gpu = 1;
            config.gradient_accumulation_steps = k;
            config.zero.stage = 1;
            config.transport.kind = i ? SHERD_TRANSPORT_NCCL : SHERD_TRANSPORT_AUTO;
            assert_int_equal(sherd_plan_create(&config, params, 2, 3, &plan[i], &err), SHERD_OK);
            assert_int_equal(sherd_plan_memory(plan[i], 0, &bytes[i]), SHERD_OK);
        }
        sherd_bucket_info info;
        int64_t largest = 0;
        for (uint32_t b = 0; b < sherd_plan_buckets(plan[1]); b++) {
            assert_int_equal(sherd_plan_bucket(plan[1], b, &info), SHERD_OK);
            largest = info.slice_elems > largest ? info.slice_elems : largest;
        }
        uint64_t scratch = (uint64_t)largest * 2 * (k > 1 ? 4 : 2);
        assert_int_equal(bytes[1].bytes[SHERD_TIER_DEVICE][SHERD_CAT_COMMUNICATION] -
                             bytes[0].bytes[SHERD_TIER_DEVICE][SHERD_CAT_COMMUNICATION],
                         scratch);
        char text[8192];
        assert_true(sherd_plan_text(plan[1], text, sizeof text) > 0);
        assert_non_null(strstr(text, "transport nccl, reduction tree, receive scratch"));
        sherd_plan_destroy(plan[0]);
        sherd_plan_destroy(plan[1]);
        config.transport.reduction = SHERD_REDUCTION_NATIVE;
        assert_int_equal(sherd_plan_create(&config, params, 2, 3, &plan[0], &err), SHERD_OK);
        assert_int_equal(sherd_plan_memory(plan[0], 0, &bytes[1]), SHERD_OK);
        assert_int_equal(bytes[1].bytes[SHERD_TIER_DEVICE][SHERD_CAT_COMMUNICATION],
                         bytes[0].bytes[SHERD_TIER_DEVICE][SHERD_CAT_COMMUNICATION]);
        sherd_plan_destroy(plan[0]);
        config.wire = SHERD_WIRE_FP32; /* NCCL adds what travels: fp32 sums after the last of several micro-steps, else leaves */
        assert_int_equal(sherd_plan_create(&config, params, 2, 3, &plan[0], &err), k > 1 ? SHERD_OK : SHERD_EUNSUPPORTED);
        if (k > 1)
            sherd_plan_destroy(plan[0]);
        else
            assert_non_null(strstr(err.text, "communication_data_type 'fp32' with gradients in bf16"));
        config.transport.kind = SHERD_TRANSPORT_DIRECT;
        assert_int_equal(sherd_plan_create(&config, params, 2, 3, &plan[0], &err), SHERD_EUNSUPPORTED);
        assert_non_null(strstr(err.text, "transport 'direct' has none"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plan_bytes), cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_matrix), cmocka_unit_test(test_wide)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
