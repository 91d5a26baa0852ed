/* SPDX-License-Identifier: MIT
 *
 * What tests tell the stub of cuBLASLt, and ask it.
 */
#ifndef SHERD_TESTS_CUBLASLT_STUB_H
#define SHERD_TESTS_CUBLASLT_STUB_H

#include <stdint.h>

/* The next heuristic queries say that there is no algorithm. */
void cublaslt_stub_refuse(int on);
/* The nth product from now returns a failure. */
void cublaslt_stub_fail_at(uint64_t nth);
uint64_t cublaslt_stub_products(void);
uint64_t cublaslt_stub_heuristics(void);
/* Descriptors, layouts and preferences that exist. */
int64_t cublaslt_stub_alive(void);
/* 1 if every product so far was asked for as a deterministic one, within its workspace, with true alignments. */
int cublaslt_stub_honest(void);

#endif
