/* SPDX-License-Identifier: MIT
 *
 * Why a wait for NCCL goes on, and why it ends. The first reason found becomes the communicator's error, and
 * everybody's.
 */
#include "comm/nccl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

#define BUSY_NS INT64_C(3000000)
#define QUIET_NS INT64_C(50000000)
#define LONGEST_NAP_NS 500000

void sherd__nccl_place(sherd__kind kind, const sherd__tag *tag, char *text, size_t capacity)
{
    if (tag && tag->bucket >= 0)
        snprintf(text, capacity, "%s of bucket %" PRId32, sherd__kind_text(kind), tag->bucket);
    else
        snprintf(text, capacity, "%s (%s)", sherd__kind_text(kind), tag && tag->name ? tag->name : "");
}

void sherd__nccl_nap(uint32_t *naps)
{
    int64_t ns = INT64_C(1000) << (*naps < 9 ? *naps : 9);
    struct timespec pause = {0, (long)(ns < LONGEST_NAP_NS ? ns : LONGEST_NAP_NS)};
    (void)nanosleep(&pause, NULL);
    *naps += 1;
}

void sherd__nccl_give_up(sherd__nccl *nccl, const sherd_error *why)
{
    sherd_error error = {.status = SHERD_EABORTED, .rank = nccl->base.rank, .text = "no reason was given"};
    if (why && why->status != SHERD_OK)
        error = *why;
    pthread_mutex_lock(&nccl->lock);
    int first = !atomic_load(&nccl->failed);
    if (first) {
        nccl->error = error;
        nccl->order = SHERD__NCCL_ABORT;
        atomic_store(&nccl->failed, 1);
    }
    if (nccl->base.device)
        sherd__device_poison(nccl->base.device, &nccl->error);
    pthread_cond_broadcast(&nccl->changed);
    pthread_mutex_unlock(&nccl->lock);
    if (first && nccl->side)
        sherd__direct_abort(&nccl->side->base, &error);
}

sherd_status sherd__nccl_error(sherd__nccl *nccl, sherd_error *err)
{
    if (!atomic_load(&nccl->failed))
        return SHERD_OK;
    pthread_mutex_lock(&nccl->lock);
    sherd_status status = sherd__pass(err, &nccl->error);
    pthread_mutex_unlock(&nccl->lock);
    return status;
}

sherd_status sherd__nccl_refused(sherd__nccl *nccl, int code, const char *what, sherd_error *err)
{
    const char *last = nccl->api->GetLastError(NULL);
    const char *peers = code == SHERD__NCCL_REMOTE_ERROR ? "; a peer is gone or cannot be reached" : "";
    return sherd__fail(err, SHERD_EDEVICE, "NCCL in %s: %s (%d)%s%s%.250s; NCCL_DEBUG=WARN makes it say more", what,
                       nccl->api->GetErrorString(code), code, peers, last && last[0] ? ": " : "", last ? last : "");
}

/* --------------------------------------------------------------------------------------------------------------- looks
 */

/* The peer that is to blame for the limit: one that has not even issued the collective. -1: all have, or nobody knows.
 */
static int32_t late_peer(const sherd__nccl *nccl, uint32_t number)
{
    for (int32_t peer = 0; nccl->side && number && peer < nccl->base.world; peer++)
        if ((int32_t)(atomic_load(&nccl->side->control[peer]->arrive) - number) < 0)
            return peer;
    return -1;
}

static sherd_status out_of_time(sherd__nccl *nccl, uint32_t number, const char *place, sherd_error *err)
{
    int32_t late = late_peer(nccl, number);
    double limit = nccl->base.fail_after_s;
    if (late >= 0)
        return sherd__fail_rank(err, SHERD_ETIMEOUT, late, "rank %" PRId32 " did not arrive within %g s at %s", late,
                                limit, place);
    if (nccl->side && number)
        return sherd__fail(err, SHERD_ETIMEOUT,
                           "NCCL did not finish %s within %g s, though all ranks have entered it: see NCCL_DEBUG=INFO",
                           place, limit);
    return sherd__fail(err, SHERD_ETIMEOUT,
                       "NCCL did not finish %s within %g s: a rank has not come, or is gone (NCCL does not say which)",
                       place, limit);
}

