/* loadgen - a single-threaded epoll load generator for echo and HTTP servers on this machine.
 *
 *   gcc -O2 -Wall -Wextra -o loadgen loadgen.c -lm
 *
 *   loadgen --mode short      --addr tcp:127.0.0.1:9000 --conns 16 --seconds 1    a connection for each request
 *   loadgen --mode persistent --addr unix:/run/s.sock   --conns 64                many requests on each connection
 *   loadgen --mode datagram   --addr udp:127.0.0.1:9000 --conns 16                one packet in flight on each socket
 *   loadgen --mode short      --addr tcp:127.0.0.1:9000 --requests 100000         so many, then it ends
 *   loadgen --mode short      --addr tcp:127.0.0.1:9000 --spin                    never sleep
 *   loadgen --mode persistent --addr tcp:127.0.0.1:9000 --lines                   each request ends with a line feed
 *   loadgen --mode short      --addr tcp:127.0.0.1:9000 --once                    wait for the server to close first
 *   loadgen --mode http       --addr tcp:127.0.0.1:9000 --conns 16 [--keepalive]  GET / on a connection each, or on few
 *   loadgen --mode bulk       --addr tcp:127.0.0.1:9000 --bytes 268435456         so many bytes through one connection
 *
 * A closed loop: every slot sends its next request when the reply to the last one is in.  Every reply is verified (a
 * number of its own for each request, plus a filler; of HTTP, the status line and the length; of the bulk, each byte).
 * It speaks to loopback addresses and Unix sockets only, and ends by itself: after --warm and --seconds, or after
 * --requests, or when --seconds pass without an end to those; the bulk when all is back, or after two minutes.  One
 * JSON object goes to stdout; of the bulk, "rps" and "answered" count mebibytes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

#define SECOND 1000000000ull
#define RETRY_AFTER (SECOND / 500) /* a slot whose request failed rests this long */
#define SCAN_EVERY (SECOND / 200)  /* how often timeouts are looked for */
#define SOURCES 64                 /* loopback addresses to connect from: more ports than TIME_WAIT can use up */
#define MAX_EVENTS 1024

#define HEAD_SIZE 8192             /* most bytes of an HTTP reply that is read in one go; longer heads are refused */
#define BLOCK 65536                /* what the bulk consists of */
#define BULK_LIMIT (120 * SECOND)

enum mode { SHORT, PERSISTENT, DATAGRAM, HTTP, BULK };
static const char *const MODES[] = {"short", "persistent", "datagram", "http", "bulk"};

enum state { OFF, SENDING, READING, ENDING, RETRY };

struct slot {
    int fd;
    enum state state;
    uint32_t watched;  /* what epoll watches it for */
    uint64_t began;    /* when this request began, on the monotonic clock */
    uint64_t number;   /* the request's own: the first eight bytes of it and of its reply */
    size_t sent, received;
    size_t expected;   /* HTTP: length of the whole reply, once its head is in */
    int used;          /* requests that this connection has answered */
    char *head;        /* HTTP: the beginning of the reply */
};

static struct {
    enum mode mode;
    int lines; /* each request is a line */
    int spin; /* never sleep, so that the server need not wake us: that costs it up to 3 us for each reply */
    int once; /* a request is over when the server has closed */
    int keepalive;
    size_t conns, size;
    uint64_t requests, bytes;
    double seconds, warm, timeout;
} options = {.mode = SHORT, .conns = 1, .size = 64, .seconds = 1, .warm = 0.2, .bytes = 256ull << 20};

static struct sockaddr_storage server;
static socklen_t server_len;
static int poller;
static struct slot *slots;
static char *pattern, *buffer;
static uint64_t begun, answered; /* in the whole run */
static uint64_t polls, empty_polls;
static uint64_t window_end;      /* of the measured window; 0 before it */

/* In the measured window only. */
static struct {
    uint64_t ok, errors, timeouts, mismatches, cut_short, reset, refused, late, backlog_full, reconnects;
} counts;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static double cpu_seconds(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1e-6;
}

