/* SPDX-License-Identifier: MIT
 *
 * The host's updates and the copies over the bus. A bucket's part is cut into chunks of elements whose borders depend
 * on nothing but the part, so neither the number of threads nor of nodes can change a result (and since the arithmetic
 * is per element, no cut could).
 *
 * A skipped step still has to raise what the device has: a slot holds another bucket's values by then. So the working
 * copy is narrowed from the master again, and a speculated bucket's state is copied to the set that will be the truth.
 *
 * Muon's matrices take two passes, with the device between them. What a sum was becomes a direction, then the step, in one
 * place: a block's sums have been read before its directions are written.
 */
#include <string.h>

#include "offload/internal.h"

#define CHUNK_ELEMS 32768 /* 1 MB of state: fits the second cache, and is long enough to be worth a hand-over */
#define CHUNK_SPANS 32

typedef struct pass {
    const sherd__offload *offload;
    const sherd__place *places;
    const sherd__bucket *bucket;
    const sherd__span *spans;
    uint32_t n_spans;
    const sherd__step_scalars *scalars;
    int64_t part_begin;
    int32_t parity;
    int32_t trust; /* 1: only the norms, nothing is updated */
    sherd__part part;
} pass;

static int64_t chunks_of(const sherd__place *place)
{
    return (place->end - place->begin + CHUNK_ELEMS - 1) / CHUNK_ELEMS;
}

