/* SPDX-License-Identifier: MIT
 *
 * The table of keys: one row per key of the JSON file. A row says what the value must look like, where it goes, and
 * what Sherd does with it, so that reading, the listing of `sherd info --keys` and docs/configuration.md cannot
 * disagree.
 */
#ifndef SHERD_CONFIG_KEYS_H
#define SHERD_CONFIG_KEYS_H

#include <jansson.h>

#include "sherd/sherd.h"

/* What the file says, before it is known to be possible: the configuration, and what only matters to the checks. */
typedef struct sherd__draft {
    sherd_config config;
    int32_t fp16_enabled, bf16_enabled, adam_w_mode;
    int32_t communication_dtype; /* place in the row's choices, those of sherd_wire from its second on; -1: not given */
    int32_t offload_device;                 /* sherd_tier, or -1: not given */
    int32_t cpu_offload;                    /* the old form of offload_device = SHERD_TIER_HOST */
    int32_t optimizer_type, scheduler_type; /* index into the row's choices, -1: not given */
} sherd__draft;

typedef enum sherd__value_type {
    SHERD__BOOLEAN, SHERD__INTEGER, SHERD__NUMBER, SHERD__STRING, SHERD__CHOICE, SHERD__INTEGERS, SHERD__BETAS,
    SHERD__ANY, SHERD__OBJECT, SHERD__BYTES /* a number, "12GiB", or "auto" */
} sherd__value_type;

typedef enum sherd__range {
    SHERD__RANGE_ANY, SHERD__RANGE_ZERO_UP, SHERD__RANGE_ONE_UP, SHERD__RANGE_POSITIVE, SHERD__RANGE_UNIT,
    SHERD__RANGE_BELOW_ONE, SHERD__RANGE_STAGE, SHERD__RANGE_POWER
} sherd__range;

/* Where a valid value goes: nowhere, or a member of the draft at the row's offset. A choice stores its place in the
 * list. */
typedef enum sherd__store {
    SHERD__STORE_NONE, SHERD__STORE_I32, SHERD__STORE_I64, SHERD__STORE_F64, SHERD__STORE_BETAS, SHERD__STORE_PATHS
} sherd__store;

enum { /* row flags */
    SHERD__KEY_FORBIDDEN = 1,  /* an error (EINVAL) wherever it stands */
    SHERD__KEY_QUIET = 2,      /* a section whose members only matter to something that is refused: no warnings */
    SHERD__KEY_OPEN = 4,       /* an object whose members are not looked at */
    SHERD__KEY_ANY_CASE = 8    /* a choice read without regard to case, as DeepSpeed does */
};

enum { /* which optimizers and schedulers a parameter belongs to; 0: not a parameter of either */
    SHERD__FOR_ADAM = 1, SHERD__FOR_SGD = 2, SHERD__FOR_WARMUP = 4, SHERD__FOR_DECAY = 8, SHERD__FOR_COSINE = 16,
    SHERD__FOR_LAMB = 512, SHERD__FOR_MUON = 1024,
    SHERD__FOR_LION = 32, SHERD__FOR_ADAGRAD = 64, SHERD__FOR_CYCLE = 128, SHERD__FOR_RANGE = 256,
    SHERD__FOR_OPTIMIZERS = SHERD__FOR_ADAM | SHERD__FOR_SGD | SHERD__FOR_LION | SHERD__FOR_ADAGRAD |
                           SHERD__FOR_LAMB | SHERD__FOR_MUON,
    SHERD__FOR_SCHEDULERS = SHERD__FOR_WARMUP | SHERD__FOR_DECAY | SHERD__FOR_COSINE | SHERD__FOR_CYCLE | SHERD__FOR_RANGE
};

typedef struct sherd__key {
    const char *path;
    sherd__value_type type;
    sherd__range range;
    sherd__store store;
    size_t offset;
    sherd_key_status status;
    uint32_t flags, members; /* members: SHERD__FOR_… */
    const char *choices;       /* "none|cpu|nvme"; what is refused stands in braces: "none|{cpu}|{nvme}" */
    const char *default_value; /* JSON text; "" for none. A refused key asks for nothing when it has this value. */
    const char *note;
} sherd__key;

extern const sherd__key sherd__keys[];
extern const size_t sherd__keys_count;

/* NULL where there is no such key. */
const sherd__key *sherd__key_find(const char *path);
/* "an integer of at least 1", for messages and listings. */
const char *sherd__key_expects(const sherd__key *key, char *buffer, size_t capacity);
/* The text of choice `index`, without braces, into buffer; 0 if there is none. *refused tells the braces. */
int sherd__key_choice(const sherd__key *key, int32_t index, char *buffer, size_t capacity, int *refused);
/* Place of `text` among the choices, -1 if it is none of them. */
int32_t sherd__key_choose(const sherd__key *key, const char *text);
/* SHERD__FOR_… of optimizer.type or scheduler.type number `index`; 0 for one that is not built. */
uint32_t sherd__key_members(const sherd__key *type_key, int32_t index);

/* The key that was probably meant by `name` inside `section` ("" is the top level): its whole path, or NULL. */
const char *sherd__key_nearest(const char *section, const char *name);

/* Tells a value that the row allows from one that it does not, and stores it. On a fault returns EINVAL and writes
 * what is wrong and what to do into `why`. */
sherd_status sherd__value_store(const sherd__key *key, json_t *value, sherd__draft *draft, char *why, size_t capacity);
/* 1 if the value is the row's default, null or "auto". */
int sherd__value_is_default(const sherd__key *key, json_t *value);
/* 1 if the value, valid, asks for something that is not built. */
int sherd__value_is_refused(const sherd__key *key, json_t *value);

#endif
