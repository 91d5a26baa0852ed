/* SPDX-License-Identifier: MIT
 *
 * Asynchronous block I/O when things go wrong: every k-th system call and allocation fails, the disk is full, the
 * storage hangs, io_uring is refused. Every time: one sentence, no hang, nothing left behind.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/aio_core.h"
#include "tests/store/aio_rig.h"

enum { PAGE = 4096, PAGES = 24, OPS = 6, K_MAX = 400 };

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
    self->options.block_size = 2 * PAGE;
    self->options.queue_depth = 3;
    self->options.thread_count = 3;
}

/* Creates, writes everything by OPS operations in flight together, reads it back, closes. Every status is looked at;
 * the first that is not OK is returned after all operations have ended. */
static sherd_status one_run(rig *self)
{
    unsigned char *out = rig_buffer(PAGES * PAGE), *in = rig_buffer(PAGES * PAGE);
    uint64_t each = PAGES * PAGE / OPS;
    void *buffers[2] = {out, in};
    uint64_t sizes[2] = {PAGES * PAGE, PAGES * PAGE};
    sherd_status first = rig_open(self, 2, PAGES * PAGE);
    memset(out, 0x5C, PAGES * PAGE);
    if (first == SHERD_OK) {
        first = sherd__aio_register(self->aio, buffers, sizes, 2, &self->err);
    }
    for (int write = 1; write >= 0 && first == SHERD_OK; write--) {
        sherd__aio_op ops[OPS];
        sherd_status submitted[OPS];
        for (uint64_t i = 0; i < OPS; i++) {
            ops[i] = rig_op(self, write, i * each, each, (write ? out : in) + i * each);
            submitted[i] = sherd__aio_submit(self->aio, &ops[i], &self->err);
        }
        for (int i = 0; i < OPS; i++) {
            sherd_status status =
                submitted[i] == SHERD_OK ? sherd__aio_wait(self->aio, &ops[i], RIG_LIMIT_S, &self->err) : submitted[i];
            assert_int_not_equal(status, SHERD_ETIMEOUT);
            first = first == SHERD_OK ? status : first;
        }
    }
    if (first == SHERD_OK) {
        assert_memory_equal(in, out, PAGES * PAGE);
    }
    rig_close(self);
    free(out);
    free(in);
    return first;
}

/* Fails the k-th call of `kinds` for every k until a run has fewer. Returns how many runs failed. */
static int fail_every(void **state, uint32_t kinds, int code, const char *words)
{
    int failed = 0, k = 1;
    for (; k < K_MAX; k++) {
        rig self;
        begin(&self, state);
        self.faults.kinds = kinds;
        self.faults.code = code;
        self.faults.fail_at = k;
        sherd_status status = one_run(&self);
        int64_t struck = self.faults.struck;
        rig_fini(&self);
        if (struck == 0) {
            assert_int_equal(status, SHERD_OK);
            break;
        }
        if (status != SHERD_OK) {
            assert_int_equal(status, SHERD_EIO);
            assert_non_null(strstr(self.err.text, strerror(code)));
            assert_non_null(strstr(self.err.text, words));
            failed++;
        }
    }
    assert_true(k > 1 && k < K_MAX);
    return failed;
}

#define KIND(name) (1u << SHERD__IO_##name)

static void every_read_and_write_fails_once(void **state)
{
    /* Two pages a block, a block of O_DIRECT's trial for each of two files besides. */
    assert_int_equal(fail_every(state, KIND(WRITE), EIO, "writing 8192 bytes at offset "), PAGES / 2);
    assert_int_equal(fail_every(state, KIND(WRITE), ENOSPC, "free space there"), PAGES / 2);
    assert_int_equal(fail_every(state, KIND(READ), EIO, "reading 8192 bytes at offset "), PAGES / 2);
}

static void every_open_and_reservation_fails_once(void **state)
{
    assert_int_equal(fail_every(state, KIND(OPEN), EACCES, "give this user the right"), 2);
    assert_int_equal(fail_every(state, KIND(OPEN), EMFILE, "ulimit -n"), 2);
    assert_int_equal(fail_every(state, KIND(ALLOCATE), ENOSPC, "reserving 49152 bytes for '"), 2);
    assert_int_equal(fail_every(state, KIND(ALLOCATE), EIO, "reserving space for '"), 2);
    assert_int_equal(fail_every(state, KIND(UNLINK), EROFS, "removing the name "), 2);
}

