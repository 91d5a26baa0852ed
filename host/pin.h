/* SPDX-License-Identifier: MIT */
#ifndef SHERD_HOST_PIN_H
#define SHERD_HOST_PIN_H

#include <pthread.h>
#include <stdint.h>

/* Restricts a thread to one processor (os number). Returns 0 or an errno value; the thread is then as it was. */
int sherd__pin_thread(pthread_t thread, int32_t cpu);
/* 1 if the calling thread may run on this processor; 0 if not or if that cannot be told. */
int sherd__pin_allows(int32_t cpu);
#define SHERD__PIN_CPUS 8192 /* processors a mask has room for */
/* Calls fn for each processor the calling thread may run on, in order. Returns their number, or −1. fn may be NULL. */
int32_t sherd__pin_each(void (*fn)(void *arg, int32_t cpu), void *arg);

#endif
