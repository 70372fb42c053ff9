/* Closed-loop load from one thread: every connection sends the same request again as soon as its answer is whole.
 *
 *     load PORT REQUEST-FILE CONNECTIONS SECONDS
 *
 * Prints one JSON object. Answers that end after SECONDS count as requests, because their cost was measured, but not
 * for the rate. A text like @0001234567890123456@ in an answer is the time at which the upstream wrote it (see
 * upstream.c); the difference to the time at which it was read here is its lag.
 */
#define _GNU_SOURCE
#include "http.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 1024, STAMP = 19 };
static const int64_t PATIENCE_NS = 20LL * 1000 * 1000 * 1000;
static const int64_t STAGGER_NS = 10 * 1000 * 1000;

struct samples {
    float *at;
    size_t used, size;
};

struct connection {
    int fd, busy, waits_for_room;
    size_t sent;
    int64_t began;
    int has_first;
    struct message in;
    int digits; /* of a stamp that is being read; -1 outside */
    int64_t stamp;
    char tail[161]; /* begin of the body, to show what an error said */
    size_t tail_used;
};

static struct connection all[MAX_CONNECTIONS];
static struct samples latency, first_byte, lag;
static char *request;
static size_t request_size;
static int epoll_fd, port, count;
static int64_t end_ns, read_ns;
static long requests, in_time, errors, reconnects;
static char first_error[512];

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void add(struct samples *s, int64_t ns) {
    if (s->used == s->size) {
        s->size = s->size ? 2 * s->size : 1 << 16;
        if (!(s->at = realloc(s->at, s->size * sizeof *s->at))) die("realloc");
    }
    s->at[s->used++] = (float)ns / 1000.0f;
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, struct samples *s) {
    qsort(s->at, s->used, sizeof *s->at, by_size);
#define AT(q) (s->used ? (double)s->at[(size_t)((double)(s->used - 1) * (q))] : 0.0)
    printf("\"%s\": {\"count\": %zu, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"max\": %.1f}, ", name, s->used, AT(0.5),
           AT(0.9), AT(0.99), AT(1.0));
}

static void watch(struct connection *c, int op) {
    struct epoll_event e = {.events = EPOLLIN | (c->waits_for_room ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, op, c->fd, &e);
}

static void open_connection(struct connection *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to)) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->waits_for_room = 0;
    watch(c, EPOLL_CTL_ADD);
}

static void failed(struct connection *c, const char *why) {
    errors++;
    if (!first_error[0]) snprintf(first_error, sizeof first_error, "%s (status %d) %s", why, c->in.status, c->tail);
}

static void push(struct connection *c) {
    ssize_t n = send(c->fd, request + c->sent, request_size - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) c->sent += (size_t)n;
    int full = c->sent < request_size;
    if (full != c->waits_for_room) {
        c->waits_for_room = full;
        watch(c, EPOLL_CTL_MOD);
    }
}

static void begin(struct connection *c) {
    message_reset(&c->in, 1);
    c->busy = 1;
    c->sent = c->tail_used = 0;
    c->tail[0] = 0;
    c->has_first = 0;
    c->digits = -1;
    c->began = now_ns();
    push(c);
}

static void again(struct connection *c) {
    c->busy = 0;
    if (now_ns() < end_ns) begin(c);
}

static void reopen(struct connection *c) {
    close(c->fd);
    reconnects++;
    open_connection(c);
    again(c);
}

static void on_body(void *context, const char *data, size_t size) {
    struct connection *c = context;
    if (!c->has_first) {
        c->has_first = 1;
        add(&first_byte, read_ns - c->began);
    }
    if (c->in.status >= 300) {
        for (size_t i = 0; i < size && c->tail_used < sizeof c->tail - 1; i++)
            c->tail[c->tail_used++] = data[i] == '"' || data[i] == '\\' || data[i] < 32 ? '\'' : data[i];
        c->tail[c->tail_used] = 0;
        return;
    }
    for (const char *at = data, *end = data + size; at < end; at++) {
        if (c->digits < 0) {
            if (!(at = memchr(at, '@', (size_t)(end - at)))) return;
            c->digits = 0;
            c->stamp = 0;
        } else if (*at >= '0' && *at <= '9' && c->digits < STAMP) {
            c->stamp = c->stamp * 10 + (*at - '0');
            c->digits++;
        } else {
            if (*at == '@' && c->digits == STAMP) add(&lag, read_ns - c->stamp);
            c->digits = -1;
        }
    }
}

static void readable(struct connection *c) {
    static char buffer[256 << 10];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        if (c->busy) failed(c, "connection closed");
        reopen(c);
        return;
    }
    if (!c->busy) return;
    read_ns = now_ns();
    message_feed(&c->in, buffer, (size_t)n, on_body, c);
    if (c->in.phase == BROKEN) {
        failed(c, "not understood");
        reopen(c);
    } else if (c->in.phase == DONE) {
        requests++;
        if (read_ns <= end_ns) in_time++;
        add(&latency, read_ns - c->began);
        if (c->in.status / 100 != 2) failed(c, "refused");
        if (c->in.closes) reopen(c);
        else again(c);
    }
}

static void read_request(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) die(path);
    fseek(f, 0, SEEK_END);
    request_size = (size_t)ftell(f);
    rewind(f);
    request = malloc(request_size);
    if (!request || fread(request, 1, request_size, f) != request_size) die(path);
    fclose(f);
}

static int anybody_busy(void) {
    for (int i = 0; i < count; i++)
        if (all[i].busy) return 1;
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 5) return fprintf(stderr, "usage: load PORT REQUEST-FILE CONNECTIONS SECONDS\n"), 2;
    port = atoi(argv[1]);
    read_request(argv[2]);
    count = atoi(argv[3]);
    if (count < 1 || count > MAX_CONNECTIONS) return fprintf(stderr, "1 to %d connections\n", MAX_CONNECTIONS), 2;
    double seconds = atof(argv[4]);
    epoll_fd = epoll_create1(0);
    for (int i = 0; i < count; i++) open_connection(&all[i]);
    int64_t began = now_ns();
    end_ns = began + (int64_t)(seconds * 1e9);
    int started = 0; /* not all at once: streams that begin together would stay together */
    struct epoll_event found[256];
    while (now_ns() < end_ns || anybody_busy()) {
        int64_t now = now_ns();
        if (now > end_ns + PATIENCE_NS) break;
        while (started < count && now >= began + started * STAGGER_NS / count) begin(&all[started++]);
        int n = epoll_wait(epoll_fd, found, 256, started < count ? 1 : 20);
        for (int i = 0; i < n; i++) {
            struct connection *c = found[i].data.ptr;
            if (found[i].events & EPOLLOUT && c->busy) push(c);
            if (found[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
        }
    }
    for (int i = 0; i < count; i++)
        if (all[i].busy) failed(&all[i], "no answer in time");
    printf("{\"requests\": %ld, \"in_time\": %ld, \"errors\": %ld, \"reconnects\": %ld, \"seconds\": %.6f, ", requests, in_time,
           errors, reconnects, seconds);
    print_samples("latency_us", &latency);
    print_samples("first_byte_us", &first_byte);
    print_samples("lag_us", &lag);
    printf("\"first_error\": \"%s\"}\n", first_error);
    return 0;
}
