/* SPDX-License-Identifier: MIT
 *
 * Asynchronous block I/O against a model in memory: random schedules over stripes, depths, submit modes, short
 * transfers; and the contract's smaller clauses. Everything runs on both engines.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/store/aio_rig.h"

static uint64_t seed = 1;

static uint64_t next_random(uint64_t below)
{
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed % below;
}

static void fill_random(unsigned char *data, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++) {
        data[i] = (unsigned char)(next_random(1u << 20) >> 7);
    }
}

static sherd__aio_engine engine_of(void **state)
{
    return *(sherd__aio_engine *)*state;
}

static void begin(rig *self, void **state)
{
    if (engine_of(state) == SHERD__AIO_URING && !rig_has_uring()) {
        skip();
    }
    rig_init(self, engine_of(state));
}

/* ------------------------------------------------------------------------------------------------ against the model */

enum { PAGE = 4096, PAGES = 192, SLOTS = 24 };

typedef struct slot {
    sherd__aio_op op;
    unsigned char *buffer;
    int busy;
} slot;

typedef struct model {
    rig *rig;
    unsigned char *bytes;
    slot slots[SLOTS];
    uint64_t read, written;
} model;

static int overlaps(const model *m, uint64_t offset, uint64_t bytes, int write)
{
    for (int i = 0; i < SLOTS; i++) {
        const slot *s = &m->slots[i];
        if (s->busy && (write || s->op.write) && offset < s->op.offset + s->op.bytes && s->op.offset < offset + bytes) {
            return 1;
        }
    }
    return 0;
}

static void end_slot(model *m, slot *s)
{
    assert_int_equal(sherd__aio_wait(m->rig->aio, &s->op, RIG_LIMIT_S, &m->rig->err), SHERD_OK);
    assert_int_equal(sherd__aio_is_done(m->rig->aio, &s->op), 1);
    if (!s->op.write) {
        assert_memory_equal(s->buffer, m->bytes + s->op.offset, s->op.bytes);
        memset(s->buffer, 0xA5, s->op.bytes);
    }
    *(s->op.write ? &m->written : &m->read) += s->op.bytes;
    s->busy = 0;
}

static void one_move(model *m)
{
    slot *s = &m->slots[next_random(SLOTS)];
    if (s->busy) {
        end_slot(m, s);
        return;
    }
    uint64_t first = next_random(PAGES), pages = 1 + next_random(next_random(4) ? 6 : PAGES - first);
    pages = pages < PAGES - first ? pages : PAGES - first;
    int write = (int)next_random(2);
    if (overlaps(m, first * PAGE, pages * PAGE, write)) {
        return;
    }
    s->op = rig_op(m->rig, write, first * PAGE, pages * PAGE, s->buffer);
    if (write) {
        fill_random(s->buffer, s->op.bytes);
        memcpy(m->bytes + s->op.offset, s->buffer, s->op.bytes);
    }
    assert_int_equal(sherd__aio_submit(m->rig->aio, &s->op, &m->rig->err), SHERD_OK);
    s->busy = 1;
}

