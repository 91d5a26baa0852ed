/* SPDX-License-Identifier: MIT
 *
 * muon_dump ROWS COLS STEPS: orthogonalises the matrix on standard input (fp32, as it lies in memory) and writes it to
 * standard output. For muon_against_torch.py.
 */
#include <stdio.h>
#include <stdlib.h>

#include "device/host_math.h"

static int run(float *matrix, float *scratch, int64_t rows, int64_t cols, int32_t steps)
{
    sherd__orthogonal job = {.matrix = matrix, .scratch = scratch, .rows = rows, .cols = cols, .steps = steps};
    size_t elems = (size_t)(rows * cols);
    if (fread(matrix, sizeof *matrix, elems, stdin) != elems) {
        fprintf(stderr, "%lld values are wanted\n", (long long)elems);
        return 1;
    }
    sherd__host_math_best()->orthogonalise(NULL, &job);
    return fwrite(matrix, sizeof *matrix, elems, stdout) == elems && fflush(stdout) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    int64_t rows = argc == 4 ? atoll(argv[1]) : 0, cols = argc == 4 ? atoll(argv[2]) : 0;
    if (rows < 1 || cols < 1 || rows > 65536 || cols > 65536) {
        fprintf(stderr, "usage: muon_dump ROWS COLS STEPS\n");
        return 2;
    }
    float *matrix = malloc((size_t)(rows * cols) * sizeof *matrix);
    float *scratch =
        aligned_alloc(64, ((size_t)sherd__muon_scratch_elems(rows, cols) * sizeof *scratch + 63) / 64 * 64);
    int code = matrix && scratch ? run(matrix, scratch, rows, cols, (int32_t)atoi(argv[3])) : 1;
    free(scratch);
    free(matrix);
    return code;
}
