/* SPDX-License-Identifier: MIT */
#include "store/safetensors_types.h"

#include <stddef.h>
#include <string.h>

#include "base/checked.h"
#include "sherd/sherd.h"

static const sherd__safetensors_type types[] = {
#define X(name, bits, kind) {name, bits, kind},
    SHERD__SAFETENSORS_MAP(X)
#undef X
};

const sherd__safetensors_type *sherd__safetensors_type_of(const char *name)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].name, name) == 0)
            return &types[i];
    return NULL;
}

int sherd__safetensors_extent(const sherd__safetensors_type *type, const int64_t *shape, uint32_t ndim, int64_t *elems,
                              uint64_t *bytes)
{
    uint64_t total = 1, bits;
    int empty = 0;
    for (uint32_t i = 0; i < ndim; i++) {
        if (shape[i] < 0)
            return 0;
        empty |= shape[i] == 0;
    }
    for (uint32_t i = 0; i < ndim && !empty; i++)
        if (!sherd__mul_u64(total, (uint64_t)shape[i], &total))
            return 0;
    total = empty ? 0 : total;
    if (!sherd__mul_u64(total, type->bits, &bits) || bits > (uint64_t)INT64_MAX || bits % 8 != 0)
        return 0;
    *elems = (int64_t)total;
    *bytes = bits / 8;
    return 1;
}
