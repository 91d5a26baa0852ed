/* SPDX-License-Identifier: MIT
 *
 * netns_switch DELAY_US RATE_MBIT TAP…: an Ethernet switch over tap devices, whose every port has a delay and a rate (a
 * kernel without netem has neither). Compiled and run by scripts/netns. A frame waits its turn at the port it leaves
 * by, takes its length over the rate, and arrives DELAY_US later; a port keeps frames for at most QUEUE_NS of its rate
 * and drops what comes beyond, as real ones do. Ends when its standard input does, so that nothing is left when the
 * script is gone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { PORTS = 32, FRAME = 65536, BURST = 64 };
#define QUEUE_NS INT64_C(400000000)

typedef struct frame {
    struct frame *next;
    int64_t due_ns;
    size_t bytes;
    unsigned char data[];
} frame;

typedef struct port {
    int fd;
    int known;                /* its station has spoken */
    unsigned char station[6]; /* one per port */
    int64_t idle_ns;          /* from when on nothing is ahead */
    frame *head, **tail;
} port;

static port ports[PORTS];
static int n_ports;
static int64_t delay_ns;
static double ns_per_byte;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int open_tap(const char *name)
{
    struct ifreq request;
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    memset(&request, 0, sizeof request);
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) != 0) {
        perror(name);
        return -1;
    }
    return fd;
}

static void enqueue(port *to, const unsigned char *data, size_t bytes)
{
    int64_t now = now_ns(), start = to->idle_ns > now ? to->idle_ns : now;
    frame *copy;
    if (start - now > QUEUE_NS || (copy = malloc(sizeof *copy + bytes)) == NULL) {
        return;
    }
    to->idle_ns = start + (int64_t)((double)bytes * ns_per_byte);
    copy->next = NULL;
    copy->due_ns = to->idle_ns + delay_ns;
    copy->bytes = bytes;
    memcpy(copy->data, data, bytes);
    *to->tail = copy;
    to->tail = &copy->next;
}

static void route(port *from, const unsigned char *data, size_t bytes)
{
    port *only = NULL;
    memcpy(from->station, data + 6, 6);
    from->known = 1;
    for (int i = 0; i < n_ports && !(data[0] & 1); i++) {
        only = ports[i].known && memcmp(ports[i].station, data, 6) == 0 ? &ports[i] : only;
    }
    for (int i = 0; i < n_ports; i++) {
        if (&ports[i] != from && (only == NULL || only == &ports[i])) {
            enqueue(&ports[i], data, bytes);
        }
    }
}

static void take_frames(port *from)
{
    static unsigned char data[FRAME];
    for (int i = 0; i < BURST; i++) {
        ssize_t bytes = read(from->fd, data, sizeof data);
        if (bytes < 14) {
            return;
        }
        route(from, data, (size_t)bytes);
    }
}

/* Sends what is due; nanoseconds until the next, −1: none. */
static int64_t give_frames(port *to)
{
    while (to->head != NULL) {
        frame *first = to->head;
        int64_t left = first->due_ns - now_ns();
        if (left > 0) {
            return left;
        }
        if (write(to->fd, first->data, first->bytes) < 0 && errno == EAGAIN) {
            return 100000;
        }
        to->head = first->next;
        to->tail = to->head == NULL ? &to->head : to->tail;
        free(first);
    }
    return -1;
}

int main(int argc, char **argv)
{
    struct pollfd polls[PORTS + 1] = {{.fd = 0}};
    if (argc < 5 || argc - 3 > PORTS) {
        fprintf(stderr, "usage: netns_switch DELAY_US RATE_MBIT TAP TAP …\n");
        return 2;
    }
    delay_ns = strtoll(argv[1], NULL, 10) * 1000;
    ns_per_byte = 8e3 / strtod(argv[2], NULL);
    for (; n_ports < argc - 3; n_ports++) {
        ports[n_ports] = (port){.fd = open_tap(argv[3 + n_ports]), .tail = &ports[n_ports].head};
        if (ports[n_ports].fd < 0) {
            return 1;
        }
        polls[n_ports + 1] = (struct pollfd){.fd = ports[n_ports].fd, .events = POLLIN};
    }
    printf("ready\n");
    fflush(stdout);
    while (!(polls[0].revents & (POLLHUP | POLLIN))) {
        int64_t next = 200000000;
        for (int i = 0; i < n_ports; i++) {
            int64_t left = give_frames(&ports[i]);
            next = left >= 0 && left < next ? left : next;
        }
        struct timespec limit = {0, next};
        if (ppoll(polls, (nfds_t)n_ports + 1, &limit, NULL) < 0 && errno != EINTR) {
            return 1;
        }
        for (int i = 0; i < n_ports; i++) {
            if (polls[i + 1].revents & POLLIN) {
                take_frames(&ports[i]);
            }
        }
    }
    return 0;
}
