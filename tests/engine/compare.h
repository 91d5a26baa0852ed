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
/* Fails the test unless the rank has the bits that are wanted, and what it holds is what the plan says. */
void compared_result(const engine_case *c, const case_result *want, const case_result *got, int32_t rank);
/* The same of all ranks of the run. */
void compared_results(const compared_run *run, const case_result *want);
/* Fails the test unless all ranks come back, and all have the oracle's bits, which are in *want afterwards. */
void compared_run_and_compare(compared_run *run, case_result *want);
/* The same on the checking device, in the order that the seed draws; and unless its verdict is clean. */
void compared_run_and_check(compared_run *run, uint64_t seed, case_result *want);

#define COMPARED_CASES 256

/* Cases of one world, one behind the other on the same ranks. */
typedef struct compared_cases {
    uint32_t n;
    engine_case cases[COMPARED_CASES];
    case_result (*results)[COMPARED_CASES]; /* [rank][case]; of the last run */
} compared_cases;

/* Runs them on threads, or on processes. Fails the test unless all ranks come back; a case may have failed. */
void compared_cases_run(compared_cases *all, const world_options *options, int processes);
/* Holds every case of every rank against the oracle. */
void compared_cases_and_oracle(const compared_cases *all, int32_t world);
/* Fails the test unless one of them had buckets on all three tiers, and one more than two, the slots there are, on disk. */
void compared_cases_on_tiers(const compared_cases *all);

/* Bytes that the device's ledger still has of what the plan names, whatever the tier. */
uint64_t compared_planned_bytes(sherd_device *device);
/* The case on one rank, with the k-th allocation failing, for every k: nothing stays behind. Returns how many of the runs failed. */
int64_t compared_fail_allocations(const engine_case *c);

#endif
