#define _GNU_SOURCE
#include "runner.h"

#include "clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_IDLE_SECONDS = 10 * 365 * 86400 };
enum exit_code { EXIT_DONE = 0, EXIT_UNCLEAN = 70, EXIT_USAGE = 64, EXIT_SETUP = 71 };

static struct {
    uint32_t id;
    uint32_t files;     /* of run `id`: how many were begun */
    bool failed, spent; /* of run `id`: nothing more is done; its program was started */
    bool program;       /* of run `id`: what follows is the compiled program */
    bool touched;       /* a program was started here, if only a compiler or an interpreter */
    bool greeted, hello_waits;
    unsigned char nonce[NONCE_BYTES];
    int64_t received, ran; /* when a frame or a query last came; when a program last ran */
    int64_t idle_ns;    /* so long after both, the sandbox ends */
} talk;

/* ---- what a client asks ---- */

static void send_failed(enum stage stage, int error)
{
    unsigned char bytes[9] = {(unsigned char)stage};
    store_u32(bytes + 1, (uint32_t)error);
    store_u32(bytes + 5, talk.files > 0 ? talk.files - 1 : 0);
    out_frame(RUNNER_FAILED, talk.id, bytes, sizeof bytes);
    talk.failed = true;
}

static void protocol_broken(void)
{
    run_abandon();
    send_failed(STAGE_PROTOCOL, EPROTO);
    in_ignore_until_hello();
}

static void send_ack(void)
{
    unsigned char bytes[NONCE_BYTES + 1];
    memcpy(bytes, talk.nonce, NONCE_BYTES);
    bytes[NONCE_BYTES] = PROTOCOL_VERSION;
    out_frame(RUNNER_ACK, load_u32(talk.nonce), bytes, sizeof bytes);
}

/* What an earlier client started ends first; the answer follows in acknowledge(). If the earlier
 * client still reads, two answers (to its hello and to this one) show it that it was replaced. */
static void hello(const unsigned char nonce[NONCE_BYTES])
{
    workspace_close();
    compiled_stop();
    run_abandon();
    standby_forget_client();
    out_drop();
    if (talk.greeted || talk.hello_waits) {
        send_ack();
        out_flush();
    }
    memcpy(talk.nonce, nonce, NONCE_BYTES);
    talk.hello_waits = true;
    talk.received = now_ns();
}

static void take_query(const struct workspace_query *query)
{
    talk.received = now_ns();
    if (query->kind == QUERY_KEEP && query->number >= 1 && query->number <= MAX_IDLE_SECONDS)
        talk.idle_ns = (int64_t)query->number * 1000000000;
    if (!run_active())
        workspace_unlock();
    query_begin(query);
}

static void begin_run(uint32_t id)
{
    talk.id = id;
    talk.files = 0;
    talk.failed = talk.spent = talk.program = false;
    compiled_stop();
    workspace_unlock();
}

static void acknowledge(void)
{
    begin_run(load_u32(talk.nonce));
    talk.hello_waits = false;
    talk.greeted = true;
    send_ack();
}

static void open_file(const struct frame *frame)
{
    talk.program = false;
    talk.files++;
    int error = frame->length < 4 ? EINVAL
                                  : workspace_open(frame->payload + 4, frame->length - 4,
                                                   load_u32(frame->payload) & 0777);
    if (error)
        send_failed(STAGE_FILE, error);
}

static void append_to_file(const struct frame *frame)
{
    int error = workspace_append(frame->payload, frame->length);
    if (error)
        send_failed(talk.program ? STAGE_PROGRAM : STAGE_FILE, error);
}

static void replace_program(const struct frame *frame)
{
    talk.program = true;
    int error = frame->length != 4 ? EINVAL
                                   : workspace_open_program(load_u32(frame->payload) & 0777);
    if (error)
        send_failed(STAGE_PROGRAM, error);
}

static void send_program(const struct frame *frame)
{
    workspace_close();
    int error = compiled_send(frame->id, frame->payload, frame->length);
    if (error)
        send_failed(STAGE_PROGRAM, error);
}

static void send_fingerprint(const struct frame *frame)
{
    workspace_close();
    compiled_fingerprint(frame->id, !talk.touched);
}

static void execute(const struct frame *frame)
{
    workspace_close();
    compiled_stop();
    talk.touched = true;
    int error = run_start(frame->id, frame->payload, frame->length);
    if (error)
        send_failed(STAGE_EXEC, error);
}

static void configure_standby(const struct frame *frame)
{
    talk.touched = true;
    int error = standby_configure(frame->id, frame->payload, frame->length);
    if (error)
        send_failed(STAGE_EXEC, error);
}

