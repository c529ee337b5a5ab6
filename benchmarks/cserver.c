/* cserver - what the machine can do: echo and HTTP servers without any interpreter.
 *
 *   gcc -O2 -Wall -Wextra -o cserver cserver.c
 *
 *   cserver --design blocking --proto tcp      one connection after the other; of packets, one after the other
 *   cserver --design once     --proto tcp      one reply for each connection, then it closes
 *   cserver --design epoll    --proto unix     all connections at once
 *   cserver --design batch    --proto udp      as many packets in a system call as there are
 *   cserver --design http     --proto tcp      the same 13 bytes to every GET
 *
 * --once is the same as --design once, and --bufsize is what it reads at a time.  It prints "READY <proto>:<address>" and serves until SIGTERM.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 1024
#define MAX_EVENTS 512
#define LONGEST_PACKET 65536
#define BATCH 64
#define BATCHED_PACKET 2048

static struct {
    const char *design, *proto;
    size_t bufsize;
} options = {.design = "epoll", .proto = "tcp", .bufsize = 4096};

static char path[100];
static char *buffer;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void end(int number) {
    (void)number;
    if (path[0])
        unlink(path);
    _exit(0);
}

static int is(const char *text, const char *other) {
    return !strcmp(text, other);
}

/* ---- where clients reach it */

static int bind_unix(int type) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%.70s/cserver-%d.sock", folder ? folder : P_tmpdir, getpid());
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, type, 0);
    if (fd < 0 || bind(fd, (void *)&address, sizeof address))
        die("bind");
    return fd;
}

static int bind_inet(int type) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, type, 0);
    if (fd < 0 || bind(fd, (void *)&address, sizeof address))
        die("bind");
    return fd;
}

static int open_listener(void) {
    int packets = is(options.proto, "udp") || is(options.proto, "unixgram");
    int type = packets ? SOCK_DGRAM : SOCK_STREAM;
    int fd = (strncmp(options.proto, "unix", 4) ? bind_inet : bind_unix)(type);
    if (!packets && listen(fd, BACKLOG))
        die("listen");
    return fd;
}

static void tell(int fd) {
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    if (path[0]) {
        printf("READY %s:%s\n", options.proto, path);
    } else {
        getsockname(fd, (void *)&address, &length);
        printf("READY %s:127.0.0.1:%d\n", options.proto, ntohs(address.sin_port));
    }
    fflush(stdout);
}

/* ---- one after the other */

static int send_all(int fd, const char *bytes, size_t left) {
    while (left) {
        ssize_t n = send(fd, bytes, left, MSG_NOSIGNAL);
        if (n <= 0)
            return -1;
        bytes += n;
        left -= (size_t)n;
    }
    return 0;
}

static void serve_blocking(int listener, int once) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        for (ssize_t n; (n = recv(fd, buffer, options.bufsize, 0)) > 0;)
            if (send_all(fd, buffer, (size_t)n) || once)
                break;
        close(fd);
    }
}

static void serve_packets(int fd) {
    for (;;) {
        struct sockaddr_storage client;
        socklen_t length = sizeof client;
        ssize_t n = recvfrom(fd, buffer, LONGEST_PACKET, 0, (void *)&client, &length);
        if (n >= 0)
            sendto(fd, buffer, (size_t)n, 0, (void *)&client, length);
    }
}

static void serve_batches(int fd) {
    static char packets[BATCH][BATCHED_PACKET];
    static struct sockaddr_storage clients[BATCH];
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            parts[i] = (struct iovec){packets[i], BATCHED_PACKET};
            messages[i].msg_hdr = (struct msghdr){.msg_name = &clients[i], .msg_namelen = sizeof clients[i],
                                                  .msg_iov = &parts[i], .msg_iovlen = 1};
        }
        int got = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        for (int i = 0; i < got; i++)
            parts[i].iov_len = messages[i].msg_len;
        for (int sent = 0; sent < got;) {
            int n = sendmmsg(fd, messages + sent, (unsigned)(got - sent), 0);
            sent += n > 0 ? n : 1; /* a client that is gone */
        }
    }
}

/* ---- all at once */

struct connection {
    char *pending; /* what the client has not taken yet; nothing is read meanwhile */
    size_t at, left;
};

static struct connection *connections;
static size_t room;
static int poller;

static void watch(int fd, int operation, uint32_t events) {
    struct epoll_event e = {.events = events, .data.fd = fd};
    if (epoll_ctl(poller, operation, fd, &e))
        die("epoll_ctl");
}

