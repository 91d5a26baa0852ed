/* SPDX-License-Identifier: MIT
 *
 * The same on the decoder: `30m` on two ranks. Recorded begin and end times must show, in at least one of the steps (a
 * loaded machine may starve a thread in others), every reduction but the last bucket's beginning before backward ends.
 * Prints all steps.
 *
 *     test_engine_overlap_model [MODEL] [SEQ]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/device.h"
#include "models/model.h"
#include "tests/engine/worlds.h"

enum { STEPS = 4, MAX_TRACE = 1 << 16 };

static const char *model_name = "30m";
static int64_t seq = 256;

typedef struct outcome {
    int failed, reduces[STEPS], early[STEPS];
    uint32_t buckets;
} outcome;

static outcome outcomes[WORLD_MAX];

static void count(sherd_device *device, uint32_t last_bucket, const int64_t *backward_end, outcome *out)
{
    sherd_trace_record *records = calloc(MAX_TRACE, sizeof *records);
    size_t n = sherd_device_trace(device, records, MAX_TRACE, NULL);

    for (int s = 0; s < STEPS; s++) {
        uint32_t seen = 0; /* the first record of a bucket is its reduction's begin */
        for (uint32_t b = 0; b < last_bucket; b++)
            for (size_t i = 0; i < n; i++)
                if (records[i].step == s + 1 && records[i].bucket == (int32_t)b && !strcmp(records[i].name, "reduce")) {
                    seen++;
                    out->early[s] += records[i].begin_ns < backward_end[s];
                    break;
                }
        out->reduces[s] = (int)seen;
    }
    free(records);
}

static sherd_status train(sherd_engine *engine, sherd_model *model, int64_t *backward_end, sherd_error *err)
{
    sherd_model_store store = sherd_model_engine_store(engine);
    int32_t *tokens = calloc((size_t)seq + 1, sizeof *tokens);
    sherd_status status = SHERD_OK;
    double loss;

    for (int64_t i = 0; i <= seq; i++)
        tokens[i] = (int32_t)(i * 7919 % 251);
    for (int s = 0; status == SHERD_OK && s < STEPS; s++) {
        status = sherd_micro_begin(engine, NULL);
        if (status == SHERD_OK)
            status = sherd_model_step(model, &store, tokens, tokens + 1, 1, seq, &loss, err);
        backward_end[s] = sherd__now_ns();
        if (status == SHERD_OK)
            status = sherd_engine_step(engine, NULL, err);
    }
    free(tokens);
    return status == SHERD_OK ? sherd_engine_wait(engine, err) : status;
}

static sherd_status make_plan(const sherd_model_shape *shape, int32_t world, sherd_plan **plan, sherd_error *err)
{
    uint32_t n = sherd_model_param_count(shape);
    sherd_param *params = calloc(n, sizeof *params);
    char *names = calloc(n, SHERD_MODEL_NAME_MAX);
    sherd_config config;
    sherd_status status;

    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = 1;
    config.zero.stage = 2;
    config.dtype = SHERD_BF16;
    status = sherd_model_params(shape, SHERD_BF16, SHERD_BF16, 0, params, names, err);
    if (status == SHERD_OK)
        status = sherd_plan_create(&config, params, n, world, plan, err);
    free(params);
    free(names);
    return status;
}

static void run_rank(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    outcome *out = &outcomes[rank];
    int64_t backward_end[STEPS] = {0};
    sherd_model_options options;
    sherd_model_shape shape;
    sherd_plan *plan = NULL;
    sherd_engine *engine = NULL;
    sherd_model *model = NULL;
    sherd_error err = {0};
    sherd_status status = sherd_model_shape_read(model_name, &shape, &err);

    (void)ctx;
    sherd_model_options_init(&options, sizeof options);
    options.dtype = options.grad_dtype = SHERD_BF16;
    options.seq = seq;
    options.device = device;
    if (status == SHERD_OK)
        status = make_plan(&shape, sherd_comm_world(comm), &plan, &err);
    if (status == SHERD_OK)
        status = sherd_engine_create(plan, device, comm, &engine, &err);
    if (status == SHERD_OK)
        status = sherd_model_create(&shape, &options, &model, &err);
    if (status == SHERD_OK)
        status = train(engine, model, backward_end, &err);
    if (status == SHERD_OK) {
        out->buckets = sherd_plan_buckets(plan);
        count(device, out->buckets - 1, backward_end, out);
    } else {
        fprintf(stderr, "rank %d: %s\n", rank, err.text);
        out->failed = 1;
    }
    sherd_model_destroy(model);
    sherd_engine_destroy(engine);
    sherd_plan_destroy(plan);
}

int main(int argc, char **argv)
{
    world_options options = {.world = 2, .trace_capacity = MAX_TRACE};
    int shown[2] = {0, 0};

    if (argc > 1)
        model_name = argv[1];
    if (argc > 2)
        seq = atoll(argv[2]);
    if (world_run_threads(&options, run_rank, NULL))
        return 1;
    for (int r = 0; r < 2; r++) {
        if (outcomes[r].failed || outcomes[r].buckets < 2)
            return 1;
        for (int s = 0; s < STEPS; s++) {
            printf("%s, rank %d, step %d: %d of %d reductions (all but the last of %u buckets) began before backward "
                   "ended\n",
                   model_name, r, s + 1, outcomes[r].early[s], outcomes[r].reduces[s], outcomes[r].buckets);
            if (outcomes[r].reduces[s] != (int)outcomes[r].buckets - 1)
                return 1;
            shown[r] |= outcomes[r].early[s] == outcomes[r].reduces[s];
        }
    }
    return !(shown[0] && shown[1]);
}
