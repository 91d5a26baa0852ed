/* SPDX-License-Identifier: MIT
 *
 * Loading. First everything is proved: the manifest, each file's size and digest (the ranks share them out), the table
 * of parameters, and that the files of all old ranks together hold every element once. Only then is the engine changed:
 * each rank reads the ranges of its own part, and the working copies are the narrowing of the masters, gathered as
 * after an update. At the end the engine's digest must be the manifest's.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/checkpoint.h"
#include "shard/reshard.h"
#include "store/safetensors.h"

typedef struct load {
    sherd_engine *engine;
    sherd__checkpoint_path folder;
    sherd__manifest manifest;
    uint32_t n_states; /* names of them */
    int32_t old_world;
    sherd_safetensors **file; /* [old_world + 1]; the last is the model */
    size_t n_pieces;
    sherd__piece *pieces;
    uint32_t n_ranges;
    sherd__range_of_param *ranges; /* of this rank's part */
    uint32_t *by_name;             /* parameters, sorted by name */
} load;

/* ------------------------------------------------------------------------------------------------------------- tables
 */

static sherd_status differs(const char *folder, sherd_error *err, uint32_t index, const char *name, const char *what)
{
    return sherd__fail(err, SHERD_EINVAL,
                       "'%.200s': parameter %" PRIu32
                       " ('%.100s') %s; use the model and types the checkpoint was made with",
                       folder, index, name, what);
}

static sherd_status compare_param(const load *l, uint32_t p, sherd_error *err)
{
    const sherd__plan_param *here = &l->engine->plan->params[p];
    const sherd__manifest_param *there = &l->manifest.params[p];
    char what[160];

    if (strcmp(here->name, there->name) != 0) {
        snprintf(what, sizeof what, "is '%.100s' in the checkpoint", there->name);
        return differs(l->folder, err, p, here->name, what);
    }
    if (here->ndim != there->ndim)
        return differs(l->folder, err, p, here->name, "has another number of dimensions in the checkpoint");
    for (uint32_t d = 0; d < here->ndim; d++)
        if (here->shape[d] != there->shape[d]) {
            snprintf(what, sizeof what, "has %" PRId64 " in dimension %" PRIu32 ", %" PRId64 " in the checkpoint",
                     here->shape[d], d, there->shape[d]);
            return differs(l->folder, err, p, here->name, what);
        }
    if (here->dtype != there->dtype) {
        snprintf(what, sizeof what, "is %s, %s in the checkpoint", sherd_dtype_name(here->dtype),
                 sherd_dtype_name(there->dtype));
        return differs(l->folder, err, p, here->name, what);
    }
    if (((here->flags & SHERD_PARAM_FROZEN) != 0) != there->frozen)
        return differs(l->folder, err, p, here->name,
                       there->frozen ? "is frozen in the checkpoint only" : "is frozen here only");
    return SHERD_OK;
}

static sherd_status compare_tables(const load *l, sherd_error *err)
{
    const sherd_plan *plan = l->engine->plan;
    const char *optimizer = sherd__optim_get(plan->config.optimizer.kind)->name;
    uint32_t both = plan->n_params < l->manifest.n_params ? plan->n_params : l->manifest.n_params;
    sherd_status status = SHERD_OK;

    if (strcmp(l->manifest.optimizer, optimizer) != 0 || l->manifest.n_states != l->n_states)
        return sherd__fail(err, SHERD_EINVAL,
                           "'%.200s' was made with optimizer %.30s (%" PRIu32
                           " states), the configuration says %s (%" PRIu32 "); use the same",
                           l->folder, l->manifest.optimizer, l->manifest.n_states, optimizer, l->n_states);
    for (uint32_t p = 0; status == SHERD_OK && p < both; p++)
        status = compare_param(l, p, err);
    if (status == SHERD_OK && plan->n_params != l->manifest.n_params)
        return sherd__fail(err, SHERD_EINVAL,
                           "'%.200s' has %" PRIu32 " parameters, the model %" PRIu32
                           "; the first that only one has is '%s'",
                           l->folder, l->manifest.n_params, plan->n_params,
                           both < plan->n_params ? plan->params[both].name : l->manifest.params[both].name);
    return status;
}