/* Memory and descriptors of the child are the parent's, its threads are not there: it must not matter to the parent. */
static void fork_and_forget(void)
{
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* Runs `moves` random operations; the file holds what the model says, to the last page, and the counts agree. */
static void run_model(rig *self, uint32_t folders, int moves, int bind, int forks)
{
    model m = {.rig = self};
    uint64_t each = (uint64_t)PAGES * PAGE;
    unsigned char *pool = rig_buffer(SLOTS * each);
    assert_int_equal(rig_open(self, folders, each), SHERD_OK);
    assert_int_equal(sherd__aio_file_bytes(self->file), each);
    m.bytes = rig_buffer(each);
    if (bind) {
        void *buffers[1] = {pool};
        assert_int_equal(sherd__aio_register(self->aio, buffers, &(uint64_t){SLOTS * each}, 1, &self->err), SHERD_OK);
    }
    for (int i = 0; i < SLOTS; i++) {
        m.slots[i].buffer = pool + (uint64_t)i * each;
    }
    for (int i = 0; i < moves; i++) {
        one_move(&m);
        if (forks && i % 24 == 0) {
            fork_and_forget();
        }
    }
    for (int i = 0; i < SLOTS; i++) {
        if (m.slots[i].busy) {
            end_slot(&m, &m.slots[i]);
        }
    }
    assert_int_equal(rig_do(self, 0, 0, each, pool), SHERD_OK);
    assert_memory_equal(pool, m.bytes, each);
    m.read += each;
    sherd__aio_stats stats;
    sherd__aio_stats_read(self->aio, &stats);
    assert_true(m.read > each && m.written > 0);
    assert_int_equal(stats.read_bytes, m.read);
    assert_int_equal(stats.written_bytes, m.written);
    assert_int_equal(stats.continued > 0, self->faults.most > 0);
    rig_close(self);
    free(m.bytes);
    free(pool);
}

static void schedules_equal_a_memory_model(void **state)
{
    static const uint32_t depths[] = {1, 2, 8, 33};
    for (int turn = 0; turn < 12; turn++) {
        rig self;
        rig_on_disk = turn == 0;
        begin(&self, state);
        rig_on_disk = 0;
        seed = 77 + (uint64_t)turn;
        self.options.queue_depth = depths[turn % 4];
        self.options.single_submit = turn / 2 % 2;
        self.options.overlap_events = turn % 3 != 0;
        self.options.thread_count = turn % 2 ? 3 : 0;
        self.options.block_size = turn % 5 == 0 ? 5000 : 32768; /* 5000 is rounded up */
        self.file_options.buffered = turn % 4 == 3;
        run_model(&self, 1 + (uint32_t)turn % RIG_FOLDERS, 120, turn % 2 == 0, 0);
        rig_fini(&self);
    }
}

static void short_transfers_are_continued(void **state)
{
    static const uint64_t most[] = {4096, 8192, 12000, 20480};
    for (int turn = 0; turn < 4; turn++) {
        rig self;
        begin(&self, state);
        seed = 5 + (uint64_t)turn;
        self.faults.most = most[turn];
        run_model(&self, 2, 50, turn % 2, 0);
        rig_fini(&self);
    }
}

/* Without O_DIRECT a transfer may stop at any byte. */
static void odd_short_transfers_are_continued_where_buffered(void **state)
{
    rig self;
    begin(&self, state);
    self.faults.most = 3001;
    self.file_options.buffered = 1;
    run_model(&self, 2, 40, 1, 0);
    rig_fini(&self);
}

static void forks_in_the_middle_do_not_matter(void **state)
{
    for (int bind = 0; bind < 2; bind++) {
        rig self;
        begin(&self, state);
        seed = 1234;
        run_model(&self, 2, 120, bind, 1);
        rig_fini(&self);
    }
}

/* ---------------------------------------------------------------------------------------------------------- stripes */

static void a_file_begins_as_zeros_and_every_size_is_divided_exactly(void **state)
{
    for (uint32_t folders = 1; folders <= RIG_FOLDERS; folders++) {
        for (uint64_t pages = 1; pages <= 14; pages++) {
            rig self;
            begin(&self, state);
            self.options.block_size = 2 * PAGE;
            assert_int_equal(rig_open(&self, folders, pages * PAGE - 7), SHERD_OK);
            assert_int_equal(sherd__aio_file_bytes(self.file), pages * PAGE);
            unsigned char *data = rig_buffer(pages * PAGE), *back = rig_buffer(pages * PAGE);
            memset(back, 1, pages * PAGE);
            assert_int_equal(rig_do(&self, 0, 0, pages * PAGE, back), SHERD_OK);
            assert_memory_equal(back, data, pages * PAGE);
            fill_random(data, pages * PAGE);
            assert_int_equal(rig_do(&self, 1, 0, pages * PAGE, data), SHERD_OK);
            for (uint64_t page = pages; page-- > 0;) { /* each page by itself */
                assert_int_equal(rig_do(&self, 0, page * PAGE, PAGE, back), SHERD_OK);
                assert_memory_equal(back, data + page * PAGE, PAGE);
            }
            rig_fini(&self);
            free(data);
            free(back);
        }
    }
}

static void a_kept_file_stays_and_is_refused_to_others(void **state)
{
    rig self;
    char path[200];
    begin(&self, state);
    self.file_options.keep = 1;
    assert_int_equal(rig_open(&self, 2, 10 * PAGE), SHERD_OK);
    sherd__aio_file *second = NULL;
    assert_int_equal(sherd__aio_file_create(self.aio, &self.file_options, &second, &self.err), SHERD_EIO);
    assert_non_null(strstr(self.err.text, "in use by another process"));
    rig_close(&self);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/sherd-test-r00003-%dof2.bin", self.folders[i], i + 1);
        assert_int_equal(unlink(path), 0);
    }
    rig_fini(&self);
}

