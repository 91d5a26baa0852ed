/* SPDX-License-Identifier: MIT
 *
 * Why a wait goes on, and why it ends. While a rank waits for its peers, this looks, from time to time, for the reasons
 * that would make the wait endless, best reason first:
 *
 *     a peer's process ended (pidfd) and its flag is not there      ERANKDEAD
 *     a peer has given up (its abort record)                        its sentence
 *     a peer has left (destroyed its communicator), flag not there  EABORTED
 *     the limit                                                     ETIMEOUT; before it, one warning
 *
 * Any peer counts, not only the one whose flag is the first missing. "Not there" is judged after its end was seen: a
 * rank may set its flag and end at once, and that is no fault.
 */
#include "base/log.h"
#include "comm/direct.h"

#include <inttypes.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOOK_EVERY_NS 2000000 /* looking costs a system call per peer */

void sherd__flag_wake(_Atomic uint32_t *flag)
{
    syscall(SYS_futex, (void *)flag, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static int reached(_Atomic uint32_t *flag, uint32_t value)
{
    return (int32_t)(atomic_load_explicit(flag, memory_order_acquire) - value) >= 0;
}

/* 1: what this wait needs from `peer` is there. While waiting for arrivals the own arrival is the number waited for:
 * both stand on one stream. */
static int satisfied(const sherd__wait *wait, int32_t peer)
{
    const sherd__direct *direct = wait->comm;
    sherd__control *own = direct->control[direct->base.rank], *theirs = direct->control[peer];
    switch (wait->kind) {
    case SHERD__KIND_WINDOW:
        return reached(&theirs->exchange, atomic_load_explicit(&own->exchange, memory_order_relaxed));
    case SHERD__KIND_RELEASE:
        return reached(&theirs->depart, atomic_load_explicit(&wait->value, memory_order_relaxed));
    default:
        return reached(&theirs->arrive, atomic_load_explicit(&own->arrive, memory_order_relaxed));
    }
}

static uint32_t number_of(const sherd__wait *wait)
{
    sherd__control *own = wait->comm->control[wait->comm->base.rank];
    switch (wait->kind) {
    case SHERD__KIND_WINDOW:
        return atomic_load(&own->exchange);
    case SHERD__KIND_RELEASE:
        return atomic_load(&wait->value);
    default:
        return atomic_load(&own->arrive);
    }
}

void sherd__direct_place(sherd__kind kind, const sherd__tag *tag, char *text, size_t bytes)
{
    if (kind == SHERD__KIND_WINDOW && tag != NULL && tag->name != NULL) {
        snprintf(text, bytes, "%s", tag->name);
    } else if (tag != NULL && tag->bucket >= 0) {
        snprintf(text, bytes, "%s of bucket %" PRId32, sherd__kind_text(kind), tag->bucket);
    } else if (tag != NULL && tag->name != NULL) {
        snprintf(text, bytes, "%s (%s)", sherd__kind_text(kind), tag->name);
    } else {
        snprintf(text, bytes, "%s", sherd__kind_text(kind));
    }
}

/* "rank 1 (pid 77)", and without the pid where ranks are threads */
static void describe_rank(const sherd__direct *direct, int32_t rank, char *text, size_t bytes)
{
    if (direct->pid[rank] != 0) {
        snprintf(text, bytes, "rank %" PRId32 " (pid %" PRId64 ")", direct->number[rank], direct->pid[rank]);
    } else {
        snprintf(text, bytes, "rank %" PRId32, direct->number[rank]);
    }
}

/* What a peer found about a third rank is passed on as it stands: it names who broke. */
static sherd_status report_abort(const sherd__direct *direct, int32_t peer, const char *place, sherd_error *err)
{
    const sherd__abort_record *record = &direct->control[peer]->abort;
    if (record->status == SHERD_ERANKDEAD || record->status == SHERD_EABORTED) {
        return sherd__fail_rank(err, (sherd_status)record->status, record->rank, "%.495s", record->text);
    }
    return sherd__fail_rank(err, SHERD_EABORTED, direct->number[peer], "rank %" PRId32 " gave up during %s: %.495s",
                            direct->number[peer], place, record->text);
}

static int aborted(const sherd__direct *direct, int32_t peer)
{
    return atomic_load_explicit(&direct->control[peer]->abort.set, memory_order_acquire) != 0;
}

static sherd_status look_for_dead(const sherd__wait *wait, const char *place, sherd_error *err)
{
    sherd__direct *direct = wait->comm;
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        if (peer == direct->base.rank || satisfied(wait, peer) || !direct->peers->dead(direct, peer)) {
            continue;
        }
        if (satisfied(wait, peer) || aborted(direct, peer) || atomic_load(&direct->control[peer]->left) != 0) {
            continue; /* an abort or a leave has a better sentence */
        }
        char who[64];
        describe_rank(direct, peer, who, sizeof who);
        return sherd__fail_rank(err, SHERD_ERANKDEAD, direct->number[peer], "%s died during %s", who, place);
    }
    return SHERD_OK;
}

static sherd_status look_for_left(const sherd__wait *wait, const char *place, sherd_error *err)
{
    const sherd__direct *direct = wait->comm;
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        if (peer == direct->base.rank || atomic_load(&direct->control[peer]->left) == 0 || satisfied(wait, peer)) {
            continue;
        }
        char who[64];
        describe_rank(direct, peer, who, sizeof who);
        return sherd__fail_rank(err, SHERD_EABORTED, direct->number[peer],
                                "%s has left (its communicator was destroyed) and is missing in %s", who, place);
    }
    return SHERD_OK;
}

