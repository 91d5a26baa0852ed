/* SPDX-License-Identifier: MIT
 *
 * Arguments: one table of options with the sub-commands that take each, from which argp's tables are made.
 */
#include <argp.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/units.h"

enum { TRAIN = 1, BENCH = 2, MEMORY = 4, PLAN = 8, INFO = 16, CHECKPOINT = 32, TOKENS = 64 };

static const struct {
    const char *name, *about;
    int bit;
} commands[] = {
    {"train", "Trains a decoder on text.", TRAIN},
    {"bench", "Measures steps on random tokens, one row per batch size.", BENCH},
    {"memory", "Says how many bytes each rank needs at each stage, at once and without allocating them.", MEMORY},
    {"plan", "Prints what the engine would do: buckets, ring, bytes, and the actions of a step.", PLAN},
    {"info", "Says what this build and machine offer.", INFO},
    {"checkpoint", "list, verify or show DIR: what a folder of checkpoints holds; export DIR: its weights.",
     CHECKPOINT},
    {"tokens", "Writes text as a token file, one token per byte.", TOKENS},
};

enum {
    OPT_MODEL = 256, OPT_DATA, OPT_CONFIG, OPT_SET, OPT_STEPS, OPT_SEQ, OPT_SEED, OPT_RANKS, OPT_THREADS, OPT_DEVICE,
    OPT_LOG, OPT_SAMPLE, OPT_PROMPT, OPT_TEMPERATURE, OPT_TRACE, OPT_CHECKPOINT, OPT_BATCH, OPT_JSON, OPT_PARAMS,
    OPT_GPU, OPT_KEYS, OPT_COMM, OPT_SAVE, OPT_SAVE_EVERY, OPT_KEEP, OPT_RESUME, OPT_OUT, OPT_INIT,
    OPT_VAL, OPT_EVAL_EVERY, OPT_EVAL_BATCHES, OPT_RANKS_PER_NODE
};

static const struct {
    int commands;
    struct argp_option option;
} options_table[] = {
    {TRAIN | BENCH | MEMORY | PLAN,
     {"model", OPT_MODEL, "NAME|FILE", 0, "tiny, 10m, 30m, 124m, 350m, 1.3b, 7b, or a config.json with Hugging "
      "Face's keys", 0}},
    {MEMORY, {"params", OPT_PARAMS, "COUNT", 0, "instead of a model: this many parameters, for instance 1.3e9", 0}},
    {TRAIN | TOKENS, {"data", OPT_DATA, "PATH", 0, "a text file, or (train) a token file as llm.c's; a folder whose files "
                      "are read in the order of their names; a pattern of file names; may be repeated", 0}},
    {TRAIN | BENCH | MEMORY | PLAN, {"config", OPT_CONFIG, "FILE", 0, "DeepSpeed's JSON configuration", 0}},
    {TRAIN | BENCH | MEMORY | PLAN, {"set", OPT_SET, "KEY=VALUE", 0, "lays one value over the configuration; may be "
                                     "repeated", 0}},
    {TRAIN | BENCH, {"steps", OPT_STEPS, "N", 0, "updates to make (train: 100, bench: 10)", 0}},
    {TRAIN | BENCH, {"seq", OPT_SEQ, "N", 0, "tokens per sequence (256)", 0}},
    {BENCH, {"batch", OPT_BATCH, "N,N,…", 0, "micro-batches per rank, in sequences; overrides the configuration's "
             "sizes (4)", 0}},
    {TRAIN | BENCH, {"seed", OPT_SEED, "N", 0, "of weights and order (1)", 0}},
    {TRAIN | BENCH | MEMORY | PLAN, {"ranks", OPT_RANKS, "N", 0, "ranks, started here (1); not under mpirun", 0}},
    {TRAIN | BENCH | PLAN, {"ranks-per-node", OPT_RANKS_PER_NODE, "N", 0, "under mpirun: every N ranks count as one node, "
                            "with messages between nodes even on one host (nodes are the hosts); plan says their bytes", 0}},
    {TRAIN | BENCH, {"threads", OPT_THREADS, "N", 0, "threads of each rank (the cores its ranks may use, shared)", 0}},
    {TRAIN | BENCH, {"device", OPT_DEVICE, "host|cuda|check", 0, "where ranks compute (host); check: ranks are threads "
                     "of one process, and every access is checked", 0}},
    {TRAIN | BENCH, {"comm", OPT_COMM, "direct|nccl", 0, "how ranks on GPUs meet: direct: threads of one process, also "
                     "several on one GPU (default); nccl: a process and a GPU for each rank", 0}},
    {TRAIN | BENCH, {"checkpoint-activations", OPT_CHECKPOINT, NULL, 0,
                     "keeps each layer's input only, and computes it again in backward", 0}},
    {TRAIN, {"val", OPT_VAL, "PATH", 0, "text or tokens that are not trained on, as --data; their loss is told at the end", 0}},
    {TRAIN, {"eval-every", OPT_EVAL_EVERY, "N", 0, "and after every N steps", 0}},
    {TRAIN, {"eval-batches", OPT_EVAL_BATCHES, "M", 0, "takes the first M global batches of --val (20)", 0}},
    {TRAIN, {"init", OPT_INIT, "PATH", 0, "first weights with Hugging Face's names for Llama, in fp32, bf16 or fp16, instead of "
             "random ones: a safetensors file, an index of several, or a folder with either", 0}},
    {TRAIN, {"log", OPT_LOG, "FILE", 0, "writes one JSON object per step, over what is there", 0}},
    {TRAIN, {"sample", OPT_SAMPLE, "N", 0, "continues a text by N characters at the end", 0}},
    {TRAIN, {"prompt", OPT_PROMPT, "TEXT", 0, "the text to continue", 0}},
    {TRAIN, {"temperature", OPT_TEMPERATURE, "X", 0, "of the continuation (0.8; 0: the likeliest)", 0}},
    {TRAIN | BENCH, {"trace", OPT_TRACE, "FILE", 0, "writes what rank 0's streams did, as a Chrome trace", 0}},
    {BENCH | MEMORY, {"json", OPT_JSON, NULL, 0, "one JSON object per line", 0}},
    {MEMORY, {"gpu-memory", OPT_GPU, "BYTES", 0, "says which stages fit, for instance 24GB", 0}},
    {TRAIN, {"save", OPT_SAVE, "DIR", 0, "writes checkpoints DIR/step-N: at the end, and when SIGTERM ends the run", 0}},
    {TRAIN, {"save-every", OPT_SAVE_EVERY, "N", 0, "and after every N steps", 0}},
    {TRAIN, {"keep", OPT_KEEP, "K", 0, "removes all but the K newest in DIR (all are kept)", 0}},
    {TRAIN, {"resume", OPT_RESUME, "DIR|auto", 0, "goes on from DIR/step-N, or from the newest in DIR; auto: from the newest "
             "in --save, if there is one. --steps is the total", 0}},
    {CHECKPOINT | TOKENS, {"out", OPT_OUT, "FILE", 0, "where export writes the weights, as safetensors; the token file", 0}},
    {INFO, {"keys", OPT_KEYS, NULL, 0, "lists the keys of the configuration", 0}},
};