/* Interruptions and busy kernels are no faults; short transfers neither. */
static void what_passes_is_survived(void **state)
{
    assert_int_equal(fail_every(state, KIND(READ) | KIND(WRITE), EINTR, ""), 0);
    assert_int_equal(fail_every(state, KIND(READ) | KIND(WRITE), EAGAIN, ""), 0);
    assert_int_equal(fail_every(state, KIND(READ) | KIND(WRITE), 0 /* one byte at most */, ""), 0);
}

static void a_transfer_that_never_moves_ends(void **state)
{
    rig self;
    begin(&self, state);
    self.faults.kinds = KIND(WRITE);
    self.faults.fail_at = 4;
    self.faults.fail_for = INT64_MAX / 2;
    self.faults.code = EAGAIN;
    assert_int_equal(one_run(&self), SHERD_EIO);
    assert_true(self.faults.struck > 10);
    rig_fini(&self);
}

static void the_first_error_sticks(void **state)
{
    rig self;
    begin(&self, state);
    unsigned char *buffer = rig_buffer(PAGES * PAGE);
    self.faults.kinds = KIND(WRITE);
    self.faults.fail_at = 2;
    self.faults.code = EIO;
    assert_int_equal(rig_open(&self, 1, PAGES * PAGE), SHERD_OK);
    assert_int_equal(sherd__aio_error(self.aio, NULL), SHERD_OK);
    assert_int_equal(rig_do(&self, 1, 0, PAGES * PAGE, buffer), SHERD_EIO);
    sherd_error first, again = {SHERD_OK, 0, ""};
    assert_int_equal(sherd__aio_error(self.aio, &first), SHERD_EIO);
    assert_int_equal(rig_do(&self, 0, 0, PAGE, buffer), SHERD_EIO);
    assert_int_equal(sherd__aio_drain(self.aio, RIG_LIMIT_S, &again), SHERD_EIO);
    assert_string_equal(first.text, again.text);
    assert_string_equal(first.text, self.err.text);
    rig_fini(&self);
    free(buffer);
}

static void every_allocation_fails_once(void **state)
{
    int k = 1;
    for (; k < K_MAX; k++) {
        rig self;
        begin(&self, state);
        self.memory.fail_at = k;
        sherd_status status = one_run(&self);
        int64_t calls = self.memory.calls;
        rig_fini(&self);
        if (calls < k) {
            assert_int_equal(status, SHERD_OK);
            break;
        }
        /* io_uring goes on without registered buffers when their table has no room. */
        assert_true(status == SHERD_ENOMEM || status == SHERD_OK);
    }
    assert_true(k > 4 && k < K_MAX);
}

static void every_thread_fails_to_start_once(void **state)
{
    int threads = engine_of(state) == SHERD__AIO_URING ? 1 : 3;
    for (int k = 1; k <= threads; k++) {
        rig self;
        begin(&self, state);
        self.faults.kinds = KIND(THREAD);
        self.faults.fail_at = k;
        self.faults.code = EAGAIN;
        assert_int_equal(one_run(&self), SHERD_ESYSTEM);
        assert_non_null(strstr(self.err.text, "could not be started"));
        rig_fini(&self);
    }
}

static void a_refused_io_uring_becomes_threads(void **state)
{
    static const int codes[] = {EPERM, ENOSYS};
    char text[400];
    for (int i = 0; i < 2; i++) {
        rig self;
        begin(&self, state);
        self.options.engine = SHERD__AIO_AUTO;
        self.faults.kinds = KIND(RING);
        self.faults.fail_at = 1;
        self.faults.code = codes[i];
        assert_int_equal(rig_open(&self, 1, PAGE), SHERD_OK);
        sherd__aio_describe(self.aio, NULL, text, sizeof text);
        assert_non_null(strstr(text, "threads (3)"));
        assert_non_null(strstr(text, "no io_uring: "));
        if (self.faults.struck > 0) { /* else built without */
            assert_non_null(strstr(text, strerror(codes[i])));
        }
        rig_close(&self);
        self.faults.counted = 0;
        self.options.engine = SHERD__AIO_URING;
        assert_int_equal(rig_open(&self, 1, PAGE), SHERD_EUNSUPPORTED);
        rig_fini(&self);
    }
}

