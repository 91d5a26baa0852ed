/* SPDX-License-Identifier: MIT
 *
 * Shadow memory: which accesses of each piece of memory a new one must come after. After a race-free write nothing
 * older needs to be kept: whoever comes after the write comes after what the write came after. Likewise a read makes
 * those reads needless that come before it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "device/check.h"

#define SLAB_ACCESSES 256

typedef struct sherd__check_slab {
    struct sherd__check_slab *next;
    sherd__check_access access[SLAB_ACCESSES];
} check_slab;

/* ---------------------------------------------------------------------------------------------------------- storage */

static sherd__check_access *access_new(sherd__check_shadow *shadow, const sherd__check_access *like)
{
    if (!shadow->free) {
        check_slab *slab = sherd__alloc(&sherd__default_allocator, 1, sizeof *slab);
        if (!slab) {
            shadow->out_of_memory = 1;
            return NULL;
        }
        slab->next = shadow->slabs;
        shadow->slabs = slab;
        for (int i = 0; i < SLAB_ACCESSES; i++) {
            slab->access[i].next = shadow->free;
            shadow->free = &slab->access[i];
        }
    }
    sherd__check_access *access = shadow->free;
    shadow->free = access->next;
    *access = *like;
    access->next = NULL;
    return access;
}

static void access_free(sherd__check_shadow *shadow, sherd__check_access *access)
{
    while (access) {
        sherd__check_access *next = access->next;
        access->next = shadow->free;
        shadow->free = access;
        access = next;
    }
}

static void cell_clear(sherd__check_shadow *shadow, sherd__check_cell *cell)
{
    access_free(shadow, cell->write);
    access_free(shadow, cell->reads);
    cell->write = cell->reads = NULL;
}

void sherd__shadow_fini(sherd__check_shadow *shadow)
{
    while (shadow->slabs) {
        check_slab *slab = shadow->slabs;
        shadow->slabs = slab->next;
        sherd__free(&sherd__default_allocator, slab, 1, sizeof *slab);
    }
    sherd__free(&sherd__default_allocator, shadow->cells, shadow->capacity, sizeof *shadow->cells);
    memset(shadow, 0, sizeof *shadow);
}

static int cells_grow(sherd__check_shadow *shadow)
{
    size_t capacity = shadow->capacity ? 2 * shadow->capacity : 256;
    sherd__check_cell *cells = sherd__alloc(&sherd__default_allocator, capacity, sizeof *cells);
    if (!cells) {
        shadow->out_of_memory = 1;
        return 0;
    }
    if (shadow->count > 0)
        memcpy(cells, shadow->cells, shadow->count * sizeof *cells);
    sherd__free(&sherd__default_allocator, shadow->cells, shadow->capacity, sizeof *cells);
    shadow->cells = cells;
    shadow->capacity = capacity;
    return 1;
}

static int cell_insert(sherd__check_shadow *shadow, size_t at, uintptr_t begin, uintptr_t end)
{
    if (shadow->count == shadow->capacity && !cells_grow(shadow))
        return 0;
    memmove(&shadow->cells[at + 1], &shadow->cells[at], (shadow->count - at) * sizeof *shadow->cells);
    shadow->cells[at] = (sherd__check_cell){.begin = begin, .end = end};
    shadow->count++;
    return 1;
}

static void cells_remove(sherd__check_shadow *shadow, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        cell_clear(shadow, &shadow->cells[i]);
    memmove(&shadow->cells[from], &shadow->cells[to], (shadow->count - to) * sizeof *shadow->cells);
    shadow->count -= to - from;
}

