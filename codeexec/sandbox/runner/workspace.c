/*
 * Files written on a client's behalf. A program of an earlier run may have planted anything here,
 * so each component of a path is opened by itself and a symbolic link is never followed.
 */
#define _GNU_SOURCE
#include "runner.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

/* A program may have shut everybody out of its own folder, those that come after it included. */
void workspace_unlock(void)
{
    if (chmod(root_path, 0755) < 0) {
        /* What is asked for next fails and says why. */
    }
}

static bool is_plain(const char *component)
{
    return *component && strcmp(component, ".") != 0 && strcmp(component, "..") != 0 &&
           strlen(component) <= NAME_MAX;
}

/* Steps into `name`, made when it is missing. Returns the new folder or -1; `folder` is closed. */
static int step_into(int folder, const char *name)
{
    int flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int next = openat(folder, name, flags);
    if (next < 0 && errno == ENOENT && (mkdirat(folder, name, 0755) == 0 || errno == EEXIST))
        next = openat(folder, name, flags);
    int error = errno;
    close(folder);
    errno = error;
    return next;
}

/* A folder can't be removed while there is something in it, but it can be called otherwise. */
static int move_aside(int folder, const char *name)
{
    char other[NAME_MAX + 1];
    for (int number = 1; number < 1000; number++) {
        if (snprintf(other, sizeof other, "%.230s.folder-%d", name, number) < 0)
            return -1;
        if (renameat2(folder, name, folder, other, RENAME_NOREPLACE) == 0)
            return 0;
        if (errno != EEXIST)
            return -1;
    }
    return -1;
}

/* Whatever has the name gives way, a folder by getting another; so neither a link is followed nor a
 * FIFO waited for. */
static int create(int folder, const char *name, mode_t mode)
{
    if (unlinkat(folder, name, 0) < 0 && errno != ENOENT &&
        ((errno != EISDIR && errno != EPERM) || move_aside(folder, name) < 0))
        return -1;
    return openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
}

int workspace_open(const unsigned char *path, size_t length, mode_t mode)
{
    char copy[PATH_MAX];
    workspace_close();
    if (length >= sizeof copy || memchr(path, 0, length))
        return ENAMETOOLONG;
    memcpy(copy, path, length);
    copy[length] = '\0';

    char *name = copy, *slash;
    int folder = fcntl(root, F_DUPFD_CLOEXEC, 3);
    while (folder >= 0 && (slash = strchr(name, '/'))) {
        *slash = '\0';
        if (!is_plain(name))
            break;
        folder = step_into(folder, name);
        name = slash + 1;
    }
    if (folder < 0)
        return errno;
    if (!is_plain(name)) {
        close(folder);
        return EINVAL;
    }
    file.fd = create(folder, name, mode);
    file.folder = folder;
    int error = file.fd < 0 ? errno : 0;
    strcpy(file.name, name);
    if (error)
        workspace_close();
    return error;
}

/* A file that could not be written whole is removed: half a program must not be run. */
int workspace_append(const unsigned char *data, size_t length)
{
    while (length > 0) {
        ssize_t wrote = write(file.fd, data, length);
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
