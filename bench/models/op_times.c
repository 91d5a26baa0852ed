/* SPDX-License-Identifier: MIT */
#include "bench/models/ceiling.h"

static sherd_ops saved, *attached;
static double seconds[OP_KINDS];

#define TIMED(kind, call)                                                                                              \
    do {                                                                                                               \
        double begin = bench_now();                                                                                    \
        call;                                                                                                          \
        seconds[kind] += bench_now() - begin;                                                                          \
    } while (0)

static sherd_status matmul(sherd_ops *ops, const sherd_matmul *args, sherd_error *err)
{
    sherd_status status;
    TIMED(OP_MATMUL, status = saved.matmul(ops, args, err));
    return status;
}

#define WRAP(name, type, kind)                                                                                         \
    static void name(sherd_ops *ops, const type *args)                                                                 \
    {                                                                                                                  \
        TIMED(kind, saved.name(ops, args));                                                                            \
    }
WRAP(rmsnorm, sherd_rmsnorm, OP_NORM)
WRAP(rmsnorm_backward, sherd_rmsnorm, OP_NORM)
WRAP(rope, sherd_rope, OP_ROPE)
WRAP(attention, sherd_attention, OP_ATTENTION)
WRAP(attention_backward, sherd_attention, OP_ATTENTION_BACKWARD)
WRAP(swiglu, sherd_swiglu, OP_SWIGLU)
WRAP(swiglu_backward, sherd_swiglu, OP_SWIGLU)
WRAP(embedding, sherd_embedding, OP_EMBEDDING)
WRAP(embedding_backward, sherd_embedding, OP_EMBEDDING)
WRAP(cross_entropy, sherd_xent, OP_LOSS)

void op_times_attach(sherd_ops *ops)
{
    saved = *ops;
    attached = ops;
    for (int i = 0; i < OP_KINDS; i++) {
        seconds[i] = 0;
    }
    ops->matmul = matmul;
    ops->rmsnorm = rmsnorm;
    ops->rmsnorm_backward = rmsnorm_backward;
    ops->rope = rope;
    ops->attention = attention;
    ops->attention_backward = attention_backward;
    ops->swiglu = swiglu;
    ops->swiglu_backward = swiglu_backward;
    ops->embedding = embedding;
    ops->embedding_backward = embedding_backward;
    ops->cross_entropy = cross_entropy;
}

void op_times_detach(void)
{
    if (attached) {
        *attached = saved;
        attached = NULL;
    }
}

double op_times_seconds(int kind)
{
    return seconds[kind];
}

const char *op_times_name(int kind)
{
    static const char *const names[OP_KINDS] = {"matrix products", "attention", "attention backward", "norms",
                                                "rotary",          "swiglu",    "embedding",          "cross-entropy"};
    return names[kind];
}
