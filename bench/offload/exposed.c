/* SPDX-License-Identifier: MIT
 *
 * How much of an offloaded update a training step still sees. The device's own work is played by sleeping (a GPU
 * computes while the CPU updates): forward and backward last as long as asked, gradients come evenly over backward.
 * Four engines take their steps in turn: nothing offloaded, half, everything, everything speculated. Printed for each:
 * the step's time less forward and backward (medians, with spread), the host's updating rate, and the bound
 *
 *     1.1 × (max(0, host time of the offloaded part − backward) + one bucket)
 *
 * with the host's time per element measured in the same run. What the engine without offloading exposes (reductions and
 * the device's update are this machine's work too) stands beside: the column over is what offloading adds to it.
 * Without speculation an update cannot begin before the vote, so the bound there has no backward in it, and the next
 * forward hides what it can.
 *
 *     exposed [--params 64e6] [--buckets 16] [--forward-ms 100] [--backward-ms 200] [--rounds 7] [--threads 1]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device/host_math.h"

enum { MODES = 4, MOST_ROUNDS = 100, MOST_BUCKETS = 64, IN_A_ROW = 3 };

typedef struct mode {
    const char *name;
    double ratio;
    int speculate;
    sherd_plan *plan;
    sherd_device *device;
    sherd_comm *comm;
    sherd_engine *engine;
    double exposed_ms[MOST_ROUNDS];
    sherd_report report;
} mode;

static double params = 64e6, forward_ms = 100, backward_ms = 200;
static int buckets = 16, rounds = 7, threads = 1;

static void check(sherd_status status, const sherd_error *err)
{
    if (status != SHERD_OK) {
        fprintf(stderr, "exposed: %s\n", err->text);
        exit(1);
    }
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void sleep_ms(double ms)
{
    struct timespec t = {(time_t)(ms / 1e3), (long)(fmod(ms, 1e3) * 1e6)};
    while (nanosleep(&t, &t) != 0)
        ;
}

static void open_mode(mode *m)
{
    static char names[MOST_BUCKETS][16];
    sherd_param table[MOST_BUCKETS] = {{0}};
    sherd_config config;
    sherd_error err = {0};

    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = 1;
    config.dtype = SHERD_BF16;
    config.zero.stage = 2;
    config.zero.reduce_bucket_size = 1;
    config.sherd.exact_bucket_size = 1;
    config.gradient_clipping = 0; /* so that speculation hits, as it does where clipping is rare */
    config.offload.tier = m->ratio > 0 ? SHERD_TIER_HOST : SHERD_TIER_DEVICE;
    config.offload.ratio = m->ratio;
    config.offload.speculate = m->speculate;
    config.offload.host_threads = threads;
    config.offload.pin_memory = 0;
    for (int b = 0; b < buckets; b++) {
        snprintf(names[b], sizeof names[b], "layer%d", b);
        table[b].name = names[b];
        table[b].ndim = 1;
        table[b].shape[0] = (int64_t)(params / buckets);
        table[b].dtype = table[b].grad_dtype = SHERD_BF16;
    }
    check(sherd_plan_create(&config, table, (uint32_t)buckets, 1, &m->plan, &err), &err);
    check(sherd_device_create(NULL, &m->device, &err), &err);
    check(sherd_comm_create_self(NULL, &m->comm, &err), &err);
    check(sherd_engine_create(m->plan, m->device, m->comm, &m->engine, &err), &err);
    sherd_report_init(&m->report, sizeof m->report);
}

static void close_mode(mode *m)
{
    sherd_engine_destroy(m->engine);
    sherd_comm_destroy(m->comm);
    sherd_device_destroy(m->device);
    sherd_plan_destroy(m->plan);
}

static void step(mode *m)
{
    sherd_error err = {0};
    const void *data;
    sherd_grad grad;

    check(sherd_micro_begin(m->engine, NULL), &err);
    for (int b = 0; b < buckets; b++) {
        check(sherd_param_acquire(m->engine, (uint32_t)b, &data), &err);
        sleep_ms(forward_ms / buckets);
    }
    for (int b = buckets; b-- > 0;) {
        sleep_ms(backward_ms / buckets);
        check(sherd_grad_acquire(m->engine, (uint32_t)b, &grad), &err);
        check(sherd_grad_ready(m->engine, (uint32_t)b), &err);
    }
    check(sherd_engine_step(m->engine, &m->report, &err), &err);
}

/* Steps of one mode in a row, so that updates meet the forward after them; the first is not counted. */
static double run_ms(mode *m)
{
    sherd_error err;
    double begin, end;

    step(m);
    begin = now_ms();
    for (int i = 0; i < IN_A_ROW; i++)
        step(m);
    end = now_ms();
    check(sherd_engine_wait(m->engine, &err), &err); /* the next mode has the machine for itself */
    return (end - begin) / IN_A_ROW;
}

