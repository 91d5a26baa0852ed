/* SPDX-License-Identifier: MIT
 *
 * Birth and death: which threads and nodes this rank has, its arenas, its files. The ledger gets exactly what the plan
 * says, by category; what page sizes and slots per node add to that is rounding.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/text.h"
#include "offload/internal.h"

#define SPIN_NS 200000 /* within a step the next bucket follows at once */
#define RESERVED_CORES 2

/* The kernels that were asked for, if this processor runs them. */
static sherd_status choose_kernels(sherd__offload *offload, sherd_error *err)
{
    static const char *const names[] = {"auto", "avx512", "avx2", "portable", "reference"};
    int32_t wanted = offload->plan->config.offload.host_kernels;
    const sherd__host_math *all[8];
    uint32_t n = sherd__host_math_all(all, sizeof all / sizeof *all);

    offload->math = wanted == 0 ? sherd__host_math_best() : NULL;
    for (uint32_t i = 0; i < n && wanted > 0 && wanted < (int32_t)(sizeof names / sizeof *names); i++)
        if (strcmp(all[i]->name, names[wanted]) == 0)
            offload->math = all[i];
    if (offload->math)
        return SHERD_OK;
    return sherd__fail(err, SHERD_EUNSUPPORTED,
                       "sherd.host_kernels number %" PRId32 " is not built or not run by this processor; use \"auto\"",
                       wanted);
}

static sherd_status make_team(sherd__offload *offload, const sherd__offload_options *options, sherd_error *err)
{
    const sherd_config *config = &offload->plan->config;
    sherd__share_options share = {.allocator = &offload->device->allocator,
                                  .ranks = options->local_ranks,
                                  .rank = options->local_rank,
                                  .devices = options->devices,
                                  .reserve = RESERVED_CORES,
                                  .text = config->offload.host_cores[0] ? config->offload.host_cores : NULL};
    sherd__team_options team = {.allocator = &offload->device->allocator, .spin_ns = SPIN_NS, .name = "offload"};
    const char *unpinned = "";
    sherd_status status = sherd__share_make(options->topology, &share, &offload->share, err);

    if (status != SHERD_OK)
        return status;
    offload->share_made = 1;
    team.threads = offload->share.n_seats;
    team.seats = offload->share.crowded ? NULL : offload->share.seats;
    if (config->offload.host_threads > 0 && config->offload.host_threads != team.threads) {
        /* As many as asked for: fewer seats as they come, more without any. */
        if (config->offload.host_threads > team.threads)
            team.seats = NULL;
        team.threads = config->offload.host_threads;
    }
    status = sherd__team_make(&team, &offload->team, err);
    if (status == SHERD_OK && sherd__team_unpinned(offload->team, &unpinned) > 0)
        sherd__log(&offload->device->log, SHERD_LOG_WARNING, "offload: %s", unpinned);
    return status;
}

static sherd_status pin(void *ctx, void *base, uint64_t bytes, sherd_error *err)
{
    return sherd__device_watch(ctx, base, bytes, err);
}

static void unpin(void *ctx, void *base, uint64_t bytes)
{
    sherd__device_unwatch(ctx, base, bytes);
}

static sherd_status make_arena(sherd__offload *offload, int32_t node, sherd_error *err)
{
    const sherd__arena_hook hook = {pin, unpin, offload->device};
    char name[32];
    sherd__arena_options options = {.allocator = &offload->device->allocator,
                                    .name = name,
                                    .bytes = offload->arena_bytes[node],
                                    .node = sherd__team_node(offload->team, node),
                                    .bind = SHERD__ARENA_TRY,
                                    .lock = offload->plan->config.offload.pin_memory ? SHERD__ARENA_TRY
                                                                                     : SHERD__ARENA_NEVER,
                                    .huge = SHERD__ARENA_TRY,
                                    .team = offload->team};
    sherd_status status;

    if (offload->arena_bytes[node] == 0)
        return SHERD_OK;
    if (offload->device->kind == SHERD_DEVICE_CUDA) { /* the driver locks the pages itself */
        options.hook = &hook;
        options.lock = SHERD__ARENA_NEVER;
    }
    snprintf(name, sizeof name, "rank %" PRId32 " part %" PRId32, offload->rank, node);
    status = sherd__arena_create(&options, &offload->arenas[node], err);
    if (status != SHERD_OK)
        return status;
    offload->mapped_bytes += sherd__arena_mapped_bytes(offload->arenas[node]);
    if (sherd__arena_fallback(offload->arenas[node])[0])
        sherd__log(&offload->device->log, SHERD_LOG_WARNING, "offload: %s: %s", name,
                   sherd__arena_fallback(offload->arenas[node]));
    return SHERD_OK;
}

