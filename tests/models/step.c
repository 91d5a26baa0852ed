/* SPDX-License-Identifier: MIT
 *
 * The decoder on its own: gradients against finite differences, the same bits again, any number of threads,
 * checkpointing, the ledger, and refusals.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/models/words.h"

static double loss_only(rig *r)
{
    double loss = NAN;
    assert_int_equal(sherd_model_loss(r->model, &r->view, r->tokens, r->targets, r->c.batch, r->c.seq, &loss, NULL),
                     SHERD_OK);
    return loss;
}

/* Moves parameter p by h along the sign of its gradient: the loss must change by h·Σ|g|, up to the third order in h. */
static double difference_error(rig *r, uint32_t p, const float *grad)
{
    int64_t n = rig_elems(&r->params[p]);
    double sum = 0, side[2];
    float *before = malloc((size_t)n * sizeof *before);
    memcpy(before, r->weights[p], (size_t)n * sizeof *before);
    for (int64_t i = 0; i < n; i++) {
        sum += fabs(grad[i]);
    }
    double h = 4e-3 / sum; /* so that the loss changes by 4e-3, far above its rounding */
    for (int s = 0; s < 2; s++) {
        for (int64_t i = 0; i < n; i++) {
            double sign = grad[i] > 0 ? 1 : grad[i] < 0 ? -1 : 0;
            rig_set_weight(r, p, i, (float)(before[i] + (s ? -h : h) * sign));
        }
        side[s] = loss_only(r);
    }
    for (int64_t i = 0; i < n; i++) {
        rig_set_weight(r, p, i, before[i]);
    }
    free(before);
    return fabs((side[0] - side[1]) / (2 * h * sum) - 1);
}

static void check_differences(const rig_case *c)
{
    rig r;
    opened(&r, c);
    double loss = step(&r);
    assert_true(fabs(loss - log((double)c->vocab)) < 2.0);
    assert_true(fabs(loss_only(&r) - loss) < 1e-6);
    for (uint32_t p = 0; p < r.n_params; p++) {
        float *grad = rig_grad(&r, p);
        double error = difference_error(&r, p, grad);
        if (!(error < 5e-3)) {
            fail_msg("%s: finite differences disagree by %g", r.params[p].name, error);
        }
        assert_int_equal(sherd_model_memory_store_uses(r.store, p), r.params[p].uses);
        free(grad);
    }
    rig_close(&r);
}

static void gradients_match_finite_differences(void **state)
{
    (void)state;
    check_differences(&SMALL);
}

static void tied_gradients_match_finite_differences(void **state)
{
    (void)state;
    rig_case c = SMALL;
    c.tied = 1;
    c.checkpointing = 1;
    c.threads = 2;
    c.gemm = SHERD_MODEL_GEMM_PORTABLE;
    check_differences(&c);
}

/* All gradients and the loss of one fresh rig. */
static float *all_gradients(const rig_case *c, int64_t *elems)
{
    rig r;
    opened(&r, c);
    int64_t total = 1, at = 1;
    for (uint32_t p = 0; p < r.n_params; p++) {
        total += rig_elems(&r.params[p]);
    }
    float *out = malloc((size_t)total * sizeof *out);
    step(&r);
    out[0] = (float)step(&r); /* twice: whatever the first run left behind must not matter */
    for (uint32_t p = 0; p < r.n_params; p++) {
        float *grad = rig_grad(&r, p);
        memcpy(out + at, grad, (size_t)rig_elems(&r.params[p]) * sizeof *grad);
        at += rig_elems(&r.params[p]);
        free(grad);
    }
    rig_close(&r);
    *elems = total;
    return out;
}

static void assert_same_gradients(const rig_case *a, const rig_case *b)
{
    int64_t n, m;
    float *x = all_gradients(a, &n), *y = all_gradients(b, &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, (size_t)n * sizeof *x);
    free(y);
    free(x);
}

