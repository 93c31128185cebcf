/*
 * One program from its start to its report. A run is over when its main process is: everything
 * else that it started is killed then, and nothing is reported before all of it is reaped.
 */
#define _GNU_SOURCE
#include "runner.h"

#include "clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define ENDING_NS (2 * (int64_t)1000000000) /* how long killed processes may take to go */
#define LOOK_AGAIN_NS (5 * (int64_t)1000000)

enum state { IDLE, RUNNING, ENDING, DRAINING };
enum option { /* see `RunFlag` in ../client/protocol.py */
    OPTION_CUT = 1,   /* output beyond the cap doesn't end the program */
    OPTION_CLEAR = 2, /* the program that an earlier run compiled is removed */
};
enum flag {
    FLAG_OOM = 1,
    FLAG_UNCLEAN = 2,
    FLAG_STDOUT_CUT = 4,
    FLAG_STDERR_CUT = 8,
    FLAG_PRESTARTED = 16, /* its process had started before it was asked for */
};

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
    int status, failure_fd, start_error;
    pid_t replaced; /* it reported that it can't be the program, and is still to be reaped */
    enum cause cause;
    unsigned flags, options;
    int64_t started, ended, deadline, ooms;
    uint64_t cpu_limit; /* 0: none */
    uint64_t cpu_ns, cpu_before, peak_bytes; /* before: of `main`, when it became the program */
    int standby_fd;       /* of a process that has not yet reported whether it is the program */
    int program_ends[3];  /* of the pipes: another process gets them if it can't be */
    int stdin_fd;
    bool stdin_eof;
    size_t fed, fed_end, ungranted;
    struct stream streams[2];
} run = {.stdin_fd = -1, .failure_fd = -1, .standby_fd = -1, .program_ends = {-1, -1, -1},
         .streams = {{.fd = -1}, {.fd = -1}}};

static unsigned char feed[STDIN_WINDOW]; /* [run.fed, run.fed_end) waits for the program */

/* ---- the start ---- */

static int keep_end(int pipe[2], int end)
{
    close_fd(&pipe[!end]);
    fcntl(pipe[end], F_SETFL, O_NONBLOCK);
    return pipe[end];
}

static void begin(uint32_t id, const struct order *order, pid_t child, int pipes[3][2])
{
    gvisor_begin();
    run.state = RUNNING;
    run.id = id;
    run.main = child;
    run.main_reaped = run.abandoned = run.stdin_eof = false;
    run.status = run.start_error = run.replaced = 0;
    run.cause = BY_ITSELF;
    run.flags = 0;
    run.options = order->options;
    run.deadline = run.started + order->wall_ns;
    run.cpu_limit = order->cpu_ns;
    run.cpu_ns = run.cpu_before = run.peak_bytes = 0;
    run.fed = run.fed_end = run.ungranted = 0;
    run.stdin_fd = keep_end(pipes[0], 1);
    run.streams[0] = (struct stream){keep_end(pipes[1], 0), RUNNER_STDOUT, FLAG_STDOUT_CUT,
                                     order->caps[0]};
    run.streams[1] = (struct stream){keep_end(pipes[2], 0), RUNNER_STDERR, FLAG_STDERR_CUT,
                                     order->caps[1]};
}

/* A new process, with the program's ends of the pipes. Its failure_fd gets errno if it can't be. */
static pid_t start_process(const struct order *order, const int ends[3])
{
    int failure[2];
    if (pipe2(failure, O_CLOEXEC) < 0)
        return -1;
    pid_t child = fork();
    if (child == 0)
        become_program(order, ends, failure[1], PROGRAM_SCORE);
    int error = errno;
    run.failure_fd = keep_end(failure, 0);
    if (child < 0)
        close_fd(&run.failure_fd);
    errno = error;
    return child;
}

static void begin_prestarted(uint32_t id, const struct order *order, struct standby_run *taken)
{
    for (int i = 0; i < 3; i++) {
        run.program_ends[i] = taken->pipes[i][i > 0];
        taken->pipes[i][i > 0] = -1;
    }
    begin(id, order, taken->child, taken->pipes);
    run.standby_fd = taken->socket;
    run.cpu_before = taken->cpu_ns;
    run.flags |= FLAG_PRESTARTED;
}

static int begin_anew(uint32_t id, const struct order *order)
{
    int pipes[3][2], error = open_pipes(pipes, 3);
    if (error)
        return error;
    const int ends[3] = {pipes[0][0], pipes[1][1], pipes[2][1]};
    pid_t child = start_process(order, ends);
    if (child < 0) {
        error = errno;
        close_pipes(pipes, 3);
        return error;
    }
    begin(id, order, child, pipes);
    return 0;
}

static void begin_ending(void);

static struct order order; /* of the run; its strings are in `asked_for` */
static unsigned char asked_for[MAX_PAYLOAD];

