/* SPDX-License-Identifier: MIT
 *
 * The CUDA kernels' bodies, compiled for the host, against the reference: every bit, special values, odd tails and what
 * lies behind the end included; through the device's table, so that splitting into launches is tested too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/device/cuda_world.h"
#include "tests/device/host_math_values.h"

enum { MAX_SOURCES = 4096 };

static sherd_device *device;
static sherd__stream *stream;

static int begin(void **state)
{
    (void)state;
    cuda_stream_begin(&device, &stream);
    return 0;
}

static int end(void **state)
{
    (void)state;
    cuda_stream_end(device, stream);
    return 0;
}

typedef struct sum_case {
    uint32_t n_src;
    sherd_dtype src_dtype, dst_dtype;
    int32_t add, narrow, norm, alias;
    int64_t elems;
    value_mix mix;
} sum_case;

static int64_t bytes_of(sherd_dtype dtype, int64_t elems)
{
    return (dtype == SHERD_FP32 ? 4 : 2) * elems;
}

static void check_sum(const sum_case *c)
{
    int64_t out_bytes = bytes_of(SHERD_FP32, c->elems) + 64;
    void *src[MAX_SOURCES];
    char *want = array_new(out_bytes), *got = array_new(out_bytes);
    sherd__norm *norm = device_block(device, sizeof *norm), want_norm;
    sherd__tree_sum sum = {.src = (const void *const *)src,
                           .n_src = c->n_src,
                           .src_dtype = c->src_dtype,
                           .src_offset = 512,
                           .dst_dtype = c->dst_dtype,
                           .elems = c->elems,
                           .add = c->add,
                           .narrow = c->narrow,
                           .first_block = 77};
    for (uint32_t s = 0; s < c->n_src; s++) {
        src[s] = array_new(bytes_of(c->src_dtype, c->elems) + 512);
        fill_values((char *)src[s] + 512, c->src_dtype, c->elems, 5 + s, c->mix);
    }
    memset(want, 0x5A, (size_t)out_bytes);
    fill_values(want, c->dst_dtype, c->elems, 3, c->mix);
    memcpy(got, want, (size_t)out_bytes);
    sherd__norm_clear(norm);
    sherd__norm_clear(&want_norm);
    norm->limb[1] = want_norm.limb[1] = 12345; /* what is there already stays in the sum */
    sum.dst = want;
    sum.norm = c->norm ? &want_norm : NULL;
    reference_variant()->tree_sum(NULL, &sum);
    sum.dst = got;
    sum.norm = c->norm ? norm : NULL;
    if (c->alias)
        sum.dst = (char *)src[0] + 512;
    OK(device->ops->tree_sum(stream, tag, &sum));
    OK(sync_stream(device, stream));
    if (c->alias)
        memcpy(got, sum.dst, (size_t)bytes_of(c->dst_dtype, c->elems));
    if (memcmp(want, got, (size_t)out_bytes) != 0 || memcmp(&want_norm, norm, sizeof *norm) != 0)
        fail_msg("%u sources, dtypes %d to %d, add %d, narrow %d, norm %d, alias %d, %lld elements, mix %d", c->n_src,
                 c->src_dtype, c->dst_dtype, c->add, c->narrow, c->norm, c->alias, (long long)c->elems, c->mix);
    for (uint32_t s = 0; s < c->n_src; s++)
        free(src[s]);
    free(want);
    free(got);
    sherd_device_free(device, norm);
}

static void sums_equal_reference(void **state)
{
    static const uint32_t sources[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 24, 33, 64, 67};
    static const int64_t sizes[] = {0, 256, 4096, 4352, 20480, 70400};
    uint64_t cases = 0;
    (void)state;
    for (size_t n = 0; n < sizeof sources / sizeof *sources; n++) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            if (sizes[s] > 20000 && sources[n] > 4)
                continue;
            for (int kind = 0; kind < 24; kind++, cases++) {
                sum_case c = {.n_src = sources[n], .elems = sizes[s]};
                c.src_dtype = (sherd_dtype)(kind / 8);
                c.narrow = kind & 1;
                c.mix = kind >> 1 & 1 ? SPECIAL : FINITE;
                c.add = kind >> 2 & 1;
                c.norm = cases % 3 != 0;
                c.dst_dtype = c.narrow && !c.add && cases % 2 ? SHERD_BF16 : SHERD_FP32;
                c.alias = !c.add && c.src_dtype == c.dst_dtype && cases % 5 == 0;
                check_sum(&c);
            }
        }
    }
    assert_true(cases > 1000);
    printf("tree sums compared: %llu\n", (unsigned long long)cases);
}