static void die(const char *what) {
    fprintf(stderr, "loadgen: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void refuse(const char *why) {
    fprintf(stderr, "loadgen: %s\n", why);
    exit(2);
}

/* ---- latencies: a log-linear histogram, 64 cells for each power of two, 1.6 % apart */

#define CELL_BITS 6
#define CELLS (1 << CELL_BITS)
static uint64_t histogram[64 * CELLS], longest, shortest = UINT64_MAX, recorded;
static double sum_of_latencies;

static size_t cell_of(uint64_t v) {
    if (v < CELLS)
        return (size_t)v;
    int exponent = 63 - __builtin_clzll(v);
    return (size_t)(exponent - CELL_BITS + 1) * CELLS + (size_t)((v >> (exponent - CELL_BITS)) & (CELLS - 1));
}

static double middle_of(size_t cell) {
    if (cell < CELLS)
        return (double)cell;
    int exponent = (int)(cell / CELLS) + CELL_BITS - 1;
    double width = (double)(1ull << (exponent - CELL_BITS));
    return (double)(1ull << exponent) + ((double)(cell % CELLS) + 0.5) * width;
}

static void record(uint64_t latency) {
    histogram[cell_of(latency)]++;
    recorded++;
    sum_of_latencies += (double)latency;
    if (latency > longest)
        longest = latency;
    if (latency < shortest)
        shortest = latency;
}

static double quantile_us(double q) {
    uint64_t seen = 0, wanted = (uint64_t)ceil(q * (double)recorded);
    for (size_t cell = 0; recorded && cell < 64 * CELLS; cell++) {
        seen += histogram[cell];
        if (seen >= wanted)
            return fmin(middle_of(cell), (double)longest) * 1e-3;
    }
    return 0;
}

/* ---- the server's address: tcp:HOST:PORT, udp:HOST:PORT, unix:PATH, unixgram:PATH; HOST is a number */

static void parse_inet(const char *rest) {
    struct sockaddr_in *in = (void *)&server;
    char host[64];
    const char *colon = strrchr(rest, ':');
    if (!colon || (size_t)(colon - rest) >= sizeof host)
        refuse("an address is written tcp:127.0.0.1:PORT");
    memcpy(host, rest, (size_t)(colon - rest));
    host[colon - rest] = 0;
    in->sin_family = AF_INET;
    in->sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, host, &in->sin_addr) != 1 || ntohl(in->sin_addr.s_addr) >> 24 != 127)
        refuse("only addresses in 127.0.0.0/8 are allowed");
    server_len = sizeof *in;
}

static void parse_unix(const char *path) {
    struct sockaddr_un *un = (void *)&server;
    size_t length = strlen(path);
    if (length >= sizeof un->sun_path)
        refuse("the path is too long");
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, length);
    server_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
    if (path[0] == '@') {
        un->sun_path[0] = 0;
        server_len--;
    }
}

static void parse_address(const char *text) {
    static const struct { const char *scheme; int unix_socket, packets; } KNOWN[] = {
        {"tcp:", 0, 0}, {"udp:", 0, 1}, {"unix:", 1, 0}, {"unixgram:", 1, 1}};
    for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++) {
        size_t n = strlen(KNOWN[i].scheme);
        if (strncmp(text, KNOWN[i].scheme, n))
            continue;
        if (KNOWN[i].packets != (options.mode == DATAGRAM))
            refuse("this mode and this address do not go together");
        (KNOWN[i].unix_socket ? parse_unix : parse_inet)(text + n);
        return;
    }
    refuse("an address begins with tcp: udp: unix: or unixgram:");
}

/* ---- one slot: connect, send, receive, verify */

