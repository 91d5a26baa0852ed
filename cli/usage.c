/* SPDX-License-Identifier: MIT
 *
 * Memory: what each rank's ledger and the kernel say, brought together, and what the machine has left.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/results.h"
#include "cli/session.h"

/* The number behind `key` in a file of "key value" lines; 0 if it is not there. */
static uint64_t value_in_file(const char *path, const char *key)
{
    FILE *file = fopen(path, "r");
    char line[256];
    uint64_t value = 0;
    size_t length = strlen(key);

    if (file == NULL) {
        return 0;
    }
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, key, length) == 0) {
            value = strtoull(line + length, NULL, 10);
            break;
        }
    }
    fclose(file);
    return value;
}

uint64_t cli_process_pss(void)
{
    return value_in_file("/proc/self/smaps_rollup", "Pss:") * 1024;
}

/* What a control group leaves of its limit; file pages that can be dropped count as free. UINT64_MAX: no limit. */
static uint64_t group_leaves(const char *folder, const char *limit_name, const char *used_name, const char *cache_key)
{
    char path[512];
    uint64_t limit, used, cache;

    snprintf(path, sizeof path, "%s/%s", folder, limit_name);
    limit = value_in_file(path, "");
    if (limit == 0 || limit >= UINT64_MAX / 4) { /* "max" reads as 0 */
        return UINT64_MAX;
    }
    snprintf(path, sizeof path, "%s/%s", folder, used_name);
    used = value_in_file(path, "");
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    cache = value_in_file(path, cache_key);
    used -= cache < used ? cache : used;
    return used < limit ? limit - used : 0;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t cli_available_bytes(void)
{
    uint64_t available = value_in_file("/proc/meminfo", "MemAvailable:") * 1024;
    char line[256] = "", folder[400];
    FILE *file = fopen("/proc/self/cgroup", "r");

    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "0::/", 4) == 0) {
            line[strcspn(line, "\n")] = '\0';
            snprintf(folder, sizeof folder, "/sys/fs/cgroup%s", line + 3);
            available = least(available, group_leaves(folder, "memory.max", "memory.current", "inactive_file "));
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    available = least(available, group_leaves("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "));
    return least(available, group_leaves("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                         "total_inactive_file "));
}

/* `mine` of each rank in turn, by sums to which one rank contributes: exact, since bytes are far below 2^53. */
static sherd_status share(cli_session *session, uint64_t mine, uint64_t *to, size_t stride, sherd_error *err)
{
    for (int32_t r = 0; r < session->rank->world; r++) {
        double value = r == session->rank->rank ? (double)mine : 0;
        sherd_status status = sherd_engine_sum(session->engine, &value, err);

        if (status != SHERD_OK) {
            return status;
        }
        memcpy((char *)to + (size_t)r * stride, &(uint64_t){(uint64_t)value}, sizeof(uint64_t));
    }
    return SHERD_OK;
}

sherd_status cli_gather_usage(cli_session *session, cli_usage_of_rank *usage, sherd_error *err)
{
    cli_usage_of_rank mine;
    uint64_t *from = (uint64_t *)(void *)&mine, *to = (uint64_t *)(void *)usage;
    sherd_status status;

    _Static_assert(sizeof mine % sizeof(uint64_t) == 0, "a record of 64-bit counts");
    memset(&mine, 0, sizeof mine);
    sherd_device_memory(session->device, &mine.live, &mine.peak);
    status = sherd_plan_memory(session->plan, session->rank->rank, &mine.plan);
    if (status != SHERD_OK) {
        return cli_fail(err, status, "the plan has no bytes for rank %d", (int)session->rank->rank);
    }
    mine.live_total = sherd_memory_total(&mine.live, SHERD_TIER_DEVICE);
    mine.peak_total = sherd_device_peak_total(session->device, SHERD_TIER_DEVICE);
    mine.pss = cli_process_pss();
    for (size_t i = 0; i < sizeof mine / sizeof(uint64_t) && status == SHERD_OK; i++) {
        status = share(session, from[i], to + i, sizeof *usage, err);
    }
    return status;
}

static void print_row(FILE *out, int32_t rank, const char *name, const uint64_t bytes[3], const char *pss)
{
    fprintf(out, "%4d  %-20s", (int)rank, name);
    for (int i = 0; i < 3; i++) {
        fprintf(out, " %12.2f", (double)bytes[i] / 1048576.0);
    }
    fprintf(out, " %12s\n", pss);
}

static int offloads(const sherd_memory *plan)
{
    return plan->bytes[SHERD_TIER_HOST][SHERD_CAT_GRAD_SUMS] > 0;
}

static void print_rank(FILE *out, int32_t rank, const cli_usage_of_rank *u, int show_pss)
{
    uint64_t total[3] = {u->live_total, u->peak_total, sherd_memory_total(&u->plan, SHERD_TIER_DEVICE)};
    char pss[32] = "";

    for (int tier = 0; tier < SHERD_TIERS; tier++) {
        for (int c = 0; c < SHERD_CATEGORIES; c++) {
            uint64_t bytes[3] = {u->live.bytes[tier][c], u->peak.bytes[tier][c], u->plan.bytes[tier][c]};

            char name[48];

            snprintf(name, sizeof name, tier == SHERD_TIER_DEVICE ? "%s" : "%s (%s)",
                     sherd_category_name((sherd_category)c), sherd_tier_name((sherd_tier)tier));
            if (bytes[0] + bytes[1] + bytes[2] > 0) {
                print_row(out, rank, name, bytes, "");
            }
        }
    }
    if (show_pss) {
        snprintf(pss, sizeof pss, "%.2f", (double)u->pss / 1048576.0);
    }
    for (int tier = SHERD_TIER_HOST; tier < SHERD_TIERS; tier++) {
        uint64_t plan = sherd_memory_total(&u->plan, (sherd_tier)tier);
        uint64_t sums[3] = {sherd_memory_total(&u->live, (sherd_tier)tier), 0, plan};

        for (int c = 0; c < SHERD_CATEGORIES; c++) {
            sums[1] += u->peak.bytes[tier][c];
        }
        if (offloads(&u->plan)) {
            print_row(out, rank, tier == SHERD_TIER_HOST ? "total on the host" : "total on disk", sums, "");
        }
    }
    print_row(out, rank, "total on the device", total, pss);
}

void cli_print_usage(FILE *out, const cli_usage_of_rank *usage, int32_t world, int one_process)
{
    fprintf(out, "\nmemory, MiB\nrank  category              ledger live  ledger peak         plan  process PSS\n");
    for (int32_t r = 0; r < world; r++) {
        print_rank(out, r, &usage[r], !one_process || r == world - 1);
    }
    if (one_process && world > 1) {
        fprintf(out, "      (the ranks are threads of one process, whose PSS stands once)\n");
    }
}

void cli_print_memory_json(FILE *out, const sherd_memory *memory)
{
    const char *tier_comma = "";

    fputc('{', out);
    for (int tier = 0; tier < SHERD_TIERS; tier++) {
        const char *comma = "";

        if (tier != SHERD_TIER_DEVICE && sherd_memory_total(memory, (sherd_tier)tier) == 0) {
            continue;
        }
        fprintf(out, "%s\"%s\": {", tier_comma, sherd_tier_name((sherd_tier)tier));
        for (int c = 0; c < SHERD_CATEGORIES; c++) {
            if (memory->bytes[tier][c] > 0) {
                fprintf(out, "%s\"%s\": %llu", comma, sherd_category_name((sherd_category)c),
                        (unsigned long long)memory->bytes[tier][c]);
                comma = ", ";
            }
        }
        fputc('}', out);
        tier_comma = ", ";
    }
    fputc('}', out);
}

void cli_print_number(FILE *out, double value)
{
    if (value - value != 0) { /* infinite or not a number, which JSON does not have */
        fputs("null", out);
    } else {
        fprintf(out, "%.17g", value);
    }
}

void cli_print_hash(FILE *out, const uint8_t hash[16])
{
    for (int i = 0; i < 16; i++) {
        fprintf(out, "%02x", hash[i]);
    }
}
