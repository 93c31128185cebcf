/*
 * Starts the bare processes that sandboxes are compared with, in a container of the same image
 * without limits, and times them in there: neither Docker nor the load generator is in the figures.
 *
 * It reads requests and writes answers, and ends when there are no more:
 *
 *   W <bytes> <path>\n<content>      writes a file; no answer
 *   R <commands> <at once> <runs> <seconds> <bytes>\n<strings>
 *       All commands, one after the other, are one run. `runs` of them, in so many processes side by
 *       side, none is begun after `seconds`. Each command's strings end with a zero byte, the
 *       command itself with another.
 *   <status> <runs> <nanoseconds> <bytes>\n<nanoseconds of each run>\n<output>
 *       Its answer. Status 0: all went well. The output is what the last process of a single run
 *       wrote to stdout or, if it failed, to stderr.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_COMMANDS 8
#define MAX_WORDS 64
#define MAX_RUNS 100000
#define MAX_AT_ONCE 256
#define MAX_BYTES (16u << 20)
#define OUTPUT_BYTES 4096

extern char **environ;

static struct {
    atomic_uint begun, failed;
    uint64_t ns[MAX_RUNS];
} *shared;
static char *commands[MAX_COMMANDS][MAX_WORDS];
static unsigned command_count;
static char output[OUTPUT_BYTES];
static size_t output_bytes;
static int errors; /* a file in memory */

static _Noreturn void give_up(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Reads what the process writes to stdout until it has ended. */
static int run_command(char **argv, int null)
{
    int ends[2], status = 0;
    pid_t process;
    posix_spawn_file_actions_t actions;
    char rest[OUTPUT_BYTES];
    if (pipe2(ends, O_CLOEXEC) < 0)
        give_up("pipe2");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, null, 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    posix_spawn_file_actions_adddup2(&actions, errors, 2);
    int refused = posix_spawnp(&process, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    output_bytes = 0;
    if (refused) {
        close(ends[0]);
        dprintf(errors, "%s: %s\n", argv[0], strerror(refused));
        return 127;
    }
    for (;;) {
        size_t room = sizeof output - output_bytes;
        ssize_t got = room ? read(ends[0], output + output_bytes, room)
                           : read(ends[0], rest, sizeof rest);
        if (got <= 0)
            break;
        output_bytes += room ? (size_t)got : 0;
    }
    close(ends[0]);
    waitpid(process, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int run_once(int null, uint64_t *ns)
{
    if (ftruncate(errors, 0) < 0 || lseek(errors, 0, SEEK_SET) < 0)
        give_up("errors");
    uint64_t begun = now_ns();
    int status = 0;
    for (unsigned i = 0; i < command_count && status == 0; i++)
        status = run_command(commands[i], null);
    *ns = now_ns() - begun;
    return status;
}

/* One of those side by side, in a folder of its own: compilers write there. */
static _Noreturn void work(unsigned number, unsigned runs, uint64_t deadline, int null)
{
    char folder[16];
    snprintf(folder, sizeof folder, "%u", number);
    if ((mkdir(folder, 0755) < 0 && errno != EEXIST) || chdir(folder) < 0)
        give_up(folder);
    errors = memfd_create("errors", MFD_CLOEXEC);
    unsigned mine;
    while (now_ns() < deadline && (mine = atomic_fetch_add(&shared->begun, 1)) < runs)
        if (run_once(null, &shared->ns[mine]) != 0)
            atomic_fetch_add(&shared->failed, 1);
    _exit(0);
}

static unsigned run_at_once(unsigned at_once, unsigned runs, uint64_t deadline, int null)
{
    atomic_store(&shared->begun, 0);
    atomic_store(&shared->failed, 0);
    for (unsigned i = 0; i < at_once; i++) {
        pid_t worker = fork();
        if (worker < 0)
            give_up("fork");
        if (worker == 0)
            work(i, runs, deadline, null);
    }
    for (;;) {
        int status;
        pid_t gone = wait(&status);
        if (gone < 0)
            break;
        if (status != 0)
            atomic_fetch_add(&shared->failed, 1);
    }
    unsigned begun = atomic_load(&shared->begun);
    return begun < runs ? begun : runs;
}

static void parse_commands(char *at, const char *end, unsigned count)
{
    if (count > MAX_COMMANDS)
        give_up("too many commands");
    for (command_count = 0; command_count < count; command_count++) {
        unsigned words = 0;
        while (at < end && *at && words + 1 < MAX_WORDS) {
            commands[command_count][words++] = at;
            at += strlen(at) + 1;
        }
        commands[command_count][words] = NULL;
        if (words == 0 || at++ >= end)
            give_up("no command");
    }
}

static void answer(unsigned status, unsigned runs, uint64_t ns)
{
    if (status) {
        ssize_t got = pread(errors, output, sizeof output, 0);
        output_bytes = got > 0 ? (size_t)got : 0;
    }
    printf("%u %u %" PRIu64 " %zu\n", status, runs, ns, output_bytes);
    for (unsigned i = 0; i < runs; i++)
        printf("%" PRIu64 " ", shared->ns[i]);
    putchar('\n');
    fwrite(output, 1, output_bytes, stdout);
    if (fflush(stdout) != 0)
        exit(0);
}

static char *read_bytes(unsigned length)
{
    if (length > MAX_BYTES)
        give_up("too long");
    char *bytes = malloc(length + 1u);
    if (!bytes || fread(bytes, 1, length, stdin) != length)
        exit(0);
    bytes[length] = 0;
    return bytes;
}

static void write_file(const char *line)
{
    unsigned length;
    char path[256];
    if (sscanf(line, "W %u %255s", &length, path) != 2)
        give_up("a malformed W");
    char *content = read_bytes(length);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, content, length) != (ssize_t)length)
        give_up(path);
    close(fd);
    free(content);
}

static void run(const char *line, int null)
{
    unsigned count, at_once, runs, seconds, length, status = 0;
    if (sscanf(line, "R %u %u %u %u %u", &count, &at_once, &runs, &seconds, &length) != 5 ||
        at_once < 1 || at_once > MAX_AT_ONCE || runs < 1 || runs > MAX_RUNS)
        give_up("a malformed R");
    char *strings = read_bytes(length);
    parse_commands(strings, strings + length, count);
    uint64_t begun = now_ns();
    if (at_once == 1 && runs == 1) {
        status = (unsigned)run_once(null, &shared->ns[0]);
    } else {
        runs = run_at_once(at_once, runs, begun + (uint64_t)seconds * 1000000000, null);
        status = atomic_load(&shared->failed);
        output_bytes = 0;
    }
    answer(status, runs, now_ns() - begun);
    free(strings);
}

int main(void)
{
    char line[512];
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    errors = memfd_create("errors", MFD_CLOEXEC);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (null < 0 || errors < 0 || shared == MAP_FAILED)
        give_up("starter");
    while (fgets(line, sizeof line, stdin)) {
        if (line[0] == 'W')
            write_file(line);
        else
            run(line, null);
    }
    return 0;
}
