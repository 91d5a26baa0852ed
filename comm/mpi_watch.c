/* SPDX-License-Identifier: MIT
 *
 * Why a wait for another node's message ends. In this node processes can be watched; of other nodes' ranks only what
 * they, or their own nodes, say is known:
 *
 *     an abort       by a note, which becomes this rank's own abort record
 *     a death        by a note of a rank of the dead one's node; what it sent before may still come, so the wait goes on
 *                    for GRACE_NS
 *     having left    by a note, likewise
 *     a lost node    by its silence (mpi_beat.c)
 *     standing still by the limit alone. It is longer than that of waits inside a node: there the rank that is really
 *                    missing is seen, and named to everybody in time.
 */
#include "base/log.h"
#include "comm/mpi_comm.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define GRACE_NS INT64_C(1000000000)

void sherd__mpi_describe(const sherd__mpi *mpi, int32_t rank, char *text, size_t bytes)
{
    const sherd__identity *who = &mpi->who[rank];
    snprintf(text, bytes, "rank %" PRId32 " (pid %" PRId64 " on %.64s)", rank, who->pid, who->host);
}

static sherd_status look_for_gone(const sherd__mpi *mpi, int32_t rank, const char *place, sherd_error *err)
{
    int64_t since = rank >= 0 ? atomic_load(&mpi->gone_ns[rank]) : 0;
    char who[128];
    if (since == 0 || sherd__now_ns() - since < GRACE_NS) {
        return SHERD_OK;
    }
    sherd__mpi_describe(mpi, rank, who, sizeof who);
    if (atomic_load(&mpi->gone_how[rank]) == SHERD__MPI_DEAD) {
        return sherd__fail_rank(err, SHERD_ERANKDEAD, rank, "%s died during %s", who, place);
    }
    return sherd__fail_rank(err, SHERD_EABORTED, rank,
                            "%s has left (its communicator was destroyed) and is missing in %s", who, place);
}

static sherd_status look_for_silent(const sherd__mpi *mpi, int32_t rank, const char *place, sherd_error *err)
{
    char who[128];
    if (!sherd__mpi_silent(mpi, rank)) {
        return SHERD_OK;
    }
    sherd__mpi_describe(mpi, rank, who, sizeof who);
    return sherd__fail_rank(err, SHERD_ETIMEOUT, rank,
                            "%s is missing in %s, and nothing of its node was heard for %g s: the host is down or cut "
                            "off, or its ranks stand still (sherd.silent_after_s)",
                            who, place, (double)mpi->silent_ns * 1e-9);
}

static double patience(const sherd__mpi *mpi)
{
    double limit = mpi->base.fail_after_s, more = limit / 4;
    return limit + (more < 0.5 ? 0.5 : more > 10 ? 10 : more);
}

static sherd_status check_limits(sherd__mpi_wait *wait, int32_t rank, int64_t waited_ns, const char *place,
                                 sherd_error *err)
{
    sherd__mpi *mpi = wait->mpi;
    double waited_s = (double)waited_ns * 1e-9;
    char who[128] = "messages of its own";
    if (rank >= 0) {
        sherd__mpi_describe(mpi, rank, who, sizeof who);
    }
    if (waited_s >= patience(mpi)) {
        return sherd__fail_rank(err, SHERD_ETIMEOUT, rank, "%s did not arrive within %g s at %s", who,
                                mpi->base.fail_after_s, place);
    }
    if (waited_s >= mpi->base.warn_after_s) {
        uint32_t number = atomic_load(&mpi->requested);
        if (atomic_exchange(&wait->warned, number) != number) {
            sherd__log(&mpi->base.log, SHERD_LOG_WARNING, "rank %" PRId32 " waited %.3g s for %s in %s", mpi->base.rank,
                       waited_s, who, place);
        }
    }
    return SHERD_OK;
}

sherd_status sherd__mpi_poll(void *ctx, uint32_t which, int64_t waited_ns, const sherd__tag *tag, sherd_error *err)
{
    sherd__mpi_wait *wait = ctx;
    sherd__mpi *mpi = wait->mpi;
    int32_t missing = atomic_load(&mpi->missing);
    char place[96];
    (void)which;
    sherd__direct_place(wait->kind, tag, place, sizeof place);
    sherd_status status = sherd__direct_look(&mpi->inside->wait[SHERD__KIND_BARRIER], waited_ns, place, err);
    if (status == SHERD_OK) {
        status = look_for_gone(mpi, missing, place, err);
    }
    if (status == SHERD_OK) {
        status = look_for_silent(mpi, missing, place, err);
    }
    return status == SHERD_OK ? check_limits(wait, missing, waited_ns, place, err) : status;
}

/* ------------------------------------------------------------------------------------------------------------ giving
 * up */

static void wake_waiters(sherd__mpi *mpi)
{
    sherd__flag_wake(&mpi->done);
    sherd__flag_wake(&mpi->sent);
    sherd__flag_wake(&mpi->requested);
}

void sherd__mpi_adopt(sherd__mpi *mpi, const sherd_error *why)
{
    atomic_store(&mpi->told, 1);
    sherd__direct_abort(&mpi->inside->base, why);
    atomic_store(&mpi->failed, 1);
    wake_waiters(mpi);
}

void sherd__mpi_abort(sherd_comm *comm, const sherd_error *why)
{
    sherd__mpi *mpi = (sherd__mpi *)comm;
    sherd__direct_abort(&mpi->inside->base, why);
    atomic_store(&mpi->failed, 1);
    atomic_store(&mpi->note_wanted[SHERD__MPI_ABORT], 1);
    wake_waiters(mpi);
}