int run_start(uint32_t id, const unsigned char *payload, size_t length)
{
    struct standby_run taken;
    memcpy(asked_for, payload, length);
    if (!order_parse(&order, asked_for, length))
        return E2BIG;
    if (!memory_left(0))
        return ENOMEM;
    if (order.options & OPTION_CLEAR)
        workspace_clear(PROGRAM_FOLDER, PROGRAM_NAME);
    /* A client that doesn't get this before the sandbox ends knows that no program was started. */
    out_frame(RUNNER_BEGUN, id, NULL, 0);
    out_flush();
    run.ooms = oom_kills();
    run.started = now_ns();
    usage_begin(run.started);
    if (standby_take(&order, &taken)) {
        begin_prestarted(id, &order, &taken);
        return 0;
    }
    int error = begin_anew(id, &order);
    if (error)
        standby_resume();
    return error;
}

static void settle_process(void)
{
    close_fd(&run.standby_fd);
    for (int i = 0; i < 3; i++)
        close_fd(&run.program_ends[i]);
}

static void replace_process(bool reaped)
{
    if (!reaped) {
        run.replaced = run.main;
        kill(run.main, SIGKILL);
    }
    run.cpu_before = 0;
    run.flags &= ~(unsigned)FLAG_PRESTARTED;
    run.main = start_process(&order, run.program_ends);
    if (run.main < 0) {
        run.start_error = errno;
        begin_ending();
    }
}

/* The process that was ready says whether it is the program. Otherwise a new one takes its place,
 * with the same pipes; what the first one did is not seen. One that has been reaped says no more,
 * even where its parent still has its end of the socket. */
static void read_standby(bool reaped)
{
    char message = 'R'; /* it has started: what counts comes after that */
    if (run.standby_fd < 0)
        return;
    while (message == 'R') {
        message = 0;
        ssize_t got = recv(run.standby_fd, &message, 1, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR) && !reaped)
            return;
    }
    if (message != 'G' && run.state == RUNNING)
        replace_process(reaped);
    settle_process();
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
    if (run.stdin_eof || (run.ungranted < STDIN_WINDOW / 2 && run.fed < run.fed_end))
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

/* Sends a signal, or none for 0, to each process but the runner and the one that is spared. False:
 * there is none. */
static bool signal_each(int number)
{
    DIR *processes = opendir("/proc");
    struct dirent *entry;
    bool found = !processes;
    while (processes && (entry = readdir(processes))) {
        pid_t process = (pid_t)atoi(entry->d_name);
        if (process <= 1 || process == standby_spared())
            continue;
        found = true;
        if (number)
            kill(process, number);
    }
    if (processes)
        closedir(processes);
    return found;
}

/* Where one process is to live, all are stopped before the others are killed one by one: a stopped
 * process can't start another that is missed. False: there was none. */
static bool kill_programs(void)
{
    if (standby_spared() == 0)
        return kill(-1, SIGKILL) == 0;
    if (!signal_each(0))
        return false;
    kill(-1, SIGSTOP);
    signal_each(SIGKILL);
    standby_resume(); /* it may have a child to reap */
    return true;
}

static void begin_ending(void)
{
    if (run.state == RUNNING)
        usage_sample(now_ns()); /* its processes have their memory still */
    kill_programs();
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

void run_reap(void)
{
    struct rusage usage;
    int status;
    pid_t gone;
    while ((gone = wait4(-1, &status, WNOHANG, &usage)) > 0) {
        if (standby_reaped(gone))
            continue;
        if (gone == run.main) {
            read_standby(true);
            if (gone != run.main) /* another process has taken its place */
                continue;
        }
        if (gone == run.replaced) {
            run.replaced = 0;
            continue;
        }
        account(&usage);
        if (run.state == IDLE || gone != run.main || run.main_reaped)
            continue;
        run.cpu_ns -= run.cpu_before < run.cpu_ns ? run.cpu_before : run.cpu_ns;
        run.main_reaped = true;
        run.status = status;
        run.ended = now_ns();
        begin_ending();
    }
    if (run.state == ENDING && ((gone < 0 && errno == ECHILD) || !kill_programs()))
        run.state = DRAINING;
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

/* The errno of a program that could not be started, or that its child wrote when it could not be
 * executed, else 0. */
static int exec_error(void)
{
    int error = 0;
    if (run.failure_fd < 0)
        return run.start_error;
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
    settle_process();
    close_fd(&run.stdin_fd);
    close_fd(&run.streams[0].fd);
    close_fd(&run.streams[1].fd);
    standby_resume();
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
    if (run.state == RUNNING && now >= usage_due_ns()) {
        usage_sample(now);
        if (run.cpu_limit && usage_cpu_ns() >= run.cpu_limit)
            run_kill(BY_CLOCK);
    }
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
    if (run.state == ENDING && standby_spared() > 0) /* nobody tells of the end of that one's child */
        return now_ns() + LOOK_AGAIN_NS;
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
    fds[3] = (struct pollfd){.fd = run.standby_fd, .events = POLLIN};
}

void run_poll_results(const struct pollfd fds[RUN_POLL_FDS])
{
    if (fds[3].revents)
        read_standby(false);
    if (fds[0].revents && run.stdin_fd >= 0)
        feed_program();
    if (fds[1].revents)
        take_output(&run.streams[0]);
    if (fds[2].revents)
        take_output(&run.streams[1]);
}
