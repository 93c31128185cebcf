/*
 * A process that has started before its program is wanted: the interpreter runs, and its libraries
 * are loaded, when the client presses Run. It serves one run, and no program ran in it before.
 *
 * STANDBY_ONCE: one process, started while nothing else runs, that waits for its run (prestart.js).
 * STANDBY_FORK: an interpreter that never runs a program, the parent, forks one child ahead of each
 * run (prestart.py). The child's own parent has ended, so it is the runner's child like any program;
 * the interpreter outlives runs, and so may not be dumped: no program can read or change it.
 *
 * Nothing depends on it: when a run differs from what was prepared, or nothing is ready, or the child
 * finds that it can't be the same, the program is started as any other.
 */
#define _GNU_SOURCE
#include "runner.h"

#include "clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_NS (60 * (int64_t)1000000000)  /* for an interpreter and all its libraries */
#define FORK_NS (2 * (int64_t)1000000000)
#define ALMOST_READY_MS 250 /* so long a run waits for a child that is being forked */
#define MAX_FAILURES 3     /* in a row: then there is no standby any more */
#define MAX_ORDER (64 * 1024)
#define PARENT_SCORE "500" /* see oom_score_adj: after a program, before the runner */
#define CHILD_FD 3         /* the socket, in the process that waits */
#define REASON_BYTES 256
#define HOOK_NAME ".prestart"
#define HOOK_PARENT "/var/tmp"
#define HOOK_FOLDER HOOK_PARENT "/" HOOK_NAME

/* LOADING: the parent can't be read or changed any more, and outlives programs from now on. */
enum phase { OFF, ABSENT, STARTING, LOADING, LOADED, FORKING, READY };

static struct {
    enum standby_kind kind;
    enum phase phase;
    uint32_t id;        /* of the frame that asked for it */
    bool answered;      /* that frame */
    bool wanted;        /* one attempt for each run */
    int failures;
    pid_t parent, child;
    int control;        /* the parent's socket */
    int64_t deadline;   /* while it is waited for */
    uint64_t memory_before;
    struct standby_run next;
    const char *preload;
    char reason[REASON_BYTES]; /* its own, why it can't be ready */
    struct order order;
    unsigned char payload[MAX_ORDER];
} standby = {.control = -1, .next = {.socket = -1, .pipes = {{-1, -1}, {-1, -1}, {-1, -1}}}};

