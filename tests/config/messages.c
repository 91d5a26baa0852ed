/* SPDX-License-Identifier: MIT
 *
 * Every kind of fault with its whole sentence: place, key, what is wrong, what to do.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/config/parse.h"

typedef struct fault {
    const char *text, *set; /* set may be NULL */
    sherd_status status;
    const char *sentence;
} fault;

#define BF16 "\"bf16\": {\"enabled\": true}"

static const fault faults[] = {
    /* the text */
    {"", NULL, SHERD_EINVAL, "ds.json: line 1, column 1: '[' or '{' expected near end of file, correct the JSON"},
    {"[]", NULL, SHERD_EINVAL, "ds.json: line 1, column 1: the text is a list, make it an object {...}"},
    {"{\n \"bf16\": {\"enabled\": tru}}", NULL, SHERD_EINVAL,
     "ds.json: line 2, column 24: bf16.enabled: invalid token near 'tru', correct the JSON"},
    {"{\"bf16\": {\n  \"enabled\": true,\n  \"enabled\": true}}", NULL, SHERD_EINVAL,
     "ds.json: line 3, column 11: bf16.enabled: the key is written twice, keep one of them"},
    {"{\"sherd\": {}, \"sherd\": {}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 21: sherd: the key is written twice, keep one of them"},
    /* unknown keys */
    {"{\"zero_optimization\": {\n  \"stge\": 1}}", NULL, SHERD_EINVAL,
     "ds.json: line 2, column 3: zero_optimization.stge: unknown key, did you mean zero_optimization.stage?"},
    {"{\"bf16\": {\"loss_scale\": 1}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 11: bf16.loss_scale: unknown key, did you mean fp16.loss_scale?"},
    {"{\"sherd\": {\"quux\": 1}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 12: sherd.quux: unknown key, remove it"},
    {"{\"zero_optimization\": {\"offload_optimizer\": {\"devcie\": \"cpu\"}}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 46: zero_optimization.offload_optimizer.devcie: unknown key, did you mean "
     "zero_optimization.offload_optimizer.device?"},
    {"{\"bf16\": {\"bf16.enabled\": true}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 11: bf16.bf16.enabled: unknown key, did you mean bf16.enabled?"},
    /* types and ranges */
    {"{\"zero_optimization\": {\"stage\": \"two\"}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 24: zero_optimization.stage: found the string \"two\", give an integer from 0 to 3"},
    {"{\"zero_optimization\": {\"stage\": 4}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 24: zero_optimization.stage: found 4, give an integer from 0 to 3"},
    {"{\"zero_optimization\": 2}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 2: zero_optimization: found 2, give an object"},
    {"{\"train_batch_size\": 2.5}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 2: train_batch_size: found 2.5, give an integer of at least 1"},
    {"{\"train_batch_size\": 1e300}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 2: train_batch_size: found 1e300, give an integer of at least 1"},
    {"{\"gradient_clipping\": -1}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 2: gradient_clipping: found -1, give a number of at least 0"},
    {"{\"bf16\": {\"enabled\": 1}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 11: bf16.enabled: found 1, give true or false"},
    {"{\"gradient_allreduce_op\": \"max\"}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 2: gradient_allreduce_op: found the string \"max\", give one of \"mean\", \"sum\""},
    {"{\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"betas\": [0.9]}}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 44: optimizer.params.betas: found a list, give a list of two numbers from 0 to below 1"},
    {"{\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"betas\": [0.9, 1]}}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 44: optimizer.params.betas: found a list, give a list of two numbers from 0 to below 1"},
    {"{\"elasticity\": {\"micro_batch_sizes\": [2, 0]}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 17: elasticity.micro_batch_sizes: found a list, give a list of integers of at least 1"},
    {"{\"sherd\": {\"fail_after_s\": 0}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 12: sherd.fail_after_s: found 0, give a number above 0"},
    /* between keys */
    {"{\"fp16\": {\"enabled\": true},\n" BF16 "}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 11: fp16.enabled: fp16 and bf16 are both enabled, set one of them to false"},
    {"{\"optimizer\": {\"params\": {\"lr\": 1}}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 2: optimizer.type: is missing, give one of \"AdamW\", \"Adam\", \"SGD\", \"Lion\", "
     "\"Adagrad\", \"Lamb\", \"Muon\""},
    {"{\"optimizer\": {\"type\": \"AdamWW\"}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 16: optimizer.type: found the string \"AdamWW\", give one of \"AdamW\", \"Adam\", "
     "\"SGD\", \"Lion\", \"Adagrad\", \"Lamb\", \"Muon\""},
    {"{\"optimizer\": {\"type\": \"Muon\", \"params\": {\"adam_w_mode\": false}}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 43: optimizer.params.adam_w_mode: is false, but what is no matrix is updated by AdamW under "
     "Muon; remove it"},
    {"{\"optimizer\": {\"type\": \"Muon\", \"params\": {\"ns_steps\": 0}}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 43: optimizer.params.ns_steps: found 0, give an integer of at least 1"},
    {"{\"optimizer\": {\"type\": \"SGD\", \"params\": {\"betas\": [0, 0]}}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 42: optimizer.params.betas: this optimizer has no such parameter, remove it"},
    {"{\"optimizer\": {\"type\": \"Adam\", \"params\": {\"max_grad_norm\": 1}}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 43: optimizer.params.max_grad_norm: an error, as in DeepSpeed; use gradient_clipping at "
     "top level"},
    {"{\"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"total_num_steps\": 1}}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 47: scheduler.params.total_num_steps: this scheduler has no such parameter, remove it"},
    {"{\"scheduler\": {\"type\": \"WarmupDecayLR\",\n\"params\": {}}}", NULL, SHERD_EINVAL,
     "ds.json: line 2, column 1: scheduler.params.total_num_steps: is missing, give the number of updates of the whole "
     "run"},
    {"{\"scheduler\": {\"type\": \"WarmupCosineLR\"}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 2: scheduler.params.total_num_steps: is missing, give the number of updates of the whole "
     "run"},
    {"{\"scheduler\": {\"type\": \"OneCycle\", \"params\": {\"cycle_min_lr\": 1}}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 36: scheduler.params.cycle_max_lr: is missing, give a learning rate; OneCycle has no default "
     "for it"},
    {"{\"scheduler\": {\"type\": \"LRRangeTest\", \"params\": {\"cycle_min_lr\": 1}}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 50: scheduler.params.cycle_min_lr: this scheduler has no such parameter, remove it"},
    /* not built */
    {"{\"zero_optimization\": {\"stage\": 3}}", NULL, SHERD_EUNSUPPORTED,
     "ds.json: line 1, column 24: zero_optimization.stage: 3 is refused: 1 shards the optimizer's state, 2 gradients "
     "too; 3 (parameters) is not built yet, use 2"},
    {"{\"zero_optimization\": {\"offload_optimizer\": {\"device\": \"nvme\"}}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 24: zero_optimization.offload_optimizer.nvme_path: is missing, give the folder (or "
     "several, separated by ':') of the disk tier"},
    {"{\"sherd\": {\"device_memory_budget\": \"12 gigs\"}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 12: sherd.device_memory_budget: found the string \"12 gigs\", give a number of bytes, a size as "
     "\"12GiB\", or \"auto\""},
    {"{" BF16 ", \"communication_data_type\": \"int8\"}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 29: communication_data_type: found the string \"int8\", give one of \"fp32\", \"bf16\", \"fp16\""},
    /* validated first, then refused */
    {"{\"zero_optimization\": {\"stage\": 3},\n \"bf16\": {\"enabeld\": true}}", NULL, SHERD_EINVAL,
     "ds.json: line 2, column 11: bf16.enabeld: unknown key, did you mean bf16.enabled?"},
    {"{\"zero_optimization\": {\"offload_optimizer\": {\"device\": \"cpu\", \"ratio\": 2}}}", NULL, SHERD_EINVAL,
     "ds.json: line 1, column 63: zero_optimization.offload_optimizer.ratio: found 2, give a number from 0 to 1"},
    /* --set */
    {"{}", "zero_optimization.stage=9", SHERD_EINVAL,
     "--set zero_optimization.stage=9: zero_optimization.stage: found 9, give an integer from 0 to 3"},
    {"{\"zero_optimization\": {\"stage\": 9}}", "zero_optimization={\"stage\": 8}", SHERD_EINVAL,
     "--set zero_optimization={\"stage\": 8}: zero_optimization.stage: found 8, give an integer from 0 to 3"},
    {"{}", "scheduler.params.warmup_num_steps=3", SHERD_EINVAL,
     "--set scheduler.params.warmup_num_steps=3: scheduler.type: is missing, give one of \"WarmupLR\", "
     "\"WarmupDecayLR\", \"WarmupCosineLR\", \"OneCycle\", \"LRRangeTest\""},
    {"{}", "zero_optimization.stage", SHERD_EINVAL,
     "--set zero_optimization.stage: not of the form KEY.PATH=VALUE"},
    {"{}", "=1", SHERD_EINVAL, "--set =1: not of the form KEY.PATH=VALUE"},
    {"{}", "a..b=1", SHERD_EINVAL,
     "--set a..b=1: the key path is not made of 1 to 8 names with dots between"},
    {"{}", "a.b.=1", SHERD_EINVAL,
     "--set a.b.=1: the key path is not made of 1 to 8 names with dots between"},
    {"{}", "a.b.c.d.e.f.g.h.i=1", SHERD_EINVAL,
     "--set a.b.c.d.e.f.g.h.i=1: the key path is not made of 1 to 8 names with dots between"},
    {"{\"bf16\": {\"enabled\": true}}", "bf16.enabled.x=1", SHERD_EINVAL,
     "--set bf16.enabled.x=1: \"enabled\" is not an object and cannot hold \"x\""},
    {"{}", "bf16={\"enabled\": true, \"enabled\": true}", SHERD_EINVAL,
     "--set bf16={\"enabled\": true, \"enabled\": true}: a key is written twice, keep one of them"},
    {"{}", "bf16={\"enabled\": tru}", SHERD_EINVAL,
     "--set bf16={\"enabled\": tru}: bf16: found the string \"{\\\"enabled\\\": tru}\", give an object"},
};