/* More sources than a kernel takes as parameters: they go by the stream's table, whose end it is as well. */
static void wide_sums_equal_reference(void **state)
{
    static const uint32_t sources[] = {255, 256, 257, 264, 300, 511, 513, 1037, SHERD__CUDA_TABLE};
    uint64_t tables = cuda_stub_calls("sources"), cases = 0;
    (void)state;
    for (size_t n = 0; n < sizeof sources / sizeof *sources; n++) {
        for (int kind = 0; kind < 4; kind++, cases++) {
            sum_case c = {.n_src = sources[n], .elems = sources[n] == 300 ? 4352 : 256};
            c.src_dtype = kind & 1 ? SHERD_BF16 : SHERD_FP32;
            c.dst_dtype = SHERD_FP32;
            c.mix = kind >> 1 & 1 ? SPECIAL : FINITE;
            c.add = kind == 1;
            c.norm = 1;
            c.alias = kind == 2;
            check_sum(&c);
        }
    }
    assert_int_equal(cuda_stub_calls("sources") - tables,
                     4 * (3 * 2 + 2 + 3 + 5 + 16)); /* 257, 264, 300, 511, 513, … */
}

/* Sums that follow each other while none has run: each has its own sources, though the stream has one table. And one
 * with too many. */
static void wide_sums_in_a_row(void **state)
{
    enum { SUMS = 3, SOURCES = 300, ELEMS_EACH = 256 };
    float *data = calloc(SUMS * SOURCES * ELEMS_EACH, sizeof *data), got[SUMS][ELEMS_EACH], want[ELEMS_EACH];
    const void *src[SUMS][SOURCES], *few[SHERD__CUDA_TABLE + 1] = {0};
    sherd__tree_sum sum = {.n_src = SOURCES, .src_dtype = SHERD_FP32, .dst_dtype = SHERD_FP32, .elems = ELEMS_EACH};
    (void)state;
    cuda_stub_delay(2000);
    for (int k = 0; k < SUMS; k++) {
        for (int s = 0; s < SOURCES; s++)
            src[k][s] = data + (k * SOURCES + s) * ELEMS_EACH;
        fill_values(data + k * SOURCES * ELEMS_EACH, SHERD_FP32, SOURCES * ELEMS_EACH, 40 + (uint32_t)k, FINITE);
        sum.src = src[k];
        sum.dst = got[k];
        OK(device->ops->tree_sum(stream, tag, &sum));
    }
    OK(sync_stream(device, stream));
    cuda_stub_delay(0);
    for (int k = 0; k < SUMS; k++) {
        sum.src = src[k];
        sum.dst = want;
        reference_variant()->tree_sum(NULL, &sum);
        assert_memory_equal(got[k], want, sizeof want);
    }
    sherd_device *other = make_cuda_device(0);
    sherd_error err;
    sum.src = few;
    sum.n_src = SHERD__CUDA_TABLE + 1;
    (void)other->ops->tree_sum(other->compute, tag, &sum);
    assert_int_equal(sherd__device_error(other, &err), SHERD_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "more than 4096"));
    sherd_device_destroy(other);
    free(data);
}

/* ------------------------------------------------------------------------------------------------------------ update
 */

enum { ELEMS = 90000, ORIGIN = 512, MANY = 300, KINDS = SHERD_MUON + 2 }; /* the last two: the parts of Muon's */

typedef struct arrays {
    float *master, *moment[2];
    uint16_t *emit, *remainder;
    void *sum;
} arrays;

/* Of the updates that follow. */
static sherd_dtype moment_dtype;
static int in_halves; /* the master is emit and remainder */

