/* SPDX-License-Identifier: MIT */
#include "bench/offload/arrays.h"

#include <string.h>
#include <sys/mman.h>

#include "bench/scalars.h"

#define HUGE_PAGE ((size_t)2 << 20)
/* Arrays begin at different places within a page: at equal ones, lines of all of them compete for the same sets. */
#define STAGGER 4096

static size_t sum_bytes(const step_shape *shape)
{
    return shape->sum_dtype == SHERD_BF16 ? 2 : 4;
}

static uint32_t moments_of(const step_shape *shape)
{
    return sherd__optim_get(shape->kind)->n_moments;
}

int64_t step_arrays_bytes(const step_shape *shape)
{
    int64_t states = 1 + (int64_t)moments_of(shape);
    return shape->params * ((int64_t)sum_bytes(shape) + 4 * states * (shape->elsewhere ? 2 : 1) + 2);
}

int64_t step_moved_bytes(const step_shape *shape)
{
    return shape->params * ((int64_t)sum_bytes(shape) + 8 * (1 + (int64_t)moments_of(shape)) + 2);
}

/* The next array of the mapping. */
static void *carve(char **at, size_t *number, int64_t bytes)
{
    void *array = *at + (*number)++ * STAGGER;
    *at += ((size_t)bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE + HUGE_PAGE;
    return array;
}

static void fill(void *array, sherd_dtype dtype, int64_t n)
{
    for (int64_t i = 0; i < n; ++i) {
        float value = 0.01f + (float)(i % 97) * 0.001f;
        if (dtype == SHERD_BF16) {
            ((uint16_t *)array)[i] = sherd__bf16_of_f32(value);
        } else {
            ((float *)array)[i] = value;
        }
    }
}

static int map_all(step_arrays *a, char **begin)
{
    size_t bytes = (size_t)step_arrays_bytes(&a->shape) + 2 * (2 + 2 * (1 + SHERD__MAX_MOMENTS)) * HUGE_PAGE;
    char *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        return 0;
    }
    (void)madvise(base, bytes, a->shape.small_pages ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
    a->mapping = base;
    a->mapping_bytes = bytes;
    *begin = base + (HUGE_PAGE - (uintptr_t)base % HUGE_PAGE) % HUGE_PAGE;
    return 1;
}

int step_arrays_make(step_arrays *out, const step_shape *shape)
{
    int64_t n = shape->params;
    size_t number = 0;
    char *at;
    memset(out, 0, sizeof *out);
    out->shape = *shape;
    out->moments = moments_of(shape);
    if (!map_all(out, &at)) {
        return 0;
    }
    out->sum = carve(&at, &number, n * (int64_t)sum_bytes(shape));
    out->emit = carve(&at, &number, n * 2);
    fill(out->sum, shape->sum_dtype, n);
    fill(out->emit, SHERD_BF16, n);
    for (uint32_t k = 0; k <= out->moments; ++k) {
        out->state[k] = carve(&at, &number, n * 4);
        fill(out->state[k], SHERD_FP32, n);
        if (shape->elsewhere) {
            out->second[k] = carve(&at, &number, n * 4);
            fill(out->second[k], SHERD_FP32, n);
        }
    }
    bench_scalars(out->shape.kind, &out->scalars);
    return 1;
}

void step_arrays_free(step_arrays *arrays)
{
    (void)munmap(arrays->mapping, arrays->mapping_bytes);
    memset(arrays, 0, sizeof *arrays);
}

void step_arrays_update(const step_arrays *arrays, const sherd__host_math *math, sherd__team *team)
{
    sherd__span span = {0, arrays->shape.params, 0, 0};
    sherd__update update = {.kind = arrays->shape.kind,
                            .scalars = &arrays->scalars,
                            .sum = arrays->sum,
                            .sum_dtype = arrays->shape.sum_dtype,
                            .master = arrays->state[0],
                            .master_out = arrays->second[0],
                            .emit = arrays->emit,
                            .spans = &span,
                            .n_spans = 1};
    for (uint32_t k = 0; k < arrays->moments; ++k) {
        update.moment[k] = arrays->state[1 + k];
        update.moment_out[k] = arrays->second[1 + k];
    }
    math->update(team, &update);
}
