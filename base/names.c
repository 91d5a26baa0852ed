/* SPDX-License-Identifier: MIT
 *
 * Names of the public enums, each from its one table.
 */
#include "sherd/sherd.h"

const char *sherd_version(void)
{
    return SHERD_VERSION_STRING;
}

const char *sherd_status_name(sherd_status status)
{
    switch (status) {
#define X(name, value, broken, text)                                                                                   \
    case SHERD_##name:                                                                                                 \
        return #name;
        SHERD_STATUS_MAP(X)
#undef X
    }
    return "UNKNOWN";
}

const char *sherd_status_text(sherd_status status)
{
    switch (status) {
#define X(name, value, broken, text)                                                                                   \
    case SHERD_##name:                                                                                                 \
        return text;
        SHERD_STATUS_MAP(X)
#undef X
    }
    return "unknown status";
}

const char *sherd_dtype_name(sherd_dtype dtype)
{
    return dtype == SHERD_FP32 ? "fp32" : dtype == SHERD_BF16 ? "bf16" : dtype == SHERD_FP16 ? "fp16" : "unknown";
}

uint64_t sherd_dtype_bytes(sherd_dtype dtype)
{
    return dtype == SHERD_FP32 ? 4 : 2;
}

static const struct {
    const char *name;
    int planned;
} categories[SHERD_CATEGORIES] = {
#define X(name, text, planned) {text, planned},
    SHERD_CATEGORY_MAP(X)
#undef X
};

const char *sherd_category_name(sherd_category category)
{
    return (unsigned)category < SHERD_CATEGORIES ? categories[category].name : "unknown";
}

int sherd_category_planned(sherd_category category)
{
    return (unsigned)category < SHERD_CATEGORIES && categories[category].planned;
}

const char *sherd_tier_name(sherd_tier tier)
{
    static const char *const names[SHERD_TIERS] = {"device", "host", "disk"};
    return (unsigned)tier < SHERD_TIERS ? names[tier] : "unknown";
}

uint64_t sherd_memory_total(const sherd_memory *memory, sherd_tier tier)
{
    uint64_t total = 0;
    if (!memory || (unsigned)tier >= SHERD_TIERS)
        return 0;
    for (int category = 0; category < SHERD_CATEGORIES; category++)
        total += memory->bytes[tier][category];
    return total;
}