static void obey_about_program(const struct frame *frame)
{
    if (run_active())
        protocol_broken();
    else if (frame->type == CLIENT_FINGERPRINT)
        send_fingerprint(frame);
    else if (frame->type == CLIENT_FETCH)
        send_program(frame);
    else
        replace_program(frame);
}

static void obey(const struct frame *frame)
{
    talk.received = now_ns();
    if (frame->id == talk.id + 1 && !run_active())
        begin_run(frame->id);
    if (!talk.greeted || frame->id != talk.id || talk.failed)
        return;
    if (run_unclean())
        _exit(EXIT_UNCLEAN);
    switch (frame->type) {
    case CLIENT_FILE:
        open_file(frame);
        break;
    case CLIENT_FILE_DATA:
        append_to_file(frame);
        break;
    case CLIENT_SYNC:
        workspace_close();
        out_frame(RUNNER_SYNCED, frame->id, NULL, 0);
        break;
    case CLIENT_FINGERPRINT:
    case CLIENT_FETCH:
    case CLIENT_PROGRAM:
        obey_about_program(frame);
        break;
    case CLIENT_EXEC:
        if (!talk.spent && !run_active())
            execute(frame);
        talk.spent = true;
        break;
    case CLIENT_STANDBY:
        if (run_active())
            protocol_broken();
        else
            configure_standby(frame);
        break;
    case CLIENT_STDIN:
        if (!run_feed(frame->payload, frame->length))
            protocol_broken();
        break;
    case CLIENT_STDIN_EOF:
        run_feed_end();
        break;
    case CLIENT_KILL:
        run_kill(BY_CLIENT);
        break;
    default:
        protocol_broken();
    }
}

static void obey_all(void)
{
    struct frame frame;
    bool broken = false;
    while (!talk.hello_waits && in_next(&frame, &broken))
        obey(&frame);
    if (broken)
        protocol_broken();
}

/* Obeys what has come, as far as what is running lets it. */
static void advance(void)
{
    run_advance();
    if (talk.hello_waits && !run_active()) {
        if (run_unclean())
            _exit(EXIT_UNCLEAN);
        acknowledge();
    }
    obey_all();
}

/* ---- the loop ---- */

/* Since when no frame has come, no program has run and no output was read. */
static int64_t idle_since_ns(void)
{
    int64_t since = talk.received > talk.ran ? talk.received : talk.ran;
    return since > out_taken_ns() ? since : out_taken_ns();
}

/* After an unclean run some do, and the next frame ends the sandbox. */
static bool no_program_lives(void)
{
    return !run_active() && !run_unclean();
}

static int poll_timeout_ms(void)
{
    int64_t deadline = run_deadline_ns(), due = out_due_ns();
    if (deadline < 0)
        deadline = idle_since_ns() + talk.idle_ns;
    if (due > 0 && due < deadline)
        deadline = due;
    if (no_program_lives() && standby_due_ns() >= 0 && standby_due_ns() < deadline)
        deadline = standby_due_ns();
    if (compiled_due())
        return 0;
    int64_t left = deadline - now_ns();
    return left <= 0 ? 0 : left / 1000000 >= 60000 ? 60000 : (int)(left / 1000000) + 1;
}

static void clear_signal(int fd)
{
    struct signalfd_siginfo info;
    if (read(fd, &info, sizeof info) == sizeof info)
        run_reap();
}

static int serve(int child_fd, int64_t idle_ns)
{
    struct pollfd fds[4 + RUN_POLL_FDS + STANDBY_POLL_FDS];
    talk.idle_ns = idle_ns;
    talk.received = now_ns();
    for (;;) {
        fds[0] = (struct pollfd){.fd = in_has_room() ? STDIN_FILENO : -1, .events = POLLIN};
        fds[1] = (struct pollfd){.fd = out_due() ? STDOUT_FILENO : -1, .events = POLLOUT};
        fds[2] = (struct pollfd){.fd = child_fd, .events = POLLIN};
        fds[3] = (struct pollfd){.fd = query_due() ? STDERR_FILENO : -1, .events = POLLOUT};
        run_poll_fds(fds + 4);
        standby_poll_fds(fds + 4 + RUN_POLL_FDS);
        bool running = run_deadline_ns() >= 0;
        if (poll(fds, sizeof fds / sizeof *fds, poll_timeout_ms()) < 0 && errno != EINTR)
            return EXIT_SETUP;
        if (fds[0].revents && !in_read(hello, take_query))
            return EXIT_DONE;
        run_poll_results(fds + 4);
        standby_poll_results(fds + 4 + RUN_POLL_FDS);
        if (fds[2].revents)
            clear_signal(child_fd);
        advance();
        if (fds[3].revents)
            query_advance();
        int error = compiled_advance();
        if (error)
            send_failed(STAGE_PROGRAM, error);
        if (running)
            talk.ran = now_ns();
        if (out_due() && !out_flush())
            return EXIT_DONE;
        if (no_program_lives())
            standby_advance();
        /* Also while the result of a finished program waits for a client to read it. */
        if (run_deadline_ns() < 0 && now_ns() >= idle_since_ns() + talk.idle_ns)
            return EXIT_DONE;
    }
}

