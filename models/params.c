/* SPDX-License-Identifier: MIT
 *
 * The decoder's parameter table and its initial values. A value is a function of (seed, name, index) alone: SplitMix64
 * (Steele, Lea and Flood, 2014) turns the counter into two uniform numbers for each pair of elements, Box and Muller's
 * transform those into two normal ones.
 */
#include "models/params.h"
#include "models/pool.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const LAYER_NAMES[SHERD__LAYER_PARAMS] = {
    "input_layernorm",          "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "post_attention_layernorm", "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",
};

uint32_t sherd_model_param_count(const sherd_model_shape *s)
{
    return (uint32_t)(2 + s->layers * SHERD__LAYER_PARAMS + (s->tied ? 0 : 1));
}

static void layer_shape(const sherd_model_shape *s, int which, int64_t *rows, int64_t *cols)
{
    int64_t kv = s->hidden / s->heads * s->kv_heads;
    const int64_t shapes[SHERD__LAYER_PARAMS][2] = {
        {0, s->hidden},
        {s->hidden, s->hidden},
        {kv, s->hidden},
        {kv, s->hidden},
        {s->hidden, s->hidden},
        {0, s->hidden},
        {s->intermediate, s->hidden},
        {s->intermediate, s->hidden},
        {s->hidden, s->intermediate},
    };
    *rows = shapes[which][0];
    *cols = shapes[which][1];
}

/* rows 0: a vector of cols. */
static void describe(sherd_param *p, const char *name, int64_t rows, int64_t cols, uint32_t uses, uint32_t flags)
{
    p->name = name;
    p->ndim = rows ? 2 : 1;
    p->shape[0] = rows ? rows : cols;
    p->shape[1] = rows ? cols : 0;
    p->uses = uses;
    p->group = !rows && (flags & SHERD_MODEL_GROUP_NORMS) ? 1 : 0;
}

sherd_status sherd_model_params(const sherd_model_shape *s, sherd_dtype dtype, sherd_dtype grad_dtype, uint32_t flags,
                                sherd_param *params, char *names, sherd_error *err)
{
    sherd_status status = sherd_model_shape_check(s, err);
    if (status != SHERD_OK) {
        return status;
    }
    uint32_t n = sherd_model_param_count(s);
    memset(params, 0, n * sizeof *params);
    for (uint32_t i = 0; i < n; i++) {
        params[i].dtype = dtype;
        params[i].grad_dtype = grad_dtype;
    }
    char *name = names;
    snprintf(name, SHERD_MODEL_NAME_MAX, "model.embed_tokens.weight");
    describe(&params[SHERD__EMBED], name, s->vocab, s->hidden, s->tied ? 2 : 1, flags);
    for (int64_t layer = 0; layer < s->layers; layer++) {
        for (int which = 0; which < SHERD__LAYER_PARAMS; which++) {
            uint32_t id = sherd__layer_param(layer, which);
            int64_t rows, cols;
            layer_shape(s, which, &rows, &cols);
            name = names + (size_t)id * SHERD_MODEL_NAME_MAX;
            snprintf(name, SHERD_MODEL_NAME_MAX, "model.layers.%lld.%s.weight", (long long)layer, LAYER_NAMES[which]);
            describe(&params[id], name, rows, cols, 1, flags);
            params[id].flags = rows ? SHERD_PARAM_MUON : 0; /* hidden matrices: an optimizer may step them as wholes */
        }
    }
    uint32_t norm = sherd__layer_param(s->layers, 0);
    name = names + (size_t)norm * SHERD_MODEL_NAME_MAX;
    snprintf(name, SHERD_MODEL_NAME_MAX, "model.norm.weight");
    describe(&params[norm], name, 0, s->hidden, 1, flags);
    if (!s->tied) {
        name += SHERD_MODEL_NAME_MAX;
        snprintf(name, SHERD_MODEL_NAME_MAX, "lm_head.weight");
        describe(&params[norm + 1], name, s->vocab, s->hidden, 1, flags);
    }
    return SHERD_OK;
}

static uint64_t mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* FNV-1a, 64 bits. */
static uint64_t name_key(const char *name)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (; *name; name++) {
        h = (h ^ (unsigned char)*name) * 0x100000001B3u;
    }
    return h;
}

static void normal_pair(uint64_t key, uint64_t pair, double out[2])
{
    uint64_t base = key + pair * 0xD1342543DE82EF95u;
    double u = ((double)(mix(base) >> 11) + 1.0) * 0x1p-53;
    double angle = 6.283185307179586 * ((double)(mix(base ^ 0xA5A5A5A5A5A5A5A5u) >> 11) * 0x1p-53);
    double radius = sqrt(-2.0 * log(u));
    out[0] = radius * cos(angle);
    out[1] = radius * sin(angle);
}

void sherd_model_init_values(const sherd_model_shape *s, const sherd_param *param, uint64_t seed, int64_t begin,
                             int64_t n, float *out)
{
    if (param->ndim == 1) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = 1.0f;
        }
        return;
    }
    uint64_t key = mix(seed ^ mix(name_key(param->name)));
    double pair[2];
    for (int64_t i = 0; i < n; i++) {
        int64_t at = begin + i;
        if (i == 0 || at % 2 == 0) {
            normal_pair(key, (uint64_t)at / 2, pair);
        }
        out[i] = (float)(pair[at % 2] * s->init_std);
    }
}

#define INIT_RUN ((int64_t)1 << 16) /* elements of one task */

typedef struct init_job {
    const sherd_model_shape *shape;
    const sherd_param *param;
    uint64_t seed;
    int64_t elems;
    float *out;
} init_job;

static void init_task(void *ctx, int64_t task, int worker)
{
    const init_job *j = ctx;
    int64_t begin = task * INIT_RUN, n = sherd__model_min(INIT_RUN, j->elems - begin);
    (void)worker;
    sherd_model_init_values(j->shape, j->param, j->seed, begin, n, j->out + begin);
}

sherd_status sherd_model_init_param(const sherd_model_shape *shape, const sherd_param *param, uint64_t seed,
                                    int32_t threads, float *out, sherd_error *err)
{
    init_job job = {shape, param, seed, 1, out};
    sherd_pool *pool = NULL;
    for (uint32_t i = 0; i < param->ndim; i++) {
        job.elems *= param->shape[i];
    }
    int64_t tasks = sherd__model_ceil(job.elems, INIT_RUN), wanted = threads < 1 ? 1 : threads;
    sherd_status status = sherd__pool_create((int)sherd__model_max(1, sherd__model_min(wanted, tasks)), &pool, err);
    if (status == SHERD_OK) {
        sherd__pool_run(pool, tasks, init_task, &job);
    }
    sherd__pool_destroy(pool);
    return status;
}
