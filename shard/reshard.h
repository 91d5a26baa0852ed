/* SPDX-License-Identifier: MIT
 *
 * From the ranks that saved to the ranks that load: ranges in, ranges out. Pure. A range is a run of one parameter's
 * elements; a piece is where a range of one state lies in which file. Buckets, stages and worlds appear only in the
 * ranges a plan gives, so any plan can be loaded from any other's files.
 */
#ifndef SHERD_SHARD_RESHARD_H
#define SHERD_SHARD_RESHARD_H

#include "shard/plan.h"

typedef struct sherd__range_of_param {
    uint32_t param, bucket;
    int64_t first, elems; /* of the parameter */
    int64_t at;           /* of the bucket: where `first` is */
} sherd__range_of_param;

/* What of all parameters lies in slice `rank` of every bucket (-1: in the whole buckets), in bucket order, padding left
 * out. Returns how many there are; call with capacity 0 to count. */
uint32_t sherd__reshard_ranges(const sherd_plan *plan, int32_t rank, sherd__range_of_param *out, uint32_t capacity);

typedef struct sherd__piece {
    uint32_t param, which; /* which: 0 the master, then the moments */
    int64_t first, elems;
    uint32_t file, tensor;
} sherd__piece;

/* Sorts pieces for sherd__reshard_find, and proves that they cover every state of every parameter that has a bucket, each
 * element once. EINVAL names the first parameter and element that is missing or there twice. */
sherd_status sherd__reshard_prepare(const sherd_plan *plan, sherd__piece *pieces, size_t n, sherd_error *err);
/* The piece that holds element `at`; NULL: none. */
const sherd__piece *sherd__reshard_find(const sherd__piece *pieces, size_t n, uint32_t param, uint32_t which,
                                        int64_t at);

#endif
