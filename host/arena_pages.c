/* SPDX-License-Identifier: MIT
 *
 * Populating a range in pieces of a few megabytes, each by one member of the team: bring in, look where it came to lie,
 * fetch what strayed. Pages are first asked for with a policy that prefers the node and never kills; pages that strayed
 * because the node was full of file cache are then migrated, which reclaims the cache; what still lies elsewhere is
 * counted.
 */
#include "host/arena_pages.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "host/numa.h"

#define PIECE_BYTES (UINT64_C(4) << 20) /* a multiple of every usual huge page but the gigabyte's */

typedef struct populate {
    const sherd__pages *pages;
    uint64_t piece_bytes;
    _Atomic int32_t error, where_error;
    _Atomic uint64_t there, elsewhere, absent;
    _Atomic uint64_t on_node[SHERD__MAX_NODES];
} populate;

static void count_batch(const int32_t *status, uint32_t n, uint64_t page_bytes, int32_t node, sherd__pages_count *out)
{
    for (uint32_t i = 0; i < n; i++) {
        if (status[i] < 0)
            out->absent += page_bytes;
        else if (node < 0 || status[i] == node)
            out->there += page_bytes;
        else
            out->elsewhere += page_bytes;
        if (status[i] >= 0 && status[i] < SHERD__MAX_NODES)
            out->on_node[status[i]] += page_bytes;
    }
}

/* Moves what lies elsewhere and writes its new places into `status`. A refused move is no error: the count tells. */
static void gather_batch(void **pages, uint32_t n, int32_t node, int32_t *status)
{
    void *strays[SHERD__NUMA_BATCH];
    int32_t moved[SHERD__NUMA_BATCH];
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++)
        if (status[i] >= 0 && status[i] != node)
            strays[count++] = pages[i];
    if (count == 0 || sherd__numa_move(strays, count, node, moved) != 0)
        return;
    for (uint32_t i = 0, k = 0; i < n; i++)
        if (k < count && pages[i] == strays[k])
            status[i] = moved[k++];
}

static void count_range(const sherd__pages *pages, uint64_t begin, uint64_t end, int32_t gather,
                        sherd__pages_count *out)
{
    void *batch[SHERD__NUMA_BATCH];
    int32_t status[SHERD__NUMA_BATCH];
    memset(out, 0, sizeof *out);
    while (begin < end) {
        uint32_t n = 0;
        for (; n < SHERD__NUMA_BATCH && begin < end; begin += pages->page_bytes)
            batch[n++] = pages->base + begin;
        int error = sherd__numa_where(batch, n, status);
        if (error != 0) {
            memset(out, 0, sizeof *out);
            out->error = error;
            return;
        }
        if (gather)
            gather_batch(batch, n, pages->node, status);
        count_batch(status, n, pages->page_bytes, pages->node, out);
    }
}

void sherd__pages_count_all(const sherd__pages *pages, sherd__pages_count *out)
{
    count_range(pages, 0, pages->bytes, 0, out);
}

static int touch(char *base, uint64_t bytes, uint64_t page_bytes)
{
#if defined(MADV_POPULATE_WRITE)
    /* Tells of a lack of memory by a status where touching would end in a signal. */
    if (madvise(base, bytes, MADV_POPULATE_WRITE) == 0)
        return 0;
    if (errno != EINVAL)
        return errno;
#endif
    for (uint64_t at = 0; at < bytes; at += page_bytes)
        *(volatile char *)(base + at) = 0;
    return 0;
}

static void populate_piece(void *arg, int64_t piece, int32_t worker)
{
    populate *job = arg;
    const sherd__pages *pages = job->pages;
    uint64_t begin = (uint64_t)piece * job->piece_bytes, end = begin + job->piece_bytes;
    (void)worker;
    if (end > pages->bytes)
        end = pages->bytes;
    int32_t none = 0;
    int error = touch(pages->base + begin, end - begin, pages->page_bytes);
    if (error != 0) {
        atomic_compare_exchange_strong(&job->error, &none, error);
        return;
    }
    sherd__pages_count count;
    count_range(pages, begin, end, pages->gather, &count);
    if (count.error != 0)
        atomic_store(&job->where_error, count.error);
    atomic_fetch_add(&job->there, count.there);
    atomic_fetch_add(&job->elsewhere, count.elsewhere);
    atomic_fetch_add(&job->absent, count.absent);
    for (int32_t i = 0; i < SHERD__MAX_NODES; i++)
        if (count.on_node[i] > 0)
            atomic_fetch_add(&job->on_node[i], count.on_node[i]);
}

/* All pieces to the node's members; to everybody, in equal parts, where the range has no node; to whoever has time
 * where nobody sits on its node. */
static void run_populate(populate *job, sherd__team *team, int64_t pieces)
{
    int64_t ends[SHERD__MAX_NODES];
    int32_t nodes = sherd__team_nodes(team), seated = job->pages->node < 0;
    for (int32_t i = 0; i < nodes; i++) {
        seated |= sherd__team_node(team, i) == job->pages->node;
        ends[i] = job->pages->node < 0 ? pieces * (i + 1) / nodes : seated ? pieces : 0;
    }
    if (seated)
        sherd__team_run_nodes(team, ends, SHERD__TEAM_STAY, populate_piece, job);
    else
        sherd__team_run(team, pieces, populate_piece, job);
}

int sherd__pages_populate(const sherd__pages *pages, sherd__team *team, sherd__pages_count *out)
{
    populate job;
    memset(&job, 0, sizeof job);
    job.pages = pages;
    job.piece_bytes = pages->page_bytes > PIECE_BYTES ? pages->page_bytes : PIECE_BYTES;
    run_populate(&job, team, (int64_t)((pages->bytes + job.piece_bytes - 1) / job.piece_bytes));
    memset(out, 0, sizeof *out);
    out->error = atomic_load(&job.where_error);
    if (out->error == 0) {
        out->there = atomic_load(&job.there);
        out->elsewhere = atomic_load(&job.elsewhere);
        out->absent = atomic_load(&job.absent);
        for (int32_t i = 0; i < SHERD__MAX_NODES; i++)
            out->on_node[i] = atomic_load(&job.on_node[i]);
    }
    return atomic_load(&job.error);
}
