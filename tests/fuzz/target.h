/* SPDX-License-Identifier: MIT
 *
 * A fuzz target is one source file with these three. It is linked either with libFuzzer (clang), or with smoke.c, which
 * mutates the seeds by itself and so runs in every build.
 */
#ifndef SHERD_TESTS_FUZZ_TARGET_H
#define SHERD_TESTS_FUZZ_TARGET_H

#include <stddef.h>
#include <stdint.h>

#define FUZZ_SEED_MAX 65536

/* Traps where an invariant does not hold; returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
/* Writes seed `index` of at most FUZZ_SEED_MAX bytes; its length, or −1 if there are no more. Valid inputs first. */
long fuzz_seed(int index, uint8_t *out);
/* What a mutation has to be followed by so that it is not refused at once (a checksum); may do nothing. */
void fuzz_mend(uint8_t *data, size_t bytes);

/* Not assert: it must hold in every build. */
#define FUZZ_REQUIRE(condition)                                                                                        \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            __builtin_trap();                                                                                          \
    } while (0)

#endif
