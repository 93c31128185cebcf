/*
 * Both buffers. Every frame and every hello ends in a zero byte, and neither tokens nor nonces have
 * one: so the beginning of a hello can never complete what a dead client has sent by half.
 */
#define _GNU_SOURCE
#include "runner.h"

#include "clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define TOKEN_VARIABLE "RUNNER_TOKEN="
#define HELLO_BYTES (TOKEN_BYTES + NONCE_BYTES + 1)
#define QUERY_HEAD_BYTES (TOKEN_BYTES + NONCE_BYTES + 15)
#define QUERY_BYTES(path) (QUERY_HEAD_BYTES + (size_t)(path) + 1)
#define OUTPUT_ROOM (4 * FRAME_BYTES(64 * 1024))
#define OUT_RESERVE 4096
#define HOLD_NS (4 * (int64_t)1000000)
#define HOLD_BYTES 16384

extern char **environ;

static unsigned char token[TOKEN_BYTES], query_token[TOKEN_BYTES];
static struct {
    unsigned char bytes[FRAME_BYTES(MAX_PAYLOAD) + 64 * 1024];
    size_t start, end;
    size_t scanned; /* no token begins before this place */
    bool hello_begun, query_begun, deaf;
} in;
static struct {
    unsigned char bytes[OUTPUT_ROOM + OUT_RESERVE]; /* [0] always begins a frame */
    size_t sent, end;
    bool urgent;   /* something that doesn't wait is in it */
    int64_t since; /* when it last began to fill */
    int64_t taken; /* when a client last read from it */
} out;

