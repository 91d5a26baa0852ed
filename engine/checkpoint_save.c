/* SPDX-License-Identifier: MIT
 *
 * Saving. Every rank writes its slice of masters and moments, rank 0 the working copies; then rank 0 writes the
 * manifest, gives the folder its name, and moves `latest`. A fault anywhere leaves a folder "step-N.tmp", which rank 0
 * removes, and all that was there before.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "engine/checkpoint.h"
#include "shard/reshard.h"
#include "store/durable.h"
#include "store/safetensors.h"

#define TENSOR_NAME 320 /* "PARAM/STATE/FIRST" */

typedef struct save {
    sherd_engine *engine;
    sherd__checkpoint_path dir, folder, tmp;
    uint32_t n_states; /* of a parameter, at most */
    uint32_t n_ranges, n_pieces;
    sherd__range_of_param *ranges; /* of this rank's slice */
    uint32_t n_tensors;            /* room for: the larger of both files */
    sherd__tensor *tensors;
    char (*names)[TENSOR_NAME];
    uint32_t *order; /* parameters in model.safetensors: 4-byte types first */
    sherd__manifest_file own, model;
    uint8_t param_hash[SHERD__DIGEST_BYTES], state_hash[SHERD__DIGEST_BYTES];
} save;

static const char *safetensors_type(sherd_dtype dtype)
{
    return dtype == SHERD_FP32 ? "F32" : dtype == SHERD_BF16 ? "BF16" : "F16";
}

static sherd_status allocate(save *s, sherd_error *err)
{
    const sherd_plan *plan = s->engine->plan;
    const sherd_allocator *memory = &s->engine->device->allocator;

    s->n_states = 1 + plan->n_moments;
    s->n_ranges = sherd__reshard_ranges(plan, s->engine->rank, NULL, 0);
    s->n_tensors = s->n_ranges * s->n_states > plan->n_params ? s->n_ranges * s->n_states : plan->n_params;
    s->ranges = sherd__alloc(memory, s->n_ranges, sizeof *s->ranges);
    s->tensors = sherd__alloc(memory, s->n_tensors, sizeof *s->tensors);
    s->names = sherd__alloc(memory, s->n_tensors, sizeof *s->names);
    s->order = sherd__alloc(memory, plan->n_params, sizeof *s->order);
    if (!s->ranges || !s->tensors || !s->names || !s->order)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for the names of a checkpoint's %" PRIu32 " tensors",
                           s->n_tensors);
    sherd__reshard_ranges(plan, s->engine->rank, s->ranges, s->n_ranges);
    return SHERD_OK;
}

static void release(save *s)
{
    const sherd_allocator *memory = &s->engine->device->allocator;

    sherd__free(memory, s->order, s->engine->plan->n_params, sizeof *s->order);
    sherd__free(memory, s->names, s->n_tensors, sizeof *s->names);
    sherd__free(memory, s->tensors, s->n_tensors, sizeof *s->tensors);
    sherd__free(memory, s->ranges, s->n_ranges, sizeof *s->ranges);
}

/* ------------------------------------------------------------------------------------------------------ optimizer file
 */

static void describe_ranges(save *s)
{
    const sherd_plan *plan = s->engine->plan;
    uint32_t n = 0;

    for (uint32_t i = 0; i < s->n_ranges; i++)
        for (uint32_t which = 0; which < sherd__plan_param_states(plan, s->ranges[i].param); which++, n++) {
            snprintf(s->names[n], sizeof s->names[n], "%s/%s/%" PRId64, plan->params[s->ranges[i].param].name,
                     sherd_plan_param_state(plan, s->ranges[i].param, which), s->ranges[i].first);
            s->tensors[n] =
                (sherd__tensor){.name = s->names[n], .dtype = "F32", .shape = {s->ranges[i].elems}, .ndim = 1};
        }
    s->n_pieces = n;
}

/* `elems` values of device memory to the file, as `written`, through the staging block. */
static sherd_status write_values(save *s, sherd__safetensors_writer *writer, sherd__values from, sherd_dtype written,
                                 int64_t elems, sherd_error *err)
{
    const int64_t most = SHERD__STAGE_BYTES / (int64_t)sherd_dtype_bytes(written);
    sherd_status status = SHERD_OK;

    for (int64_t i = 0; status == SHERD_OK && i < elems; i += most) {
        int64_t part = elems - i < most ? elems - i : most;
        status = sherd__checkpoint_lower(s->engine, sherd__values_from(from, i), written, part, err);
        if (status == SHERD_OK)
            status =
                sherd__safetensors_write(writer, s->engine->stage, (uint64_t)part * sherd_dtype_bytes(written), err);
    }
    return status;
}