static void each_fault_has_its_sentence(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        parsed p;
        sherd_config untouched;

        parse_with_set(&p, faults[i].text, faults[i].set);
        assert_string_equal(p.error.text, faults[i].sentence);
        assert_int_equal(p.status, faults[i].status);
        assert_int_equal(p.error.status, faults[i].status);
        sherd_config_init(&untouched, sizeof untouched);
        assert_memory_equal(&p.config, &untouched, sizeof untouched);
    }
}

static void the_last_set_is_named(void **state)
{
    const char *sets[] = {"zero_optimization.stage=8", "bf16.enabled=true", "zero_optimization.stage=9"};
    sherd_config config;
    sherd_error err;

    (void)state;
    sherd_config_init(&config, sizeof config);
    assert_int_equal(sherd_config_read(&config, NULL, sets, 3, NULL, &err), SHERD_EINVAL);
    assert_string_equal(err.text, "--set zero_optimization.stage=9: zero_optimization.stage: found 9, give an integer "
                                  "from 0 to 3");
}

static void files_that_cannot_be_read(void **state)
{
    sherd_config config;
    sherd_error err;

    (void)state;
    sherd_config_init(&config, sizeof config);
    assert_int_equal(sherd_config_read(&config, "/nonexistent/ds.json", NULL, 0, NULL, &err), SHERD_EIO);
    assert_string_equal(err.text, "/nonexistent/ds.json: cannot be opened: No such file or directory");
    assert_int_equal(sherd_config_read(&config, "/", NULL, 0, NULL, &err), SHERD_EIO);
    assert_string_equal(err.text, "/: cannot be read: Is a directory");
    assert_int_equal(sherd_config_read(&config, "/dev/zero", NULL, 0, NULL, &err), SHERD_EINVAL);
}

