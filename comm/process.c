/* SPDX-License-Identifier: MIT
 *
 * Which process a rank is, and whether that very process still runs. A pid alone may be reused: it is checked against
 * the start time that the rank itself has published, once, when the pidfd is opened; from then on the pidfd is that
 * process for good.
 */
#include "comm/direct.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static size_t read_small(const char *path, char *text, size_t capacity)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        text[0] = '\0';
        return 0;
    }
    ssize_t got = read(fd, text, capacity - 1);
    close(fd);
    text[got > 0 ? got : 0] = '\0';
    return got > 0 ? (size_t)got : 0;
}

/* State letter and start time of a process: fields 3 and 22 of its stat line, counted after the name, which may hold
 * anything but ends at the last parenthesis. 0 if there is no such process. */
static int read_stat(int64_t pid, char *state, uint64_t *start)
{
    char path[48], text[1024];
    snprintf(path, sizeof path, "/proc/%" PRId64 "/stat", pid);
    if (read_small(path, text, sizeof text) == 0) {
        return 0;
    }
    char *at = strrchr(text, ')');
    if (at == NULL || at[1] != ' ') {
        return 0;
    }
    *state = at[2];
    at += 2;
    for (int field = 3; field < 22 && at != NULL; field++) {
        at = strchr(at + 1, ' ');
    }
    if (at == NULL) {
        return 0;
    }
    *start = strtoull(at + 1, NULL, 10);
    return 1;
}

void sherd__identity_self(sherd__identity *out)
{
    char state;
    struct stat space;
    memset(out, 0, sizeof *out);
    out->pid = (int64_t)getpid();
    read_stat(out->pid, &state, &out->start);
    out->pid_space = stat("/proc/self/ns/pid", &space) == 0 ? (uint64_t)space.st_ino : 0;
    gethostname(out->host, sizeof out->host - 1);
    size_t length = read_small("/proc/sys/kernel/random/boot_id", out->boot, sizeof out->boot);
    if (length > 0 && out->boot[length - 1] == '\n') {
        out->boot[length - 1] = '\0';
    }
}

int sherd__process_alive(int64_t pid, uint64_t start)
{
    char state;
    uint64_t found;
    if (read_stat(pid, &state, &found)) {
        return found == start && state != 'Z' && state != 'X';
    }
    return kill((pid_t)pid, 0) == 0 || errno == EPERM; /* /proc is hidden */
}

int sherd__process_open(int64_t pid, uint64_t start)
{
    int fd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    if (fd < 0) {
        return errno == ESRCH ? -1 : -2;
    }
    if (!sherd__process_alive(pid, start)) {
        close(fd);
        return -1;
    }
    return fd;
}

int sherd__pidfd_ended(int pidfd)
{
    struct pollfd entry = {.fd = pidfd, .events = POLLIN};
    return poll(&entry, 1, 0) > 0;
}