static void arrays_init(arrays *a, sherd_dtype sum_dtype, value_mix mix)
{
    a->master = array_new(ELEMS * 4);
    a->moment[0] = array_new(ELEMS * 4);
    a->moment[1] = array_new(ELEMS * 4);
    a->emit = array_new(ELEMS * 2);
    a->remainder = array_new(ELEMS * 2);
    a->sum = array_new(ELEMS * 4);
    fill_values(a->master, SHERD_FP32, ELEMS, 1, mix);
    fill_values(a->moment[0], moment_dtype, ELEMS, 2, mix);
    fill_values(a->moment[1], moment_dtype, ELEMS, 3, mix);
    for (int64_t i = 0; i < ELEMS && mix == FINITE; i++) /* no sign: little-endian */
        ((uint8_t *)a->moment[1])[(size_t)bytes_of(moment_dtype, i + 1) - 1] &= 0x7F;
    fill_values(a->sum, sum_dtype, ELEMS, 4, mix);
    if (in_halves)
        reference_variant()->split(NULL, a->emit, a->remainder, a->master, ELEMS);
}

static void arrays_free(arrays *a)
{
    free(a->master);
    free(a->moment[0]);
    free(a->moment[1]);
    free(a->emit);
    free(a->remainder);
    free(a->sum);
}

static int same(const arrays *a, const arrays *b)
{
    return memcmp(a->master, b->master, ELEMS * 4 + 4096) == 0 && memcmp(a->emit, b->emit, ELEMS * 2 + 4096) == 0 &&
           memcmp(a->remainder, b->remainder, ELEMS * 2 + 4096) == 0 &&
           memcmp(a->moment[0], b->moment[0], ELEMS * 4 + 4096) == 0 &&
           memcmp(a->moment[1], b->moment[1], ELEMS * 4 + 4096) == 0;
}

static uint32_t moments_of(sherd_optimizer kind, sherd__part part)
{
    static const uint32_t of_part[] = {[SHERD__PART_DIRECT] = 1, [SHERD__PART_APPLY] = 0};
    return part ? of_part[part] : sherd__optim_get(kind)->n_moments;
}

static sherd__update update_of(const arrays *a, sherd_optimizer kind, sherd__part part, sherd_dtype sum_dtype, int emit,
                               int64_t shift)
{
    /* shift: everything begins that many elements later, which takes the vector path away where it is odd */
    sherd__update update = {.kind = kind,
                            .part = part,
                            .sum = (char *)a->sum + bytes_of(sum_dtype, shift),
                            .sum_dtype = sum_dtype,
                            .master = a->master + shift,
                            .emit = emit ? a->emit + shift : NULL,
                            .emit_dtype = emit == 2 ? SHERD_FP16 : SHERD_BF16,
                            .origin = ORIGIN};
    if (in_halves) {
        update.master = NULL;
        update.remainder = a->remainder + shift;
    }
    update.moment_dtype = moment_dtype;
    for (uint32_t m = 0; m < moments_of(kind, part); m++)
        update.moment[m] = (char *)a->moment[m] + bytes_of(moment_dtype, shift);
    return update;
}

/* The reference prepares and updates; the device prepares in its own memory, in stream order, and updates. number: of
 * KINDS. */
