/*
 * One program from its start to its report. A run is over when its main process is: everything
 * else that it started is killed then, and nothing is reported before all of it is reaped.
 */
#define _GNU_SOURCE
#include "runner.h"

#include "clock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define ENDING_NS (2 * (int64_t)1000000000) /* how long killed processes may take to go */
#define MAX_STRINGS 8192
#define EXEC_HEAD_BYTES 24

enum state { IDLE, RUNNING, ENDING, DRAINING };
enum option { /* see `RunFlag` in ../client/protocol.py */
    OPTION_CUT = 1,   /* output beyond the cap doesn't end the program */
    OPTION_CLEAR = 2, /* the program that an earlier run compiled is removed */
};
enum flag { FLAG_OOM = 1, FLAG_UNCLEAN = 2, FLAG_STDOUT_CUT = 4, FLAG_STDERR_CUT = 8 };

struct stream {
    int fd;
    uint8_t type, cut_flag;
    uint64_t left; /* bytes until the cap */
};

static struct {
    enum state state;
    uint32_t id;
    pid_t main;
    bool main_reaped, abandoned, unclean;
    int status, failure_fd;
    enum cause cause;
    unsigned flags, options;
    int64_t started, ended, deadline, ooms;
    uint64_t cpu_ns, peak_bytes;
    int stdin_fd;
    bool stdin_eof;
    size_t fed, fed_end, ungranted;
    struct stream streams[2];
} run = {.stdin_fd = -1, .failure_fd = -1, .streams = {{.fd = -1}, {.fd = -1}}};

static unsigned char feed[STDIN_WINDOW]; /* [run.fed, run.fed_end) waits for the program */

/* What CLIENT_EXEC holds: u32 wall ms, u64 cap of stdout, u64 of stderr, u16 number of arguments,
 * u16 number of variables; then, each ended by a zero byte, cwd, arguments, `NAME=value`; then, unless
 * there is none, u8 options. */
struct order {
    int64_t wall_ns;
    unsigned options;
    uint64_t caps[2];
    const char *cwd;
    char *argv[MAX_STRINGS + 1], *env[MAX_STRINGS + 1];
};

extern char **environ;

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* ---- what CLIENT_EXEC asks for ---- */

static const char *next_string(const unsigned char **at, const unsigned char *end)
{
    const unsigned char *begin = *at, *zero = memchr(begin, 0, (size_t)(end - begin));
    if (!zero)
        return NULL;
    *at = zero + 1;
    return (const char *)begin;
}

static bool next_strings(char **into, size_t count, const unsigned char **at,
                         const unsigned char *end)
{
    for (size_t i = 0; i < count; i++)
        if (!(into[i] = (char *)next_string(at, end)))
            return false;
    into[count] = NULL;
    return true;
}

static bool same_variable(const char *one, const char *other)
{
    size_t length = strcspn(one, "=");
    return strncmp(one, other, length) == 0 && (other[length] == '=' || other[length] == '\0');
}

/* The client's variables come first, then those of the image that it doesn't set. */
static bool inherit_environment(char **env)
{
    size_t ordered = 0, count;
    while (env[ordered])
        ordered++;
    count = ordered;
    for (char **inherited = environ; *inherited; inherited++) {
        size_t i = 0;
        while (i < ordered && !same_variable(env[i], *inherited))
            i++;
        if (i < ordered)
            continue;
        if (count == MAX_STRINGS)
            return false;
        env[count++] = *inherited;
    }
    env[count] = NULL;
    return true;
}

static bool parse_order(struct order *order, const unsigned char *payload, size_t length)
{
    const unsigned char *at = payload + EXEC_HEAD_BYTES, *end = payload + length;
    if (length < EXEC_HEAD_BYTES)
        return false;
    order->wall_ns = (int64_t)load_u32(payload) * 1000000;
    order->caps[0] = load_u64(payload + 4);
    order->caps[1] = load_u64(payload + 12);
    size_t arguments = (size_t)payload[20] << 8 | payload[21];
    size_t variables = (size_t)payload[22] << 8 | payload[23];
    if (arguments == 0 || arguments > MAX_STRINGS || variables > MAX_STRINGS ||
        !(order->cwd = next_string(&at, end)) || !next_strings(order->argv, arguments, &at, end) ||
        !next_strings(order->env, variables, &at, end))
        return false;
    order->options = at < end ? *at : 0;
    return inherit_environment(order->env);
}