/* The host's time per element of the update alone, in ns: best of a few. */
static double host_ns_per_elem(void)
{
    int64_t n = (int64_t)params / 256 * 256; /* all of it: one bucket would stay in the cache */
    float *arrays = malloc((size_t)n * 18);  /* master, two moments, sum; bf16 emit */
    sherd__span span = {0, n, 0, 0};
    sherd__step_scalars scalars = {.factor = 1};
    sherd__update update = {.kind = SHERD_ADAMW,
                            .scalars = &scalars,
                            .sum = arrays + 3 * n,
                            .master = arrays,
                            .moment = {arrays + n, arrays + 2 * n},
                            .emit = (uint16_t *)(arrays + 4 * n),
                            .spans = &span,
                            .n_spans = 1};
    sherd__team *team = NULL;
    sherd_error err;
    double best = 1e30;

    if (arrays == NULL)
        exit((fprintf(stderr, "exposed: no memory\n"), 1));
    memset(arrays, 0, (size_t)n * 18);
    check(sherd__team_create(NULL, threads > 0 ? threads : 1, &team, &err), &err);
    for (int i = 0; i < 7; i++) {
        double begin = now_ms();
        sherd__host_math_best()->update(team, &update);
        double ns = (now_ms() - begin) * 1e6 / (double)n;
        best = ns < best ? ns : best;
    }
    sherd__team_destroy(team);
    free(arrays);
    return best;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double share(double *values, double at)
{
    qsort(values, (size_t)rounds, sizeof *values, by_value);
    return values[(int)(at * (rounds - 1) + 0.5)];
}

static void read_arguments(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        double value = atof(argv[i + 1]);
        if (!strcmp(argv[i], "--params"))
            params = value;
        else if (!strcmp(argv[i], "--buckets"))
            buckets = (int)value;
        else if (!strcmp(argv[i], "--forward-ms"))
            forward_ms = value;
        else if (!strcmp(argv[i], "--backward-ms"))
            backward_ms = value;
        else if (!strcmp(argv[i], "--rounds"))
            rounds = (int)value;
        else if (!strcmp(argv[i], "--threads"))
            threads = (int)value;
        else
            exit((fprintf(stderr, "exposed: unknown option %s\n", argv[i]), 2));
    }
    if (buckets < 1 || buckets > MOST_BUCKETS || rounds < 1 || rounds > MOST_ROUNDS || params < buckets)
        exit((fprintf(stderr, "exposed: 1 to %d buckets, 1 to %d rounds\n", MOST_BUCKETS, MOST_ROUNDS), 2));
}

static void print_mode(mode *m, double ns, double none)
{
    double host_ms = params * m->ratio * ns * 1e-6, bucket_ms = params / buckets * ns * 1e-6;
    double hidden = m->speculate ? backward_ms : 0;
    double bound = 1.1 * ((host_ms > hidden ? host_ms - hidden : 0) + bucket_ms);
    double low = share(m->exposed_ms, 0.1), middle = share(m->exposed_ms, 0.5), high = share(m->exposed_ms, 0.9);

    printf("%-10s %10.1f %10.1f %10.1f %10.1f", m->name, low, middle, high, host_ms);
    if (m->ratio > 0)
        printf(" %10.1f %10.1f %8s", bound, middle - none, middle - none <= bound ? "within" : "beyond");
    printf("%s\n", m->report.speculation_missed ? "  (guesses missed)" : "");
}

int main(int argc, char **argv)
{
    static mode modes[MODES] = {{.name = "none", .ratio = 0},
                                {.name = "half", .ratio = 0.5},
                                {.name = "full", .ratio = 1},
                                {.name = "full+spec", .ratio = 1, .speculate = 1}};
    double ns;

    read_arguments(argc, argv);
    ns = host_ns_per_elem();
    for (int m = 0; m < MODES; m++)
        open_mode(&modes[m]);
    for (int s = 0; s < rounds; s++)
        for (int m = 0; m < MODES; m++) {
            mode *now = &modes[s % 2 ? MODES - 1 - m : m];
            now->exposed_ms[s] = run_ms(now) - forward_ms - backward_ms;
        }
    printf("parameters %.0f in %d buckets, forward %.0f ms, backward %.0f ms (slept), %d rounds of %d steps\n", params,
           buckets, forward_ms, backward_ms, rounds, IN_A_ROW);
    printf("host update alone: %.3f ns per element, %s; crossing the bus: 6 bytes per offloaded parameter\n", ns,
           sherd__host_math_best()->name);
    printf("%-10s %10s %10s %10s %10s %10s %10s\n", "exposed ms", "10 %", "median", "90 %", "host ms", "bound",
           "over none");
    for (int m = 0; m < MODES; m++)
        print_mode(&modes[m], ns, share(modes[0].exposed_ms, 0.5));
    for (int m = 0; m < MODES; m++)
        close_mode(&modes[m]);
    return 0;
}
