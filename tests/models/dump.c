/* SPDX-License-Identifier: MIT
 *
 * Runs one micro-batch through the plain store and writes everything a reference needs to do the same, for
 * against_torch.py. dump LAYERS HIDDEN HEADS KV_HEADS INTERMEDIATE VOCAB TIED BATCH SEQ CHECKPOINTING DTYPE GEMM
 * THREADS FILE FILE: int64 count of parameters, then for each its elements; fp32 parameters; int32 tokens, targets;
 * double loss; fp32 gradients; double loss by sherd_model_loss; fp32 logits after the first sequence.
 */
#include "tests/models/rig.h"

#include <stdio.h>
#include <stdlib.h>

static void put(FILE *file, const void *data, size_t bytes)
{
    if (fwrite(data, 1, bytes, file) != bytes) {
        perror("dump: write");
        exit(1);
    }
}

static void write_table(FILE *file, rig *r)
{
    int64_t n = r->n_params;
    put(file, &n, sizeof n);
    for (uint32_t i = 0; i < r->n_params; i++) {
        int64_t elems = rig_elems(&r->params[i]);
        put(file, &elems, sizeof elems);
    }
    for (uint32_t i = 0; i < r->n_params; i++) {
        put(file, r->weights[i], (size_t)rig_elems(&r->params[i]) * sizeof(float));
    }
}

static void write_gradients(FILE *file, rig *r)
{
    for (uint32_t i = 0; i < r->n_params; i++) {
        float *grad = rig_grad(r, i);
        put(file, grad, (size_t)rig_elems(&r->params[i]) * sizeof(float));
        free(grad);
    }
}

int main(int argc, char **argv)
{
    if (argc != 15) {
        fprintf(stderr, "dump: 14 arguments expected, see the top of dump.c\n");
        return 2;
    }
    int64_t v[13];
    for (int i = 0; i < 13; i++) {
        v[i] = strtoll(argv[i + 1], NULL, 10);
    }
    rig_case c = {.layers = v[0],
                  .hidden = v[1],
                  .heads = v[2],
                  .kv_heads = v[3],
                  .intermediate = v[4],
                  .vocab = v[5],
                  .tied = (int)v[6],
                  .batch = v[7],
                  .seq = v[8],
                  .checkpointing = (int)v[9],
                  .dtype = (sherd_dtype)v[10],
                  .gemm = (sherd_model_gemm)v[11],
                  .threads = (int)v[12]};
    rig r;
    sherd_error err = {0};
    double loss, again;
    FILE *file = fopen(argv[14], "wb");
    float *logits = calloc((size_t)c.vocab, sizeof *logits);
    if (!file || !logits || rig_open(&r, &c, &err) != SHERD_OK || rig_step(&r, &loss, &err) != SHERD_OK) {
        fprintf(stderr, "dump: %s\n", err.text);
        return 1;
    }
    size_t tokens = (size_t)(c.batch * c.seq);
    write_table(file, &r);
    put(file, r.tokens, tokens * sizeof *r.tokens);
    put(file, r.targets, tokens * sizeof *r.targets);
    put(file, &loss, sizeof loss);
    write_gradients(file, &r);
    if (sherd_model_loss(r.model, &r.view, r.tokens, r.targets, c.batch, c.seq, &again, &err) != SHERD_OK ||
        sherd_model_logits(r.model, &r.view, r.tokens, c.seq, logits, &err) != SHERD_OK) {
        fprintf(stderr, "dump: %s\n", err.text);
        return 1;
    }
    put(file, &again, sizeof again);
    put(file, logits, (size_t)c.vocab * sizeof *logits);
    fclose(file);
    free(logits);
    printf("%s\n", sherd_model_describe(r.model));
    rig_close(&r);
    return 0;
}
