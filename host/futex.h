/* SPDX-License-Identifier: MIT
 *
 * Sleeping on a word until another thread, or another process that maps the same memory, changes it. Linux futexes,
 * because words in a memfd must wake waiters of other processes, which a condition variable of one process cannot.
 */
#ifndef SHERD_HOST_FUTEX_H
#define SHERD_HOST_FUTEX_H

#include <stdatomic.h>
#include <stdint.h>

typedef enum sherd__futex_scope { SHERD__FUTEX_PROCESS = 0, SHERD__FUTEX_SHARED = 1 } sherd__futex_scope;

/* Sleeps while *word == seen, at most `ns`. Returns for any reason: the caller looks again. */
void sherd__futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t ns, sherd__futex_scope scope);
/* At most `count` waiters. */
void sherd__futex_wake(_Atomic uint32_t *word, int32_t count, sherd__futex_scope scope);
void sherd__futex_wake_all(_Atomic uint32_t *word, sherd__futex_scope scope);

#endif
