/* SPDX-License-Identifier: MIT
 *
 * Training steps of llm.c's CPU trainer on random tokens, for bench/peers/whole_steps. Its train_gpt2.c is not part of
 * this project: it is included from where the measurer has it (-I), without its main, and only its own functions
 * compute. The weights are random, since no checkpoint is needed to time a step.
 *
 *   llmc_steps LAYERS CHANNELS HEADS VOCABULARY BATCH TOKENS STEPS
 *
 * Prints one JSON object: parameters, and the seconds of each step after one that is not counted.
 */
#define TESTING
#include "train_gpt2.c"

#include <time.h>

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static unsigned long long state = 1;

static double uniform(void)
{
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (double)(state >> 33) / 2147483648.0;
}

static void fill_model(GPT2 *model, size_t layers, size_t channels, size_t heads, size_t vocabulary, size_t tokens)
{
    memset(model, 0, sizeof *model);
    model->config = (GPT2Config){.max_seq_len = (int)tokens,
                                 .vocab_size = (int)vocabulary,
                                 .padded_vocab_size = (int)vocabulary,
                                 .num_layers = (int)layers,
                                 .num_heads = (int)heads,
                                 .channels = (int)channels};
    fill_in_parameter_sizes(model->param_sizes, model->config);
    for (size_t i = 0; i < NUM_PARAMETER_TENSORS; i++)
        model->num_parameters += model->param_sizes[i];
    model->params_memory = malloc_and_point_parameters(&model->params, model->param_sizes);
    for (size_t i = 0; i < model->num_parameters; i++)
        model->params_memory[i] = (float)(0.04 * (uniform() - 0.5));
    model->mean_loss = -1.0f;
}

int main(int argc, char **argv)
{
    if (argc != 8) {
        fprintf(stderr, "usage: llmc_steps LAYERS CHANNELS HEADS VOCABULARY BATCH TOKENS STEPS\n");
        return 2;
    }
    size_t n[7];
    for (int i = 0; i < 7; i++)
        n[i] = strtoull(argv[i + 1], NULL, 10);
    size_t vocabulary = n[3], batch = n[4], tokens = n[5], steps = n[6], count = batch * tokens;
    int *ids = malloc(2 * count * sizeof *ids);
    GPT2 model;
    int said = dup(1);
    if (!ids || !freopen("/dev/null", "w", stdout)) /* it prints sizes */
        return 1;
    fill_model(&model, n[0], n[1], n[2], vocabulary, tokens);
    dprintf(said, "{\"parameters\": %zu, \"step_s\": [", model.num_parameters);
    for (size_t step = 0; step <= steps; step++) {
        for (size_t i = 0; i < 2 * count; i++)
            ids[i] = (int)(uniform() * (double)vocabulary);
        double begin = seconds();
        gpt2_forward(&model, ids, ids + count, batch, tokens);
        gpt2_zero_grad(&model);
        gpt2_backward(&model);
        gpt2_update(&model, 1e-4f, 0.9f, 0.999f, 1e-8f, 0.0f, (int)step + 1);
        if (step > 0)
            dprintf(said, "%s%.6f", step > 1 ? ", " : "", seconds() - begin);
    }
    dprintf(said, "]}\n");
    gpt2_free(&model);
    free(ids);
    return 0;
}
