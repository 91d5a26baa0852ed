/* SPDX-License-Identifier: MIT
 *
 * A collective's messages on their way to the progress thread: written when the collective is enqueued, begun in stream
 * order, and kept until its operations have run and its sources have been read.
 */
#include "comm/mpi_comm.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#define DATA_TAG 100

/* 1: whoever had this place of the ring is through with it. */
static int is_free(const sherd__mpi *mpi)
{
    uint32_t former = mpi->counted + 1 - mpi->capacity;
    if (mpi->counted + 1 <= mpi->capacity) {
        return 1;
    }
    return (int32_t)(atomic_load(&mpi->ended) - former) >= 0 && (int32_t)(atomic_load(&mpi->retired) - former) >= 0;
}

static sherd_status wait_for_place(sherd__mpi *mpi)
{
    int64_t begin = sherd__now_ns();
    while (!is_free(mpi)) {
        const struct timespec pause = {0, 100000};
        sherd_status status = sherd__device_error(mpi->base.device, NULL);
        if (status != SHERD_OK) {
            return status;
        }
        if ((double)(sherd__now_ns() - begin) * 1e-9 > mpi->base.fail_after_s + 60) {
            sherd_error error;
            sherd__fail(&error, SHERD_ETIMEOUT, "%" PRIu32 " collectives were enqueued and none has ended",
                        mpi->capacity);
            return sherd__device_poison(mpi->base.device, &error);
        }
        nanosleep(&pause, NULL);
    }
    return SHERD_OK;
}

sherd__mpi_call *sherd__mpi_call_open(sherd__mpi *mpi, sherd__kind kind, sherd__tag tag, uint32_t sizes,
                                      sherd_status *status)
{
    *status = wait_for_place(mpi);
    if (*status != SHERD_OK) {
        return NULL;
    }
    sherd__mpi_call *call = &mpi->ring[mpi->counted % mpi->capacity];
    mpi->counted++;
    call->number = mpi->inside->sequence;
    call->kind = kind;
    call->tag = tag;
    call->what[0] = sherd__direct_call_word(kind, tag);
    call->what[1] = sizes;
    call->data_tag = DATA_TAG;
    call->n_send = call->n_recv = 0;
    call->table_used = 0;
    call->sent = call->received = 0;
    return call;
}

static void put_part(sherd__mpi_part *part, const sherd__mpi_call *call, int32_t peer, void *at, uint64_t bytes)
{
    *part = (sherd__mpi_part){
        .peer = peer, .at = at, .bytes = bytes, .line_request = MPI_REQUEST_NULL, .request = MPI_REQUEST_NULL};
    part->line = (sherd__mpi_line){.number = call->number, .bytes = bytes};
    memcpy(part->line.what, call->what, sizeof call->what);
}

void sherd__mpi_call_send(sherd__mpi_call *call, int32_t peer, const void *at, uint64_t bytes)
{
    void *from = NULL;
    memcpy(&from, &at, sizeof from); /* MPI only reads it */
    put_part(&call->send[call->n_send++], call, peer, from, bytes);
}

void sherd__mpi_call_recv(sherd__mpi_call *call, int32_t peer, void *at, uint64_t bytes)
{
    put_part(&call->recv[call->n_recv++], call, peer, at, bytes);
}

sherd_status sherd__mpi_call_exchange(sherd__mpi *mpi, sherd__mpi_call *call, sherd__stream *stream)
{
    const sherd__device_ops *ops = mpi->base.device->ops;
    sherd__await await = {.flags = (_Atomic uint32_t *const *)mpi->done_flag,
                          .count = 1,
                          .value = call->number,
                          .site = "messages of other nodes",
                          .poll = sherd__mpi_poll,
                          .ctx = &mpi->wait[call->kind]};
    sherd_status status = ops->signal(stream, call->tag, &mpi->requested, mpi->counted);
    return status == SHERD_OK ? ops->await(stream, call->tag, &await) : status;
}

sherd_status sherd__mpi_call_close(sherd__mpi *mpi, sherd__mpi_call *call, sherd__stream *stream)
{
    return mpi->base.device->ops->signal(stream, call->tag, &mpi->ended, mpi->counted);
}

sherd_status sherd__mpi_await_sent(sherd__mpi *mpi, sherd__stream *stream, sherd__tag tag, uint32_t number,
                                   const char *site)
{
    sherd__await await = {.flags = (_Atomic uint32_t *const *)mpi->sent_flag,
                          .count = 1,
                          .value = number,
                          .site = site,
                          .poll = sherd__mpi_poll,
                          .ctx = &mpi->wait[SHERD__KIND_RELEASE]};
    return number == 0 ? SHERD_OK : mpi->base.device->ops->await(stream, tag, &await);
}
