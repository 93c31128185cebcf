/*
 * The output buffer: frames put in, program output read into it, pieces taken by a client that
 * blocks, drops, in any order. A second, simple queue says what must come out: every frame that was
 * taken, whole and in order, without those that were dropped before they were begun.
 */
#include "kernel.h"

static struct {
    unsigned char bytes[2 * sizeof out.bytes];
    size_t ends[65536]; /* of frames, the first one being partly sent or not at all */
    size_t frames, sent, end;
} expected;

static bool next_event(void)
{
    return false;
}

static void check_at_rest(void)
{
}

static void forget_sent(void)
{
    size_t whole = 0, gone = 0;
    while (whole < expected.frames && expected.ends[whole] <= expected.sent)
        gone = expected.ends[whole++];
    memmove(expected.bytes, expected.bytes + gone, expected.end - gone);
    for (size_t i = whole; i < expected.frames; i++)
        expected.ends[i - whole] = expected.ends[i] - gone;
    expected.frames -= whole;
    expected.sent -= gone;
    expected.end -= gone;
}

static void on_told(const unsigned char *bytes, size_t length)
{
    MUST(length <= expected.end - expected.sent);
    MUST(memcmp(bytes, expected.bytes + expected.sent, length) == 0);
    expected.sent += length;
}

static void expect(uint8_t type, uint32_t id, const unsigned char *payload, size_t length)
{
    unsigned char *at = expected.bytes + expected.end;
    MUST(expected.end + FRAME_BYTES(length) <= sizeof expected.bytes);
    at[0] = type;
    store_u32(at + 1, id);
    store_u32(at + 5, (uint32_t)length);
    memcpy(at + HEADER_BYTES, payload, length);
    at[HEADER_BYTES + length] = 0;
    expected.end += FRAME_BYTES(length);
    expected.ends[expected.frames++] = expected.end;
}

static void put(void)
{
    static unsigned char payload[5000];
    size_t length = take_u8() < 250 ? take_u8() % 32 : take_u16() % sizeof payload;
    memset(payload, (int)expected.end, length);
    bool fits = expected.end + FRAME_BYTES(length) <= sizeof out.bytes;
    MUST(out_frame(RUNNER_SYNCED, 7, payload, length) == fits);
    if (fits)
        expect(RUNNER_SYNCED, 7, payload, length);
}

/* As run.c does it: only where there is room for more than an empty frame. */
static void put_from_program(int fd)
{
    static unsigned char read_bytes[65536];
    size_t at_most = 1 + take_u16(), place = program.written[PIPE_STDOUT];
    program.waiting[PIPE_STDOUT] = take_u16();
    program.written[PIPE_STDOUT] += program.waiting[PIPE_STDOUT];
    if (out_room() <= FRAME_BYTES(0))
        return;
    ssize_t got = out_frame_from(fd, RUNNER_STDOUT, 8, at_most);
    MUST(got <= (ssize_t)at_most);
    for (ssize_t i = 0; i < got; i++)
        read_bytes[i] = written_byte(PIPE_STDOUT, place + (size_t)i);
    if (got > 0)
        expect(RUNNER_STDOUT, 8, read_bytes, (size_t)got);
}

static void drop(void)
{
    out_drop();
    expected.frames = expected.sent > 0 ? 1 : 0;
    expected.end = expected.sent > 0 ? expected.ends[0] : 0;
}

static void flush(size_t room)
{
    kernel.to_client = room;
    MUST(out_flush());
    forget_sent();
    MUST(out.end == expected.end && out.sent == expected.sent);
    MUST((out_due_ns() == -1) == (out.end == 0));
    MUST(out.end == 0 || out_due());
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kernel_reset(data, size);
    runner_reset();
    expected.frames = expected.sent = expected.end = 0;
    int fd = fd_open(PIPE, PIPE_STDOUT);
    program.main_lives = true;
    while (left_of_input() > 0) {
        switch (take_u8() % 5) {
        case 0: put(); break;
        case 1: put_from_program(fd); break;
        case 2: drop(); break;
        case 3: flush(take_u16() * 4); break;
        case 4: kernel.clock += take_u8() * 100000; break;
        }
        MUST(out.end == expected.end && (out_due_ns() == -1) == (out.end == 0));
    }
    flush(TO_CLIENT_ENDLESS);
    MUST(out.end == 0);
    return 0;
}
