/* SPDX-License-Identifier: MIT
 *
 * Damage is found before anything is loaded: every byte of a small checkpoint changed, every truncation, every file
 * missing. Every system call and every allocation of a save fails once: the former checkpoint is as it was, and the
 * engine goes on. Another table of parameters is refused with a sentence that names the first difference.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/engine/case.h"
#include "tests/engine/checkpoints.h"
#include "tests/engine/worlds.h"
#include "tests/support/fail_alloc.h"
#include "tests/support/fail_io.h"

static const char *const files[] = {"manifest.json", "model.safetensors", "optimizer-00000-of-00001.safetensors"};
enum { FILES = sizeof files / sizeof *files };

static const checkpoints_shape usual = {.dtype = SHERD_BF16};

static void good_load(checkpoints_tiny *t, const char *dir)
{
    sherd_error err = {SHERD_OK, -1, ""};
    if (sherd_engine_load(t->engine, dir, NULL, &err) != SHERD_OK)
        fail_msg("%s", err.text);
}

static void good_save(checkpoints_tiny *t, const char *dir, const sherd_checkpoint *client)
{
    sherd_error err = {SHERD_OK, -1, ""};
    if (sherd_engine_save(t->engine, dir, client, &err) != SHERD_OK)
        fail_msg("%s", err.text);
}

/* Refused, with a sentence, and the engine as before. */
static void bad_load(checkpoints_tiny *t, const char *dir, const char *says)
{
    uint8_t before[16], after[16];
    sherd_error err = {SHERD_OK, -1, ""};

    checkpoints_hash(t, before);
    assert_int_not_equal(sherd_engine_load(t->engine, dir, NULL, &err), SHERD_OK);
    if (!strstr(err.text, says))
        fail_msg("'%s' is not in: %s", says, err.text);
    checkpoints_hash(t, after);
    assert_memory_equal(before, after, 16);
}

static void what_is_saved_comes_back(void **state)
{
    char dir[CHECKPOINTS_NAME];
    checkpoints_tiny t, other;
    sherd_checkpoint client, back;
    uint8_t want[16], got[16];
    int64_t steps[4];
    size_t n;

    (void)state;
    checkpoints_folder(dir);
    checkpoints_open(&t, &usual);
    checkpoints_step(&t);
    sherd_checkpoint_init(&client, sizeof client);
    client.sampler_seed = 0xFEDCBA9876543210u;
    client.sampler_position = 12345678901234567u;
    snprintf(client.client, sizeof client.client, "{\"any\": \"text\"}");
    good_save(&t, dir, &client);
    checkpoints_step(&t);
    good_save(&t, dir, NULL);
    good_save(&t, dir, &client); /* once more: takes the place of the former */
    checkpoints_hash(&t, want);
    assert_int_equal(sherd_checkpoint_list(dir, steps, 4, &n, NULL), SHERD_OK);
    assert_int_equal(n, 2);
    assert_int_equal(steps[0], 1);
    assert_int_equal(steps[1], 2);
    sherd_checkpoint_init(&back, sizeof back);
    checkpoints_open(&other, &usual);
    assert_int_equal(sherd_engine_load(other.engine, dir, &back, NULL), SHERD_OK);
    checkpoints_hash(&other, got);
    assert_memory_equal(want, got, 16);
    assert_memory_equal(want, back.state_hash, 16);
    assert_int_equal(back.step, 2);
    assert_int_equal(back.updates, 2);
    assert_true(back.sampler_seed == client.sampler_seed && back.sampler_position == client.sampler_position);
    assert_string_equal(back.client, client.client);
    checkpoints_step(&t);
    checkpoints_step(&other);
    checkpoints_hash(&t, want);
    checkpoints_hash(&other, got);
    assert_memory_equal(want, got, 16);
    good_save(&other, dir, NULL);
    assert_int_equal(sherd_checkpoint_prune(dir, 1, NULL), SHERD_OK);
    assert_int_equal(sherd_checkpoint_list(dir, steps, 4, &n, NULL), SHERD_OK);
    assert_int_equal(n, 1);
    assert_int_equal(steps[0], 3);
    checkpoints_close(&other);
    checkpoints_close(&t);
    checkpoints_remove(dir);
}

