/* SPDX-License-Identifier: MIT
 *
 * The checking device. Ranks are threads of one process that share a checker, and only the one that has the turn runs:
 * so a run is one sequence of operations, drawn from a seed among all legal ones, and can be drawn again.
 *
 * Turns. A rank's thread takes the turn with its first device call and keeps it while it computes in the client's code.
 * At each of its device calls the scheduler (check_sched.c) may first run operations at the heads of any rank's streams
 * whose waits are satisfied, and may give the turn to another rank that waits in a device call. Operations never run
 * when they are enqueued, except on the compute stream. A thread that blocks elsewhere says so
 * (sherd__device_outside_begin) or loses the turn after a while.
 *
 * Proof. Every stream, compute included, is a component of a vector clock; the calling thread has a clock but no
 * component, since it touches no device memory: what it learned by event_sync is inherited by what it enqueues later.
 * What the compute stream did is not inherited, because a device's compute stream is not its caller: another stream
 * that needs it waits for an event. Records and signals carry the clock of their stream to who waits for them, by
 * number and value, so what a wait brings does not depend on how late it ran. Every operation's reads and writes
 * (check_access.c) are compared with the last write and the reads since it of each piece of memory (check_shadow.c): a
 * conflict without a path of waits is a race, whatever the order in this run was. Because order is proven by clocks, a
 * dropped wait still holds operations back: only its clock is withheld, and the run stays sound.
 *
 * This device allocates while it runs; it is for proving, not for speed.
 */
#ifndef SHERD_DEVICE_CHECK_H
#define SHERD_DEVICE_CHECK_H

#include "device/op.h"
#include "device/trace.h"

#define SHERD__CHECK_COMPONENTS 64
#define SHERD__CHECK_HISTORY 32       /* records of one event that waits may still be late for */
#define SHERD__CHECK_FLAG_HISTORY 512 /* likewise signals of one flag */
#define SHERD__CHECK_SITES 128

typedef struct sherd__clock {
    uint32_t at[SHERD__CHECK_COMPONENTS];
} sherd__clock;

typedef struct sherd__check_flag {
    struct sherd__check_flag *next;
    _Atomic uint32_t *flag;
    uint64_t signals;
    uint32_t value[SHERD__CHECK_FLAG_HISTORY];
    sherd__clock clock[SHERD__CHECK_FLAG_HISTORY];
} sherd__check_flag;

typedef struct sherd__check_device sherd__check_device;

typedef struct sherd__check_event {
    sherd__check_device *device;
    const struct sherd__check_stream *recorder; /* stream of the latest record */
    uint64_t recorded, reached;
    int64_t time_ns;
    sherd__clock clock[SHERD__CHECK_HISTORY];
} sherd__check_event;

typedef struct sherd__check_op {
    sherd__op op;
    sherd__clock host; /* of the enqueueing thread */
} sherd__check_op;

typedef struct sherd__check_stream {
    sherd__stream base;
    struct sherd__check_stream *next; /* of the same rank; compute, which has nothing pending, is not in the list */
    uint32_t component;
    uint32_t capacity, head, count;
    int64_t head_since_ns, polled_ns;
    sherd__check_op *ring;
    sherd__clock clock;
} sherd__check_stream;

typedef enum sherd__check_state {
    SHERD__CHECK_NEW,     /* has not called yet */
    SHERD__CHECK_FREE,    /* its thread is elsewhere, without the turn */
    SHERD__CHECK_WAITING, /* in a device call */
    SHERD__CHECK_TURN,    /* in the client's code, with the turn */
    SHERD__CHECK_LEFT
} sherd__check_state;

/* What a rank's thread waits for in its device call. */
typedef struct sherd__check_wait {
    enum { SHERD__CHECK_NOTHING, SHERD__CHECK_EVENT, SHERD__CHECK_FLAGS, SHERD__CHECK_SPACE, SHERD__CHECK_EMPTY } kind;
    sherd__check_event *event;
    uint64_t number;
    const sherd__await *await;
    const sherd__check_stream *stream;
    const char *site;
    sherd__tag tag;
    int64_t since_ns, polled_ns;
} sherd__check_wait;

typedef struct sherd__check_rank {
    sherd__check_state state;
    pthread_cond_t turn; /* signalled when it is given the turn */
    int32_t expected; /* 1: should call soon; the others wait a moment for it, so that the drawn order does not depend
                         on the machine */
    uint64_t visits;  /* how often it went outside */
    int32_t granted;  /* 1: was given the turn because its wait is satisfied */
    sherd__check_wait wait;
    sherd__check_device *device; /* NULL: none yet, or gone */
    sherd__clock host;
} sherd__check_rank;

struct sherd__check_device {
    sherd_device base;
    sherd_checker *checker;
    int32_t rank;
    pthread_mutex_t call; /* one call of a rank at a time, however many threads its client has */
    const sherd__host_math *math;
    sherd__check_stream *streams;
};

/* Who touched a piece of memory, and when in its stream's count. */
typedef struct sherd__check_access {
    struct sherd__check_access *next;
    uint32_t component, epoch;
    int32_t rank, write;
    const char *stream;
    sherd__tag tag;
    uintptr_t begin, end;
} sherd__check_access;