/* ----------------------------------------------------------------------------------------------------- the contract */

typedef struct chain {
    rig *rig;
    sherd__aio_op ops[2];
    unsigned char *buffer;
    _Atomic int calls;
    int state_in_callback;
} chain;

static void submit_next(void *ctx, sherd__aio_op *op)
{
    chain *c = ctx;
    c->state_in_callback = sherd__aio_is_done(c->rig->aio, op);
    if (++c->calls == 1) {
        c->ops[1].done = submit_next;
        c->ops[1].ctx = c;
        assert_int_equal(sherd__aio_submit(c->rig->aio, &c->ops[1], NULL), SHERD_OK);
    }
}

static void a_callback_may_submit(void **state)
{
    rig self;
    begin(&self, state);
    assert_int_equal(rig_open(&self, 1, 16 * PAGE), SHERD_OK);
    chain c = {.rig = &self, .buffer = rig_buffer(32 * PAGE)};
    fill_random(c.buffer, 16 * PAGE);
    c.ops[0] = rig_op(&self, 1, 0, 16 * PAGE, c.buffer);
    c.ops[0].done = submit_next;
    c.ops[0].ctx = &c;
    c.ops[1] = rig_op(&self, 0, 0, 16 * PAGE, c.buffer + 16 * PAGE);
    assert_int_equal(sherd__aio_submit(self.aio, &c.ops[0], NULL), SHERD_OK);
    assert_int_equal(sherd__aio_wait(self.aio, &c.ops[0], RIG_LIMIT_S, NULL), SHERD_OK);
    assert_int_equal(sherd__aio_wait(self.aio, &c.ops[1], RIG_LIMIT_S, NULL), SHERD_OK);
    assert_int_equal(c.calls, 2);
    assert_int_equal(c.state_in_callback, 0); /* not done before the callback has returned */
    assert_memory_equal(c.buffer, c.buffer + 16 * PAGE, 16 * PAGE);
    rig_fini(&self);
    free(c.buffer);
}

static void what_is_not_aligned_or_outside_is_refused(void **state)
{
    rig self;
    begin(&self, state);
    assert_int_equal(rig_open(&self, 1, 4 * PAGE), SHERD_OK);
    unsigned char *buffer = rig_buffer(8 * PAGE);
    static const struct {
        uint64_t offset, bytes, shift;
    } bad[] = {
        {0, 0, 0},    {0, 5 * PAGE, 0}, {4 * PAGE, PAGE, 0}, {UINT64_MAX - PAGE + 1, PAGE, 0}, {PAGE, UINT64_MAX, 0},
        {1, PAGE, 0}, {0, 100, 0},      {0, PAGE, 64}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(rig_do(&self, 0, bad[i].offset, bad[i].bytes, buffer + bad[i].shift), SHERD_EINVAL);
    }
    assert_int_equal(rig_do(&self, 0, 0, 4 * PAGE, buffer), SHERD_OK); /* such errors do not stick */
    void *buffers[1] = {buffer};
    assert_int_equal(sherd__aio_register(self.aio, buffers, &(uint64_t){PAGE}, 1, &self.err), SHERD_ESTATE);
    rig_fini(&self);
    free(buffer);
}

static void options_are_checked(void **state)
{
    rig self;
    begin(&self, state);
    const sherd__aio_options good = self.options;
    self.options.queue_depth = 0;
    assert_int_equal(rig_open(&self, 1, PAGE), SHERD_EINVAL);
    self.options = good;
    self.options.block_size = ((uint64_t)1 << 30) + 1;
    assert_int_equal(rig_open(&self, 1, PAGE), SHERD_EINVAL);
    self.options = good;
    self.options.fail_after_s = 0;
    assert_int_equal(rig_open(&self, 1, PAGE), SHERD_EINVAL);
    self.options = good;
    self.file_options.name = "a/b";
    assert_int_equal(rig_open(&self, 1, PAGE), SHERD_EINVAL);
    rig_close(&self);
    self.file_options.name = "test";
    assert_int_equal(rig_open(&self, 0, PAGE), SHERD_EINVAL);
    rig_close(&self);
    assert_int_equal(rig_open(&self, 1, 0), SHERD_EINVAL);
    rig_close(&self);
    self.folder_list[0] = "/nonexistent/folder";
    assert_int_equal(rig_open(&self, 1, PAGE), SHERD_EIO);
    assert_non_null(strstr(self.err.text, "/nonexistent/folder/sherd-test-r00003"));
    assert_non_null(strstr(self.err.text, "create the folder"));
    rig_fini(&self);
}