#define LEAVING_NS INT64_C(3000000000)

/* Waits that no number stands for (creation, windows): a peer that is through with its part may leave in good order
 * while NCCL still finishes ours. So its leaving is held against it only when some time has passed; an abort counts at
 * once. */
static int only_left_lately(sherd__nccl *nccl)
{
    int64_t now = sherd__now_ns(), never = 0;
    int left = 0;

    for (int32_t peer = 0; peer < nccl->base.world; peer++) {
        if (atomic_load(&nccl->side->control[peer]->abort.set) != 0)
            return 0;
        left |= atomic_load(&nccl->side->control[peer]->left) != 0;
    }
    if (!left)
        return 0;
    (void)atomic_compare_exchange_strong(&nccl->left_seen_ns, &never, now);
    return now - atomic_load(&nccl->left_seen_ns) < LEAVING_NS;
}

sherd_status sherd__nccl_look(sherd__nccl *nccl, uint32_t number, int64_t waited_ns, const char *place,
                              sherd_error *err)
{
    sherd_status status = sherd__nccl_error(nccl, err);
    if (status == SHERD_OK && nccl->side) {
        sherd__wait wait = {.comm = nccl->side, .kind = SHERD__KIND_RELEASE};
        uint32_t own = atomic_load(&nccl->side->control[nccl->base.rank]->depart);
        atomic_init(&wait.value, number ? number : own + 0x40000000u); /* which nobody has reached */
        status = sherd__direct_look(&wait, waited_ns, place, err);
        if (status == SHERD_EABORTED && number == 0 && only_left_lately(nccl))
            status = SHERD_OK;
    }
    if (status == SHERD_OK && (double)waited_ns * 1e-9 >= nccl->base.fail_after_s)
        status = out_of_time(nccl, number, place, err);
    return status;
}

sherd_status sherd__nccl_settle(sherd__nccl *nccl, int code, uint32_t number, const char *place, sherd_error *err)
{
    int64_t begin = sherd__now_ns();
    uint32_t naps = 0;
    while (code == SHERD__NCCL_IN_PROGRESS) {
        sherd_status status = sherd__nccl_look(nccl, number, sherd__now_ns() - begin, place, err);
        if (status != SHERD_OK)
            return status;
        sherd__nccl_nap(&naps);
        pthread_mutex_lock(&nccl->calls);
        if (nccl->comm) {
            int asked = nccl->api->CommGetAsyncError(nccl->comm, &code);
            code = asked == SHERD__NCCL_SUCCESS ? code : asked;
        }
        pthread_mutex_unlock(&nccl->calls);
    }
    return code == SHERD__NCCL_SUCCESS ? SHERD_OK : sherd__nccl_refused(nccl, code, place, err);
}

sherd_status sherd__nccl_idle(sherd__nccl *nccl, const char *place, sherd_error *err)
{
    int64_t begin = sherd__now_ns();
    uint32_t naps = 0;
    int code;
    while ((code = (int)cudaStreamQuery(nccl->stream)) == (int)cudaErrorNotReady) {
        sherd_status status = sherd__nccl_look(nccl, 0, sherd__now_ns() - begin, place, err);
        if (status != SHERD_OK)
            return status;
        sherd__nccl_nap(&naps);
    }
    return code == (int)cudaSuccess ? SHERD_OK : sherd__cuda_refused(err, code, "cudaStreamQuery");
}

/* --------------------------------------------------------------------------------------------------------------- marks
 */

static void publish(sherd__nccl *nccl)
{
    if (nccl->side)
        atomic_store_explicit(&nccl->side->control[nccl->base.rank]->depart, nccl->finished, memory_order_release);
}

void sherd__nccl_advance(sherd__nccl *nccl)
{
    while (nccl->tail != nccl->head) {
        sherd__nccl_mark *mark = &nccl->mark[nccl->tail % SHERD__NCCL_MARKS];
        if (!mark->whole)
            break;
        if (cudaEventQuery(mark->end) != cudaSuccess) {
            if (!mark->started_ns && cudaEventQuery(mark->begin) == cudaSuccess)
                mark->started_ns = sherd__now_ns();
            break;
        }
        nccl->finished = mark->number;
        nccl->tail++;
    }
    publish(nccl);
}

