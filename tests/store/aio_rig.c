/* SPDX-License-Identifier: MIT */
#include "tests/store/aio_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

int rig_on_disk;

static void count_warning(void *ctx, sherd_log_level level, const char *text)
{
    rig *self = ctx;
    (void)text;
    self->warnings += level == SHERD_LOG_WARNING;
}

void rig_init(rig *self, sherd__aio_engine engine)
{
    memset(self, 0, sizeof *self);
    char parent[64];
    int memory = !rig_on_disk && access("/dev/shm", W_OK) == 0;
    snprintf(parent, sizeof parent, "%s/sherd-aio-XXXXXX", memory ? "/dev/shm" : "/var/tmp");
    assert_non_null(mkdtemp(parent));
    memcpy(self->parent, parent, sizeof parent);
    for (int i = 0; i < RIG_FOLDERS; i++) {
        snprintf(self->folders[i], sizeof self->folders[i], "%s/%d", parent, i);
        assert_int_equal(mkdir(self->folders[i], 0700), 0);
        self->folder_list[i] = self->folders[i];
    }
    self->io = sherd_test_io_hook(&self->faults);
    sherd__aio_options_init(&self->options);
    self->options.engine = engine;
    self->options.block_size = 32768;
    self->options.allocator = sherd_test_allocator(&self->memory);
    self->options.log = (sherd_log){count_warning, self};
    self->options.io = &self->io;
    self->file_options = (sherd__aio_file_options){.folders = self->folder_list, .name = "test", .rank = 3};
    self->open_before = sherd_test_open_files();
}

sherd_status rig_open(rig *self, uint32_t folders, uint64_t bytes)
{
    sherd_status status = sherd__aio_create(&self->options, &self->aio, &self->err);
    self->file_options.n_folders = folders;
    self->file_options.bytes = bytes;
    return status == SHERD_OK ? sherd__aio_file_create(self->aio, &self->file_options, &self->file, &self->err)
                              : status;
}

void rig_close(rig *self)
{
    sherd__aio_file_destroy(self->file);
    sherd__aio_destroy(self->aio);
    self->file = NULL;
    self->aio = NULL;
}

void rig_fini(rig *self)
{
    rig_close(self);
    assert_int_equal(self->memory.live_blocks, 0);
    assert_int_equal(self->memory.live_bytes, 0);
    assert_int_equal(self->memory.wrong_sizes, 0);
    assert_int_equal(sherd_test_open_files(), self->open_before);
    for (int i = 0; i < RIG_FOLDERS; i++) {
        assert_int_equal(rmdir(self->folders[i]), 0); /* fails if a file was left */
    }
    assert_int_equal(rmdir(self->parent), 0);
}

int rig_run(const struct CMUnitTest *once, size_t n)
{
    static sherd__aio_engine engines[] = {SHERD__AIO_THREADS, SHERD__AIO_URING};
    struct CMUnitTest tests[2 * n];
    for (size_t i = 0; i < 2 * n; i++) {
        tests[i] = once[i % n];
        tests[i].initial_state = &engines[i / n];
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int rig_has_uring(void)
{
    sherd__aio_options options;
    sherd__aio *aio = NULL;
    sherd__aio_options_init(&options);
    options.engine = SHERD__AIO_URING;
    int has = sherd__aio_create(&options, &aio, NULL) == SHERD_OK;
    sherd__aio_destroy(aio);
    return has;
}

int rig_has_direct(rig *self)
{
    char text[600];
    assert_int_equal(rig_open(self, 1, SHERD__AIO_ALIGN), SHERD_OK);
    sherd__aio_describe(self->aio, self->file, text, sizeof text);
    rig_close(self);
    memset(&self->faults, 0, sizeof self->faults);
    return strstr(text, "(O_DIRECT)") != NULL;
}

void *rig_buffer(uint64_t bytes)
{
    void *buffer = aligned_alloc(SHERD__AIO_ALIGN, bytes);
    assert_non_null(buffer);
    memset(buffer, 0, bytes);
    return buffer;
}

sherd__aio_op rig_op(rig *self, int write, uint64_t offset, uint64_t bytes, void *buffer)
{
    return (sherd__aio_op){.file = self->file, .offset = offset, .bytes = bytes, .buffer = buffer, .write = write};
}

sherd_status rig_do(rig *self, int write, uint64_t offset, uint64_t bytes, void *buffer)
{
    sherd__aio_op op = rig_op(self, write, offset, bytes, buffer);
    sherd_status status = sherd__aio_submit(self->aio, &op, &self->err);
    return status == SHERD_OK ? sherd__aio_wait(self->aio, &op, RIG_LIMIT_S, &self->err) : status;
}