static void check_update(int number, sherd_dtype sum_dtype, int emit, int first, int skip, value_mix mix,
                         int64_t shift, const sherd__span *spans, uint32_t n_spans, int elsewhere)
{
    sherd_optimizer kind = (sherd_optimizer)(number > SHERD_MUON ? SHERD_MUON : number);
    sherd__part part = (sherd__part)(number < SHERD_MUON ? 0 : number - SHERD_MUON + 1);
    sherd__step_rules rules = {.kind = kind,
                               .beta1 = 0.9,
                               .beta2 = 0.999,
                               .eps = 1e-8,
                               .momentum = 0.9,
                               .bias_correction = 1,
                               .check_overflow = 1,
                               .base_lr = 1e-2,
                               .clipping = 1.0,
                               .divisor = 6.0,
                               .muon_lr = 2e-2,
                               .adam_lr = -1,
                               .nesterov = 1,
                               .n_groups = 3,
                               .groups = {{1e-2, 0.1}, {3e-3, 0.0}, {5e-2, 1e-4}}};
    uint64_t words = SHERD__VOTE_SUMS + SHERD__VOTE_MINS, *vote = device_block(device, words * sizeof *vote);
    sherd__step_state carried, *state = device_block(device, sizeof *state);
    sherd__step_scalars want_scalars, *scalars = device_block(device, sizeof *scalars);
    double lr = 0.0123;
    arrays want, got, second;
    int wants_ratios = sherd__optim_get(kind)->direction != NULL;
    sherd__trust_sums want_trust[MANY] = {{.bad = 0}}, *trust = device_block(device, sizeof want_trust);
    float *ratios = device_block(device, MANY * sizeof *ratios);
    sum_dtype = part == SHERD__PART_APPLY ? SHERD_FP32 : sum_dtype;
    emit = part == SHERD__PART_DIRECT ? 0 : emit;
    memset(vote, 0, words * sizeof *vote);
    memset(trust, 0, sizeof want_trust);
    for (uint32_t t = 0; t < MANY; t++)
        ratios[t] = 0.01f + (float)t;
    vote[9] = 12345; /* some norm */
    memcpy(&vote[SHERD__NORM_LIMBS], &lr, sizeof lr);
    vote[SHERD__VOTE_SUMS] = skip ? 3 : SHERD__NO_BAD_BLOCK;
    sherd__step_state_init(&carried);
    carried.updates = first ? 0 : 4;
    *state = carried;
    arrays_init(&want, sum_dtype, mix);
    arrays_init(&got, sum_dtype, mix);
    arrays_init(&second, sum_dtype, mix);
    sherd__step_prepare(&rules, vote, &carried, &want_scalars);
    sherd__update update = update_of(&want, kind, part, sum_dtype, emit, shift);
    update.scalars = &want_scalars;
    update.spans = spans;
    update.n_spans = n_spans;
    update.ratios = wants_ratios ? ratios : NULL;
    update.trust = want_trust;
    if (wants_ratios)
        reference_variant()->trust(NULL, &update);
    reference_variant()->update(NULL, &update);
    update = update_of(&got, kind, part, sum_dtype, emit, shift);
    update.scalars = scalars;
    update.spans = spans;
    update.n_spans = n_spans;
    if (elsewhere) {
        update.master_out = second.master + shift;
        for (uint32_t m = 0; m < moments_of(kind, part); m++)
            update.moment_out[m] = (char *)second.moment[m] + bytes_of(moment_dtype, shift);
    }
    OK(device->ops->prepare(stream, tag, &rules, vote, state, scalars));
    update.ratios = wants_ratios ? ratios : NULL;
    update.trust = trust;
    if (wants_ratios)
        OK(device->ops->trust(stream, tag, &update));
    OK(device->ops->update(stream, tag, &update));
    OK(sync_stream(device, stream));
    assert_memory_equal(scalars, &want_scalars, sizeof want_scalars);
    assert_memory_equal(state, &carried, sizeof carried);
    assert_memory_equal(trust, want_trust, sizeof want_trust);
    if (elsewhere) { /* the new values; the old ones must still be where they were */
        arrays old;
        memcpy(second.emit, got.emit, ELEMS * 2 + 4096);
        arrays_init(&old, sum_dtype, mix);
        memcpy(got.emit, old.emit, ELEMS * 2 + 4096);
        assert_true(same(&old, &got));
        arrays_free(&old);
    }
    if (!same(&want, elsewhere ? &second : &got))
        fail_msg("optimizer %d, part %d, sums %d, emit %d, first %d, skip %d, mix %d, shift %lld, %u spans, elsewhere %d",
                 kind, part, sum_dtype, emit, first, skip, mix, (long long)shift, n_spans, elsewhere);
    arrays_free(&want);
    arrays_free(&got);
    arrays_free(&second);
    sherd_device_free(device, trust);
    sherd_device_free(device, ratios);
    sherd_device_free(device, vote);
    sherd_device_free(device, state);
    sherd_device_free(device, scalars);
}

