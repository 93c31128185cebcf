/*
 * Answers queries about the workspace while programs run in it. Queries arrive between the frames of
 * the client that runs programs and are answered on stderr, which that client doesn't read: so neither
 * client ever waits for the other, and a query ends and changes nothing.
 *
 * A hostile program may change everything while it is being read. Each folder is entered from the one
 * above it, nothing but regular files is ever opened, no link is followed, and nothing can wait: a
 * file whose owner holds a lease on it, which would make an open wait, counts as one that can't be
 * read. The work is done in short turns.
 */
#define _GNU_SOURCE
#include "runner.h"

#include "clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_QUERIES 8
#define MAX_DEPTH 64
#define PIECE_BYTES (64 * 1024)
#define TURN_BYTES (32 * 1024)
#define TURN_NS (2 * (int64_t)1000000)
#define QUERY_NS (20 * (int64_t)1000000000)
#define ENTRY_HEAD_BYTES 22
#define OPEN_FLAGS (O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

static struct workspace_query queries[MAX_QUERIES]; /* the first is being answered */
static int waiting;
static struct {
    bool begun;
    uint32_t id, entries; /* entries, bytes: how many more may be shown */
    uint64_t bytes;
    int64_t deadline;
    bool cut;
    int depth, file;
    DIR *folders[MAX_DEPTH];
    size_t lengths[MAX_DEPTH]; /* of each folder's path, with the slash at its end */
    char path[PATH_MAX];
    uint64_t left; /* bytes of the file */
} walk;
static struct {
    unsigned char bytes[TURN_BYTES + FRAME_BYTES(PIECE_BYTES) + 2 * FRAME_BYTES(PATH_MAX)];
    size_t sent, end;
} shown;

static void seal(uint8_t type, size_t length)
{
    unsigned char *at = shown.bytes + shown.end;
    at[0] = type;
    store_u32(at + 1, walk.id);
    store_u32(at + 5, (uint32_t)length);
    at[HEADER_BYTES + length] = 0;
    shown.end += FRAME_BYTES(length);
}

static void show(uint8_t type, const void *payload, size_t length)
{
    memcpy(shown.bytes + shown.end + HEADER_BYTES, payload, length);
    seal(type, length);
}

static void close_file(void)
{
    if (walk.file >= 0)
        close(walk.file);
    walk.file = -1;
}

static void finish(int error)
{
    unsigned char bytes[5] = {0};
    store_u32(bytes, (uint32_t)error);
    bytes[4] = walk.cut;
    show(ANSWER_END, bytes, sizeof bytes);
    walk.begun = false;
    close_file();
    while (walk.depth > 0)
        closedir(walk.folders[--walk.depth]);
    memmove(queries, queries + 1, (size_t)--waiting * sizeof *queries);
}

/* ---- files and folders ---- */

static bool is_regular(int fd, struct stat *about)
{
    return fd >= 0 && fstat(fd, about) == 0 && S_ISREG(about->st_mode);
}

static void show_entry(const struct stat *about, bool with_content)
{
    unsigned char *at = shown.bytes + shown.end + HEADER_BYTES;
    size_t length = strlen(walk.path);
    at[0] = S_ISREG(about->st_mode)   ? 'f'
            : S_ISDIR(about->st_mode) ? 'd'
            : S_ISLNK(about->st_mode) ? 'l'
                                      : 'o';
    at[1] = with_content;
    store_u32(at + 2, about->st_mode & 07777);
    store_u64(at + 6, (uint64_t)about->st_size);
    store_u64(at + 14, (uint64_t)about->st_mtim.tv_sec * 1000000000 + (uint64_t)about->st_mtim.tv_nsec);
    memcpy(at + ENTRY_HEAD_BYTES, walk.path, length);
    seal(ANSWER_ENTRY, ENTRY_HEAD_BYTES + length);
}

static bool enter(int parent, const char *name)
{
    int fd = workspace_open_folder(parent, name);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (!folder && fd >= 0)
        close(fd);
    if (!folder)
        return false;
    size_t length = strlen(walk.path);
    if (length > 0)
        walk.path[length++] = '/';
    walk.lengths[walk.depth] = length;
    walk.folders[walk.depth++] = folder;
    return true;
}

/* Its content follows if it can be read and is no more than may still be shown. */
static void show_file(int folder, const char *name, struct stat *about)
{
    int fd = openat(folder, name, OPEN_FLAGS);
    bool readable = is_regular(fd, about), fits = (uint64_t)about->st_size <= walk.bytes;
    show_entry(about, readable && fits);
    walk.cut |= !fits;
    if (readable && fits) {
        walk.file = fd;
        walk.left = (uint64_t)about->st_size;
        walk.bytes -= walk.left;
    } else if (fd >= 0) {
        close(fd);
    }
}

static void show_next(void)
{
    struct stat about;
    int level = walk.depth - 1;
    struct dirent *entry = readdir(walk.folders[level]);
    if (!entry) {
        closedir(walk.folders[--walk.depth]);
        return;
    }
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
        return;
    int folder = dirfd(walk.folders[level]);
    size_t length = walk.lengths[level] + strlen(entry->d_name);
    if (walk.entries == 0 || length + 2 > sizeof walk.path) {
        walk.cut = true;
        if (walk.entries == 0)
            finish(0);
        return;
    }
    strcpy(walk.path + walk.lengths[level], entry->d_name);
    if (fstatat(folder, entry->d_name, &about, AT_SYMLINK_NOFOLLOW) < 0)
        return; /* it has gone meanwhile */
    walk.entries--;
    if (S_ISREG(about.st_mode) && queries[0].kind == QUERY_CONTENTS) {
        show_file(folder, entry->d_name, &about);
        return;
    }
    show_entry(&about, false);
    if (S_ISDIR(about.st_mode))
        walk.cut |= walk.depth == MAX_DEPTH || !enter(folder, entry->d_name);
}

