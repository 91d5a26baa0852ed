/* SPDX-License-Identifier: MIT
 *
 * Any text as a DeepSpeed configuration: it is refused with a sentence, or its values are within their ranges and
 * resolving it for a world is refused or consistent.
 */
#include <math.h>
#include <string.h>

#include "sherd/sherd.h"
#include "tests/fuzz/target.h"

static void check(sherd_config *config)
{
    FUZZ_REQUIRE(config->zero.stage >= 0 && config->zero.stage <= 3);
    FUZZ_REQUIRE(isfinite(config->optimizer.lr) && isfinite(config->gradient_clipping) &&
                 config->gradient_clipping >= 0);
    for (int64_t updates = 0; updates < 3; updates++) {
        (void)sherd_config_lr(config, updates);
    }
    for (int32_t world = 1; world <= 3; world++) {
        sherd_config copy = *config;
        sherd_error err = {.text = ""};
        if (sherd_config_resolve(&copy, world, &err) == SHERD_OK) {
            FUZZ_REQUIRE(copy.train_batch_size ==
                         copy.train_micro_batch_size_per_gpu * copy.gradient_accumulation_steps * world);
        } else {
            FUZZ_REQUIRE(err.text[0] != '\0');
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    sherd_config config;
    sherd_error err = {.text = ""};
    sherd_config_init(&config, sizeof config);
    if (sherd_config_parse(&config, (const char *)data, bytes, "fuzz", NULL, 0, NULL, &err) == SHERD_OK) {
        check(&config);
    } else {
        FUZZ_REQUIRE(err.text[0] != '\0');
    }
    /* The same text as the value of a --set. */
    char set[256] = "zero_optimization.stage=";
    size_t room = sizeof set - strlen(set) - 1;
    memcpy(set + strlen(set), data, bytes < room ? bytes : room);
    const char *const sets[] = {set};
    sherd_config_init(&config, sizeof config);
    if (sherd_config_parse(&config, "{}", 2, "fuzz", sets, 1, NULL, &err) == SHERD_OK) {
        check(&config);
    }
    return 0;
}

long fuzz_seed(int index, uint8_t *out)
{
    static const char *const seeds[] = {
        "{}",
        "{\"train_batch_size\": 32, \"gradient_accumulation_steps\": 2, \"bf16\": {\"enabled\": true}, "
        "\"gradient_clipping\": 1.0}",
        "{\"train_micro_batch_size_per_gpu\": \"auto\", \"zero_optimization\": {\"stage\": 2, \"reduce_bucket_size\": "
        "5e8, "
        "\"overlap_comm\": true, \"contiguous_gradients\": true, \"offload_optimizer\": {\"device\": \"cpu\", "
        "\"pin_memory\": true}}}",
        "{\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"lr\": 3e-4, \"betas\": [0.9, 0.95], \"eps\": 1e-8, "
        "\"weight_decay\": "
        "0.1}}, \"scheduler\": {\"type\": \"WarmupDecayLR\", \"params\": {\"warmup_num_steps\": 10, "
        "\"total_num_steps\": 100}}}",
        "{\"fp16\": {\"enabled\": true, \"loss_scale\": 0, \"initial_scale_power\": 16, \"hysteresis\": 2}, \"aio\": "
        "{\"block_size\": "
        "1048576, \"queue_depth\": 8}, \"sherd\": {\"grad_sum\": \"bf16\"}}",
        "0",
        "\"2\"",
        "2",
        "[[[[",
    };
    if (index >= (int)(sizeof seeds / sizeof seeds[0])) {
        return -1;
    }
    memcpy(out, seeds[index], strlen(seeds[index]));
    return (long)strlen(seeds[index]);
}

void fuzz_mend(uint8_t *data, size_t bytes)
{
    (void)data;
    (void)bytes;
}