static void every_change_is_found(void **state)
{
    char dir[CHECKPOINTS_NAME], step[CHECKPOINTS_NAME + 16];
    checkpoints_tiny t;

    (void)state;
    checkpoints_folder(dir);
    snprintf(step, sizeof step, "%s/step-1", dir);
    checkpoints_open(&t, &usual);
    checkpoints_step(&t);
    good_save(&t, dir, NULL);
    assert_int_equal(sherd_checkpoint_verify(step, NULL), SHERD_OK);
    for (size_t f = 0; f < FILES; f++) {
        char path[2 * CHECKPOINTS_NAME];
        size_t bytes;
        snprintf(path, sizeof path, "%s/%s", step, files[f]);
        unsigned char *data = checkpoints_read(path, &bytes);
        for (size_t i = 0; i < bytes; i++) {
            data[i] ^= (unsigned char)(1u << i % 8);
            checkpoints_write(path, data, bytes);
            if (sherd_checkpoint_verify(step, NULL) == SHERD_OK)
                fail_msg("%s: a change of byte %zu is not found", files[f], i);
            if (i % 97 == 0)
                bad_load(&t, step, "");
            data[i] ^= (unsigned char)(1u << i % 8);
        }
        for (size_t length = 0; length < bytes; length++) {
            checkpoints_write(path, data, length);
            if (sherd_checkpoint_verify(step, NULL) == SHERD_OK)
                fail_msg("%s: %zu of %zu bytes are not found", files[f], length, bytes);
            if (length % 97 == 0)
                bad_load(&t, step, "");
        }
        assert_int_equal(unlink(path), 0);
        assert_int_not_equal(sherd_checkpoint_verify(step, NULL), SHERD_OK);
        bad_load(&t, step, "");
        checkpoints_write(path, data, bytes);
        free(data);
    }
    good_load(&t, step);
    checkpoints_close(&t);
    checkpoints_remove(dir);
}

static void another_table_is_refused(void **state)
{
    static const struct {
        checkpoints_shape shape;
        const char *says;
    } rows[] = {
        {{.dtype = SHERD_BF16, .second = "x"}, "parameter 1 ('x') is 'b' in the checkpoint"},
        {{.dtype = SHERD_BF16, .rows = 4}, "parameter 0 ('a') has 4 in dimension 0, 3 in the checkpoint"},
        {{.dtype = SHERD_FP32}, "parameter 0 ('a') is fp32, bf16 in the checkpoint"},
        {{.dtype = SHERD_BF16, .optimizer = SHERD_SGD}, "was made with optimizer AdamW (3 states)"},
        {{.dtype = SHERD_BF16, .n_params = 2}, "has 3 parameters, the model 2; the first that only one has is 'c'"},
    };
    char dir[CHECKPOINTS_NAME], none[CHECKPOINTS_NAME + 16];
    checkpoints_tiny t;

    (void)state;
    checkpoints_folder(dir);
    checkpoints_open(&t, &usual);
    bad_load(&t, dir, "holds no complete checkpoint");
    snprintf(none, sizeof none, "%s/none", dir);
    bad_load(&t, none, "No such file or directory");
    good_save(&t, dir, NULL);
    checkpoints_close(&t);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        checkpoints_open(&t, &rows[i].shape);
        bad_load(&t, dir, rows[i].says);
        checkpoints_close(&t);
    }
    checkpoints_remove(dir);
}

