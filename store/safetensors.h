/* SPDX-License-Identifier: MIT
 *
 * The safetensors format (github.com/huggingface/safetensors): 8 bytes of header length, a JSON header, the tensors'
 * bytes one after the other. Reading is public (sherd.h); here are its seams for tests and fuzzing, and the writer.
 */
#ifndef SHERD_STORE_SAFETENSORS_H
#define SHERD_STORE_SAFETENSORS_H

#include "base/status.h"
#include "store/durable.h"

/* sherd_safetensors_open with a hook for system calls. */
sherd_status sherd__safetensors_open(const char *path, const sherd_allocator *allocator, const sherd__io *io,
                                     sherd_safetensors **out, sherd_error *err);
/* A file in memory: looks at the header only; reading tensors of it is ESTATE. `file_bytes` is the length the file is
 * said to have. */
sherd_status sherd__safetensors_parse(const void *data, uint64_t bytes, uint64_t file_bytes, const char *name,
                                      const sherd_allocator *allocator, sherd_safetensors **out, sherd_error *err);

typedef struct sherd__tensor {
    const char *name;  /* any bytes of UTF-8 but NUL */
    const char *dtype; /* "F32", "BF16", …: the format's own names */
    int64_t shape[SHERD_MAX_DIMS];
    uint32_t ndim;
} sherd__tensor;

typedef struct sherd__pair {
    const char *key, *value;
} sherd__pair;

typedef struct sherd__safetensors_writer sherd__safetensors_writer;

/* All tensors are known beforehand, and their bytes come in this order. A tensor must begin at a multiple of its
 * element's size: put wide types before narrow ones. Errors: EINVAL names the tensor, EIO, ENOMEM. */
sherd_status sherd__safetensors_create(const char *path, const sherd__tensor *tensors, uint32_t n_tensors,
                                       const sherd__pair *metadata, uint32_t n_metadata,
                                       const sherd_allocator *allocator, const sherd__io *io,
                                       sherd__safetensors_writer **out, sherd_error *err);
/* The next bytes, in pieces of any length that may cross tensors. */
sherd_status sherd__safetensors_write(sherd__safetensors_writer *writer, const void *data, uint64_t bytes,
                                      sherd_error *err);
/* As sherd__durable_commit; EINVAL if bytes are missing. */
sherd_status sherd__safetensors_commit(sherd__safetensors_writer *writer, uint64_t *bytes,
                                       uint8_t digest[SHERD__DIGEST_BYTES], sherd_error *err);
void sherd__safetensors_abandon(sherd__safetensors_writer *writer); /* NULL is fine */
/* Bytes of the whole file, before it is written: for plans and free space. 0: it cannot be written. */
uint64_t sherd__safetensors_file_bytes(const sherd__tensor *tensors, uint32_t n_tensors, const sherd__pair *metadata,
                                       uint32_t n_metadata);

#endif