static void hang_up(int fd) {
    free(connections[fd].pending);
    connections[fd] = (struct connection){0};
    close(fd);
}

static void send_pending(int fd) {
    struct connection *c = &connections[fd];
    ssize_t n = send(fd, c->pending + c->at, c->left, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        hang_up(fd);
        return;
    }
    c->at += n > 0 ? (size_t)n : 0;
    c->left -= n > 0 ? (size_t)n : 0;
    if (c->left)
        return;
    free(c->pending);
    *c = (struct connection){0};
    watch(fd, EPOLL_CTL_MOD, EPOLLIN);
}

/* Returns 0 once the connection is gone. */
static int echo(int fd) {
    ssize_t n = recv(fd, buffer, options.bufsize, 0);
    if (n < 0 && errno == EAGAIN)
        return 1;
    if (n <= 0) {
        hang_up(fd);
        return 0;
    }
    ssize_t sent = send(fd, buffer, (size_t)n, MSG_NOSIGNAL);
    if (sent == n)
        return 1;
    if (sent < 0 && errno != EAGAIN) {
        hang_up(fd);
        return 0;
    }
    size_t done = sent > 0 ? (size_t)sent : 0, left = (size_t)n - done;
    connections[fd] = (struct connection){.pending = malloc(left), .left = left};
    memcpy(connections[fd].pending, buffer + done, left);
    return 1;
}

static int answer(int fd) {
#define REPLY "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n"
#define BODY "\r\nHello, world!"
    static const char kept[] = REPLY BODY, closed[] = REPLY "Connection: close\r\n" BODY;
    ssize_t n = recv(fd, buffer, options.bufsize - 1, 0);
    if (n < 0 && errno == EAGAIN)
        return 1;
    if (n <= 0) {
        hang_up(fd);
        return 0;
    }
    buffer[n] = 0;
    int closing = strstr(buffer, "Connection: close") != NULL;
    if (send_all(fd, closing ? closed : kept, (closing ? sizeof closed : sizeof kept) - 1) || closing) {
        hang_up(fd);
        return 0;
    }
    return 1;
}

static void serve_all(int listener, int (*serve)(int)) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    room = files.rlim_cur < 1 << 20 ? (size_t)files.rlim_cur : 1 << 20;
    connections = calloc(room, sizeof *connections);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (!connections || poller < 0 || fcntl(listener, F_SETFL, fcntl(listener, F_GETFL) | O_NONBLOCK))
        die("preparing");
    watch(listener, EPOLL_CTL_ADD, EPOLLIN);
    for (struct epoll_event events[MAX_EVENTS];;) {
        int n = epoll_wait(poller, events, MAX_EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                    if ((size_t)fd >= room)
                        close(fd);
                    else if (serve(fd)) /* the request is often there already */
                        watch(fd, EPOLL_CTL_ADD, connections[fd].left ? EPOLLOUT : EPOLLIN);
                }
            } else if (connections[fd].left) {
                send_pending(fd);
            } else if (serve(fd) && connections[fd].left) {
                watch(fd, EPOLL_CTL_MOD, EPOLLOUT);
            }
        }
    }
}

static void parse_options(int argc, char **argv) {
    static const struct option KNOWN[] = {{"design", 1, 0, 'd'}, {"proto", 1, 0, 'p'}, {"bufsize", 1, 0, 'b'},
                                          {"once", 0, 0, 'o'},   {0, 0, 0, 0}};
    for (int which; (which = getopt_long(argc, argv, "", KNOWN, NULL)) != -1;) {
        switch (which) {
        case 'o': options.design = "once"; break;
        case 'd': options.design = optarg; break;
        case 'p': options.proto = optarg; break;
        case 'b': options.bufsize = strtoul(optarg, NULL, 10); break;
        default: exit(2);
        }
    }
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    signal(SIGTERM, end);
    signal(SIGINT, end);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    buffer = malloc(options.bufsize > LONGEST_PACKET ? options.bufsize : LONGEST_PACKET);
    if (!buffer)
        die("preparing");
    int listener = open_listener(), packets = is(options.proto, "udp") || is(options.proto, "unixgram");
    tell(listener);
    if (packets)
        (is(options.design, "batch") ? serve_batches : serve_packets)(listener);
    else if (is(options.design, "http"))
        serve_all(listener, answer);
    else if (is(options.design, "epoll"))
        serve_all(listener, echo);
    else
        serve_blocking(listener, is(options.design, "once"));
    return 0;
}
