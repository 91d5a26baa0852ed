/* SPDX-License-Identifier: MIT
 *
 * What the engine adds to offload/: which ranks share this host and where their GPUs hang (so that cores and nodes can
 * be shared out), the guess that speculated updates are made with, and one way to a bucket's state on any tier between
 * steps.
 */
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"
#include "engine/engine.h"

/* What each rank tells all others: a line of the scratch window. */
typedef struct introduction {
    uint8_t host[16]; /* digest of the host's name and boot */
    uint64_t allowed; /* digest of what this process may use: launchers may have bound ranks already */
    char pci[16];     /* of its GPU; "" for none */
    int32_t nodes;    /* memory nodes its part is cut over; second round */
} introduction;

_Static_assert(sizeof(introduction) <= SHERD__SCRATCH_BYTES_PER_RANK, "one line introduces a rank");

static void identify_host(uint8_t out[16])
{
    char text[256] = "";
    FILE *boot = fopen("/proc/sys/kernel/random/boot_id", "re");

    (void)gethostname(text, 128);
    if (boot) {
        size_t used = strnlen(text, 128);
        if (!fgets(text + used, (int)(sizeof text - used), boot))
            text[used] = '\0';
        fclose(boot);
    }
    sherd__hash_plain(text, strnlen(text, sizeof text), out);
}

static const introduction *line_of(const sherd_engine *engine, int32_t rank)
{
    return (const introduction *)(const void *)(engine->scratch_host + (size_t)rank * SHERD__SCRATCH_BYTES_PER_RANK);
}

/* Ranks of the same host and the same limits, in rank order; *own is this rank's place among them. */
static sherd_status find_neighbours(sherd_engine *engine, const introduction *mine, int32_t *own, sherd_error *err)
{
    int32_t n = 0;
    sherd_status status;

    for (int32_t r = 0; r < engine->world; r++)
        n += memcmp(line_of(engine, r), mine, offsetof(introduction, pci)) == 0;
    engine->n_neighbours = n;
    status = sherd__engine_table(engine, (size_t)n, sizeof *engine->pci, &engine->pci, err);
    if (status == SHERD_OK)
        status = sherd__engine_table(engine, (size_t)n, sizeof *engine->neighbours, &engine->neighbours, err);
    n = 0;
    for (int32_t r = 0; status == SHERD_OK && r < engine->world; r++) {
        if (memcmp(line_of(engine, r), mine, offsetof(introduction, pci)) != 0)
            continue;
        if (r == engine->rank)
            *own = n;
        memcpy(engine->pci[n], line_of(engine, r)->pci, sizeof engine->pci[n]);
        engine->neighbours[n] = (sherd__share_device){engine->pci[n][0] ? engine->pci[n] : NULL, -1};
        n++;
    }
    return status;
}

static sherd_status introduce(sherd_engine *engine, int32_t *own, sherd_error *err)
{
    const char *instead = engine->plan->config.offload.host_topology;
    const sherd__topology_options options = {.allocator = &engine->device->allocator,
                                             .from = instead[0] ? SHERD__TOPOLOGY_SYNTHETIC : SHERD__TOPOLOGY_MACHINE,
                                             .text = instead};
    introduction mine = {.nodes = 0};
    sherd_status status = sherd__topology_load(&options, &engine->topology, err);

    if (status != SHERD_OK)
        return status;
    identify_host(mine.host);
    mine.allowed = sherd__topology_digest(&engine->topology);
    memcpy(mine.pci, engine->device->pci, sizeof mine.pci);
    status = sherd__engine_exchange(engine, &mine, sizeof mine, err);
    return status == SHERD_OK ? find_neighbours(engine, &mine, own, err) : status;
}

/* Reading masters moves them in pieces that all ranks must cut alike. */
static sherd_status agree_on_nodes(sherd_engine *engine, sherd_error *err)
{
    introduction mine = {.nodes = sherd__offload_nodes(engine->offload)};
    sherd_status status = sherd__engine_exchange(engine, &mine, sizeof mine, err);

    for (int32_t r = 0; status == SHERD_OK && r < engine->world; r++)
        engine->several_nodes |= line_of(engine, r)->nodes > 1;
    return status;
}

static sherd_status tables(sherd_engine *engine, sherd_error *err)
{
    uint32_t n = engine->plan->placement.n_off;
    void *guess;
    sherd_status status = sherd__engine_table(engine, n, sizeof *engine->off_spans, &engine->off_spans, err);

    if (status == SHERD_OK)
        status = sherd__engine_table(engine, n, sizeof *engine->n_off_spans, &engine->n_off_spans, err);
    if (status == SHERD_OK)
        status = sherd__engine_table(engine, 2, sizeof *engine->guess, &guess, err);
    if (status != SHERD_OK)
        return status;
    engine->guess = guess;
    for (uint32_t b = 0; b < n; b++) {
        engine->off_spans[b] = engine->buckets[b].spans;
        engine->n_off_spans[b] = engine->buckets[b].n_spans;
    }
    return SHERD_OK;
}

/* What the next vote would say if nothing were large and nothing broken. Runs where the host updates, once a step,
 * right after its vote: so the calling thread never waits for it. */
static void guess_next(void *ctx, sherd__step_scalars *out)
{
    const sherd_engine *engine = ctx;
    sherd__step_state state = engine->mirror->state;
    double rate = sherd_config_lr(&engine->plan->config, (int64_t)state.updates);
    uint64_t vote[SHERD__VOTE_SUMS + SHERD__VOTE_MINS] = {0};

    memcpy(&vote[SHERD__VOTE_LR], &rate, sizeof rate);
    memcpy(&vote[SHERD__VOTE_GROUPS], engine->mirror->scalars.set, sizeof engine->mirror->scalars.set);
    vote[SHERD__VOTE_BAD] = SHERD__NO_BAD_BLOCK;
    sherd__step_prepare(&engine->rules, vote, &state, out);
}

