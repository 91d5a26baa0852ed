/* SPDX-License-Identifier: MIT
 *
 * smoke SECONDS: runs a target on its seeds, on every truncation of them, and then on mutations, the same ones every
 * time, for so long. smoke --seeds FOLDER: writes the seeds there, for libFuzzer. No coverage guides it: that is
 * libFuzzer's part.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/fuzz/target.h"

enum { SEEDS_MAX = 64 };

static struct {
    uint8_t *data;
    size_t bytes;
} seeds[SEEDS_MAX];
static int n_seeds;
static uint64_t state = 0x9E3779B97F4A7C15u;

static uint64_t next_random(uint64_t below)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state % below;
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void load_seeds(void)
{
    static uint8_t buffer[FUZZ_SEED_MAX];
    long bytes;
    while (n_seeds < SEEDS_MAX && (bytes = fuzz_seed(n_seeds, buffer)) >= 0) {
        seeds[n_seeds].data = malloc((size_t)bytes + 1);
        FUZZ_REQUIRE(seeds[n_seeds].data != NULL);
        memcpy(seeds[n_seeds].data, buffer, (size_t)bytes);
        seeds[n_seeds++].bytes = (size_t)bytes;
    }
}

static int write_seeds(const char *folder)
{
    char path[4096];
    for (int i = 0; i < n_seeds; i++) {
        snprintf(path, sizeof path, "%s/seed-%d", folder, i);
        FILE *stream = fopen(path, "wb");
        if (stream == NULL || fwrite(seeds[i].data, 1, seeds[i].bytes, stream) != seeds[i].bytes ||
            fclose(stream) != 0) {
            perror(path);
            return 1;
        }
    }
    printf("%d seeds\n", n_seeds);
    return 0;
}

/* An exact-size copy, so that a sanitizer sees a byte too many. */
static void run_exact(const uint8_t *data, size_t bytes)
{
    uint8_t *copy = malloc(bytes > 0 ? bytes : 1);
    FUZZ_REQUIRE(copy != NULL);
    memcpy(copy, data, bytes);
    (void)LLVMFuzzerTestOneInput(copy, bytes);
    free(copy);
}

static size_t mutate(uint8_t *data, size_t bytes)
{
    static const char *const words[] = {"0", "-1", "9223372036854775807", "1e400", "null", "{}", "[]", "\"", "\\u0000",
                                        ",", "1.5"};
    for (uint64_t edits = 1 + next_random(4); edits > 0 && bytes > 0; edits--) {
        size_t at = next_random(bytes), n = 1 + next_random(16);
        n = n < bytes - at ? n : bytes - at;
        switch (next_random(5)) {
        case 0:
            data[at] ^= (uint8_t)(1u << next_random(8));
            break;
        case 1:
            data[at] = (uint8_t)next_random(256);
            break;
        case 2: /* cut out */
            memmove(data + at, data + at + n, bytes - at - n);
            bytes -= n;
            break;
        case 3: { /* copy over */
            size_t from = next_random(bytes - n + 1);
            memmove(data + at, data + from, n);
            break;
        }
        default: { /* put in */
            const char *word = words[next_random(sizeof words / sizeof words[0])];
            size_t length = strlen(word);
            memmove(data + at + length, data + at, bytes - at);
            memcpy(data + at, word, length);
            bytes += length;
        }
        }
    }
    return bytes;
}

int main(int argc, char **argv)
{
    static uint8_t buffer[FUZZ_SEED_MAX + 4096];
    load_seeds();
    FUZZ_REQUIRE(n_seeds > 0 && n_seeds < SEEDS_MAX);
    if (argc == 3 && strcmp(argv[1], "--seeds") == 0) {
        return write_seeds(argv[2]);
    }
    double end = seconds() + (argc > 1 ? atof(argv[1]) : 1);
    uint64_t runs = 0;
    for (int i = 0; i < n_seeds; i++) {
        for (size_t n = 0; n <= seeds[i].bytes; n++, runs++) {
            run_exact(seeds[i].data, n);
        }
    }
    while (seconds() < end) {
        int i = (int)next_random((uint64_t)n_seeds);
        memcpy(buffer, seeds[i].data, seeds[i].bytes);
        size_t bytes = mutate(buffer, seeds[i].bytes);
        fuzz_mend(buffer, bytes);
        run_exact(buffer, bytes);
        runs++;
    }
    printf("%llu inputs\n", (unsigned long long)runs);
    for (int i = 0; i < n_seeds; i++) {
        free(seeds[i].data);
    }
    return 0;
}