/* ---- the start ---- */

static void close_inherited(void)
{
    if (syscall(SYS_close_range, 3U, ~0U, 0U) == 0)
        return;
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
}

static int watch_children(void)
{
    sigset_t all, child;
    sigfillset(&all);
    /* Nothing of what programs send harms process 1. Real-time signals are better not blocked: each
     * would be kept, and there is a limit for all sandboxes of a user together. */
    for (int number = SIGRTMIN; number <= SIGRTMAX; number++)
        sigdelset(&all, number);
    sigprocmask(SIG_SETMASK, &all, NULL);
    /* What is stopped and goes on, as standby.c's process at the end of each run, needs no attention. */
    sigaction(SIGCHLD, &(struct sigaction){.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDSTOP}, NULL);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    return signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
}

static int set_up_and_serve(const char *workspace, const char *idle_seconds, char **guarded)
{
    long long idle = atoll(idle_seconds);
    if (idle < 1 || idle > MAX_IDLE_SECONDS)
        return EXIT_USAGE;
    prctl(PR_SET_DUMPABLE, 0);
    close_inherited();
    umask(022);
    if (!token_take() || workspace_enter(workspace) != 0)
        return EXIT_SETUP;
    if (guarded[0] && !gvisor_watch(workspace, guarded))
        return EXIT_SETUP;
    int child_fd = watch_children();
    if (child_fd < 0)
        return EXIT_SETUP;
    guard_runner();
    counters_open();
    fcntl(STDIN_FILENO, F_SETFL, fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK);
    fcntl(STDOUT_FILENO, F_SETFL, fcntl(STDOUT_FILENO, F_GETFL) | O_NONBLOCK);
    fcntl(STDERR_FILENO, F_SETFL, fcntl(STDERR_FILENO, F_GETFL) | O_NONBLOCK);
    return serve(child_fd, idle * 1000000000);
}

static bool copy_all(int from, int to)
{
    char bytes[65536];
    ssize_t got;
    while ((got = read(from, bytes, sizeof bytes)) > 0)
        if (write(to, bytes, (size_t)got) != got)
            return false;
    return got == 0;
}

/* Programs can execute what is in this folder, and neither list nor open it: it is the same for all
 * sandboxes, which could lock or watch there for each other. Older versions are there as well. */
static bool shut(const char *path)
{
    char folder[4096];
    snprintf(folder, sizeof folder, "%s", path);
    char *name = strrchr(folder, '/');
    if (!name)
        return false;
    *name = '\0';
    DIR *listing = opendir(folder);
    struct dirent *entry;
    bool done = listing && fchmod(dirfd(listing), 0711) == 0;
    while (done && (entry = readdir(listing)))
        if (strncmp(entry->d_name, "runner-", 7) == 0)
            done = fchmodat(dirfd(listing), entry->d_name, 0711, 0) == 0 || errno == ENOENT;
    if (listing)
        closedir(listing);
    return done;
}

/* A copy of this program appears under `path`, whole or not at all. */
static int install(const char *path)
{
    char temporary[4096];
    uint32_t unique = 0;
    if (getrandom(&unique, sizeof unique, 0) < 0)
        return EXIT_SETUP;
    snprintf(temporary, sizeof temporary, "%s.%08x", path, unique);
    int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    int to = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0711);
    bool copied = from >= 0 && to >= 0 && copy_all(from, to) && fchmod(to, 0711) == 0 &&
                  close(to) == 0 && rename(temporary, path) == 0 && shut(path);
    if (!copied) {
        perror(path);
        unlink(temporary);
    }
    return copied ? EXIT_DONE : EXIT_SETUP;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "install") == 0)
        return install(argv[2]);
    if ((argc == 4 || argc == 8) && strcmp(argv[1], "serve") == 0)
        return set_up_and_serve(argv[2], argv[3], argv + 4);
    fprintf(stderr, "usage: runner install <path>\n"
                    "       runner serve <workspace> <idle seconds> [<memory bytes> <files> <uid> <gid>]\n");
    return EXIT_USAGE;
}
