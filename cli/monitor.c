/* SPDX-License-Identifier: MIT
 *
 * Every row is handed to the kernel at once, so a run that is killed leaves what it has done; a run that goes on from a
 * checkpoint drops the rows behind it and writes them again.
 */
#include "cli/monitor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/monitor_events.h"

enum { PATH_BYTES = 2 * SHERD_PATHS_MAX + 320 };

static const char csv_header[] = "step,loss,lr,loss_scale,grad_norm,tokens_per_s,memory_bytes,eval_loss\n";

typedef struct monitored {
    FILE *file; /* NULL: not enabled, or given up */
    char path[PATH_BYTES];
} monitored;

struct cli_monitor {
    monitored csv, events;
    cli_row row; /* waits for its report */
    int waiting;
};

/* ---- folders and files */

/* OUTPUT/JOB with all that leads to it; OUTPUT "" is the current folder. */
static sherd_status make_folder(const sherd_monitor *config, const char *key, char *path, size_t capacity,
                                sherd_error *err)
{
    int length = snprintf(path, capacity, "%s%s%s", config->output_path, config->output_path[0] != '\0' ? "/" : "",
                          config->job_name);

    for (char *at = path + 1; length > 0 && *at != '\0'; at++) {
        if (*at == '/') {
            *at = '\0';
            (void)mkdir(path, 0755); /* what is missing is told by the last one */
            *at = '/';
        }
    }
    if (mkdir(path, 0755) != 0 && errno != EEXIST) {
        return cli_fail(err, SHERD_EIO, "%s.output_path: the folder %.300s cannot be made: %s", key, path,
                        strerror(errno));
    }
    return SHERD_OK;
}

/* Where the rows of steps up to `done` end. A line without its end does not count. −1: the file is somebody else's. */
static long end_of_rows(FILE *file, int64_t done)
{
    char line[512];
    long end;

    if (fgets(line, sizeof line, file) == NULL) {
        return 0;
    }
    if (strcmp(line, csv_header) != 0) {
        return -1;
    }
    for (end = ftell(file); fgets(line, sizeof line, file) != NULL; end = ftell(file)) {
        if (strchr(line, '\n') == NULL || strtoll(line, NULL, 10) > done) {
            break;
        }
    }
    return end;
}

static sherd_status continue_csv(monitored *csv, int64_t done, sherd_error *err)
{
    long end = done > 0 ? end_of_rows(csv->file, done) : 0;

    if (end < 0) {
        return cli_fail(err, SHERD_EINVAL, "csv_monitor: %.300s has other columns; give another job_name", csv->path);
    }
    if (done > 0 && (ftruncate(fileno(csv->file), end) != 0 || fseek(csv->file, end, SEEK_SET) != 0)) {
        return cli_fail(err, SHERD_EIO, "csv_monitor: %.300s cannot be continued: %s", csv->path, strerror(errno));
    }
    if (end == 0 &&
        (fputs(csv_header, csv->file) < 0 || fflush(csv->file) != 0)) { /* forked ranks must not inherit it */
        return cli_fail(err, SHERD_EIO, "csv_monitor: %.300s cannot be written: %s", csv->path, strerror(errno));
    }
    return SHERD_OK;
}

static sherd_status open_csv(monitored *csv, const sherd_monitor *config, int64_t done, sherd_error *err)
{
    sherd_status status = make_folder(config, "csv_monitor", csv->path, sizeof csv->path - 16, err);

    if (status != SHERD_OK) {
        return status;
    }
    strcat(csv->path, "/metrics.csv");
    csv->file = fopen(csv->path, done > 0 && access(csv->path, F_OK) == 0 ? "r+" : "w+");
    if (csv->file == NULL) {
        return cli_fail(err, SHERD_EIO, "csv_monitor: %.300s cannot be written: %s", csv->path, strerror(errno));
    }
    return continue_csv(csv, done, err);
}

