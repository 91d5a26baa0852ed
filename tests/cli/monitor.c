/* SPDX-License-Identifier: MIT
 *
 * Monitors: rows come to the files as they are given, late reports find their row, a run that goes on drops what lies
 * behind its checkpoint. Event files are read back by a parser of its own, which checks every checksum bit by bit.
 */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/monitor.h"
#include "cli/monitor_events.h"

enum { TEXT_MAX = 8192, SCALARS_MAX = 64 };

/* ---- reading event files */

typedef struct scalar {
    int64_t step;
    char tag[64];
    float value;
} scalar;

typedef struct events {
    int records;
    int64_t forget_from; /* the last session's start */
    char version[32];
    scalar scalars[SCALARS_MAX];
    int n;
} events;

static uint32_t crc_by_bits(const unsigned char *data, size_t bytes)
{
    uint32_t crc = 0xFFFFFFFF;

    for (size_t i = 0; i < 8 * bytes; i++) {
        uint32_t bit = (uint32_t)(data[i / 8] >> i % 8 & 1);
        crc = crc >> 1 ^ (((crc & 1) ^ bit) ? 0x82F63B78 : 0);
    }
    return ~crc;
}

static uint64_t little(const unsigned char *at, int bytes)
{
    uint64_t value = 0;

    for (int i = bytes; i-- > 0;) {
        value = value << 8 | at[i];
    }
    return value;
}

static void check_crc(const unsigned char *data, size_t bytes, const unsigned char *sum)
{
    uint32_t crc = crc_by_bits(data, bytes);

    assert_int_equal(little(sum, 4), ((crc >> 15 | crc << 17) + 0xA282EAD8u) & 0xFFFFFFFF);
}

static uint64_t varint(const unsigned char **at)
{
    uint64_t value = 0;
    int shift = 0;

    for (; **at & 128; shift += 7) {
        value |= (uint64_t)(*(*at)++ & 127) << shift;
    }
    return value | (uint64_t) * (*at)++ << shift;
}

/* The next field: its number, and its bytes or value. */
static int field(const unsigned char **at, const unsigned char **bytes, uint64_t *value)
{
    uint64_t key = varint(at);

    *value = (key & 7) == 0 || (key & 7) == 2 ? varint(at) : little(*at, (key & 7) == 1 ? 8 : 4);
    *bytes = *at;
    *at += (key & 7) == 2 ? *value : (key & 7) == 1 ? 8 : (key & 7) == 5 ? 4 : 0;
    return (int)(key >> 3);
}

static void read_value(events *e, int64_t step, const unsigned char *at, uint64_t length)
{
    const unsigned char *end = at + length, *bytes;
    scalar *s = &e->scalars[e->n++];
    uint64_t value;

    assert_true(e->n <= SCALARS_MAX);
    s->step = step;
    while (at < end) {
        int number = field(&at, &bytes, &value);
        if (number == 1) {
            snprintf(s->tag, sizeof s->tag, "%.*s", (int)value, (const char *)bytes);
        } else {
            uint32_t bits = (uint32_t)value;
            assert_int_equal(number, 2);
            memcpy(&s->value, &bits, 4);
        }
    }
    assert_true(at == end);
}

static void read_event(events *e, const unsigned char *at, uint64_t length)
{
    const unsigned char *end = at + length, *bytes, *summary_end;
    int64_t step = -1;
    uint64_t value;
    double wall;

    while (at < end) {
        switch (field(&at, &bytes, &value)) {
        case 1:
            memcpy(&wall, &value, 8);
            assert_true(wall > 1e9);
            break;
        case 2:
            step = (int64_t)value;
            break;
        case 3:
            snprintf(e->version, sizeof e->version, "%.*s", (int)value, (const char *)bytes);
            break;
        case 5:
            for (summary_end = bytes + value; bytes < summary_end;) {
                const unsigned char *one;
                assert_int_equal(field(&bytes, &one, &value), 1);
                read_value(e, step, one, value);
            }
            break;
        case 7:
            assert_memory_equal(bytes, "\x08\x01", 2);
            e->forget_from = step;
            break;
        default:
            fail_msg("an unknown field");
        }
    }
    assert_true(at == end);
}

static void read_events(const char *path, events *e)
{
    static unsigned char data[1 << 16];
    FILE *file = fopen(path, "rb");
    size_t bytes, at = 0;

    assert_non_null(file);
    bytes = fread(data, 1, sizeof data, file);
    fclose(file);
    memset(e, 0, sizeof *e);
    while (at < bytes) {
        uint64_t length = little(data + at, 8);

        assert_true(at + 16 + length <= bytes);
        check_crc(data + at, 8, data + at + 8);
        check_crc(data + at + 12, length, data + at + 12 + length);
        read_event(e, data + at + 12, length);
        at += 16 + length;
        e->records++;
    }
    assert_true(at == bytes);
}