sherd_status sherd__engine_offload_create(sherd_engine *engine, sherd_error *err)
{
    sherd__offload_options options = {.plan = engine->plan,
                                      .device = engine->device,
                                      .rank = engine->rank,
                                      .topology = &engine->topology,
                                      .scalars = &engine->mirror->scalars};
    sherd_status status = tables(engine, err);

    if (status == SHERD_OK)
        status = introduce(engine, &options.local_rank, err);
    if (status != SHERD_OK)
        return status;
    options.local_ranks = engine->n_neighbours;
    options.devices = engine->neighbours;
    options.spans = engine->off_spans;
    options.n_spans = engine->n_off_spans;
    options.guess[0] = &engine->guess[0];
    options.guess[1] = &engine->guess[1];
    options.state = &engine->mirror->state;
    options.trust = engine->trust.host;
    options.ratios = engine->trust.host_ratios;
    options.guess_next = guess_next;
    options.guess_ctx = engine;
    guess_next(engine, &engine->guess[0]);
    status = sherd__offload_create(&options, &engine->offload, err);
    return status == SHERD_OK ? agree_on_nodes(engine, err) : status;
}

void sherd__engine_offload_destroy(sherd_engine *engine)
{
    uint32_t n = engine->plan->placement.n_off;

    sherd__offload_destroy(engine->offload);
    sherd__engine_table_free(engine, engine->neighbours, (size_t)engine->n_neighbours, sizeof *engine->neighbours);
    sherd__engine_table_free(engine, engine->pci, (size_t)engine->n_neighbours, sizeof *engine->pci);
    sherd__engine_table_free(engine, engine->guess, 2, sizeof *engine->guess);
    sherd__engine_table_free(engine, engine->n_off_spans, n, sizeof *engine->n_off_spans);
    sherd__engine_table_free(engine, engine->off_spans, n, sizeof *engine->off_spans);
    sherd__topology_free(&engine->topology);
    engine->offload = NULL;
    engine->neighbours = NULL;
    engine->pci = NULL;
    engine->guess = NULL;
    engine->n_off_spans = NULL;
    engine->off_spans = NULL;
    engine->several_nodes = engine->guess_parity = 0;
}

void sherd__engine_guessed(sherd_engine *engine)
{
    uint32_t n = engine->plan->placement.n_speculated;

    if (n == 0)
        return;
    engine->speculated += n;
    if (!sherd__step_scalars_same(&engine->guess[engine->guess_parity], &engine->mirror->scalars))
        engine->speculation_missed += n;
    engine->guess_parity = !engine->guess_parity;
}

sherd__values sherd__engine_state(const sherd_engine *engine, uint32_t index, uint32_t which, int64_t local,
                                  int64_t *run)
{
    const sherd__bucket *bucket = &engine->plan->buckets[index];
    sherd_dtype dtype = sherd__plan_state_dtype(engine->plan, which);
    sherd__values values;

    if (sherd__bucket_offloaded(bucket))
        return sherd__values_of(
            sherd__offload_state(engine->offload, index, engine->buckets[index].parity, which, local, run), dtype);
    *run = sherd__engine_part_elems(engine, bucket) - local;
    if (which > 0)
        values = sherd__values_of(sherd__at(engine->moment[which - 1], sherd__bucket_moment_offset(bucket, which - 1) *
                                                                           sherd_dtype_bytes(dtype)),
                                  dtype);
    else if (bucket->dtype != SHERD_FP32 && !bucket->remainder)
        values = sherd__values_of(engine->master + bucket->master_offset, dtype);
    else {
        uint64_t begin = (uint64_t)sherd__engine_part_begin(engine, bucket) * sherd_dtype_bytes(bucket->dtype);
        values = sherd__values_of(sherd__at(engine->params.local, bucket->param_offset + begin), bucket->dtype);
        values.remainder = bucket->remainder ? engine->remainder + bucket->master_offset : NULL;
    }
    return sherd__values_from(values, local);
}

sherd_status sherd__engine_state_open(sherd_engine *engine, uint32_t bucket, sherd_error *err)
{
    sherd__tag tag = sherd__engine_tag(engine, "state open", (int32_t)bucket);
    sherd_status status;

    if (engine->plan->buckets[bucket].tier != SHERD_TIER_DISK)
        return SHERD_OK;
    status = sherd__offload_fetch(engine->offload, engine->stream[SHERD__READ], tag, bucket);
    status = sherd__engine_check(engine, status, err);
    return status == SHERD_OK ? sherd__engine_sync(engine, SHERD__READ, "state open sync", err) : status;
}

sherd_status sherd__engine_state_close(sherd_engine *engine, uint32_t bucket, int32_t changed, sherd_error *err)
{
    sherd__tag tag = sherd__engine_tag(engine, "state close", (int32_t)bucket);
    sherd_status status;

    if (engine->plan->buckets[bucket].tier != SHERD_TIER_DISK || !changed)
        return SHERD_OK;
    status = sherd__offload_store(engine->offload, engine->stream[SHERD__WRITE], tag, bucket);
    status = sherd__engine_check(engine, status, err);
    return status == SHERD_OK ? sherd__engine_sync(engine, SHERD__WRITE, "state close sync", err) : status;
}

size_t sherd_engine_offload_text(sherd_engine *engine, char *buffer, size_t capacity)
{
    if (capacity > 0)
        buffer[0] = '\0';
    return engine->offload ? sherd__offload_print(engine->offload, buffer, capacity) : 0;
}
