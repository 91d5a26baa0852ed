/* SPDX-License-Identifier: MIT
 *
 * The thread that moves messages. One round: begin what the streams have asked for, test what is under way, hear and
 * send notes, look whether a process of this node has died. Nothing in it waits, but for short naps between rounds in
 * which nothing moved; so it ends soon after it is told to, whatever other ranks do.
 *
 * When this rank fails, by its own fault or another's, receives are cancelled and sends are given a moment. What MPI
 * does not let go of then stays mapped for good (STUCK): it might still write there.
 */
#include "comm/mpi_comm.h"
#include "host/futex.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LINE_MAGIC 0x53484C4Eu
#define NOTE_TAG 90
#define LET_GO_NS INT64_C(2000000000)   /* for what is under way when this rank fails */
#define GOODBYE_NS INT64_C(2000000000)  /* for notes when it leaves */
#define LOOK_EVERY_NS INT64_C(10000000) /* at the processes of this node */
#define IDLE_NS INT64_C(1000000)
#define NAP_MIN_NS INT64_C(5000)
#define NAP_MAX_NS INT64_C(200000)

static void give_up(sherd__mpi *mpi, const sherd_error *why)
{
    sherd__mpi_abort(&mpi->base, why);
}

/* 1: went well; else this rank gives up with MPI's words. */
static int check(sherd__mpi *mpi, int code, const sherd__mpi_call *call, int32_t peer)
{
    char words[MPI_MAX_ERROR_STRING] = "", who[128], place[96];
    int length = 0;
    sherd_error error;
    if (code == MPI_SUCCESS) {
        return 1;
    }
    MPI_Error_string(code, words, &length);
    sherd__mpi_describe(mpi, peer, who, sizeof who);
    sherd__direct_place(call->kind, &call->tag, place, sizeof place);
    sherd__fail_rank(&error, SHERD_ESYSTEM, peer,
                     "MPI failed in %s, in a message between rank %" PRId32 " and %s: %.200s", place, mpi->base.rank,
                     who, words);
    give_up(mpi, &error);
    return 0;
}

/* ---------------------------------------------------------------------------------------------------------- messages
 */

/* The next piece of the bytes; a message of none is its line alone. */
static int begin_piece(sherd__mpi *mpi, const sherd__mpi_call *call, sherd__mpi_part *part, int sending)
{
    uint64_t left = part->bytes - part->moved;
    int bytes = (int)(left < SHERD__MPI_PIECE ? left : SHERD__MPI_PIECE);
    char *at = (char *)part->at + part->moved;
    if (left == 0) {
        part->settled = 1;
        return 1;
    }
    return check(mpi,
                 sending ? MPI_Isend(at, bytes, MPI_BYTE, part->peer, call->data_tag, mpi->comm, &part->request)
                         : MPI_Irecv(at, bytes, MPI_BYTE, part->peer, call->data_tag, mpi->comm, &part->request),
                 call, part->peer);
}

static int begin_part(sherd__mpi *mpi, const sherd__mpi_call *call, sherd__mpi_part *part, int sending)
{
    sherd__mpi_line *line = &part->line;
    part->request = part->line_request = MPI_REQUEST_NULL;
    part->moved = 0;
    part->settled = 0;
    if (!sending) {
        return check(mpi,
                     MPI_Irecv(line, (int)sizeof *line, MPI_BYTE, part->peer, call->data_tag + 1, mpi->comm,
                               &part->line_request),
                     call, part->peer);
    }
    line->magic = LINE_MAGIC;
    line->rank = mpi->base.rank;
    if (!check(mpi,
               MPI_Isend(line, (int)sizeof *line, MPI_BYTE, part->peer, call->data_tag + 1, mpi->comm,
                         &part->line_request),
               call, part->peer)) {
        return 0;
    }
    int begun = begin_piece(mpi, call, part, 1);
    part->settled = 0; /* the line may still be under way */
    return begun;
}