static void buffers_that_cannot_be_registered_work_all_the_same(void **state)
{
    rig self;
    char text[400];
    begin(&self, state);
    self.faults.kinds = KIND(REGISTER);
    self.faults.fail_at = 1;
    self.faults.code = ENOMEM;
    assert_int_equal(one_run(&self), SHERD_OK);
    self.faults.counted = 0;
    unsigned char *buffer = rig_buffer(PAGE);
    void *buffers[1] = {buffer};
    assert_int_equal(rig_open(&self, 1, PAGE), SHERD_OK);
    assert_int_equal(sherd__aio_register(self.aio, buffers, &(uint64_t){PAGE}, 1, &self.err), SHERD_OK);
    sherd__aio_describe(self.aio, NULL, text, sizeof text);
    assert_non_null(strstr(text, "buffers not registered: "));
    rig_fini(&self);
    free(buffer);
}

static int run_in_child(int (*body)(rig *self, void **state), rig *self, void **state)
{
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        _exit(body(self, state));
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* As containers do it: the system call is refused by a filter. 77: no filter can be set here. */
static int under_a_filter(rig *self, void **state)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {.len = sizeof program / sizeof program[0], .filter = program};
    char text[400];
    (void)state;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
        return 77;
    }
    self->options.engine = SHERD__AIO_AUTO;
    if (one_run(self) != SHERD_OK || rig_open(self, 1, PAGE) != SHERD_OK) {
        return 1;
    }
    sherd__aio_describe(self->aio, NULL, text, sizeof text);
    rig_close(self);
    return strstr(text, "threads (3)") != NULL && strstr(text, "no io_uring: ") != NULL ? 0 : 2;
}

/* A memlock limit below the buffers, and no capability to pass it. */
static int under_a_memlock_limit(rig *self, void **state)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};
    struct rlimit limit = {16 * PAGE, 16 * PAGE}; /* room for the ring itself, which is counted too */
    char text[400];
    (void)state;
    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || syscall(SYS_capset, &header, none) != 0) {
        return 77;
    }
    if (one_run(self) != SHERD_OK || rig_open(self, 1, PAGE) != SHERD_OK) {
        return 1; /* the folders are ours: no capability is needed for them */
    }
    void *buffers[1] = {rig_buffer(64 * PAGE)};
    if (sherd__aio_register(self->aio, buffers, &(uint64_t){64 * PAGE}, 1, &self->err) != SHERD_OK) {
        return 2;
    }
    sherd__aio_describe(self->aio, NULL, text, sizeof text);
    rig_close(self);
    return strstr(text, "buffers not registered: ") != NULL ? 0 : 3;
}

static void in_a_child(int (*body)(rig *self, void **state), void **state)
{
    rig self;
    begin(&self, state);
    int code = run_in_child(body, &self, state);
    rig_fini(&self);
    if (code == 77) {
        skip();
    }
    assert_int_equal(code, 0);
}

static void a_filter_of_system_calls_leads_to_threads(void **state)
{
    in_a_child(under_a_filter, state);
}

static void a_memlock_limit_is_survived(void **state)
{
    in_a_child(under_a_memlock_limit, state);
}

/* --------------------------------------------------------------------------------------------------- a hanging disk */

static void a_wait_has_a_limit(void **state)
{
    rig self;
    begin(&self, state);
    unsigned char *buffer = rig_buffer(PAGES * PAGE);
    assert_int_equal(rig_open(&self, 1, PAGES * PAGE), SHERD_OK);
    sherd__aio_op op = rig_op(&self, 1, 0, PAGES * PAGE, buffer);
    self.faults.hold = 1;
    assert_int_equal(sherd__aio_submit(self.aio, &op, &self.err), SHERD_OK);
    assert_int_equal(sherd__aio_wait(self.aio, &op, 0.05, &self.err), SHERD_ETIMEOUT);
    assert_non_null(strstr(self.err.text, "did not end within 0.05 s"));
    assert_int_equal(sherd__aio_drain(self.aio, 0.05, &self.err), SHERD_ETIMEOUT);
    assert_int_equal(sherd__aio_is_done(self.aio, &op), 0);
    assert_int_equal(sherd__aio_submit(self.aio, &op, &self.err), SHERD_ESTATE); /* it is in flight */
    self.faults.hold = 0;
    assert_int_equal(sherd__aio_wait(self.aio, &op, RIG_LIMIT_S, &self.err), SHERD_OK);
    rig_fini(&self);
    free(buffer);
}