/* First cell that ends after `address`. */
static size_t cell_find(const sherd__check_shadow *shadow, uintptr_t address)
{
    size_t low = 0, high = shadow->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (shadow->cells[middle].end > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static sherd__check_access *list_copy(sherd__check_shadow *shadow, const sherd__check_access *list)
{
    sherd__check_access *copy = NULL;
    for (; list; list = list->next) {
        sherd__check_access *access = access_new(shadow, list);
        if (!access)
            break;
        access->next = copy;
        copy = access;
    }
    return copy;
}

/* Makes `address` a border between cells, if it lies inside one. Returns the first cell that ends after it, SIZE_MAX
 * without memory. */
static size_t cell_split(sherd__check_shadow *shadow, uintptr_t address)
{
    size_t at = cell_find(shadow, address);
    if (at == shadow->count || shadow->cells[at].begin >= address)
        return at;
    sherd__check_cell whole = shadow->cells[at];
    if (!cell_insert(shadow, at, whole.begin, address))
        return SIZE_MAX;
    shadow->cells[at].write = list_copy(shadow, whole.write);
    shadow->cells[at].reads = list_copy(shadow, whole.reads);
    shadow->cells[at + 1].begin = address;
    return at + 1;
}

/* ------------------------------------------------------------------------------------------------------- comparison */

static int comes_before(const sherd__check_access *access, const sherd__clock *clock)
{
    return access->epoch <= clock->at[access->component];
}

static int describe(char *text, size_t bytes, const sherd__check_access *access)
{
    char place[64] = "";
    if (access->tag.bucket >= 0)
        snprintf(place, sizeof place, "bucket %" PRId32 ", ", access->tag.bucket);
    return snprintf(text, bytes, "rank %" PRId32 " %s[%sstep %" PRId64 "] on stream '%s' %s 0x%" PRIxPTR "+%" PRIuPTR,
                    access->rank, access->tag.name ? access->tag.name : "?", place, access->tag.step, access->stream,
                    access->write ? "writes" : "reads", access->begin, access->end - access->begin);
}

static void report(sherd_checker *checker, const sherd__check_access *now, const sherd__check_access *former)
{
    char a[200], b[200];
    if (checker->races++ > 0)
        return;
    describe(a, sizeof a, now);
    describe(b, sizeof b, former);
    sherd__fail(&checker->verdict, SHERD_ERACE, "%s and %s: no wait between them", a, b);
}

static void compare(sherd_checker *checker, const sherd__check_cell *cell, const sherd__check_access *access,
                    const sherd__clock *clock)
{
    if (cell->write && !comes_before(cell->write, clock))
        report(checker, access, cell->write);
    if (!access->write)
        return;
    for (const sherd__check_access *read = cell->reads; read; read = read->next)
        if (!comes_before(read, clock))
            report(checker, access, read);
}

static void add_read(sherd__check_shadow *shadow, sherd__check_cell *cell, const sherd__check_access *access,
                     const sherd__clock *clock)
{
    for (sherd__check_access **link = &cell->reads; *link;) {
        sherd__check_access *read = *link;
        if (!comes_before(read, clock)) {
            link = &read->next;
            continue;
        }
        *link = read->next;
        read->next = NULL;
        access_free(shadow, read);
    }
    sherd__check_access *fresh = access_new(shadow, access);
    if (fresh) {
        fresh->next = cell->reads;
        cell->reads = fresh;
    }
}

static void note_read(sherd_checker *checker, sherd__check_shadow *shadow, const sherd__check_access *access,
                      const sherd__clock *clock, size_t from)
{
    uintptr_t at = access->begin;
    for (size_t i = from; at < access->end; i++) {
        if (i == shadow->count || shadow->cells[i].begin > at) {
            uintptr_t next = i == shadow->count ? access->end : shadow->cells[i].begin;
            if (!cell_insert(shadow, i, at, next < access->end ? next : access->end))
                return;
        }
        compare(checker, &shadow->cells[i], access, clock);
        add_read(shadow, &shadow->cells[i], access, clock);
        at = shadow->cells[i].end;
    }
}

static void note_write(sherd_checker *checker, sherd__check_shadow *shadow, const sherd__check_access *access,
                       const sherd__clock *clock, size_t from)
{
    size_t to = from;
    for (; to < shadow->count && shadow->cells[to].begin < access->end; to++)
        compare(checker, &shadow->cells[to], access, clock);
    if (to == from && !cell_insert(shadow, from, access->begin, access->end))
        return;
    if (to > from + 1)
        cells_remove(shadow, from + 1, to);
    sherd__check_cell *cell = &shadow->cells[from];
    cell_clear(shadow, cell);
    cell->begin = access->begin;
    cell->end = access->end;
    cell->write = access_new(shadow, access);
}

static sherd__check_shadow *shadow_of(sherd_checker *checker, const sherd__check_access *access)
{
    for (size_t i = 0; i < checker->n_regions; i++)
        if (access->begin >= checker->regions[i].begin && access->begin < checker->regions[i].end)
            return &checker->shared;
    return &checker->own[access->rank];
}

static void note_out_of_memory(sherd_checker *checker)
{
    if (checker->verdict.status == SHERD_OK)
        sherd__fail(&checker->verdict, SHERD_ENOMEM,
                    "the checking device ran out of memory for its records; use a smaller model");
}

void sherd__shadow_access(sherd_checker *checker, const sherd__check_access *access, const sherd__clock *clock)
{
    sherd__check_shadow *shadow = shadow_of(checker, access);
    if (access->begin == access->end)
        return;
    size_t from = cell_split(shadow, access->begin);
    if (from != SIZE_MAX && cell_split(shadow, access->end) != SIZE_MAX) {
        if (access->write)
            note_write(checker, shadow, access, clock, from);
        else
            note_read(checker, shadow, access, clock, from);
    }
    if (shadow->out_of_memory)
        note_out_of_memory(checker);
}

static void forget(sherd__check_shadow *shadow, uintptr_t begin, uintptr_t end)
{
    if (shadow->count == 0)
        return;
    size_t from = cell_split(shadow, begin), to = cell_split(shadow, end);
    if (from != SIZE_MAX && to != SIZE_MAX)
        cells_remove(shadow, from, to);
}

void sherd__shadow_forget(sherd_checker *checker, uintptr_t begin, uintptr_t end)
{
    forget(&checker->shared, begin, end);
    for (int32_t rank = 0; rank < checker->ranks; rank++)
        forget(&checker->own[rank], begin, end);
}

/* ------------------------------------------------------------------------------------------------------- regions */

sherd_status sherd__check_watch(sherd_checker *checker, const void *address, uint64_t bytes)
{
    if (checker->n_regions == checker->region_capacity) {
        size_t capacity = checker->region_capacity ? 2 * checker->region_capacity : 64;
        sherd__check_region *regions = sherd__alloc(&sherd__default_allocator, capacity, sizeof *regions);
        if (!regions)
            return SHERD_ENOMEM;
        if (checker->n_regions > 0)
            memcpy(regions, checker->regions, checker->n_regions * sizeof *regions);
        sherd__free(&sherd__default_allocator, checker->regions, checker->region_capacity, sizeof *regions);
        checker->regions = regions;
        checker->region_capacity = capacity;
    }
    uintptr_t begin = (uintptr_t)address;
    sherd__shadow_forget(checker, begin, begin + bytes);
    checker->regions[checker->n_regions++] = (sherd__check_region){.begin = begin, .end = begin + bytes};
    return SHERD_OK;
}

void sherd__check_unwatch(sherd_checker *checker, const void *address, uint64_t bytes)
{
    uintptr_t begin = (uintptr_t)address;
    for (size_t i = 0; i < checker->n_regions; i++) {
        if (checker->regions[i].begin == begin) {
            checker->regions[i] = checker->regions[--checker->n_regions];
            break;
        }
    }
    sherd__shadow_forget(checker, begin, begin + bytes);
}
