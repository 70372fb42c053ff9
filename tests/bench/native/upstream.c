/* A model server that costs nearly nothing: one thread, answers made once.
 *
 *     upstream PORT
 *
 * POST .../chat/completions   a chat completion; with "stream": true in the body, server-sent events:
 *                             50 chunks, at once, or every 10 ms if the body has "[paced]". Each chunk's text is the
 *                             monotonic time in ns at which it was written, between two @, so that the other end knows
 *                             how long it was under way.
 * POST anything else          {}   (takes the place of a LightningStore: sequence ids and spans)
 * GET anything                a list of models
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

enum { MAX_FD = 4096, CHUNKS = 50, MAX_BODY = 1 << 20 };
static const int64_t GAP_NS = 10 * 1000 * 1000;

struct peer {
    int fd, streaming, sent, wants_usage;
    int64_t due;
    struct message in;
    char *body;
    size_t body_used;
    char *out;
    size_t out_used, out_size;
};

static struct peer *peers[MAX_FD];
static int epoll_fd, timer_fd, highest;
static char answer[2048], models[1024], empty[512];
static long sequence;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void http_answer(char *into, size_t size, const char *body) {
    snprintf(into, size, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(body), body);
}

static void make_answers(void) {
    char text[401], body[1200];
    for (size_t i = 0; i < sizeof text - 1; i++) text[i] = "the quick brown fox "[i % 20];
    text[sizeof text - 1] = 0;
    snprintf(body, sizeof body,
             "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"bench\","
             "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},"
             "\"logprobs\":null,\"finish_reason\":\"stop\"}],"
             "\"usage\":{\"prompt_tokens\":210,\"completion_tokens\":100,\"total_tokens\":310}}",
             text);
    http_answer(answer, sizeof answer, body);
    http_answer(models, sizeof models,
                "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"created\":1700000000,"
                "\"owned_by\":\"bench\",\"max_model_len\":32768}]}");
    http_answer(empty, sizeof empty, "{}");
}

static void drop(struct peer *p) {
    peers[p->fd] = NULL;
    close(p->fd);
    free(p->body);
    free(p->out);
    free(p);
}

static void put(struct peer *p, const char *data, size_t size) {
    if (p->out_used + size > p->out_size) {
        p->out_size = 2 * (p->out_used + size);
        if (!(p->out = realloc(p->out, p->out_size))) die("realloc");
    }
    memcpy(p->out + p->out_used, data, size);
    p->out_used += size;
}

/* Write what is there; 0 when the connection is gone. */
static int flush(struct peer *p) {
    ssize_t n = p->out_used ? send(p->fd, p->out, p->out_used, MSG_NOSIGNAL) : 0;
    if (n < 0 && errno != EAGAIN) return drop(p), 0;
    if (n > 0) {
        p->out_used -= (size_t)n;
        memmove(p->out, p->out + n, p->out_used);
    }
    struct epoll_event e = {.events = EPOLLIN | (p->out_used ? EPOLLOUT : 0), .data.fd = p->fd};
    if (p->out_used || n < 0) epoll_ctl(epoll_fd, EPOLL_CTL_MOD, p->fd, &e);
    return 1;
}

static void put_event(struct peer *p, const char *data) {
    char frame[640];
    size_t size = strlen(data) + 8;
    int n = snprintf(frame, sizeof frame, "%zx\r\ndata: %s\n\n\r\n", size, data);
    put(p, frame, (size_t)n);
}

#define EVENT_HEAD "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench\","

static void put_chunk(struct peer *p) {
    char data[512];
    snprintf(data, sizeof data, EVENT_HEAD "\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\"@%019lld@\"},\"finish_reason\":null}]}",
             p->sent ? "" : "\"role\":\"assistant\",", (long long)now_ns());
    put_event(p, data);
    if (++p->sent < CHUNKS) return;
    put_event(p, EVENT_HEAD "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}");
    if (p->wants_usage)
        put_event(p, EVENT_HEAD "\"choices\":[],\"usage\":{\"prompt_tokens\":210,\"completion_tokens\":50,\"total_tokens\":260}}");
    put_event(p, "[DONE]");
    put(p, "0\r\n\r\n", 5);
    p->streaming = 0;
}