static void updates_equal_reference(void **state)
{
    static const sherd__span whole[] = {{ORIGIN, ORIGIN + ELEMS - 8, 0, 0}};
    static const sherd__span odd[] = {
        {ORIGIN + 256, ORIGIN + 257, 1, 0},     {ORIGIN + 512, ORIGIN + 512 + 255, 0, 1}, {ORIGIN + 1024, ORIGIN + 1024, 2, 2},
        {ORIGIN + 1024, ORIGIN + 17001, 2, 3},  {ORIGIN + 17152, ORIGIN + 17157, 1, 4},   {ORIGIN + 33024, ORIGIN + 52001, 0, 5},
        {ORIGIN + 59904, ORIGIN + 59909, 1, 6},
    };
    sherd__span many[MANY]; /* more than one launch takes */
    uint64_t updates = cuda_stub_calls("update");
    (void)state;
    for (int64_t i = 0; i < MANY; i++)
        many[i] = (sherd__span){ORIGIN + 256 * i, ORIGIN + 256 * i + 1 + i * 7 % 256, (uint32_t)(i % 3), (uint32_t)i};
    for (int k = 0; k < KINDS * 32; k++) {
        int bits = k / KINDS;
        sherd_dtype sum_dtype = bits & 1 ? SHERD_BF16 : SHERD_FP32;
        value_mix mix = bits >> 1 & 1 ? SPECIAL : FINITE;
        int64_t shift = bits >> 4 & 1 ? 1 + k % 3 : 0;
        moment_dtype = (bits + k) % 3 == 1 ? SHERD_BF16 : SHERD_FP32;
        int emit = (bits >> 2 & 1) * (1 + k % 2), first = bits >> 3 & 1;
        check_update(k % KINDS, sum_dtype, emit, first, 0, mix, shift, whole, 1, k % 7 == 2);
        check_update(k % KINDS, sum_dtype, emit, first, 0, mix, shift, odd, 7, k % 7 == 3);
    }
    assert_int_equal(cuda_stub_calls("update") - updates, 2 * 32 * KINDS);
    for (int kind = 0; kind < KINDS; kind++) {
        check_update(kind, SHERD_FP32, 1, 1, 0, SPECIAL, 0, many, MANY, kind % 2);
        check_update(kind, SHERD_FP32, 1, 1, 1, SPECIAL, 0, whole, 1, 1 - kind % 2); /* skipped */
    }
    assert_int_equal(cuda_stub_calls("update") - updates, 2 * 32 * KINDS + KINDS * (3 + 1));
    in_halves = 1;
    for (int k = 0; k < KINDS * 8; k++) {
        int bits = k / KINDS, one = (bits + k) % 2;
        moment_dtype = (bits + k) % 3 == 1 ? SHERD_BF16 : SHERD_FP32;
        if (k % KINDS == SHERD_MUON)
            continue; /* directions are no masters */
        check_update(k % KINDS, bits & 1 ? SHERD_BF16 : SHERD_FP32, 1, k / 5 % 2, k % 11 == 5,
                     bits >> 1 & 1 ? SPECIAL : FINITE, bits >> 2 & 1 ? 1 + k % 3 : 0, one ? whole : odd, one ? 1 : 7,
                     0);
    }
    in_halves = 0;
}

/* -------------------------------------------------------------------------------------------- zero, convert, reduce */

static void zeros_exactly_the_ranges(void **state)
{
    enum { BYTES = 300000, RANGES = 290 };
    unsigned char *got = device_block(device, BYTES), *want = array_new(BYTES);
    sherd__byte_range ranges[RANGES];
    (void)state;
    memset(got, 0x77, BYTES);
    memset(want, 0x77, BYTES);
    for (uint64_t i = 0; i < RANGES; i++)
        ranges[i] = (sherd__byte_range){i * 1000 + i % 17, i * 1000 + i % 17 + (i * 37 % 900)};
    ranges[RANGES - 1] = (sherd__byte_range){ranges[RANGES - 1].begin, BYTES};
    ranges[7] = (sherd__byte_range){7003, 7004};
    for (uint32_t i = 0; i < RANGES; i++)
        memset(want + ranges[i].begin, 0, (size_t)(ranges[i].end - ranges[i].begin));
    OK(device->ops->zero(stream, tag, got, ranges, RANGES));
    OK(sync_stream(device, stream));
    assert_memory_equal(got, want, BYTES);
    memset(got, 0x77, BYTES);
    memset(want, 0x77, BYTES);
    memset(want + 3, 0, 200001); /* several tiles */
    ranges[0] = (sherd__byte_range){3, 200004};
    OK(device->ops->zero(stream, tag, got, ranges, 1));
    OK(sync_stream(device, stream));
    assert_memory_equal(got, want, BYTES);
    sherd_device_free(device, got);
    free(want);
}