uint32_t load_u32(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

uint64_t load_u64(const unsigned char *at)
{
    return (uint64_t)load_u32(at) << 32 | load_u32(at + 4);
}

void store_u32(unsigned char *at, uint32_t value)
{
    for (int i = 3; i >= 0; i--, value >>= 8)
        at[i] = (unsigned char)value;
}

void store_u64(unsigned char *at, uint64_t value)
{
    store_u32(at, (uint32_t)(value >> 32));
    store_u32(at + 4, (uint32_t)value);
}

/* ---- the token ---- */

static int hex_digit(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

static bool token_parse(const char *text)
{
    if (strlen(text) != 2 * TOKEN_BYTES)
        return false;
    for (int i = 0; i < TOKEN_BYTES; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0 || (high | low) == 0)
            return false;
        token[i] = (unsigned char)(high << 4 | low);
        query_token[i] = (unsigned char)-token[i];
    }
    return true;
}

bool token_take(void)
{
    bool taken = false;
    char **kept = environ;
    for (char **variable = environ; *variable; variable++) {
        if (strncmp(*variable, TOKEN_VARIABLE, strlen(TOKEN_VARIABLE)) != 0) {
            *kept++ = *variable;
            continue;
        }
        taken = token_parse(*variable + strlen(TOKEN_VARIABLE));
        explicit_bzero(*variable, strlen(*variable));
    }
    *kept = NULL;
    return taken;
}

void token_wipe(void)
{
    explicit_bzero(token, sizeof token);
    explicit_bzero(query_token, sizeof query_token);
}

/* ---- input ---- */

static void in_compact(void)
{
    if (in.start == 0)
        return;
    memmove(in.bytes, in.bytes + in.start, in.end - in.start);
    in.end -= in.start;
    in.scanned = in.scanned > in.start ? in.scanned - in.start : 0;
    in.start = 0;
}

bool in_has_room(void)
{
    return in.end - in.start < sizeof in.bytes;
}

/* Makes room as well, or a full buffer could never take in the next hello. */
void in_ignore_until_hello(void)
{
    in.deaf = true;
    if (!in.hello_begun && in.start < in.scanned)
        in.start = in.scanned;
}

static unsigned char *in_find(const unsigned char *what)
{
    return memmem(in.bytes + in.scanned, in.end - in.scanned, what, TOKEN_BYTES);
}

static void in_cut_out(unsigned char *at, size_t length)
{
    memmove(at, at + length, (size_t)(in.bytes + in.end - at) - length);
    in.end -= length;
}

static bool is_token_among(const unsigned char *bytes, size_t length)
{
    return memmem(bytes, length, token, TOKEN_BYTES) ||
           memmem(bytes, length, query_token, TOKEN_BYTES);
}

/* Cuts a query out of the middle of whatever another client is sending; false: part of it is still
 * missing. Of bytes that are no valid query, or that hold another token, only the token is cut out. */
static bool in_take_query(unsigned char *at, query_handler *on_query)
{
    struct workspace_query query = {0};
    size_t there = (size_t)(in.bytes + in.end - at), length = 0;
    const unsigned char *head = at + TOKEN_BYTES + NONCE_BYTES;
    if (there >= QUERY_HEAD_BYTES)
        length = (size_t)head[13] << 8 | head[14];
    size_t whole = QUERY_BYTES(length), known = there < whole ? there : whole;
    if (length > QUERY_PATH_BYTES || (known == whole && at[whole - 1] != 0) ||
        is_token_among(at + TOKEN_BYTES, known - TOKEN_BYTES)) {
        in_cut_out(at, TOKEN_BYTES);
        return true;
    }
    if (there < whole)
        return false;
    memcpy(query.nonce, at + TOKEN_BYTES, NONCE_BYTES);
    query.kind = head[0];
    query.number = load_u32(head + 1);
    query.bytes = load_u64(head + 5);
    memcpy(query.path, at + QUERY_HEAD_BYTES, length);
    in_cut_out(at, QUERY_BYTES(length));
    on_query(&query);
    return true;
}

/* The queries before the next hello, or all that have arrived. */
static void in_take_queries(const unsigned char *hello, query_handler *on_query)
{
    unsigned char *at;
    in.query_begun = false;
    while ((at = in_find(query_token)) && (!hello || at < hello)) {
        in.scanned = (size_t)(at - in.bytes);
        if (!in_take_query(at, on_query)) {
            in.query_begun = true;
            return;
        }
        hello = in_find(token);
    }
}

/* Finds tokens in what is new; everything before a hello is forgotten. */
static void in_take_hellos(hello_handler *on_hello, query_handler *on_query)
{
    for (;;) {
        in_take_queries(in_find(token), on_query);
        unsigned char *at = in_find(token);
        in.hello_begun = at != NULL;
        if (!at && in.query_begun) {
            if (in.deaf)
                in.start = in.scanned;
            return;
        }
        if (!at)
            break;
        in.start = in.scanned = (size_t)(at - in.bytes);
        if (in.end - in.start < HELLO_BYTES)
            return;
        explicit_bzero(at, TOKEN_BYTES);
        in.deaf = at[HELLO_BYTES - 1] != 0;
        in.start = in.scanned = in.start + (in.deaf ? TOKEN_BYTES : HELLO_BYTES);
        if (!in.deaf)
            on_hello(at + TOKEN_BYTES);
    }
    size_t tail = in.end - in.start < TOKEN_BYTES ? in.end - in.start : TOKEN_BYTES - 1;
    if (in.scanned < in.end - tail)
        in.scanned = in.end - tail;
    if (in.deaf)
        in.start = in.scanned;
}

bool in_read(hello_handler *on_hello, query_handler *on_query)
{
    in_compact();
    ssize_t got = read(STDIN_FILENO, in.bytes + in.end, sizeof in.bytes - in.end);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR;
    in.end += (size_t)got;
    in_take_hellos(on_hello, on_query);
    return got > 0;
}

/* The next whole frame, valid until the next read. `broken`: what is there can't be one. */
bool in_next(struct frame *frame, bool *broken)
{
    const unsigned char *at = in.bytes + in.start;
    size_t there = (in.query_begun ? in.scanned : in.end) - in.start;
    *broken = false;
    if (in.deaf || in.hello_begun || there < HEADER_BYTES)
        return false;
    *frame = (struct frame){at[0], load_u32(at + 1), load_u32(at + 5), at + HEADER_BYTES};
    if (frame->length > MAX_PAYLOAD) {
        *broken = true;
        return false;
    }
    if (there < FRAME_BYTES(frame->length))
        return false;
    *broken = at[HEADER_BYTES + frame->length] != 0;
    if (!*broken)
        in.start += FRAME_BYTES(frame->length);
    if (in.scanned < in.start)
        in.scanned = in.start;
    return !*broken;
}

/* ---- output ---- */

static size_t out_size_at(size_t at)
{
    return FRAME_BYTES(load_u32(out.bytes + at + 5));
}

/* Where the first frame begins that is not wholly sent. */
static size_t out_unsent(void)
{
    size_t at = 0;
    while (at < out.sent && at + out_size_at(at) <= out.sent)
        at += out_size_at(at);
    return at;
}

static void out_compact(void)
{
    size_t unsent = out_unsent();
    memmove(out.bytes, out.bytes + unsent, out.end - unsent);
    out.sent -= unsent;
    out.end -= unsent;
}

/* Each piece that is sent wakes up the Engine's processes, so what a program prints waits a moment
 * for more of it, or for the result: most programs' output then travels in one piece with that. */
int64_t out_due_ns(void)
{
    if (out.sent == out.end)
        return -1;
    return out.urgent || out.end - out.sent >= HOLD_BYTES ? 0 : out.since + HOLD_NS;
}

bool out_due(void)
{
    int64_t due = out_due_ns();
    return due == 0 || (due > 0 && now_ns() >= due);
}

int64_t out_taken_ns(void)
{
    return out.taken;
}

size_t out_room(void)
{
    return out.end < OUTPUT_ROOM ? OUTPUT_ROOM - out.end : 0;
}

static void out_seal(uint8_t type, uint32_t id, size_t length)
{
    unsigned char *at = out.bytes + out.end;
    if (out.end == 0)
        out.since = now_ns();
    at[0] = type;
    store_u32(at + 1, id);
    store_u32(at + 5, (uint32_t)length);
    at[HEADER_BYTES + length] = 0;
    out.end += FRAME_BYTES(length);
}

bool out_frame(uint8_t type, uint32_t id, const void *payload, size_t length)
{
    if (out.end + FRAME_BYTES(length) > sizeof out.bytes)
        return false;
    if (length > 0)
        memcpy(out.bytes + out.end + HEADER_BYTES, payload, length);
    out_seal(type, id, length);
    out.urgent = true;
    return true;
}

/* Reads straight into a frame; returns what read() did. */
ssize_t out_frame_from(int fd, uint8_t type, uint32_t id, size_t at_most)
{
    size_t room = out_room() - FRAME_BYTES(0);
    ssize_t got = read(fd, out.bytes + out.end + HEADER_BYTES, at_most < room ? at_most : room);
    if (got > 0)
        out_seal(type, id, (size_t)got);
    return got;
}

/* Drops output that no client has read. A frame that was begun is completed, so that a client that
 * still reads stays in step. */
void out_drop(void)
{
    size_t unsent = out_unsent();
    out.end = unsent < out.sent ? unsent + out_size_at(unsent) : unsent;
}

bool out_flush(void)
{
    while (out.sent < out.end) {
        ssize_t wrote = write(STDOUT_FILENO, out.bytes + out.sent, out.end - out.sent);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote < 0)
            return errno == EAGAIN ? (out_compact(), out.urgent = true) : false;
        out.sent += (size_t)wrote;
        out.taken = now_ns();
    }
    out.sent = out.end = 0;
    out.urgent = false;
    return true;
}
