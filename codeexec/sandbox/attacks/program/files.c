#define _GNU_SOURCE
#include "attack.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

ssize_t read_file(const char *path, char *into, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    size_t length = 0;
    ssize_t got = fd < 0 ? -1 : 0;
    while (fd >= 0 && length < size - 1 && (got = read(fd, into + length, size - 1 - length)) > 0)
        length += (size_t)got;
    into[length] = '\0';
    if (fd >= 0)
        close(fd);
    return got < 0 && length == 0 ? -1 : (ssize_t)length;
}

void close_keeping_errno(int fd)
{
    int error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
}

void cannot_write(const char *path)
{
    char what[PATH_MAX + 32];
    snprintf(what, sizeof what, "open %s for writing", path);
    int fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
    close_keeping_errno(fd);
    REFUSED(what, fd, ENOENT, ENOTDIR, ENXIO, EBUSY, EISDIR, ETXTBSY, ENODEV);
}

void cannot_read(const char *path)
{
    char text[64], what[PATH_MAX + 32];
    snprintf(what, sizeof what, "read %s", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text);
    close_keeping_errno(fd);
    if (got == 0)
        held("%s: it is empty", what);
    else
        REFUSED(what, got, ENOENT, ENOTDIR, ENXIO, EINVAL, EIO, ENODEV, ESRCH, EISDIR);
}

static bool is_part_of_word(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '-' || c == '.';
}

bool contains_word(const char *text, const char *word)
{
    size_t length = strlen(word);
    if (length == 0)
        return false;
    for (const char *at = text; (at = strstr(at, word)); at++)
        if ((at == text || !is_part_of_word(at[-1])) && !is_part_of_word(at[length]))
            return true;
    return false;
}

int walk(const char *folder, int depth, int (*visit)(const char *path))
{
    DIR *entries = opendir(folder);
    struct dirent *entry;
    int found = 0;
    while (entries && !found && (entry = readdir(entries))) {
        char path[PATH_MAX];
        struct stat about;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (snprintf(path, sizeof path, "%s/%s", strcmp(folder, "/") ? folder : "",
                     entry->d_name) >= (int)sizeof path)
            continue;
        found = visit(path);
        if (!found && depth > 1 && lstat(path, &about) == 0 && S_ISDIR(about.st_mode))
            found = walk(path, depth - 1, visit);
    }
    if (entries)
        closedir(entries);
    return found;
}

void sleep_ms(long ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}
