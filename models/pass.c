/* SPDX-License-Identifier: MIT
 *
 * The steps every pass is made of: a parameter borrowed from the store around its use, and a failure that sticks.
 */
#include "models/state.h"

static int check(sherd_pass *p, sherd_status status)
{
    if (status != SHERD_OK && p->status == SHERD_OK) {
        p->status = status;
        if (p->err && p->store->error) {
            p->store->error(p->store->ctx, p->err);
        }
    }
    return p->status == SHERD_OK;
}

const void *sherd__pass_acquire(sherd_pass *p, uint32_t param)
{
    const void *data = NULL;
    if (p->status != SHERD_OK || !check(p, p->store->param_acquire(p->store->ctx, param, &data))) {
        return NULL;
    }
    return data;
}

void sherd__pass_release(sherd_pass *p, uint32_t param)
{
    check(p, p->store->param_release(p->store->ctx, param));
}

int sherd__pass_grad(sherd_pass *p, uint32_t param, sherd_grad *out)
{
    return p->status == SHERD_OK && check(p, p->store->grad_acquire(p->store->ctx, param, out));
}

void sherd__pass_ready(sherd_pass *p, uint32_t param)
{
    if (p->status == SHERD_OK) {
        check(p, p->store->grad_ready(p->store->ctx, param));
    }
}

void sherd__pass_matmul(sherd_pass *p, const sherd_matmul *mm)
{
    if (p->status == SHERD_OK) {
        p->status = p->m->ops->matmul(p->m->ops, mm, p->err);
    }
}

void sherd__pass_linear(sherd_pass *p, uint32_t param, const void *x, void *y, int64_t out, int64_t in, const void *d)
{
    const void *w = sherd__pass_acquire(p, param);
    if (w) {
        sherd__pass_matmul(p, &(sherd_matmul){.m = p->rows,
                                              .n = out,
                                              .k = in,
                                              .trans_b = 1,
                                              .out = p->m->options.dtype,
                                              .a = x,
                                              .b = w,
                                              .d = d,
                                              .c = y});
        sherd__pass_release(p, param);
    }
}

void sherd__pass_norm(sherd_pass *p, uint32_t param, const void *x, void *y, float *rstd)
{
    const void *w = sherd__pass_acquire(p, param);
    if (w) {
        sherd_ops *ops = p->m->ops;
        ops->rmsnorm(ops, &(sherd_rmsnorm){.rows = p->rows,
                                           .cols = p->m->shape.hidden,
                                           .eps = (float)p->m->shape.norm_eps,
                                           .x = x,
                                           .w = w,
                                           .y = y,
                                           .rstd = rstd});
        sherd__pass_release(p, param);
    }
}
