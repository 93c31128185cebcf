/*
 * Whole conversations: the runner's own loop, from its start on, with clients and programs that do
 * what the input says: hellos and frames in any pieces, whole, cut or wrong; programs that write,
 * read, fork, end or can't be killed; interpreters that wait for a program, become it, refuse or
 * die; a client that reads slowly or not at all; errors of the kernel.
 *
 * Whatever has happened: all that comes out is whole frames in step, a program's output has no gap
 * and nothing after its result, no two programs run, what waits for a program never ends a run,
 * nothing is left open, no number of a process that is gone gets a signal, and the next client that
 * says hello is answered.
 */
#include "kernel.h"

/* No part of it repeats, as in a token by chance. */
static const char TOKEN_TEXT[] = "RUNNER_TOKEN=c0ffee0102030405060708090a0b0c0d";
static const unsigned char LAST_NONCE[NONCE_BYTES] = "the last client!";
enum { IDLE_SECONDS = 7200 };

/* ---- what comes out ---- */

static struct {
    unsigned char bytes[FRAME_BYTES(65536)];
    size_t got;
    unsigned epoch; /* how many times a client was told that it is, or isn't any longer, the one */
    struct {
        uint32_t id;
        unsigned epoch;
        size_t next;
    } streams[2];
    uint64_t content_left; /* of a compiled program */
    uint32_t ended_id, first_id; /* first: of the client that was told last that it is the one */
    unsigned ended_epoch;
    bool last_acknowledged, last_synced;
    int64_t taken;
} told;

/* Since when nothing has moved, as far as the runner can know. */
static struct {
    bool running;
    int64_t since;
} still;

static bool is_known(uint8_t type, size_t length)
{
    switch (type) {
    case RUNNER_ACK:
        return length == NONCE_BYTES + 1;
    case RUNNER_SYNCED:
    case RUNNER_BEGUN:
        return length == 0;
    case RUNNER_STDOUT:
    case RUNNER_STDERR:
        return length > 0;
    case RUNNER_GRANT:
        return length == 4;
    case RUNNER_RESULT:
        return length == 28;
    case RUNNER_FAILED:
        return length == 9;
    case RUNNER_PRIMED:
        return length >= 9 && length <= 9 + 256;
    case RUNNER_FINGERPRINT:
        return length == 2 + FINGERPRINT_BYTES;
    case RUNNER_PROGRAM:
        return length == 12;
    case RUNNER_CONTENT:
        return true;
    default:
        return false;
    }
}

static void check_output(int number, uint32_t id, const unsigned char *payload, size_t length)
{
    int pipe = PIPE_STDOUT + number;
    bool continues = told.streams[number].epoch == told.epoch && told.streams[number].id == id;
    size_t place = continues ? told.streams[number].next
                             : (size_t)(unsigned char)(payload[0] - written_byte(pipe, 0));
    for (size_t i = 0; i < length; i++)
        MUST(payload[i] == written_byte(pipe, place + i));
    told.streams[number].epoch = told.epoch;
    told.streams[number].id = id;
    told.streams[number].next = place + length;
}

static void on_frame(uint8_t type, uint32_t id, const unsigned char *payload, size_t length)
{
    MUST(is_known(type, length));
    if (type == RUNNER_STDOUT || type == RUNNER_STDERR || type == RUNNER_RESULT)
        MUST(told.ended_epoch != told.epoch || told.ended_id != id);
    if (type == RUNNER_STDOUT || type == RUNNER_STDERR)
        check_output(type == RUNNER_STDERR, id, payload, length);
    if (type == RUNNER_RESULT) {
        told.ended_epoch = told.epoch;
        told.ended_id = id;
    }
    if (type == RUNNER_PROGRAM)
        told.content_left = load_u64(payload + 4);
    if (type == RUNNER_CONTENT) {
        MUST(length <= told.content_left && (length > 0 || told.content_left == 0));
        told.content_left -= length;
    }
    if (type == RUNNER_PRIMED) /* whoever asked is there still */
        MUST(id - told.first_id < 1 << 16);
    if (type == RUNNER_ACK) {
        told.epoch++;
        told.first_id = id;
        MUST(load_u32(payload) == id && payload[NONCE_BYTES] == PROTOCOL_VERSION);
        told.last_acknowledged = memcmp(payload, LAST_NONCE, NONCE_BYTES) == 0;
    }
    if (type == RUNNER_SYNCED && told.last_acknowledged && id == load_u32(LAST_NONCE))
        told.last_synced = true;
}