/* The files prestart.py and prestart.js, as the linker has put them here. */
#define EMBEDDED(name, file)                                                                       \
    __asm__(".section .rodata\n.global " #name "\n" #name ":\n.incbin \"" file "\"\n.global " #name   \
            "_end\n" #name "_end:\n.previous\n");                                                  \
    extern const char name[], name##_end[]
EMBEDDED(python_hook, "prestart.py");
EMBEDDED(node_hook, "prestart.js");

/* ---- the hook: a file that the interpreter reads before the program's ---- */

static const char *hook_file(void)
{
    return standby.kind == STANDBY_FORK ? HOOK_FOLDER "/sitecustomize.py"
                                        : HOOK_FOLDER "/prestart.js";
}

/* Once the interpreter has read it; but Node.js looks for it again in each worker thread. */
static void remove_hook(void)
{
    unlink(hook_file());
    rmdir(HOOK_FOLDER);
}

/* Written while no program runs, and gone before one does. */
static bool write_hook(void)
{
    const char *from = standby.kind == STANDBY_FORK ? python_hook : node_hook;
    const char *end = standby.kind == STANDBY_FORK ? python_hook_end : node_hook_end;
    workspace_clear(HOOK_PARENT, HOOK_NAME);
    int fd = mkdir(HOOK_FOLDER, 0700) < 0
                 ? -1
                 : open(hook_file(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool written = fd >= 0 && write(fd, from, (size_t)(end - from)) == end - from;
    if (fd >= 0)
        close(fd);
    return written;
}

/* Its variable, with the one of the image that it replaces behind it. */
static const char *hook_variable(char *into, size_t size)
{
    bool fork = standby.kind == STANDBY_FORK;
    const char *name = fork ? "PYTHONPATH=" : "NODE_OPTIONS=", *own = "";
    size_t length = strlen(name);
    for (char **variable = standby.order.env; *variable; variable++)
        if (strncmp(*variable, name, length) == 0)
            own = *variable + length;
    int wrote = fork ? snprintf(into, size, "%s%s%s%s", name, HOOK_FOLDER, *own ? ":" : "", own)
                     : snprintf(into, size, "%s%s%s--require=%s", name, own, *own ? " " : "",
                                hook_file());
    return wrote > 0 && (size_t)wrote < size ? into : NULL;
}

static _Noreturn void become_standby(const int fds[3], int socket)
{
    static struct order order;
    static char variable[4096];
    size_t count = 0;
    const char *added = hook_variable(variable, sizeof variable);
    if (!added || dup2(socket, CHILD_FD) != CHILD_FD) /* in place of a folder of the runner's */
        _exit(127);
    order = standby.order;
    for (char **each = standby.order.env; *each && count < MAX_STRINGS; each++)
        if (strncmp(*each, added, strcspn(added, "=") + 1) != 0)
            order.env[count++] = *each;
    order.env[count < MAX_STRINGS ? count++ : count] = (char *)added;
    order.env[count] = NULL;
    become_program(&order, fds, -1, standby.kind == STANDBY_FORK ? PARENT_SCORE : PROGRAM_SCORE);
}

/* ---- its life ---- */

static const char ENDED[] = 
    "the interpreter ended before it was ready; perhaps it had too little memory";

static void close_next(void)
{
    close_fd(&standby.next.socket);
    close_pipes(standby.next.pipes, 3);
}

/* `why`: nothing is ready; NULL where it is. */
static void answer(const char *why)
{
    unsigned char bytes[9 + REASON_BYTES] = {why == NULL};
    size_t length = why ? strnlen(why, REASON_BYTES) : 0;
    if (standby.answered)
        return;
    uint64_t memory = memory_now();
    store_u64(bytes + 1, memory > standby.memory_before ? memory - standby.memory_before : 0);
    memcpy(bytes + 9, why ? why : "", length);
    out_frame(RUNNER_PRIMED, standby.id, bytes, 9 + length);
    standby.answered = true;
}

void standby_forget_client(void)
{
    standby.answered = true;
}

/* Killed, and gone when this returns: no program is to see it. */
static void end_process(pid_t *process)
{
    if (*process > 0 && kill(*process, SIGKILL) == 0)
        waitpid(*process, NULL, 0);
    *process = 0;
}

/* All of it ends. */
static void discard(void)
{
    if (standby.phase == STARTING || standby.phase == READY)
        remove_hook();
    end_process(&standby.child);
    end_process(&standby.parent);
    close_fd(&standby.control);
    close_next();
    if (standby.phase != OFF)
        standby.phase = ABSENT;
}

static void fail(const char *why)
{
    discard();
    answer(*standby.reason ? standby.reason : why);
    if (++standby.failures >= MAX_FAILURES)
        standby.phase = OFF;
}

int standby_configure(uint32_t id, const unsigned char *payload, size_t length)
{
    const unsigned char *zero = length > 1 ? memchr(payload + 1, 0, length - 1) : NULL;
    if (length > sizeof standby.payload)
        return E2BIG;
    if (!zero || (payload[0] != STANDBY_FORK && payload[0] != STANDBY_ONCE))
        return EINVAL;
    discard();
    size_t head = (size_t)(zero + 1 - payload);
    memcpy(standby.payload, payload, length);
    standby.phase = OFF;
    if (!order_parse(&standby.order, standby.payload + head, length - head))
        return E2BIG;
    standby.kind = payload[0];
    standby.preload = (const char *)standby.payload + 1;
    standby.id = id;
    standby.answered = false;
    standby.failures = 0;
    standby.wanted = true;
    standby.phase = ABSENT;
    return 0;
}

static bool socket_pair(int type, int ends[2])
{
    return socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) == 0;
}

/* Starts the interpreter. Of STANDBY_FORK, its own pipes are like a program's and lead nowhere. */
static void start(void)
{
    int ends[2] = {-1, -1}, pipes[3][2] = {{-1, -1}, {-1, -1}, {-1, -1}};
    bool fork_kind = standby.kind == STANDBY_FORK;
    if (!memory_left(0)) {
        answer("the sandbox's memory is full");
        return;
    }
    standby.wanted = false;
    standby.reason[0] = 0;
    standby.memory_before = memory_now();
    standby.phase = STARTING;
    standby.deadline = now_ns() + START_NS;
    if (!write_hook() || !socket_pair(fork_kind ? SOCK_SEQPACKET : SOCK_STREAM, ends) ||
        open_pipes(pipes, 3) != 0) {
        close_fd(&ends[0]);
        close_fd(&ends[1]);
        fail("the sandbox has no room for what it needs");
        return;
    }
    pid_t child = fork();
    if (child == 0) {
        const int fds[3] = {pipes[0][0], pipes[1][1], pipes[2][1]};
        become_standby(fds, ends[1]);
    }
    close_fd(&ends[1]);
    if (fork_kind) {
        close_pipes(pipes, 3);
        standby.parent = child;
        standby.control = ends[0];
    } else {
        standby.child = child;
        standby.next.socket = ends[0];
        memcpy(standby.next.pipes, pipes, sizeof pipes);
    }
    if (child < 0)
        standby.parent = standby.child = 0;
    if (child < 0 ||
        (fork_kind && send(standby.control, standby.preload, strlen(standby.preload) + 1,
                           MSG_NOSIGNAL | MSG_DONTWAIT) < 0))
        fail("no process could be started");
}

/* Sends a program's ends of its pipes, and of its socket, to the parent, which forks. */
static bool send_ends(int socket)
{
    int fds[4] = {standby.next.pipes[0][0], standby.next.pipes[1][1], standby.next.pipes[2][1],
                  socket};
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof fds)];
    } control = {0};
    struct iovec text = {.iov_base = "F", .iov_len = 1};
    struct msghdr message = {.msg_iov = &text, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control.room};
    control.head = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
                                    .cmsg_len = CMSG_LEN(sizeof fds)};
    memcpy(CMSG_DATA(&control.head), fds, sizeof fds);
    return sendmsg(standby.control, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
}

