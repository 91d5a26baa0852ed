/* SPDX-License-Identifier: MIT
 *
 * Embedding, steering: own rates, a discarded micro-step, a step that ends early, evaluation, a look at master weights.
 *
 *     mlp_steered [RANKS] [STEPS]     ranks are threads; ZeRO stage 1, AdamW, two micro-steps per step, two groups
 */
#include "examples/mlp_sherd.h"

enum { EPOCH = 5 }; /* steps, the last of which has one micro-step */

static int steps;

/* The biases have a rate of their own until step 9; matrices decay more from step 6 on. Rank 0's values count. */
static void steer(sherd_engine *engine, int step)
{
    sherd_error err;

    check(sherd_engine_set_lr(engine, 1, step < 9 ? 0.02 / step : SHERD_AS_CONFIGURED, &err), &err);
    if (step == 6)
        check(sherd_engine_set_weight_decay(engine, 0, 0.5, &err), &err);
}

/* Is this micro-batch to be left out? Some rank thinks so here, and all must hear of it. */
static int is_bad(sherd_engine *engine, sherd_comm *comm, const sherd_micro *micro, int attempt)
{
    double votes = attempt == 1 && micro->step % 3 == 0 && micro->last && sherd_comm_rank(comm) == 0;
    sherd_error err;

    check(sherd_engine_sum(engine, &votes, &err), &err);
    return votes > 0;
}

/* One update, as sherd_micro_begin says: after a discarded micro-step comes the same one again, or the step's first. */
static double train_step(sherd_engine *engine, sherd_comm *comm, int *micro_steps)
{
    const float *weights[MLP_PARAMS];
    float *grads[MLP_PARAMS];
    double sum = 0, loss;
    int last, bad, attempt = 0;
    sherd_error err = {0};
    sherd_micro micro;

    do {
        check(sherd_micro_begin(engine, &micro), &err);
        last = micro.last || micro.step % EPOCH == 0;
        if (last && !micro.last)
            check(sherd_micro_last(engine, &err), &err);
        attempt += micro.last;
        mlp_acquire(engine, weights);
        mlp_acquire_grads(engine, grads);
        loss = mlp_gradient(micro.step, micro.number, weights, grads);
        bad = is_bad(engine, comm, &micro, attempt);
        for (uint32_t p = MLP_PARAMS; p-- > 0 && !bad;)
            check(sherd_grad_ready(engine, p), &err);
        mlp_release(engine);
        check(bad ? sherd_micro_discard(engine, &err) : sherd_engine_step(engine, NULL, &err), &err);
        if (!bad)
            sum = micro.index == 0 ? loss : sum + loss;
    } while (bad || !last);
    *micro_steps = (int)micro.index + 1;
    return sum;
}

/* No gradient call, no gradient: evaluation needs no mode. */
static double evaluate(sherd_engine *engine)
{
    float unused[MLP_PARAMS][MLP_HIDDEN * MLP_IN];
    float *const grads[MLP_PARAMS] = {unused[0], unused[1], unused[2], unused[3]};
    const float *weights[MLP_PARAMS];

    mlp_acquire(engine, weights);
    double loss = mlp_gradient(0, 0, weights, grads); /* a batch that no step trains on */
    mlp_release(engine);
    return loss;
}

static void *rank_main(void *arg)
{
    sherd_comm *comm = arg;
    sherd_config config;
    sherd_device *device;
    sherd_engine *engine;
    sherd_plan *plan;
    sherd_error err;
    float values[4];

    mlp_config(&config);
    config.zero.stage = 1;
    config.gradient_accumulation_steps = 2;
    config.n_groups = 2;
    config.groups[0] = (sherd_group){.lr = 0.01, .weight_decay = 0.01};
    config.groups[1] = (sherd_group){.lr = 0.01};
    plan = mlp_plan(&config, sherd_comm_world(comm), NULL);
    check(sherd_device_create(NULL, &device, &err), &err);
    check(sherd_engine_create(plan, device, comm, &engine, &err), &err);
    mlp_write(engine);
    for (int s = 1; s <= steps; s++) {
        int count;
        steer(engine, s);
        double sum = train_step(engine, comm, &count);
        mlp_say(engine, comm, "step", s, sum, count);
        if (s % 4 == 0)
            mlp_say(engine, comm, "eval", s, evaluate(engine), 1);
    }
    check(sherd_state_read(engine, 0, 0, 30, 4, values, &err),
          &err); /* of w1's fp32 masters, on whatever rank they lie */
    if (sherd_comm_rank(comm) == 0)
        printf("w1[30..34) %a %a %a %a\n", values[0], values[1], values[2], values[3]);
    sherd_engine_destroy(engine);
    sherd_comm_destroy(comm);
    sherd_device_destroy(device);
    sherd_plan_destroy(plan);
    return NULL;
}

int main(int argc, char **argv)
{
    return mlp_run_threads(argc, argv, &steps, rank_main);
}