static void count_call(void *ctx, sherd__aio_op *op)
{
    (void)op;
    atomic_fetch_add((_Atomic int *)ctx, 1);
}

/* What has not started ends with ESTATE, what is at the storage is waited for; every callback comes. The file is left
 * open, as its operations outlived the limit: hence a process of its own. */
static int destroy_while_busy(rig *self, void **state)
{
    unsigned char *buffer = rig_buffer(PAGES * PAGE);
    sherd__aio_op ops[PAGES];
    _Atomic int calls = 0;
    int unstarted = 0, bad = 0;
    (void)state;
    self->options.fail_after_s = 0.1;
    self->options.overlap_events = 0;
    bad += rig_open(self, 1, PAGES * PAGE) != SHERD_OK;
    self->faults.hold = 1;
    for (uint64_t i = 0; i < PAGES && bad == 0; i++) {
        ops[i] = rig_op(self, 1, i * PAGE, PAGE, buffer + i * PAGE);
        ops[i].done = count_call;
        ops[i].ctx = &calls;
        bad += sherd__aio_submit(self->aio, &ops[i], &self->err) != SHERD_OK;
    }
    sherd__aio_file_destroy(self->file);
    bad += self->warnings != 1;
    self->aio->options.fail_after_s = RIG_LIMIT_S;
    self->faults.hold_ms = 50;
    sherd__aio_destroy(self->aio);
    for (int i = 0; i < PAGES; i++) {
        bad += ops[i].status != SHERD_OK && ops[i].status != SHERD_ESTATE;
        unstarted += ops[i].status == SHERD_ESTATE;
    }
    return bad == 0 && calls == PAGES && unstarted > 0 && unstarted < PAGES ? 0 : 1;
}

static void destroying_a_busy_queue_ends_every_operation(void **state)
{
    rig self;
    begin(&self, state);
    assert_int_equal(run_in_child(destroy_while_busy, &self, state), 0);
    rig_fini(&self);
}

/* In a process of its own: threads that never come back are left to it. */
static int destroy_while_hung(rig *self, void **state)
{
    (void)state;
    unsigned char *buffer = rig_buffer(PAGE);
    self->options.fail_after_s = 0.1;
    if (rig_open(self, 1, PAGE) != SHERD_OK) {
        return 1;
    }
    self->faults.hold = 1;
    sherd__aio_op op = rig_op(self, 1, 0, PAGE, buffer);
    if (sherd__aio_submit(self->aio, &op, &self->err) != SHERD_OK) {
        return 2;
    }
    (void)sherd__aio_wait(self->aio, &op, 0.05, NULL);
    sherd__aio_file_destroy(self->file);
    sherd__aio_destroy(self->aio);
    return self->warnings == 2 ? 0 : 3;
}

static void a_hung_storage_does_not_hang_destroy(void **state)
{
    rig self;
    begin(&self, state);
    assert_int_equal(run_in_child(destroy_while_hung, &self, state), 0);
    rig_fini(&self);
}

/* ------------------------------------------------------------------------------------------------------ a full disk */

static int write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : write(fd, text, strlen(text));
    if (fd >= 0) {
        close(fd);
    }
    return n == (ssize_t)strlen(text);
}

/* A file system of 1 MB of our own; 77 where that is not allowed. */
static int on_a_small_disk(rig *self, void **state)
{
    char users[32], groups[32];
    snprintf(users, sizeof users, "0 %d 1", (int)getuid());
    snprintf(groups, sizeof groups, "0 %d 1", (int)getgid());
    (void)state;
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0 || !write_text("/proc/self/setgroups", "deny") ||
        !write_text("/proc/self/uid_map", users) || !write_text("/proc/self/gid_map", groups) ||
        mount("none", self->folders[0], "tmpfs", 0, "size=1m") != 0) {
        return 77;
    }
    if (rig_open(self, 1, (uint64_t)2 << 20) != SHERD_EIO) {
        return 1;
    }
    if (!strstr(self->err.text, "reserving 2097152 bytes") || !strstr(self->err.text, "(1048576 are free)")) {
        return 2;
    }
    rig_close(self);
    if (rig_open(self, 1, (uint64_t)1 << 19) != SHERD_OK) { /* nothing of the first try is left */
        return 3;
    }
    rig_close(self);
    return 0;
}

static void a_full_disk_shows_at_creation(void **state)
{
    in_a_child(on_a_small_disk, state);
}

