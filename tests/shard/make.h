/* SPDX-License-Identifier: MIT
 *
 * Parameter tables and plans for the tests of shard/.
 */
#ifndef SHERD_TESTS_SHARD_MAKE_H
#define SHERD_TESTS_SHARD_MAKE_H

#include "shard/plan.h"

#define MAKE_MAX 64

typedef struct make_table {
    sherd_param params[MAKE_MAX];
    char names[MAKE_MAX][16];
    uint32_t n;
} make_table;

/* Adds a 1-D fp32 parameter "p<n>" of `elems`; the caller may amend what is returned. */
static inline sherd_param *make_param(make_table *table, int64_t elems)
{
    uint32_t i = table->n++;
    char *name = table->names[i];
    name[0] = 'p';
    name[1] = (char)('0' + i / 10);
    name[2] = (char)('0' + i % 10);
    name[3] = '\0';
    table->params[i] = (sherd_param){.name = name, .shape = {elems}, .ndim = 1};
    return &table->params[i];
}

/* Resolved by plan_create; bucket 0: the library's own choice, else an exact target. */
static inline sherd_config make_config(int32_t stage, int64_t accumulation, int64_t bucket)
{
    sherd_config config;
    sherd_config_init(&config, sizeof config);
    config.zero.stage = stage;
    config.train_micro_batch_size_per_gpu = 1;
    config.gradient_accumulation_steps = accumulation;
    if (bucket) {
        config.zero.reduce_bucket_size = bucket;
        config.sherd.exact_bucket_size = 1;
    }
    return config;
}

#endif
