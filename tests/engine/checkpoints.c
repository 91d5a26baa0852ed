/* SPDX-License-Identifier: MIT */
#include "tests/engine/checkpoints.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/engine/case.h"
#include "tests/support/leaves.h"

void checkpoints_folder(char name[CHECKPOINTS_NAME])
{
    snprintf(name, CHECKPOINTS_NAME, "%s/sherd-checkpoints-XXXXXX", case_folder());
    assert_non_null(mkdtemp(name));
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status;
    (void)kind;
    (void)place;
    return remove(path);
}

void checkpoints_remove(const char *name)
{
    assert_int_equal(nftw(name, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

unsigned char *checkpoints_read(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    unsigned char *data;
    long size;

    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    size = ftell(file);
    rewind(file);
    data = malloc((size_t)size + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, (size_t)size, file), (size_t)size);
    fclose(file);
    *bytes = (size_t)size;
    return data;
}

void checkpoints_write(const char *path, const unsigned char *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static void ok(sherd_status status, const sherd_error *err)
{
    if (status != SHERD_OK)
        fail_msg("%s", err->text);
}

void checkpoints_open(checkpoints_tiny *t, const checkpoints_shape *shape)
{
    const sherd_param params[] = {
        {"a", {shape->rows ? shape->rows : 3, 2}, 2, shape->dtype, shape->dtype, 0, 1, 0, NULL},
        {shape->second ? shape->second : "b", {5}, 1, shape->dtype, shape->dtype, 0, 1, 0, NULL},
        {"c", {4}, 1, shape->dtype, shape->dtype, 0, 1, SHERD_PARAM_FROZEN, NULL},
    };
    uint32_t n = shape->n_params ? shape->n_params : 3;
    sherd_device_options options;
    sherd_config config;
    sherd_error err;

    memset(t, 0, sizeof *t);
    sherd_config_init(&config, sizeof config);
    config.train_batch_size = 1;
    config.dtype = shape->dtype;
    config.optimizer.kind = shape->optimizer;
    config.optimizer.lr = 1e-2;
    ok(sherd_config_resolve(&config, 1, &err), &err);
    sherd_device_options_init(&options, sizeof options);
    options.allocator = shape->allocator;
    ok(sherd_device_create(&options, &t->device, &err), &err);
    ok(sherd_comm_create_self(NULL, &t->comm, &err), &err);
    ok(sherd_plan_create(&config, params, n, 1, &t->plan, &err), &err);
    ok(sherd_engine_create(t->plan, t->device, t->comm, &t->engine, &err), &err);
    for (uint32_t p = 0; p < n; p++) {
        float values[64];
        sherd_test_weights(5, p, 64, values);
        ok(sherd_param_write(t->engine, p, values, &err), &err);
    }
}

void checkpoints_close(checkpoints_tiny *t)
{
    sherd_engine_destroy(t->engine);
    sherd_plan_destroy(t->plan);
    sherd_comm_destroy(t->comm);
    sherd_device_destroy(t->device);
}

void checkpoints_step(checkpoints_tiny *t)
{
    sherd_micro micro;
    sherd_error err;

    assert_int_equal(sherd_micro_begin(t->engine, &micro), SHERD_OK);
    for (uint32_t p = 0; p < 2; p++) {
        float values[64];
        sherd_test_leaf(5, micro.step, 0, p, SHERD_FP32, 64, values);
        assert_int_equal(sherd_grad_copy(t->engine, p, values, SHERD_FP32), SHERD_OK);
    }
    ok(sherd_engine_step(t->engine, NULL, &err), &err);
}

void checkpoints_hash(checkpoints_tiny *t, uint8_t out[16])
{
    sherd_error err;
    ok(sherd_engine_hash(t->engine, NULL, out, &err), &err);
}
