/* SPDX-License-Identifier: MIT
 *
 * What the ranks of a checkpoint say to one another, and how values pass between device and files. Files fail on one
 * rank and not on others: before anything that all do together they tell each other, so that nobody waits for a rank
 * that has given up.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/checkpoint.h"
#include "shard/reshard.h"

#define TEXT_BYTES 56 /* of a sentence, in one line */

typedef struct word {
    int32_t status;
    char text[TEXT_BYTES];
} word;

_Static_assert(sizeof(word) <= SHERD__SCRATCH_BYTES_PER_RANK, "a line of the scratch window");

static const word *word_of(const sherd_engine *engine, int32_t rank)
{
    return (const word *)(const void *)(engine->scratch_host + (size_t)rank * SHERD__SCRATCH_BYTES_PER_RANK);
}

/* Piece `i` of every rank's sentence; *failed is the first rank that has one. */
static sherd_status tell(sherd_engine *engine, sherd_status mine, const sherd_error *why, size_t i, int32_t *failed,
                         sherd_error *err)
{
    word line = {.status = (int32_t)mine, .text = ""};
    sherd_status status;

    if (mine != SHERD_OK && (i + 1) * TEXT_BYTES <= sizeof why->text)
        memcpy(line.text, why->text + i * TEXT_BYTES, TEXT_BYTES);
    status = sherd__engine_exchange(engine, &line, sizeof line, err);
    for (int32_t r = engine->world; status == SHERD_OK && r-- > 0;)
        if (word_of(engine, r)->status != SHERD_OK)
            *failed = r;
    return status;
}

sherd_status sherd__checkpoint_agree(sherd_engine *engine, sherd_status mine, const sherd_error *why, sherd_error *err)
{
    char text[sizeof why->text + 1] = "";
    int32_t failed = -1;
    int32_t code = SHERD_OK;
    sherd_status status = tell(engine, mine, why, 0, &failed, err);

    for (size_t i = 0; status == SHERD_OK && failed >= 0 && (i + 1) * TEXT_BYTES < sizeof text; i++) {
        if (i > 0)
            status = tell(engine, mine, why, i, &failed, err);
        code = word_of(engine, failed)->status;
        memcpy(text + i * TEXT_BYTES, word_of(engine, failed)->text, TEXT_BYTES);
        if (memchr(word_of(engine, failed)->text, '\0', TEXT_BYTES))
            break;
    }
    if (status != SHERD_OK || failed < 0)
        return status;
    if (failed == engine->rank)
        return sherd__pass(err, why);
    return sherd__fail_rank(err, (sherd_status)code, failed, "rank %" PRId32 ": %s", failed, text);
}

sherd_status sherd__checkpoint_lower(sherd_engine *engine, sherd__values from, sherd_dtype staged, int64_t elems,
                                     sherd_error *err)
{
    uint64_t bytes = (uint64_t)elems * sherd_dtype_bytes(staged);
    sherd__tag tag = sherd__engine_tag(engine, "checkpoint", -1);
    sherd_status status = sherd__engine_follow(engine, "checkpoint reuse");

    if (status == SHERD_OK)
        status = sherd__engine_values_out(engine, tag, engine->stage, staged, from, elems);
    status = sherd__engine_check(engine, status, err);
    if (status == SHERD_OK)
        status = sherd__engine_sync(engine, SHERD__COMM, "checkpoint sync", err);
    return status == SHERD_OK ? sherd__engine_touch(engine, "checkpoint", engine->stage, bytes, 0, err) : status;
}

sherd_status sherd__checkpoint_raise(sherd_engine *engine, sherd__values to, sherd_dtype staged, int64_t elems,
                                     sherd_error *err)
{
    uint64_t bytes = (uint64_t)elems * sherd_dtype_bytes(staged);
    sherd__tag tag = sherd__engine_tag(engine, "checkpoint", -1);
    sherd_status status = sherd__engine_touch(engine, "checkpoint", engine->stage, bytes, 1, err);

    if (status == SHERD_OK)
        status = sherd__engine_follow(engine, "checkpoint follow");
    if (status == SHERD_OK)
        status = sherd__engine_values_in(engine, tag, to, engine->stage, staged, elems);
    status = sherd__engine_check(engine, status, err);
    return status == SHERD_OK ? sherd__engine_sync(engine, SHERD__COMM, "checkpoint sync", err) : status;
}

void sherd__checkpoint_optimizer_name(int32_t rank, int32_t world, char out[64])
{
    snprintf(out, 64, "optimizer-%05" PRId32 "-of-%05" PRId32 ".safetensors", rank, world);
}

/* The record is made of words of 64 bits; words that a later version adds come at its end. */
_Static_assert(sizeof(sherd__step_state) % sizeof(uint64_t) == 0, "words");

void sherd__checkpoint_state_text(const sherd__step_state *state, char *out, size_t bytes)
{
    uint64_t words[sizeof *state / sizeof(uint64_t)];
    size_t used = 0;

    memcpy(words, state, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof *words && used < bytes; i++)
        used += (size_t)snprintf(out + used, bytes - used, "%s%016" PRIx64, i ? " " : "", words[i]);
}

/* 1: understood. Words that the text lacks stay as they are. */
int sherd__checkpoint_state_of_text(const char *text, sherd__step_state *out)
{
    uint64_t words[sizeof *out / sizeof(uint64_t)];
    size_t n = 0;
    int length = 0;

    memcpy(words, out, sizeof words);
    while (n < sizeof words / sizeof *words && sscanf(text, "%16" SCNx64 "%n", &words[n], &length) == 1) {
        text += length;
        n++;
    }
    memcpy(out, words, sizeof words);
    return n >= 3 && *text == '\0';
}