/* The oldest collective under way on the GPU, if there is one. */
static int under_way(sherd__nccl *nccl, sherd__nccl_mark *out)
{
    pthread_mutex_lock(&nccl->lock);
    sherd__nccl_advance(nccl);
    *out = nccl->mark[nccl->tail % SHERD__NCCL_MARKS];
    int found = nccl->tail != nccl->head && out->whole && out->started_ns;
    pthread_mutex_unlock(&nccl->lock);
    return found;
}

static void warn(sherd__nccl *nccl, const sherd__nccl_mark *mark, int64_t waited_ns, const char *place)
{
    if ((double)waited_ns * 1e-9 < nccl->base.warn_after_s || nccl->warned == mark->number)
        return;
    nccl->warned = mark->number;
    int32_t late = late_peer(nccl, mark->number);
    char who[32] = "its peers";
    if (late >= 0)
        snprintf(who, sizeof who, "rank %" PRId32, late);
    sherd__log(&nccl->base.log, SHERD_LOG_WARNING, "rank %" PRId32 " waited %.3g s for %s in %s", nccl->base.rank,
               (double)waited_ns * 1e-9, who, place);
}

static sherd_status look_at_gpu(sherd__nccl *nccl, sherd_error *err)
{
    sherd__nccl_mark mark;
    char place[96];
    if (!under_way(nccl, &mark))
        return SHERD_OK;
    int64_t waited = sherd__now_ns() - mark.started_ns;
    sherd__nccl_place(mark.kind, &mark.tag, place, sizeof place);
    warn(nccl, &mark, waited, place);
    return sherd__nccl_look(nccl, mark.number, waited, place, err);
}

static sherd_status look_at_nccl(sherd__nccl *nccl, sherd_error *err)
{
    int code = SHERD__NCCL_SUCCESS;
    if (pthread_mutex_trylock(&nccl->calls) != 0)
        return SHERD_OK; /* somebody is calling and will see it */
    int asked = nccl->comm ? nccl->api->CommGetAsyncError(nccl->comm, &code) : SHERD__NCCL_SUCCESS;
    pthread_mutex_unlock(&nccl->calls);
    code = asked != SHERD__NCCL_SUCCESS ? asked : code;
    if (code == SHERD__NCCL_SUCCESS || code == SHERD__NCCL_IN_PROGRESS)
        return SHERD_OK;
    sherd__nccl_mark mark;
    char place[96] = "the background";
    if (under_way(nccl, &mark))
        sherd__nccl_place(mark.kind, &mark.tag, place, sizeof place);
    return sherd__nccl_refused(nccl, code, place, err);
}

static sherd_status look_at_device(sherd__nccl *nccl, sherd_error *err)
{
    pthread_mutex_lock(&nccl->lock);
    sherd_status status = nccl->base.device ? sherd__device_error(nccl->base.device, err) : SHERD_OK;
    pthread_mutex_unlock(&nccl->lock);
    return status;
}

/* 0: an order has come. */
static int rest(sherd__nccl *nccl)
{
    struct timespec until;
    pthread_mutex_lock(&nccl->lock);
    if (nccl->order == SHERD__NCCL_STAY) {
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        int64_t sum = until.tv_nsec + (nccl->tail != nccl->head ? BUSY_NS : QUIET_NS);
        until.tv_sec += (time_t)(sum / 1000000000);
        until.tv_nsec = (long)(sum % 1000000000);
        pthread_cond_timedwait(&nccl->changed, &nccl->lock, &until);
    }
    int on = nccl->order == SHERD__NCCL_STAY;
    pthread_mutex_unlock(&nccl->lock);
    return on;
}

void sherd__nccl_watch(sherd__nccl *nccl)
{
    while (rest(nccl)) {
        sherd_error error = {0};
        sherd_status status = look_at_device(nccl, &error);
        if (status == SHERD_OK)
            status = look_at_nccl(nccl, &error);
        if (status == SHERD_OK)
            status = look_at_gpu(nccl, &error);
        if (status != SHERD_OK)
            sherd__nccl_give_up(nccl, &error);
    }
}