enum { OPTIONS = sizeof options_table / sizeof options_table[0] };

const char *cli_commands(size_t index, const char **about)
{
    if (index >= sizeof commands / sizeof commands[0]) {
        return NULL;
    }
    *about = commands[index].about;
    return commands[index].name;
}

static int64_t integer(struct argp_state *state, const char *name, const char *text, int64_t least, int64_t most)
{
    char *end;
    long long value;

    errno = 0;
    value = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < least || value > most) {
        argp_error(state, "--%s %s: not an integer from %lld to %lld", name, text, (long long)least, (long long)most);
    }
    return value;
}

static double real(struct argp_state *state, const char *name, const char *text)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value >= 0) || !isfinite(value)) {
        argp_error(state, "--%s %s: not a number of at least 0", name, text);
    }
    return value;
}

static void add(struct argp_state *state, const char *name, const char *list[], size_t *n, const char *text)
{
    if (*n == CLI_LIST_MAX) {
        argp_error(state, "--%s is given more than %d times", name, CLI_LIST_MAX);
        return;
    }
    list[(*n)++] = text;
}

static void batches(struct argp_state *state, cli_options *o, const char *text)
{
    char copy[512], *rest = copy, *part;

    o->n_batches = 0;
    snprintf(copy, sizeof copy, "%s", text);
    while (strlen(text) < sizeof copy && (part = strsep(&rest, ",")) != NULL && o->n_batches < CLI_LIST_MAX) {
        o->batches[o->n_batches++] = integer(state, "batch", part, 1, 1 << 24);
    }
    if (o->n_batches == 0 || rest != NULL) {
        argp_error(state, "--batch has more than %d sizes", CLI_LIST_MAX);
    }
}

static void parse_bytes(struct argp_state *state, cli_options *o, const char *text)
{
    if (!cli_parse_bytes(text, &o->gpu_memory) || o->gpu_memory == 0) {
        argp_error(state, "--gpu-memory %s: not a number of bytes such as 24GB or 80GiB", text);
    }
}

static void parse_params(struct argp_state *state, cli_options *o, const char *text)
{
    if (!cli_parse_count(text, &o->params) || o->params < 1 || o->params > 1000000000000000) {
        argp_error(state, "--params %s: not a count from 1 to 1e15 such as 1.3e9", text);
    }
}