static sherd_status look_for_aborts(const sherd__wait *wait, const char *place, sherd_error *err)
{
    const sherd__direct *direct = wait->comm;
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        if (peer != direct->base.rank && aborted(direct, peer)) {
            return report_abort(direct, peer, place, err);
        }
    }
    const sherd__abort_record *own = &direct->control[direct->base.rank]->abort;
    if (atomic_load_explicit(&own->set, memory_order_acquire) != 0) {
        return sherd__fail_rank(err, (sherd_status)own->status, own->rank, "%.495s", own->text);
    }
    return SHERD_OK;
}

/* Only one of several waits looks at the processes in each interval. */
static int time_to_look(sherd__direct *direct, int64_t waited_ns)
{
    int64_t now = sherd__now_ns(), last = atomic_load_explicit(&direct->looked_ns, memory_order_relaxed);
    return waited_ns >= LOOK_EVERY_NS && now - last >= LOOK_EVERY_NS &&
           atomic_compare_exchange_strong(&direct->looked_ns, &last, now);
}

static sherd_status check_limits(sherd__wait *wait, int32_t which, int64_t waited_ns, const char *place,
                                 sherd_error *err)
{
    sherd__direct *direct = wait->comm;
    double waited_s = (double)waited_ns * 1e-9;
    char who[64];
    if (waited_s >= direct->base.fail_after_s) {
        describe_rank(direct, which, who, sizeof who);
        return sherd__fail_rank(err, SHERD_ETIMEOUT, direct->number[which], "%s did not arrive within %g s at %s", who,
                                direct->base.fail_after_s, place);
    }
    if (waited_s >= direct->base.warn_after_s) {
        uint32_t number = number_of(wait);
        if (atomic_exchange(&wait->warned, number) != number) {
            describe_rank(direct, which, who, sizeof who);
            sherd__log(&direct->base.log, SHERD_LOG_WARNING, "rank %" PRId32 " waited %.3g s for %s in %s",
                       direct->number[direct->base.rank], waited_s, who, place);
        }
    }
    return SHERD_OK;
}

sherd_status sherd__direct_look(const sherd__wait *wait, int64_t waited_ns, const char *place, sherd_error *err)
{
    sherd_status status = time_to_look(wait->comm, waited_ns) ? look_for_dead(wait, place, err) : SHERD_OK;
    if (status == SHERD_OK) {
        status = look_for_aborts(wait, place, err);
    }
    /* Who has left may have done so because it saw a death first. */
    if (status == SHERD_OK && look_for_left(wait, place, NULL) != SHERD_OK) {
        status = look_for_dead(wait, place, err);
        status = status == SHERD_OK ? look_for_left(wait, place, err) : status;
    }
    return status;
}

sherd_status sherd__direct_poll(void *ctx, uint32_t which, int64_t waited_ns, const sherd__tag *tag, sherd_error *err)
{
    sherd__wait *wait = ctx;
    char place[96];
    sherd__direct_place(wait->kind, tag, place, sizeof place);
    sherd_status status = sherd__direct_look(wait, waited_ns, place, err);
    return status == SHERD_OK ? check_limits(wait, (int32_t)which, waited_ns, place, err) : status;
}

sherd_status sherd__direct_guard(void *ctx, sherd_error *err)
{
    const sherd__direct *direct = ctx;
    for (int32_t peer = 0; peer < direct->base.world; peer++) {
        if (peer != direct->base.rank && aborted(direct, peer)) {
            return report_abort(direct, peer, "work that this rank's device waits for", err);
        }
    }
    return SHERD_OK;
}

int sherd__direct_gone(sherd__direct *direct, int32_t peer)
{
    return atomic_load(&direct->control[peer]->left) != 0 || direct->peers->dead(direct, peer);
}

/* The flags' values stay as they are: a woken peer finds the record when it looks why its flag is still missing. */
void sherd__direct_abort(sherd_comm *comm, const sherd_error *why)
{
    sherd__direct *direct = (sherd__direct *)comm;
    sherd__control *own = direct->control[comm->rank];
    if (atomic_exchange(&direct->abort_claimed, 1) != 0) {
        return;
    }
    own->abort.status = why != NULL && why->status != SHERD_OK ? (int32_t)why->status : (int32_t)SHERD_EABORTED;
    own->abort.rank = why != NULL ? why->rank : direct->number[comm->rank];
    snprintf(own->abort.text, sizeof own->abort.text, "%s", why != NULL ? why->text : "no reason was given");
    atomic_store_explicit(&own->abort.set, 1, memory_order_release);
    sherd__flag_wake(&own->arrive);
    sherd__flag_wake(&own->depart);
    sherd__flag_wake(&own->exchange);
}
