/* SPDX-License-Identifier: MIT
 *
 * Collectives of two ranks over shared memory, beside two yardsticks in the same run, interleaved call by call:
 *
 * - MPI: MPI_Reduce_scatter_block and MPI_Allgather as this machine's MPI does them (bf16: with a user-defined
 *   operation, whose result stays bf16);
 *
 * - the limit: what two processes reach with no protocol at all. After a common start each sums (or copies) its half
 *   straight out of both processes' memory; the faster of ordinary and past-the-cache stores.
 *
 * Sherd runs on the caller's thread, as MPI does, and on a stream with its own thread, as in an engine. Its time runs
 * from the call until every rank has read this rank's part (the buffer may be reused), as MPI's return means. A sample
 * is the slower rank's time.
 *
 *     mpirun -n 2 bench_comm_collectives [repetitions] [largest MiB]
 */
#include <mpi.h>

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "bench/comm/limit.h"
#include "comm/direct.h"
#include "sherd/sherd_mpi.h"

#define MAX_REPS 1001
#define MIB ((uint64_t)1 << 20)

typedef struct bench {
    int rank, reps;
    sherd_comm *comm;
    sherd_device *device;
    sherd__stream *own_stream; /* with its own thread, as an engine's collectives have */
    sherd__stream *stream;     /* the one in use: that, or the caller's */
    sherd__event *event;
    sherd__window window, fence; /* the bucket; one counter per rank */
    uint32_t fences;
    void *sum; /* the slice's result */
    void *mpi_in, *mpi_out;
    MPI_Op add_bf16;
    uint64_t bytes; /* of the whole bucket now */
} bench;

typedef void (*bench_fn)(bench *b);