/* The line of a message against the own call. */
static int compare(sherd__mpi *mpi, const sherd__mpi_call *call, const sherd__mpi_part *part)
{
    const sherd__mpi_line *line = &part->line;
    char here[64], there[64];
    sherd_error error;
    if (line->magic == LINE_MAGIC && line->number == call->number && line->what[0] == call->what[0] &&
        line->what[1] == call->what[1] && line->bytes == part->bytes) {
        return 1;
    }
    sherd__direct_describe_call(call->what[0], here, sizeof here);
    sherd__direct_describe_call(line->what[0], there, sizeof there);
    if (line->magic != LINE_MAGIC || line->what[0] == call->what[0]) {
        sherd__fail(&error, SHERD_EMISMATCH,
                    "rank %" PRId32 " called %s with another size, place or root than rank %" PRId32, part->peer, there,
                    mpi->base.rank);
    } else {
        sherd__fail(&error, SHERD_EMISMATCH, "rank %" PRId32 " called %s where rank %" PRId32 " called %s", part->peer,
                    there, mpi->base.rank, here);
    }
    give_up(mpi, &error);
    return 0;
}

static int test(sherd__mpi *mpi, const sherd__mpi_call *call, const sherd__mpi_part *part, MPI_Request *request)
{
    int done = 0;
    return check(mpi, MPI_Test(request, &done, MPI_STATUS_IGNORE), call, part->peer) && done;
}

/* 1: something moved. */
static int advance_recv(sherd__mpi *mpi, const sherd__mpi_call *call, sherd__mpi_part *part)
{
    if (part->line_request != MPI_REQUEST_NULL) {
        if (!test(mpi, call, part, &part->line_request)) {
            return 0;
        }
        return compare(mpi, call, part) && begin_piece(mpi, call, part, 0);
    }
    if (part->request == MPI_REQUEST_NULL || !test(mpi, call, part, &part->request)) {
        return 0;
    }
    uint64_t left = part->bytes - part->moved;
    part->moved += left < SHERD__MPI_PIECE ? left : SHERD__MPI_PIECE;
    sherd__mpi_heard(mpi, part->peer);
    return begin_piece(mpi, call, part, 0);
}

static int advance_send(sherd__mpi *mpi, const sherd__mpi_call *call, sherd__mpi_part *part)
{
    int moved = 0;
    if (part->line_request != MPI_REQUEST_NULL) {
        moved = test(mpi, call, part, &part->line_request);
    }
    if (part->request != MPI_REQUEST_NULL && test(mpi, call, part, &part->request)) {
        uint64_t left = part->bytes - part->moved;
        part->moved += left < SHERD__MPI_PIECE ? left : SHERD__MPI_PIECE;
        moved = 1;
        if (part->moved < part->bytes && !begin_piece(mpi, call, part, 1)) {
            return moved;
        }
    }
    part->settled =
        part->line_request == MPI_REQUEST_NULL && part->request == MPI_REQUEST_NULL && part->moved == part->bytes;
    return moved || part->settled;
}

/* The first part that is not settled, or NULL; tests them all. */
static const sherd__mpi_part *advance_parts(sherd__mpi *mpi, sherd__mpi_call *call, sherd__mpi_part *parts, int32_t n,
                                            int sending, int *moved)
{
    const sherd__mpi_part *missing = NULL;
    for (int32_t i = 0; i < n && !atomic_load(&mpi->failed); i++) {
        if (!parts[i].settled) {
            *moved |= sending ? advance_send(mpi, call, &parts[i]) : advance_recv(mpi, call, &parts[i]);
        }
        if (!parts[i].settled && missing == NULL) {
            missing = &parts[i];
        }
    }
    return missing;
}

static void begin_call(sherd__mpi *mpi, sherd__mpi_call *call)
{
    int good = 1;
    call->sent = call->received = 0;
    for (int32_t i = 0; i < call->n_recv && good; i++) {
        good = begin_part(mpi, call, &call->recv[i], 0);
    }
    for (int32_t i = 0; i < call->n_send && good; i++) {
        good = begin_part(mpi, call, &call->send[i], 1);
    }
}

static void count(sherd__mpi *mpi, const sherd__mpi_call *call)
{
    uint64_t out = 0, in = 0, messages = 0;
    for (int32_t i = 0; i < call->n_send; i++) {
        out += call->send[i].bytes + sizeof(sherd__mpi_line);
        messages += 1 + (call->send[i].bytes + SHERD__MPI_PIECE - 1) / SHERD__MPI_PIECE;
    }
    for (int32_t i = 0; i < call->n_recv; i++) {
        in += call->recv[i].bytes + sizeof(sherd__mpi_line);
    }
    atomic_fetch_add(&mpi->base.sent_bytes, out);
    atomic_fetch_add(&mpi->base.received_bytes, in);
    atomic_fetch_add(&mpi->base.sent_messages, messages);
}

