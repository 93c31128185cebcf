/*
 * The kernel as the fuzzed runner sees it. The runner's own sources are compiled unchanged after
 * this file: every call that would leave the process is the simulated one below, so that nothing
 * here can fork, signal or write for real, time passes only when an input says so, and what the
 * runner does can be checked: it closes nothing twice and keeps nothing open.
 */
#ifndef KERNEL_H
#define KERNEL_H
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MUST(what) ((what) ? (void)0 : wrong(__FILE__, __LINE__, #what))

static _Noreturn void wrong(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: it must hold that %s\n", file, line, what);
    abort();
}

/* ---- the input that decides everything ---- */

static struct {
    const uint8_t *at, *end;
} input;

static size_t left_of_input(void)
{
    return (size_t)(input.end - input.at);
}

static uint8_t take_u8(void)
{
    return input.at < input.end ? *input.at++ : 0;
}

static size_t take_u16(void)
{
    size_t high = take_u8();
    return high << 8 | take_u8();
}

static const uint8_t *take(size_t *count)
{
    const uint8_t *begin = input.at;
    if (*count > left_of_input())
        *count = left_of_input();
    input.at += *count;
    return begin;
}

/* ---- descriptors, pipes, processes ---- */

enum kind { CLOSED, FOLDER, REGULAR, SIGNALS, COUNTER, PIPE };
enum { FDS = 64, FIRST_FD = 10, PIPE_ROOM = 64 * 1024, TO_CLIENT_ENDLESS = 1 << 30 };
enum { CLIENT_ROOM = 1 << 20, LAST_WORDS = 256 }; /* unread, at most */
enum { PIPE_STDIN, PIPE_STDOUT, PIPE_STDERR, PIPE_FAILURE };

static struct {
    enum kind kind[FDS];
    int pipe_of[FDS];
    size_t pipes_made;
    int64_t clock;
    int fail_next; /* errno of the next call that can fail, 0: none */
    unsigned char from_client[CLIENT_ROOM + LAST_WORDS];
    size_t client_at, client_end;
    size_t piece, pieces; /* so many reads get so many bytes at most */
    bool client_gone, reader_gone, last_words;
    size_t to_client; /* bytes that stdout takes before it would block */
    const unsigned char *counter_text;
    size_t counter_length;
    char *environment[64];
    jmp_buf end;
    int exit_code;
} kernel;

/* One program at a time, and what it has started. */
static struct {
    bool main_lives, main_waits; /* waits: a zombie */
    int others, zombies;
    bool stubborn, killed; /* stubborn: what can't be killed for now */
    int status;
    size_t waiting[4];     /* unread bytes in a pipe */
    size_t written[4];     /* in all */
    size_t stdin_room;
    bool shut[4]; /* the program's end of a pipe is closed */
    int failure;
} program;

static void on_told(const unsigned char *bytes, size_t length); /* what the client gets */
static bool next_event(void); /* the input's next step; false: it has ended */
static void check_at_rest(void);

static int failure_due(void)
{
    int error = kernel.fail_next;
    kernel.fail_next = 0;
    errno = error;
    return error;
}

static int fd_open(enum kind kind, int pipe)
{
    for (int fd = FIRST_FD; fd < FDS; fd++)
        if (kernel.kind[fd] == CLOSED) {
            kernel.kind[fd] = kind;
            kernel.pipe_of[fd] = pipe;
            return fd;
        }
    wrong(__FILE__, __LINE__, "descriptors aren't lost");
}

static void kernel_reset(const uint8_t *data, size_t size)
{
    memset(&kernel, 0, offsetof(typeof(kernel), from_client));
    memset(&kernel.client_at, 0, sizeof kernel - offsetof(typeof(kernel), client_at));
    memset(&program, 0, sizeof program);
    input.at = data;
    input.end = data + size;
    kernel.clock = 1000000000;
}

static void client_sends(const void *bytes, size_t length)
{
    if (kernel.client_at > 0) {
        memmove(kernel.from_client, kernel.from_client + kernel.client_at,
                kernel.client_end - kernel.client_at);
        kernel.client_end -= kernel.client_at;
        kernel.client_at = 0;
    }
    size_t room = CLIENT_ROOM + (kernel.last_words ? LAST_WORDS : 0) - kernel.client_end;
    if (length > room)
        length = room;
    if (length == 0)
        return;
    memcpy(kernel.from_client + kernel.client_end, bytes, length);
    kernel.client_end += length;
}

static bool nobody_lives(void)
{
    return !program.main_lives && program.others == 0;
}

static void program_ends(int status)
{
    if (!program.main_lives)
        return;
    program.main_lives = false;
    program.main_waits = true;
    program.status = status;
}

static void die_if_killed(void)
{
    if (!program.killed || program.stubborn)
        return;
    program_ends(SIGKILL);
    program.zombies += program.others;
    program.others = 0;
    program.killed = false;
}

/* Byte `place` of what a program writes: the reader can tell lost and doubled ones. */
static unsigned char written_byte(int pipe, size_t place)
{
    return (unsigned char)(place + 101 * (size_t)pipe);
}

static ssize_t read_pipe(int pipe, unsigned char *into, size_t length)
{
    size_t got = program.waiting[pipe] < length ? program.waiting[pipe] : length;
    if (got == 0) {
        errno = EAGAIN;
        return nobody_lives() || program.shut[pipe] ? 0 : -1;
    }
    if (pipe == PIPE_FAILURE) {
        got = got < sizeof program.failure ? got : sizeof program.failure;
        memcpy(into, &program.failure, got);
    } else {
        size_t place = program.written[pipe] - program.waiting[pipe];
        for (size_t i = 0; i < got; i++)
            into[i] = written_byte(pipe, place + i);
    }
    program.waiting[pipe] -= got;
    return (ssize_t)got;
}

static ssize_t sim_pread(int fd, void *into, size_t length, off_t from);

static ssize_t sim_read(int fd, void *into, size_t length)
{
    if (fd == STDIN_FILENO) {
        size_t got = kernel.client_end - kernel.client_at;
        got = got < length ? got : length;
        if (kernel.pieces > 0 && kernel.pieces-- && got > kernel.piece)
            got = kernel.piece;
        if (got == 0 && !kernel.client_gone) {
            errno = EAGAIN;
            return -1;
        }
        memcpy(into, kernel.from_client + kernel.client_at, got);
        kernel.client_at += got;
        return (ssize_t)got;
    }
    MUST(fd >= FIRST_FD && fd < FDS && kernel.kind[fd] != CLOSED);
    if (failure_due())
        return -1;
    if (kernel.kind[fd] == SIGNALS)
        return sizeof(struct signalfd_siginfo);
    if (kernel.kind[fd] == COUNTER)
        return sim_pread(fd, into, length, 0);
    MUST(kernel.kind[fd] == PIPE);
    return read_pipe(kernel.pipe_of[fd], into, length);
}

static ssize_t sim_write(int fd, const void *from, size_t length)
{
    if (fd == STDOUT_FILENO) {
        if (kernel.reader_gone || kernel.to_client == 0) {
            errno = kernel.reader_gone ? EPIPE : EAGAIN;
            return -1;
        }
        size_t wrote = length < kernel.to_client ? length : kernel.to_client;
        if (kernel.to_client != TO_CLIENT_ENDLESS)
            kernel.to_client -= wrote;
        on_told(from, wrote);
        return (ssize_t)wrote;
    }
    if (fd == -1) { /* no file is open */
        errno = EBADF;
        return -1;
    }
    MUST(fd >= FIRST_FD && fd < FDS && kernel.kind[fd] != CLOSED);
    if (failure_due())
        return -1;
    if (kernel.kind[fd] == REGULAR)
        return (ssize_t)(length > 1 ? length - length / 2 : length);
    MUST(kernel.kind[fd] == PIPE && kernel.pipe_of[fd] == PIPE_STDIN);
    bool unread = nobody_lives() || program.shut[PIPE_STDIN];
    if (unread || program.stdin_room == 0) {
        errno = unread ? EPIPE : EAGAIN;
        return -1;
    }
    size_t wrote = length < program.stdin_room ? length : program.stdin_room;
    program.stdin_room -= wrote;
    return (ssize_t)wrote;
}

static int sim_close(int fd)
{
    MUST(fd >= FIRST_FD && fd < FDS && kernel.kind[fd] != CLOSED);
    kernel.kind[fd] = CLOSED;
    return 0;
}

static int sim_pipe2(int ends[2], int flags)
{
    MUST(flags == O_CLOEXEC);
    if (failure_due())
        return -1;
    int pipe = (int)(kernel.pipes_made++ % 4);
    ends[0] = fd_open(PIPE, pipe);
    ends[1] = fd_open(PIPE, pipe);
    return 0;
}

static pid_t sim_fork(void)
{
    MUST(nobody_lives());
    kernel.pipes_made = 0;
    if (failure_due())
        return -1;
    memset(&program, 0, sizeof program);
    program.main_lives = true;
    return 1000;
}

static int sim_kill(pid_t whom, int number)
{
    MUST(whom == -1 && number == SIGKILL);
    program.killed = !nobody_lives();
    die_if_killed();
    return 0;
}

static pid_t sim_wait4(pid_t whom, int *status, int options, struct rusage *usage)
{
    MUST(whom == -1 && options == WNOHANG);
    memset(usage, 0, sizeof *usage);
    usage->ru_maxrss = 4096;
    if (program.zombies > 0) {
        program.zombies--;
        *status = 0;
        return 1001;
    }
    if (program.main_waits) {
        program.main_waits = false;
        *status = program.status;
        return 1000;
    }
    errno = ECHILD;
    return nobody_lives() ? -1 : 0;
}

static int sim_fcntl(int fd, int command, ...)
{
    if (command != F_DUPFD_CLOEXEC)
        return 0;
    MUST(kernel.kind[fd] == FOLDER);
    return failure_due() ? -1 : fd_open(FOLDER, 0);
}

static int sim_open(const char *path, int flags, ...)
{
    if (failure_due())
        return -1;
    return fd_open(flags & O_PATH ? FOLDER : strncmp(path, "/sys", 4) == 0 ? COUNTER : REGULAR, 0);
}

static int sim_openat(int folder, const char *name, int flags, ...)
{
    MUST(kernel.kind[folder] == FOLDER && *name && !strchr(name, '/') && flags & O_NOFOLLOW);
    return sim_open(name, flags);
}

static int sim_in_folder(int folder, const char *name)
{
    MUST(kernel.kind[folder] == FOLDER && *name && !strchr(name, '/'));
    return failure_due() ? -1 : 0;
}

static int sim_stat(int folder, const char *name, struct stat *about)
{
    about->st_mode = S_IFDIR | (*name & 1 ? 0755 : 0);
    return sim_in_folder(folder, name);
}

static ssize_t sim_pread(int fd, void *into, size_t length, off_t from)
{
    MUST(kernel.kind[fd] == COUNTER && from == 0);
    length = length < kernel.counter_length ? length : kernel.counter_length;
    memcpy(into, kernel.counter_text, length);
    return (ssize_t)length;
}

static int sim_clock(clockid_t clock, struct timespec *now)
{
    MUST(clock == CLOCK_MONOTONIC || clock == CLOCK_PROCESS_CPUTIME_ID);
    *now = (struct timespec){kernel.clock / 1000000000, kernel.clock % 1000000000};
    return 0;
}

static _Noreturn void sim_exit(int code)
{
    kernel.exit_code = code;
    longjmp(kernel.end, 1);
}

/* ---- the loop's only wait ---- */

static bool is_ready(int fd)
{
    if (fd == STDIN_FILENO)
        return kernel.client_gone || kernel.client_at < kernel.client_end;
    if (fd == STDOUT_FILENO)
        return kernel.reader_gone || kernel.to_client > 0;
    MUST(fd >= FIRST_FD && fd < FDS && kernel.kind[fd] != CLOSED);
    if (kernel.kind[fd] == SIGNALS)
        return program.main_waits || program.zombies > 0;
    int pipe = kernel.pipe_of[fd];
    if (nobody_lives() || program.shut[pipe])
        return true;
    return pipe == PIPE_STDIN ? program.stdin_room > 0 : program.waiting[pipe] > 0;
}

static int count_ready(struct pollfd *fds, nfds_t count)
{
    int ready = 0;
    for (nfds_t i = 0; i < count; i++) {
        fds[i].revents = fds[i].fd >= 0 && is_ready(fds[i].fd) ? fds[i].events : 0;
        ready += fds[i].revents != 0;
    }
    return ready;
}

/* Nothing but the input lets time pass, except what the runner waits for; a runner that asks again
 * and again without waiting for anything burns a processor. */
static int sim_poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    static int idle_turns;
    check_at_rest();
    kernel.clock += 10000;
    int64_t until = kernel.clock + (int64_t)timeout_ms * 1000000;
    for (int ready;;) {
        die_if_killed();
        ready = count_ready(fds, count);
        idle_turns = ready || timeout_ms > 0 ? 0 : idle_turns + 1;
        MUST(idle_turns < 100);
        if (ready || timeout_ms == 0)
            return ready;
        if (!next_event())
            kernel.clock = until;
        if (kernel.clock >= until)
            timeout_ms = 0;
    }
}

/* ---- from here on the runner's sources call these ---- */

#ifdef REAL_FILES
/* A real file system, and nothing of the runner but what writes to it. */
#include "runner.h"

bool memory_left(size_t bytes)
{
    (void)bytes;
    return true;
}

#include "workspace.c"
#else

static int nothing_happens(int first, ...)
{
    (void)first;
    return 0;
}

static char **sim_environ = kernel.environment;
#define environ sim_environ
#define read(...) sim_read(__VA_ARGS__)
#define write(...) sim_write(__VA_ARGS__)
#define close(...) sim_close(__VA_ARGS__)
#define fcntl(...) sim_fcntl(__VA_ARGS__)
#define pipe2(...) sim_pipe2(__VA_ARGS__)
#define fork() sim_fork()
#define kill(...) sim_kill(__VA_ARGS__)
#define wait4(...) sim_wait4(__VA_ARGS__)
#define poll(...) sim_poll(__VA_ARGS__)
#define clock_gettime(...) sim_clock(__VA_ARGS__)
#define signalfd(...) fd_open(SIGNALS, 0)
#define _exit(code) sim_exit(code)
#define pread(...) sim_pread(__VA_ARGS__)
#define open(...) sim_open(__VA_ARGS__)
#define openat(...) sim_openat(__VA_ARGS__)
#define unlinkat(folder, name, flags) sim_in_folder(folder, name)
#define mkdirat(folder, name, mode) sim_in_folder(folder, name)
#define fstatat(folder, name, about, flags) sim_stat(folder, name, about)
#define fchmodat(folder, name, mode, flags) sim_in_folder(folder, name)
#define renameat2(from, name, to, other, flags) sim_in_folder(from, name)
/* What changes this process, or belongs to a program, none of which is started here. */
#define dup2(from, to) nothing_happens(from, to)
#define execvp(file, argv) nothing_happens(0, file, argv)
#define prctl(...) nothing_happens(__VA_ARGS__)
#define sigprocmask(...) nothing_happens(__VA_ARGS__)
#define umask(mode) nothing_happens(mode)
#define syscall(...) nothing_happens(__VA_ARGS__)
#define setsid() nothing_happens(0)
#define chdir(path) nothing_happens(0, path)
#define chmod(path, mode) nothing_happens(0, path, mode)
#define fchmod(fd, mode) nothing_happens(fd, mode)
#define rename(from, to) nothing_happens(0, from, to)
#define unlink(path) nothing_happens(0, path)
#define getrandom(...) (-1)
#define main runner_main
#include "clock.c"
#include "limits.c"
#include "protocol.c"
#include "workspace.c"
#include "run.c"
#include "main.c"
#undef main

/* Queries are only cut out of the input here; workspace_query.c isn't included. */
static struct workspace_query last_query;

void query_begin(const struct workspace_query *query)
{
    last_query = *query;
}

bool query_due(void)
{
    return false;
}

void query_advance(void) {}

/* What is for gVisor alone, and a filter of system calls that are not made here, is left out. */
void guard_runner(void) {}
void gvisor_begin(void) {}

bool gvisor_watch(const char *workspace, char *const limits[4])
{
    (void)workspace, (void)limits;
    return true;
}

int64_t gvisor_due_ns(void)
{
    return -1;
}

bool gvisor_exceeded(int64_t now)
{
    (void)now;
    return false;
}

void gvisor_usage(uint64_t *cpu_ns, uint64_t *peak_bytes)
{
    (void)cpu_ns, (void)peak_bytes;
}

bool gvisor_figures(struct figures *figures)
{
    (void)figures;
    return false;
}

bool gvisor_confine(void)
{
    return true;
}

/* A process that has just begun. The buffers' bytes stay: clearing them would take most of the time. */
static void runner_reset(void)
{
    memset(&talk, 0, sizeof talk);
    memset(&in.start, 0, sizeof in - offsetof(typeof(in), start));
    memset(&out.sent, 0, sizeof out - offsetof(typeof(out), sent));
    memset(&run, 0, sizeof run);
    run.stdin_fd = run.failure_fd = run.streams[0].fd = run.streams[1].fd = -1;
    file.fd = file.folder = root = -1;
    memset(counters, -1, sizeof counters);
    memset(&usage, 0, sizeof usage);
}
#endif

#endif