static void must(int right, const char *what)
{
    if (!right) {
        fprintf(stderr, "failed: %s\n", what);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

static void *base_of(const bench *b, const sherd__window *window, int rank)
{
    (void)b;
    return ((const sherd__view *)window->handle)->base[rank];
}

/* Starts both processes within a fraction of a microsecond of each other. */
static void start_together(bench *b)
{
    _Atomic uint32_t *own = base_of(b, &b->fence, b->rank), *other = base_of(b, &b->fence, 1 - b->rank);
    atomic_store(own, ++b->fences);
    for (uint32_t spins = 0; atomic_load(other) < b->fences; spins++) {
        if (spins > 10000) {
            sched_yield();
        }
    }
}

/* ------------------------------------------------------------------------------------------------------ contestants */

static void finish(bench *b, sherd__tag tag, sherd__ticket ticket)
{
    sherd_error error;
    b->comm->ops->released(b->comm, b->stream, tag, ticket, "bench");
    b->device->ops->event_record(b->stream, b->event);
    must(b->device->ops->event_sync(b->device, b->event, "bench", &error) == SHERD_OK, "collective");
}

static void sherd_reduce(bench *b, sherd_dtype dtype)
{
    sherd__tag tag = {.name = "reduce", .bucket = 0};
    sherd__ticket ticket = 0;
    sherd__tree_sum job = {.src_dtype = dtype,
                           .dst_dtype = SHERD_FP32,
                           .dst = b->sum,
                           .elems = (int64_t)(b->bytes / 2 / sherd_dtype_bytes(dtype))};
    b->comm->ops->reduce_scatter(b->comm, b->stream, tag, &b->window, 0, &job, &ticket);
    finish(b, tag, ticket);
}

static void sherd_f32(bench *b)
{
    sherd_reduce(b, SHERD_FP32);
}
static void sherd_bf16(bench *b)
{
    sherd_reduce(b, SHERD_BF16);
}

static void sherd_gather(bench *b)
{
    sherd__tag tag = {.name = "gather", .bucket = 0};
    sherd__ticket ticket = 0;
    b->comm->ops->all_gather(b->comm, b->stream, tag, &b->window, 0, b->bytes / 2, &ticket);
    finish(b, tag, ticket);
}

static void mpi_f32(bench *b)
{
    MPI_Reduce_scatter_block(b->mpi_in, b->mpi_out, (int)(b->bytes / 8), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

static void mpi_bf16(bench *b)
{
    MPI_Reduce_scatter_block(b->mpi_in, b->mpi_out, (int)(b->bytes / 4), MPI_UINT16_T, b->add_bf16, MPI_COMM_WORLD);
}

static void mpi_gather(bench *b)
{
    MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, b->mpi_in, (int)(b->bytes / 2), MPI_BYTE, MPI_COMM_WORLD);
}

static const char *half(const bench *b, int rank)
{
    return (const char *)base_of(b, &b->window, rank) + (uint64_t)b->rank * (b->bytes / 2);
}

static void limit_f32(bench *b)
{
    limit_sum_f32(b->sum, half(b, 0), half(b, 1), b->bytes / 8);
}
static void limit_f32_past(bench *b)
{
    limit_sum_f32_past(b->sum, half(b, 0), half(b, 1), b->bytes / 8);
}
static void limit_bf16(bench *b)
{
    limit_sum_bf16(b->sum, half(b, 0), half(b, 1), b->bytes / 4);
}
static void limit_bf16_past(bench *b)
{
    limit_sum_bf16_past(b->sum, half(b, 0), half(b, 1), b->bytes / 4);
}

static void limit_gather_by(bench *b, void (*copy)(void *, const void *, uint64_t))
{
    int peer = 1 - b->rank;
    uint64_t at = (uint64_t)peer * (b->bytes / 2);
    copy((char *)b->window.local + at, (const char *)base_of(b, &b->window, peer) + at, b->bytes / 2);
}

static void limit_gather(bench *b)
{
    limit_gather_by(b, limit_copy);
}
static void limit_gather_past(bench *b)
{
    limit_gather_by(b, limit_copy_past);
}

/* --------------------------------------------------------------------------------------------------------- measuring
 */

enum { SHERD, SHERD_THREAD, MPI, LIMIT, LIMIT_PAST, CONTESTANTS };

typedef struct contest {
    const char *name;
    bench_fn run[CONTESTANTS];
} contest;

static const contest contests[] = {
    {"reduce-scatter fp32", {sherd_f32, sherd_f32, mpi_f32, limit_f32, limit_f32_past}},
    {"reduce-scatter bf16", {sherd_bf16, sherd_bf16, mpi_bf16, limit_bf16, limit_bf16_past}},
    {"all-gather", {sherd_gather, sherd_gather, mpi_gather, limit_gather, limit_gather_past}},
};

typedef struct summary {
    double best, low, median, high; /* microseconds; low and high are quartiles */
} summary;

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static summary summarise(double *samples, int n)
{
    qsort(samples, (size_t)n, sizeof *samples, by_value);
    return (summary){samples[0], samples[n / 4], samples[n / 2], samples[n - 1 - n / 4]};
}

static void measure(bench *b, const contest *c, int reps, summary out[CONTESTANTS])
{
    static double own[CONTESTANTS][MAX_REPS], slower[CONTESTANTS][MAX_REPS];
    for (int rep = -1; rep < reps; rep++) {
        for (int who = 0; who < CONTESTANTS; who++) {
            b->stream = who == SHERD ? b->device->compute : b->own_stream;
            c->run[who](b); /* the caches are as its own former call leaves them, not as a rival's */
            start_together(b);
            int64_t begin = sherd__now_ns();
            c->run[who](b);
            if (rep >= 0) {
                own[who][rep] = (double)(sherd__now_ns() - begin) * 1e-3;
            }
        }
    }
    for (int who = 0; who < CONTESTANTS; who++) {
        MPI_Allreduce(own[who], slower[who], reps, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
        out[who] = summarise(slower[who], reps);
    }
}

static void print_times(const summary *s, double unit)
{
    printf(" %.2f, %.2f (%.2f-%.2f) |", s->best / unit, s->median / unit, s->low / unit, s->high / unit);
}

static void print_row(const contest *c, uint64_t bytes, const summary s[CONTESTANTS])
{
    const summary *limit = s[LIMIT].median < s[LIMIT_PAST].median ? &s[LIMIT] : &s[LIMIT_PAST];
    double best = s[LIMIT].best < s[LIMIT_PAST].best ? s[LIMIT].best : s[LIMIT_PAST].best;
    printf("| %s, %" PRIu64 " MiB |", c->name, bytes / MIB);
    print_times(&s[SHERD], 1e3);
    print_times(&s[SHERD_THREAD], 1e3);
    print_times(&s[MPI], 1e3);
    print_times(limit, 1e3);
    printf(" %.1f, %.1f | %.0f %%, %.0f %% |\n", s[MPI].best / s[SHERD].best, s[MPI].median / s[SHERD].median,
           100 * best / s[SHERD].best, 100 * limit->median / s[SHERD].median);
    fflush(stdout);
}

static void throughput(bench *b, uint64_t largest)
{
    if (b->rank == 0) {
        printf("\nMilliseconds: best, median (quartiles) of %d interleaved repetitions; ratios of bests, of medians\n\n"
               "| collective, bucket | Sherd, caller's thread | Sherd, own thread | MPI | limit | times MPI | of the "
               "limit |\n"
               "|---|---|---|---|---|---|---|\n",
               b->reps);
    }
    for (size_t c = 0; c < sizeof contests / sizeof *contests; c++) {
        for (b->bytes = 16 * MIB; b->bytes <= largest; b->bytes *= 4) {
            summary s[CONTESTANTS];
            measure(b, &contests[c], b->reps, s);
            if (b->rank == 0) {
                print_row(&contests[c], b->bytes, s);
            }
        }
    }
}

static void latency(bench *b)
{
    int reps = b->reps * 10 < MAX_REPS ? b->reps * 10 : MAX_REPS;
    if (b->rank == 0) {
        printf("\nSmall buckets, microseconds: best, median (quartiles) of %d interleaved repetitions\n\n"
               "| collective, bucket | Sherd, caller's thread | Sherd, own thread | MPI |\n|---|---|---|---|\n",
               reps);
    }
    for (size_t c = 0; c < sizeof contests / sizeof *contests; c++) {
        for (b->bytes = 4096; b->bytes <= MIB; b->bytes *= 4) {
            summary s[CONTESTANTS];
            measure(b, &contests[c], reps, s);
            if (b->rank == 0) {
                printf("| %s, %" PRIu64 " KiB |", contests[c].name, b->bytes / 1024);
                print_times(&s[SHERD], 1);
                print_times(&s[SHERD_THREAD], 1);
                print_times(&s[MPI], 1);
                printf("\n");
                fflush(stdout);
            }
        }
    }
}

/* ----------------------------------------------------------------------------------------------------------- set-up */

static void add_bf16(void *in, void *inout, int *n, MPI_Datatype *type)
{
    (void)type;
    limit_add_bf16(inout, in, (uint64_t)*n);
}

static void print_line_of(const char *path, const char *key, const char *label)
{
    char line[512];
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (key == NULL || strncmp(line, key, strlen(key)) == 0) {
            const char *value = key != NULL ? strchr(line, ':') : line;
            printf("%s: %s", label, value != NULL && key != NULL ? value + 2 : line);
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
}

static void print_machine(const bench *b)
{
    struct utsname system;
    char library[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    uname(&system);
    MPI_Get_library_version(library, &length);
    library[strcspn(library, ",\n")] = '\0';
    print_line_of("/proc/cpuinfo", "model name", "processor");
    printf("system: %s %s, %ld processors online\n", system.sysname, system.release, sysconf(_SC_NPROCESSORS_ONLN));
    print_line_of("/sys/kernel/mm/transparent_hugepage/shmem_enabled", NULL, "huge pages in shared memory");
    printf("device: %s\ntransport: %s\nMPI: %s\nlimit's loops: %s\n", sherd_device_describe(b->device),
           sherd_comm_describe(b->comm), library, limit_name());
}

static void fill(void *at, uint64_t bytes)
{
    float *values = at;
    for (uint64_t i = 0; i < bytes / 4; i++) {
        values[i] = (float)(i % 1000) + 0.5f;
    }
}

static void set_up(bench *b, uint64_t largest)
{
    sherd_error error;
    sherd_device_options options;
    sherd_device_options_init(&options, sizeof options);
    must(sherd_comm_create_mpi(NULL, MPI_COMM_WORLD, &b->comm, &error) == SHERD_OK, "communicator");
    must(sherd_device_create(&options, &b->device, &error) == SHERD_OK, "device");
    must(b->comm->ops->bind(b->comm, b->device, &error) == SHERD_OK, "bind");
    must(b->device->ops->stream_create(b->device, "comm", 64, &b->own_stream, &error) == SHERD_OK, "stream");
    must(b->device->ops->event_create(b->device, &b->event, &error) == SHERD_OK, "event");
    must(b->comm->ops->window_create(b->comm, largest, SHERD_CAT_GRADIENTS, &b->window, &error) == SHERD_OK, "window");
    must(b->comm->ops->window_create(b->comm, 64, SHERD_CAT_COMMUNICATION, &b->fence, &error) == SHERD_OK, "window");
    must(sherd_device_alloc(b->device, largest, SHERD_CAT_GRAD_SUMS, &b->sum, &error) == SHERD_OK, "sums");
    b->mpi_in = aligned_alloc(2 * MIB, largest);
    b->mpi_out = aligned_alloc(2 * MIB, largest);
    must(b->mpi_in != NULL && b->mpi_out != NULL, "memory");
    MPI_Op_create(add_bf16, 1, &b->add_bf16);
    fill(b->window.local, largest);
    fill(b->mpi_in, largest);
    fill(b->mpi_out, largest);
    fill(b->sum, largest);
}

static void tear_down(bench *b)
{
    MPI_Op_free(&b->add_bf16);
    free(b->mpi_in);
    free(b->mpi_out);
    sherd_device_free(b->device, b->sum);
    b->comm->ops->window_destroy(b->comm, &b->fence);
    b->comm->ops->window_destroy(b->comm, &b->window);
    b->device->ops->event_destroy(b->event);
    b->device->ops->stream_destroy(b->own_stream);
    b->comm->ops->unbind(b->comm);
    sherd_comm_destroy(b->comm);
    sherd_device_destroy(b->device);
}

int main(int argc, char **argv)
{
    static bench b;
    int world;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &b.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    must(world == 2, "run it with mpirun -n 2");
    b.reps = argc > 1 ? atoi(argv[1]) : 21;
    uint64_t largest = (argc > 2 ? (uint64_t)atoi(argv[2]) : 256) * MIB;
    must(b.reps >= 3 && b.reps <= MAX_REPS && largest >= 16 * MIB && largest <= 4096 * MIB, "arguments");
    set_up(&b, largest);
    if (b.rank == 0) {
        print_machine(&b);
    }
    throughput(&b, largest);
    latency(&b);
    MPI_Barrier(MPI_COMM_WORLD);
    tear_down(&b);
    MPI_Finalize();
    return 0;
}