/* ---- the start ---- */

/* Makes the kernel kill programs rather than the runner. A process that may not be dumped, as this
 * child of the runner still is, can't open its own /proc files: so that is changed first. */
static void be_killed_first(void)
{
    token_wipe();
    prctl(PR_SET_DUMPABLE, 1);
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, "1000", 4) < 0) {
        /* Some kernels don't allow it; there is nothing else to try. */
    }
    close_fd(&fd);
}

static _Noreturn void become_program(struct order *order, const int fds[3], int failure_fd)
{
    sigset_t none;
    sigemptyset(&none);
    setsid();
    be_killed_first();
    if (dup2(fds[0], 0) >= 0 && dup2(fds[1], 1) >= 0 && dup2(fds[2], 2) >= 0 &&
        chdir(order->cwd) == 0 && sigprocmask(SIG_SETMASK, &none, NULL) == 0 && gvisor_confine()) {
        environ = order->env;
        execvp(order->argv[0], order->argv);
    }
    int error = errno;
    if (write(failure_fd, &error, sizeof error) < 0)
        _exit(126);
    _exit(127);
}

/* Pipes: [0] stdin, [1] stdout, [2] stderr, [3] errno of a program that can't be executed. */
static int open_pipes(int pipes[4][2])
{
    for (int i = 0; i < 4; i++)
        if (pipe2(pipes[i], O_CLOEXEC) < 0) {
            int error = errno;
            while (i-- > 0) {
                close(pipes[i][0]);
                close(pipes[i][1]);
            }
            return error;
        }
    return 0;
}

static int keep_end(int pipe[2], int end)
{
    close(pipe[!end]);
    fcntl(pipe[end], F_SETFL, O_NONBLOCK);
    return pipe[end];
}

static void begin(uint32_t id, const struct order *order, pid_t child, int pipes[4][2])
{
    gvisor_begin();
    run.state = RUNNING;
    run.id = id;
    run.main = child;
    run.main_reaped = run.abandoned = run.stdin_eof = false;
    run.status = 0;
    run.cause = BY_ITSELF;
    run.flags = 0;
    run.options = order->options;
    run.deadline = run.started + order->wall_ns;
    run.cpu_ns = run.peak_bytes = 0;
    run.fed = run.fed_end = run.ungranted = 0;
    run.stdin_fd = keep_end(pipes[0], 1);
    run.streams[0] = (struct stream){keep_end(pipes[1], 0), RUNNER_STDOUT, FLAG_STDOUT_CUT,
                                     order->caps[0]};
    run.streams[1] = (struct stream){keep_end(pipes[2], 0), RUNNER_STDERR, FLAG_STDERR_CUT,
                                     order->caps[1]};
    run.failure_fd = keep_end(pipes[3], 0);
}

int run_start(uint32_t id, const unsigned char *payload, size_t length)
{
    static struct order order;
    int pipes[4][2];
    if (!parse_order(&order, payload, length))
        return E2BIG;
    if (!memory_left(0))
        return ENOMEM;
    if (order.options & OPTION_CLEAR)
        workspace_clear_program();
    int error = open_pipes(pipes);
    if (error)
        return error;
    /* A client that doesn't get this before the sandbox ends knows that no program was started. */
    out_frame(RUNNER_BEGUN, id, NULL, 0);
    out_flush();
    run.ooms = oom_kills();
    run.started = now_ns();
    usage_begin(run.started);
    pid_t child = fork();
    if (child == 0) {
        const int fds[3] = {pipes[0][0], pipes[1][1], pipes[2][1]};
        become_program(&order, fds, pipes[3][1]);
    }
    error = child < 0 ? errno : 0;
    if (error)
        for (int i = 0; i < 4; i++) {
            close(pipes[i][0]);
            close(pipes[i][1]);
        }
    else
        begin(id, &order, child, pipes);
    return error;
}

/* ---- stdin ---- */

bool run_feed(const unsigned char *data, size_t length)
{
    if (run.state != RUNNING || run.stdin_fd < 0)
        return true;
    if (run.fed > 0) {
        memmove(feed, feed + run.fed, run.fed_end - run.fed);
        run.fed_end -= run.fed;
        run.fed = 0;
    }
    if (length > sizeof feed - run.fed_end)
        return false;
    memcpy(feed + run.fed_end, data, length);
    run.fed_end += length;
    return true;
}