/* Tests a call's messages. 1: something moved. */
static int advance_call(sherd__mpi *mpi, sherd__mpi_call *call)
{
    int moved = 0;
    if (!call->received) {
        const sherd__mpi_part *part = advance_parts(mpi, call, call->recv, call->n_recv, 0, &moved);
        call->received = part == NULL && !atomic_load(&mpi->failed);
        atomic_store(&mpi->missing, part != NULL ? part->peer : -1);
    }
    if (!call->sent) {
        const sherd__mpi_part *part = advance_parts(mpi, call, call->send, call->n_send, 1, &moved);
        call->sent = part == NULL && !atomic_load(&mpi->failed);
        if (part != NULL && call->received) {
            atomic_store(&mpi->missing, part->peer);
        }
    }
    return moved;
}

static sherd__mpi_call *call_at(sherd__mpi *mpi, uint32_t number)
{
    return &mpi->ring[(number - 1) % mpi->capacity];
}

/* Only the last call begun can still receive: a stream goes on when it has. */
static int move_calls(sherd__mpi *mpi)
{
    int moved = 0;
    while (mpi->started != atomic_load_explicit(&mpi->requested, memory_order_acquire)) {
        begin_call(mpi, call_at(mpi, ++mpi->started));
        moved = 1;
    }
    uint32_t retired = atomic_load(&mpi->retired);
    int oldest = 1;
    for (uint32_t at = retired + 1; (int32_t)(mpi->started - at) >= 0 && !atomic_load(&mpi->failed); at++) {
        sherd__mpi_call *call = call_at(mpi, at);
        int before = call->received;
        moved |= advance_call(mpi, call);
        if (call->received && !before) {
            count(mpi, call);
            atomic_store_explicit(&mpi->done, call->number, memory_order_release);
            sherd__flag_wake(&mpi->done);
        }
        oldest = oldest && call->received && call->sent;
        if (oldest) {
            atomic_store_explicit(&mpi->sent, call->number, memory_order_release);
            sherd__flag_wake(&mpi->sent);
            atomic_store_explicit(&mpi->retired, at, memory_order_release);
        }
    }
    return moved;
}

/* An agreement of the callers' threads is a call of its own. */
static int move_agreement(sherd__mpi *mpi)
{
    if (mpi->agreements == atomic_load_explicit(&mpi->agreement, memory_order_acquire)) {
        if (atomic_load(&mpi->agreed) == mpi->agreements) {
            return 0;
        }
    } else {
        mpi->agreements++;
        begin_call(mpi, &mpi->agree);
    }
    int moved = advance_call(mpi, &mpi->agree);
    if (mpi->agree.received && mpi->agree.sent) {
        atomic_store_explicit(&mpi->agreed, mpi->agreements, memory_order_release);
    }
    return moved;
}

/* ------------------------------------------------------------------------------------------------------------- notes
 */

static void hear(sherd__mpi *mpi)
{
    if (MPI_Irecv(&mpi->heard, (int)sizeof mpi->heard, MPI_BYTE, MPI_ANY_SOURCE, NOTE_TAG, mpi->comm, &mpi->hearing) !=
        MPI_SUCCESS) {
        mpi->hearing = MPI_REQUEST_NULL;
    }
}

static void note_gone(sherd__mpi *mpi, int32_t rank, int32_t how)
{
    int64_t never = 0;
    if (rank >= 0 && rank < mpi->base.world) {
        if (how == SHERD__MPI_DEAD || atomic_load(&mpi->gone_ns[rank]) == 0) {
            atomic_store(&mpi->gone_how[rank], how);
        }
        atomic_compare_exchange_strong(&mpi->gone_ns[rank], &never, sherd__now_ns());
    }
}

/* What a rank found about a third is passed on as it stands: it names who broke. */
static void take_abort(sherd__mpi *mpi, const sherd__mpi_note *note)
{
    sherd_error error;
    if (note->status == SHERD_ERANKDEAD || note->status == SHERD_EABORTED) {
        sherd__fail_rank(&error, (sherd_status)note->status, note->rank, "%.491s", note->text);
    } else {
        sherd__fail_rank(&error, SHERD_EABORTED, note->from, "rank %" PRId32 " gave up: %.470s", note->from,
                         note->text);
    }
    sherd__mpi_adopt(mpi, &error);
}

