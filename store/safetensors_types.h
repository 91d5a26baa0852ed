/* SPDX-License-Identifier: MIT */
#ifndef SHERD_STORE_SAFETENSORS_TYPES_H
#define SHERD_STORE_SAFETENSORS_TYPES_H

#include <stdint.h>

#define SHERD__SAFETENSORS_METADATA "__metadata__"
#define SHERD__SAFETENSORS_HEADER_MAX ((uint64_t)100000000) /* the format's own limit */

/* X(name, bits, kind): the format's element types; kind is the sherd_dtype, −1: none of ours. */
#define SHERD__SAFETENSORS_MAP(X)                                                                                      \
    X("F32", 32, SHERD_FP32)                                                                                           \
    X("BF16", 16, SHERD_BF16)                                                                                          \
    X("F16", 16, SHERD_FP16)                                                                                           \
    X("F64", 64, -1)                                                                                                   \
    X("I64", 64, -1)                                                                                                   \
    X("I32", 32, -1)                                                                                                   \
    X("I16", 16, -1)                                                                                                   \
    X("I8", 8, -1)                                                                                                     \
    X("U64", 64, -1)                                                                                                   \
    X("U32", 32, -1)                                                                                                   \
    X("U16", 16, -1)                                                                                                   \
    X("U8", 8, -1)                                                                                                     \
    X("BOOL", 8, -1)                                                                                                   \
    X("C64", 64, -1)                                                                                                   \
    X("F8_E5M2", 8, -1)                                                                                                \
    X("F8_E4M3", 8, -1)                                                                                                \
    X("F8_E8M0", 8, -1)                                                                                                \
    X("F6_E3M2", 6, -1)                                                                                                \
    X("F6_E2M3", 6, -1)                                                                                                \
    X("F4", 4, -1)

typedef struct sherd__safetensors_type {
    const char *name;
    uint32_t bits;
    int32_t kind;
} sherd__safetensors_type;

/* NULL: no such type. */
const sherd__safetensors_type *sherd__safetensors_type_of(const char *name);
/* Elements and bytes of a shape; 0 where they do not fit in 63 bits, a dimension is negative, or the bits are no whole
 * bytes. */
int sherd__safetensors_extent(const sherd__safetensors_type *type, const int64_t *shape, uint32_t ndim, int64_t *elems,
                              uint64_t *bytes);

#endif