/* ---- the tests */

static char folder[64];
static sherd_error err;

static sherd_config config_of(const char *job)
{
    sherd_config c;

    sherd_config_init(&c, sizeof c);
    c.csv_monitor.enabled = c.tensorboard.enabled = 1;
    snprintf(c.csv_monitor.output_path, sizeof c.csv_monitor.output_path, "%s/x/y", folder);
    snprintf(c.tensorboard.output_path, sizeof c.tensorboard.output_path, "%s/x/z/", folder);
    snprintf(c.csv_monitor.job_name, sizeof c.csv_monitor.job_name, "%s", job);
    snprintf(c.tensorboard.job_name, sizeof c.tensorboard.job_name, "%s", job);
    return c;
}

static void rows(cli_monitor *m, int64_t from, int64_t to, int late)
{
    sherd_report report;

    sherd_report_init(&report, sizeof report);
    for (int64_t step = from; step <= to; step++) {
        cli_row row = {.step = step,
                       .loss = 1.0 / (double)step,
                       .eval_loss = step % 2 ? -1 : 2,
                       .memory_bytes = 4096,
                       .tokens_per_s = 10};

        if (late) { /* as on a GPU: that of the step before */
            report.step = step - 1;
            report.grad_norm = (double)step - 1;
            report.lr = 0.5;
            cli_monitor_report(m, &report);
        }
        cli_monitor_row(m, &row);
        cli_monitor_report(m, &report); /* of another step: nothing */
        report.step = step;
        report.grad_norm = (double)step;
        report.lr = 0.5;
        report.loss_scale = 8;
        if (!late || step == to) {
            cli_monitor_report(m, &report);
            cli_monitor_report(m, &report); /* once only */
        }
    }
}

