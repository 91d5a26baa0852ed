/* SPDX-License-Identifier: MIT
 *
 * The fused update: every fast variant against the reference, bit for bit: optimizers, sum types, spans with odd ends
 * and gaps, special values, teams, in place and into second buffers. What lies outside the spans must not change, nor
 * what is only read.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/device/host_math_values.h"

#define ELEMS 60000
#define ORIGIN 512
#define KINDS (SHERD_MUON + 2) /* the last two are the parts of Muon's; the whole of it is AdamW's */
#define TENSORS 7

typedef struct arrays {
    float *master, *moment[2];
    float *second[3]; /* other places for master and moments; they begin with the same values */
    uint16_t *emit, *remainder; /* remainder: together with emit, in the master's stead */
    void *sum;
    sherd__trust_sums trust[TENSORS]; /* of the first pass, where the optimizer has one */
} arrays;

typedef struct update_case {
    sherd_optimizer kind;
    sherd__part part;
    sherd_dtype sum_dtype, moment_dtype;
    int32_t emit, first, skip;
    int32_t remainder;
    int32_t elsewhere; /* bit 0: the master, bit k + 1: moment k goes to its second place */
    value_mix mix;
    const sherd__span *spans;
    uint32_t n_spans;
} update_case;

static const sherd__span whole[] = {{ORIGIN, ORIGIN + ELEMS, 0, 0}};
static const sherd__span odd[] = {
    {ORIGIN + 256, ORIGIN + 257, 1, 0},     {ORIGIN + 512, ORIGIN + 512 + 255, 0, 1}, {ORIGIN + 1024, ORIGIN + 1024, 2, 2},
    {ORIGIN + 1024, ORIGIN + 17000, 2, 3},  {ORIGIN + 17152, ORIGIN + 17157, 1, 4},   {ORIGIN + 33024, ORIGIN + 52001, 0, 5},
    {ORIGIN + 59904, ORIGIN + 59909, 1, 6},
};

static uint32_t moments_of(const update_case *c)
{
    static const uint32_t of_part[] = {[SHERD__PART_DIRECT] = 1, [SHERD__PART_APPLY] = 0};
    return c->part ? of_part[c->part] : sherd__optim_get(c->kind)->n_moments;
}

/* What is asked for, as far as the k-th of KINDS has it. */
static void set_kind(update_case *c, int k)
{
    c->kind = (sherd_optimizer)(k > SHERD_MUON ? SHERD_MUON : k);
    c->part = (sherd__part)(k < SHERD_MUON ? 0 : k - SHERD_MUON + 1);
    c->sum_dtype = c->part == SHERD__PART_APPLY ? SHERD_FP32 : c->sum_dtype;
    c->emit = c->part == SHERD__PART_DIRECT ? 0 : c->emit;
}

static const float ratios[TENSORS] = {0.5f, 1.0f, 3.0f, 0.01f, 10.0f, 2.0f, 0.25f};

static void arrays_init(arrays *a, const update_case *c)
{
    memset(a->trust, 0, sizeof a->trust);
    a->master = array_new(ELEMS * 4);
    a->moment[0] = array_new(ELEMS * 4);
    a->moment[1] = array_new(ELEMS * 4);
    a->emit = array_new(ELEMS * 2);
    a->remainder = array_new(ELEMS * 2);
    a->sum = array_new(ELEMS * 4);
    fill_values(a->master, SHERD_FP32, ELEMS, 1, c->mix);
    fill_values(a->moment[0], c->moment_dtype, ELEMS, 2, c->mix);
    fill_values(a->moment[1], c->moment_dtype, ELEMS, 3, c->mix);
    uint8_t *squares = (uint8_t *)a->moment[moments_of(c) > 1]; /* what may be a sum of squares is not negative */
    size_t width = sherd_dtype_bytes(c->moment_dtype);
    for (size_t i = 0; i < ELEMS && c->mix == FINITE; ++i) {
        squares[(i + 1) * width - 1] &= 0x7F; /* the sign: little-endian */
    }
    fill_values(a->sum, c->sum_dtype, ELEMS, 4, c->mix);
    for (int k = 0; k < 3; ++k) {
        a->second[k] = array_new(ELEMS * 4);
        memcpy(a->second[k], k == 0 ? a->master : a->moment[k - 1], ELEMS * 4);
    }
}