/* ---------------------------------------------------------------------------------------------------------- threads */

typedef struct user {
    rig *rig;
    pthread_t thread;
    uint64_t first; /* page */
} user;

enum { USERS = 4, USER_PAGES = 16, ROUNDS = 25 };

static void *use(void *arg)
{
    user *u = arg;
    unsigned char *out = rig_buffer(USER_PAGES * PAGE), *in = rig_buffer(USER_PAGES * PAGE);
    intptr_t bad = 0;
    for (int round = 0; round < ROUNDS; round++) {
        memset(out, (int)u->first + round, USER_PAGES * PAGE);
        sherd__aio_op op = rig_op(u->rig, 1, u->first * PAGE, USER_PAGES * PAGE, out);
        bad += sherd__aio_submit(u->rig->aio, &op, NULL) != SHERD_OK;
        bad += sherd__aio_wait(u->rig->aio, &op, RIG_LIMIT_S, NULL) != SHERD_OK;
        op.write = 0;
        op.buffer = in;
        bad += sherd__aio_submit(u->rig->aio, &op, NULL) != SHERD_OK;
        bad += sherd__aio_wait(u->rig->aio, &op, RIG_LIMIT_S, NULL) != SHERD_OK;
        bad += memcmp(in, out, USER_PAGES * PAGE) != 0;
    }
    free(out);
    free(in);
    return (void *)bad;
}

static void several_threads_share_a_queue(void **state)
{
    rig self;
    user users[USERS];
    begin(&self, state);
    self.options.block_size = 4 * PAGE;
    assert_int_equal(rig_open(&self, 3, USERS * USER_PAGES * PAGE), SHERD_OK);
    for (uint64_t i = 0; i < USERS; i++) {
        users[i] = (user){.rig = &self, .first = i * USER_PAGES};
        assert_int_equal(pthread_create(&users[i].thread, NULL, use, &users[i]), 0);
    }
    for (int i = 0; i < USERS; i++) {
        void *bad;
        pthread_join(users[i].thread, &bad);
        assert_null(bad);
    }
    assert_int_equal(sherd__aio_drain(self.aio, RIG_LIMIT_S, &self.err), SHERD_OK);
    rig_fini(&self);
}

/* --------------------------------------------------------------------------------------------------------- in words */

static void describe_says_what_is_used(void **state)
{
    rig self;
    char text[600];
    begin(&self, state);
    assert_int_equal(rig_open(&self, 2, 8 * PAGE), SHERD_OK);
    size_t length = sherd__aio_describe(self.aio, self.file, text, sizeof text);
    assert_int_equal(length, strlen(text));
    assert_non_null(strstr(text, engine_of(state) == SHERD__AIO_URING ? "io_uring, 8 deep" : "threads (8)"));
    assert_non_null(strstr(text, "blocks of 32768 bytes"));
    assert_non_null(strstr(text, "in 2 files: "));
    assert_int_equal(sherd__aio_describe(self.aio, self.file, NULL, 0), length);
    char half[20];
    assert_int_equal(sherd__aio_describe(self.aio, self.file, half, sizeof half), length);
    assert_int_equal(strlen(half), sizeof half - 1);
    rig_close(&self);
    self.file_options.buffered = 1;
    assert_int_equal(rig_open(&self, 1, 8 * PAGE), SHERD_OK);
    sherd__aio_describe(self.aio, self.file, text, sizeof text);
    assert_non_null(strstr(text, "(buffered)"));
    assert_null(strstr(text, "O_DIRECT"));
    rig_fini(&self);
}

int main(void)
{
    static const struct CMUnitTest once[] = {
        cmocka_unit_test(schedules_equal_a_memory_model),
        cmocka_unit_test(short_transfers_are_continued),
        cmocka_unit_test(odd_short_transfers_are_continued_where_buffered),
        cmocka_unit_test(forks_in_the_middle_do_not_matter),
        cmocka_unit_test(a_file_begins_as_zeros_and_every_size_is_divided_exactly),
        cmocka_unit_test(a_kept_file_stays_and_is_refused_to_others),
        cmocka_unit_test(a_callback_may_submit),
        cmocka_unit_test(what_is_not_aligned_or_outside_is_refused),
        cmocka_unit_test(options_are_checked),
        cmocka_unit_test(several_threads_share_a_queue),
        cmocka_unit_test(describe_says_what_is_used),
    };
    return rig_run(once, sizeof once / sizeof once[0]);
}
