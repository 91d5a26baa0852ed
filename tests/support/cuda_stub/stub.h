/* SPDX-License-Identifier: MIT
 *
 * What tests tell the stub. A stream is a thread; whatever a GPU would do runs there, one item after another. Faults
 * are those a GPU has: a call that fails, an item that breaks the context for good, an item that never ends.
 */
#ifndef SHERD_TESTS_CUDA_STUB_H
#define SHERD_TESTS_CUDA_STUB_H

#include <stdint.h>

#include <cuda_runtime_api.h>

/* Forgets faults and counters; memory as large as `total` (0: 64 GiB), `devices` GPUs. Nothing may be running. */
void cuda_stub_reset(int devices, uint64_t total);
/* Device memory allocated from now on can be reached only while some stream executes a kernel or a copy: who touches it
 * from the CPU at another moment, or from a callback, dies of it, as with a GPU's. */
void cuda_stub_hide_memory(int on);
/* The block that holds this address is the CPU's too from now on. */
void cuda_stub_show_memory(const void *address);
/* GPUs do not reach each other's memory; memory cannot be lent to other processes. */
void cuda_stub_part_gpus(int on);
void cuda_stub_refuse_lending(int on);
/* Did GPU `gpu` get access to the other's memory? */
int cuda_stub_reaches(int gpu, int other);
/* Streams do not wait for events: how a test sees that its waits are needed. */
void cuda_stub_ignore_waits(int on);
/* Every fourth item comes up to so much later, by chance. */
void cuda_stub_delay(int us);
/* The `nth` call (from 1, counted from now) of the named function returns `code`. */
void cuda_stub_fail_call(const char *function, uint64_t nth, cudaError_t code);
/* The `nth` item that streams execute from now breaks the context: it and all later ones are not executed, callbacks
 * are not called, and every later call returns `code`. */
void cuda_stub_break_at(uint64_t nth, cudaError_t code);
/* The `nth` item from now does not end until cuda_stub_unhang. */
void cuda_stub_hang_at(uint64_t nth);
void cuda_stub_unhang(void);
/* Calls of a function since the reset, and items executed. */
uint64_t cuda_stub_calls(const char *function);
uint64_t cuda_stub_items(void);
/* Blocks, streams and events that exist. */
uint64_t cuda_stub_alive(void);

/* For launch.c: runs fn on a copy of args in stream order. */
cudaError_t cuda_stub_launch(cudaStream_t stream, const char *function, void (*fn)(const void *args), const void *args,
                             size_t bytes);

#endif
