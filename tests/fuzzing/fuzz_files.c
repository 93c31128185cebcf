/*
 * Files written on a client's behalf, in a real folder in which programs have planted what they
 * like: links to the outside, FIFOs, folders in the way. Nothing outside changes, no descriptor is
 * lost, nothing blocks, and what was written is there, reached without a link.
 */
#define REAL_FILES
#define PROGRAM_FOLDER "." /* the workspace, where programs have planted something */
#define PROGRAM_NAME "a"
#define WRITABLE_FOLDERS "."
#include "kernel.h"

#include <ftw.h>
#include <linux/openat2.h>

#define OUTSIDE "../outside"

static char scratch[PATH_MAX / 2], workspace[PATH_MAX];

static void on_told(const unsigned char *bytes, size_t length)
{
    (void)bytes, (void)length;
}

static bool next_event(void)
{
    return false;
}

static void check_at_rest(void)
{
}

/* ---- the place ---- */

static int remove_one(const char *path, const struct stat *facts, int kind, struct FTW *place)
{
    (void)facts;
    return place->level == 0 ? 0 : kind == FTW_DP ? rmdir(path) : unlink(path);
}

static int unlock_one(const char *path, const struct stat *facts, int kind, struct FTW *place)
{
    (void)facts, (void)place;
    return kind == FTW_D || kind == FTW_DNR ? chmod(path, 0755) : 0;
}

static int is_extraordinary(const char *path, const struct stat *facts, int kind, struct FTW *place)
{
    (void)path, (void)kind, (void)place;
    return !S_ISREG(facts->st_mode) && !S_ISDIR(facts->st_mode);
}

static void begin_place(void)
{
    const char *parent = getenv("FUZZ_SCRATCH");
    snprintf(scratch, sizeof scratch, "%s/files-XXXXXX", parent ? parent : "/tmp");
    MUST(mkdtemp(scratch) && chdir(scratch) == 0);
    MUST(mkdir("outside", 0755) == 0 && mkdir("workspace", 0755) == 0);
    int fd = open("outside/kept", O_WRONLY | O_CREAT | O_EXCL, 0600);
    MUST(fd >= 0 && write(fd, "kept", 4) == 4 && close(fd) == 0);
    snprintf(workspace, sizeof workspace, "%s/workspace", scratch);
    umask(022);
}