static const char *find_note(const load *l, const char *key)
{
    for (uint32_t i = 0; i < l->manifest.n_notes; i++)
        if (strcmp(l->manifest.notes[i].key, key) == 0)
            return l->manifest.notes[i].value;
    return "";
}

static sherd_status check_state(const load *l, sherd_error *err)
{
    sherd__step_state state;

    sherd__step_state_init(&state);
    if (!sherd__checkpoint_state_of_text(find_note(l, "step_state"), &state) ||
        state.updates != (uint64_t)l->manifest.updates)
        return sherd__fail(
            err, SHERD_EINVAL,
            "'%.300s': the manifest's step_state is missing or of a later version; use the version of Sherd "
            "that wrote it",
            l->folder);
    return SHERD_OK;
}

/* All files that there must be, by name, and no others. */
static sherd_status check_files(const load *l, sherd_error *err)
{
    char want[64] = SHERD__CHECKPOINT_MODEL;

    for (int32_t r = -1; r < l->manifest.world; r++) {
        int found = 0;
        if (r >= 0)
            sherd__checkpoint_optimizer_name(r, l->manifest.world, want);
        for (uint32_t i = 0; i < l->manifest.n_files && !found; i++)
            found = strcmp(l->manifest.files[i].name, want) == 0;
        if (!found)
            return sherd__fail(err, SHERD_EINVAL, "'%.300s': the manifest does not name %s; use another checkpoint",
                               l->folder, want);
    }
    return SHERD_OK;
}

/* -------------------------------------------------------------------------------------------------------------- proof
 */

/* This rank's share of the files, read to their end. */
static sherd_status verify_share(const load *l, sherd_error *err)
{
    sherd_status status = SHERD_OK;
    uint32_t world = (uint32_t)l->engine->world;

    for (uint32_t i = (uint32_t)l->engine->rank; status == SHERD_OK && i < l->manifest.n_files; i += world)
        status = sherd__manifest_verify(&l->manifest, l->folder, l->manifest.files[i].name, NULL, err);
    return status;
}

static sherd_status open_manifest(load *l, const char *dir, sherd_error *err)
{
    sherd_status status;

    if (!dir || !dir[0])
        return sherd__fail(err, SHERD_EINVAL, "sherd_engine_load: name the checkpoint's folder");
    status = sherd__checkpoint_open(dir, l->folder, &l->manifest, err);
    if (status == SHERD_OK)
        status = compare_tables(l, err);
    if (status == SHERD_OK)
        status = check_state(l, err);
    return status == SHERD_OK ? check_files(l, err) : status;
}

/* Rank 0's step and digest, as every rank must have found them. */
static sherd_status same_everywhere(load *l, sherd_error *why, sherd_error *err)
{
    uint8_t line[8 + SHERD__DIGEST_BYTES];
    sherd_status status, mine = SHERD_OK;

    memcpy(line, &l->manifest.step, 8);
    memcpy(line + 8, l->manifest.state_hash, SHERD__DIGEST_BYTES);
    status = sherd__engine_exchange(l->engine, line, sizeof line, err);
    if (status != SHERD_OK)
        return status;
    if (memcmp(line, l->engine->scratch_host, sizeof line) != 0)
        mine = sherd__fail(why, SHERD_EIO,
                           "it finds another checkpoint (step %" PRId64
                           ") than rank 0 in '%.250s'; all ranks must see the same "
                           "folder",
                           l->manifest.step, l->folder);
    return sherd__checkpoint_agree(l->engine, mine, why, err);
}

/* ------------------------------------------------------------------------------------------------------------- pieces
 */

static int compare_names(const void *left, const void *right, void *ctx)
{
    const sherd_plan *plan = ctx;
    const uint32_t *a = left, *b = right;
    return strcmp(plan->params[*a].name, plan->params[*b].name);
}

/* Parameter of `bytes` characters of a name; n_params: none. */
static uint32_t param_of_name(const load *l, const char *name, size_t bytes)
{
    const sherd_plan *plan = l->engine->plan;
    uint32_t low = 0, high = plan->n_params;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2, id = l->by_name[middle];
        int order = strncmp(name, plan->params[id].name, bytes);
        if (order == 0 && plan->params[id].name[bytes] == '\0')
            return id;
        if (order > 0)
            low = middle + 1;
        else
            high = middle;
    }
    return plan->n_params;
}