static int open_socket(void) {
    static uint32_t turn;
    int one = 1, family = server.ss_family;
    int fd = socket(family, (options.mode == DATAGRAM ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    if (family == AF_INET && options.mode != DATAGRAM) {
        struct sockaddr_in source = {.sin_family = AF_INET};
        source.sin_addr.s_addr = htonl(0x7f000001u + turn++ % SOURCES);
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(fd, (void *)&source, sizeof source))
            die("bind");
        if (options.mode == PERSISTENT || options.mode == HTTP)
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    sa_family_t unnamed = AF_UNIX;
    if (family == AF_UNIX && options.mode == DATAGRAM && bind(fd, (void *)&unnamed, sizeof unnamed))
        die("bind to an abstract name");
    return fd;
}

static void watch(struct slot *s, uint32_t events) {
    if (s->watched == events)
        return;
    struct epoll_event e = {.events = events, .data.u32 = (uint32_t)(s - slots)};
    if (epoll_ctl(poller, s->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, s->fd, &e))
        die("epoll_ctl");
    s->watched = events;
}

static void hang_up(struct slot *s) {
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    s->watched = 0;
    s->used = 0;
}

static void rest(struct slot *s) {
    hang_up(s);
    s->state = RETRY;
    s->began = now();
}

static void fail(struct slot *s, uint64_t *counter) {
    counts.errors++;
    ++*counter;
    rest(s);
}

static uint64_t *counter_of(int error) {
    return error == ECONNREFUSED || error == ENOENT ? &counts.refused : &counts.reset;
}

static void send_rest(struct slot *s) {
    while (s->sent < options.size) {
        if (options.mode != HTTP)
            memcpy(pattern, &s->number, sizeof s->number);
        ssize_t n = send(s->fd, pattern + s->sent, options.size - s->sent, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == ENOTCONN)) {
            s->state = SENDING;
            watch(s, EPOLLOUT);
            return;
        }
        if (n < 0) {
            fail(s, counter_of(errno));
            return;
        }
        s->sent += (size_t)n;
    }
    s->state = READING;
    watch(s, EPOLLIN);
}

/* Seven bits of the number in each byte, and the eighth set: so no byte of it ends a line. */
static uint64_t stamp(uint64_t number) {
    uint64_t stamped = 0;
    for (int i = 0; i < 8; i++)
        stamped |= (0x80 | ((number >> 7 * i) & 0x7f)) << 8 * i;
    return stamped;
}

static void connect_and_send(struct slot *s) {
    s->sent = s->received = s->expected = 0;
    if (s->fd < 0) {
        s->fd = open_socket();
        if (connect(s->fd, (void *)&server, server_len) && errno != EINPROGRESS) {
            if (errno != EAGAIN) {
                fail(s, counter_of(errno));
                return;
            }
            begun--; /* the backlog of a Unix socket is full: not begun */
            counts.backlog_full++;
            rest(s);
            return;
        }
    }
    send_rest(s);
}

static void begin(struct slot *s) {
    if (options.requests && begun >= options.requests) {
        hang_up(s);
        s->state = OFF;
        return;
    }
    s->number = stamp(++begun);
    s->began = now();
    connect_and_send(s);
}

static void finish(struct slot *s) {
    uint64_t t = now();
    answered++;
    if (t <= window_end) {
        record(t - s->began);
        counts.ok++;
    }
    s->used++;
    if (options.mode == SHORT || (options.mode == HTTP && !options.keepalive))
        hang_up(s);
    begin(s);
}

static int matches(const struct slot *s, const char *bytes, size_t n) {
    memcpy(pattern, &s->number, sizeof s->number);
    return !memcmp(bytes, pattern + s->received, n);
}

static void receive_packet(struct slot *s) {
    ssize_t n;
    while ((n = recv(s->fd, buffer, 65536, 0)) >= 0) {
        uint64_t number = 0;
        memcpy(&number, buffer, (size_t)n < sizeof number ? (size_t)n : sizeof number);
        if (number != s->number) {
            counts.late++; /* the answer to one that had timed out */
            continue;
        }
        if ((size_t)n != options.size || !matches(s, buffer, (size_t)n))
            fail(s, &counts.mismatches);
        else
            finish(s);
        return;
    }
    if (errno != EAGAIN)
        fail(s, counter_of(errno));
}

static void receive_bytes(struct slot *s) {
    ssize_t n = recv(s->fd, buffer, options.size - s->received, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        fail(s, n ? counter_of(errno) : &counts.cut_short);
        return;
    }
    if (!matches(s, buffer, (size_t)n)) {
        fail(s, &counts.mismatches);
        return;
    }
    s->received += (size_t)n;
    if (s->received < options.size)
        return;
    if (options.once)
        s->state = ENDING;
    else
        finish(s);
}

static void receive_end(struct slot *s) {
    ssize_t n = recv(s->fd, buffer, 64, 0);
    if (!n)
        finish(s);
    else if (n > 0)
        fail(s, &counts.mismatches);
    else if (errno != EAGAIN)
        fail(s, counter_of(errno));
}

/* ---- HTTP */

static const char *field_of(const struct slot *s, const char *name) {
    const char *end = strstr(s->head, "\r\n\r\n"), *found = strcasestr(s->head, name);
    return found && found < end ? found + strlen(name) : NULL;
}

/* Whether the reply's head is in; sets what to expect, or fails. */
static int read_head(struct slot *s) {
    s->head[s->received] = 0;
    const char *end = strstr(s->head, "\r\n\r\n"), *length;
    if (!end) {
        if (s->received >= HEAD_SIZE)
            fail(s, &counts.mismatches);
        return 0;
    }
    length = field_of(s, "\r\ncontent-length:");
    if (strncmp(s->head, "HTTP/1.", 7) || strncmp(s->head + 8, " 200 ", 5) || !length) {
        fail(s, &counts.mismatches);
        return 0;
    }
    s->expected = (size_t)(end + 4 - s->head) + strtoul(length, NULL, 10);
    return 1;
}

static int server_closes(const struct slot *s) {
    const char *connection = field_of(s, "\r\nconnection:");
    while (connection && *connection == ' ')
        connection++;
    return connection ? !strncasecmp(connection, "close", 5) : s->head[7] == '0';
}

static void receive_http(struct slot *s) {
    ssize_t n = s->expected ? recv(s->fd, buffer, 65536, 0) : recv(s->fd, s->head + s->received, HEAD_SIZE - s->received, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0 && s->used && !s->received) { /* it closed a connection that it had kept, as it may */
        hang_up(s);
        counts.reconnects++;
        connect_and_send(s);
        return;
    }
    if (n <= 0) {
        fail(s, n ? counter_of(errno) : &counts.cut_short);
        return;
    }
    s->received += (size_t)n;
    if (!s->expected && !read_head(s))
        return;
    if (s->received > s->expected) {
        fail(s, &counts.mismatches);
        return;
    }
    if (s->received < s->expected)
        return;
    if (options.keepalive && server_closes(s)) {
        hang_up(s);
        counts.reconnects++;
    }
    finish(s);
}

static void on_event(struct slot *s, uint32_t events) {
    if (s->fd < 0)
        return;
    if (s->state == SENDING && events & EPOLLERR) {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &length);
        fail(s, counter_of(error));
    } else if (s->state == SENDING)
        send_rest(s);
    else if (s->state == ENDING)
        receive_end(s);
    else if (s->state == READING)
        (options.mode == DATAGRAM ? receive_packet : options.mode == HTTP ? receive_http : receive_bytes)(s);
}