/* No more than it had when it was opened, which is the size that its entry shows. */
static void show_content(void)
{
    size_t most = walk.left < PIECE_BYTES ? (size_t)walk.left : PIECE_BYTES;
    ssize_t got = read(walk.file, shown.bytes + shown.end + HEADER_BYTES, most);
    if (got <= 0) {
        close_file();
        return;
    }
    walk.left -= (uint64_t)got;
    seal(ANSWER_CONTENT, (size_t)got);
}

/* ---- one file ---- */

static int not_a_file(mode_t mode)
{
    return S_ISDIR(mode) ? EISDIR : S_ISLNK(mode) ? ELOOP : EINVAL;
}

/* The folder that holds the path's last part, which `name` then is; else -1. */
static int folder_of(char *path, char **name)
{
    int folder = fcntl(workspace_root(), F_DUPFD_CLOEXEC, 3);
    char *slash;
    *name = path;
    while (folder >= 0 && (slash = strchr(*name, '/'))) {
        *slash = '\0';
        bool up = strcmp(*name, "..") == 0;
        int next = up ? -1 : openat(folder, *name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int error = up ? EINVAL : errno;
        close(folder);
        errno = error;
        folder = next;
        *name = slash + 1;
    }
    return folder;
}

/* 0 or errno. */
static int open_file(const char *path)
{
    char parts[QUERY_PATH_BYTES + 1], *name;
    struct stat about;
    strcpy(parts, path);
    strcpy(walk.path, path);
    int folder = folder_of(parts, &name), error = 0;
    if (folder < 0)
        return errno;
    if (fstatat(folder, name, &about, AT_SYMLINK_NOFOLLOW) < 0)
        error = errno;
    else if (!S_ISREG(about.st_mode)) /* opening a FIFO would wake the process at its other end */
        error = not_a_file(about.st_mode);
    else if ((walk.file = openat(folder, name, OPEN_FLAGS)) < 0)
        error = errno;
    else if (!is_regular(walk.file, &about))
        error = EINVAL;
    else if ((walk.left = (uint64_t)about.st_size) > walk.bytes)
        error = EFBIG;
    close(folder);
    if (!error)
        show_entry(&about, true);
    return error;
}

/* ---- queries ---- */

static void show_figures(void)
{
    struct figures figures = figures_now();
    unsigned char bytes[48];
    store_u64(bytes, figures.memory_bytes);
    store_u64(bytes + 8, figures.memory_limit);
    store_u64(bytes + 16, figures.cpu_ns);
    store_u64(bytes + 24, figures.processes);
    store_u64(bytes + 32, figures.process_limit);
    store_u64(bytes + 40, (uint64_t)now_ns());
    show(ANSWER_FIGURES, bytes, sizeof bytes);
    finish(0);
}

static void acknowledge(const struct workspace_query *query)
{
    unsigned char bytes[NONCE_BYTES + 1];
    memcpy(bytes, query->nonce, NONCE_BYTES);
    bytes[NONCE_BYTES] = PROTOCOL_VERSION;
    show(RUNNER_ACK, bytes, sizeof bytes);
}

static void start(void)
{
    const struct workspace_query *query = queries;
    int error = 0;
    walk.begun = true;
    walk.id = load_u32(query->nonce);
    walk.entries = query->number;
    walk.bytes = query->bytes;
    walk.deadline = now_ns() + QUERY_NS;
    walk.cut = false;
    walk.file = -1;
    walk.path[0] = '\0';
    acknowledge(query);
    switch (query->kind) {
    case QUERY_LIST:
    case QUERY_CONTENTS:
        error = enter(workspace_root(), ".") ? 0 : errno;
        break;
    case QUERY_FILE:
        error = open_file(query->path);
        break;
    case QUERY_FIGURES:
        show_figures();
        return;
    default: /* QUERY_KEEP, which main.c has carried out */
        finish(query->kind == QUERY_KEEP ? 0 : EPROTO);
        return;
    }
    if (error)
        finish(error);
}

void query_begin(const struct workspace_query *query)
{
    if (waiting == MAX_QUERIES)
        return; /* the client notices that no answer comes */
    queries[waiting++] = *query;
}

static bool flush(void)
{
    while (shown.sent < shown.end) {
        ssize_t wrote = write(STDERR_FILENO, shown.bytes + shown.sent, shown.end - shown.sent);
        if (wrote < 0 && errno == EAGAIN)
            return false;
        shown.sent = wrote < 0 ? shown.end : shown.sent + (size_t)wrote; /* the reader is gone */
    }
    shown.sent = shown.end = 0;
    return true;
}

bool query_due(void)
{
    return waiting > 0 || shown.end > 0;
}

static void take_turn(void)
{
    int64_t now = now_ns(), until = now + TURN_NS;
    while (walk.begun && shown.end < TURN_BYTES && now < until) {
        if (now > walk.deadline)
            finish(ETIMEDOUT);
        else if (walk.file >= 0)
            show_content();
        else if (walk.depth > 0)
            show_next();
        else
            finish(0);
        now = now_ns();
    }
}

void query_advance(void)
{
    if (!flush())
        return;
    if (!walk.begun && waiting > 0)
        start();
    take_turn();
    flush();
}