void run_feed_end(void)
{
    run.stdin_eof = true;
    if (run.fed == run.fed_end)
        close_fd(&run.stdin_fd);
}

static void grant_more(void)
{
    unsigned char bytes[4];
    if (run.stdin_eof || run.ungranted < STDIN_WINDOW / 2)
        return;
    store_u32(bytes, (uint32_t)run.ungranted);
    if (out_frame(RUNNER_GRANT, run.id, bytes, sizeof bytes))
        run.ungranted = 0;
}

static void feed_program(void)
{
    ssize_t wrote = write(run.stdin_fd, feed + run.fed, run.fed_end - run.fed);
    if (wrote < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (wrote < 0) {
        close_fd(&run.stdin_fd);
        return;
    }
    run.fed += (size_t)wrote;
    run.ungranted += (size_t)wrote;
    grant_more();
    if (run.stdin_eof && run.fed == run.fed_end)
        close_fd(&run.stdin_fd);
}

/* ---- output ---- */

static void cut(const struct stream *stream)
{
    run.flags |= stream->cut_flag;
    if (!(run.options & OPTION_CUT))
        run_kill(BY_OUTPUT);
}

/* Reads what is there, as far as there is room. Output beyond the cap is thrown away, but the pipe
 * stays open: the program is killed or runs on, and never gets a broken pipe. */
static void take_output(struct stream *stream)
{
    static unsigned char beyond[65536];
    while (stream->fd >= 0 && out_room() > FRAME_BYTES(0)) {
        bool kept = stream->left > 0;
        ssize_t got = kept ? out_frame_from(stream->fd, stream->type, run.id,
                                            stream->left < 65536 ? stream->left : 65536)
                           : read(stream->fd, beyond, sizeof beyond);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            return;
        if (got <= 0) {
            close_fd(&stream->fd);
            return;
        }
        if (kept)
            stream->left -= (uint64_t)got;
        else
            cut(stream);
        if (run.state == RUNNING || (!kept && run.state == ENDING))
            return; /* so that the other stream and the time limit get their turn */
    }
}

/* ---- the end ---- */

bool run_active(void)
{
    return run.state != IDLE;
}

bool run_unclean(void)
{
    return run.unclean;
}

static void begin_ending(void)
{
    if (run.state == RUNNING)
        usage_sample(now_ns()); /* its processes have their memory still */
    kill(-1, SIGKILL);
    close_fd(&run.stdin_fd);
    if (run.state == RUNNING) {
        run.state = ENDING;
        run.deadline = now_ns() + ENDING_NS;
    }
}

void run_kill(enum cause cause)
{
    if (run.state == IDLE)
        return;
    if (run.cause == BY_ITSELF && (cause == BY_OUTPUT || !run.main_reaped))
        run.cause = cause;
    if (run.state == RUNNING)
        begin_ending();
}

void run_abandon(void)
{
    run_kill(BY_CLIENT);
    run.abandoned = true;
}

static uint64_t timeval_ns(struct timeval value)
{
    return (uint64_t)value.tv_sec * 1000000000 + (uint64_t)value.tv_usec * 1000;
}

static void account(const struct rusage *usage)
{
    uint64_t peak = (uint64_t)usage->ru_maxrss * 1024;
    run.cpu_ns += timeval_ns(usage->ru_utime) + timeval_ns(usage->ru_stime);
    if (peak > run.peak_bytes)
        run.peak_bytes = peak;
}

static void all_reaped(void)
{
    if (run.state == ENDING)
        run.state = DRAINING;
}

void run_reap(void)
{
    struct rusage usage;
    int status;
    pid_t gone;
    while ((gone = wait4(-1, &status, WNOHANG, &usage)) > 0) {
        account(&usage);
        if (run.state == IDLE || gone != run.main || run.main_reaped)
            continue;
        run.main_reaped = true;
        run.status = status;
        run.ended = now_ns();
        begin_ending();
    }
    if (gone < 0 && errno == ECHILD)
        all_reaped();
    else if (run.state == ENDING)
        kill(-1, SIGKILL);
}

/* Payload: u8 1 when a signal ended it, u8 exit code or signal, u8 cause, u8 flags, u64 wall ns,
 * u64 cpu ns, u64 peak bytes. */
static void report(void)
{
    unsigned char bytes[28];
    bool signalled = !run.main_reaped || WIFSIGNALED(run.status);
    if (oom_kills() > run.ooms)
        run.flags |= FLAG_OOM;
    bytes[0] = signalled;
    bytes[1] = (unsigned char)(!run.main_reaped ? SIGKILL
                               : signalled      ? WTERMSIG(run.status)
                                                : WEXITSTATUS(run.status));
    bytes[2] = (unsigned char)run.cause;
    bytes[3] = (unsigned char)run.flags;
    store_u64(bytes + 4, (uint64_t)((run.main_reaped ? run.ended : now_ns()) - run.started));
    usage_end(&run.cpu_ns, &run.peak_bytes);
    gvisor_usage(&run.cpu_ns, &run.peak_bytes);
    store_u64(bytes + 12, run.cpu_ns);
    store_u64(bytes + 20, run.peak_bytes);
    out_frame(RUNNER_RESULT, run.id, bytes, sizeof bytes);
}

/* The errno that the child wrote when the program could not be executed, else 0. */
static int exec_error(void)
{
    int error = 0;
    if (read(run.failure_fd, &error, sizeof error) != sizeof error)
        return 0;
    return error;
}

static void finish(void)
{
    int error = exec_error();
    if (error) {
        unsigned char bytes[9] = {STAGE_EXEC};
        store_u32(bytes + 1, (uint32_t)error);
        if (!run.abandoned)
            out_frame(RUNNER_FAILED, run.id, bytes, sizeof bytes);
    } else if (!run.abandoned) {
        report();
    }
    close_fd(&run.failure_fd);
    close_fd(&run.stdin_fd);
    close_fd(&run.streams[0].fd);
    close_fd(&run.streams[1].fd);
    run.state = IDLE;
}

/* Drained once nothing more is in the pipes; an unclean run's pipes may never end. */
static bool drained(struct stream *stream)
{
    if (run.abandoned)
        return true;
    take_output(stream);
    return stream->fd < 0 || out_room() > FRAME_BYTES(0);
}

void run_advance(void)
{
    int64_t now = now_ns();
    if (run.state == RUNNING && now >= run.deadline)
        run_kill(BY_CLOCK);
    if (run.state == RUNNING && now >= usage_due_ns())
        usage_sample(now);
    if (run.state == RUNNING && gvisor_exceeded(now)) {
        run.flags |= FLAG_OOM;
        begin_ending();
    }
    if (run.state == ENDING)
        run_reap();
    if (run.state == ENDING && now >= run.deadline) {
        run.flags |= FLAG_UNCLEAN;
        run.unclean = true;
        run.state = DRAINING;
    }
    if (run.state == DRAINING && drained(&run.streams[0]) && drained(&run.streams[1]))
        finish();
}

int64_t run_deadline_ns(void)
{
    int64_t due = usage_due_ns(), other = gvisor_due_ns();
    if (other >= 0 && other < due)
        due = other;
    if (run.state == RUNNING && due < run.deadline)
        return due;
    return run.state == RUNNING || run.state == ENDING ? run.deadline : -1;
}

/* ---- polling ---- */

void run_poll_fds(struct pollfd fds[RUN_POLL_FDS])
{
    bool feeding = run.state == RUNNING && run.fed < run.fed_end;
    bool reading = run.state != IDLE && !run.abandoned && out_room() > FRAME_BYTES(0);
    fds[0] = (struct pollfd){.fd = feeding ? run.stdin_fd : -1, .events = POLLOUT};
    fds[1] = (struct pollfd){.fd = reading ? run.streams[0].fd : -1, .events = POLLIN};
    fds[2] = (struct pollfd){.fd = reading ? run.streams[1].fd : -1, .events = POLLIN};
}

void run_poll_results(const struct pollfd fds[RUN_POLL_FDS])
{
    if (fds[0].revents && run.stdin_fd >= 0)
        feed_program();
    if (fds[1].revents)
        take_output(&run.streams[0]);
    if (fds[2].revents)
        take_output(&run.streams[1]);
}
