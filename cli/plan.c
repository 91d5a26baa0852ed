/* SPDX-License-Identifier: MIT
 *
 * sherd plan: the plan as text. sherd info: what this build and machine offer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/launch.h"
#include "cli/results.h"
#include "cli/session.h"
#include "cli/units.h"

/* Of a function that, like sherd_plan_text, says how long its text is. */
static int print_text(const char *text, const char *what)
{
    if (text == NULL) {
        cli_message(-1, "no memory for the %s", what);
        return CLI_FAILED;
    }
    fputs(text, stdout);
    return CLI_OK;
}

static sherd_status make_plan(const cli_options *options, sherd_plan **out, sherd_error *err)
{
    sherd_model_shape shape;
    sherd_config config;
    sherd_param *params = NULL;
    char *names = NULL;
    uint32_t n = 0;
    int32_t world = options->ranks > 0 ? options->ranks : 1;
    sherd_status status = sherd_model_shape_read(options->model, &shape, err);

    if (status == SHERD_OK) {
        status = cli_config(options, &config, err);
    }
    if (status != SHERD_OK) {
        return status;
    }
    if (config.train_batch_size == 0 && config.train_micro_batch_size_per_gpu == 0) {
        config.train_micro_batch_size_per_gpu = 1;
    }
    cli_groups(&config);
    status = sherd_config_resolve(&config, world, err);
    if (status == SHERD_OK) {
        status = cli_model_table(&shape, &config, &params, &names, &n, err);
    }
    if (status == SHERD_OK) {
        status = sherd_plan_create(&config, params, n, world, out, err);
    }
    free(params);
    free(names);
    return status;
}

static int32_t *nodes_of(int32_t world, int32_t ranks_per_node)
{
    int32_t *nodes = malloc((size_t)world * sizeof *nodes);

    for (int32_t r = 0; nodes != NULL && r < world; r++) {
        nodes[r] = r / ranks_per_node;
    }
    return nodes;
}

/* What each node sends in a step, if its ranks are consecutive. */
static int print_wire(const sherd_plan *plan, int32_t ranks_per_node)
{
    int32_t world = sherd_plan_world(plan), *nodes = nodes_of(world, ranks_per_node);
    sherd_status status = nodes == NULL ? SHERD_ENOMEM : SHERD_OK;

    for (int32_t first = 0; status == SHERD_OK && first < world; first += ranks_per_node) {
        uint64_t sent = 0, received = 0, out = 0, in = 0;

        for (int32_t r = first; r < world && r < first + ranks_per_node && status == SHERD_OK; r++) {
            status = sherd_plan_wire_bytes(plan, nodes, r, &out, &in);
            sent += out;
            received += in;
        }
        if (status == SHERD_OK) {
            printf("node %d sends %llu bytes and receives %llu in a step\n", (int)(first / ranks_per_node),
                   (unsigned long long)sent, (unsigned long long)received);
        }
    }
    free(nodes);
    return status == SHERD_OK ? CLI_OK
                              : cli_usage("--ranks-per-node is for plans with --set sherd.transport=mpi");
}

int cli_plan(const cli_options *options)
{
    sherd_plan *plan;
    sherd_error err;
    char *text;
    size_t length;
    int code;

    if (options->model == NULL) {
        return cli_usage("plan needs --model; `sherd plan --help` says more");
    }
    if (make_plan(options, &plan, &err) != SHERD_OK) {
        return cli_failure(-1, &err);
    }
    length = sherd_plan_text(plan, NULL, 0);
    text = malloc(length + 1);
    if (text != NULL) {
        sherd_plan_text(plan, text, length + 1);
    }
    code = print_text(text, "plan's text");
    free(text);
    if (code == CLI_OK && options->ranks_per_node > 0) {
        code = print_wire(plan, options->ranks_per_node);
    }
    sherd_plan_destroy(plan);
    return code;
}

static void print_keys(void)
{
    static const char *const statuses[] = {"honoured", "no effect", "refused"};

    for (size_t i = 0; i < sherd_config_key_count(); i++) {
        sherd_config_key_info key;

        if (sherd_config_key(i, &key) == SHERD_OK) {
            printf("%s  [%s%s%s] %s: %s\n", key.path, key.type, key.default_value[0] != '\0' ? ", default " : "",
                   key.default_value, statuses[key.status], key.note);
        }
    }
}

/* A decoder of the smallest preset tells which matrix products and kernels were chosen. */
static void print_model(void)
{
    sherd_model_shape shape;
    sherd_model_options options;
    sherd_device_options device_options;
    sherd_device *device = NULL;
    sherd_model *model = NULL;
    sherd_error err = {.text = ""};

    sherd_device_options_init(&device_options, sizeof device_options);
    sherd_model_options_init(&options, sizeof options);
    if (sherd_model_shape_read("tiny", &shape, &err) == SHERD_OK &&
        sherd_device_create(&device_options, &device, &err) == SHERD_OK) {
        options.device = device;
        options.seq = 16;
        options.threads = cli_cores();
        options.dtype = options.grad_dtype = SHERD_BF16;
        if (sherd_model_create(&shape, &options, &model, &err) == SHERD_OK) {
            printf("decoder: %s\n", sherd_model_describe(model));
        }
    }
    if (model == NULL) {
        printf("decoder: not available: %s\n", err.text);
    }
    sherd_model_destroy(model);
    sherd_device_destroy(device);
}

int cli_info(const cli_options *options)
{
    size_t length = sherd_info_text(NULL, 0);
    char *text, available[32], gpu_products[640];
    int code;

    if (options->keys) {
        print_keys();
        return CLI_OK;
    }
    text = malloc(length + 1);
    if (text != NULL) {
        sherd_info_text(text, length + 1);
    }
    code = print_text(text, "text");
    free(text);
    print_model();
    sherd_model_cuda_text(gpu_products, sizeof gpu_products);
    printf("decoder on GPUs: products: %s\n", gpu_products);
    printf("cores this process may use: %d\n", (int)cli_cores());
    printf("memory available: %s\n", cli_bytes_text(cli_available_bytes(), available, sizeof available));
    return code;
}
