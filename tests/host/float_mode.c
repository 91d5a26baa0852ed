/* SPDX-License-Identifier: MIT
 *
 * Work of the library does not feel the mode of the client's thread, and leaves it as it was.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fenv.h>
#include <float.h>

#include "host/team.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#define FLUSH_BITS 0x8040u /* flush to zero, subnormals are zeros */
#endif

/* Half of the smallest normal number is a subnormal, if they are kept; 1 + 2^-30 is 1 in nearest, the next number when
 * rounding up. */
static volatile float smallest = FLT_MIN, one = 1.0f, tiny = 0x1p-30f;

static int mode_is_default(void)
{
    volatile float half = smallest * 0.5f, sum = one + tiny;
    return half != 0.0f && sum == 1.0f;
}

static void disturb(void)
{
    assert_int_equal(fesetround(FE_UPWARD), 0);
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | FLUSH_BITS);
#endif
}

static void calm(void)
{
    fesetround(FE_TONEAREST);
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() & ~FLUSH_BITS);
#endif
}

static void enter_and_leave(void **state)
{
    (void)state;
    assert_true(mode_is_default());
    disturb();
    int disturbed = !mode_is_default();
    uint64_t former = sherd__float_mode_enter();
    int inside = mode_is_default();
    sherd__float_mode_leave(former);
    int after = !mode_is_default();
    calm();
    assert_true(disturbed);
    assert_true(inside);
    assert_true(after);
}

typedef struct seen {
    int32_t wrong[2];
} seen;

static void look(void *arg, int64_t chunk, int32_t worker)
{
    (void)chunk;
    if (worker > 0 && !mode_is_default())
        ((seen *)arg)->wrong[worker]++;
}

/* Threads inherit their creator's mode; workers must not. */
static void workers_keep_their_own(void **state)
{
    (void)state;
    sherd__team *team = NULL;
    seen result = {{0, 0}};
    disturb();
    sherd_status status = sherd__team_create(NULL, 2, &team, NULL);
    for (int i = 0; i < 200 && status == SHERD_OK; i++)
        sherd__team_run(team, 50, look, &result);
    calm();
    assert_int_equal(status, SHERD_OK);
    assert_int_equal(result.wrong[1], 0);
    sherd__team_destroy(team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(enter_and_leave), cmocka_unit_test(workers_keep_their_own)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