/* "PARAM/STATE/FIRST" */
static int parse_piece(const load *l, const sherd_tensor_info *info, sherd__piece *out)
{
    const char *last = strrchr(info->name, '/'), *state = last;
    uint32_t states;
    char *end;

    if (!last || last == info->name || last[1] < '0' || last[1] > '9')
        return 0;
    while (--state > info->name && *state != '/')
        ;
    out->param = param_of_name(l, info->name, (size_t)(state - info->name));
    if (out->param == l->engine->plan->n_params || info->kind != SHERD_FP32 || info->ndim != 1)
        return 0;
    states = sherd__plan_param_states(l->engine->plan, out->param);
    out->first = strtoll(last + 1, &end, 10);
    out->elems = info->elems;
    for (out->which = 0; out->which < states; out->which++) {
        const char *name = sherd_plan_param_state(l->engine->plan, out->param, out->which);
        if (strlen(name) == (size_t)(last - state - 1) && strncmp(name, state + 1, strlen(name)) == 0)
            break;
    }
    return *end == '\0' && out->which < states;
}

static sherd_status list_file(load *l, int32_t file, sherd_error *err)
{
    size_t n = sherd_safetensors_count(l->file[file]);

    for (size_t i = 0; i < n; i++) {
        sherd_tensor_info info;
        sherd__piece *piece = &l->pieces[l->n_pieces];
        sherd_status status = sherd_safetensors_info(l->file[file], i, &info);
        if (status != SHERD_OK)
            return sherd__fail(err, status, "'%.300s': a tensor of rank %" PRId32 " is missing", l->folder, file);
        *piece = (sherd__piece){.file = (uint32_t)file, .tensor = (uint32_t)i};
        if (!parse_piece(l, &info, piece))
            return sherd__fail(err, SHERD_EINVAL,
                               "'%.200s': rank %" PRId32
                               "'s tensor '%.100s' is none of the model's states; use another "
                               "checkpoint",
                               l->folder, file, info.name);
        l->n_pieces++;
    }
    return SHERD_OK;
}

static sherd_status open_files(load *l, size_t *tensors, sherd_error *err)
{
    const sherd_allocator *memory = &l->engine->device->allocator;
    sherd_status status = SHERD_OK;
    sherd__checkpoint_path path;
    char name[64];

    l->old_world = l->manifest.world;
    l->file = sherd__alloc(memory, (size_t)l->old_world + 1, sizeof *l->file);
    if (!l->file) {
        l->old_world = 0;
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a checkpoint of %" PRId32 " ranks", l->manifest.world);
    }
    for (int32_t r = 0; status == SHERD_OK && r <= l->old_world; r++) {
        sherd__checkpoint_optimizer_name(r, l->old_world, name);
        status =
            sherd__checkpoint_print(path, err, "%s/%s", l->folder, r < l->old_world ? name : SHERD__CHECKPOINT_MODEL);
        if (status == SHERD_OK)
            status = sherd__safetensors_open(path, memory, NULL, &l->file[r], err);
        if (status == SHERD_OK && r < l->old_world)
            *tensors += sherd_safetensors_count(l->file[r]);
    }
    return status;
}

/* Where everything lies, and that it is all there. */
static sherd_status make_pieces(load *l, sherd_error *err)
{
    const sherd_plan *plan = l->engine->plan;
    const sherd_allocator *memory = &l->engine->device->allocator;
    int32_t part = plan->whole_state ? -1 : l->engine->rank;
    size_t tensors = 0;
    sherd_status status = open_files(l, &tensors, err);

    if (status != SHERD_OK)
        return status;
    l->n_ranges = sherd__reshard_ranges(plan, part, NULL, 0);
    l->ranges = sherd__alloc(memory, l->n_ranges, sizeof *l->ranges);
    l->by_name = sherd__alloc(memory, plan->n_params, sizeof *l->by_name);
    l->pieces = sherd__alloc(memory, tensors, sizeof *l->pieces);
    if (!l->ranges || !l->by_name || !l->pieces)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for the tables of a checkpoint with %zu tensors", tensors);
    sherd__reshard_ranges(plan, part, l->ranges, l->n_ranges);
    for (uint32_t p = 0; p < plan->n_params; p++)
        l->by_name[p] = p;
    qsort_r(l->by_name, plan->n_params, sizeof *l->by_name, compare_names, (void *)(uintptr_t)plan);
    for (int32_t r = 0; status == SHERD_OK && r < l->old_world; r++)
        status = list_file(l, r, err);
    return status == SHERD_OK ? sherd__reshard_prepare(plan, l->pieces, l->n_pieces, err) : status;
}