static void a_kept_file_that_failed_leaves_nothing(void **state)
{
    rig self;
    begin(&self, state);
    self.file_options.keep = 1;
    self.faults.kinds = KIND(ALLOCATE);
    self.faults.fail_at = 2; /* the second folder's */
    self.faults.code = ENOSPC;
    assert_int_equal(rig_open(&self, 2, PAGES * PAGE), SHERD_EIO);
    rig_fini(&self); /* finds the folders empty */
}

/* O_DIRECT refused at the open, or only by the first transfer. */
static void a_file_system_without_o_direct_is_used_buffered(void **state)
{
    static const uint32_t kinds[] = {KIND(OPEN), KIND(READ)};
    for (int i = 0; i < 2; i++) {
        rig self;
        char text[600];
        begin(&self, state);
        if (i == 1 && !rig_has_direct(&self)) { /* then there is no such transfer */
            rig_fini(&self);
            break;
        }
        self.faults.kinds = kinds[i];
        self.faults.fail_at = 1;
        self.faults.code = EINVAL;
        assert_int_equal(one_run(&self), SHERD_OK); /* of two files, one buffered */
        assert_int_equal(self.faults.struck, 1);
        self.faults.counted = 0;
        assert_int_equal(rig_open(&self, 1, PAGE), SHERD_OK);
        sherd__aio_describe(self.aio, self.file, text, sizeof text);
        assert_non_null(strstr(text, "(buffered)"));
        rig_fini(&self);
    }
}

static void a_name_that_is_taken_is_not(void **state)
{
    rig self;
    begin(&self, state);
    self.faults.kinds = KIND(OPEN);
    self.faults.fail_at = 1;
    self.faults.fail_for = 20;
    self.faults.code = EEXIST;
    assert_int_equal(one_run(&self), SHERD_OK);
    self.faults.counted = 0;
    self.faults.fail_for = 1000;
    assert_int_equal(rig_open(&self, 1, PAGE), SHERD_EIO); /* it gives up in the end */
    rig_fini(&self);
}

static void a_file_system_that_cannot_reserve_is_looked_at_instead(void **state)
{
    rig self;
    char text[600];
    begin(&self, state);
    self.faults.kinds = KIND(ALLOCATE);
    self.faults.fail_at = 1;
    self.faults.fail_for = 1000;
    self.faults.code = EOPNOTSUPP;
    assert_int_equal(one_run(&self), SHERD_OK);
    assert_int_equal(rig_open(&self, 1, PAGE), SHERD_OK);
    sherd__aio_describe(self.aio, self.file, text, sizeof text);
    assert_non_null(strstr(text, "cannot reserve"));
    rig_close(&self);
    assert_int_equal(rig_open(&self, 1, (uint64_t)1 << 60), SHERD_EIO); /* no disk is as large */
    assert_non_null(strstr(self.err.text, "are free: free space there"));
    rig_fini(&self);
}

int main(void)
{
    static const struct CMUnitTest once[] = {
        cmocka_unit_test(every_read_and_write_fails_once),
        cmocka_unit_test(every_open_and_reservation_fails_once),
        cmocka_unit_test(what_passes_is_survived),
        cmocka_unit_test(a_transfer_that_never_moves_ends),
        cmocka_unit_test(the_first_error_sticks),
        cmocka_unit_test(every_allocation_fails_once),
        cmocka_unit_test(every_thread_fails_to_start_once),
        cmocka_unit_test(a_refused_io_uring_becomes_threads),
        cmocka_unit_test(buffers_that_cannot_be_registered_work_all_the_same),
        cmocka_unit_test(a_filter_of_system_calls_leads_to_threads),
        cmocka_unit_test(a_memlock_limit_is_survived),
        cmocka_unit_test(a_wait_has_a_limit),
        cmocka_unit_test(destroying_a_busy_queue_ends_every_operation),
        cmocka_unit_test(a_hung_storage_does_not_hang_destroy),
        cmocka_unit_test(a_full_disk_shows_at_creation),
        cmocka_unit_test(a_kept_file_that_failed_leaves_nothing),
        cmocka_unit_test(a_file_system_without_o_direct_is_used_buffered),
        cmocka_unit_test(a_name_that_is_taken_is_not),
        cmocka_unit_test(a_file_system_that_cannot_reserve_is_looked_at_instead),
    };
    return rig_run(once, sizeof once / sizeof once[0]);
}
