/* SPDX-License-Identifier: MIT */
#include "tests/support/fail_io.h"

#include <dirent.h>
#include <time.h>

static int is_transfer(sherd__io_kind kind)
{
    return kind == SHERD__IO_READ || kind == SHERD__IO_WRITE;
}

static int64_t ask(void *ctx, sherd__io_kind kind, uint64_t bytes)
{
    sherd_test_io *state = ctx;
    int64_t verdict = 0;
    atomic_fetch_add(&state->calls[kind], 1);
    for (int32_t ms = 0; is_transfer(kind) && atomic_load(&state->hold); ms++) {
        if (atomic_load(&state->hold_ms) > 0 && ms >= atomic_load(&state->hold_ms)) {
            break;
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    if (is_transfer(kind) && state->most > 0 && state->most < bytes) {
        verdict = (int64_t)state->most;
    }
    if (state->kinds != 0 && (state->kinds >> kind & 1u) == 0) {
        return verdict;
    }
    int64_t number = atomic_fetch_add(&state->counted, 1) + 1;
    int64_t last = state->fail_at + (state->fail_for > 0 ? state->fail_for - 1 : 0);
    if (state->fail_at == 0 || number < state->fail_at || number > last) {
        return verdict;
    }
    atomic_fetch_add(&state->struck, 1);
    if (state->code != 0) {
        return -state->code;
    }
    return is_transfer(kind) ? (int64_t)(state->most > 0 ? state->most : 1) : verdict;
}

sherd__io sherd_test_io_hook(sherd_test_io *state)
{
    return (sherd__io){.hook = ask, .ctx = state};
}

int sherd_test_open_files(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int n = 0;
    while (folder && readdir(folder) != NULL) {
        n++;
    }
    if (folder) {
        closedir(folder);
    }
    return n;
}