/* ----------------------------------------------------------------------------------------------------------- contents
 */

static sherd_status load_state(load *l, const sherd__range_of_param *range, uint32_t which, int64_t first,
                               sherd__values to, int64_t elems, sherd_error *err)
{
    sherd_status status = SHERD_OK;
    int64_t n;

    for (int64_t i = 0; status == SHERD_OK && i < elems; i += n) {
        const sherd__piece *piece = sherd__reshard_find(l->pieces, l->n_pieces, range->param, which, first + i);
        int64_t skip = first + i - piece->first; /* there is one: sherd__reshard_prepare has proved it */
        n = piece->elems - skip < elems - i ? piece->elems - skip : elems - i;
        if (n > SHERD__STAGE_BYTES / (int64_t)sizeof(float))
            n = SHERD__STAGE_BYTES / (int64_t)sizeof(float);
        status = sherd_safetensors_read(l->file[piece->file], piece->tensor, skip, n, l->engine->stage, err);
        if (status == SHERD_OK)
            status = sherd__checkpoint_raise(l->engine, sherd__values_from(to, i), SHERD_FP32, n, err);
    }
    return status;
}

/* Where the working copy is the master, or half of it, it is there already. */
static sherd_status narrow(load *l, const sherd__range_of_param *range, int64_t first, const void *master,
                           int64_t elems, sherd_error *err)
{
    const sherd_engine *engine = l->engine;
    const sherd__plan_param *param = &engine->plan->params[range->param];
    void *working =
        sherd__at(engine->params.local, param->param_offset + (uint64_t)first * sherd_dtype_bytes(param->dtype));
    sherd_status status = SHERD_OK;

    if (working != master)
        status = engine->device->ops->convert(engine->stream[SHERD__COMM],
                                              sherd__engine_tag(engine, "checkpoint", (int32_t)range->bucket), working,
                                              param->dtype, master, SHERD_FP32, elems, 0);
    return sherd__engine_check(l->engine, status, err);
}

static sherd_status load_range(load *l, const sherd__range_of_param *range, sherd_error *err)
{
    const sherd__bucket *bucket = &l->engine->plan->buckets[range->bucket];
    int64_t local = range->at - sherd__engine_part_begin(l->engine, bucket), run;
    sherd_status status = SHERD_OK;

    for (uint32_t which = 0; which < sherd__plan_param_states(l->engine->plan, range->param); which++)
        for (int64_t i = 0; status == SHERD_OK && i < range->elems; i += run) {
            sherd__values to = sherd__engine_state(l->engine, range->bucket, which, local + i, &run);
            run = run < range->elems - i ? run : range->elems - i;
            status = load_state(l, range, which, range->first + i, to, run, err);
            if (status == SHERD_OK && which == 0)
                status = narrow(l, range, range->first + i, to.at, run, err);
        }
    return status;
}

static sherd_status load_ranges(load *l, sherd_error *err)
{
    sherd_status status = SHERD_OK;

    for (uint32_t i = 0; status == SHERD_OK && i < l->n_ranges; i++) {
        uint32_t bucket = l->ranges[i].bucket;
        if (i == 0 || l->ranges[i - 1].bucket != bucket)
            status = sherd__engine_state_open(l->engine, bucket, err);
        if (status == SHERD_OK)
            status = load_range(l, &l->ranges[i], err);
        if (status == SHERD_OK && (i + 1 == l->n_ranges || l->ranges[i + 1].bucket != bucket))
            status = sherd__engine_state_close(l->engine, bucket, 1, err);
    }
    return status;
}