static sherd_status write_range(save *s, sherd__safetensors_writer *writer, const sherd__range_of_param *range,
                                sherd_error *err)
{
    const sherd__bucket *bucket = &s->engine->plan->buckets[range->bucket];
    int64_t local = range->at - sherd__engine_part_begin(s->engine, bucket), run;
    sherd_status status = SHERD_OK;

    for (uint32_t which = 0; which < sherd__plan_param_states(s->engine->plan, range->param); which++)
        for (int64_t i = 0; status == SHERD_OK && i < range->elems; i += run) {
            sherd__values values = sherd__engine_state(s->engine, range->bucket, which, local + i, &run);
            run = run < range->elems - i ? run : range->elems - i;
            status = write_values(s, writer, values, SHERD_FP32, run, err);
        }
    return status;
}

static sherd_status write_ranges(save *s, sherd__safetensors_writer *writer, sherd_error *err)
{
    sherd_status status = SHERD_OK;

    for (uint32_t i = 0; status == SHERD_OK && i < s->n_ranges; i++) {
        uint32_t bucket = s->ranges[i].bucket;
        if (i == 0 || s->ranges[i - 1].bucket != bucket)
            status = sherd__engine_state_open(s->engine, bucket, err);
        if (status == SHERD_OK)
            status = write_range(s, writer, &s->ranges[i], err);
        if (status == SHERD_OK && (i + 1 == s->n_ranges || s->ranges[i + 1].bucket != bucket))
            status = sherd__engine_state_close(s->engine, bucket, 0, err);
    }
    return status;
}

/* ---------------------------------------------------------------------------------------------------------- model file
 */

/* A tensor must begin at a multiple of its element's size. */
static void describe_model(save *s)
{
    const sherd_plan *plan = s->engine->plan;
    uint32_t n = 0;

    for (int wide = 1; wide >= 0; wide--)
        for (uint32_t p = 0; p < plan->n_params; p++) {
            const sherd__plan_param *param = &plan->params[p];
            if ((param->dtype == SHERD_FP32) != wide)
                continue;
            s->order[n] = p;
            s->tensors[n] =
                (sherd__tensor){.name = param->name, .dtype = safetensors_type(param->dtype), .ndim = param->ndim};
            memcpy(s->tensors[n++].shape, param->shape, sizeof param->shape);
        }
}

static sherd_status write_model(save *s, sherd__safetensors_writer *writer, sherd_error *err)
{
    const sherd_plan *plan = s->engine->plan;
    sherd_status status = SHERD_OK;

    for (uint32_t i = 0; status == SHERD_OK && i < plan->n_params; i++) {
        const sherd__plan_param *param = &plan->params[s->order[i]];
        sherd__values working = sherd__values_of(sherd__at(s->engine->params.local, param->param_offset), param->dtype);
        status = write_values(s, writer, working, param->dtype, param->elems, err);
    }
    return status;
}

typedef sherd_status (*write_fn)(save *s, sherd__safetensors_writer *writer, sherd_error *err);

/* file->name is set. */
static sherd_status write_file(save *s, uint32_t n_tensors, const sherd__pair *metadata, write_fn write,
                               sherd__manifest_file *file, sherd_error *err)
{
    sherd__checkpoint_path path;
    sherd__safetensors_writer *writer = NULL;
    sherd_status status = sherd__checkpoint_print(path, err, "%s/%s", s->tmp, file->name);

    if (status == SHERD_OK)
        status = sherd__safetensors_create(path, s->tensors, n_tensors, metadata, 1, &s->engine->device->allocator,
                                           NULL, &writer, err);
    if (status != SHERD_OK)
        return status;
    status = write(s, writer, err);
    if (status != SHERD_OK) {
        sherd__safetensors_abandon(writer);
        return status;
    }
    return sherd__safetensors_commit(writer, &file->bytes, file->digest, err);
}

static sherd_status write_files(save *s, sherd_error *err)
{
    const sherd__pair ours = {"format", "sherd"}, theirs = {"format", "pt"};
    sherd_status status;

    sherd__checkpoint_optimizer_name(s->engine->rank, s->engine->world, s->own.name);
    describe_ranges(s);
    status = write_file(s, s->n_pieces, &ours, write_ranges, &s->own, err);
    if (status != SHERD_OK || s->engine->rank != 0)
        return status;
    snprintf(s->model.name, sizeof s->model.name, "%s", SHERD__CHECKPOINT_MODEL);
    describe_model(s);
    return write_file(s, s->engine->plan->n_params, &theirs, write_model, &s->model, err);
}

