/* SPDX-License-Identifier: MIT
 *
 * Digests that do not depend on sharding (NUMERICS: Hashes): XXH3-128 of each 256-element block of fp32 values, seeded with
 * its place, summed modulo 2^128. Sums of disjoint sets of blocks add.
 */
#ifndef SHERD_BASE_HASH_H
#define SHERD_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define SHERD__BLOCK_ELEMS 256

typedef struct sherd__hash_sum {
    uint64_t low, high; /* a 128-bit sum */
} sherd__hash_sum;

/* Adds `elems` values (fp32, little endian) of parameter `param` that start at its element `first` (a multiple of 256; all but the
 * parameter's last block must be whole). `place`: 0 master, 1, 2 … the moments; it goes in the seed's high byte. */
void sherd__hash_add(sherd__hash_sum *sum, uint32_t param, uint8_t place, int64_t first, const float *values, int64_t elems);
/* a += b modulo 2^128 */
void sherd__hash_merge(sherd__hash_sum *sum, sherd__hash_sum other);
/* As four 32-bit limbs in uint64 (lowest first), so that many ranks' limbs can be added as integers; and back, with carries. */
void sherd__hash_to_limbs(sherd__hash_sum sum, uint64_t limbs[4]);
sherd__hash_sum sherd__hash_from_limbs(const uint64_t limbs[4]);
/* 16 bytes, most significant first. */
void sherd__hash_bytes(sherd__hash_sum sum, uint8_t out[16]);
/* Plain XXH3-128 of a byte string (plan hash, files), most significant byte first. */
void sherd__hash_plain(const void *data, size_t bytes, uint8_t out[16]);

#endif