static void ask_for_child(void)
{
    int ends[2] = {-1, -1};
    standby.phase = FORKING;
    standby.deadline = now_ns() + FORK_NS;
    bool asked = open_pipes(standby.next.pipes, 3) == 0 && socket_pair(SOCK_STREAM, ends) &&
                 send_ends(ends[1]);
    close_fd(&ends[1]);
    standby.next.socket = ends[0];
    if (!asked)
        fail(ENDED);
}

void standby_advance(void)
{
    if (standby.phase == ABSENT && standby.wanted) {
        start();
    } else if (standby.phase == LOADED) {
        ask_for_child();
    } else if (standby_due_ns() >= 0 && now_ns() >= standby.deadline) {
        fail("it took too long");
    }
}

int64_t standby_due_ns(void)
{
    bool waiting = standby.phase == STARTING || standby.phase == LOADING || standby.phase == FORKING;
    return waiting ? standby.deadline : -1;
}

/* ---- what its processes say ---- */

/* The child is there: 'R' and, where it was forked, its number. */
static void read_child(void)
{
    struct {
        char what;
        char number[15];
    } message = {0};
    ssize_t got = recv(standby.next.socket, &message, sizeof message - 1, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    pid_t child = standby.kind == STANDBY_FORK ? (pid_t)atoi(message.number) : standby.child;
    if (got < 1 || message.what != 'R' || child <= 1) {
        fail(ENDED);
        return;
    }
    standby.child = child;
    standby.phase = READY;
    standby.failures = 0;
    answer(NULL);
}

/* The parent can be read no more ('D'), then has loaded everything ('R'); or it can't be ready, 'E'
 * and why. */
static void read_parent(void)
{
    char message[REASON_BYTES] = {0};
    ssize_t got = recv(standby.control, message, sizeof message - 1, MSG_DONTWAIT);
    /* It has ended without having read the modules' names: what it said comes after that error. */
    if (got < 0 && errno == ECONNRESET)
        got = recv(standby.control, message, sizeof message - 1, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got == 1 && message[0] == 'D' && standby.phase == STARTING) {
        remove_hook();
        standby.phase = LOADING;
    } else if (got == 1 && message[0] == 'R' && standby.phase == LOADING) {
        standby.phase = LOADED;
    } else {
        if (got > 1 && message[0] == 'E')
            memcpy(standby.reason, message + 1, sizeof message - 1);
        fail(ENDED);
    }
}

void standby_poll_fds(struct pollfd fds[STANDBY_POLL_FDS])
{
    bool child = standby.phase == FORKING ||
                 (standby.phase == STARTING && standby.kind == STANDBY_ONCE);
    fds[0] = (struct pollfd){.fd = standby.control, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = child ? standby.next.socket : -1, .events = POLLIN};
}

void standby_poll_results(const struct pollfd fds[STANDBY_POLL_FDS])
{
    if (fds[0].revents && standby.control >= 0)
        read_parent();
    if (fds[1].revents && standby.next.socket >= 0)
        read_child();
}

bool standby_reaped(pid_t gone)
{
    if (standby.phase == FORKING && gone != standby.parent)
        read_child(); /* which may have reported that it is this one */
    bool was_parent = gone == standby.parent;
    if (was_parent)
        standby.parent = 0;
    else if (gone == standby.child)
        standby.child = 0;
    else
        return false;
    for (int i = 0; was_parent && standby.control >= 0 && i < 3; i++)
        read_parent(); /* 'D', 'R', and perhaps why */
    if (!was_parent || standby.control >= 0)
        fail(ENDED);
    return true;
}

pid_t standby_spared(void)
{
    return standby.parent;
}

static unsigned threads_of(pid_t process)
{
    char path[32];
    unsigned count = 0;
    struct dirent *entry;
    snprintf(path, sizeof path, "/proc/%d/task", process);
    DIR *threads = process > 0 ? opendir(path) : NULL;
    while (threads && (entry = readdir(threads)))
        count += entry->d_name[0] != '.';
    if (threads)
        closedir(threads);
    return count;
}

unsigned standby_reserved(void)
{
    return standby.kind == STANDBY_FORK;
}

unsigned standby_threads(void)
{
    return threads_of(standby.parent) + threads_of(standby.child);
}

void standby_resume(void)
{
    if (standby.parent > 0)
        kill(standby.parent, SIGCONT);
    if (standby.phase == LOADING)
        standby.deadline = now_ns() + START_NS;
}

/* ---- a run ---- */

/* Names of variables that an interpreter or a library reads when it starts: a run that sets one
 * is not what was prepared. A name that ends in '=' is a whole one. */
static const char *const START_VARIABLES[] = {
    "PYTHON", "NODE_",  "LD_",   "MALLOC_", "GLIBC_", "LC_",   "LANG",  "TZ",      "HOME=",
    "PATH=",  "UV_",    "OMP_",  "GOMP_",   "KMP_",   "MKL_",  "BLIS_", "OPENBLAS", "GOTO_",
    "NPY_",   "NUMPY_", "NUMBA_", "SCIPY_", "SKLEARN_", "LOKY_", "JOBLIB_", "MPL",  "PANDAS_",
    "XDG_",   "ICU_",   "OPENSSL_", "SSL_", "V8_",    "TMPDIR=",
};

static bool is_read_at_start(const char *variable)
{
    for (size_t i = 0; i < sizeof START_VARIABLES / sizeof *START_VARIABLES; i++)
        if (strncmp(variable, START_VARIABLES[i], strlen(START_VARIABLES[i])) == 0)
            return true;
    return false;
}

static bool is_prepared(const struct order *order)
{
    for (size_t i = 0; i < order->own_variables; i++)
        if (is_read_at_start(order->env[i]))
            return false;
    char *const *wanted = standby.order.argv, *const *given = order->argv;
    while (*wanted && *given && strcmp(*wanted, *given) == 0)
        wanted++, given++;
    return *wanted == NULL && strcmp(order->cwd, standby.order.cwd) == 0;
}

static unsigned char *add_strings(unsigned char *at, const unsigned char *end, char *const *strings,
                                  unsigned char count[2])
{
    size_t number = 0;
    for (; at && *strings; strings++, number++) {
        size_t length = strlen(*strings) + 1;
        if (length > (size_t)(end - at))
            return NULL;
        memcpy(at, *strings, length);
        at += length;
    }
    count[0] = (unsigned char)(number >> 8);
    count[1] = (unsigned char)number;
    return at;
}

/* u32 length of what follows, u16 number of arguments, u16 of variables; each ended by a zero byte. */
static bool send_order(const struct order *order)
{
    static unsigned char text[MAX_ORDER];
    unsigned char *at = text + 8, *end = text + sizeof text;
    at = add_strings(at, end, order->argv, text + 4);
    at = at ? add_strings(at, end, order->env, text + 6) : NULL;
    if (!at)
        return false;
    store_u32(text, (uint32_t)(at - text - 4));
    return send(standby.next.socket, text, (size_t)(at - text), MSG_NOSIGNAL | MSG_DONTWAIT) ==
           at - text;
}

static void wait_for_child(void)
{
    struct pollfd soon = {.fd = standby.next.socket, .events = POLLIN};
    if (standby.phase == FORKING && poll(&soon, 1, ALMOST_READY_MS) == 1)
        read_child();
}

/* STANDBY_ONCE is taken while it starts, too: it finds its order when it has. */
static bool is_there(void)
{
    return standby.phase == READY || (standby.phase == STARTING && standby.kind == STANDBY_ONCE);
}

static uint64_t cpu_of(pid_t process)
{
    clockid_t clock;
    struct timespec spent = {0};
    if (clock_getcpuclockid(process, &clock) == 0)
        clock_gettime(clock, &spent);
    return (uint64_t)spent.tv_sec * 1000000000 + (uint64_t)spent.tv_nsec;
}

/* A program is started as any other: what waits for its run is not there beside it. */
static void step_aside(void)
{
    end_process(&standby.child);
    if (standby.kind == STANDBY_ONCE || standby.phase <= STARTING) {
        discard();
        return;
    }
    close_next();
    if (standby.phase == LOADING)
        kill(standby.parent, SIGSTOP); /* the processor is the program's */
    else
        standby.phase = LOADED;
}

bool standby_take(const struct order *order, struct standby_run *taken)
{
    bool fits = standby.phase != OFF && is_prepared(order);
    standby.wanted = true;
    wait_for_child(); /* even if it is not the one: known by its number, it is not taken for the run's */
    if (!fits || !is_there() || !send_order(order)) {
        step_aside();
        return false;
    }
    *taken = standby.next;
    taken->child = standby.child;
    taken->cpu_ns = cpu_of(standby.child);
    standby.next = (struct standby_run){.socket = -1, .pipes = {{-1, -1}, {-1, -1}, {-1, -1}}};
    standby.child = 0;
    standby.phase = standby.kind == STANDBY_FORK ? LOADED : ABSENT;
    return true;
}