typedef struct sherd__check_cell {
    uintptr_t begin, end;
    sherd__check_access *write, *reads; /* the last write, or NULL; reads since it, none of which comes after another */
} sherd__check_cell;

/* Cells by address, without overlap. */
typedef struct sherd__check_shadow {
    sherd__check_cell *cells;
    size_t count, capacity;
    sherd__check_access *free;
    struct sherd__check_slab *slabs;
    int out_of_memory;
} sherd__check_shadow;

/* One stream's place in the clocks. */
typedef struct sherd__check_component {
    int32_t taken;
    char name[24]; /* "": never used */
    sherd__clock clock; /* where the last stream that had it ended */
} sherd__check_component;

typedef struct sherd__check_region {
    uintptr_t begin, end;
} sherd__check_region;

struct sherd_checker {
    pthread_mutex_t lock; /* of everything; held in every device call but for waiting */
    pthread_cond_t changed; /* a rank came, went or left: for who has the turn and finds no move */
    int32_t ranks;
    sherd__check_rank *rank;
    int32_t current; /* who has the turn, also while it waits in a call; −1: nobody */
    int32_t last;     /* who was last let go on */
    pthread_t holder; /* the thread that had the turn last */
    int64_t moved_ns; /* when the turn's owner went back to the client's code */
    int64_t idle_since_ns; /* 0: something moved since */
    int64_t swept_ns;
    uint64_t random;
    uint32_t mood_left, eager, restless; /* of 256: to run an operation, to change turns; drawn anew now and then */
    uint64_t lazy; /* components whose operations are put off */
    sherd__check_component component[SHERD__CHECK_COMPONENTS];
    uint64_t late; /* waits that came too late for the history, and may have been given too much order */
    uint64_t operations, order; /* run so far; a digest of which and in what order */
    sherd__check_flag *flags;
    /* Memory that ranks share is compared between all ranks; any other address only within a rank, because the client's
     * allocator hands it around by means that are not seen here. */
    sherd__check_region *regions;
    size_t n_regions, region_capacity;
    sherd__check_shadow shared;
    sherd__check_shadow *own; /* [ranks] */
    const char *drop;
    const char *sites[SHERD__CHECK_SITES];
    uint32_t n_sites;
    uint64_t races;
    sherd_error verdict;
};

/* ---- check_sched.c: called with the lock held, except enter */
/* Takes the lock and the turn, and waits until `wait` (copied) is satisfied; NULL: nothing to wait for. Ends with an
 * error if the device fails or a limit is reached. Whatever comes back, leave follows. */
sherd_status sherd__check_enter(sherd__check_device *device, const sherd__check_wait *wait);
void sherd__check_leave(sherd__check_device *device);
/* The rank takes no more turns. */
void sherd__check_quit(sherd__check_device *device);
void sherd__check_outside_begin(sherd_device *device);
void sherd__check_outside_end(sherd_device *device);

/* ---- check_run.c */
/* Runs one operation on its stream. */
void sherd__check_run(sherd__check_stream *stream, const sherd__op *op, const sherd__clock *host);
/* Is there an operation whose waits are satisfied? */
int sherd__check_runnable(const sherd__check_stream *stream);
void sherd__check_run_head(sherd__check_stream *stream);
void sherd__check_site(sherd_checker *checker, const char *site);
/* The clock that a satisfied wait brings, unless its site is dropped. */
void sherd__check_join_event(sherd_checker *checker, sherd__clock *clock, const sherd__check_event *event,
                             uint64_t number, const char *site);
void sherd__clock_join(sherd__clock *clock, const sherd__clock *other);
/* A digest of which operations ran in which order so far. */
uint64_t sherd__checker_order(sherd_checker *checker);
/* How many waits got a later clock than their own, because theirs was no longer kept; 0: the proof is whole. */
uint64_t sherd__checker_late(sherd_checker *checker);

/* ---- check_access.c */
typedef void (*sherd__access_fn)(void *ctx, const void *address, uint64_t bytes, int32_t write);
/* Everything a kernel, host call or touch reads and writes, from its arguments. */
void sherd__op_accesses(const sherd__op *op, sherd__access_fn fn, void *ctx);

/* ---- check_shadow.c */
/* Compares and notes one access; conflicts go to the verdict. `clock` is the stream's. */
void sherd__shadow_access(sherd_checker *checker, const sherd__check_access *access, const sherd__clock *clock);
void sherd__shadow_forget(sherd_checker *checker, uintptr_t begin, uintptr_t end);
void sherd__shadow_fini(sherd__check_shadow *shadow);
/* Memory that ranks share begins and ends; what was noted about it is forgotten at both. */
sherd_status sherd__check_watch(sherd_checker *checker, const void *address, uint64_t bytes);
void sherd__check_unwatch(sherd_checker *checker, const void *address, uint64_t bytes);
/* The same, with the lock taken (check.c). */
sherd_status sherd__check_device_watch(sherd_device *device, const void *address, uint64_t bytes, sherd_error *err);
void sherd__check_device_unwatch(sherd_device *device, const void *address, uint64_t bytes);

#endif