static void on_told(const unsigned char *bytes, size_t length)
{
    told.taken = kernel.clock;
    while (length > 0) {
        size_t whole = told.got < HEADER_BYTES ? HEADER_BYTES
                                               : FRAME_BYTES(load_u32(told.bytes + 5));
        MUST(whole <= sizeof told.bytes);
        size_t piece = whole - told.got < length ? whole - told.got : length;
        memcpy(told.bytes + told.got, bytes, piece);
        told.got += piece;
        bytes += piece;
        length -= piece;
        if (told.got == whole && whole > HEADER_BYTES) {
            MUST(told.bytes[whole - 1] == 0);
            on_frame(told.bytes[0], load_u32(told.bytes + 1), told.bytes + HEADER_BYTES,
                     whole - FRAME_BYTES(0));
            told.got = 0;
        }
    }
}

/* ---- what clients say ---- */

static void send_frame(uint8_t type, uint32_t id, const void *payload, size_t length, uint8_t end)
{
    unsigned char head[HEADER_BYTES] = {type};
    store_u32(head + 1, id);
    store_u32(head + 5, (uint32_t)length);
    client_sends(head, sizeof head);
    client_sends(payload, length);
    client_sends(&end, 1);
}

static void send_hello(const unsigned char nonce[NONCE_BYTES], size_t length)
{
    unsigned char bytes[HELLO_BYTES] = {0};
    for (size_t i = 0; i < TOKEN_BYTES; i++)
        sscanf(TOKEN_TEXT + strlen(TOKEN_VARIABLE) + 2 * i, "%2hhx", bytes + i);
    memcpy(bytes + TOKEN_BYTES, nonce, NONCE_BYTES);
    client_sends(bytes, length < sizeof bytes ? length : sizeof bytes);
}

static void say_hello(void)
{
    unsigned char nonce[NONCE_BYTES];
    unsigned seed = take_u8();
    for (unsigned i = 0; i < NONCE_BYTES; i++)
        nonce[i] = (unsigned char)(1 + (seed + i * 3) % 255);
    if (seed == 255)
        memset(nonce, 255, sizeof nonce); /* the next run's id is 0 */
    send_hello(nonce, take_u8() % 40 + HELLO_BYTES - 10);
}

static uint32_t some_run_id(void)
{
    uint8_t choice = take_u8();
    if (choice < 192)
        return talk.id + choice / 96;
    return talk.id + (uint32_t)(int8_t)choice;
}

static void say_fetch(uint32_t id)
{
    unsigned char bytes[FINGERPRINT_BYTES + 8];
    memset(bytes, 7, FINGERPRINT_BYTES);
    store_u64(bytes + FINGERPRINT_BYTES, take_u16() * 16);
    send_frame(CLIENT_FETCH, id, bytes, sizeof bytes, 0);
}

static void say_frame(void)
{
    static const uint8_t TYPES[] = {CLIENT_FILE, CLIENT_FILE_DATA, CLIENT_SYNC, CLIENT_EXEC,
                                    CLIENT_STDIN, CLIENT_STDIN_EOF, CLIENT_KILL, 'z',
                                    CLIENT_STANDBY};
    static const uint8_t OF_PROGRAMS[] = {CLIENT_FINGERPRINT, CLIENT_FETCH, CLIENT_PROGRAM};
    uint8_t choice = take_u8();
    uint8_t type = choice < 240 ? TYPES[choice % sizeof TYPES] : OF_PROGRAMS[choice % 3];
    uint32_t id = some_run_id();
    if (choice >= 248) {
        say_fetch(id);
        return;
    }
    uint8_t end = take_u8() == 255;
    size_t length = take_u8();
    const uint8_t *payload = take(&length);
    send_frame(type, id, payload, length, end);
}

static void say_file(void)
{
    unsigned char bytes[4 + 255] = {0, 0, 1, 0xa4};
    uint32_t id = some_run_id();
    size_t length = take_u8();
    const uint8_t *path = take(&length);
    memcpy(bytes + 4, path, length);
    send_frame(CLIENT_FILE, id, bytes, 4 + length, 0);
}