static void end_place(void)
{
    if (chdir("/") == 0)
        nftw(scratch, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    rmdir(scratch);
}

static void clear_workspace(void)
{
    int rounds = 0;
    MUST(chmod(workspace, 0755) == 0);
    do /* a folder that is shut is opened too late to be looked into, and what is in it may be shut */
        nftw(".", unlock_one, 8, FTW_PHYS);
    while (nftw(".", remove_one, 8, FTW_DEPTH | FTW_PHYS) != 0 && ++rounds < 100);
    MUST(rounds < 100);
}

static void check_outside(void)
{
    char bytes[8];
    struct stat facts;
    int entries = 0;
    DIR *folder = opendir(OUTSIDE);
    MUST(folder);
    while (readdir(folder))
        entries++;
    closedir(folder);
    MUST(entries == 3);
    int fd = open(OUTSIDE "/kept", O_RDONLY);
    MUST(fd >= 0 && read(fd, bytes, sizeof bytes) == 4 && memcmp(bytes, "kept", 4) == 0);
    MUST(fstat(fd, &facts) == 0 && (facts.st_mode & 07777) == 0600 && facts.st_nlink == 1);
    close(fd);
    MUST(stat("..", &facts) == 0 && facts.st_nlink == 4);
}

/* ---- names ---- */

static size_t some_path(char *path, size_t size)
{
    static const char *const PARTS[] = {"a", "b", "link", "fifo", "..", ".", "", "kept", "outside"};
    size_t length = 0, parts = 1 + take_u8() % 5;
    for (size_t i = 0; i < parts && length < size - 600; i++) {
        uint8_t choice = take_u8();
        if (i > 0)
            path[length++] = '/';
        if (choice < 9 * 24) {
            const char *part = PARTS[choice % 9];
            memcpy(path + length, part, strlen(part));
            length += strlen(part);
        } else if (choice < 240) {
            size_t count = take_u8() % 8;
            memcpy(path + length, take(&count), count);
            length += count;
        } else {
            size_t count = 250u + choice % 16;
            memset(path + length, 'n', count);
            length += count;
        }
    }
    return length;
}

static bool is_folder(const char *name)
{
    struct stat facts;
    return lstat(name, &facts) == 0 && S_ISDIR(facts.st_mode);
}

/* Where a name of the workspace leads; a program's own access to the outside isn't in question. */
static const char *some_place(void)
{
    static const char *const NAMES[] = {"a", "b", "link", "fifo", "a/a", "a/b", "a/link", "b/link"};
    const char *name = NAMES[take_u8() % 8];
    return name[1] != '/' || is_folder((char[]){name[0], 0}) ? name : "a";
}

static void plant(void)
{
    static const char *const TARGETS[] = {OUTSIDE, OUTSIDE "/kept", OUTSIDE "/new", "a", "/", "..",
                                          "link", "/nowhere"};
    const char *name = some_place();
    mode_t mode = (mode_t)take_u8() << 1;
    switch (take_u8() % 6) {
    case 0: (void)!symlink(TARGETS[take_u8() % 8], name); break;
    case 1: (void)!mkfifo(name, 0666); break;
    case 2: (void)!mkdir(name, 0777); break;
    case 3: (void)!unlink(name); break;
    case 4: (void)!rename(name, some_place()); break;
    case 5: (void)!chmod(is_folder(name) ? name : workspace, mode); break;
    }
}

/* ---- writing ---- */

static void check_written(const char *path, size_t length, mode_t mode)
{
    struct stat facts;
    struct open_how how = {.flags = O_PATH | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    long fd = syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
    if (fd < 0 && (errno == ENOSYS || errno == EPERM))
        return; /* a kernel or a container without that call */
    MUST(fd >= 0 && fstat((int)fd, &facts) == 0);
    MUST(S_ISREG(facts.st_mode) && facts.st_nlink == 1 && (size_t)facts.st_size == length);
    MUST((facts.st_mode & 07777) == (mode & ~022u));
    close((int)fd);
}

static void write_file(void)
{
    char path[PATH_MAX + 600] = "";
    size_t length = take_u8() == 255 ? PATH_MAX - 1 + take_u8() % 2 : some_path(path, PATH_MAX);
    if (length >= PATH_MAX - 1)
        memset(path, 'n', length);
    unsigned char *exact = malloc(length ? length : 1);
    memcpy(exact, path, length);
    mode_t mode = take_u8() & 1 ? 0644 : 0755;
    int error = workspace_open(exact, length, mode);
    free(exact);
    size_t data_length = take_u8();
    const uint8_t *data = take(&data_length);
    int append_error = workspace_append(data, data_length);
    MUST(!error || append_error || data_length == 0);
    workspace_close();
    if (!error && !append_error)
        check_written(path, data_length, mode);
}

/* Nothing is there afterwards, unless the workspace itself is shut. */
static void clear_program(void)
{
    struct stat facts;
    workspace_unlock();
    workspace_clear(PROGRAM_FOLDER, PROGRAM_NAME);
    MUST(lstat(PROGRAM_NAME, &facts) < 0 && errno == ENOENT);
}

/* The same twice, and none where there is anything but files and folders. */
static void take_fingerprint(void)
{
    unsigned char first[FINGERPRINT_BYTES], second[FINGERPRINT_BYTES];
    bool known = inputs_fingerprint(first, false);
    MUST(inputs_fingerprint(second, false) == known);
    MUST(!known || (memcmp(first, second, sizeof first) == 0 &&
                    nftw(".", is_extraordinary, 8, FTW_PHYS) == 0));
}

static int next_fd(void)
{
    int fd = dup(0);
    close(fd);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!*scratch) {
        begin_place();
        atexit(end_place);
        MUST(workspace_enter(workspace) == 0);
    }
    kernel_reset(data, size);
    int before = next_fd();
    while (left_of_input() > 0)
        switch (take_u8() % 5) {
        case 0: plant(); break;
        case 1: write_file(); break;
        case 2: workspace_unlock(); break;
        case 3: clear_program(); break;
        case 4: take_fingerprint(); break;
        }
    MUST(next_fd() == before);
    clear_workspace();
    check_outside();
    return 0;
}
