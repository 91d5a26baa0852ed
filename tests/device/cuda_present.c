/* SPDX-License-Identifier: MIT
 *
 * On the real runtime. Without a GPU: one sentence that names the driver or the GPU, and exit code 77, which is a skip.
 * With one: the same operations as on the host, the same bits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "device/host_math_table.h"
#include "sherd/sherd_cuda.h"
#include "tests/device/world.h"
#include "tests/support/leaves.h"

enum { ELEMS = 1 << 16, SOURCES = 3, TAIL = 77 };

static const sherd__tag tag = {"test", 0, 1};
static sherd_device *device;
static sherd__stream *stream;

static void *upload(const void *data, uint64_t bytes)
{
    void *block = NULL;
    OK(sherd_device_alloc(device, bytes, SHERD_CAT_WORKSPACE, &block, NULL));
    OK(device->ops->copy(stream, tag, block, data, bytes));
    return block;
}

static void expect(const void *block, const void *want, uint64_t bytes)
{
    void *got = malloc(bytes);
    assert_non_null(got);
    OK(device->ops->copy(stream, tag, got, block, bytes));
    OK(sync_stream(device, stream));
    assert_memory_equal(got, want, bytes);
    free(got);
}

static void sums_have_the_reference_s_bits(void **state)
{
    float *leaf[SOURCES], *want = calloc(ELEMS, sizeof *want);
    void *block[SOURCES];
    sherd__norm want_norm;
    (void)state;
    for (uint32_t s = 0; s < SOURCES; s++) {
        leaf[s] = malloc(ELEMS * sizeof(float));
        sherd_test_leaf(s, 1, 0, 0, SHERD_FP32, ELEMS, leaf[s]);
        block[s] = upload(leaf[s], ELEMS * sizeof(float));
    }
    sherd__norm_clear(&want_norm);
    void *norm = upload(&want_norm, sizeof want_norm), *dst = upload(want, ELEMS * sizeof(float));
    sherd__tree_sum sum = {.src = (const void *const *)leaf, .n_src = SOURCES, .src_dtype = SHERD_FP32,
                           .dst_dtype = SHERD_FP32, .dst = want, .elems = ELEMS, .norm = &want_norm};
    sherd__host_math_reference.tree_sum(NULL, &sum);
    sum.src = (const void *const *)block;
    sum.dst = dst;
    sum.norm = norm;
    OK(device->ops->tree_sum(stream, tag, &sum));
    expect(dst, want, ELEMS * sizeof(float));
    expect(norm, &want_norm, sizeof want_norm);
    for (uint32_t s = 0; s < SOURCES; s++) {
        free(leaf[s]);
        sherd_device_free(device, block[s]);
    }
    free(want);
    sherd_device_free(device, dst);
    sherd_device_free(device, norm);
}

static void updates_have_the_reference_s_bits(void **state)
{
    (void)state;
    for (int kind = 0; kind <= SHERD_LAMB; kind++) {
        static float array[4][ELEMS];
        static uint16_t emit[ELEMS];
        sherd__step_rules rules = {.kind = (sherd_optimizer)kind, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8,
                                   .momentum = 0.9, .bias_correction = 1, .base_lr = 1e-2, .divisor = 2.0,
                                   .n_groups = 1, .groups = {{1e-2, 0.1}}};
        uint64_t vote[SHERD__VOTE_SUMS + SHERD__VOTE_MINS] = {0};
        sherd__step_state carried;
        sherd__step_scalars scalars;
        sherd__span span = {0, ELEMS - TAIL, 0, 0};
        sherd__update update = {.kind = (sherd_optimizer)kind, .sum_dtype = SHERD_FP32, .spans = &span, .n_spans = 1};
        double lr = 0.01;
        int two = sherd__optim_get((sherd_optimizer)kind)->n_moments > 1;
        memcpy(&vote[SHERD__NORM_LIMBS], &lr, sizeof lr);
        vote[SHERD__VOTE_SUMS] = SHERD__NO_BAD_BLOCK;
        vote[9] = 4711;
        sherd__step_state_init(&carried);
        for (uint32_t a = 0; a < 4; a++)
            sherd_test_leaf(10 + a, 1, 0, 0, SHERD_FP32, ELEMS, array[a]);
        for (int64_t i = 0; i < ELEMS; i++)
            array[3][i] = array[3][i] < 0 ? -array[3][i] : array[3][i];
        memset(emit, 0, sizeof emit);
        void *block[4], *emitted = upload(emit, sizeof emit), *words = upload(vote, sizeof vote);
        void *held = upload(&carried, sizeof carried), *out = upload(&scalars, sizeof scalars);
        for (uint32_t a = 0; a < 4; a++)
            block[a] = upload(array[a], sizeof array[a]);
        sherd__step_prepare(&rules, vote, &carried, &scalars);
        int trusted = sherd__optim_get((sherd_optimizer)kind)->direction != NULL;
        float ratio = 0.75f;
        sherd__trust_sums trust = {.bad = 0}, none = trust;
        void *ratios = upload(&ratio, sizeof ratio), *sums = upload(&none, sizeof none);
        update.scalars = &scalars;
        update.ratios = trusted ? &ratio : NULL;
        update.trust = &trust;
        update.sum = array[0];
        update.master = array[1];
        update.moment[0] = array[two ? 2 : 3]; /* what may be a sum of squares is not negative */
        update.moment[1] = two ? array[3] : NULL;
        update.emit = emit;
        if (trusted)
            sherd__host_math_reference.trust(NULL, &update);
        sherd__host_math_reference.update(NULL, &update);
        update.scalars = out;
        update.sum = block[0];
        update.master = block[1];
        update.moment[0] = block[two ? 2 : 3];
        update.moment[1] = two ? block[3] : NULL;
        update.emit = emitted;
        OK(device->ops->prepare(stream, tag, &rules, words, held, out));
        update.ratios = trusted ? ratios : NULL;
        update.trust = sums;
        if (trusted)
            OK(device->ops->trust(stream, tag, &update));
        OK(device->ops->update(stream, tag, &update));
        expect(sums, &trust, sizeof trust);
        expect(out, &scalars, sizeof scalars);
        for (uint32_t a = 0; a < 4; a++)
            expect(block[a], array[a], sizeof array[a]);
        expect(emitted, emit, sizeof emit);
        for (uint32_t a = 0; a < 4; a++)
            sherd_device_free(device, block[a]);
        sherd_device_free(device, ratios);
        sherd_device_free(device, sums);
        sherd_device_free(device, emitted);
        sherd_device_free(device, words);
        sherd_device_free(device, held);
        sherd_device_free(device, out);
    }
}