static void an_uninitialised_config_is_refused(void **state)
{
    sherd_config config = {0};
    sherd_error err;

    (void)state;
    assert_int_equal(sherd_config_read(&config, NULL, NULL, 0, NULL, &err), SHERD_EINVAL);
    assert_string_equal(err.text, "sherd_config_parse: config.size is 0, call sherd_config_init first");
}

/* Text with one or two bytes changed: some faults, some not, never a crash, and always a sentence. */
static void damaged_text_ends_in_a_sentence(void **state)
{
    static const char whole[] =
        "{\"train_batch_size\": 8, \"zero_optimization\": {\"stage\": 2, \"offload_optimizer\": {\"device\": "
        "\"none\"}},\n \"optimizer\": {\"type\": \"AdamW\", \"params\": {\"betas\": [0.9, 0.95], \"lr\": 1e-4}}, "
        "\"aio\": null}\n";
    uint64_t seed = 88172645463325252u;
    int faults_seen = 0;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        char text[sizeof whole];
        sherd_config config;
        sherd_error err = {.text = ""};

        memcpy(text, whole, sizeof whole);
        for (int k = 0; k < 1 + i % 2; k++) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            text[seed % (sizeof whole - 1)] = (char)(seed >> 32);
        }
        sherd_config_init(&config, sizeof config);
        if (sherd_config_parse(&config, text, sizeof whole - 1, "damaged", NULL, 0, NULL, &err) != SHERD_OK) {
            faults_seen++;
            assert_non_null(strstr(err.text, "damaged"));
        }
    }
    assert_in_range(faults_seen, 10000, 19999);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_fault_has_its_sentence),
        cmocka_unit_test(the_last_set_is_named),
        cmocka_unit_test(files_that_cannot_be_read),
        cmocka_unit_test(an_uninitialised_config_is_refused),
        cmocka_unit_test(damaged_text_ends_in_a_sentence),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