/* Only what was there before, and not a byte of it other. */
static void assert_intact(const char *dir, const char *what, int64_t k)
{
    int64_t steps[4];
    size_t n = 0;
    sherd_error err = {SHERD_OK, -1, ""};

    assert_int_equal(sherd_checkpoint_list(dir, steps, 4, &n, NULL), SHERD_OK);
    assert_true(n >= 1 && steps[0] == 1);
    for (size_t i = 0; i < n; i++) {
        char step[CHECKPOINTS_NAME + 16];
        snprintf(step, sizeof step, "%s/step-%d", dir, (int)steps[i]);
        if (sherd_checkpoint_verify(step, &err) != SHERD_OK)
            fail_msg("%s %d of a save: %s", what, (int)k, err.text);
    }
}

static void every_failing_call_leaves_the_former(void **state)
{
    char dir[CHECKPOINTS_NAME];
    checkpoints_tiny t, other;
    sherd_test_io io = {.code = ENOSPC};
    const sherd__io hook = sherd_test_io_hook(&io);
    uint8_t want[16], got[16];
    int64_t k;

    (void)state;
    checkpoints_folder(dir);
    checkpoints_open(&t, &usual);
    checkpoints_step(&t);
    good_save(&t, dir, NULL);
    checkpoints_step(&t);
    checkpoints_hash(&t, want);
    for (k = 1;; k++) {
        sherd_error err = {SHERD_OK, -1, ""};
        io.fail_at = io.counted + k;
        io.struck = 0;
        sherd__io_set_default(&hook);
        sherd_status status = sherd_engine_save(t.engine, dir, NULL, &err);
        sherd__io_set_default(NULL);
        if (io.struck == 0) { /* fewer calls than that */
            assert_int_equal(status, SHERD_OK);
            break;
        }
        assert_true(status == SHERD_OK || err.text[0]);
        assert_intact(dir, "failing system call", k);
        checkpoints_hash(&t, got);
        assert_memory_equal(want, got, 16);
    }
    assert_true(k > 20); /* or the hook is not in the way */
    checkpoints_open(&other, &usual);
    good_load(&other, dir);
    checkpoints_hash(&other, got);
    assert_memory_equal(want, got, 16);
    for (k = 1;; k++) { /* the same of loading: never half */
        sherd_error err = {SHERD_OK, -1, ""};
        io.fail_at = io.counted + k;
        io.struck = 0;
        io.code = EIO;
        sherd__io_set_default(&hook);
        sherd_status status = sherd_engine_load(other.engine, dir, NULL, &err);
        sherd__io_set_default(NULL);
        if (io.struck == 0) {
            assert_int_equal(status, SHERD_OK);
            break;
        }
        assert_true(status == SHERD_OK || err.text[0]);
    }
    assert_true(k > 5);
    good_load(&other, dir);
    checkpoints_hash(&other, got);
    assert_memory_equal(want, got, 16);
    checkpoints_close(&other);
    checkpoints_close(&t);
    checkpoints_remove(dir);
}

typedef struct crew {
    const char *dir;
    int loads;
    sherd_status status[3];
    sherd_error error[3];
} crew;

static void save_or_load(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    crew *crew = ctx;
    engine_case c = {.world = 3, .stage = 2, .bucket = 3000, .dtype = SHERD_BF16, .accumulation = 1};
    sherd_error *err = &crew->error[rank];
    sherd_engine *engine = NULL;
    sherd_plan *plan = NULL;
    sherd_param params[16];
    sherd_config config;
    uint32_t n;
    sherd_status status = case_config(&c, &config, err);

    case_params(&c, params, &n);
    if (status == SHERD_OK)
        status = sherd_plan_create(&config, params, n, 3, &plan, err);
    if (status == SHERD_OK)
        status = sherd_engine_create(plan, device, comm, &engine, err);
    if (status == SHERD_OK)
        status = crew->loads ? sherd_engine_load(engine, crew->dir, NULL, err)
                             : sherd_engine_save(engine, crew->dir, NULL, err);
    crew->status[rank] = status;
    sherd_engine_destroy(engine);
    sherd_plan_destroy(plan);
}