/* Readers take the files of a folder in the order of their names, so each run writes one of its own. */
static sherd_status open_events(monitored *events, const sherd_monitor *config, int64_t done, sherd_error *err)
{
    sherd_status status = make_folder(config, "tensorboard", events->path, sizeof events->path - 320, err);
    size_t used = strlen(events->path);
    char host[256] = "localhost";

    if (status != SHERD_OK) {
        return status;
    }
    (void)gethostname(host, sizeof host - 1);
    snprintf(events->path + used, sizeof events->path - used, "/events.out.tfevents.%010lld.%s.%d",
             (long long)time(NULL), host, (int)getpid());
    events->file = fopen(events->path, "w");
    if (events->file == NULL || !cli_events_begin(events->file, (double)time(NULL), done + 1) ||
        fflush(events->file) != 0) {
        return cli_fail(err, SHERD_EIO, "tensorboard: %.300s cannot be written: %s", events->path, strerror(errno));
    }
    return SHERD_OK;
}

sherd_status cli_monitor_open(const sherd_config *config, int64_t done, cli_monitor **out, sherd_error *err)
{
    cli_monitor *m;
    sherd_status status = SHERD_OK;

    *out = NULL;
    if (!config->csv_monitor.enabled && !config->tensorboard.enabled) {
        return SHERD_OK;
    }
    m = calloc(1, sizeof *m);
    if (m == NULL) {
        return cli_fail(err, SHERD_ENOMEM, "no memory for the monitors");
    }
    if (config->csv_monitor.enabled) {
        status = open_csv(&m->csv, &config->csv_monitor, done, err);
    }
    if (status == SHERD_OK && config->tensorboard.enabled) {
        status = open_events(&m->events, &config->tensorboard, done, err);
    }
    if (status != SHERD_OK) {
        cli_monitor_close(m);
        return status;
    }
    *out = m;
    return SHERD_OK;
}

static void close_file(monitored *to)
{
    if (to->file != NULL) {
        (void)fsync(fileno(to->file));
        (void)fclose(to->file);
    }
    to->file = NULL;
}

void cli_monitor_close(cli_monitor *monitor)
{
    if (monitor != NULL) {
        close_file(&monitor->csv);
        close_file(&monitor->events);
        free(monitor);
    }
}

/* ---- rows */

/* Hands on what was written; a file that takes no more is no reason to stop training. */
static void settle(monitored *to, int good)
{
    if (!good || fflush(to->file) != 0) {
        cli_message(-1, "warning: %s cannot be written: %s; goes on without it", to->path, strerror(errno));
        close_file(to);
    }
}

static void write_csv(monitored *csv, const cli_row *row)
{
    int good = fprintf(csv->file, "%lld,%.9g,%.9g,%.9g,%.9g,%.6g,%.0f,", (long long)row->step, row->loss, row->lr,
                       row->loss_scale, row->grad_norm, row->tokens_per_s, row->memory_bytes) > 0;

    if (row->eval_loss >= 0) {
        good = fprintf(csv->file, "%.9g", row->eval_loss) > 0 && good;
    }
    settle(csv, fputs("\n", csv->file) >= 0 && good);
}

static void write_events(monitored *events, const cli_row *row)
{
    const cli_scalar scalars[] = {
        {"train/loss", row->loss},
        {"train/lr", row->lr},
        {"train/loss_scale", row->loss_scale},
        {"train/grad_norm", row->grad_norm},
        {"train/tokens_per_s", row->tokens_per_s},
        {"memory/device_bytes", row->memory_bytes},
        {"validation/loss", row->eval_loss}, /* the last: left out where there is none */
    };
    size_t n = sizeof scalars / sizeof scalars[0] - !(row->eval_loss >= 0);
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    settle(events,
           cli_events_scalars(events->file, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec, row->step, scalars, n));
}

void cli_monitor_row(cli_monitor *monitor, const cli_row *row)
{
    if (monitor != NULL) {
        monitor->row = *row;
        monitor->waiting = 1;
    }
}

void cli_monitor_report(cli_monitor *monitor, const sherd_report *report)
{
    if (monitor == NULL || !monitor->waiting || report->step != monitor->row.step) {
        return;
    }
    monitor->waiting = 0;
    monitor->row.lr = report->lr;
    monitor->row.loss_scale = report->loss_scale;
    monitor->row.grad_norm = report->grad_norm;
    if (monitor->csv.file != NULL) {
        write_csv(&monitor->csv, &monitor->row);
    }
    if (monitor->events.file != NULL) {
        write_events(&monitor->events, &monitor->row);
    }
}
