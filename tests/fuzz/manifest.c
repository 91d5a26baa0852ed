/* SPDX-License-Identifier: MIT
 *
 * Any bytes as a manifest, with the checksum made right so that the reader behind it is reached. What is accepted can
 * be written again, and reads back as the same text.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "store/manifest_text.h"
#include "tests/fuzz/target.h"

void fuzz_mend(uint8_t *data, size_t bytes)
{
    uint8_t digest[SHERD__DIGEST_BYTES];
    char digits[SHERD__DIGEST_TEXT];
    if (bytes < SHERD__MANIFEST_SUM_AT + 32) {
        return;
    }
    memcpy(data, SHERD__MANIFEST_HEAD, SHERD__MANIFEST_SUM_AT);
    memcpy(data + SHERD__MANIFEST_SUM_AT, SHERD__MANIFEST_ZEROS, 32);
    sherd__hash_plain(data, bytes, digest);
    sherd__digest_text(digest, digits);
    memcpy(data + SHERD__MANIFEST_SUM_AT, digits, 32);
}

static void write_again(const sherd__manifest *first)
{
    sherd__manifest second;
    char *text = NULL, *again = NULL;
    uint64_t bytes = 0, again_bytes = 0;
    sherd_error err;
    FUZZ_REQUIRE(sherd__manifest_to_text(first, &text, &bytes, &err) == SHERD_OK);
    sherd__manifest_init(&second, NULL);
    FUZZ_REQUIRE(sherd__manifest_parse(&second, text, bytes, "again", &err) == SHERD_OK);
    FUZZ_REQUIRE(sherd__manifest_to_text(&second, &again, &again_bytes, &err) == SHERD_OK);
    FUZZ_REQUIRE(bytes == again_bytes && memcmp(text, again, bytes) == 0);
    sherd__free(&sherd__default_allocator, text, 1, bytes + 1);
    sherd__free(&sherd__default_allocator, again, 1, again_bytes + 1);
    sherd__manifest_fini(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    sherd__manifest manifest;
    sherd_error err = {.text = ""};
    uint8_t *copy = malloc(bytes + 1);
    FUZZ_REQUIRE(copy != NULL);
    if (bytes > 0) {
        memcpy(copy, data, bytes);
    }
    if (bytes % 8 != 7) { /* some as they are */
        fuzz_mend(copy, bytes);
    }
    sherd__manifest_init(&manifest, NULL);
    if (sherd__manifest_parse(&manifest, (const char *)copy, bytes, "fuzz", &err) == SHERD_OK) {
        write_again(&manifest);
    } else {
        FUZZ_REQUIRE(err.text[0] != '\0' && manifest.params == NULL);
    }
    sherd__manifest_fini(&manifest);
    free(copy);
    return 0;
}

long fuzz_seed(int index, uint8_t *out)
{
    sherd__manifest m;
    char *text;
    uint64_t bytes;
    if (index > 1) {
        return -1;
    }
    sherd__manifest_init(&m, NULL);
    FUZZ_REQUIRE(sherd__manifest_reserve(&m, index == 0 ? 0 : 2, index == 0 ? 0 : 1, index == 0 ? 0 : 1, NULL) ==
                 SHERD_OK);
    m.world = 4;
    m.lr = 3e-4;
    m.loss_scale.scale = 65536;
    if (index == 1) {
        m.n_states = 2;
        strcpy(m.states[0], "master");
        strcpy(m.states[1], "momentum");
        m.params[0] = (sherd__manifest_param){.name = "w", .shape = {3, 4}, .ndim = 2, .dtype = SHERD_BF16};
        m.params[1] = (sherd__manifest_param){.name = "b", .dtype = SHERD_FP32, .frozen = 1};
        strcpy(m.files[0].name, "model.safetensors");
        strcpy(m.notes[0].key, "k");
        strcpy(m.notes[0].value, "v");
    }
    FUZZ_REQUIRE(sherd__manifest_to_text(&m, &text, &bytes, NULL) == SHERD_OK && bytes <= FUZZ_SEED_MAX);
    memcpy(out, text, bytes);
    sherd__free(&sherd__default_allocator, text, 1, bytes + 1);
    sherd__manifest_fini(&m);
    return (long)bytes;
}