static int waits(const struct slot *s) {
    return s->state == SENDING || s->state == READING || s->state == ENDING;
}

/* Begin again where a request failed; give up on those that take too long.  Returns how many slots are at work. */
static size_t look_after_slots(void) {
    size_t busy = 0;
    uint64_t t = now(), limit = (uint64_t)(options.timeout * (double)SECOND);
    for (struct slot *s = slots; s < slots + options.conns; s++) {
        busy += s->state != OFF;
        if (s->state == RETRY && t > s->began + RETRY_AFTER)
            begin(s);
        else if (waits(s) && t > s->began + limit)
            fail(s, &counts.timeouts);
    }
    return busy;
}

/* ---- the run */

static void turn_until(uint64_t end) {
    struct epoll_event events[MAX_EVENTS];
    uint64_t looked_at = now();
    for (uint64_t t = looked_at; t < end; t = now()) {
        int n = epoll_wait(poller, events, MAX_EVENTS, options.spin ? 0 : 20);
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        polls++;
        empty_polls += n <= 0;
        for (int i = 0; i < n; i++)
            on_event(&slots[events[i].data.u32], events[i].events);
        int ending = options.requests && begun >= options.requests;
        if (ending || t > looked_at + SCAN_EVERY) {
            looked_at = t;
            if (!look_after_slots() && ending)
                return;
        }
    }
}

/* ---- the bulk: all that is sent comes back, byte by byte */

struct bulk {
    int fd;
    uint64_t sent, received;
    char *block;
};

