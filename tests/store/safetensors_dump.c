/* SPDX-License-Identifier: MIT
 *
 * safetensors_dump write FILE: a file of every type we name, for another reader. safetensors_dump print FILE: what we
 * read in it, a line each: the name in hexadecimal, type, shape, the bytes in hexadecimal; then one of __metadata__'s
 * "format".
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/safetensors.h"

static int complain(const sherd_error *err)
{
    fprintf(stderr, "%s\n", err->text);
    return 1;
}

static int write_sample(const char *path)
{
    static const sherd__tensor tensors[] = {
        {"wide", "F64", {3}, 1},
        {"count", "I64", {2, 2}, 2},
        {"model.weight \xC3\xA9 \"q\" \\ \n", "F32", {2, 3}, 2},
        {"scalar", "F32", {0}, 0},
        {"none", "F32", {4, 0, 2}, 3},
        {"half", "F16", {5}, 1},
        {"brain", "BF16", {1, 7}, 2},
        {"bytes", "U8", {9}, 1},
    };
    static const sherd__pair metadata[] = {{"format", "pt \xE2\x82\xAC"}};
    enum { BYTES = 24 + 32 + 24 + 4 + 10 + 14 + 9, N = sizeof tensors / sizeof tensors[0] };
    unsigned char data[BYTES];
    sherd__safetensors_writer *writer = NULL;
    sherd_error err;
    for (int i = 0; i < BYTES; i++) {
        data[i] = (unsigned char)(i * 29 + 3);
    }
    if (sherd__safetensors_create(path, tensors, N, metadata, 1, NULL, NULL, &writer, &err) != SHERD_OK ||
        sherd__safetensors_write(writer, data, BYTES, &err) != SHERD_OK ||
        sherd__safetensors_commit(writer, NULL, NULL, &err) != SHERD_OK) {
        return complain(&err);
    }
    return 0;
}

static void print_hex(const unsigned char *data, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++) {
        printf("%02x", data[i]);
    }
}

static int print_file(const char *path)
{
    sherd_safetensors *file = NULL;
    sherd_error err;
    if (sherd_safetensors_open(path, NULL, &file, &err) != SHERD_OK) {
        return complain(&err);
    }
    for (size_t i = 0; i < sherd_safetensors_count(file); i++) {
        sherd_tensor_info info;
        sherd_safetensors_info(file, i, &info);
        unsigned char *data = malloc(info.bytes + 1);
        if (!data || sherd_safetensors_read(file, i, 0, info.elems, data, &err) != SHERD_OK) {
            return complain(&err);
        }
        print_hex((const unsigned char *)info.name, strlen(info.name));
        printf(" %s [", info.dtype);
        for (uint32_t d = 0; d < info.ndim; d++) {
            printf(d > 0 ? ",%" PRId64 : "%" PRId64, info.shape[d]);
        }
        printf("] ");
        print_hex(data, info.bytes);
        printf("\n");
        free(data);
    }
    const char *format = sherd_safetensors_metadata(file, "format");
    printf("format %s\n", format ? format : "");
    sherd_safetensors_close(file);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "write") == 0) {
        return write_sample(argv[2]);
    }
    if (argc == 3 && strcmp(argv[1], "print") == 0) {
        return print_file(argv[2]);
    }
    fprintf(stderr, "usage: safetensors_dump write|print FILE\n");
    return 2;
}