static void arrays_free(arrays *a)
{
    free(a->master);
    free(a->moment[0]);
    free(a->moment[1]);
    free(a->emit);
    free(a->remainder);
    free(a->sum);
    for (int k = 0; k < 3; ++k) {
        free(a->second[k]);
    }
}

static void run_update(const sherd__host_math *math, sherd__team *team, const update_case *c, arrays *a)
{
    sherd__step_rules rules = {.kind = c->kind, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .momentum = 0.9,
                               .bias_correction = 1, .check_overflow = 1, .base_lr = 1e-2, .clipping = 1.0,
                               .divisor = 6.0, .muon_lr = 2e-2, .adam_lr = -1, .nesterov = 1, .n_groups = 3,
                               .groups = {{1e-2, 0.1}, {3e-3, 0.0}, {5e-2, 1e-4}}};
    uint64_t vote[SHERD__VOTE_SUMS + SHERD__VOTE_MINS] = {0};
    double lr = 0.0123;
    sherd__step_state state;
    sherd__step_scalars scalars;
    sherd__update update = {.kind = c->kind, .scalars = &scalars, .sum = a->sum, .sum_dtype = c->sum_dtype,
                            .master = a->master,
                            .moment = {moments_of(c) < 1 ? NULL : a->moment[0], moments_of(c) < 2 ? NULL : a->moment[1]},
                            .emit = c->emit ? a->emit : NULL, .origin = ORIGIN, .spans = c->spans,
                            .n_spans = c->n_spans};
    update.moment_dtype = c->moment_dtype;
    update.emit_dtype = c->emit == 2 ? SHERD_FP16 : SHERD_BF16;
    if (c->remainder) {
        update.master = NULL;
        update.remainder = a->remainder;
    }
    update.master_out = c->elsewhere & 1 ? a->second[0] : NULL;
    update.part = c->part;
    update.moment_out[0] = c->elsewhere & 2 && moments_of(c) > 0 ? a->second[1] : NULL;
    update.moment_out[1] = c->elsewhere & 4 && moments_of(c) > 1 ? a->second[2] : NULL;
    sherd__step_state_init(&state);
    state.updates = c->first ? 0 : 4;
    vote[9] = 12345; /* some norm */
    memcpy(&vote[SHERD__NORM_LIMBS], &lr, sizeof lr);
    vote[SHERD__VOTE_SUMS] = c->skip ? 3 : SHERD__NO_BAD_BLOCK;
    sherd__step_prepare(&rules, vote, &state, &scalars);
    assert_int_equal(scalars.skip, c->skip);
    assert_int_equal(scalars.first, c->first && !c->skip);
    if (sherd__optim_get(c->kind)->direction) {
        update.trust = a->trust;
        update.ratios = ratios;
        math->trust(team, &update);
    }
    math->update(team, &update);
}

/* Every array of both, bit for bit, guards included. */
static int same(const arrays *a, const arrays *b)
{
    for (int k = 0; k < 3; ++k) {
        if (memcmp(a->second[k], b->second[k], ELEMS * 4 + 4096) != 0) {
            return 0;
        }
    }
    return memcmp(a->trust, b->trust, sizeof a->trust) == 0 &&
           memcmp(a->master, b->master, ELEMS * 4 + 4096) == 0 && memcmp(a->emit, b->emit, ELEMS * 2 + 4096) == 0 &&
           memcmp(a->moment[0], b->moment[0], ELEMS * 4 + 4096) == 0 &&
           memcmp(a->moment[1], b->moment[1], ELEMS * 4 + 4096) == 0 && memcmp(a->sum, b->sum, ELEMS * 4 + 4096) == 0;
}

/* What an update elsewhere must leave behind, made from one in place: the new values in the second places, which began
 * with the old ones, and the old ones where they were. */
static void swap_places(arrays *a, const update_case *c)
{
    float **first[] = {&a->master, &a->moment[0], &a->moment[1]};
    for (int k = 0; k < 3; ++k) {
        if (c->elsewhere >> k & 1 && k <= (int)moments_of(c)) {
            float *kept = *first[k];
            *first[k] = a->second[k];
            a->second[k] = kept;
        }
    }
}

