/* SPDX-License-Identifier: MIT
 *
 * What this build and machine offer, as text.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "comm/comm.h"
#include "device/host_math.h"
#include "device/info.h"
#include "host/topology.h"
#include "optim/list.h"

typedef struct text {
    char *at;
    size_t left, length;
} text;

static void add(text *text, const char *format, ...) SHERD__PRINTF(2, 3);

static void add(text *text, const char *format, ...)
{
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(text->left ? text->at : NULL, text->left, format, args);
    va_end(args);
    if (n < 0)
        return;
    text->length += (size_t)n;
    if ((size_t)n < text->left) {
        text->at += n;
        text->left -= (size_t)n;
    } else {
        text->left = 0;
    }
}

static const struct {
    const char *name, *state;
} features[] = {
#if defined(SHERD_HAVE_MPI)
    {"mpi", "yes (bootstrap; data moves through shared memory)"},
#else
    {"mpi", "no: built without MPI"},
#endif
    {"zero stages", "0, 1, 2"},
    {"types", "fp32, bf16"},
    {"transports", "self, threads, shared memory (memfd)"},
    {"optimizer state", "on the device, in host memory, in files"},
};

static void add_kernels(text *text)
{
    const sherd__host_math *all[8];
    uint32_t n = sherd__host_math_all(all, sizeof all / sizeof *all);

    add(text, "host kernels: %s (of", sherd__host_math_best()->name);
    for (uint32_t i = 0; i < n && i < sizeof all / sizeof *all; i++)
        add(text, "%s %s", i ? "," : "", all[i]->name);
    add(text, ")\n");
}

static void add_optimizers(text *text)
{
    const char *comma = "";

    add(text, "optimizers:");
#define X(KIND, stem, moments)                                                                                         \
    add(text, "%s %s", comma, sherd__optim_get(SHERD_##KIND)->name);                                                   \
    comma = ",";
    SHERD__OPTIM_MAP(X)
#undef X
    add(text, "\n");
}

/* Each line of the machine's topology, under one key. */
static void add_topology(text *text)
{
    const sherd__topology_options options = {.from = SHERD__TOPOLOGY_MACHINE};
    sherd__topology topology;
    sherd_error err;
    char lines[4096], *rest = lines, *line;

    if (sherd__topology_load(&options, &topology, &err) != SHERD_OK) {
        add(text, "topology: not known: %s\n", err.text);
        return;
    }
    sherd__topology_print(&topology, lines, sizeof lines);
    sherd__topology_free(&topology);
    while ((line = strsep(&rest, "\n")) != NULL)
        if (line[0] != '\0')
            add(text, "topology: %s\n", line);
}

size_t sherd_info_text(char *buffer, size_t capacity)
{
    text text = {buffer, buffer ? capacity : 0, 0};
    char cuda[4096], nccl[640];

    sherd__device_describe_cuda(cuda, sizeof cuda);
    add(&text, "sherd: %s\n", sherd_version());
    add(&text, "cuda: %s\n", cuda);
    sherd__comm_describe_nccl(nccl, sizeof nccl);
    add(&text, "nccl: %s\n", nccl);
    add(&text, "devices: host, check%s\n", strncmp(cuda, "yes", 3) == 0 ? ", cuda" : "");
    for (size_t i = 0; i < sizeof features / sizeof *features; i++)
        add(&text, "%s: %s\n", features[i].name, features[i].state);
    add_optimizers(&text);
    add_kernels(&text);
    add_topology(&text);
    add(&text, "processors online: %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    add(&text, "limits: %d parameter groups, %d dimensions\n", SHERD_MAX_GROUPS, SHERD_MAX_DIMS);
    return text.length;
}