static void say_exec(void)
{
    unsigned char bytes[EXEC_HEAD_BYTES + 9] = {0};
    size_t wall = take_u16();
    store_u32(bytes, (uint32_t)wall * 16);
    store_u64(bytes + 4, take_u16() * 8);
    store_u64(bytes + 12, take_u16() * 8);
    bytes[21] = 1;
    bytes[23] = 1;
    memcpy(bytes + EXEC_HEAD_BYTES, "/\0a\0A=b", 8);
    bytes[EXEC_HEAD_BYTES + 8] = wall & (OPTION_CUT | OPTION_CLEAR);
    send_frame(CLIENT_EXEC, some_run_id(), bytes, sizeof bytes - (wall & 4 ? 1 : 0), 0);
}

/* The program that say_exec() asks for, unless it is another. */
static void say_standby(void)
{
    unsigned char bytes[4 + EXEC_HEAD_BYTES + 8] = {0};
    uint8_t what = take_u8();
    bytes[0] = what & 1 ? STANDBY_ONCE : STANDBY_FORK;
    bytes[1] = 'm';
    bytes[3 + 21] = 1;
    bytes[3 + 23] = 1;
    memcpy(bytes + 3 + EXEC_HEAD_BYTES, what < 240 ? "/\0a\0A=b" : "/\0b\0A=b", 8);
    send_frame(CLIENT_STANDBY, some_run_id(), bytes, sizeof bytes - 1, 0);
}

static void say_much(void)
{
    static unsigned char filling[5 * 65536];
    uint8_t type = take_u8() & 1 ? CLIENT_FILE_DATA : CLIENT_STDIN;
    uint32_t id = some_run_id();
    send_frame(type, id, filling, take_u16() * 5, 0);
}

/* Between the frames, or in the middle of one; whole, cut or with an end that is none. */
static void say_look(void)
{
    unsigned char bytes[QUERY_BYTES(255)] = {0};
    memcpy(bytes, query_token, TOKEN_BYTES);
    memset(bytes + TOKEN_BYTES, 'n', NONCE_BYTES);
    uint8_t how = take_u8();
    size_t length = take_u8();
    const uint8_t *path = take(&length);
    bytes[TOKEN_BYTES + NONCE_BYTES] = QUERY_LIST;
    bytes[QUERY_HEAD_BYTES - 1] = (unsigned char)length;
    memcpy(bytes + QUERY_HEAD_BYTES, path, length);
    bytes[QUERY_BYTES(length) - 1] = how == 255;
    client_sends(bytes, how >= 192 ? QUERY_BYTES(length) : (size_t)how % QUERY_BYTES(length));
}

static void say_anything(void)
{
    size_t length = take_u8();
    if (length == 255) {
        say_look();
        return;
    }
    const uint8_t *bytes = take(&length);
    client_sends(bytes, length);
}

/* ---- what programs do ---- */

static void program_writes(void)
{
    int pipe = take_u8() & 1 ? PIPE_STDOUT : PIPE_STDERR;
    size_t length = take_u16(), room = PIPE_ROOM - program.waiting[pipe];
    if (nobody_lives() || program.shut[pipe])
        return;
    length = length < room ? length : room;
    program.waiting[pipe] += length;
    program.written[pipe] += length;
}

static void program_reads_or_shuts(void)
{
    uint8_t what = take_u8();
    if (what >= 224)
        program.shut[what % 3] = true;
    else
        program.stdin_room += take_u16();
}

static void reader_changes(uint8_t how)
{
    kernel.reader_gone |= how == 254;
    kernel.to_client = how & 1 ? TO_CLIENT_ENDLESS : 0;
}

static void program_is_no_program(void)
{
    program.failure = take_u8();
    if (program.main_lives && program.failure)
        program.waiting[PIPE_FAILURE] = sizeof program.failure;
    program_ends(127 << 8);
}

static void some_call_fails(int after)
{
    kernel.fail_next = take_u8() & 1 ? take_u8() % 64 : 0;
    kernel.fail_after = after > 6 ? 2 * after - 1 : after; /* as far as an interpreter's start */
}

static void program_forks(void)
{
    if (!nobody_lives() && program.others < 100)
        program.others += take_u8() % 4;
}

/* ---- what waits for a program ---- */

static void says(const struct waiter *waiter, const char *text)
{
    typeof(&*channel) into = &channel[waiter->channel];
    size_t length = strlen(text);
    if (length > sizeof into->said - into->count)
        length = sizeof into->said - into->count;
    memcpy(into->said + into->count, text, length);
    into->count += length;
}