/* Frozen parameters are in the model's file only, and whole on every rank. */
static sherd_status load_frozen(load *l, sherd_error *err)
{
    const sherd_plan *plan = l->engine->plan;
    const sherd_safetensors *model = l->file[l->old_world];
    sherd_status status = SHERD_OK;

    for (uint32_t p = 0; status == SHERD_OK && p < plan->n_params; p++) {
        const sherd__plan_param *param = &plan->params[p];
        int64_t most = SHERD__STAGE_BYTES / (int64_t)sherd_dtype_bytes(param->dtype), n;
        int64_t tensor = param->bucket < 0 ? sherd_safetensors_find(model, param->name) : -1;
        sherd_tensor_info info;
        if (param->bucket >= 0)
            continue;
        if (tensor < 0 || sherd_safetensors_info(model, (size_t)tensor, &info) != SHERD_OK ||
            info.kind != (int32_t)param->dtype || info.elems != param->elems)
            return differs(l->folder, err, p, param->name, "is missing from " SHERD__CHECKPOINT_MODEL);
        for (int64_t i = 0; status == SHERD_OK && i < param->elems; i += n) {
            uint64_t size = sherd_dtype_bytes(param->dtype);
            n = param->elems - i < most ? param->elems - i : most;
            status = sherd_safetensors_read(model, (size_t)tensor, i, n, l->engine->stage, err);
            if (status == SHERD_OK)
                status = sherd__checkpoint_raise(
                    l->engine,
                    sherd__values_of(sherd__at(l->engine->params.local, param->param_offset + (uint64_t)i * size),
                                     param->dtype),
                    param->dtype, n, err);
        }
    }
    return status;
}

/* COLLECTIVE. As after an update. */
static sherd_status gather(load *l, sherd_error *err)
{
    sherd_engine *engine = l->engine;
    const sherd__comm_ops *ops = engine->comm->ops;
    sherd__stream *stream = engine->stream[SHERD__COMM];
    sherd__tag tag = sherd__engine_tag(engine, "checkpoint", -1);
    sherd_status status = SHERD_OK;

    for (uint32_t b = 0; status == SHERD_OK && !engine->plan->whole_state && b < engine->plan->n_buckets; b++) {
        const sherd__bucket *bucket = &engine->plan->buckets[b];
        status =
            ops->all_gather(engine->comm, stream, tag, &engine->params, bucket->param_offset,
                            (uint64_t)bucket->slice_elems * sherd_dtype_bytes(bucket->dtype), &engine->last_ticket);
    }
    for (uint32_t p = 0; status == SHERD_OK && engine->borrows && p < engine->plan->n_params; p++)
        status = sherd__engine_lend(engine, p, 0, engine->plan->params[p].elems, tag, stream);
    if (status == SHERD_OK)
        status = ops->released(engine->comm, stream, tag, engine->last_ticket, "checkpoint release");
    status = sherd__engine_check(engine, status, err);
    return status == SHERD_OK ? sherd__engine_sync(engine, SHERD__COMM, "checkpoint sync", err) : status;
}

/* The step and its scalars, on host and device. */
static sherd_status restore_step(load *l, sherd_error *err)
{
    sherd_engine *engine = l->engine;
    sherd__step_state *state = &engine->mirror->state;
    sherd_status status = sherd__engine_touch(engine, "checkpoint", state, sizeof *state, 1, err);

    if (status != SHERD_OK)
        return status;
    sherd__step_state_init(state);
    sherd__step_scale_init(state, &engine->rules);
    sherd__checkpoint_state_of_text(find_note(l, "step_state"), state);
    engine->loss_scale = state->scale;
    status = sherd__engine_follow(engine, "checkpoint follow");
    if (status == SHERD_OK)
        status = engine->device->ops->copy(engine->stream[SHERD__COMM], sherd__engine_tag(engine, "checkpoint", -1),
                                           &engine->block->state, state, sizeof *state);
    status = sherd__engine_check(engine, status, err);
    if (status == SHERD_OK)
        status = sherd__engine_sync(engine, SHERD__COMM, "checkpoint sync", err);
    engine->step = l->manifest.step + 1;
    engine->last.step = l->manifest.step;
    engine->last.updates = l->manifest.updates;
    engine->last.lr = l->manifest.lr;
    engine->last.loss_scale = l->manifest.loss_scale.scale;
    return status;
}

