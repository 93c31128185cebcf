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
#include <sys/socket.h>
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

enum kind { CLOSED, FOLDER, REGULAR, HOOK, SIGNALS, COUNTER, PIPE, SOCKET };
enum { FDS = 64, FIRST_FD = 10, PIPE_ROOM = 64 * 1024, TO_CLIENT_ENDLESS = 1 << 30 };
enum { CLIENT_ROOM = 1 << 20, LAST_WORDS = 256 }; /* unread, at most */
enum { PIPE_STDIN, PIPE_STDOUT, PIPE_STDERR, PIPE_FAILURE };
enum { WAITERS = 24, CHANNELS = 256, ASKS = 4, FIRST_PID = 1000, OTHER_PID = 900 };

static struct {
    enum kind kind[FDS];
    int pipe_of[FDS];
    int set_of[FDS];  /* of a pipe: three are made for each process */
    bool far_end[FDS]; /* of a pipe: where it is written; of a socket: the other process's */
    int set, pipes_in_set, complete_set;
    int channels; /* of `channel`, in use */
    pid_t last_pid, program_reaped;
    bool hook; /* of an interpreter that forks: it is there until that has read it */
    DIR *listing;
    size_t listed, list_length;
    pid_t list[WAITERS + 8];
    int64_t clock;
    int fail_next; /* errno of a call that can fail, 0: of none */
    int fail_after; /* so many that succeed */
    unsigned char from_client[CLIENT_ROOM + LAST_WORDS];
    size_t client_at, client_end;
    size_t piece, pieces; /* so many reads get so many bytes at most */
    bool client_gone, reader_gone, last_words;
    size_t to_client; /* bytes that stdout takes before it would block */
    size_t file_left; /* of the one file that is read */
    const unsigned char *counter_text;
    size_t counter_length;
    char *environment[64];
    jmp_buf end;
    int exit_code;
} kernel;

