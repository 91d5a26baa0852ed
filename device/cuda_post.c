/* SPDX-License-Identifier: MIT
 *
 * Meeting ranks of one process without a callback: a flag is set when the work before it is *given* to the GPU, with an
 * event recorded behind that work. Who waits for the flag holds its issuing thread until the flag is there, then lets
 * its stream wait for the event. So a collective costs no round trip through the host.
 *
 * Why no cycle can arise: a stream waits only for events that were recorded before the wait was issued, and those stand
 * behind work that was issued before them. All dependences point back in the order of issue.
 *
 * Why a ring of RING events is enough: an event that was recorded again in the meantime stands for later work of the
 * same stream, which is stricter than asked, never less, and by the above never a deadlock. The owner can be at most
 * one collective ahead of a rank that waits for its arrival; only old releases find their event reused, and then wait
 * for the oldest that is left.
 *
 * Posts outlive their device: a peer may ask for a post at the very moment when its owner leaves. By then everything
 * the events stand for has been reached.
 */
#include "device/cuda.h"

#define RING 64

struct sherd__post {
    int ordinal;
    cudaEvent_t event[RING];
};

static void destroy_events(sherd__post *post, int n)
{
    for (int i = 0; i < n; i++)
        (void)cudaEventDestroy(post->event[i]);
}

sherd_status sherd__cuda_post_create(sherd_device *device, sherd__post **out, sherd_error *err)
{
    sherd__post *post = sherd__alloc(&sherd__default_allocator, 1, sizeof *post);
    int n = 0, code = (int)cudaSuccess;
    if (!post)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a rank's marks");
    int former = sherd__cuda_enter(device);
    post->ordinal = ((sherd__cuda_device *)device)->ordinal;
    for (; n < RING && code == (int)cudaSuccess; n++)
        code = (int)cudaEventCreateWithFlags(&post->event[n], cudaEventDisableTiming);
    if (code != (int)cudaSuccess)
        destroy_events(post, n - 1);
    sherd__cuda_leave(device, former);
    if (code == (int)cudaSuccess) {
        *out = post;
        return SHERD_OK;
    }
    sherd__free(&sherd__default_allocator, post, 1, sizeof *post);
    return sherd__cuda_refused(err, code, "cudaEventCreateWithFlags");
}

void sherd__cuda_post_destroy(sherd__post *post)
{
    if (!post)
        return;
    destroy_events(post, RING);
    sherd__free(&sherd__default_allocator, post, 1, sizeof *post);
}

int sherd__cuda_post_record(sherd__post *post, uint32_t value, cudaStream_t stream)
{
    return (int)cudaEventRecord(post->event[value % RING], stream);
}

int sherd__cuda_post_wait(const sherd__post *post, uint32_t value, uint32_t reached, cudaStream_t stream)
{
    uint32_t oldest = reached - (RING - 1);
    if ((int32_t)(oldest - value) > 0)
        value = oldest;
    return (int)cudaStreamWaitEvent(stream, post->event[value % RING], 0);
}

sherd_status sherd__cuda_meet(sherd__stream *stream, sherd__tag tag, const sherd__meet *meet)
{
    sherd__op op = {.kind = SHERD__OP_MEET, .tag = tag, .u.meet = *meet};
    return stream->submit(stream, &op);
}

sherd_status sherd__cuda_announce(sherd__stream *stream, sherd__tag tag, _Atomic uint32_t *flag, uint32_t value,
                                  sherd__post *post)
{
    sherd__op op = {.kind = SHERD__OP_SIGNAL, .tag = tag};
    op.u.signal.flag = flag;
    op.u.signal.value = value;
    op.u.signal.post = post;
    return stream->submit(stream, &op);
}
