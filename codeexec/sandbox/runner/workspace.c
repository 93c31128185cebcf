/*
 * Writes a client's files. A program of an earlier run may have left anything here, so each part of a
 * path is opened by itself and a symbolic link is never followed.
 */
#define _GNU_SOURCE
#include "runner.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_DEPTH = 64 };

static int root = -1;
static const char *root_path;
static struct {
    int fd, folder;
    char name[NAME_MAX + 1];
} file = {-1, -1, ""};

int workspace_enter(const char *folder)
{
    root_path = folder;
    root = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return root < 0 || chdir(folder) < 0 ? errno : 0;
}

int workspace_root(void)
{
    return root;
}

const char *workspace_path(void)
{
    return root_path;
}

/* A program may have closed its own folders, to later programs too. */
void workspace_unlock(void)
{
    bool open = chmod(root_path, 0755) == 0;
    if (chmod("/tmp", 01777) < 0 || !open) {
        /* The next step fails and reports why. */
    }
}

static bool is_plain(const char *component, size_t length)
{
    bool dots = length <= 2 && strspn(component, ".") >= length;
    return length > 0 && length <= NAME_MAX && !dots;
}

static bool is_plain_path(const char *path)
{
    for (;; path++) {
        size_t length = strcspn(path, "/");
        if (!is_plain(path, length))
            return false;
        path += length;
        if (!*path)
            return true;
    }
}

/* Counts up while that is quick, which is easy to read; then takes a random name. */
static unsigned other_number(unsigned tries)
{
    unsigned number = tries;
    if (tries > 100 && getrandom(&number, sizeof number, 0) < 0) {
        /* Its mode stays. */
    }
    return number;
}

/* What can't be removed, or may be a candidate's work, gets another name. */
static int move_aside(int folder, const char *name, const char *kind)
{
    char other[NAME_MAX + 1];
    for (unsigned tries = 1; tries < 200; tries++) {
        if (snprintf(other, sizeof other, "%.220s.%s-%u", name, kind, other_number(tries)) < 0)
            return -1;
        if (renameat2(folder, name, folder, other, RENAME_NOREPLACE) == 0)
            return 0;
        if (errno != EEXIST)
            return -1;
    }
    return -1;
}

/* gVisor follows a link in spite of O_NOFOLLOW where a folder is to be read, but not with O_PATH. */
int workspace_open_folder(int parent, const char *name)
{
    int place = openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int folder = place < 0 ? -1 : openat(place, ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    int error = errno;
    if (place >= 0)
        close(place);
    errno = error;
    return folder;
}

/* A program may have closed its own folder, which belongs to the user that the runner acts as. */
static void open_up(int parent, const char *name)
{
    struct stat about;
    if (fstatat(parent, name, &about, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(about.st_mode) &&
        (about.st_mode & 0700) != 0700 && fchmodat(parent, name, about.st_mode | 0700, 0) < 0) {
        /* The next step fails and reports why. */
    }
}

/* Opens the folder `name`, which is made when it is missing; anything else of that name is removed or
 * renamed. Returns the folder or -1, and closes `folder`. */
static int step_into(int folder, const char *name)
{
    int flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int next = openat(folder, name, flags);
    if (next < 0 && (errno == ENOTDIR || errno == ELOOP) && move_aside(folder, name, "file") == 0)
        errno = ENOENT;
    if (next < 0 && errno == ENOENT && (mkdirat(folder, name, 0755) == 0 || errno == EEXIST))
        next = openat(folder, name, flags);
    int error = errno;
    if (next >= 0)
        open_up(folder, name);
    close(folder);
    errno = error;
    return next;
}

/* Removes what has the name, and renames it where it is a folder: so no link is followed and no FIFO
 * is waited for. */
static int create(int folder, const char *name, mode_t mode)
{
    if (unlinkat(folder, name, 0) < 0 && errno != ENOENT &&
        ((errno != EISDIR && errno != EPERM) || move_aside(folder, name, "folder") < 0))
        return -1;
    return openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
}

/* False: a part of it is left. */
static bool remove_tree(int parent, const char *name, int depth)
{
    struct dirent *entry;
    open_up(parent, name);
    int fd = depth < MAX_DEPTH ? openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                               : -1;
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    bool removed = folder != NULL;
    while (removed && (entry = readdir(folder)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            removed = unlinkat(fd, entry->d_name, 0) == 0 ||
                      ((errno == EISDIR || errno == EPERM) &&
                       remove_tree(fd, entry->d_name, depth + 1));
    if (folder)
        closedir(folder);
    else if (fd >= 0)
        close(fd);
    return removed && unlinkat(parent, name, AT_REMOVEDIR) == 0;
}

void workspace_clear(const char *in, const char *name)
{
    int folder = open(in, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return;
    bool gone = unlinkat(folder, name, 0) == 0 || errno == ENOENT || remove_tree(folder, name, 0);
    if (!gone && move_aside(folder, name, "folder") < 0) {
        /* What needs the name reports it. */
    }
    close(folder);
}

/* Takes over `folder`. Returns 0 or errno. */
static int begin_file(int folder, const char *name, mode_t mode)
{
    file.fd = create(folder, name, mode);
    file.folder = folder;
    int error = file.fd < 0 ? errno : 0;
    strcpy(file.name, name);
    if (error)
        workspace_close();
    return error;
}

int workspace_open(const unsigned char *path, size_t length, mode_t mode)
{
    char copy[PATH_MAX];
    workspace_close();
    if (length >= sizeof copy || memchr(path, 0, length))
        return ENAMETOOLONG;
    memcpy(copy, path, length);
    copy[length] = '\0';

    if (!is_plain_path(copy)) /* before a file that is in the way of its folders is moved */
        return EINVAL;
    char *name = copy, *slash;
    int folder = fcntl(root, F_DUPFD_CLOEXEC, 3);
    while (folder >= 0 && (slash = strchr(name, '/'))) {
        *slash = '\0';
        folder = step_into(folder, name);
        name = slash + 1;
    }
    if (folder < 0)
        return errno;
    return begin_file(folder, name, mode);
}

int workspace_open_program(mode_t mode)
{
    workspace_close();
    workspace_clear(PROGRAM_FOLDER, PROGRAM_NAME);
    int folder = open(PROGRAM_FOLDER, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return folder < 0 ? errno : begin_file(folder, PROGRAM_NAME, mode);
}

/* A file that could not be written whole is removed: half a program must not be run. */
int workspace_append(const unsigned char *data, size_t length)
{
    while (length > 0) {
        errno = ENOMEM;
        ssize_t wrote = memory_left(length) ? write(file.fd, data, length) : -1;
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote < 0) {
            int error = errno;
            if (file.folder >= 0)
                unlinkat(file.folder, file.name, 0);
            workspace_close();
            return error;
        }
        data += wrote;
        length -= (size_t)wrote;
    }
    return 0;
}

void workspace_close(void)
{
    if (file.fd >= 0)
        close(file.fd);
    if (file.folder >= 0)
        close(file.folder);
    file.fd = file.folder = -1;
}