/* Narrow and wide tiles, lying and standing, with odd ends. */
static void matrices_have_the_reference_s_bits(void **state)
{
    static const struct { int64_t rows, cols; } shapes[] = {{1, 7}, {31, 257}, {257, 31}, {130, 131}, {600, 200}, {2100, 1}};
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int64_t rows = shapes[i].rows, cols = shapes[i].cols;
        uint64_t bytes = (uint64_t)(rows * cols) * sizeof(float);
        uint64_t scratch_bytes = (uint64_t)sherd__muon_scratch_elems(rows, cols) * sizeof(float);
        float *want = malloc(bytes), *room = malloc(scratch_bytes);
        sherd__orthogonal job = {.matrix = want, .scratch = room, .rows = rows, .cols = cols, .steps = 5};
        sherd_test_leaf(40 + i, 1, 0, 0, SHERD_FP32, rows * cols, want);
        float *block = upload(want, bytes);
        OK(sherd_device_alloc(device, scratch_bytes, SHERD_CAT_WORKSPACE, (void **)&job.scratch, NULL));
        job.matrix = block;
        OK(device->ops->orthogonalise(stream, tag, &job));
        OK(sync_stream(device, stream));
        sherd_device_free(device, job.scratch);
        job.matrix = want;
        job.scratch = room;
        sherd__host_math_reference.orthogonalise(NULL, &job);
        expect(block, want, bytes);
        sherd_device_free(device, block);
        free(want);
        free(room);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_have_the_reference_s_bits), cmocka_unit_test(updates_have_the_reference_s_bits),
        cmocka_unit_test(matrices_have_the_reference_s_bits),
    };
    sherd_error err = {0};
    if (sherd_device_create_cuda(NULL, &device, &err) != SHERD_OK) {
        printf("%s\n", err.text);
        if (err.status != SHERD_EUNSUPPORTED || (!strstr(err.text, "driver") && !strstr(err.text, "GPU")))
            return 1;
        return 77;
    }
    printf("%s\n", sherd_device_describe(device));
    stream = make_stream(device, "test", 16);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    device->ops->stream_destroy(stream);
    sherd_device_destroy(device);
    return failed;
}
