/* SPDX-License-Identifier: MIT
 *
 * Signs of life between nodes. A host that loses its power or its cable sends no note, and MPI says nothing; so each
 * rank's progress thread sends a byte to a few ranks of every other node, several times within silent_after_s, whatever
 * its streams do. A wait for a rank of a node of which nothing has been heard for so long ends (mpi_watch.c).
 *
 * No false alarm:
 *   busy ranks     The thread serves nobody else; a step may take as long as it likes.
 *   stopped ranks  Up to HEARERS ranks of a node are heard by each rank of another: while one of them runs, the node is
 *                  not silent, and the one that stands still has until fail_after_s.
 *   slow links     The byte may have to queue behind data. Data is a sign of life too, piece by piece, and pieces are
 *                  small enough (PIECE) for links that are fit for the work.
 *   own sleep      Who was not running itself, as after SIGCONT or the resumption of a machine, has heard nothing for
 *                  that reason, and begins to listen anew.
 *   the past       Ranks that have left or died by a note are no matter of this: look_for_gone (mpi_watch.c).
 *
 * The byte is static: a send that MPI never lets go of touches nothing of ours.
 */
#include "comm/mpi_comm.h"

#define BEAT_TAG 80
#define BEATS 6 /* within silent_after_s */
#define MOST_NS INT64_C(5000000000)
#define LOOK_NS INT64_C(10000000)

static const char sign = 1;

static int64_t between(const sherd__mpi *mpi)
{
    int64_t ns = mpi->silent_ns / BEATS;
    return ns < MOST_NS ? ns : MOST_NS;
}

static void listen(sherd__mpi *mpi)
{
    if (MPI_Irecv(&mpi->sign, 1, MPI_BYTE, MPI_ANY_SOURCE, BEAT_TAG, mpi->comm, &mpi->listening) != MPI_SUCCESS) {
        mpi->listening = MPI_REQUEST_NULL;
    }
}

static void hear_all(sherd__mpi *mpi, int64_t now)
{
    for (int32_t node = 0; node < mpi->layout.nodes; node++) {
        atomic_store(&mpi->heard_ns[node], now);
    }
}

void sherd__mpi_beat_begin(sherd__mpi *mpi)
{
    hear_all(mpi, sherd__now_ns());
    listen(mpi);
}

/* Does `sender` beat for `hearer`: is it one of those of its node whose turn that rank is? */
int sherd__mpi_beats(const sherd__mpi_layout *layout, int32_t sender, int32_t hearer)
{
    int32_t count = sherd__mpi_count(layout, layout->node_of[sender]);
    int32_t turn = (layout->place[sender] - layout->place[hearer]) % count;

    return layout->node_of[sender] != layout->node_of[hearer] && (turn < 0 ? turn + count : turn) < SHERD__MPI_HEARERS;
}

void sherd__mpi_heard(sherd__mpi *mpi, int32_t rank)
{
    atomic_store(&mpi->heard_ns[mpi->layout.node_of[rank]], sherd__now_ns());
}

static void take(sherd__mpi *mpi)
{
    MPI_Status from;
    int done = 1;

    while (mpi->listening != MPI_REQUEST_NULL && MPI_Test(&mpi->listening, &done, &from) == MPI_SUCCESS && done) {
        if (from.MPI_SOURCE >= 0 && from.MPI_SOURCE < mpi->base.world) {
            sherd__mpi_heard(mpi, from.MPI_SOURCE);
        }
        listen(mpi);
    }
}

static void send(sherd__mpi *mpi)
{
    for (int32_t peer = 0; peer < mpi->base.world; peer++) {
        int done = 1;
        if (!sherd__mpi_beats(&mpi->layout, mpi->base.rank, peer) || atomic_load(&mpi->gone_ns[peer]) != 0) {
            continue;
        }
        if (mpi->beat[peer] != MPI_REQUEST_NULL &&
            (MPI_Test(&mpi->beat[peer], &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || !done)) {
            continue; /* the last one has not left yet: another would not be sooner */
        }
        if (MPI_Isend(&sign, 1, MPI_BYTE, peer, BEAT_TAG, mpi->comm, &mpi->beat[peer]) != MPI_SUCCESS) {
            mpi->beat[peer] = MPI_REQUEST_NULL;
        }
    }
}

void sherd__mpi_beat(sherd__mpi *mpi)
{
    int64_t now = sherd__now_ns(), last = atomic_load(&mpi->listened_ns);

    if (mpi->silent_ns == 0 || now - last < LOOK_NS) {
        return;
    }
    take(mpi);
    if (last != 0 && now - last > mpi->silent_ns / 2) {
        hear_all(mpi, now);
    }
    atomic_store(&mpi->listened_ns, now);
    if (now - mpi->beat_ns >= between(mpi)) {
        mpi->beat_ns = now;
        send(mpi);
    }
}

void sherd__mpi_beat_end(sherd__mpi *mpi)
{
    for (int32_t peer = 0; peer < mpi->base.world; peer++) {
        if (mpi->beat[peer] != MPI_REQUEST_NULL) {
            MPI_Request_free(&mpi->beat[peer]);
        }
    }
}

int sherd__mpi_silent(const sherd__mpi *mpi, int32_t rank)
{
    int64_t now = sherd__now_ns(), listened = atomic_load(&mpi->listened_ns);
    int64_t heard;

    if (mpi->silent_ns == 0 || rank < 0 || mpi->layout.node_of[rank] == mpi->layout.node ||
        atomic_load(&mpi->gone_ns[rank]) != 0 || now - listened > mpi->silent_ns / 2) {
        return 0;
    }
    heard = atomic_load(&mpi->heard_ns[mpi->layout.node_of[rank]]);
    return listened - heard > mpi->silent_ns;
}
