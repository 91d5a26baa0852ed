/* SPDX-License-Identifier: MIT */
#include "base/hash.h"

#include <xxhash.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "digests are defined over little-endian values; a big-endian build needs a byte swap here"
#endif
_Static_assert(sizeof(float) == 4, "digests are defined over 32-bit values");

static sherd__hash_sum sum_of(XXH128_hash_t hash)
{
    return (sherd__hash_sum){.low = hash.low64, .high = hash.high64};
}

void sherd__hash_add(sherd__hash_sum *sum, uint32_t param, uint8_t place, int64_t first, const float *values,
                     int64_t elems)
{
    uint64_t seed = (uint64_t)place << 56 | (uint64_t)param << 32;
    for (int64_t at = 0; at < elems; at += SHERD__BLOCK_ELEMS) {
        int64_t n = elems - at < SHERD__BLOCK_ELEMS ? elems - at : SHERD__BLOCK_ELEMS;
        uint64_t block = (uint64_t)((first + at) / SHERD__BLOCK_ELEMS);
        sherd__hash_merge(sum, sum_of(XXH3_128bits_withSeed(values + at, (size_t)n * sizeof *values, seed + block)));
    }
}

void sherd__hash_merge(sherd__hash_sum *sum, sherd__hash_sum other)
{
    sum->low += other.low;
    sum->high += other.high + (sum->low < other.low);
}

void sherd__hash_to_limbs(sherd__hash_sum sum, uint64_t limbs[4])
{
    limbs[0] = sum.low & UINT32_MAX;
    limbs[1] = sum.low >> 32;
    limbs[2] = sum.high & UINT32_MAX;
    limbs[3] = sum.high >> 32;
}

sherd__hash_sum sherd__hash_from_limbs(const uint64_t limbs[4])
{
    sherd__hash_sum sum = {0, 0};
    sherd__hash_merge(&sum, (sherd__hash_sum){limbs[0], 0});
    sherd__hash_merge(&sum, (sherd__hash_sum){limbs[1] << 32, limbs[1] >> 32});
    sherd__hash_merge(&sum, (sherd__hash_sum){0, limbs[2]});
    sherd__hash_merge(&sum, (sherd__hash_sum){0, limbs[3] << 32});
    return sum;
}

void sherd__hash_bytes(sherd__hash_sum sum, uint8_t out[16])
{
    for (int i = 0; i < 8; ++i) {
        out[i] = (uint8_t)(sum.high >> (56 - 8 * i));
        out[8 + i] = (uint8_t)(sum.low >> (56 - 8 * i));
    }
}

void sherd__hash_plain(const void *data, size_t bytes, uint8_t out[16])
{
    sherd__hash_bytes(sum_of(XXH3_128bits(data, bytes)), out);
}