/* The child has the parent's end of the socket beside the parent, until that goes on. */
static void fork_child(struct waiter *parent)
{
    struct waiter *child = new_waiter(parent->asked[0], parent->sets[0]);
    parent->kept = parent->asked[0];
    parent->asks--;
    memmove(parent->asked, parent->asked + 1, sizeof parent->asked - sizeof *parent->asked);
    memmove(parent->sets, parent->sets + 1, sizeof parent->sets - sizeof *parent->sets);
    if (child)
        child->forked = true;
    else
        waiter_dies(parent);
}

static void parent_goes_on(struct waiter *parent)
{
    static const char *const WORDS[] = {"D", "R"};
    parent->kept = -1;
    if (parent->words < 2)
        says(parent, WORDS[parent->words++]);
    else if (parent->asks > 0)
        fork_child(parent);
}

/* It has an order, and the runner has taken it for the run. */
static void becomes_program(struct waiter *child)
{
    says(child, "G");
    child->state = NOBODY;
    program_begins(child->pid, child->set);
}

static void child_goes_on(struct waiter *child)
{
    char word[16] = "R";
    bool heard = false;
    for (int fd = FIRST_FD; fd < FDS; fd++)
        heard |= kernel.kind[fd] == SOCKET && kernel.pipe_of[fd] == child->channel &&
                 !kernel.far_end[fd];
    if (!heard) { /* its order will never come */
        waiter_dies(child);
    } else if (child->words++ == 0) {
        if (child->forked)
            snprintf(word, sizeof word, "R%d", child->pid);
        says(child, word);
    } else if (channel[child->channel].unread > 0 && !child->odd) {
        becomes_program(child);
    }
}

/* But neither another process's number nor that it is the program: no other process can say that. */
static void says_what_is_no_word(struct waiter *waiter)
{
    char word[2] = {(char)take_u8()};
    waiter->odd = true;
    says(waiter, strchr("G0123456789", *word) ? "?" : word);
}

static void waiter_acts(uint8_t what)
{
    struct waiter *all[WAITERS];
    size_t count = 0;
    for (int i = 0; i < WAITERS; i++)
        if (waiters[i].state == LIVES && !waiters[i].killed && !waiters[i].stopped)
            all[count++] = &waiters[i];
    if (count == 0)
        return;
    struct waiter *one = all[what / 16 % count];
    switch (what % 16) {
    default: one->forks ? parent_goes_on(one) : child_goes_on(one); break;
    case 13: says_what_is_no_word(one); break;
    case 14: says(one, "C"); waiter_dies(one); break;
    case 15: waiter_dies(one); break;
    }
}

/* ---- what happens ---- */

static void last_client_comes(void)
{
    kernel.last_words = true;
    program.stubborn = false;
    kernel.fail_next = 0;
    kernel.pieces = 0;
    kernel.to_client = TO_CLIENT_ENDLESS;
    send_hello(LAST_NONCE, HELLO_BYTES);
    send_frame(CLIENT_SYNC, load_u32(LAST_NONCE), NULL, 0, 0);
}

static bool next_event(void)
{
    if (left_of_input() == 0) {
        if (kernel.last_words && !run_active())
            kernel.client_gone = true;
        else if (!kernel.last_words)
            last_client_comes();
        else
            return false;
        return true;
    }
    uint8_t what = take_u8();
    if (what >= 224) {
        what % 4 == 0 ? say_standby() : waiter_acts(take_u8());
        return true;
    }
    switch (what % 16) {
    case 0: say_anything(); break;
    case 1: say_hello(); break;
    case 2: say_frame(); break;
    case 3: say_exec(); break;
    case 4: say_much(); break;
    case 5: say_file(); break;
    case 6: program_writes(); break;
    case 7: program_reads_or_shuts(); break;
    case 8: program_ends((int)(take_u8() & 1 ? take_u8() << 8 : take_u8() & 31)); break;
    case 9: program_forks(); break;
    case 10: program.stubborn = take_u8() & 1; break;
    case 11: kernel.clock += (int64_t)take_u16() * 200000000 / (1 + take_u8()); break;
    case 12: kernel.to_client += take_u16() & 0x7fff; break;
    case 13: reader_changes(take_u8()); break;
    case 14: kernel.piece = 1 + take_u16(); kernel.pieces = 50; break;
    case 15: program_is_no_program(); some_call_fails(what / 16); break;
    }
    return true;
}

