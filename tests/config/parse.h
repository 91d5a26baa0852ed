/* SPDX-License-Identifier: MIT
 *
 * What the tests of config/ share: parsing text with up to four --set strings, and keeping the log lines.
 */
#ifndef TESTS_CONFIG_PARSE_H
#define TESTS_CONFIG_PARSE_H

#include <stdio.h>
#include <string.h>

#include "sherd/sherd.h"

typedef struct parsed {
    sherd_config config;
    sherd_status status;
    sherd_error error;
    int warnings, infos;
    char lines[2048]; /* every line of the log, each with a newline */
} parsed;

static inline void parsed_log(void *ctx, sherd_log_level level, const char *text)
{
    parsed *p = ctx;
    size_t used = strlen(p->lines);

    p->warnings += level == SHERD_LOG_WARNING;
    p->infos += level == SHERD_LOG_INFO;
    snprintf(p->lines + used, sizeof p->lines - used, "%s\n", text);
}

/* `set` may be NULL. */
static inline void parse_with_set(parsed *p, const char *text, const char *set)
{
    sherd_log log = {parsed_log, p};

    memset(p, 0, sizeof *p);
    sherd_config_init(&p->config, sizeof p->config);
    p->status = sherd_config_parse(&p->config, text, strlen(text), "ds.json", &set, set != NULL, &log, &p->error);
}

static inline void parse(parsed *p, const char *text)
{
    parse_with_set(p, text, NULL);
}

#endif
