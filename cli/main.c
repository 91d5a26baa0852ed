/* SPDX-License-Identifier: MIT
 *
 * sherd: the command. Chooses the sub-command; everything else is in its file.
 */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static void print_commands(FILE *out)
{
    const char *name, *about;

    fprintf(out, "usage: sherd COMMAND [OPTION...]\n\n");
    for (size_t i = 0; (name = cli_commands(i, &about)) != NULL; i++) {
        fprintf(out, "  %-11s%s\n", name, about);
    }
    fprintf(out, "\n`sherd COMMAND --help` lists the options of one. `sherd --version` says which this is.\n");
}

static int (*command_function(const char *name))(const cli_options *)
{
    static const struct {
        const char *name;
        int (*run)(const cli_options *);
    } functions[] = {
        {"train", cli_train}, {"bench", cli_bench}, {"memory", cli_memory}, {"plan", cli_plan}, {"info", cli_info},
        {"checkpoint", cli_checkpoint}, {"tokens", cli_tokens},
    };

    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        if (strcmp(functions[i].name, name) == 0) {
            return functions[i].run;
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int (*run)(const cli_options *) = argc > 1 ? command_function(argv[1]) : NULL;
    cli_options options;
    int code;

    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)) {
        print_commands(stdout);
        return CLI_OK;
    }
    if (argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0)) {
        printf("sherd %s\n", sherd_version());
        return CLI_OK;
    }
    if (argc < 2) {
        print_commands(stderr);
        return CLI_USAGE;
    }
    if (run == NULL) {
        return cli_usage("'%s' is not a command; give train, bench, memory, plan, info, checkpoint or tokens", argv[1]);
    }
    cli_arguments(argv[1], argc - 1, argv + 1, &options);
    code = run(&options);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        cli_message(-1, "standard output could not be written");
        code = code == CLI_OK ? CLI_FAILED : code;
    }
    if (code != CLI_OK) {
        cli_let_first_speak();
    }
    return code;
}