static void bits_are_the_same_again_at_any_thread_count_and_with_checkpointing(void **state)
{
    (void)state;
    for (int type = SHERD_FP32; type <= SHERD_FP16; type++) {
        rig_case a = SMALL, b;
        a.seq = 70;
        a.dtype = a.grad_dtype = (sherd_dtype)type;
        a.gemm = SHERD_MODEL_GEMM_PORTABLE;
        b = a;
        assert_same_gradients(&a, &b);
        b.threads = 2;
        assert_same_gradients(&a, &b);
        b.threads = 3;
        b.checkpointing = 1;
        assert_same_gradients(&a, &b);
        a.gemm = b.gemm = SHERD_MODEL_GEMM_AUTO;
        a.threads = b.threads = 2;
        assert_same_gradients(&a, &b);
    }
}

static double scale_of_1024(void *ctx)
{
    (void)ctx;
    return 1024;
}

/* From the same weights, within the bound of docs/numerics-models.md with fp16's unit roundoff; and the scale really is
 * in the gradient. */
static void fp16_gradients_are_fp32s_times_the_scale(void **state)
{
    (void)state;
    rig_case c = SMALL;
    rig half, full;
    double bound = 1.5 * 2 * 0.41 * 0x1p-11 * sqrt(19.0 * (double)c.layers + 5);
    c.dtype = c.grad_dtype = SHERD_FP16;
    opened(&half, &c);
    c.dtype = c.grad_dtype = SHERD_FP32;
    opened(&full, &c);
    half.view.loss_scale = scale_of_1024;
    for (uint32_t p = 0; p < full.n_params; p++) {
        rig_set_weights(&full, p, 0, rig_elems(&full.params[p]), half.weights[p]);
    }
    double loss = step(&full);
    assert_true(fabs(step(&half) - loss) < bound * loss);
    for (uint32_t p = 0; p < full.n_params; p++) {
        float *a = rig_grad(&half, p), *b = rig_grad(&full, p);
        double largest = 0, worst = 0;
        for (int64_t i = 0; i < rig_elems(&full.params[p]); i++) {
            largest = fmax(largest, fabs(b[i]));
            worst = fmax(worst, fabs((double)a[i] / 1024 - b[i]));
        }
        if (!(largest > 0 && worst < bound * largest)) {
            fail_msg("%s: fp16's gradient is off by %g of the largest, allowed %g", full.params[p].name,
                     worst / largest, bound);
        }
        free(b);
        free(a);
    }
    rig_close(&full);
    rig_close(&half);
}

static void head_in_chunks_matches_head_at_once(void **state)
{
    (void)state;
    /* 2^22 / 45000 / 48 leaves 48 rows a chunk: 2 chunks of 60 rows, against 1 chunk of 30, twice, averaged */
    rig_case c = {.layers = 1,
                  .hidden = 16,
                  .heads = 2,
                  .kv_heads = 1,
                  .intermediate = 16,
                  .vocab = 45000,
                  .tied = 1,
                  .batch = 2,
                  .seq = 30,
                  .threads = 1,
                  .dtype = SHERD_BF16,
                  .grad_dtype = SHERD_BF16};
    rig r;
    opened(&r, &c);
    step(&r);
    float *both = rig_grad(&r, 0);
    double loss[2], largest = 0, worst = 0;
    float *half[2];
    for (int i = 0; i < 2; i++) {
        sherd_model_memory_store_begin(r.store);
        assert_int_equal(
            sherd_model_step(r.model, &r.view, r.tokens + 30 * i, r.targets + 30 * i, 1, 30, &loss[i], NULL), SHERD_OK);
        half[i] = rig_grad(&r, 0);
    }
    for (int64_t i = 0; i < rig_elems(&r.params[0]); i++) {
        largest = fmax(largest, fabs(both[i]));
        worst = fmax(worst, fabs(both[i] - 0.5 * ((double)half[0][i] + half[1][i])));
    }
    assert_true(largest > 0 && worst < 0x1p-7 * largest);
    free(half[0]);
    free(half[1]);
    free(both);
    rig_close(&r);
}

