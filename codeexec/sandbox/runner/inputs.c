/*
 * The fingerprint of everything that a compiler could read here and a program, or a client, could
 * have written: all writable folders. Programs may have left anything there, so nothing but folders
 * and regular files is accepted, no link is followed, and the work is bounded. What is beyond that
 * has no fingerprint: then the compiler is started, as it would be anyway.
 */
#define _GNU_SOURCE
#include "runner.h"

#include "blake2b.h"
#include "clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEEPEST = 32, MAX_ENTRIES = 1024, MAX_NAME_BYTES = 64 * 1024 };
#ifndef WRITABLE_FOLDERS /* besides the workspace: see container_config() in ../policy.py */
#define WRITABLE_FOLDERS "/tmp", "/var/tmp", "/dev/shm"
#endif
#define MAX_BYTES ((uint64_t)4 * 1024 * 1024)
#define MAX_NS (100 * (int64_t)1000000)
#define OPEN_FLAGS (O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

static struct {
    struct blake2b hash;
    char names[MAX_NAME_BYTES];
    const char *entries[MAX_ENTRIES];
    size_t name_bytes, count;
    uint64_t bytes; /* that may still be read */
    int64_t deadline;
} walk;

static bool add_file(int folder, const char *name, const struct stat *listed)
{
    static unsigned char piece[64 * 1024];
    struct stat about;
    unsigned char size[8];
    uint64_t left = (uint64_t)listed->st_size;
    if (left > walk.bytes)
        return false;
    int fd = openat(folder, name, OPEN_FLAGS);
    if (fd < 0)
        return false;
    bool same = fstat(fd, &about) == 0 && S_ISREG(about.st_mode) && about.st_size == listed->st_size;
    walk.bytes -= left;
    store_u64(size, left);
    blake2b_add(&walk.hash, size, sizeof size);
    while (same && left > 0) {
        ssize_t got = read(fd, piece, left < sizeof piece ? left : sizeof piece);
        if (got < 0 && errno == EINTR)
            continue;
        same = got > 0 && now_ns() < walk.deadline;
        if (got > 0) {
            blake2b_add(&walk.hash, piece, (size_t)got);
            left -= (uint64_t)got;
        }
    }
    close(fd);
    return same;
}

static bool add_folder(int fd, int depth, const char *without);

/* Names end in a zero byte, which no name has. */
static bool add_entry(int folder, const char *name, int depth)
{
    struct stat about;
    unsigned char head[5];
    if (fstatat(folder, name, &about, AT_SYMLINK_NOFOLLOW) < 0)
        return false;
    head[0] = S_ISDIR(about.st_mode) ? 'd' : 'f';
    store_u32(head + 1, about.st_mode & 07777);
    blake2b_add(&walk.hash, head, sizeof head);
    blake2b_add(&walk.hash, name, strlen(name) + 1);
    if (S_ISREG(about.st_mode))
        return add_file(folder, name, &about);
    return S_ISDIR(about.st_mode) && depth < DEEPEST &&
           add_folder(workspace_open_folder(folder, name), depth + 1, NULL);
}

static bool keep_name(const char *name)
{
    size_t length = strlen(name) + 1;
    if (walk.count == MAX_ENTRIES || walk.name_bytes + length > sizeof walk.names)
        return false;
    walk.entries[walk.count++] = memcpy(walk.names + walk.name_bytes, name, length);
    walk.name_bytes += length;
    return true;
}

static int by_name(const void *one, const void *other)
{
    return strcmp(*(const char *const *)one, *(const char *const *)other);
}

/* The order in which a folder lists its entries depends on when they were made. */
static bool list_sorted(DIR *folder, const char *without)
{
    size_t first = walk.count;
    struct dirent *entry;
    bool listed = true;
    errno = 0;
    while (listed && (entry = readdir(folder)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            !(without && strcmp(entry->d_name, without) == 0))
            listed = keep_name(entry->d_name);
    qsort(walk.entries + first, walk.count - first, sizeof *walk.entries, by_name);
    return listed && errno == 0;
}

/* Closes it. */
static bool add_folder(int fd, int depth, const char *without)
{
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (!folder) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    size_t first = walk.count;
    bool added = list_sorted(folder, without);
    for (size_t i = first, end = walk.count; added && i < end; i++)
        added = now_ns() < walk.deadline && add_entry(dirfd(folder), walk.entries[i], depth);
    closedir(folder);
    blake2b_add(&walk.hash, "/", 1); /* no entry begins so */
    return added;
}

/* False: there is none. Without the program: as it was before that was compiled. */
bool inputs_fingerprint(unsigned char digest[FINGERPRINT_BYTES], bool without_program)
{
    const char *const folders[] = {workspace_path(), WRITABLE_FOLDERS};
    bool added = true;
    walk.name_bytes = walk.count = 0;
    walk.bytes = MAX_BYTES;
    walk.deadline = now_ns() + MAX_NS;
    blake2b_begin(&walk.hash);
    for (size_t i = 0; added && i < sizeof folders / sizeof *folders; i++) {
        bool has_program = without_program && strcmp(folders[i], PROGRAM_FOLDER) == 0;
        added = add_folder(open(folders[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC), 0,
                           has_program ? PROGRAM_NAME : NULL);
    }
    blake2b_end(&walk.hash, digest);
    return added;
}