static void check_update(const update_case *c, sherd__team *team, uint64_t *cases)
{
    const sherd__host_math *fast[MAX_VARIANTS];
    uint32_t n = fast_variants(fast);
    arrays before, expected, got;
    arrays_init(&before, c);
    arrays_init(&expected, c);
    update_case in_place = *c;
    in_place.elsewhere = 0;
    run_update(reference_variant(), NULL, &in_place, &expected);
    assert_int_equal(same(&before, &expected), c->skip);
    swap_places(&expected, c);
    n += c->elsewhere != 0; /* then the reference too, against itself in place */
    for (uint32_t v = 0; v < n; ++v, ++*cases) {
        arrays_init(&got, c);
        run_update(fast[v], team, c, &got);
        if (!same(&expected, &got)) {
            fail_msg("%s, %d threads: optimizer %d, part %d, sums %d, moments %d, emit %d, first %d, %u spans, mix %d, "
                     "elsewhere %d: unlike "
                     "the reference in place",
                     fast[v]->name, (int)sherd__team_threads(team), (int)c->kind, (int)c->part, (int)c->sum_dtype,
                     (int)c->moment_dtype,
                     (int)c->emit,
                     (int)c->first, c->n_spans, (int)c->mix, (int)c->elsewhere);
        }
        arrays_free(&got);
    }
    arrays_free(&before);
    arrays_free(&expected);
}

/* A master's halves; whatever NaN it held is one then. */
static void split_master(arrays *a)
{
    reference_variant()->split(NULL, a->emit, a->remainder, a->master, ELEMS);
    reference_variant()->join(NULL, a->master, a->emit, a->remainder, ELEMS);
}

static void arrays_copy(arrays *to, const arrays *from)
{
    memcpy(to->master, from->master, ELEMS * 4 + 4096);
    memcpy(to->emit, from->emit, ELEMS * 2 + 4096);
    memcpy(to->remainder, from->remainder, ELEMS * 2 + 4096);
    memcpy(to->moment[0], from->moment[0], ELEMS * 4 + 4096);
    memcpy(to->moment[1], from->moment[1], ELEMS * 4 + 4096);
    memcpy(to->trust, from->trust, sizeof to->trust);
}

/* The same case with fp32 masters, by the reference, is what halves must give; on every variant, the reference too. */
static void check_remainder(update_case c, sherd__team *team, uint64_t *cases)
{
    const sherd__host_math *fast[MAX_VARIANTS + 1];
    uint32_t n = fast_variants(fast);
    arrays begin, expected, got;
    if (c.part == SHERD__PART_DIRECT) {
        return; /* directions are no masters */
    }
    c.emit = 1;
    c.elsewhere = 0;
    c.remainder = 0;
    arrays_init(&begin, &c);
    arrays_init(&expected, &c);
    arrays_init(&got, &c);
    split_master(&begin);
    arrays_copy(&expected, &begin);
    run_update(reference_variant(), NULL, &c, &expected);
    split_master(&expected);
    c.remainder = 1;
    fast[n++] = reference_variant();
    for (uint32_t v = 0; v < n; ++v, ++*cases) {
        arrays_copy(&got, &begin);
        run_update(fast[v], team, &c, &got);
        reference_variant()->join(NULL, got.master, got.emit, got.remainder, ELEMS); /* untouched so far */
        if (!same(&expected, &got) || memcmp(got.remainder, expected.remainder, ELEMS * 2 + 4096) != 0) {
            fail_msg("%s, %d threads: optimizer %d, sums %d, moments %d, first %d, %u spans, mix %d: halves unlike the "
                     "whole",
                     fast[v]->name, (int)sherd__team_threads(team), (int)c.kind, (int)c.sum_dtype, (int)c.moment_dtype,
                     (int)c.first, c.n_spans, (int)c.mix);
        }
    }
    arrays_free(&begin);
    arrays_free(&expected);
    arrays_free(&got);
}