/* Books the plan's bytes; `rounding` goes with the first. */
static sherd_status book_tier(sherd__offload *offload, const sherd_memory *planned, sherd_tier tier, uint64_t rounding,
                              sherd_error *err)
{
    static const sherd_category categories[] = {SHERD_CAT_GRAD_SUMS, SHERD_CAT_MASTER, SHERD_CAT_MOMENTS,
                                                SHERD_CAT_STAGING, SHERD_CAT_SPECULATION};
    sherd_status status = SHERD_OK;

    for (size_t i = 0; status == SHERD_OK && i < sizeof categories / sizeof *categories; i++) {
        uint64_t bytes = planned->bytes[tier][categories[i]];
        status = sherd__ledger_add(&offload->device->ledger, tier, categories[i], bytes, rounding, err);
        if (status != SHERD_OK)
            break;
        offload->booked.bytes[tier][categories[i]] = bytes;
        offload->booked.bytes[tier][SHERD_CAT_ROUNDING] += rounding;
        rounding = 0;
    }
    return status;
}

static uint64_t planned_bytes(const sherd_memory *planned, sherd_tier tier)
{
    return planned->bytes[tier][SHERD_CAT_GRAD_SUMS] + planned->bytes[tier][SHERD_CAT_MASTER] +
           planned->bytes[tier][SHERD_CAT_MOMENTS] + planned->bytes[tier][SHERD_CAT_STAGING] +
           planned->bytes[tier][SHERD_CAT_SPECULATION];
}

static sherd_status book(sherd__offload *offload, sherd_error *err)
{
    sherd_memory planned;
    sherd_status status = sherd_plan_memory(offload->plan, offload->rank, &planned);
    uint64_t host = planned_bytes(&planned, SHERD_TIER_HOST), disk = planned_bytes(&planned, SHERD_TIER_DISK);

    if (status ==
        SHERD_OK) /* slots on several nodes can be smaller together than the largest bucket: then nothing is rounded */
        status = book_tier(offload, &planned, SHERD_TIER_HOST,
                           offload->mapped_bytes > host ? offload->mapped_bytes - host : 0, err);
    if (status == SHERD_OK && offload->file)
        status = book_tier(
            offload, &planned, SHERD_TIER_DISK,
            sherd__aio_file_bytes(offload->file) > disk ? sherd__aio_file_bytes(offload->file) - disk : 0, err);
    return status;
}

static void unbook(sherd__offload *offload)
{
    for (int tier = SHERD_TIER_HOST; tier < SHERD_TIERS; tier++)
        for (int category = 0; category < SHERD_CATEGORIES; category++) {
            uint64_t bytes = offload->booked.bytes[tier][category];
            if (bytes && category == SHERD_CAT_ROUNDING)
                sherd__ledger_sub(&offload->device->ledger, (sherd_tier)tier, SHERD_CAT_MASTER, 0, bytes);
            else if (bytes)
                sherd__ledger_sub(&offload->device->ledger, (sherd_tier)tier, (sherd_category)category, bytes, 0);
        }
}

static sherd_status make_tables(sherd__offload *offload, sherd_error *err)
{
    uint32_t n_off = offload->plan->placement.n_off;
    size_t nodes = (size_t)offload->n_nodes;

    offload->arenas = sherd__device_metadata_alloc(offload->device, nodes, sizeof(sherd__arena *));
    offload->arena_bytes = sherd__device_metadata_alloc(offload->device, nodes, sizeof *offload->arena_bytes);
    offload->slot_area = sherd__device_metadata_alloc(offload->device, nodes, sizeof(void *));
    offload->slot_area_bytes = sherd__device_metadata_alloc(offload->device, nodes, sizeof *offload->slot_area_bytes);
    offload->left_out = sherd__device_metadata_alloc(offload->device, n_off, 1);
    offload->ends = sherd__device_metadata_alloc(offload->device, nodes, sizeof *offload->ends);
    offload->places = sherd__device_metadata_alloc(offload->device, n_off * nodes, sizeof *offload->places);
    if (!offload->arenas || !offload->arena_bytes || !offload->ends || !offload->places || !offload->slot_area ||
        !offload->slot_area_bytes || !offload->left_out)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for the tables of %" PRIu32 " offloaded buckets", n_off);
    return SHERD_OK;
}

