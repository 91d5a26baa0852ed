/* SPDX-License-Identifier: MIT
 *
 * The matrix products of one training step, run by oneDNN alone, with oneDNN's own threads; and timers around a model's
 * ops.
 */
#ifndef SHERD_BENCH_MODELS_CEILING_H
#define SHERD_BENCH_MODELS_CEILING_H

#include "models/dnnl_api.h"
#include "models/ops.h"

typedef struct ceiling ceiling;
sherd_status ceiling_create(const sherd_model_shape *shape, int64_t rows, sherd_dtype dtype, int threads, ceiling **out,
                            sherd_error *err);
void ceiling_destroy(ceiling *c);
sherd_status ceiling_run(ceiling *c, sherd_error *err); /* every product of forward, dgrad and wgrad once */
double ceiling_flops(const ceiling *c);
const char *ceiling_kernel(const ceiling *c); /* oneDNN's name for the first product's implementation */

enum { OP_MATMUL, OP_ATTENTION, OP_ATTENTION_BACKWARD, OP_NORM, OP_ROPE, OP_SWIGLU, OP_EMBEDDING, OP_LOSS, OP_KINDS };
/* Puts timers around the ops of one model at a time. */
void op_times_attach(sherd_ops *ops);
void op_times_detach(void);
double op_times_seconds(int kind); /* since attach */
const char *op_times_name(int kind);

double bench_now(void);        /* seconds */
void bench_use_cpu_time(void); /* of the calling thread, from now on: for busy machines, with one thread */

#endif