/* From and to memory of the device and pageable memory, at even and odd places. */
static void check_convert(sherd_dtype dst_dtype, sherd_dtype src_dtype, int add, int64_t elems, int64_t shift,
                          int dst_outside, int src_outside)
{
    size_t dst_bytes = (size_t)bytes_of(dst_dtype, elems + 16), src_bytes = (size_t)bytes_of(src_dtype, elems + 16);
    char *want = array_new((int64_t)dst_bytes);
    char *dst = dst_outside ? array_new((int64_t)dst_bytes) : device_block(device, dst_bytes);
    char *src = src_outside ? array_new((int64_t)src_bytes) : device_block(device, src_bytes);
    fill_values(want, dst_dtype, elems + 16, 21, SPECIAL);
    memcpy(dst, want, dst_bytes);
    fill_values(src, src_dtype, elems + 16, 22, SPECIAL);
    size_t dst_at = (size_t)bytes_of(dst_dtype, shift), src_at = (size_t)bytes_of(src_dtype, shift);
    reference_variant()->convert(NULL, want + dst_at, dst_dtype, src + src_at, src_dtype, elems, add);
    OK(device->ops->convert(stream, tag, dst + dst_at, dst_dtype, src + src_at, src_dtype, elems, add));
    OK(sync_stream(device, stream));
    if (memcmp(dst, want, dst_bytes) != 0)
        fail_msg("dtype %d from %d, add %d, %lld elements, shift %lld, outside %d %d", dst_dtype, src_dtype, add,
                 (long long)elems, (long long)shift, dst_outside, src_outside);
    free(want);
    dst_outside ? free(dst) : sherd_device_free(device, dst);
    src_outside ? free(src) : sherd_device_free(device, src);
}

/* fp32 into halves and back, the whole in memory of the device or outside. */
static void check_halves(int64_t elems, int64_t shift, int outside)
{
    size_t bytes = (size_t)elems * 4 + 64;
    float *values = outside ? array_new((int64_t)bytes) : device_block(device, bytes),
          *want = array_new((int64_t)bytes);
    uint16_t *half[2] = {device_block(device, bytes), array_new((int64_t)bytes)};
    uint16_t *remainder[2] = {device_block(device, bytes), array_new((int64_t)bytes)};

    fill_values(values, SHERD_FP32, elems + 16, 23, SPECIAL);
    memcpy(want, values, bytes);
    for (int k = 0; k < 2; k++) {
        memset(half[k], 0x3C, bytes);
        memset(remainder[k], 0x3C, bytes);
    }
    reference_variant()->split(NULL, half[1] + shift, remainder[1] + shift, want + shift, elems);
    reference_variant()->join(NULL, want + shift, half[1] + shift, remainder[1] + shift, elems);
    OK(device->ops->split(stream, tag, half[0] + shift, remainder[0] + shift, values + shift, elems));
    OK(sync_stream(device, stream));
    memset(values + shift, 0x3C, (size_t)elems * 4);
    OK(device->ops->join(stream, tag, values + shift, half[0] + shift, remainder[0] + shift, elems));
    OK(sync_stream(device, stream));
    assert_memory_equal(half[0], half[1], bytes);
    assert_memory_equal(remainder[0], remainder[1], bytes);
    assert_memory_equal(values, want, bytes);
    for (int k = 0; k < 2; k++) {
        k ? free(half[k]) : sherd_device_free(device, half[k]);
        k ? free(remainder[k]) : sherd_device_free(device, remainder[k]);
    }
    outside ? free(values) : sherd_device_free(device, values);
    free(want);
}

static void halves_equal_reference(void **state)
{
    static const int64_t sizes[] = {0, 1, 8, 1024, 3001, 40000};
    (void)state;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int64_t shift = 0; shift < 4; shift += 3)
            for (int outside = 0; outside < 2; outside++)
                check_halves(sizes[s], shift, outside);
}

