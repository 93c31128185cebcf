/*
 * What a client wants to be started, and the process that becomes it.
 */
#define _GNU_SOURCE
#include "runner.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define EXEC_HEAD_BYTES 24

extern char **environ;

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
static bool inherit_environment(struct order *order)
{
    char **env = order->env;
    size_t count = order->own_variables;
    for (char **inherited = environ; *inherited; inherited++) {
        size_t i = 0;
        while (i < order->own_variables && !same_variable(env[i], *inherited))
            i++;
        if (i < order->own_variables)
            continue;
        if (count == MAX_STRINGS)
            return false;
        env[count++] = *inherited;
    }
    env[count] = NULL;
    return true;
}

bool order_parse(struct order *order, const unsigned char *payload, size_t length)
{
    const unsigned char *at = payload + EXEC_HEAD_BYTES, *end = payload + length;
    if (length < EXEC_HEAD_BYTES)
        return false;
    order->wall_ns = (int64_t)load_u32(payload) * 1000000;
    order->caps[0] = load_u64(payload + 4);
    order->caps[1] = load_u64(payload + 12);
    size_t arguments = (size_t)payload[20] << 8 | payload[21];
    order->own_variables = (size_t)payload[22] << 8 | payload[23];
    if (arguments == 0 || arguments > MAX_STRINGS || order->own_variables > MAX_STRINGS ||
        !(order->cwd = next_string(&at, end)) || !next_strings(order->argv, arguments, &at, end) ||
        !next_strings(order->env, order->own_variables, &at, end))
        return false;
    order->options = at < end ? *at : 0;
    order->cpu_ns = end - at > 4 ? (uint64_t)load_u32(at + 1) * 1000000 : 0;
    return inherit_environment(order);
}

/* ---- the start ---- */

/* Makes the kernel kill programs rather than the runner. A process that may not be dumped, as this
 * child of the runner still is, can't open its own /proc files: so that is changed first. */
static void be_killed_first(const char *score)
{
    token_wipe();
    prctl(PR_SET_DUMPABLE, 1);
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, score, strlen(score)) < 0) {
        /* Some kernels don't allow it; there is nothing else to try. */
    }
    if (fd >= 0)
        close(fd);
}

_Noreturn void become_program(const struct order *order, const int fds[3], int failure_fd,
                              const char *oom_score)
{
    sigset_t none;
    sigemptyset(&none);
    setsid();
    be_killed_first(oom_score);
    if (dup2(fds[0], 0) >= 0 && dup2(fds[1], 1) >= 0 && dup2(fds[2], 2) >= 0 &&
        chdir(order->cwd) == 0 && sigprocmask(SIG_SETMASK, &none, NULL) == 0 && gvisor_confine()) {
        environ = (char **)order->env;
        execvp(order->argv[0], order->argv);
    }
    int error = errno;
    if (write(failure_fd, &error, sizeof error) < 0)
        _exit(126);
    _exit(127);
}

int open_pipes(int (*pipes)[2], size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (pipe2(pipes[i], O_CLOEXEC) < 0) {
            int error = errno;
            close_pipes(pipes, i);
            return error;
        }
    return 0;
}

void close_pipes(int (*pipes)[2], size_t count)
{
    for (size_t i = 0; i < count; i++) {
        close_fd(&pipes[i][0]);
        close_fd(&pipes[i][1]);
    }
}

void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}
