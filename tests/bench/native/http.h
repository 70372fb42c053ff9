/* One HTTP/1.1 message, read in whatever pieces it comes: as much as a bench needs, for requests and responses alike.
 * The body is handed to a callback without its chunk framing. Bodies end by Content-Length or by chunks only. */
#ifndef BENCH_HTTP_H
#define BENCH_HTTP_H

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum { MAX_HEAD = 64 << 10 };
enum phase { HEAD, SIZED, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, DONE, BROKEN };

struct message {
    enum phase phase;
    int is_response, status, closes;
    size_t head_used, left;
    char line[64];
    size_t line_used;
    char head[MAX_HEAD];
};

typedef void body_fn(void *context, const char *data, size_t size);

static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void message_reset(struct message *m, int is_response) {
    m->phase = HEAD;
    m->is_response = is_response;
    m->status = m->closes = 0;
    m->head_used = m->left = m->line_used = 0;
}

static inline int has_word(const char *value, const char *end, const char *word) {
    size_t n = strlen(word);
    for (; value + n <= end; value++)
        if (strncasecmp(value, word, n) == 0) return 1;
    return 0;
}

/* Read the head, which ends at m->head + m->head_used, and decide how the body ends. */
static inline void message_head(struct message *m) {
    const char *at = m->head, *end = m->head + m->head_used;
    int chunked = 0;
    if (m->is_response && m->head_used > 12) m->status = atoi(m->head + 9);
    while ((at = memchr(at, '\n', (size_t)(end - at))) && ++at < end) {
        const char *stop = memchr(at, '\r', (size_t)(end - at));
        if (!stop || stop == at) break;
        if (strncasecmp(at, "content-length:", 15) == 0) m->left = strtoul(at + 15, NULL, 10);
        else if (strncasecmp(at, "transfer-encoding:", 18) == 0) chunked = has_word(at, stop, "chunked");
        else if (strncasecmp(at, "connection:", 11) == 0) m->closes = has_word(at, stop, "close");
    }
    if (m->is_response && m->status / 100 == 1) message_reset(m, 1); /* 100 Continue: the answer comes after it */
    else m->phase = chunked ? CHUNK_SIZE : m->left ? SIZED : DONE;
}

/* Add bytes to a line that ends with \n; 1 once it is whole, without its end. */
static inline int message_line(struct message *m, char byte) {
    if (byte != '\n') {
        if (byte != '\r' && m->line_used < sizeof m->line - 1) m->line[m->line_used++] = byte;
        return 0;
    }
    m->line[m->line_used] = 0;
    m->line_used = 0;
    return 1;
}

/* Take bytes until the message is done or broken; return how many were used. */
static inline size_t message_feed(struct message *m, const char *data, size_t size, body_fn *body, void *context) {
    size_t used = 0;
    while (used < size && m->phase != DONE && m->phase != BROKEN) {
        if (m->phase == HEAD) {
            const char *end = memchr(data + used, '\n', size - used);
            size_t take = end ? (size_t)(end - data) + 1 - used : size - used;
            if (m->head_used + take > MAX_HEAD) {
                m->phase = BROKEN;
                break;
            }
            memcpy(m->head + m->head_used, data + used, take);
            m->head_used += take;
            used += take;
            if (m->head_used >= 4 && memcmp(m->head + m->head_used - 4, "\r\n\r\n", 4) == 0) message_head(m);
        } else if (m->phase == SIZED || m->phase == CHUNK) {
            size_t take = size - used < m->left ? size - used : m->left;
            if (body) body(context, data + used, take);
            used += take;
            m->left -= take;
            if (!m->left) m->phase = m->phase == SIZED ? DONE : CHUNK_END;
        } else if (message_line(m, data[used++])) {
            if (m->phase == CHUNK_END) m->phase = CHUNK_SIZE;
            else if (m->phase == TRAILER) m->phase = m->line[0] ? TRAILER : DONE;
            else if (!isxdigit((unsigned char)m->line[0])) m->phase = BROKEN;
            else m->phase = (m->left = strtoul(m->line, NULL, 16)) ? CHUNK : TRAILER;
        }
    }
    return used;
}

#endif
