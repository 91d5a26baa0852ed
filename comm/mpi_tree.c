/* SPDX-License-Identifier: MIT
 *
 * The balanced tree over all ranks where some of its inner nodes have been summed elsewhere. The device's tree sum
 * takes sources of one type and of one size in ranks; where the sources of a range are so, it does the whole range at
 * once (splitting m equal blocks is splitting their ranks). Elsewhere the range is split by the tree's own rule into
 * two halves, which become fp32 partials in scratch, and are added: the same sums in the same order, hence the same
 * bits.
 */
#include "comm/mpi_comm.h"

typedef struct tree {
    sherd__mpi *mpi;
    sherd__mpi_call *call;
    sherd__stream *stream;
    const sherd__mpi_source *sources;
    char *scratch;
    const sherd__tree_sum *sum;
    sherd_status status;
} tree;

static int uniform(const sherd__mpi_source *sources, int32_t n)
{
    for (int32_t i = 1; i < n; i++) {
        if (sources[i].dtype != sources[0].dtype ||
            sources[i].high - sources[i].low != sources[0].high - sources[0].low) {
            return 0;
        }
    }
    return 1;
}

/* One tree sum; `table` lies in the call's. The last has what was asked for, those before it assign fp32. */
static void emit(tree *tree, const void **table, uint32_t n, sherd_dtype dtype, void *to, int last)
{
    sherd__tree_sum job = {.dst_dtype = SHERD_FP32, .dst = to, .elems = tree->sum->elems};
    if (last) {
        job = *tree->sum;
    }
    job.src = table;
    job.n_src = n;
    job.src_offset = 0;
    job.src_dtype = dtype;
    tree->status = tree->mpi->base.device->ops->tree_sum(tree->stream, tree->call->tag, &job);
}

static const void **take_table(tree *tree, int32_t n)
{
    const void **table = tree->call->table + tree->call->table_used;
    tree->call->table_used += (uint32_t)n;
    return table;
}

static float *temporary(const tree *tree, int32_t level)
{
    return (float *)(void *)(tree->scratch + (uint64_t)level * (uint64_t)tree->sum->elems * sizeof(float));
}

/* fp32 sum of sources [first, first + n), in scratch at `level` or where it lies already. */
static const void *sum_range(tree *tree, int32_t first, int32_t n, int32_t level, int last)
{
    const sherd__mpi_source *sources = tree->sources + first;
    int32_t low = sources[0].low, high = sources[n - 1].high, power = 1, left = 0;
    if (n == 1 && !last && sources[0].dtype == SHERD_FP32) {
        return sources[0].at;
    }
    if (uniform(sources, n)) {
        const void **table = take_table(tree, n);
        for (int32_t i = 0; i < n; i++) {
            table[i] = sources[i].at;
        }
        emit(tree, table, (uint32_t)n, sources[0].dtype, temporary(tree, level), last);
        return temporary(tree, level);
    }
    while (power * 2 < high - low) {
        power *= 2;
    }
    while (sources[left].low < low + power) {
        left++;
    }
    const void **pair = take_table(tree, 2);
    pair[0] = sum_range(tree, first, left, level, 0);
    if (tree->status == SHERD_OK) {
        pair[1] = sum_range(tree, first + left, n - left, level + 1, 0);
    }
    if (tree->status == SHERD_OK) {
        emit(tree, pair, 2, SHERD_FP32, temporary(tree, level), last);
    }
    return temporary(tree, level);
}

sherd_status sherd__mpi_tree(sherd__mpi *mpi, sherd__mpi_call *call, sherd__stream *stream,
                             const sherd__mpi_source *sources, int32_t n, char *scratch, const sherd__tree_sum *sum)
{
    tree tree = {.mpi = mpi, .call = call, .stream = stream, .sources = sources, .scratch = scratch, .sum = sum};
    sum_range(&tree, 0, n, 0, 1);
    return tree.status;
}
