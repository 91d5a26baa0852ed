/* SPDX-License-Identifier: MIT
 *
 * XXH3-128 of bytes as they go by, and of whole files. Most significant byte first, as in base/hash.h.
 */
#ifndef SHERD_STORE_DIGEST_H
#define SHERD_STORE_DIGEST_H

#include "base/status.h"
#include "store/io.h"

#define SHERD__DIGEST_BYTES 16
#define SHERD__DIGEST_TEXT 33 /* hexadecimal, with its NUL */

typedef struct sherd__digest sherd__digest;

sherd_status sherd__digest_create(sherd__digest **out, sherd_error *err); /* ENOMEM */
void sherd__digest_destroy(sherd__digest *digest);
void sherd__digest_add(sherd__digest *digest, const void *data, uint64_t bytes);
/* Of all that was added so far; more may follow. */
void sherd__digest_get(const sherd__digest *digest, uint8_t out[SHERD__DIGEST_BYTES]);
/* Reads the whole file. EIO names it. */
sherd_status sherd__digest_file(const sherd__io *io, const char *path, uint64_t *bytes,
                                uint8_t out[SHERD__DIGEST_BYTES], sherd_error *err);

void sherd__digest_text(const uint8_t digest[SHERD__DIGEST_BYTES], char out[SHERD__DIGEST_TEXT]);
/* 32 digits, lower case only; 0 if it is anything else. */
int sherd__digest_of_text(const char *text, uint8_t out[SHERD__DIGEST_BYTES]);

#endif