static void ledger_holds_what_was_predicted(void **state)
{
    (void)state;
    int compared = 0;
    for (int bits = 0; bits < 16; bits++) {
        rig_case c = SMALL;
        c.dtype = c.grad_dtype = bits & 1 ? SHERD_BF16 : SHERD_FP32;
        c.checkpointing = (bits >> 1) & 1;
        c.threads = 1 + ((bits >> 2) & 1);
        c.gemm = SHERD_MODEL_GEMM_PORTABLE;
        c.seq = bits & 8 ? 33 : 19;
        rig r;
        sherd_memory live;
        uint64_t activations, workspace;
        sherd_model_options o;
        opened(&r, &c);
        step(&r);
        sherd_device_memory(r.device, &live, NULL);
        sherd_model_options_init(&o, sizeof o);
        o.dtype = o.grad_dtype = c.dtype;
        o.batch = c.batch;
        o.seq = c.seq;
        o.threads = c.threads;
        o.checkpointing = c.checkpointing;
        o.gemm = c.gemm;
        assert_int_equal(sherd_model_memory(&r.shape, &o, &activations, &workspace, NULL), SHERD_OK);
        assert_int_equal(live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_ACTIVATIONS], activations);
        assert_int_equal(live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_WORKSPACE], workspace);
        assert_int_equal(activations, sherd_model_activation_bytes(&r.shape, c.dtype, c.batch, c.seq, c.checkpointing));
        sherd_model_destroy(r.model);
        r.model = NULL;
        sherd_device_memory(r.device, &live, NULL);
        assert_int_equal(live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_ACTIVATIONS], 0);
        assert_int_equal(live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_WORKSPACE], 0);
        rig_close(&r);
        compared++;
    }
    assert_int_equal(compared, 16);
}

static void forward_only_gives_the_same_loss_and_logits(void **state)
{
    (void)state;
    rig r;
    sherd_model *small;
    sherd_model_options o;
    sherd_error err = {0};
    double loss = 0;
    uint64_t some, all;
    float logits[2][90];
    opened(&r, &SMALL);
    sherd_model_options_init(&o, sizeof o);
    o.batch = SMALL.batch;
    o.seq = SMALL.seq;
    o.device = r.device;
    assert_int_equal(sherd_model_memory(&r.shape, &o, &all, NULL, NULL), SHERD_OK);
    o.forward_only = 1;
    assert_int_equal(sherd_model_memory(&r.shape, &o, &some, NULL, NULL), SHERD_OK);
    assert_true(some < all);
    assert_int_equal(sherd_model_create(&r.shape, &o, &small, &err), SHERD_OK);
    assert_int_equal(sherd_model_loss(small, &r.view, r.tokens, r.targets, SMALL.batch, SMALL.seq, &loss, &err),
                     SHERD_OK);
    assert_true(loss == loss_only(&r));
    for (int64_t n = 1; n <= SMALL.seq; n += 6) {
        assert_int_equal(sherd_model_logits(small, &r.view, r.tokens, n, logits[0], &err), SHERD_OK);
        assert_int_equal(sherd_model_logits(r.model, &r.view, r.tokens, n, logits[1], &err), SHERD_OK);
        assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
    }
    assert_int_equal(sherd_model_step(small, &r.view, r.tokens, r.targets, SMALL.batch, SMALL.seq, &loss, &err),
                     SHERD_ESTATE);
    sherd_model_destroy(small);
    rig_close(&r);
}

/* Raises the device's limit until everything fits: every allocation of create and of the first step fails once on the
 * way. */
static void failed_allocations_leave_nothing(void **state)
{
    (void)state;
    int refused = 0;
    for (uint64_t limit = 64 << 10;; limit += 32 << 10) {
        rig r;
        sherd_memory live;
        sherd_error err = {0};
        double loss;
        rig_case c = SMALL;
        c.threads = 2;
        c.memory_limit = limit;
        sherd_status status = rig_open(&r, &c, &err);
        if (status == SHERD_OK) {
            status = rig_step(&r, &loss, &err);
        } else if (r.model == NULL && r.store) {
            sherd_device_memory(r.device, &live, NULL);
            assert_int_equal(live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_ACTIVATIONS], 0);
            assert_int_equal(live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_WORKSPACE], 0);
        }
        assert_true(status == SHERD_OK || (status == SHERD_ENOMEM && err.text[0] != '\0'));
        rig_close(&r);
        if (status == SHERD_OK) {
            break;
        }
        refused++;
    }
    assert_true(refused > 8);
}

static void checkpointing_needs_less(void **state)
{
    (void)state;
    sherd_model_shape shape;
    assert_int_equal(sherd_model_shape_read("30m", &shape, NULL), SHERD_OK);
    uint64_t all = sherd_model_activation_bytes(&shape, SHERD_BF16, 4, 256, 0);
    uint64_t few = sherd_model_activation_bytes(&shape, SHERD_BF16, 4, 256, 1);
    assert_true(few * 4 < all);
}