static void send_bulk(struct bulk *b) {
    while (b->sent < options.bytes) {
        size_t at = b->sent % BLOCK, length = BLOCK - at;
        if (length > options.bytes - b->sent)
            length = (size_t)(options.bytes - b->sent);
        ssize_t n = send(b->fd, b->block + at, length, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == ENOTCONN))
            return;
        if (n < 0)
            die("sending the bulk");
        b->sent += (uint64_t)n;
    }
    struct epoll_event e = {.events = EPOLLIN};
    epoll_ctl(poller, EPOLL_CTL_MOD, b->fd, &e);
}

static void receive_bulk(struct bulk *b) {
    size_t at = b->received % BLOCK;
    ssize_t n = recv(b->fd, buffer, BLOCK - at, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0)
        die("the bulk was cut short");
    if (memcmp(buffer, b->block + at, (size_t)n)) {
        counts.errors++;
        counts.mismatches++;
    }
    b->received += (uint64_t)n;
}

static void run_bulk(void) {
    struct bulk b = {.fd = open_socket(), .block = malloc(BLOCK)};
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT};
    if (!b.block)
        die("preparing");
    for (size_t i = 0; i < BLOCK; i++)
        b.block[i] = (char)(i / 64 * 31 + i);
    if ((connect(b.fd, (void *)&server, server_len) && errno != EINPROGRESS) || epoll_ctl(poller, EPOLL_CTL_ADD, b.fd, &e))
        die("connecting");
    for (uint64_t limit = now() + BULK_LIMIT; b.received < options.bytes;) {
        if (now() > limit)
            refuse("the bulk was not back in time");
        polls++;
        if (epoll_wait(poller, &e, 1, options.spin ? 0 : 1000) <= 0) {
            empty_polls++;
            continue;
        }
        if (e.events & EPOLLOUT)
            send_bulk(&b);
        if (e.events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            receive_bulk(&b);
    }
    counts.ok = begun = answered = options.bytes >> 20;
}

/* The age of the oldest request without an answer: shows starvation, which a closed loop hides. */
static double oldest_us(void) {
    uint64_t t = now(), oldest = 0;
    for (struct slot *s = slots; s < slots + options.conns; s++)
        if (waits(s) && t - s->began > oldest)
            oldest = t - s->began;
    return (double)oldest * 1e-3;
}

/* How busy we were, from 0 to 1; near 1 the server could have done more. */
static double busy(double elapsed, double cpu) {
    return options.spin ? 1 - (double)empty_polls / (double)polls : cpu / elapsed;
}

static void report(double elapsed, double cpu) {
    printf("{\"mode\":\"%s\",\"conns\":%zu,\"size\":%zu,\"elapsed\":%.6f,\"requests\":%llu,\"rps\":%.3f,", MODES[options.mode],
           options.conns, options.size, elapsed, (unsigned long long)counts.ok, (double)counts.ok / elapsed);
    printf("\"latency_us\":{\"min\":%.3f,\"mean\":%.3f,\"p50\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f},",
           recorded ? (double)shortest * 1e-3 : 0, recorded ? sum_of_latencies / (double)recorded * 1e-3 : 0,
           quantile_us(0.5), quantile_us(0.99), quantile_us(0.999), (double)longest * 1e-3);
#define COUNT(name) printf("\"" #name "\":%llu,", (unsigned long long)counts.name)
    COUNT(errors), COUNT(timeouts), COUNT(mismatches), COUNT(cut_short), COUNT(reset), COUNT(refused), COUNT(late);
    COUNT(backlog_full), COUNT(reconnects);
    printf("\"begun\":%llu,\"answered\":%llu,\"busy\":%.4f,\"oldest_us\":%.1f}\n", (unsigned long long)begun,
           (unsigned long long)answered, busy(elapsed, cpu), oldest_us());
}

static enum mode mode_named(const char *name) {
    for (size_t i = 0; i < sizeof MODES / sizeof *MODES; i++)
        if (!strcmp(name, MODES[i]))
            return (enum mode)i;
    refuse("--mode is short, persistent, datagram, http or bulk");
    return SHORT;
}