/* One program at a time, and what it has started. */
static struct {
    pid_t pid;
    int set;
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

/* Processes that wait for a program, or fork those that do. */
struct waiter {
    enum { NOBODY, LIVES, DEAD } state; /* dead: a zombie */
    pid_t pid;
    bool forks, forked, killed, stopped;
    bool odd; /* it has said what is no word */
    unsigned words; /* it has said so many */
    int channel, set;
    int asked[ASKS], sets[ASKS], asks; /* channels and sets that it was sent, for a child each */
    int kept;                          /* the channel of its last child, which it has not yet closed */
};
static struct waiter waiters[WAITERS];

static struct {
    char said[16];
    size_t count;
    size_t unread; /* bytes that the other process has not read */
    bool reset;
} channel[CHANNELS];

static void on_told(const unsigned char *bytes, size_t length); /* what the client gets */
static bool standby_forks(void); /* whether the interpreter that is started is such a one */
static bool next_event(void); /* the input's next step; false: it has ended */
static void check_at_rest(void);

static int failure_due(void)
{
    int error = kernel.fail_after > 0 ? 0 : kernel.fail_next;
    kernel.fail_after -= kernel.fail_after > 0;
    kernel.fail_next = error ? 0 : kernel.fail_next;
    errno = error;
    return error;
}

static int fd_open(enum kind kind, int pipe)
{
    for (int fd = FIRST_FD; fd < FDS; fd++)
        if (kernel.kind[fd] == CLOSED) {
            kernel.kind[fd] = kind;
            kernel.pipe_of[fd] = pipe;
            kernel.set_of[fd] = 0;
            kernel.far_end[fd] = false;
            return fd;
        }
    wrong(__FILE__, __LINE__, "descriptors aren't lost");
}

static void kernel_reset(const uint8_t *data, size_t size)
{
    memset(&kernel, 0, offsetof(typeof(kernel), from_client));
    memset(&kernel.client_at, 0, sizeof kernel - offsetof(typeof(kernel), client_at));
    memset(&program, 0, sizeof program);
    memset(waiters, 0, sizeof waiters);
    kernel.last_pid = FIRST_PID;
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

/* ---- processes that wait ---- */

static bool holds(const struct waiter *waiter, int number)
{
    bool held = waiter->channel == number || waiter->kept == number;
    for (int i = 0; i < waiter->asks; i++)
        held |= waiter->asked[i] == number;
    return waiter->state == LIVES && held;
}

/* Whether a process, or the runner itself, has the other end of its socket. */
static bool is_held(int number)
{
    for (int fd = FIRST_FD; fd < FDS; fd++)
        if (kernel.kind[fd] == SOCKET && kernel.pipe_of[fd] == number && kernel.far_end[fd])
            return true;
    for (int i = 0; i < WAITERS; i++)
        if (holds(&waiters[i], number))
            return true;
    return false;
}

static bool waits_with(int set)
{
    for (int i = 0; i < WAITERS; i++) {
        for (int ask = 0; ask < waiters[i].asks && waiters[i].state == LIVES; ask++)
            if (waiters[i].sets[ask] == set)
                return true;
        if (waiters[i].state == LIVES && !waiters[i].forks && waiters[i].set == set)
            return true;
    }
    return false;
}

static struct waiter *new_waiter(int number, int set)
{
    for (int i = 0; i < WAITERS; i++)
        if (waiters[i].state == NOBODY) {
            waiters[i] = (struct waiter){.state = LIVES, .pid = ++kernel.last_pid,
                                         .channel = number, .set = set, .kept = -1};
            return &waiters[i];
        }
    return NULL;
}

static struct waiter *waiter_of(pid_t pid)
{
    for (int i = 0; i < WAITERS; i++)
        if (waiters[i].state != NOBODY && waiters[i].pid == pid)
            return &waiters[i];
    return NULL;
}

static void waiter_dies(struct waiter *waiter)
{
    channel[waiter->channel].reset = channel[waiter->channel].unread > 0;
    waiter->state = DEAD;
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
    for (int i = 0; i < WAITERS; i++)
        if (waiters[i].state == LIVES && waiters[i].killed && !program.stubborn)
            waiter_dies(&waiters[i]);
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

/* Whether anybody has the other end of a pipe. */
static bool is_shut(int fd)
{
    int pipe = kernel.pipe_of[fd], set = kernel.set_of[fd];
    for (int other = FIRST_FD; other < FDS && pipe != PIPE_FAILURE; other++)
        if (kernel.kind[other] == PIPE && kernel.pipe_of[other] == pipe &&
            kernel.set_of[other] == set && kernel.far_end[other] != kernel.far_end[fd])
            return false;
    if (pipe != PIPE_FAILURE && (set != program.set || nobody_lives()) && waits_with(set))
        return false;
    return (pipe != PIPE_FAILURE && set != program.set) || nobody_lives() || program.shut[pipe];
}

static bool is_programs(int fd)
{
    return kernel.pipe_of[fd] == PIPE_FAILURE || kernel.set_of[fd] == program.set;
}

static ssize_t read_pipe(int fd, unsigned char *into, size_t length)
{
    int pipe = kernel.pipe_of[fd];
    size_t got = !is_programs(fd)                   ? 0
                 : program.waiting[pipe] < length ? program.waiting[pipe]
                                                    : length;
    if (got == 0) {
        errno = EAGAIN;
        return is_shut(fd) ? 0 : -1;
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
    if (kernel.kind[fd] == REGULAR) {
        size_t got = length < kernel.file_left ? length : kernel.file_left;
        memset(into, 'c', got);
        kernel.file_left -= got;
        return (ssize_t)got;
    }
    MUST(kernel.kind[fd] == PIPE);
    return read_pipe(fd, into, length);
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
    if (kernel.kind[fd] == HOOK)
        return (ssize_t)length;
    if (kernel.kind[fd] == REGULAR)
        return (ssize_t)(length > 1 ? length - length / 2 : length);
    MUST(kernel.kind[fd] == PIPE && kernel.pipe_of[fd] == PIPE_STDIN);
    bool unread = is_shut(fd);
    if (unread || !is_programs(fd) || program.stdin_room == 0) {
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

static bool is_open_pipe_of(int set)
{
    for (int fd = FIRST_FD; fd < FDS; fd++)
        if (kernel.kind[fd] == PIPE && kernel.set_of[fd] == set)
            return true;
    return false;
}

/* Three pipes in a row are one process's; one alone tells of a program that can't be executed. */
static int sim_pipe2(int ends[2], int flags)
{
    MUST(flags == O_CLOEXEC);
    if (failure_due())
        return -1;
    if (kernel.pipes_in_set == 0 || !is_open_pipe_of(kernel.set)) {
        kernel.set++;
        kernel.pipes_in_set = 0;
    }
    int pipe = kernel.pipes_in_set++;
    for (int i = 0; i < 2; i++) {
        ends[i] = fd_open(PIPE, pipe);
        kernel.set_of[ends[i]] = kernel.set;
        kernel.far_end[ends[i]] = i == 1;
    }
    if (kernel.pipes_in_set == 3) {
        kernel.complete_set = kernel.set;
        kernel.pipes_in_set = 0;
    }
    return 0;
}

/* The socket of an interpreter that is about to be started; -1: it is a program. */
static int channel_to_give(void)
{
    for (int fd = FIRST_FD; fd < FDS; fd++)
        if (kernel.kind[fd] == SOCKET && kernel.far_end[fd])
            return kernel.pipe_of[fd];
    return -1;
}

static void program_begins(pid_t pid, int set)
{
    MUST(nobody_lives());
    for (int i = 0; i < WAITERS; i++) /* what has an order may become a program as well */
        MUST(waiters[i].state != LIVES || waiters[i].forks || waiters[i].killed ||
             channel[waiters[i].channel].unread == 0);
    MUST(!kernel.hook);
    memset(&program, 0, offsetof(typeof(program), stubborn));
    memset(&program.killed, 0, sizeof program - offsetof(typeof(program), killed));
    program.main_lives = true;
    program.pid = pid;
    program.set = set;
}

static pid_t sim_fork(void)
{
    int number = channel_to_give();
    MUST(nobody_lives());
    for (int fd = FIRST_FD; fd < FDS && number < 0; fd++)
        if (kernel.kind[fd] == PIPE && kernel.pipes_in_set == 1 && kernel.set_of[fd] == kernel.set)
            kernel.pipe_of[fd] = PIPE_FAILURE;
    kernel.pipes_in_set = 0;
    if (failure_due())
        return -1;
    if (number >= 0) {
        struct waiter *waiter = new_waiter(number, kernel.complete_set);
        errno = EAGAIN;
        if (waiter)
            waiter->forks = standby_forks();
        return waiter ? waiter->pid : -1;
    }
    program_begins(++kernel.last_pid, kernel.complete_set);
    return program.pid;
}

static void signal_waiter(struct waiter *waiter, int number)
{
    waiter->killed |= number == SIGKILL;
    waiter->stopped = number != SIGCONT && (waiter->stopped || number == SIGSTOP);
}

/* A signal to one process never goes to a number that may be another's by now. */
static void signal_one(pid_t whom, int number)
{
    struct waiter *waiter = waiter_of(whom);
    MUST(waiter || (whom == program.pid && (program.main_lives || program.main_waits)) ||
         (whom == OTHER_PID && program.others + program.zombies > 0));
    if (waiter)
        signal_waiter(waiter, number);
    else if (number == SIGKILL)
        program.killed = !nobody_lives();
}

static int sim_kill(pid_t whom, int number)
{
    if (whom > 1) {
        signal_one(whom, number);
        die_if_killed();
        return 0;
    }
    MUST(whom == -1 && (number == SIGKILL || number == SIGSTOP));
    bool found = !nobody_lives();
    if (number == SIGKILL)
        program.killed = found;
    for (int i = 0; i < WAITERS; i++)
        if (waiters[i].state == LIVES) {
            signal_waiter(&waiters[i], number);
            found = true;
        }
    die_if_killed();
    return 0;
}

static pid_t sim_wait4(pid_t whom, int *status, int options, struct rusage *usage)
{
    MUST(whom == -1 && options == WNOHANG);
    memset(usage, 0, sizeof *usage);
    usage->ru_maxrss = 4096;
    *status = SIGKILL;
    bool waiting = false;
    for (int i = 0; i < WAITERS; i++) {
        if (waiters[i].state == DEAD) {
            waiters[i].state = NOBODY;
            return waiters[i].pid;
        }
        waiting |= waiters[i].state == LIVES;
    }
    if (program.zombies > 0) {
        program.zombies--;
        *status = 0;
        return OTHER_PID;
    }
    if (program.main_waits) {
        program.main_waits = false;
        *status = program.status;
        kernel.program_reaped = program.pid;
        return program.pid;
    }
    errno = ECHILD;
    return nobody_lives() && !waiting ? -1 : 0;
}

/* Waits until it is gone, however long that takes. */
static pid_t sim_waitpid(pid_t whom, int *status, int options)
{
    struct waiter *waiter = waiter_of(whom);
    MUST(waiter && (waiter->killed || waiter->state == DEAD) && !status && options == 0);
    if (waiter->state == LIVES)
        waiter_dies(waiter);
    waiter->state = NOBODY;
    return whom;
}

/* ---- sockets between the runner and what waits ---- */

static int sim_socketpair(int domain, int type, int protocol, int ends[2])
{
    MUST(domain == AF_UNIX && type & SOCK_CLOEXEC && protocol == 0);
    if (failure_due())
        return -1;
    int number = kernel.channels++ % CHANNELS;
    memset(&channel[number], 0, sizeof channel[number]);
    for (int i = 0; i < 2; i++) {
        ends[i] = fd_open(SOCKET, number);
        kernel.far_end[ends[i]] = i == 1;
    }
    return 0;
}

static int channel_of(int fd)
{
    MUST(fd >= FIRST_FD && fd < FDS && kernel.kind[fd] == SOCKET && !kernel.far_end[fd]);
    return kernel.pipe_of[fd];
}

static ssize_t sim_send(int fd, const void *bytes, size_t length, int flags)
{
    int number = channel_of(fd);
    (void)bytes;
    MUST(flags & MSG_NOSIGNAL && flags & MSG_DONTWAIT);
    if (failure_due())
        return -1;
    errno = EPIPE;
    if (!is_held(number))
        return -1;
    channel[number].unread += length;
    return (ssize_t)length;
}

static ssize_t sim_sendmsg(int fd, const struct msghdr *message, int flags)
{
    int fds[4], number = channel_of(fd);
    MUST(flags & MSG_NOSIGNAL && flags & MSG_DONTWAIT && message->msg_iov->iov_len == 1);
    memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(message)), sizeof fds);
    for (int i = 0; i < 3; i++)
        MUST(kernel.kind[fds[i]] == PIPE && kernel.far_end[fds[i]] == (i > 0) &&
             kernel.pipe_of[fds[i]] == i && kernel.set_of[fds[i]] == kernel.set_of[fds[0]]);
    MUST(kernel.kind[fds[3]] == SOCKET && kernel.far_end[fds[3]]);
    if (failure_due())
        return -1;
    for (int i = 0; i < WAITERS; i++)
        if (waiters[i].state == LIVES && waiters[i].channel == number) {
            struct waiter *parent = &waiters[i];
            errno = EAGAIN;
            if (parent->asks == ASKS)
                return -1;
            parent->asked[parent->asks] = kernel.pipe_of[fds[3]];
            parent->sets[parent->asks++] = kernel.set_of[fds[0]];
            return 1;
        }
    errno = EPIPE;
    return -1;
}

static ssize_t sim_recv(int fd, void *into, size_t length, int flags)
{
    int number = channel_of(fd);
    MUST(flags == MSG_DONTWAIT);
    size_t got = channel[number].count < length ? channel[number].count : length;
    if (got > 0) {
        memcpy(into, channel[number].said, got);
        memmove(channel[number].said, channel[number].said + got, channel[number].count - got);
        channel[number].count -= got;
        return (ssize_t)got;
    }
    bool reset = channel[number].reset, held = is_held(number);
    if (held || reset) {
        channel[number].reset &= held;
        errno = held ? EAGAIN : ECONNRESET;
        return -1;
    }
    return 0;
}

/* ---- /proc ---- */

static DIR *sim_opendir(const char *path)
{
    MUST(kernel.listing == NULL);
    if (failure_due())
        return NULL;
    size_t count = 0;
    kernel.list[count++] = 1;
    for (int i = 0; i < WAITERS && strcmp(path, "/proc") == 0; i++)
        if (waiters[i].state != NOBODY)
            kernel.list[count++] = waiters[i].pid;
    if (program.main_lives || program.main_waits)
        kernel.list[count++] = program.pid;
    if (program.others + program.zombies > 0)
        kernel.list[count++] = OTHER_PID;
    kernel.listed = 0;
    kernel.list_length = count;
    return kernel.listing = (DIR *)&kernel.list;
}

static struct dirent *sim_readdir(DIR *listing)
{
    static struct dirent entry;
    MUST(listing == kernel.listing);
    if (kernel.listed == kernel.list_length)
        return NULL;
    snprintf(entry.d_name, sizeof entry.d_name, "%d", kernel.list[kernel.listed++]);
    return &entry;
}

static int sim_closedir(DIR *listing)
{
    MUST(listing == kernel.listing);
    kernel.listing = NULL;
    return 0;
}

static int sim_cpu_clock(pid_t process, clockid_t *clock)
{
    MUST(waiter_of(process));
    *clock = CLOCK_PROCESS_CPUTIME_ID;
    return failure_due();
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
    kernel.hook |= strstr(path, ".py") != NULL && strncmp(path, "/var/tmp", 8) == 0;
    return fd_open(flags & O_PATH                     ? FOLDER
                   : strncmp(path, "/sys", 4) == 0     ? COUNTER
                   : strncmp(path, "/var/tmp", 8) == 0 ? HOOK
                                                       : REGULAR,
                   0);
}

static int sim_unlink(const char *path)
{
    kernel.hook &= strstr(path, ".py") == NULL;
    return 0;
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

static int sim_fstat(int fd, struct stat *about)
{
    MUST(kernel.kind[fd] == REGULAR);
    kernel.file_left = (take_u8() & 1 ? 1 : 70000) + take_u16() * 8;
    about->st_mode = S_IFREG | 0755;
    about->st_size = (off_t)kernel.file_left;
    if (kernel.file_left % 7 == 6)
        kernel.file_left--; /* it shrinks */
    return failure_due() ? -1 : 0;
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

static bool any_waiter_is_dead(void)
{
    for (int i = 0; i < WAITERS; i++)
        if (waiters[i].state == DEAD)
            return true;
    return false;
}

static bool is_ready(int fd)
{
    if (fd == STDIN_FILENO)
        return kernel.client_gone || kernel.client_at < kernel.client_end;
    if (fd == STDOUT_FILENO)
        return kernel.reader_gone || kernel.to_client > 0;
    MUST(fd >= FIRST_FD && fd < FDS && kernel.kind[fd] != CLOSED);
    if (kernel.kind[fd] == SIGNALS)
        return program.main_waits || program.zombies > 0 || any_waiter_is_dead();
    int pipe = kernel.pipe_of[fd];
    if (kernel.kind[fd] == SOCKET)
        return channel[pipe].count > 0 || !is_held(pipe);
    if (is_shut(fd))
        return true;
    if (!is_programs(fd))
        return false;
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
    bool in_between = count == 1; /* in the middle of something else */
    if (!in_between)
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
        if ((in_between && left_of_input() == 0) || !next_event())
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

void store_u32(unsigned char *at, uint32_t value)
{
    memcpy(at, &value, sizeof value);
}

void store_u64(unsigned char *at, uint64_t value)
{
    memcpy(at, &value, sizeof value);
}

#include "clock.c"
#include "workspace.c"
#include "inputs.c"

static bool standby_forks(void)
{
    return false;
}
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
#define socketpair(...) sim_socketpair(__VA_ARGS__)
#define send(...) sim_send(__VA_ARGS__)
#define sendmsg(...) sim_sendmsg(__VA_ARGS__)
#define recv(...) sim_recv(__VA_ARGS__)
#define opendir(...) sim_opendir(__VA_ARGS__)
#define readdir(...) sim_readdir(__VA_ARGS__)
#define closedir(...) sim_closedir(__VA_ARGS__)
#define clock_getcpuclockid(...) sim_cpu_clock(__VA_ARGS__)
#define mkdir(path, mode) (failure_due() ? -1 : nothing_happens(0, path, mode))
#define rmdir(path) nothing_happens(0, path)
#define sigaction(number, ...) nothing_happens(number)
#define kill(...) sim_kill(__VA_ARGS__)
#define waitpid(...) sim_waitpid(__VA_ARGS__)
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
#define fstat(fd, about) sim_fstat(fd, about)
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
#define unlink(path) sim_unlink(path)
#define getrandom(...) (-1)
#define main(...) runner_main(__VA_ARGS__)
#include "clock.c"
#include "limits.c"
#include "protocol.c"
#include "workspace.c"
#include "launch.c"
#include "standby.c"
#include "run.c"
#include "compiled.c"
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

/* What folders hold is in fuzz_files.c. */
bool inputs_fingerprint(unsigned char digest[FINGERPRINT_BYTES], bool without_program)
{
    (void)without_program;
    memset(digest, 7, FINGERPRINT_BYTES);
    return !failure_due();
}

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

static bool standby_forks(void)
{
    return standby.kind == STANDBY_FORK;
}

/* A process that has just begun. The buffers' bytes stay: clearing them would take most of the time. */
static void runner_reset(void)
{
    memset(&talk, 0, sizeof talk);
    memset(&in.start, 0, sizeof in - offsetof(typeof(in), start));
    memset(&out.sent, 0, sizeof out - offsetof(typeof(out), sent));
    memset(&run, 0, sizeof run);
    sending.fd = -1;
    run.stdin_fd = run.failure_fd = run.streams[0].fd = run.streams[1].fd = run.standby_fd = -1;
    memset(run.program_ends, -1, sizeof run.program_ends);
    memset(&standby, 0, offsetof(typeof(standby), order));
    standby.control = standby.next.socket = -1;
    memset(standby.next.pipes, -1, sizeof standby.next.pipes);
    file.fd = file.folder = root = -1;
    memset(counters, -1, sizeof counters);
    memset(&usage, 0, sizeof usage);
}
#endif

#endif
