/* SPDX-License-Identifier: MIT
 *
 * Machines that are not here, as hwloc's XML: numbered as real ones are (the second threads of all cores come after the
 * first ones), with distances, GPUs and nodes without cores.
 */
#ifndef SHERD_TESTS_HOST_MACHINE_XML_H
#define SHERD_TESTS_HOST_MACHINE_XML_H

#include <stddef.h>
#include <stdint.h>

typedef struct machine {
    int32_t packages, nodes_per_package, cores_per_node, smt;
    int32_t gpus_per_package;
    int32_t gpus_at_nodes; /* 1: GPU k of a package hangs on its node k modulo nodes_per_package; 0: on the package */
    int32_t memory_nodes;  /* one more node without cores in each of the first packages; numbered after all others */
    uint64_t node_bytes;
} machine;

/* PCI id of GPU k of package p. */
void machine_gpu_pci(int32_t package, int32_t k, char text[16]);
int32_t machine_nodes(const machine *it);
int32_t machine_cores(const machine *it);
/* NUL-terminated, to be freed. Distances: 10 itself, 12 the same package, 32 others; 17 to a memory node of the
 * package. */
char *machine_xml(const machine *it);

#endif