static void conversions_equal_reference(void **state)
{
    static const int64_t sizes[] = {0, 1, 5, 1024, 3001, 40000};
    uint64_t cases = 0;
    (void)state;
    for (int kind = 0; kind < 18; kind++) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            for (int64_t shift = 0; shift < 4; shift += 3) {
                sherd_dtype dst = (sherd_dtype)(kind % 3), src = (sherd_dtype)(kind / 3 % 3);
                int add = kind / 9;
                check_convert(dst, src, add, sizes[s], shift, 0, 0);
                check_convert(dst, src, add, sizes[s], shift, 0, 1);
                if (!add)
                    check_convert(dst, src, add, sizes[s], shift, 1, 0);
                cases++;
            }
        }
    }
    assert_int_equal(cases, 216);
}

/* In place, at places that allow vectors and others, in one launch and several. */
static void check_narrow(sherd_dtype to, sherd_dtype from, int64_t elems, int64_t shift)
{
    size_t bytes = (size_t)bytes_of(from, elems), at = (size_t)shift * 4;
    char *data = device_block(device, at + bytes + 64), *want = array_new(bytes_of(to, elems));
    memset(data, 0x77, at + bytes + 64);
    fill_values(data + at, from, elems, 23, SPECIAL);
    reference_variant()->convert(NULL, want, to, data + at, from, elems, 0);
    OK(device->ops->narrow(stream, tag, data + at, to, from, elems));
    OK(sync_stream(device, stream));
    if (memcmp(data + at, want, (size_t)bytes_of(to, elems)) != 0)
        fail_msg("type %d to %d, %lld elements, shift %lld", from, to, (long long)elems, (long long)shift);
    for (size_t i = 0; i < at + 64; i++)
        assert_int_equal(data[i < at ? i : bytes + i], 0x77);
    sherd_device_free(device, data);
    free(want);
}

static void narrows_in_place(void **state)
{
    static const int64_t sizes[] = {0, 1, 7, 8, 2047, 16384, 16385, 40000, 65536, 300001};
    static const sherd_dtype pairs[][2] = {
        {SHERD_BF16, SHERD_FP32}, {SHERD_FP16, SHERD_FP32}, {SHERD_FP16, SHERD_BF16}, {SHERD_BF16, SHERD_FP16}};
    (void)state;
    uint64_t before = cuda_stub_calls("narrow");
    for (size_t p = 0; p < 4; p++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int64_t shift = 0; shift < 4; shift += 3)
                check_narrow(pairs[p][0], pairs[p][1], sizes[s], shift);
    assert_int_equal(cuda_stub_calls("narrow") - before, 2 * 2 * 9); /* one each where elements shrink */
}

static void check_reduction(uint32_t n_src)
{
    enum { SUMS = 300, MINS = 3, WORDS = 2 + SUMS + MINS };
    uint64_t *src = calloc((size_t)n_src * WORDS, sizeof *src), want[SUMS + MINS], got[SUMS + MINS];
    const void *sources[MAX_SOURCES];
    for (uint64_t s = 0; s < n_src; s++) {
        sources[s] = src + s * WORDS;
        for (uint64_t i = 0; i < WORDS; i++)
            src[s * WORDS + i] = (s + 1) * 0x9E3779B97F4A7C15u * (i + 3);
    }
    sherd__host_reduce_u64(want, sources, n_src, 16, SUMS, MINS);
    OK(device->ops->reduce_u64(stream, tag, got, sources, n_src, 16, SUMS, MINS));
    OK(sync_stream(device, stream));
    assert_memory_equal(got, want, sizeof want);
    free(src);
}

static void reductions(void **state)
{
    (void)state;
    check_reduction(5);
    check_reduction(256);
    check_reduction(300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_equal_reference),      cmocka_unit_test(updates_equal_reference),
        cmocka_unit_test(zeros_exactly_the_ranges),  cmocka_unit_test(conversions_equal_reference),
        cmocka_unit_test(narrows_in_place),          cmocka_unit_test(reductions),
        cmocka_unit_test(halves_equal_reference),
        cmocka_unit_test(wide_sums_equal_reference), cmocka_unit_test(wide_sums_in_a_row),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
