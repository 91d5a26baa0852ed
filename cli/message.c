/* SPDX-License-Identifier: MIT
 *
 * What is said on stderr, one line at a time so that the ranks' lines do not mix.
 */
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/launch.h"

static void say(int32_t rank, const char *format, va_list args)
{
    char text[1024], who[32] = "";

    vsnprintf(text, sizeof text, format, args);
    if (rank >= 0) {
        snprintf(who, sizeof who, "rank %d: ", (int)rank);
    }
    fprintf(stderr, "sherd: %s%s\n", who, text);
}

void cli_message(int32_t rank, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(rank, format, args);
    va_end(args);
}

int cli_failure(int32_t rank, const sherd_error *err)
{
    cli_message(rank, "%s", err->text);
    return CLI_FAILED;
}

int cli_usage(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    if (cli_is_first()) {
        say(-1, format, args);
    }
    va_end(args);
    cli_let_first_speak();
    return CLI_USAGE;
}

/* mpirun ends all ranks when one fails: the silent ones give the first the time to say why. */
void cli_let_first_speak(void)
{
    const struct timespec pause = {.tv_sec = 1};

    if (!cli_is_first()) {
        nanosleep(&pause, NULL);
    }
}

static void log_line(void *ctx, sherd_log_level level, const char *text)
{
    int32_t rank = *(const int32_t *)ctx;

    if (level == SHERD_LOG_DEBUG || (level == SHERD_LOG_INFO && rank > 0) || (rank < 0 && !cli_is_first())) {
        return;
    }
    cli_message(rank, "%s%s", level == SHERD_LOG_WARNING ? "warning: " : "", text);
}

sherd_log cli_log(const int32_t *rank)
{
    return (sherd_log){log_line, (void *)(uintptr_t)rank};
}

sherd_status cli_fail(sherd_error *err, sherd_status status, const char *format, ...)
{
    va_list args;

    err->status = status;
    err->rank = -1;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    return status;
}

sherd_status cli_config(const cli_options *options, sherd_config *out, sherd_error *err)
{
    static const int32_t nobody = -1;
    sherd_log log = cli_log(&nobody);

    sherd_status status;

    sherd_config_init(out, sizeof *out);
    status = sherd_config_read(out, options->config, options->sets, options->n_sets, &log, err);
    if (options->transport != CLI_AUTO) { /* --comm stands above the file */
        out->transport.kind = options->transport == CLI_NCCL ? SHERD_TRANSPORT_NCCL : SHERD_TRANSPORT_DIRECT;
    }
    return status;
}