/* ------------------------------------------------------------------------------------------------------------ manifest
 */

static void describe_params(const sherd_plan *plan, sherd__manifest *manifest)
{
    for (uint32_t p = 0; p < plan->n_params; p++) {
        const sherd__plan_param *from = &plan->params[p];
        sherd__manifest_param *to = &manifest->params[p];
        snprintf(to->name, sizeof to->name, "%s", from->name);
        memcpy(to->shape, from->shape, sizeof to->shape);
        to->ndim = from->ndim;
        to->dtype = from->dtype;
        to->group = from->group;
        to->frozen = (from->flags & SHERD_PARAM_FROZEN) != 0;
    }
}

static void describe_notes(const save *s, const sherd_checkpoint *client, sherd__manifest *manifest)
{
    snprintf(manifest->notes[0].key, sizeof manifest->notes[0].key, "client");
    if (client)
        snprintf(manifest->notes[0].value, sizeof manifest->notes[0].value, "%s", client->client);
    snprintf(manifest->notes[1].key, sizeof manifest->notes[1].key, "step_state");
    sherd__checkpoint_state_text(&s->engine->mirror->state, manifest->notes[1].value, sizeof manifest->notes[1].value);
    snprintf(manifest->notes[2].key, sizeof manifest->notes[2].key, SHERD__CHECKPOINT_MOMENTS);
    snprintf(manifest->notes[2].value, sizeof manifest->notes[2].value, "%s",
             sherd_dtype_name(s->engine->plan->moment_dtype));
}

static void describe_run(const save *s, const sherd_checkpoint *client, sherd__manifest *manifest)
{
    const sherd_engine *engine = s->engine;
    const sherd_plan *plan = engine->plan;

    manifest->step = engine->step - 1;
    manifest->updates = engine->last.updates;
    manifest->world = engine->world;
    manifest->stage = plan->config.zero.stage;
    snprintf(manifest->optimizer, sizeof manifest->optimizer, "%s",
             sherd__optim_get(plan->config.optimizer.kind)->name);
    for (uint32_t which = 0; sherd_plan_state(plan, which) && which < SHERD__MANIFEST_STATES_MAX; which++)
        snprintf(manifest->states[manifest->n_states++], sizeof manifest->states[which], "%s",
                 sherd_plan_state(plan, which));
    if (client) {
        manifest->sampler.seed = client->sampler_seed;
        manifest->sampler.position = client->sampler_position;
    }
    manifest->loss_scale.scale = engine->last.loss_scale;
    manifest->loss_scale.good_steps = engine->mirror->state.iter - engine->mirror->state.last_overflow - 1;
    manifest->loss_scale.hysteresis = engine->mirror->state.hysteresis;
    manifest->lr = engine->last.lr;
    memcpy(manifest->param_hash, s->param_hash, sizeof s->param_hash);
    memcpy(manifest->state_hash, s->state_hash, sizeof s->state_hash);
}

/* Rank 0: the other ranks' lines of sizes and digests are in scratch_host. */
static sherd_status write_manifest(save *s, const sherd_checkpoint *client, sherd_error *err)
{
    const sherd_engine *engine = s->engine;
    sherd__manifest manifest;
    sherd_status status;

    sherd__manifest_init(&manifest, &engine->device->allocator);
    status = sherd__manifest_reserve(&manifest, engine->plan->n_params, (uint32_t)engine->world + 1, 3, err);
    if (status != SHERD_OK)
        return status;
    describe_run(s, client, &manifest);
    describe_params(engine->plan, &manifest);
    describe_notes(s, client, &manifest);
    manifest.files[0] = s->model;
    for (int32_t r = 0; r < engine->world; r++) {
        sherd__manifest_file *file = &manifest.files[r + 1];
        const uint8_t *line = engine->scratch_host + (size_t)r * SHERD__SCRATCH_BYTES_PER_RANK;
        sherd__checkpoint_optimizer_name(r, engine->world, file->name);
        memcpy(&file->bytes, line, sizeof file->bytes);
        memcpy(file->digest, line + sizeof file->bytes, sizeof file->digest);
    }
    status = sherd__manifest_write(&manifest, s->tmp, NULL, err);
    sherd__manifest_fini(&manifest);
    return status;
}

