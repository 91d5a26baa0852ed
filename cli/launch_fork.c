/* SPDX-License-Identifier: MIT
 *
 * --ranks N: this process forks the ranks before any thread exists, and waits. A rank that dies is noticed by its
 * peers themselves; the parent only collects exit codes, passes signals on, and after a limit kills what is left.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/gpu.h"
#include "cli/launch.h"
#include "cli/results.h"
#include "cli/session.h"

/* Peers end within 10 s of a death by themselves; then it is our turn. */
static const int64_t patience_ns = 15000000000;

typedef struct crew {
    pid_t *pids; /* 0: has ended, and was reaped */
    int32_t world, alive;
    int code;            /* of the first failure */
    int64_t deadline_ns; /* INT64_MAX while nothing is wrong */
    int told;            /* SIGTERM was passed on to ranks that save and end by themselves */
    cli_rank like;       /* what all ranks have alike: the memory before them */
    sigset_t signals, before;
} crew;

static void child_main(const crew *c, const cli_options *options, const sherd_comm_options *comm_options, cli_body body,
                       void *ctx, sherd_rendezvous *rendezvous, int32_t r)
{
    int32_t world = cli_world(options);
    cli_rank rank = c->like;
    sherd_comm_options own = *comm_options;
    sherd_error err;
    sherd_status status = sherd_rendezvous_join(rendezvous, r, &err);
    int code;

    rank.rank = r;
    own.log = cli_log(&rank.rank);
    rank.threads = cli_threads(options, cli_cores(), world);
    if (status == SHERD_OK) {
        status = options->transport == CLI_NCCL
                     ? cli_gpu_nccl(&rank, &own, sherd_rendezvous_allgather, rendezvous, &rank.comm, &err)
                     : sherd_comm_create_local(&own, r, world, sherd_rendezvous_allgather, rendezvous, &rank.comm, &err);
    }
    if (status != SHERD_OK) {
        exit(cli_failure(r, &err));
    }
    code = body(&rank, ctx);
    sherd_comm_destroy(rank.comm);
    sherd_rendezvous_destroy(rendezvous);
    if (fflush(stdout) != 0) {
        code = code == CLI_OK ? CLI_FAILED : code;
    }
    exit(code);
}

static void crew_signal(const crew *c, int number)
{
    for (int32_t r = 0; r < c->world; r++) {
        if (c->pids[r] > 0) {
            kill(c->pids[r], number);
        }
    }
}

/* From now on the rest has a limit. */
static void crew_fail(crew *c, int code)
{
    if (c->code == CLI_OK) {
        c->code = code;
    }
    if (c->deadline_ns == INT64_MAX) {
        c->deadline_ns = cli_now_ns() + patience_ns;
    }
}

static void crew_book_end(crew *c, int32_t r, int status)
{
    if (WIFSIGNALED(status)) {
        cli_message(-1, "rank %d (pid %d) was ended by signal %d, %s", (int)r, (int)c->pids[r], WTERMSIG(status),
                    strsignal(WTERMSIG(status)));
        crew_fail(c, 128 + WTERMSIG(status));
    } else if (WEXITSTATUS(status) != CLI_OK) {
        crew_fail(c, WEXITSTATUS(status));
    }
    c->pids[r] = 0;
    c->alive--;
}

static void crew_reap(crew *c)
{
    for (int32_t r = 0; r < c->world; r++) {
        int status;

        if (c->pids[r] > 0 && waitpid(c->pids[r], &status, WNOHANG) == c->pids[r]) {
            crew_book_end(c, r, status);
        }
    }
}

static void crew_kill_late(crew *c)
{
    if (cli_now_ns() < c->deadline_ns) {
        return;
    }
    cli_message(-1, "%d of %d ranks did not end within %d s and are killed", (int)c->alive, (int)c->world,
                (int)(patience_ns / 1000000000));
    crew_signal(c, SIGKILL);
    c->deadline_ns = INT64_MAX - 1; /* said once; SIGKILL needs no second time */
}

/* Until every rank has ended. The signals are blocked, so none is lost between a look and a wait. */
static void crew_supervise(crew *c)
{
    while (crew_reap(c), c->alive > 0) {
        struct timespec pause = {.tv_nsec = 200000000};
        int number = sigtimedwait(&c->signals, NULL, &pause);

        if (number == SIGTERM && c->like.options->save != NULL && !c->told) {
            crew_signal(c, number);
            c->told = 1;
        } else if (number > 0 && number != SIGCHLD) {
            crew_signal(c, number);
            crew_fail(c, 128 + number);
        }
        crew_kill_late(c);
    }
}

static int crew_start(crew *c, const cli_options *options, const sherd_comm_options *comm_options, cli_body body,
                      void *ctx, sherd_rendezvous *rendezvous)
{
    pid_t parent = getpid();

    for (int32_t r = 0; r < c->world; r++) {
        pid_t pid = fork();

        if (pid == 0) {
            prctl(PR_SET_PDEATHSIG, SIGTERM); /* ranks do not outlive the command */
            if (getppid() != parent) {
                _exit(CLI_FAILED);
            }
            sigprocmask(SIG_SETMASK, &c->before, NULL);
            child_main(c, options, comm_options, body, ctx, rendezvous, r);
        }
        if (pid < 0) {
            cli_message(-1, "rank %d of %d could not be started: %s; give fewer --ranks", (int)r, (int)c->world,
                        strerror(errno));
            crew_signal(c, SIGKILL);
            return CLI_FAILED;
        }
        c->pids[r] = pid;
        c->alive++;
    }
    return CLI_OK;
}

int cli_launch_forked(const cli_options *options, const sherd_comm_options *comm_options, cli_body body, void *ctx,
                      const cli_gpus *gpus)
{
    static const int awaited[] = {SIGCHLD, SIGINT, SIGTERM, SIGHUP};
    crew c = {.world = cli_world(options), .deadline_ns = INT64_MAX,
              .like = {.world = cli_world(options), .options = options}};
    sherd_rendezvous *rendezvous;
    sherd_error err;
    int code;

    c.pids = calloc((size_t)c.world, sizeof *c.pids);
    if (c.pids == NULL) {
        cli_message(-1, "no memory for %d ranks", (int)c.world);
        return CLI_FAILED;
    }
    cli_rank_memory(&c.like, c.world, gpus);
    if (sherd_rendezvous_create(c.world, &rendezvous, &err) != SHERD_OK) {
        free(c.pids);
        return cli_failure(-1, &err);
    }
    sigemptyset(&c.signals);
    for (size_t i = 0; i < sizeof awaited / sizeof awaited[0]; i++) {
        sigaddset(&c.signals, awaited[i]);
    }
    sigprocmask(SIG_BLOCK, &c.signals, &c.before);
    fflush(NULL); /* or every rank writes what is still in the buffers */
    code = crew_start(&c, options, comm_options, body, ctx, rendezvous);
    crew_supervise(&c);
    sigprocmask(SIG_SETMASK, &c.before, NULL);
    sherd_rendezvous_destroy(rendezvous);
    free(c.pids);
    return code != CLI_OK ? code : c.code;
}
