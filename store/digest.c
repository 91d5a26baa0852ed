/* SPDX-License-Identifier: MIT */
#include "store/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include <xxhash.h>

#include "base/alloc.h"
#include "base/hash.h"

enum { CHUNK_BYTES = 1 << 20 };

sherd_status sherd__digest_create(sherd__digest **out, sherd_error *err)
{
    XXH3_state_t *state = XXH3_createState();
    if (!state || XXH3_128bits_reset(state) != XXH_OK) {
        XXH3_freeState(state);
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a file's digest");
    }
    *out = (sherd__digest *)state;
    return SHERD_OK;
}

void sherd__digest_destroy(sherd__digest *digest)
{
    XXH3_freeState((XXH3_state_t *)digest);
}

void sherd__digest_add(sherd__digest *digest, const void *data, uint64_t bytes)
{
    XXH3_128bits_update((XXH3_state_t *)digest, data, bytes);
}

void sherd__digest_get(const sherd__digest *digest, uint8_t out[SHERD__DIGEST_BYTES])
{
    XXH128_hash_t hash = XXH3_128bits_digest((const XXH3_state_t *)digest);
    sherd__hash_bytes((sherd__hash_sum){.low = hash.low64, .high = hash.high64}, out);
}

/* Of an open file, to its end. 0 or −errno. */
static int add_all(const sherd__io *io, int fd, sherd__digest *digest, unsigned char *chunk, uint64_t *bytes)
{
    uint64_t moved = 0;
    int code = 0;
    for (*bytes = 0; code == 0; *bytes += moved) {
        code = sherd__io_pread_all(io, fd, chunk, CHUNK_BYTES, *bytes, &moved);
        sherd__digest_add(digest, chunk, moved);
    }
    return code == -ENODATA ? 0 : code; /* its end */
}

sherd_status sherd__digest_file(const sherd__io *io, const char *path, uint64_t *bytes,
                                uint8_t out[SHERD__DIGEST_BYTES], sherd_error *err)
{
    sherd__digest *digest = NULL;
    sherd_status status = sherd__digest_create(&digest, err);
    unsigned char *chunk = sherd__alloc(&sherd__default_allocator, 1, CHUNK_BYTES);
    if (status == SHERD_OK && !chunk)
        status = sherd__fail(err, SHERD_ENOMEM, "no memory to read '%.300s'", path);
    int fd = status == SHERD_OK ? sherd__io_open(io, path, O_RDONLY, 0) : -1;
    int code = fd < 0 ? fd : add_all(io, fd, digest, chunk, bytes);
    if (status == SHERD_OK && code < 0)
        status = sherd__fail(err, SHERD_EIO, "'%.300s' cannot be read: %s", path, strerror(-code));
    if (status == SHERD_OK)
        sherd__digest_get(digest, out);
    if (fd >= 0)
        (void)sherd__io_close(io, fd); /* only read from */
    sherd__free(&sherd__default_allocator, chunk, 1, CHUNK_BYTES);
    sherd__digest_destroy(digest);
    return status;
}

void sherd__digest_text(const uint8_t digest[SHERD__DIGEST_BYTES], char out[SHERD__DIGEST_TEXT])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < SHERD__DIGEST_BYTES; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
    out[2 * SHERD__DIGEST_BYTES] = '\0';
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int sherd__digest_of_text(const char *text, uint8_t out[SHERD__DIGEST_BYTES])
{
    if (strlen(text) != 2 * SHERD__DIGEST_BYTES)
        return 0;
    for (int i = 0; i < SHERD__DIGEST_BYTES; i++) {
        int high = digit_of(text[2 * i]), low = digit_of(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return 0;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return 1;
}
