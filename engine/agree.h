/* SPDX-License-Identifier: MIT
 *
 * What ranks must have in common, compared.
 */
#ifndef SHERD_ENGINE_AGREE_H
#define SHERD_ENGINE_AGREE_H

#include "engine/engine.h"

/* Of things [begin, end), on this rank. */
typedef uint64_t (*sherd__digest_fn)(void *ctx, uint32_t begin, uint32_t end);

typedef struct sherd__difference {
    uint32_t index;     /* the first thing that is not the same on all ranks */
    int32_t odd, other; /* a rank that differs, and one that it differs from */
    int32_t alone;      /* 1: most ranks agree, and `odd` is not one of them */
} sherd__difference;

/* COLLECTIVE. Among n things, n the same on every rank; out->index is n where all are the same. */
sherd_status sherd__engine_difference(sherd_engine *engine, uint32_t n, sherd__digest_fn digest, void *ctx,
                                      sherd__difference *out, sherd_error *err);
/* COLLECTIVE. EMISMATCH names a rank, and the key of the configuration or the parameter. */
sherd_status sherd__engine_compare_plans(sherd_engine *engine, sherd_error *err);
/* Of engine->spoken; never 0. */
uint64_t sherd__engine_spoken_digest(const sherd_engine *engine);
/* COLLECTIVE. Those digests were not the same: EMISMATCH names what is not, and a rank. */
sherd_status sherd__engine_fail_spoken(sherd_engine *engine, sherd_error *err);
/* COLLECTIVE, the streams idle. sherd.check_replicas: EMISMATCH, and the engine is broken, where working copies differ.
 */
sherd_status sherd__engine_check_replicas(sherd_engine *engine, sherd_error *err);

#endif
