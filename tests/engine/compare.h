/* SPDX-License-Identifier: MIT
 *
 * What most engine tests do with a case: run it on a world of threads, and hold every rank's outcome against the oracle.
 */
#ifndef SHERD_TESTS_ENGINE_COMPARE_H
#define SHERD_TESTS_ENGINE_COMPARE_H

#include "tests/engine/case.h"
#include "tests/engine/worlds.h"

typedef struct compared_run {
    engine_case c;
    case_result results[WORLD_MAX];
} compared_run;

/* One rank of it, as world_run_… call it. */
void compared_run_rank(void *run, int32_t rank, sherd_device *device, sherd_comm *comm);
/* Fails the test unless all ranks come back. */
void compared_run_world(compared_run *run);
/* And unless all have the oracle's bits, which are in *want afterwards. */
void compared_run_and_compare(compared_run *run, case_result *want);

/* Bytes that the device's ledger still has of what the plan names, whatever the tier. */
uint64_t compared_planned_bytes(sherd_device *device);
/* The case on one rank, with the k-th allocation failing, for every k: nothing stays behind. Returns how many of the runs failed. */
int64_t compared_fail_allocations(const engine_case *c);

#endif