/* Set the timer to the next chunk that is due. */
static void arm(void) {
    int64_t first = INT64_MAX;
    for (int fd = 0; fd <= highest; fd++)
        if (peers[fd] && peers[fd]->streaming && peers[fd]->due < first) first = peers[fd]->due;
    struct itimerspec t = {{0, 0}, {0, 0}};
    if (first != INT64_MAX) {
        t.it_value.tv_sec = first / 1000000000;
        t.it_value.tv_nsec = first % 1000000000;
    }
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
}

static void tick(void) {
    uint64_t fired;
    if (read(timer_fd, &fired, sizeof fired) < 0 && errno != EAGAIN) die("timerfd");
    int64_t now = now_ns();
    for (int fd = 0; fd <= highest; fd++) {
        struct peer *p = peers[fd];
        if (!p || !p->streaming || p->due > now) continue;
        put_chunk(p);
        p->due += GAP_NS;
        flush(p);
    }
    arm();
}

static int asks_stream(const char *body, size_t size) {
    const char *at = memmem(body, size, "\"stream\"", 8), *end = body + size;
    if (!at) return 0;
    for (at += 8; at < end && (*at == ':' || *at == ' '); at++) {}
    return at < end && *at == 't';
}

static void put_stream(struct peer *p) {
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                               "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
    put(p, head, sizeof head - 1);
    p->sent = 0;
    p->wants_usage = memmem(p->body, p->body_used, "include_usage", 13) != NULL;
    if (memmem(p->body, p->body_used, "[paced]", 7)) {
        p->streaming = 1;
        p->due = now_ns() + GAP_NS;
        arm();
        return;
    }
    for (p->streaming = 1; p->streaming;) put_chunk(p);
}

static void put_sequence(struct peer *p) {
    char body[64], whole[256];
    snprintf(body, sizeof body, "{\"sequence_id\":%ld}", ++sequence);
    http_answer(whole, sizeof whole, body);
    put(p, whole, strlen(whole));
}

static void serve(struct peer *p) {
    const char *head = p->in.head;
    size_t line = (size_t)((char *)memchr(head, '\n', p->in.head_used) - head);
    if (memcmp(head, "POST", 4) != 0) put(p, models, strlen(models));
    else if (memmem(head, line, "/spans/next", 11)) put_sequence(p);
    else if (!memmem(head, line, "/completions", 12)) put(p, empty, strlen(empty));
    else if (asks_stream(p->body, p->body_used)) put_stream(p);
    else put(p, answer, strlen(answer));
}

static void on_body(void *context, const char *data, size_t size) {
    struct peer *p = context;
    if (p->body_used + size > MAX_BODY) size = MAX_BODY - p->body_used;
    memcpy(p->body + p->body_used, data, size);
    p->body_used += size;
}

static void readable(struct peer *p) {
    static char buffer[256 << 10];
    ssize_t n = recv(p->fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return drop(p);
    for (size_t used = 0; used < (size_t)n;) {
        used += message_feed(&p->in, buffer + used, (size_t)n - used, on_body, p);
        if (p->in.phase == BROKEN) return drop(p);
        if (p->in.phase != DONE) break;
        serve(p);
        message_reset(&p->in, 0);
        p->body_used = 0;
    }
    flush(p);
}

static void add(int fd) {
    if (fd >= MAX_FD) {
        close(fd);
        return;
    }
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct peer *p = calloc(1, sizeof *p);
    if (!p || !(p->body = malloc(MAX_BODY))) die("malloc");
    p->fd = fd;
    message_reset(&p->in, 0);
    peers[fd] = p;
    if (fd > highest) highest = fd;
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
}

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "usage: upstream PORT\n"), 2;
    make_answers();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1024)) die("listen");
    epoll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, found[256];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    e.data.fd = timer_fd;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &e);
    printf("ready on 127.0.0.1:%s\n", argv[1]);
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(epoll_fd, found, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = found[i].data.fd;
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) add(fd);
            } else if (fd == timer_fd) {
                tick();
            } else if (peers[fd]) {
                struct peer *p = peers[fd];
                if (found[i].events & EPOLLOUT && !flush(p)) continue;
                if (found[i].events & EPOLLOUT && !p->out_used) {
                    struct epoll_event r = {.events = EPOLLIN, .data.fd = fd};
                    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &r);
                }
                if (found[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(p);
            }
        }
    }
}