static void wrong_calls_are_refused(void **state)
{
    (void)state;
    rig r;
    sherd_error err = {0};
    double loss = 1.5;
    opened(&r, &SMALL);
    r.tokens[3] = 90;
    assert_int_equal(rig_step(&r, &loss, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "token 3 is 90"));
    r.tokens[3] = 1;
    r.targets[2] = -1;
    assert_int_equal(rig_step(&r, &loss, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "target 2 is -1"));
    r.targets[2] = 1;
    assert_int_equal(sherd_model_step(r.model, &r.view, r.tokens, r.targets, 3, 19, &loss, &err), SHERD_EINVAL);
    assert_int_equal(sherd_model_step(r.model, &r.view, r.tokens, r.targets, 1, 20, &loss, &err), SHERD_EINVAL);
    assert_true(loss == 1.5);
    rig_close(&r);
    rig_case c = SMALL;
    c.grad_dtype = SHERD_BF16;
    assert_int_not_equal(rig_open(&r, &c, &err), SHERD_OK);
    rig_close(&r);
}

/* A store that fails at the k-th call: the model passes the sentence on, and releases what it acquired. */
typedef struct failing {
    sherd_model_store inner;
    int calls, fail_at, held;
} failing;

static int due(failing *f)
{
    return ++f->calls == f->fail_at;
}

static sherd_status failing_acquire(void *ctx, uint32_t p, const void **out)
{
    failing *f = ctx;
    if (due(f)) {
        return SHERD_EIO;
    }
    f->held++;
    return f->inner.param_acquire(f->inner.ctx, p, out);
}

static sherd_status failing_release(void *ctx, uint32_t p)
{
    failing *f = ctx;
    f->held--;
    return due(f) ? SHERD_EIO : f->inner.param_release(f->inner.ctx, p);
}

static sherd_status failing_grad(void *ctx, uint32_t p, sherd_grad *out)
{
    failing *f = ctx;
    return due(f) ? SHERD_EIO : f->inner.grad_acquire(f->inner.ctx, p, out);
}

static sherd_status failing_ready(void *ctx, uint32_t p)
{
    failing *f = ctx;
    return due(f) ? SHERD_EIO : f->inner.grad_ready(f->inner.ctx, p);
}

static sherd_status failing_error(void *ctx, sherd_error *err)
{
    (void)ctx;
    *err = (sherd_error){.status = SHERD_EIO, .text = "the store failed"};
    return SHERD_EIO;
}

static void every_failure_of_the_store_is_passed_on(void **state)
{
    (void)state;
    rig r;
    opened(&r, &SMALL);
    int k = 1;
    for (;; k++) {
        failing f = {.inner = r.view, .fail_at = k};
        sherd_model_store view = {&f,  failing_acquire, failing_release, failing_grad, failing_ready, failing_error,
                                  NULL};
        sherd_error err = {0};
        double loss;
        sherd_model_memory_store_begin(r.store);
        sherd_status status = sherd_model_step(r.model, &view, r.tokens, r.targets, r.c.batch, r.c.seq, &loss, &err);
        assert_int_equal(f.held, 0);
        if (f.calls < k) {
            assert_int_equal(status, SHERD_OK);
            break;
        }
        assert_int_equal(status, SHERD_EIO);
        assert_string_equal(err.text, "the store failed");
    }
    assert_true(k > 60);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_match_finite_differences),
        cmocka_unit_test(tied_gradients_match_finite_differences),
        cmocka_unit_test(bits_are_the_same_again_at_any_thread_count_and_with_checkpointing),
        cmocka_unit_test(fp16_gradients_are_fp32s_times_the_scale),
        cmocka_unit_test(head_in_chunks_matches_head_at_once),
        cmocka_unit_test(ledger_holds_what_was_predicted),
        cmocka_unit_test(forward_only_gives_the_same_loss_and_logits),
        cmocka_unit_test(failed_allocations_leave_nothing),
        cmocka_unit_test(checkpointing_needs_less),
        cmocka_unit_test(wrong_calls_are_refused),
        cmocka_unit_test(every_failure_of_the_store_is_passed_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
