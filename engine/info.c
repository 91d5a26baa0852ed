/* SPDX-License-Identifier: MIT
 *
 * What this build and machine offer, as text.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "base/text.h"
#include "comm/comm.h"
#include "device/host_math.h"
#include "device/info.h"
#include "host/topology.h"
#include "optim/list.h"

static const struct {
    const char *name, *state;
} features[] = {
#if defined(SHERD_HAVE_MPI)
    {"mpi", "yes (starts ranks; carries data between nodes, shared memory inside them)"},
#else
    {"mpi", "no: built without MPI"},
#endif
    {"zero stages", "0, 1, 2"},
    {"types", "fp32, bf16, fp16"},
    {"transports", "self, threads, shared memory (memfd)"},
    {"optimizer state", "on the device, in host memory, in files"},
};

static void add_kernels(sherd__text *text)
{
    const sherd__host_math *all[8];
    uint32_t n = sherd__host_math_all(all, sizeof all / sizeof *all);

    sherd__text_put(text, "host kernels: %s (of", sherd__host_math_best()->name);
    for (uint32_t i = 0; i < n && i < sizeof all / sizeof *all; i++)
        sherd__text_put(text, "%s %s", i ? "," : "", all[i]->name);
    sherd__text_put(text, ")\n");
}

static void add_optimizers(sherd__text *text)
{
    const char *comma = "";

    sherd__text_put(text, "optimizers:");
#define X(KIND, stem, moments)                                                                                         \
    sherd__text_put(text, "%s %s", comma, sherd__optim_get(SHERD_##KIND)->name);                                       \
    comma = ",";
    SHERD__OPTIM_MAP(X)
#undef X
    sherd__text_put(text, "\n");
}

/* Each line of the machine's topology, under one key. */
static void add_topology(sherd__text *text)
{
    const sherd__topology_options options = {.from = SHERD__TOPOLOGY_MACHINE};
    sherd__topology topology;
    sherd_error err;
    char lines[4096], *rest = lines, *line;

    if (sherd__topology_load(&options, &topology, &err) != SHERD_OK) {
        sherd__text_put(text, "topology: not known: %s\n", err.text);
        return;
    }
    sherd__topology_print(&topology, lines, sizeof lines);
    sherd__topology_free(&topology);
    while ((line = strsep(&rest, "\n")) != NULL)
        if (line[0] != '\0')
            sherd__text_put(text, "topology: %s\n", line);
}

size_t sherd_info_text(char *buffer, size_t capacity)
{
    sherd__text text = sherd__text_in(buffer, capacity);
    char cuda[4096], nccl[640];

    sherd__device_describe_cuda(cuda, sizeof cuda);
    sherd__text_put(&text, "sherd: %s\n", sherd_version());
    sherd__text_put(&text, "cuda: %s\n", cuda);
    sherd__comm_describe_nccl(nccl, sizeof nccl);
    sherd__text_put(&text, "nccl: %s\n", nccl);
    sherd__text_put(&text, "devices: host, check%s\n", strncmp(cuda, "yes", 3) == 0 ? ", cuda" : "");
    for (size_t i = 0; i < sizeof features / sizeof *features; i++)
        sherd__text_put(&text, "%s: %s\n", features[i].name, features[i].state);
    add_optimizers(&text);
    add_kernels(&text);
    add_topology(&text);
    sherd__text_put(&text, "processors online: %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    sherd__text_put(&text, "limits: %d parameter groups, %d dimensions\n", SHERD_MAX_GROUPS, SHERD_MAX_DIMS);
    return text.length;
}