/* Every variant, in as many pieces, at odd places. */
static void test_halves(void **state)
{
    static const int64_t sizes[] = {0, 1, 31, 513, 16385, ELEMS - 3};
    const sherd__host_math *fast[MAX_VARIANTS];
    uint32_t n = fast_variants(fast);
    sherd__team *team;
    (void)state;
    assert_int_equal(sherd__team_create(&sherd__default_allocator, 3, &team, NULL), SHERD_OK);
    for (size_t s = 0; s < 2 * sizeof sizes / sizeof *sizes; ++s) {
        float *values = array_new(ELEMS * 4), *want = array_new(ELEMS * 4), *got = array_new(ELEMS * 4);
        uint16_t *half[2] = {array_new(ELEMS * 2), array_new(ELEMS * 2)};
        uint16_t *remainder[2] = {array_new(ELEMS * 2), array_new(ELEMS * 2)};
        int64_t elems = sizes[s / 2], at = s % 2 * 3;
        fill_values(values, SHERD_FP32, ELEMS, 50 + s, SPECIAL);
        reference_variant()->split(NULL, half[0] + at, remainder[0] + at, values + at, elems);
        reference_variant()->join(NULL, want + at, half[0] + at, remainder[0] + at, elems);
        for (int64_t i = 0; i < elems; ++i) {
            assert_true(values[at + i] != values[at + i] || memcmp(&values[at + i], &want[at + i], 4) == 0);
        }
        for (uint32_t v = 0; v < n; ++v) {
            fast[v]->split(team, half[1] + at, remainder[1] + at, values + at, elems);
            fast[v]->join(team, got + at, half[1] + at, remainder[1] + at, elems);
            assert_memory_equal(half[1], half[0], ELEMS * 2 + 4096);
            assert_memory_equal(remainder[1], remainder[0], ELEMS * 2 + 4096);
            assert_memory_equal(got, want, ELEMS * 4 + 4096);
        }
        for (int k = 0; k < 2; ++k) {
            free(half[k]);
            free(remainder[k]);
        }
        free(values);
        free(want);
        free(got);
    }
    sherd__team_destroy(team);
}

static void test_updates_equal_reference(void **state)
{
    sherd__team *teams[4];
    uint64_t cases = 0, halves = 0;
    (void)state;
    for (int32_t t = 0; t < 4; ++t) {
        assert_int_equal(sherd__team_create(&sherd__default_allocator, t + 1, &teams[t], NULL), SHERD_OK);
    }
    for (int k = 0; k < KINDS * 16; ++k) {
        int bits = k / KINDS;
        update_case c = {.sum_dtype = bits & 1 ? SHERD_BF16 : SHERD_FP32,
                         .emit = (bits >> 1 & 1) * (1 + k % 2), .first = bits >> 2 & 1, .mix = bits >> 3 & 1 ? SPECIAL : FINITE};
        set_kind(&c, k % KINDS);
        c.moment_dtype = (k / KINDS + k) % 3 == 1 ? SHERD_BF16 : SHERD_FP32;
        c.spans = k % 2 ? whole : odd;
        c.n_spans = k % 2 ? 1 : sizeof odd / sizeof *odd;
        check_update(&c, teams[k % 4], &cases);
        c.elsewhere = 7;
        check_update(&c, teams[(k + 2) % 4], &cases);
        c.spans = k % 2 ? odd : whole;
        c.n_spans = k % 2 ? sizeof odd / sizeof *odd : 1;
        c.elsewhere = 0;
        check_update(&c, teams[(k + 1) % 4], &cases);
        c.elsewhere = 1 + k % 7;
        c.moment_dtype = c.moment_dtype == SHERD_FP32 ? SHERD_BF16 : SHERD_FP32;
        check_update(&c, teams[(k + 3) % 4], &cases);
        check_remainder(c, teams[(k + 1) % 4], &halves);
    }
    for (int32_t t = 0; t < 4; ++t) {
        sherd__team_destroy(teams[t]);
    }
    assert_true(cases >= 4 * KINDS * 16 && halves >= 2 * (KINDS - 1) * 16);
    printf("updates compared: %llu, and %llu of masters in halves\n", (unsigned long long)cases,
           (unsigned long long)halves);
}

static void test_skip_changes_nothing(void **state)
{
    uint64_t cases = 0;
    (void)state;
    for (int kind = 0; kind < KINDS; ++kind) {
        update_case c = {.emit = 1, .skip = 1, .first = 1, .spans = whole, .n_spans = 1};
        set_kind(&c, kind);
        check_update(&c, NULL, &cases);
        c.elsewhere = 7;
        check_update(&c, NULL, &cases);
        check_remainder(c, NULL, &cases);
    }
    assert_true(cases > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_updates_equal_reference),
        cmocka_unit_test(test_skip_changes_nothing),
        cmocka_unit_test(test_halves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
