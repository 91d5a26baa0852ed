/* SPDX-License-Identifier: MIT
 *
 * Running the command and looking at what it said.
 */
#ifndef TESTS_CLI_COMMAND_H
#define TESTS_CLI_COMMAND_H

#include <jansson.h>
#include <stddef.h>

typedef struct outcome {
    int code;        /* exit code; 128 + signal where the shell says so */
    char out[65536]; /* standard output and, with "2>&1", error */
} outcome;

/* Makes a folder for this program's files and a text in it, and goes there. `sherd` is the command's path. */
void command_begin(const char *sherd);
/* A group's teardown. */
int command_end(void **state);
const char *command_folder(void);
const char *command_path(void); /* of the command */
/* Runs `timeout 60 [prefix] sherd ARGUMENTS` through the shell. */
void command_run(outcome *o, const char *prefix, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The same with errors in the output; fails the test unless the exit code is this one and the output has `says`. */
void command_expect(outcome *o, int code, const char *says, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Records of a file of JSON lines; the caller gives the array back. */
json_t *command_log(const char *name);
/* "param_hash state_hash" of the final record of a log. */
void command_hashes(const char *log, char text[80]);

#endif