static void parse_device(struct argp_state *state, cli_options *o, const char *text)
{
    static const char *const names[] = {"host", "check", "cuda"}; /* as cli_device counts */

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(text, names[i]) == 0) {
            o->device = (cli_device)i;
            return;
        }
    }
    argp_error(state, "--device %s: give host, cuda or check", text);
}

static void parse_comm(struct argp_state *state, cli_options *o, const char *text)
{
    if (strcmp(text, "direct") != 0 && strcmp(text, "nccl") != 0) {
        argp_error(state, "--comm %s: give direct or nccl", text);
    }
    o->transport = strcmp(text, "nccl") == 0 ? CLI_NCCL : CLI_DIRECT;
}

static void add_word(struct argp_state *state, cli_options *o, const char *text)
{
    if (!o->takes_words || o->n_words == sizeof o->words / sizeof o->words[0]) {
        argp_error(state, "'%s' is not understood", text);
        return;
    }
    o->words[o->n_words++] = text;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    cli_options *o = state->input;

    switch (key) {
    case OPT_MODEL: o->model = arg; break;
    case OPT_DATA: add(state, "data", o->data, &o->n_data, arg); break;
    case OPT_CONFIG: o->config = arg; break;
    case OPT_SET: add(state, "set", o->sets, &o->n_sets, arg); break;
    case OPT_STEPS: o->steps = integer(state, "steps", arg, 1, INT32_MAX); break;
    case OPT_SEQ: o->seq = integer(state, "seq", arg, 1, 1 << 24); break;
    case OPT_SEED: o->seed = (uint64_t)integer(state, "seed", arg, 0, INT64_MAX); break;
    case OPT_RANKS: o->ranks = (int32_t)integer(state, "ranks", arg, 1, 1 << 20); break;
    case OPT_THREADS: o->threads = (int32_t)integer(state, "threads", arg, 1, 4096); break;
    case OPT_DEVICE: parse_device(state, o, arg); break;
    case OPT_RANKS_PER_NODE: o->ranks_per_node = (int32_t)integer(state, "ranks-per-node", arg, 1, 1 << 20); break;
    case OPT_COMM: parse_comm(state, o, arg); break;
    case OPT_LOG: o->log = arg; break;
    case OPT_SAMPLE: o->sample = integer(state, "sample", arg, 1, 1 << 20); break;
    case OPT_PROMPT: o->prompt = arg; break;
    case OPT_TEMPERATURE: o->temperature = real(state, "temperature", arg); break;
    case OPT_TRACE: o->trace = arg; break;
    case OPT_CHECKPOINT: o->checkpointing = 1; break;
    case OPT_BATCH: batches(state, o, arg); break;
    case OPT_JSON: o->json = 1; break;
    case OPT_PARAMS: parse_params(state, o, arg); break;
    case OPT_GPU: parse_bytes(state, o, arg); break;
    case OPT_KEYS: o->keys = 1; break;
    case OPT_SAVE: o->save = arg; break;
    case OPT_SAVE_EVERY: o->save_every = integer(state, "save-every", arg, 1, INT32_MAX); break;
    case OPT_KEEP: o->keep = integer(state, "keep", arg, 1, INT32_MAX); break;
    case OPT_RESUME: o->resume = arg; break;
    case OPT_OUT: o->out = arg; break;
    case OPT_VAL: add(state, "val", o->val, &o->n_val, arg); break;
    case OPT_EVAL_EVERY: o->eval_every = integer(state, "eval-every", arg, 1, INT32_MAX); break;
    case OPT_EVAL_BATCHES: o->eval_batches = integer(state, "eval-batches", arg, 1, INT32_MAX); break;
    case OPT_INIT: o->init = arg; break;
    case ARGP_KEY_ARG: add_word(state, o, arg); break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static size_t command_index(const char *name)
{
    size_t i = 0;

    while (strcmp(commands[i].name, name) != 0) {
        i++;
    }
    return i;
}

void cli_arguments(const char *name, int argc, char **argv, cli_options *options)
{
    size_t command = command_index(name), n = 0;
    struct argp_option table[OPTIONS + 1] = {{0}};
    struct argp argp = {.options = table, .parser = parse, .doc = commands[command].about};
    char program[64];

    *options = (cli_options){.seq = 256, .seed = 1, .temperature = 0.8, .prompt = "The ",
                             .takes_words = commands[command].bit == CHECKPOINT};
    for (size_t i = 0; i < OPTIONS; i++) {
        if (options_table[i].commands & commands[command].bit) {
            table[n++] = options_table[i].option;
        }
    }
    snprintf(program, sizeof program, "sherd %s", name);
    argv[0] = program;
    argp_err_exit_status = CLI_USAGE;
    argp_parse(&argp, argc, argv, 0, NULL, options);
}
