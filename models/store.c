/* SPDX-License-Identifier: MIT
 *
 * The two stores: the engine, passed through, and plain memory.
 */
#include "models/internal.h"

#include <stdlib.h>

static sherd_status engine_acquire(void *ctx, uint32_t param, const void **out)
{
    return sherd_param_acquire(ctx, param, out);
}
static sherd_status engine_release(void *ctx, uint32_t param)
{
    return sherd_param_release(ctx, param);
}
static sherd_status engine_grad(void *ctx, uint32_t param, sherd_grad *out)
{
    return sherd_grad_acquire(ctx, param, out);
}
static sherd_status engine_ready(void *ctx, uint32_t param)
{
    return sherd_grad_ready(ctx, param);
}
static sherd_status engine_error(void *ctx, sherd_error *err)
{
    return sherd_engine_error(ctx, err);
}

static double engine_loss_scale(void *ctx)
{
    return sherd_engine_loss_scale(ctx);
}

sherd_model_store sherd_model_engine_store(sherd_engine *engine)
{
    return (sherd_model_store){engine,       engine_acquire, engine_release,   engine_grad,
                               engine_ready, engine_error,   engine_loss_scale};
}

struct entry {
    void *param, *grad;
    sherd_dtype grad_dtype;
    uint32_t uses;
};

struct sherd_model_memory_store {
    sherd_device *device;
    uint32_t n;
    struct entry *entries;
    sherd_error error;
};

static struct entry *entry(sherd_model_memory_store *store, uint32_t param)
{
    if (param < store->n) {
        return &store->entries[param];
    }
    sherd__model_fail(&store->error, SHERD_EINVAL, "parameter %u: the store has %u", param, store->n);
    return NULL;
}

static sherd_status memory_acquire(void *ctx, uint32_t param, const void **out)
{
    struct entry *e = entry(ctx, param);
    if (e) {
        *out = e->param;
    }
    return e ? SHERD_OK : SHERD_EINVAL;
}

static sherd_status memory_release(void *ctx, uint32_t param)
{
    return entry(ctx, param) ? SHERD_OK : SHERD_EINVAL;
}

static sherd_status memory_grad(void *ctx, uint32_t param, sherd_grad *out)
{
    struct entry *e = entry(ctx, param);
    if (e) {
        *out = (sherd_grad){e->grad, e->uses > 0, e->grad_dtype};
    }
    return e ? SHERD_OK : SHERD_EINVAL;
}

static sherd_status memory_ready(void *ctx, uint32_t param)
{
    struct entry *e = entry(ctx, param);
    if (e) {
        e->uses++;
    }
    return e ? SHERD_OK : SHERD_EINVAL;
}

static sherd_status memory_error(void *ctx, sherd_error *err)
{
    sherd_model_memory_store *store = ctx;
    if (err) {
        *err = store->error;
    }
    return store->error.status;
}

sherd_model_store sherd_model_memory_store_view(sherd_model_memory_store *store)
{
    return (sherd_model_store){.ctx = store,
                               .param_acquire = memory_acquire,
                               .param_release = memory_release,
                               .grad_acquire = memory_grad,
                               .grad_ready = memory_ready,
                               .error = memory_error};
}

static uint64_t elems(const sherd_param *p)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < p->ndim; i++) {
        n *= (uint64_t)p->shape[i];
    }
    return n;
}

static sherd_status fill(sherd_model_memory_store *store, const sherd_param *params, sherd_error *err)
{
    for (uint32_t i = 0; i < store->n; i++) {
        struct entry *e = &store->entries[i];
        uint64_t n = elems(&params[i]);
        e->grad_dtype = params[i].grad_dtype;
        sherd_status status = sherd_device_alloc(store->device, n * sherd_dtype_bytes(params[i].dtype),
                                                 SHERD_CAT_PARAMETERS, &e->param, err);
        if (status == SHERD_OK) {
            status = sherd_device_alloc(store->device, n * sherd_dtype_bytes(e->grad_dtype), SHERD_CAT_GRADIENTS,
                                        &e->grad, err);
        }
        if (status != SHERD_OK) {
            return status;
        }
    }
    return SHERD_OK;
}

sherd_status sherd_model_memory_store_create(const sherd_param *params, uint32_t n_params, sherd_device *device,
                                             sherd_model_memory_store **out, sherd_error *err)
{
    sherd_model_memory_store *store = calloc(1, sizeof *store);
    struct entry *entries = calloc(n_params ? n_params : 1, sizeof *entries);
    if (!store || !entries) {
        free(entries);
        free(store);
        return sherd__model_fail(err, SHERD_ENOMEM, "no memory for a store of %u parameters", n_params);
    }
    *store = (sherd_model_memory_store){.device = device, .n = n_params, .entries = entries};
    sherd_status status = fill(store, params, err);
    if (status != SHERD_OK) {
        sherd_model_memory_store_destroy(store);
        return status;
    }
    *out = store;
    return SHERD_OK;
}

void sherd_model_memory_store_destroy(sherd_model_memory_store *store)
{
    if (!store) {
        return;
    }
    for (uint32_t i = 0; i < store->n; i++) {
        if (store->entries[i].param) {
            sherd_device_free(store->device, store->entries[i].param);
        }
        if (store->entries[i].grad) {
            sherd_device_free(store->device, store->entries[i].grad);
        }
    }
    free(store->entries);
    free(store);
}

void sherd_model_memory_store_begin(sherd_model_memory_store *store)
{
    for (uint32_t i = 0; i < store->n; i++) {
        store->entries[i].uses = 0;
    }
}

void *sherd_model_memory_store_param(sherd_model_memory_store *store, uint32_t param)
{
    return store->entries[param].param;
}
void *sherd_model_memory_store_grad(sherd_model_memory_store *store, uint32_t param)
{
    return store->entries[param].grad;
}

uint32_t sherd_model_memory_store_uses(const sherd_model_memory_store *store, uint32_t param)
{
    return store->entries[param].uses;
}
