/* SPDX-License-Identifier: MIT
 *
 * Orthogonalising to CUDA: one operation is a row of launches, three before and after and three a step.
 */
#include "device/cuda.h"

typedef struct places {
    float *x, *next, *gram, *mix; /* X as it is, and as it will be */
    int64_t m, n, wide, narrow;   /* X is m × n; rows of X and of the squares begin so far apart */
} places;

static sherd_status launched(sherd__cuda_stream *stream, const sherd__op *op, int code, const char *kernel)
{
    return sherd__cuda_check(stream->base.device, code, kernel, stream->base.name, &op->tag);
}

static sherd_status product(sherd__cuda_stream *stream, const sherd__op *op, const sherd__cuda_product *args)
{
    sherd_status status = sherd__cuda_pace(stream);
    if (status != SHERD_OK)
        return status;
    return launched(stream, op, sherd__cuda_launch_product(args, sherd__cuda_width(stream), stream->handle),
                    "product kernel");
}

static sherd_status step(sherd__cuda_stream *stream, const sherd__op *op, places *at)
{
    const sherd__step_scalars *scalars = op->u.orthogonal.scalars;
    float *former = at->x;
    sherd__cuda_product gram = {.scalars = scalars,
                                .p = at->x,
                                .q = at->x,
                                .out = at->gram,
                                .rows = at->m,
                                .cols = at->m,
                                .depth = at->n,
                                .p_pitch = at->wide,
                                .q_pitch = at->wide,
                                .out_pitch = at->narrow,
                                .kind = SHERD__CUDA_GRAM};
    sherd__cuda_product mix = {.scalars = scalars,
                               .p = at->gram,
                               .q = at->gram,
                               .out = at->mix,
                               .rows = at->m,
                               .cols = at->m,
                               .depth = at->m,
                               .p_pitch = at->narrow,
                               .q_pitch = at->narrow,
                               .out_pitch = at->narrow,
                               .kind = SHERD__CUDA_MIX};
    sherd__cuda_product next = {.scalars = scalars,
                                .p = at->mix,
                                .q = at->x,
                                .out = at->next,
                                .rows = at->m,
                                .cols = at->n,
                                .depth = at->m,
                                .p_pitch = at->narrow,
                                .q_pitch = at->wide,
                                .out_pitch = at->wide,
                                .kind = SHERD__CUDA_STEP};
    sherd_status status = product(stream, op, &gram);
    if (status == SHERD_OK)
        status = product(stream, op, &mix);
    if (status == SHERD_OK)
        status = product(stream, op, &next);
    at->x = at->next;
    at->next = former;
    return status;
}

static sherd_status part(sherd__cuda_stream *stream, const sherd__op *op, const sherd__cuda_orthogonal *args,
                         sherd__cuda_part which)
{
    sherd_status status = sherd__cuda_pace(stream);
    if (status != SHERD_OK)
        return status;
    return launched(stream, op, sherd__cuda_launch_orthogonal(args, which, sherd__cuda_width(stream), stream->handle),
                    "orthogonalise kernel");
}

static places places_of(const sherd__orthogonal *job, int turned)
{
    places at = {.m = turned ? job->cols : job->rows, .n = turned ? job->rows : job->cols};
    at.wide = sherd__muon_padded(at.n);
    at.narrow = sherd__muon_padded(at.m);
    at.x = job->scratch + SHERD__MUON_HEAD;
    at.next = at.x + at.narrow * at.wide;
    at.gram = at.next + at.narrow * at.wide;
    at.mix = at.gram + at.narrow * at.narrow;
    return at;
}

sherd_status sherd__cuda_issue_orthogonal(sherd__cuda_stream *stream, const sherd__op *op)
{
    const sherd__orthogonal *job = &op->u.orthogonal;
    int turned = job->rows > job->cols;
    places at = places_of(job, turned);
    sherd__cuda_orthogonal args = {.scalars = job->scalars,
                                   .matrix = job->matrix,
                                   .x = at.x,
                                   .rows = job->rows,
                                   .cols = job->cols,
                                   .pitch = at.wide,
                                   .turned = (uint8_t)turned};
    args.norm = (sherd__norm *)(void *)job->scratch;
    args.scale = sherd__muon_scale(job->rows, job->cols);
    sherd_status status = part(stream, op, &args, SHERD__CUDA_CLEAR);
    if (status == SHERD_OK)
        status = part(stream, op, &args, SHERD__CUDA_NORM);
    if (status == SHERD_OK)
        status = part(stream, op, &args, SHERD__CUDA_BEGIN);
    for (int32_t i = 0; i < job->steps && status == SHERD_OK; i++)
        status = step(stream, op, &at);
    args.x = at.x;
    return status == SHERD_OK ? part(stream, op, &args, SHERD__CUDA_END) : status;
}