static const char *text_of(const char *path)
{
    static char text[TEXT_MAX];
    FILE *file = fopen(path, "r");

    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

/* The newest of the folder's event files, and how many there are. */
static int newest_events(const char *job, char *path, size_t capacity)
{
    char dir[200];
    struct dirent *entry;
    DIR *open;
    int n = 0;

    snprintf(dir, sizeof dir, "%s/x/z/%s", folder, job);
    open = opendir(dir);
    assert_non_null(open);
    path[0] = '\0';
    while ((entry = readdir(open)) != NULL) {
        char one[600];
        snprintf(one, sizeof one, "%s/%s", dir, entry->d_name);
        if (entry->d_name[0] != '.') {
            n++;
            if (strcmp(one, path) > 0) {
                snprintf(path, capacity, "%s", one);
            }
        }
    }
    closedir(open);
    return n;
}

#define HEADER "step,loss,lr,loss_scale,grad_norm,tokens_per_s,memory_bytes,eval_loss\n"

static void rows_arrive(void **state)
{
    char path[800], csv[200];

    (void)state;
    for (int late = 0; late <= 1; late++) {
        sherd_config config = config_of(late ? "late" : "soon");
        cli_monitor *m;
        events e;

        assert_int_equal(cli_monitor_open(&config, 0, &m, &err), SHERD_OK);
        rows(m, 1, 4, late);
        cli_monitor_close(m);
        snprintf(csv, sizeof csv, "%s/x/y/%s/metrics.csv", folder, late ? "late" : "soon");
        assert_string_equal(text_of(csv), HEADER "1,1,0.5,8,1,10,4096,\n2,0.5,0.5,8,2,10,4096,2\n"
                                                 "3,0.333333333,0.5,8,3,10,4096,\n4,0.25,0.5,8,4,10,4096,2\n");
        assert_int_equal(newest_events(late ? "late" : "soon", path, sizeof path), 1);
        read_events(path, &e);
        assert_string_equal(e.version, "brain.Event:2");
        assert_int_equal(e.records, 6);
        assert_int_equal(e.forget_from, 1);
        assert_int_equal(e.n, 26); /* 6 of each step, and 2 validations */
        assert_string_equal(e.scalars[0].tag, "train/loss");
        assert_true(e.scalars[13].step == 3 && e.scalars[13].value == 1.0f / 3.0f);
        assert_string_equal(e.scalars[3].tag, "train/grad_norm");
        assert_true(e.scalars[16].value == 3);
        assert_string_equal(e.scalars[12].tag, "validation/loss");
        assert_true(e.scalars[12].step == 2 && e.scalars[12].value == 2);
    }
}

static void a_run_that_goes_on_drops_what_lies_behind(void **state)
{
    sherd_config config = config_of("again");
    char path[800], csv[200];
    cli_monitor *m;
    events e;
    FILE *file;

    (void)state;
    assert_int_equal(cli_monitor_open(&config, 0, &m, &err), SHERD_OK);
    rows(m, 1, 3, 0);
    cli_monitor_close(m);
    snprintf(csv, sizeof csv, "%s/x/y/again/metrics.csv", folder);
    file = fopen(csv, "a");
    assert_non_null(file);
    fputs("2,0.1", file); /* a row that was cut off */
    fclose(file);
    assert_int_equal(cli_monitor_open(&config, 2, &m, &err), SHERD_OK);
    rows(m, 3, 3, 0);
    cli_monitor_close(m);
    assert_string_equal(text_of(csv), HEADER "1,1,0.5,8,1,10,4096,\n2,0.5,0.5,8,2,10,4096,2\n"
                                             "3,0.333333333,0.5,8,3,10,4096,\n");
    assert_true(newest_events("again", path, sizeof path) >= 1); /* both within a second: one name */
    read_events(path, &e);
    assert_int_equal(e.forget_from, 3);
    assert_int_equal(cli_monitor_open(&config, 0, &m, &err), SHERD_OK); /* from the start */
    cli_monitor_close(m);
    assert_string_equal(text_of(csv), HEADER);
    file = fopen(csv, "w");
    assert_non_null(file);
    fputs("time,price\n1,2\n", file);
    fclose(file);
    assert_int_equal(cli_monitor_open(&config, 2, &m, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "has other columns; give another job_name"));
    assert_string_equal(text_of(csv), "time,price\n1,2\n");
}

static void folders_that_cannot_be_are_told(void **state)
{
    sherd_config config = config_of("f");
    cli_monitor *m;

    (void)state;
    snprintf(config.csv_monitor.output_path, sizeof config.csv_monitor.output_path, "/dev/null");
    assert_int_equal(cli_monitor_open(&config, 0, &m, &err), SHERD_EIO);
    assert_string_equal(err.text, "csv_monitor.output_path: the folder /dev/null/f cannot be made: Not a directory");
    assert_null(m);
    config.csv_monitor.enabled = config.tensorboard.enabled = 0;
    assert_int_equal(cli_monitor_open(&config, 0, &m, &err), SHERD_OK);
    assert_null(m);
    cli_monitor_row(m, NULL);
    cli_monitor_report(m, NULL);
    cli_monitor_close(m);
}

static void a_full_disk_is_told_at_the_start(void **state)
{
    sherd_config config = config_of("full");
    char csv[200];
    cli_monitor *m;

    (void)state;
    config.tensorboard.enabled = 0;
    assert_int_equal(cli_monitor_open(&config, 0, &m, &err), SHERD_OK);
    cli_monitor_close(m);
    snprintf(csv, sizeof csv, "%s/x/y/full/metrics.csv", folder);
    assert_int_equal(unlink(csv) + symlink("/dev/full", csv), 0);
    assert_int_equal(cli_monitor_open(&config, 0, &m, &err), SHERD_EIO); /* its header */
    assert_non_null(strstr(err.text, "cannot be written: No space left on device"));
}

/* Later it is no reason to stop: what has room goes on. */
static void a_file_that_grows_no_more_is_left(void **state)
{
    sherd_config config = config_of("small");
    struct rlimit before, small;
    char csv[200], path[800];
    cli_monitor *m;

    (void)state;
    assert_int_equal(cli_monitor_open(&config, 0, &m, &err), SHERD_OK);
    rows(m, 1, 2, 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = sizeof HEADER + 60; /* less than three rows; the event file is longer already */
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    rows(m, 3, 5, 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    cli_monitor_close(m);
    snprintf(csv, sizeof csv, "%s/x/y/small/metrics.csv", folder);
    assert_int_equal(strlen(text_of(csv)), small.rlim_cur);
    assert_int_equal(newest_events("small", path, sizeof path), 1);
}

static void checksums_are_castagnolis(void **state)
{
    unsigned char data[300];

    (void)state;
    assert_int_equal(cli_crc32c(0, "123456789", 9), 0xE3069283);
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (unsigned char)(i * i * 7 + i / 5);
        assert_int_equal(cli_crc32c(0, data, i), crc_by_bits(data, i));
    }
    assert_int_equal(cli_crc32c(cli_crc32c(0, data, 100), data + 100, 200), crc_by_bits(data, 300));
}

static int begin_group(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/sherd-monitor-XXXXXX");
    return mkdtemp(folder) == NULL;
}

static int end_group(void **state)
{
    char line[128];

    (void)state;
    snprintf(line, sizeof line, "rm -rf '%s'", folder);
    return system(line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksums_are_castagnolis),
        cmocka_unit_test(rows_arrive),
        cmocka_unit_test(a_run_that_goes_on_drops_what_lies_behind),
        cmocka_unit_test(folders_that_cannot_be_are_told),
        cmocka_unit_test(a_full_disk_is_told_at_the_start),
        cmocka_unit_test(a_file_that_grows_no_more_is_left),
    };

    return cmocka_run_group_tests(tests, begin_group, end_group);
}