/* At the end of each turn of the loop, for which time stands still. */
static void look_for_movement(void)
{
    if (still.running || told.taken == kernel.clock || talk.received == kernel.clock)
        still.since = kernel.clock;
    still.running = run_deadline_ns() >= 0;
}

static bool idle_for_long(void)
{
    return !still.running && kernel.clock >= still.since + IDLE_SECONDS * (int64_t)1000000000;
}

static int count_kept(const int *fds, int count)
{
    int kept = 0;
    for (int i = 0; i < count; i++)
        kept += fds[i] >= 0;
    return kept;
}

static int pipes_of_run(void)
{
    return count_kept(&run.stdin_fd, 1) + count_kept(&run.failure_fd, 1) +
           count_kept(&run.streams[0].fd, 1) + count_kept(&run.streams[1].fd, 1) +
           count_kept(run.program_ends, 3);
}

static void check_standby(void)
{
    bool by_itself = run_active() && run.main_reaped && run.cause == BY_ITSELF && !run.abandoned;
    MUST(!by_itself || kernel.program_reaped == run.main);
    MUST(!run_active() || kernel.program_reaped != run.main || run.main_reaped);
    MUST(!run_active() || (standby.phase != STARTING && standby.phase != FORKING &&
                           standby.phase != READY));
    for (int i = 0; i < WAITERS; i++) {
        const struct waiter *one = &waiters[i];
        MUST(run_active() || one->state != LIVES || one->killed || !one->stopped);
        MUST(one->state != LIVES || !one->forks || one->killed || one->pid == standby.parent);
    }
}

static void check_at_rest(void)
{
    look_for_movement();
    MUST(!idle_for_long());
    int pipes = 0, sockets = 0, folders = 0;
    for (int fd = FIRST_FD; fd < FDS; fd++) {
        pipes += kernel.kind[fd] == PIPE;
        sockets += kernel.kind[fd] == SOCKET;
        folders += kernel.kind[fd] == FOLDER;
        MUST(kernel.kind[fd] != HOOK && (kernel.kind[fd] != SOCKET || !kernel.far_end[fd]));
    }
    MUST(pipes == pipes_of_run() + count_kept(&standby.next.pipes[0][0], 6));
    MUST(sockets == count_kept(&run.standby_fd, 1) + count_kept(&standby.control, 1) +
                        count_kept(&standby.next.socket, 1));
    MUST(run_active() || (pipes_of_run() == 0 && run.standby_fd < 0));
    MUST(folders == (file.folder >= 0 ? 2 : 1));
    MUST(kernel.listing == NULL);
    check_standby();
    MUST(in.start <= in.scanned && in.scanned <= in.end && in.end <= sizeof in.bytes);
    MUST(out.sent <= out.end && out.end <= sizeof out.bytes);
    MUST(run.fed <= run.fed_end && run.fed_end <= sizeof feed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char variable[sizeof TOKEN_TEXT], other[] = "PATH=/bin", folder[] = "/workspace";
    kernel_reset(data, size);
    runner_reset();
    memset(&told, 0, offsetof(typeof(told), bytes));
    told.got = 0;
    memset(&told.epoch, 0, sizeof told - offsetof(typeof(told), epoch));
    told.epoch = 1;
    memset(&still, 0, sizeof still);
    memcpy(variable, TOKEN_TEXT, sizeof variable);
    kernel.environment[0] = other;
    kernel.environment[1] = variable;
    char seconds[16];
    snprintf(seconds, sizeof seconds, "%d", IDLE_SECONDS);
    char *argv[] = {(char[]){"runner"}, (char[]){"serve"}, folder, seconds, NULL};
    kernel.counter_text = (const unsigned char *)"oom 0\noom_kill 0\n";
    kernel.counter_length = 17;
    if (setjmp(kernel.end) == 0)
        kernel.exit_code = runner_main(4, argv);
    MUST(variable[strlen(TOKEN_VARIABLE)] == 0);
    if (kernel.exit_code == EXIT_UNCLEAN)
        MUST(run_unclean());
    else
        MUST(kernel.exit_code == EXIT_DONE);
    look_for_movement();
    if (kernel.exit_code == EXIT_DONE && !kernel.client_gone && !kernel.reader_gone)
        MUST(idle_for_long());
    if (kernel.last_words && kernel.client_gone && !kernel.reader_gone)
        MUST(told.last_synced && told.got == 0);
    return 0;
}