static sherd_status tell_digest(save *s, sherd_error *err)
{
    uint8_t line[sizeof s->own.bytes + sizeof s->own.digest];

    memcpy(line, &s->own.bytes, sizeof s->own.bytes);
    memcpy(line + sizeof s->own.bytes, s->own.digest, sizeof s->own.digest);
    return sherd__engine_exchange(s->engine, line, sizeof line, err);
}

static sherd_status finish(save *s, const sherd_checkpoint *client, sherd_error *err)
{
    sherd_status status = write_manifest(s, client, err);

    if (status == SHERD_OK)
        status = sherd__checkpoint_install(s->tmp, s->folder, err);
    return status == SHERD_OK
               ? sherd__latest_write(s->dir, s->engine->step - 1, &s->engine->device->allocator, NULL, err)
               : status;
}

/* -------------------------------------------------------------------------------------------------------------- whole
 */

static sherd_status prepare(save *s, const char *dir, const sherd_checkpoint *client, sherd_error *err)
{
    sherd_status status;

    if (!dir || !dir[0])
        return sherd__fail(err, SHERD_EINVAL, "sherd_engine_save: name the folder of checkpoints");
    if (client && client->size < sizeof *client)
        return sherd__fail(err, SHERD_EINVAL,
                           "sherd_engine_save: the client's record was not made by "
                           "sherd_checkpoint_init");
    if (client && !memchr(client->client, '\0', sizeof client->client))
        return sherd__fail(err, SHERD_EINVAL, "sherd_engine_save: the client's text has no end within %d bytes",
                           SHERD_CHECKPOINT_CLIENT_MAX);
    status = sherd__checkpoint_print(s->dir, err, "%s", dir);
    if (status == SHERD_OK)
        status = sherd__checkpoint_print(s->folder, err, "%s/step-%" PRId64, dir, s->engine->step - 1);
    if (status == SHERD_OK)
        status = sherd__checkpoint_print(s->tmp, err, "%s.tmp", s->folder);
    if (status == SHERD_OK)
        status = allocate(s, err);
    if (status != SHERD_OK || s->engine->rank != 0)
        return status;
    status = sherd__durable_make_folder(s->dir, NULL, err);
    if (status == SHERD_OK)
        status = sherd__checkpoint_remove(s->tmp, err); /* of an interrupted save */
    return status == SHERD_OK ? sherd__durable_make_folder(s->tmp, NULL, err) : status;
}

static sherd_status save_all(save *s, const char *dir, const sherd_checkpoint *client, sherd_error *err)
{
    sherd_error why = {SHERD_OK, -1, ""};
    sherd_status mine = prepare(s, dir, client, &why);
    sherd_status status = sherd__checkpoint_agree(s->engine, mine, &why, err);

    if (status != SHERD_OK)
        return status;
    mine = write_files(s, &why);
    status = sherd__checkpoint_agree(s->engine, mine, &why, err);
    if (status == SHERD_OK)
        status = tell_digest(s, err);
    if (status == SHERD_OK) {
        mine = s->engine->rank == 0 ? finish(s, client, &why) : SHERD_OK;
        status = sherd__checkpoint_agree(s->engine, mine, &why, err);
    }
    if (status != SHERD_OK && s->engine->rank == 0)
        (void)sherd__checkpoint_remove(s->tmp, NULL); /* the first fault is what counts */
    return status;
}

sherd_status sherd_engine_save(sherd_engine *engine, const char *dir, const sherd_checkpoint *client, sherd_error *err)
{
    save *s;
    sherd_status status = sherd__engine_idle(engine, "sherd_engine_save", err);

    if (status != SHERD_OK)
        return status;
    s = sherd__alloc(&engine->device->allocator, 1, sizeof *s);
    sherd_error why = {SHERD_OK, -1, ""};
    if (!s)
        sherd__fail(&why, SHERD_ENOMEM, "no memory to save a checkpoint");
    status = sherd__checkpoint_agree(engine, s ? SHERD_OK : SHERD_ENOMEM, &why, err);
    if (status == SHERD_OK)
        status = sherd_engine_hash(engine, s->param_hash, s->state_hash, err);
    if (status == SHERD_OK) {
        s->engine = engine;
        status = save_all(s, dir, client, err);
        release(s);
    }
    sherd__free(&engine->device->allocator, s, 1, sizeof *s);
    return status;
}
