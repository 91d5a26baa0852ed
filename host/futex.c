/* SPDX-License-Identifier: MIT */
#include "host/futex.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int operation(int op, sherd__futex_scope scope)
{
    return scope == SHERD__FUTEX_SHARED ? op : op | FUTEX_PRIVATE_FLAG;
}

void sherd__futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t ns, sherd__futex_scope scope)
{
    struct timespec limit = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    if (ns > 0)
        (void)syscall(SYS_futex, word, operation(FUTEX_WAIT, scope), seen, &limit, NULL, 0);
}

void sherd__futex_wake(_Atomic uint32_t *word, int32_t count, sherd__futex_scope scope)
{
    (void)syscall(SYS_futex, word, operation(FUTEX_WAKE, scope), count, NULL, NULL, 0);
}

void sherd__futex_wake_all(_Atomic uint32_t *word, sherd__futex_scope scope)
{
    sherd__futex_wake(word, INT_MAX, scope);
}