/* First span that ends after `at`. */
static uint32_t first_span(const pass *p, int64_t at)
{
    uint32_t low = 0, high = p->n_spans;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (p->spans[middle].end > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static sherd__update update_of(const pass *p, const sherd__place *place)
{
    const sherd_plan *plan = p->offload->plan;
    sherd__update update = {.kind = plan->config.optimizer.kind,
                            .scalars = p->scalars,
                            .sum = place->sum,
                            .sum_dtype = sherd__plan_sum_dtype(plan, p->bucket),
                            .moment_dtype = plan->moment_dtype,
                            .emit = place->emit,
                            .emit_dtype = p->bucket->dtype,
                            .origin = p->part_begin + place->begin,
                            .ratios = p->offload->ratios,
                            .trust = p->offload->trust};

    update.part = p->part;
    update.master = sherd__place_now(place, p->parity, 0);
    for (uint32_t m = 0; m < sherd__bucket_moments(plan, p->bucket); m++)
        update.moment[m] = sherd__place_now(place, p->parity, m + 1);
    if (p->part == SHERD__PART_DIRECT) {
        update.master = place->step;
        update.emit = NULL;
    } else if (p->part == SHERD__PART_APPLY) {
        update.sum = place->step;
        update.sum_dtype = SHERD_FP32;
        update.moment[0] = NULL;
    }
    if (!p->bucket->speculated)
        return update;
    update.master_out = sherd__place_next(place, p->parity, 0);
    for (uint32_t m = 0; m < sherd__bucket_moments(plan, p->bucket); m++)
        update.moment_out[m] = sherd__place_next(place, p->parity, m + 1);
    return update;
}

/* Elements [begin, end) of the bucket, all in this place. */
static void update_range(const pass *p, const sherd__place *place, int64_t begin, int64_t end)
{
    sherd__update update = update_of(p, place);
    sherd__span spans[CHUNK_SPANS];
    uint32_t next = first_span(p, begin);

    update.spans = spans;
    while (next < p->n_spans && p->spans[next].begin < end) {
        update.n_spans = 0;
        for (; next < p->n_spans && p->spans[next].begin < end && update.n_spans < CHUNK_SPANS; next++) {
            sherd__span span = p->spans[next];
            span.begin = span.begin > begin ? span.begin : begin;
            span.end = span.end < end ? span.end : end;
            spans[update.n_spans++] = span;
        }
        if (p->trust)
            p->offload->math->trust(NULL, &update);
        else
            p->offload->math->update(NULL, &update);
    }
}

/* The same elements of a skipped step: `from`, `n` within the place. */
static void keep_range(const pass *p, const sherd__place *place, int64_t from, int64_t n)
{
    const sherd__host_math *math = p->offload->math;
    const sherd_plan *plan = p->offload->plan;
    const float *master = (const float *)sherd__place_now(place, p->parity, 0) + from;

    if (place->emit)
        math->convert(NULL, place->emit + from, p->bucket->dtype, master, SHERD_FP32, n, 0);
    for (uint32_t s = 0; p->bucket->speculated && s <= sherd__bucket_moments(plan, p->bucket); s++) {
        uint64_t width = sherd__plan_state_width(plan, s), at = (uint64_t)from * width;
        math->copy(NULL, (char *)sherd__place_next(place, p->parity, s) + at,
                   (const char *)sherd__place_now(place, p->parity, s) + at, (uint64_t)n * width);
    }
}

static void run_chunk(void *arg, int64_t chunk, int32_t worker)
{
    const pass *p = arg;
    const sherd__place *place = p->places;
    int64_t from, n;

    (void)worker;
    for (; chunk >= chunks_of(place); place++)
        chunk -= chunks_of(place);
    from = chunk * CHUNK_ELEMS;
    n = place->end - place->begin - from;
    n = n < CHUNK_ELEMS ? n : CHUNK_ELEMS;
    if (p->scalars->skip && p->part == SHERD__PART_DIRECT)
        return; /* whatever goes through the window then, nobody applies it */
    if (p->scalars->skip && !p->trust)
        keep_range(p, place, from, n);
    else
        update_range(p, place, p->part_begin + place->begin + from, p->part_begin + place->begin + from + n);
}

/* The stream's thread is the team's first member: it takes its seat with its first work. On the checking device it is
 * the client's thread, which stays where it is. A seat that cannot be had was reported at creation. */
static void take_seat(sherd__offload *offload)
{
    if (offload->seated || offload->device->kind == SHERD_DEVICE_CHECK)
        return;
    offload->seated = 1;
    (void)sherd__team_pin_caller(offload->team, NULL);
}

static void run_pass(const sherd__work *work, const sherd__step_scalars *scalars, sherd__part part, int32_t trust)
{
    sherd__offload *offload = work->offload;
    const sherd__bucket *bucket = &offload->plan->buckets[work->bucket];
    pass p = {.offload = offload,
              .places = sherd__places(offload, work->bucket),
              .bucket = bucket,
              .spans = offload->spans[work->bucket],
              .n_spans = offload->n_spans[work->bucket],
              .scalars = scalars,
              .part_begin = sherd__plan_part_begin(offload->plan, bucket, offload->rank),
              .parity = work->parity,
              .trust = trust,
              .part = part};
    uint64_t former = sherd__float_mode_enter();
    int64_t end = 0;

    take_seat(offload);

    for (int32_t node = 0; node < offload->n_nodes; node++)
        offload->ends[node] = end += chunks_of(&p.places[node]);
    sherd__team_run_nodes(offload->team, offload->ends, SHERD__TEAM_HELP, run_chunk, &p);
    sherd__float_mode_leave(former);
}

static sherd_status do_step(void *arg, sherd_error *err)
{
    const sherd__work *work = arg;
    sherd__offload *offload = work->offload;

    (void)err;
    if (work->bucket == offload->plan->placement.n_off - 1)
        offload->steps++;
    if (sherd__work_guesses(offload, work->bucket)) {
        offload->turn = !offload->turn;
        offload->guess_next(offload->guess_ctx, offload->guess[offload->turn]);
    }
    if (!offload->plan->buckets[work->bucket].speculated || offload->left_out[work->bucket] ||
        !sherd__step_scalars_same(offload->guess[work->parity], offload->scalars))
        run_pass(work, offload->scalars,
                 offload->plan->buckets[work->bucket].muon ? SHERD__PART_APPLY : SHERD__PART_WHOLE, 0);
    return SHERD_OK;
}

static sherd_status do_speculate(void *arg, sherd_error *err)
{
    const sherd__work *work = arg;
    sherd__offload *offload = work->offload;

    (void)err;
    offload->left_out[work->bucket] = atomic_load(&offload->votes) > offload->steps;
    if (!offload->left_out[work->bucket])
        run_pass(work, offload->guess[work->parity], SHERD__PART_WHOLE, 0);
    return SHERD_OK;
}

static sherd_status do_trust(void *arg, sherd_error *err)
{
    const sherd__work *work = arg;

    (void)err;
    run_pass(work, work->offload->scalars, SHERD__PART_WHOLE, 1);
    return SHERD_OK;
}

static sherd_status do_direct(void *arg, sherd_error *err)
{
    const sherd__work *work = arg;

    (void)err;
    run_pass(work, work->offload->scalars, SHERD__PART_DIRECT, 0);
    return SHERD_OK;
}

void sherd__offload_voted(void *ctx)
{
    sherd__offload *offload = ctx;
    atomic_fetch_add(&offload->votes, 1);
}

static sherd_status enqueue(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, sherd__work *work,
                            sherd__work_fn fn)
{
    return offload->device->ops->host_work(stream, tag, fn, work, work->access, work->n_access);
}

sherd_status sherd__offload_step(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket,
                                 int32_t parity)
{
    return enqueue(offload, stream, tag, sherd__work_of(offload, bucket, SHERD__WORK_STEP, parity), do_step);
}

sherd_status sherd__offload_trust(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket)
{
    return enqueue(offload, stream, tag, sherd__work_of(offload, bucket, SHERD__WORK_TRUST, 0), do_trust);
}

sherd_status sherd__offload_direct(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket)
{
    return enqueue(offload, stream, tag, sherd__work_of(offload, bucket, SHERD__WORK_DIRECT, 0), do_direct);
}

sherd_status sherd__offload_raise_direct(sherd__offload *offload, sherd__stream *stream, sherd__tag tag,
                                         uint32_t bucket, float *window)
{
    sherd_status status = SHERD_OK;

    for (int32_t node = 0; status == SHERD_OK && node < offload->n_nodes; node++) {
        const sherd__place *place = sherd__places(offload, bucket) + node;
        if (place->end > place->begin)
            status = offload->device->ops->copy(stream, tag, window + place->begin, place->step,
                                                (uint64_t)(place->end - place->begin) * sizeof *window);
    }
    return status;
}

sherd_status sherd__offload_lower_step(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket,
                                       const float *window)
{
    sherd_status status = SHERD_OK;

    for (int32_t node = 0; status == SHERD_OK && node < offload->n_nodes; node++) {
        const sherd__place *place = sherd__places(offload, bucket) + node;
        if (place->end > place->begin)
            status = offload->device->ops->copy(stream, tag, place->step, window + place->begin,
                                                (uint64_t)(place->end - place->begin) * sizeof *window);
    }
    return status;
}

sherd_status sherd__offload_speculate(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket,
                                      int32_t parity)
{
    return enqueue(offload, stream, tag, sherd__work_of(offload, bucket, SHERD__WORK_SPECULATE, parity), do_speculate);
}

sherd_status sherd__offload_lower(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket,
                                  const void *sum)
{
    uint64_t width = sherd_dtype_bytes(sherd__plan_sum_dtype(offload->plan, &offload->plan->buckets[bucket]));
    sherd_status status = SHERD_OK;

    for (int32_t node = 0; status == SHERD_OK && node < offload->n_nodes; node++) {
        const sherd__place *place = sherd__places(offload, bucket) + node;
        if (place->end > place->begin)
            status =
                offload->device->ops->copy(stream, tag, place->sum, (const char *)sum + (uint64_t)place->begin * width,
                                           (uint64_t)(place->end - place->begin) * width);
    }
    return status;
}

sherd_status sherd__offload_raise(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket,
                                  int32_t parity, void *working)
{
    uint64_t width = sherd_dtype_bytes(offload->plan->buckets[bucket].dtype);
    sherd_status status = SHERD_OK;

    for (int32_t node = 0; status == SHERD_OK && node < offload->n_nodes; node++) {
        const sherd__place *place = sherd__places(offload, bucket) + node;
        const void *from = place->emit ? (const void *)place->emit : sherd__place_next(place, parity, 0);
        if (place->end > place->begin)
            status = offload->device->ops->copy(stream, tag, (char *)working + (uint64_t)place->begin * width, from,
                                                (uint64_t)(place->end - place->begin) * width);
    }
    return status;
}