static const char *parse_options(int argc, char **argv) {
    static const struct option KNOWN[] = {{"mode", 1, 0, 'm'},    {"addr", 1, 0, 'a'},     {"conns", 1, 0, 'c'},
                                          {"size", 1, 0, 's'},    {"seconds", 1, 0, 'd'},  {"warm", 1, 0, 'w'},
                                          {"timeout", 1, 0, 't'}, {"requests", 1, 0, 'n'}, {"spin", 0, 0, 'p'},
                                          {"lines", 0, 0, 'l'},   {"once", 0, 0, 'o'},     {"keepalive", 0, 0, 'k'},
                                          {"bytes", 1, 0, 'b'},   {0, 0, 0, 0}};
    const char *address = NULL;
    for (int which; (which = getopt_long(argc, argv, "", KNOWN, NULL)) != -1;) {
        switch (which) {
        case 'm': options.mode = mode_named(optarg); break;
        case 'a': address = optarg; break;
        case 'c': options.conns = strtoul(optarg, NULL, 10); break;
        case 's': options.size = strtoul(optarg, NULL, 10); break;
        case 'd': options.seconds = atof(optarg); break;
        case 'w': options.warm = atof(optarg); break;
        case 't': options.timeout = atof(optarg); break;
        case 'p': options.spin = 1; break;
        case 'l': options.lines = 1; break;
        case 'o': options.once = 1; break;
        case 'k': options.keepalive = 1; break;
        case 'b': options.bytes = strtoull(optarg, NULL, 10); break;
        case 'n': options.requests = strtoull(optarg, NULL, 10); break;
        default: exit(2);
        }
    }
    if (!address || !options.conns || options.size <= sizeof(uint64_t) || options.size > 65507)
        refuse("needs --addr, --conns of at least 1, and --size from 9 to 65507");
    if ((options.once && options.mode != SHORT) || (options.keepalive && options.mode != HTTP) || options.bytes < 1 << 20)
        refuse("--once goes with --mode short, --keepalive with --mode http, and --bytes is at least 1048576");
    if (options.timeout <= 0)
        options.timeout = options.mode == DATAGRAM ? 0.2 : 5.0;
    return address;
}

#define GET "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: loadgen\r\nAccept: */*\r\n"
static const char GET_KEPT[] = GET "\r\n", GET_CLOSED[] = GET "Connection: close\r\n\r\n";

static void prepare(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(EPOLL_CLOEXEC);
    slots = calloc(options.conns, sizeof *slots);
    if (options.mode == HTTP)
        options.size = strlen(options.keepalive ? GET_KEPT : GET_CLOSED);
    pattern = malloc(options.size);
    buffer = malloc(65536);
    if (poller < 0 || !slots || !pattern || !buffer)
        die("preparing");
    for (size_t i = 0; i < options.size; i++)
        pattern[i] = options.lines ? (char)('a' + i % 26) : (char)(i * 7 + 13);
    if (options.lines)
        pattern[options.size - 1] = '\n';
    if (options.mode != HTTP)
        return;
    memcpy(pattern, options.keepalive ? GET_KEPT : GET_CLOSED, options.size);
    for (struct slot *s = slots; s < slots + options.conns; s++)
        if (!(s->head = malloc(HEAD_SIZE + 1)))
            die("preparing");
}

int main(int argc, char **argv) {
    const char *address = parse_options(argc, argv);
    parse_address(address);
    prepare();
    uint64_t start = now();
    if (options.mode == BULK) {
        double cpu = cpu_seconds();
        run_bulk();
        report((double)(now() - start) * 1e-9, cpu_seconds() - cpu);
        return 0;
    }
    if (options.requests) /* counted from the first one on */
        window_end = start + (uint64_t)(options.seconds * (double)SECOND);
    for (struct slot *s = slots; s < slots + options.conns; s++) {
        s->fd = -1;
        begin(s);
    }
    if (!options.requests) {
        turn_until(start + (uint64_t)(options.warm * (double)SECOND));
        memset(&counts, 0, sizeof counts);
        polls = empty_polls = 0;
        start = now();
        window_end = start + (uint64_t)(options.seconds * (double)SECOND);
    }
    double cpu = cpu_seconds();
    turn_until(window_end);
    report((double)(now() - start) * 1e-9, cpu_seconds() - cpu);
    return 0;
}