static sherd_status make_all(sherd__offload *offload, const sherd__offload_options *options, sherd_error *err)
{
    sherd_status status = choose_kernels(offload, err);

    if (status == SHERD_OK)
        status = make_team(offload, options, err);
    if (status != SHERD_OK)
        return status;
    offload->n_nodes = sherd__team_nodes(offload->team);
    status = make_tables(offload, err);
    if (status != SHERD_OK)
        return status;
    sherd__places_cut(offload);
    for (int32_t node = 0; status == SHERD_OK && node < offload->n_nodes; node++)
        status = make_arena(offload, node, err);
    if (status == SHERD_OK && offload->plan->placement.n_disk > 0)
        status = sherd__disk_open(offload, err);
    if (status != SHERD_OK)
        return status;
    sherd__places_address(offload);
    if (offload->aio)
        status = sherd__disk_register(offload, err);
    if (status == SHERD_OK)
        status = sherd__works_create(offload, err);
    return status == SHERD_OK ? book(offload, err) : status;
}

sherd_status sherd__offload_create(const sherd__offload_options *options, sherd__offload **out, sherd_error *err)
{
    sherd__offload *offload = sherd__device_metadata_alloc(options->device, 1, sizeof *offload);
    sherd_status status;

    if (!offload)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for offloading itself");
    offload->plan = options->plan;
    offload->device = options->device;
    offload->rank = options->rank;
    offload->spans = options->spans;
    offload->n_spans = options->n_spans;
    offload->scalars = options->scalars;
    offload->guess[0] = options->guess[0];
    offload->guess[1] = options->guess[1];
    offload->state = options->state;
    offload->trust = options->trust;
    offload->ratios = options->ratios;
    offload->guess_next = options->guess_next;
    offload->guess_ctx = options->guess_ctx;
    status = make_all(offload, options, err);
    if (status != SHERD_OK) {
        sherd__offload_destroy(offload);
        return status;
    }
    *out = offload;
    return SHERD_OK;
}

void sherd__offload_destroy(sherd__offload *offload)
{
    sherd_device *device;
    size_t nodes;

    if (!offload)
        return;
    device = offload->device;
    nodes = (size_t)offload->n_nodes;
    unbook(offload);
    sherd__works_destroy(offload);
    sherd__disk_close(offload);
    for (size_t node = 0; offload->arenas && node < nodes; node++)
        sherd__arena_destroy(offload->arenas[node]);
    sherd__device_metadata_free(device, offload->places, offload->plan->placement.n_off * nodes,
                                sizeof *offload->places);
    sherd__device_metadata_free(device, offload->left_out, offload->plan->placement.n_off, 1);
    sherd__device_metadata_free(device, offload->slot_area, nodes, sizeof(void *));
    sherd__device_metadata_free(device, offload->slot_area_bytes, nodes, sizeof *offload->slot_area_bytes);
    sherd__device_metadata_free(device, offload->ends, nodes, sizeof *offload->ends);
    sherd__device_metadata_free(device, offload->arena_bytes, nodes, sizeof *offload->arena_bytes);
    sherd__device_metadata_free(device, offload->arenas, nodes, sizeof(sherd__arena *));
    sherd__team_destroy(offload->team);
    if (offload->share_made)
        sherd__share_free(&offload->share);
    sherd__device_metadata_free(device, offload, 1, sizeof *offload);
}

size_t sherd__offload_print(sherd__offload *offload, char *text, size_t bytes)
{
    const sherd__placement *placement = &offload->plan->placement;
    char line[1024];
    sherd__text to = sherd__text_in(text, bytes);

    sherd__text_put(&to,
                    "rank %" PRId32 ": buckets on disk %" PRIu32 ", in host memory %" PRIu32 " (speculated %" PRIu32
                    "), on the device %" PRIu32 "\n",
                    offload->rank, placement->n_disk, placement->n_off - placement->n_disk, placement->n_speculated,
                    offload->plan->n_buckets - placement->n_off);
    sherd__share_print(&offload->share, line, sizeof line);
    sherd__text_put(&to, "  threads %" PRId32 " on %" PRId32 " node%s, %s kernels, cores %s\n",
                    sherd__team_threads(offload->team), offload->n_nodes, offload->n_nodes == 1 ? "" : "s",
                    offload->math->name, line);
    for (int32_t node = 0; node < offload->n_nodes; node++) {
        sherd__arena_report report;
        if (!offload->arenas[node] || sherd__arena_inspect(offload->arenas[node], &report, NULL) != SHERD_OK)
            continue;
        sherd__arena_print(&report, line, sizeof line);
        sherd__text_put(&to, "  %s%s", line, line[0] && line[strlen(line) - 1] == '\n' ? "" : "\n");
    }
    if (offload->aio) {
        sherd__aio_describe(offload->aio, offload->file, line, sizeof line);
        sherd__text_put(&to, "  disk: %s\n", line);
    }
    return to.length;
}