static const char *without_rank(const sherd_error *err)
{
    return strncmp(err->text, "rank ", 5) == 0 && strstr(err->text, ": ") ? strstr(err->text, ": ") + 2 : err->text;
}

/* One rank of three fails at one call: all return, with the same sentence. */
static void all_ranks_say_the_same(void **state)
{
    const world_options options = {.world = 3, .threads = 1};
    char dir[CHECKPOINTS_NAME];
    sherd_test_io io = {.code = EIO};
    const sherd__io hook = sherd_test_io_hook(&io);
    int64_t calls, refused = 0, named = 0;

    (void)state;
    checkpoints_folder(dir);
    for (int loads = 0; loads < 2; loads++) {
        crew crew = {.dir = dir, .loads = loads};
        assert_int_equal(world_run_threads(&options, save_or_load, &crew), 0); /* the first, undisturbed */
        assert_int_equal(crew.status[0], SHERD_OK);
        io.fail_at = INT64_MAX;
        io.counted = 0;
        sherd__io_set_default(&hook);
        assert_int_equal(world_run_threads(&options, save_or_load, &crew), 0);
        calls = io.counted;
        assert_true(calls > 15);
        for (int64_t k = 1; k <= calls; k += 3) {
            memset(crew.error, 0, sizeof crew.error);
            io.counted = 0;
            io.fail_at = k;
            assert_int_equal(world_run_threads(&options, save_or_load, &crew), 0);
            for (int r = 1; r < 3; r++) {
                assert_int_equal(crew.status[r], crew.status[0]);
                if (crew.status[0] != SHERD_OK &&
                    strcmp(without_rank(&crew.error[r]), without_rank(&crew.error[0])) != 0)
                    fail_msg("'%s', but rank 0: '%s'", crew.error[r].text, crew.error[0].text);
                named += crew.error[r].rank == 0;
            }
            refused += crew.status[0] != SHERD_OK;
            io.fail_at = INT64_MAX;
            assert_int_equal(sherd_checkpoint_verify(dir, NULL), SHERD_OK);
        }
        sherd__io_set_default(NULL);
    }
    assert_true(refused > 10 && named > 5);
    checkpoints_remove(dir);
}

static void every_failing_allocation_is_clean(void **state)
{
    char dir[CHECKPOINTS_NAME];
    sherd_test_alloc memory = {0};
    checkpoints_shape shape = usual;
    checkpoints_tiny t;
    int64_t live, failures = 0;

    (void)state;
    checkpoints_folder(dir);
    shape.allocator = sherd_test_allocator(&memory);
    checkpoints_open(&t, &shape);
    checkpoints_step(&t);
    good_save(&t, dir, NULL);
    live = memory.live_bytes;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t k = 1, struck = 1; struck; k++) {
            int64_t before = memory.calls;
            memory.fail_at = before + k;
            sherd_error err = {SHERD_OK, -1, ""};
            sherd_status status =
                pass ? sherd_engine_load(t.engine, dir, NULL, &err) : sherd_engine_save(t.engine, dir, NULL, &err);
            struck = memory.calls >= memory.fail_at;
            memory.fail_at = 0;
            assert_int_equal(memory.live_bytes, live);
            if (!struck)
                assert_int_equal(status, SHERD_OK);
            failures += status != SHERD_OK;
            assert_intact(dir, "failing allocation", k);
        }
    assert_true(failures > 10);
    checkpoints_close(&t);
    assert_int_equal(memory.live_bytes, 0);
    assert_int_equal(memory.wrong_sizes, 0);
    checkpoints_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_saved_comes_back), cmocka_unit_test(every_change_is_found),
        cmocka_unit_test(another_table_is_refused), cmocka_unit_test(every_failing_call_leaves_the_former),
        cmocka_unit_test(all_ranks_say_the_same),   cmocka_unit_test(every_failing_allocation_is_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
