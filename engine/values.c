/* SPDX-License-Identifier: MIT
 *
 * Values of a state on their way between steps, however they are kept: as one array of any type, or as a master in two
 * halves, the bf16 working copy and a remainder.
 */
#include <assert.h>

#include "engine/engine.h"

sherd__values sherd__values_from(sherd__values values, int64_t elem)
{
    values.at = sherd__at(values.at, (uint64_t)elem * sherd_dtype_bytes(values.dtype));
    values.remainder = values.remainder ? values.remainder + elem : NULL;
    return values;
}

sherd_status sherd__engine_values_out(sherd_engine *engine, sherd__tag tag, void *to, sherd_dtype dtype,
                                      sherd__values from, int64_t n)
{
    const sherd__device_ops *ops = engine->device->ops;
    sherd__stream *stream = engine->stream[SHERD__COMM];

    assert(!from.remainder || dtype == SHERD_FP32);
    if (from.remainder)
        return ops->join(stream, tag, to, from.at, from.remainder, n);
    return ops->convert(stream, tag, to, dtype, from.at, from.dtype, n, 0);
}

sherd_status sherd__engine_values_in(sherd_engine *engine, sherd__tag tag, sherd__values to, const void *from,
                                     sherd_dtype dtype, int64_t n)
{
    const sherd__device_ops *ops = engine->device->ops;
    sherd__stream *stream = engine->stream[SHERD__COMM];

    assert(!to.remainder || dtype == SHERD_FP32);
    if (to.remainder)
        return ops->split(stream, tag, to.at, to.remainder, from, n);
    return ops->convert(stream, tag, to.at, to.dtype, from, dtype, n, 0);
}
