/* SPDX-License-Identifier: MIT
 *
 * Running the command and looking at what it said.
 */
#include "tests/cli/command.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64], command[512];

/* 40000 bytes of words in an order that a small model can begin to learn. */
static void write_text(void)
{
    static const char *const words[] = {"the ", "shard ", "of a ", "gradient ", "waits ", "for ", "no ", "rank, ",
                                        "and ", "\n"};
    FILE *file = fopen("text.txt", "w");
    uint32_t state = 12345;

    assert_non_null(file);
    for (long bytes = 0; bytes < 40000; bytes = ftell(file)) {
        state = state * 1664525u + 1013904223u;
        fputs(words[(state >> 16) % 10], file);
    }
    assert_int_equal(fclose(file), 0);
}

void command_begin(const char *sherd)
{
    char *path = realpath(sherd, NULL);

    assert_non_null(path);
    snprintf(command, sizeof command, "%s", path);
    free(path);
    snprintf(folder, sizeof folder, "/tmp/sherd-command-XXXXXX");
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chdir(folder), 0);
    write_text();
}

int command_end(void **state)
{
    char line[128];

    (void)state;
    snprintf(line, sizeof line, "rm -rf '%s'", folder);
    assert_int_equal(chdir("/"), 0);
    return system(line);
}

const char *command_folder(void)
{
    return folder;
}

const char *command_path(void)
{
    return command;
}

void command_run(outcome *o, const char *prefix, const char *format, ...)
{
    char arguments[1024], line[2048];
    va_list args;
    size_t used = 0, got;
    FILE *pipe;
    int status;

    va_start(args, format);
    vsnprintf(arguments, sizeof arguments, format, args);
    va_end(args);
    snprintf(line, sizeof line, "timeout -k 5 60 %s '%s' %s", prefix, command, arguments);
    pipe = popen(line, "r");
    assert_non_null(pipe);
    while ((got = fread(o->out + used, 1, sizeof o->out - 1 - used, pipe)) > 0) {
        used += got;
    }
    o->out[used] = '\0';
    status = pclose(pipe);
    o->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void command_expect(outcome *o, int code, const char *says, const char *format, ...)
{
    char arguments[900];
    va_list args;

    va_start(args, format);
    vsnprintf(arguments, sizeof arguments, format, args);
    va_end(args);
    command_run(o, "", "%s 2>&1", arguments);
    if (o->code != code || strstr(o->out, says) == NULL) {
        fail_msg("sherd %s: code %d, not %d with '%s': %s", arguments, o->code, code, says, o->out);
    }
}

json_t *command_log(const char *name)
{
    FILE *file = fopen(name, "r");
    json_t *all = json_array(), *record;
    json_error_t fault;

    assert_non_null(file);
    while ((record = json_loadf(file, JSON_DISABLE_EOF_CHECK, &fault)) != NULL) {
        assert_int_equal(json_array_append_new(all, record), 0);
    }
    assert_true(feof(file));
    fclose(file);
    return all;
}

void command_hashes(const char *log, char text[80])
{
    json_t *all = command_log(log), *last = json_array_get(all, json_array_size(all) - 1);
    const char *params = json_string_value(json_object_get(last, "param_hash"));
    const char *state = json_string_value(json_object_get(last, "state_hash"));

    assert_true(json_is_true(json_object_get(last, "final")));
    assert_non_null(params);
    assert_non_null(state);
    assert_int_equal(strlen(params), 32);
    assert_int_equal(strlen(state), 32);
    snprintf(text, 80, "%s %s", params, state);
    json_decref(all);
}