static sherd_status change(load *l, sherd_error *err)
{
    sherd_status status = load_ranges(l, err);

    if (status == SHERD_OK)
        status = load_frozen(l, err);
    return status == SHERD_OK ? restore_step(l, err) : status;
}

/* Where fp32 moments were rounded to this run's bf16, the masters' digest is what can be compared. */
static sherd_status compare_digest(load *l, sherd_error *err)
{
    uint8_t digest[2][SHERD__DIGEST_BYTES];
    int rounded = l->engine->plan->moment_dtype == SHERD_BF16 &&
                  strcmp(find_note(l, SHERD__CHECKPOINT_MOMENTS), sherd_dtype_name(SHERD_BF16)) != 0;
    sherd_status status = sherd_engine_hash(l->engine, digest[0], digest[1], err);

    if (status == SHERD_OK && memcmp(digest[!rounded], rounded ? l->manifest.param_hash : l->manifest.state_hash,
                                     SHERD__DIGEST_BYTES) != 0)
        status = sherd__fail(
            err, SHERD_EIO,
            "'%.300s' was loaded, but the state's digest is not the manifest's; do not use this engine, load "
            "another checkpoint into a new one",
            l->folder);
    return status;
}

/* -------------------------------------------------------------------------------------------------------------- whole
 */

static sherd_status load_all(load *l, const char *dir, sherd_error *err)
{
    sherd_error why = {SHERD_OK, -1, ""};
    sherd_status mine = open_manifest(l, dir, &why);
    sherd_status status = sherd__checkpoint_agree(l->engine, mine, &why, err);

    if (status == SHERD_OK)
        status = same_everywhere(l, &why, err);
    if (status == SHERD_OK) {
        mine = verify_share(l, &why);
        if (mine == SHERD_OK)
            mine = make_pieces(l, &why);
        status = sherd__checkpoint_agree(l->engine, mine, &why, err);
    }
    if (status == SHERD_OK) {
        mine = change(l, &why);
        status = sherd__checkpoint_agree(l->engine, mine, &why, err);
    }
    if (status == SHERD_OK)
        status = gather(l, err);
    return status == SHERD_OK ? compare_digest(l, err) : status;
}

static void release(load *l)
{
    const sherd_allocator *memory = &l->engine->device->allocator;
    size_t tensors = 0;

    for (int32_t r = 0; l->file && r <= l->old_world; r++) {
        if (r < l->old_world && l->file[r])
            tensors += sherd_safetensors_count(l->file[r]);
        sherd_safetensors_close(l->file[r]);
    }
    sherd__free(memory, l->pieces, tensors, sizeof *l->pieces);
    sherd__free(memory, l->by_name, l->engine->plan->n_params, sizeof *l->by_name);
    sherd__free(memory, l->ranges, l->n_ranges, sizeof *l->ranges);
    sherd__free(memory, l->file, (size_t)l->old_world + 1, sizeof *l->file);
    sherd__manifest_fini(&l->manifest);
}

sherd_status sherd_engine_load(sherd_engine *engine, const char *dir, sherd_checkpoint *out, sherd_error *err)
{
    sherd_error why = {SHERD_OK, -1, ""};
    sherd_status status = sherd__engine_idle(engine, "sherd_engine_load", err);
    load *l;

    if (status != SHERD_OK)
        return status;
    l = sherd__alloc(&engine->device->allocator, 1, sizeof *l);
    if (!l)
        sherd__fail(&why, SHERD_ENOMEM, "no memory to load a checkpoint");
    status = sherd__checkpoint_agree(engine, l ? SHERD_OK : SHERD_ENOMEM, &why, err);
    if (l) {
        l->engine = engine;
        while (sherd_plan_state(engine->plan, l->n_states))
            l->n_states++;
        sherd__manifest_init(&l->manifest, &engine->device->allocator);
        if (status == SHERD_OK)
            status = load_all(l, dir, err);
        if (status == SHERD_OK && out)
            sherd__checkpoint_summary(&l->manifest, l->folder, out);
        release(l);
    }
    sherd__free(&engine->device->allocator, l, 1, sizeof *l);
    return status;
}