static int take_notes(sherd__mpi *mpi)
{
    int done = 0;
    if (mpi->hearing == MPI_REQUEST_NULL || MPI_Test(&mpi->hearing, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || !done) {
        return 0;
    }
    sherd__mpi_note note = mpi->heard;
    note.text[sizeof note.text - 1] = '\0';
    hear(mpi);
    if (note.magic == LINE_MAGIC && note.kind == SHERD__MPI_ABORT) {
        take_abort(mpi, &note);
    } else if (note.magic == LINE_MAGIC) {
        note_gone(mpi, note.rank, note.kind);
    }
    return 1;
}

static void write_note(sherd__mpi *mpi, int kind)
{
    sherd__mpi_note *note = &mpi->note[kind].note;
    note->magic = LINE_MAGIC;
    note->kind = kind;
    note->from = mpi->base.rank;
    if (kind == SHERD__MPI_LEFT) {
        note->rank = mpi->base.rank;
    } else if (kind == SHERD__MPI_ABORT) {
        const sherd__abort_record *record = &mpi->inside->control[mpi->inside->base.rank]->abort;
        note->status = record->status;
        note->rank = record->rank;
        snprintf(note->text, sizeof note->text, "%.491s", record->text);
    }
}

static int send_notes(sherd__mpi *mpi)
{
    int moved = 0;
    for (int kind = 0; kind < SHERD__MPI_NOTES; kind++) {
        if (mpi->note[kind].begun || !atomic_load(&mpi->note_wanted[kind])) {
            continue;
        }
        mpi->note[kind].begun = moved = 1;
        if (kind == SHERD__MPI_ABORT && atomic_load(&mpi->told)) {
            continue;
        }
        write_note(mpi, kind);
        for (int32_t peer = 0; peer < mpi->base.world; peer++) {
            if (mpi->layout.node_of[peer] != mpi->layout.node &&
                MPI_Isend(&mpi->note[kind].note, (int)sizeof(sherd__mpi_note), MPI_BYTE, peer, NOTE_TAG, mpi->comm,
                          &mpi->note[kind].request[peer]) != MPI_SUCCESS) {
                mpi->note[kind].request[peer] = MPI_REQUEST_NULL;
            }
        }
    }
    return moved;
}

/* 1: all that was begun has gone, and nothing waits to begin. */
static int notes_gone(sherd__mpi *mpi)
{
    int all = 1;
    for (int kind = 0; kind < SHERD__MPI_NOTES; kind++) {
        all = all && (mpi->note[kind].begun || !atomic_load(&mpi->note_wanted[kind]));
        for (int32_t peer = 0; peer < mpi->base.world; peer++) {
            int done = 1;
            if (mpi->note[kind].request[peer] != MPI_REQUEST_NULL &&
                MPI_Test(&mpi->note[kind].request[peer], &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) {
                done = 1;
            }
            all = all && done;
        }
    }
    return all;
}

/* A dead rank of this node: other nodes cannot see it. What it sent before may be on its way, so this rank does not
 * fail. */
static void look_at_node(sherd__mpi *mpi)
{
    sherd__direct *inside = mpi->inside;
    int64_t now = sherd__now_ns();
    if (now - mpi->looked_ns < LOOK_EVERY_NS || atomic_load(&mpi->note_wanted[SHERD__MPI_DEAD])) {
        return;
    }
    mpi->looked_ns = now;
    for (int32_t peer = 0; peer < inside->base.world; peer++) {
        const sherd__control *theirs = inside->control[peer];
        if (peer != inside->base.rank && atomic_load(&theirs->left) == 0 && atomic_load(&theirs->abort.set) == 0 &&
            inside->peers->dead(inside, peer) && atomic_load(&theirs->left) == 0 &&
            atomic_load(&theirs->abort.set) == 0) {
            mpi->note[SHERD__MPI_DEAD].note.rank = inside->number[peer];
            atomic_store(&mpi->note_wanted[SHERD__MPI_DEAD], 1);
            return;
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------- the loop
 */

/* 1: MPI has let go of the request. */
static int let_go(MPI_Request *request, int receiving)
{
    int done = 1;
    if (*request == MPI_REQUEST_NULL) {
        return 1;
    }
    if (receiving) {
        MPI_Cancel(request);
    }
    return MPI_Test(request, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && done;
}

/* Notes and signs of life. */
static int hear_no_more(sherd__mpi *mpi)
{
    int gone = let_go(&mpi->hearing, 1);
    return let_go(&mpi->listening, 1) && gone;
}

static int let_go_of_call(sherd__mpi_call *call)
{
    int all = 1;
    for (int32_t i = 0; i < call->n_recv; i++) {
        all &= let_go(&call->recv[i].line_request, 1) & let_go(&call->recv[i].request, 1);
    }
    for (int32_t i = 0; i < call->n_send; i++) {
        all &= let_go(&call->send[i].line_request, 0) & let_go(&call->send[i].request, 0);
    }
    return all;
}

static int let_go_of_all(sherd__mpi *mpi)
{
    int all = mpi->agreements == atomic_load(&mpi->agreed) || let_go_of_call(&mpi->agree);
    for (uint32_t at = atomic_load(&mpi->retired) + 1; (int32_t)(mpi->started - at) >= 0; at++) {
        all &= let_go_of_call(call_at(mpi, at));
    }
    return all;
}

/* Once failed: no new messages, and the old ones end. */
static void unwind(sherd__mpi *mpi, int64_t *since)
{
    int64_t now = sherd__now_ns();
    *since = *since == 0 ? now : *since;
    if (atomic_load(&mpi->rest) == SHERD__MPI_BUSY) {
        if (let_go_of_all(mpi)) {
            atomic_store(&mpi->rest, SHERD__MPI_QUIET);
        } else if (now - *since > LET_GO_NS) {
            atomic_store(&mpi->rest, SHERD__MPI_STUCK);
        }
    }
}

static void nap(sherd__mpi *mpi, int idle, int64_t *ns)
{
    if (idle) {
        sherd__futex_wait(&mpi->requested, mpi->started, IDLE_NS, SHERD__FUTEX_SHARED);
        return;
    }
    const struct timespec pause = {0, *ns};
    nanosleep(&pause, NULL);
    *ns = *ns * 2 < NAP_MAX_NS ? *ns * 2 : NAP_MAX_NS;
}

static int under_way(sherd__mpi *mpi)
{
    return atomic_load(&mpi->retired) != mpi->started || atomic_load(&mpi->agreed) != atomic_load(&mpi->agreement) ||
           atomic_load(&mpi->order) != SHERD__MPI_SERVE;
}

/* Says goodbye and ends what is left; within its limit. */
static int may_end(sherd__mpi *mpi, int64_t *since)
{
    int failed = atomic_load(&mpi->failed);
    *since = *since == 0 ? sherd__now_ns() : *since;
    if (!failed) {
        atomic_store(&mpi->note_wanted[SHERD__MPI_LEFT], 1);
    }
    send_notes(mpi);
    int quiet = failed ? atomic_load(&mpi->rest) != SHERD__MPI_BUSY : atomic_load(&mpi->retired) == mpi->started;
    int through = notes_gone(mpi) && quiet;
    return through || sherd__now_ns() - *since > GOODBYE_NS + LET_GO_NS;
}

void *sherd__mpi_progress(void *arg)
{
    sherd__mpi *mpi = arg;
    int64_t failing = 0, leaving = 0, pause = NAP_MIN_NS;
    hear(mpi);
    sherd__mpi_beat_begin(mpi);
    for (;;) {
        int moved = 0;
        if (!atomic_load(&mpi->failed)) {
            moved = move_calls(mpi) | move_agreement(mpi);
            look_at_node(mpi);
            sherd__mpi_beat(mpi);
        } else {
            unwind(mpi, &failing);
        }
        moved |= take_notes(mpi) | send_notes(mpi);
        if (atomic_load(&mpi->order) == SHERD__MPI_LEAVE && may_end(mpi, &leaving)) {
            break;
        }
        pause = moved ? NAP_MIN_NS : pause;
        if (!moved) {
            nap(mpi, !under_way(mpi), &pause);
        }
    }
    sherd__mpi_beat_end(mpi);
    for (int look = 0; look < 100 && !hear_no_more(mpi); look++) {
        const struct timespec moment = {0, 1000000};
        nanosleep(&moment, NULL);
    }
    return NULL;
}
