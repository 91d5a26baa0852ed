/* SPDX-License-Identifier: MIT
 *
 * What tests tell the emulator of simt.h; C and C++.
 */
#ifndef SHERD_TESTS_SIMT_CONTROL_H
#define SHERD_TESTS_SIMT_CONTROL_H

#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif

/* The order of launches that run from now on: 0 rising, 1 falling, else drawn. */
void simt_seed(uint64_t seed);
/* 1: a fault ends its launch only, and its sentence is kept (the first since the last simt_fault); 0: it ends the
 * program. */
void simt_catch(int on);
/* The sentence kept, "" if there is none; forgets it. The text stays until the next call. */
const char *simt_fault(void);
/* Dynamic shared memory a block may ask for (cudaDevAttrMaxSharedMemoryPerBlockOptin); 0: 227 KiB, as sm_90's. */
void simt_shared_limit(size_t bytes);
/* What cudaDevAttrMaxSharedMemoryPerBlockOptin says: the limit above. */
int simt_shared_optin(void);
/* Blocks run since the program began. */
uint64_t simt_blocks(void);

#if defined(__cplusplus)
}
#endif
#endif
